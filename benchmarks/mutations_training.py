"""What `mutations.py` breaks in the training core."""

from __future__ import annotations

CORE = "scripts/isotone/training"

# What is disabled, the file, the text, what stands there instead, the tests that must notice.
MUTATIONS = [
    ("order: one round of the network less", "scripts/isotone/data/order.py", "ROUNDS = 8", "ROUNDS = 7", "unit/test_order.py"),
    ("blocks: the last target of a block is lost", "scripts/isotone/data/blocks.py", "indices[:, None] * self.length", "indices[:, None] * (self.length + 1) % self.count", "unit/test_blocks.py"),
    ("loss: ignored rows have a gradient", "scripts/isotone/loss.py", "grad_RV.masked_fill_(unscored_R[:, None], 0.0)", "grad_RV", "unit/test_loss.py"),
    ("gradients: mean of leaves' means", f"{CORE}/gather.py", "rows[leaf, 1] = batch.scored_B[part].sum()", "rows[leaf, 1] = size * self.training.length", "unit/test_training_run.py -k scored"),
    ("sum: leaf after leaf instead of a tree", f"{CORE}/world.py", "if not self._partial or self._partial[-1][0] > 1:", "if not self._partial:", "unit/test_training_world.py"),
    ("sum: the leaf that is added second is dropped", f"{CORE}/gather.py", "flat.zero_()\n        rows", "pass\n        rows", "unit/test_training_run.py -k twenty"),
    ("optimizer: no slope in dV", f"{CORE}/optimizer.py", "self.maps[name].pull_back(latent, grad)", "grad.clone()", "unit/test_training_optimizer.py"),
    ("optimizer: one norm for all groups", f"{CORE}/optimizer.py", "limit / norms[group]", "limit / max(norms.values())", "unit/test_training_optimizer.py"),
    ("optimizer: decay acts on V", f"{CORE}/optimizer.py", '"weight_decay": 0.0, "scale"', '"weight_decay": self.training.weight_decay, "scale"', "unit/test_training_optimizer.py"),
    ("optimizer: moments keep their age after loading", f"{CORE}/optimizer.py", '["step"].fill_(float(updates))', '["step"]', "unit/test_training_run.py -k stopping"),
    ("optimizer: no W <- f(V) after loading", f"{CORE}/optimizer.py", 'entry["scale"] = float(scales[name])\n        self._write_weights()', 'entry["scale"] = float(scales[name])', "unit/test_training_run.py -k stopping"),
    ("schedule: an epoch ends one step late", f"{CORE}/schedule.py", "self.epochs_done(step) > self.epochs_done(step - 1)", "self.epochs_done(step - 1) > self.epochs_done(step - 2)", "unit/test_training_schedule.py"),
    ("dropout: the seed is not set", f"{CORE}/engine.py", "torch.manual_seed(", "hash(", "unit/test_training_faults.py"),
    ("checkpoint: digests are not compared", f"{CORE}/tensors.py", 'if digest.hexdigest() != expected["sha256"]:', "if False:", "unit/test_training_checkpoints.py"),
    ("checkpoint: damaged ones are deleted", f"{CORE}/checkpoints.py", "os.rename(self.path(step), aside)", "self.delete(step)", "unit/test_training_checkpoints.py"),
    ("checkpoint: written under its final name", f"{CORE}/checkpoints.py", 'part = self.folder / f".tmp-{step:09d}-{label}"', "part = self.path(step)", "resume/test_kills.py -k file_operation"),
    ("rotation: nothing is deleted", f"{CORE}/checkpoints.py", "if step not in keep:", "if False:", "unit/test_training_checkpoints.py"),
    ("rotation: before the new one is read back", f"{CORE}/saver.py", "with_patience(lambda: self.store.verify(step))", "pass", "unit/test_training_checkpoints.py"),
    ("rotation: the best is not kept", f"{CORE}/run.py", '*([best["step"]] if best else [])', "*[]", "unit/test_training_run.py -k best"),
    ("saving: live tensors instead of a copy", f"{CORE}/saver.py", "self._stage(tensors)", "self._staging = tensors", "unit/test_training_checkpoints.py"),
    ("disk full: no room is made", f"{CORE}/saver.py", "self.store.prune(keep)", "pass", "unit/test_training_checkpoints.py"),
    ("disk full: the error ends the run", f"{CORE}/saver.py", "self.failures += 1\n            self.store.event(\"alarm\", what=\"checkpoint not saved\"", "raise\n            self.store.event(\"alarm\", what=\"checkpoint not saved\"", "unit/test_training_checkpoints.py"),
    ("lease: taking over renames nothing", f"{CORE}/lease.py", "self.generation = found[-1][0] + 1 if found else 1", "self.generation = found[-1][0] if found else 1", "unit/test_training_start.py"),
    ("lease: everyone gets it", f"{CORE}/lease.py", "self._lock.acquire(timeout=0)", "pass", "unit/test_training_start.py"),
    ("lease: a lost one is not noticed", f"{CORE}/lease.py", "return self._lost or not self.checkpoints.exists()", "return False", "resume/test_double_start.py -k stopped"),
    ("signals: the loop does not look", f"{CORE}/stop.py", "if self._signal is not None:", "if False:", "resume/test_signals.py -k other_signals"),
    ("signals: the deadline is ignored", f"{CORE}/loop.py", "if saver.expected_seconds() < self.parts.stop.seconds_left():", "if True:", "resume/test_signals.py -k grace"),
    ("epochs: best by the last validation", f"{CORE}/loop.py", 'best is None or known < best["loss"]', "True", "unit/test_training_run.py -k stopping"),
    ("history: not cut back on resume", f"{CORE}/telemetry.py", "os.truncate(self.path, position)", "pass", "unit/test_training_telemetry.py"),
    ("ledger: abandoned branches are resumed", f"{CORE}/faults.py", 'return all(step <= entry["from"] for entry in self.entries[entries_then:])', "return True", "unit/test_training_faults.py"),
    ("ledger: nothing is passed over", f"{CORE}/faults.py", 'return any(entry["from"] <= step < entry["to"] for entry in self.entries)', "return False", "unit/test_training_run.py -k roll_back"),
    ("faults: NaN steps are taken", f"{CORE}/faults.py", "if not math.isfinite(loss):", "if False:", "unit/test_training_faults.py"),
    ("memory: the leaf is not halved", f"{CORE}/gather.py", "progress.leaf // 2, progress.halvings + 1", "progress.leaf, progress.halvings + 1", "unit/test_training_run.py -k halves"),
    ("identity: a checkpoint of another run is resumed", f"{CORE}/run.py", "if differences := run.identity.differences(progress[\"identity\"]):", "if differences := []:", "unit/test_training_run.py -k never_resumed"),
    ("refusal: forgotten", f"{CORE}/outcome.py", "if not path.exists():", "if True:", "unit/test_training_start.py"),
    ("supervisor: signals are kept", f"{CORE}/supervisor.py", "self._child.send_signal(number)", "pass", "unit/test_training_start.py -k passed_on"),
    ("supervisor: starts again without progress", f"{CORE}/supervisor.py", "self._step() <= step", "self._step() < step", "unit/test_training_start.py -k progress"),
    ("supervisor: an end without word after a signal is a failure", f"{CORE}/supervisor.py", "if self.asked and (self.distributed or code < 0):", "if False:", "unit/test_training_start.py -k explains"),
    ("requeue: what outlives its job ends in the ordinary way", f"{CORE}/requeue.py", "        _vanish(job)", "        pass", "unit/test_training_start.py -k outlives"),
    ("processes: the others may end before the first", f"{CORE}/run.py", "        world.share(None)  #", "        pass  #", "resume/test_elastic.py -k left_word"),
]  # fmt: skip
