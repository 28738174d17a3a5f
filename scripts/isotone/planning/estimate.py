"""Tokens, steps, FLOPs, hours and disk of a study, stage by stage, before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from isotone.attacks.registry import SPECS
from isotone.config.training import Training
from isotone.errors import ConfigurationError
from isotone.planning.capacity import GIB, check_fits, checkpoints_at_most, training_memory
from isotone.planning.shape import Shape, shape_of
from isotone.progress import quantity
from isotone.records import read_json_quietly
from isotone.studies.study import Study

# Peak FLOP/s of dense arithmetic from the makers' data sheets: (16 bits, 32 bits), and GiB. Share of it that
# training and scoring usually reach: 0.35. A CPU core: what small models reached on two cores.
DEVICES = {
    "cpu-core": (2.3e11, 2.3e11, 0),
    "l40s": (3.62e14, 9.1e13, 48),
    "a100-40": (3.12e14, 1.95e13, 40),
    "a100-80": (3.12e14, 1.95e13, 80),
    "h100": (9.9e14, 6.7e13, 80),
    "h200": (9.9e14, 6.7e13, 141),
}
REACHED = 0.35
EMBEDDED_TOKENS = {2048: 1_124_000}  # embedded corpus, by size of the vocabulary
EMBEDDED_MEAN = 946.0  # tokens per chapter
VERSE_MEAN = 38.0  # tokens per verse


@dataclass
class Stage:
    """One stage's work."""

    stage: str
    jobs: int
    tokens: float
    steps: int
    flops: float
    hours: float
    disk: float


def split_tokens(study: Study, folder: Path, split: str, per_document: float) -> tuple[float, str]:
    """Tokens of one split (of pairs those of the sources, which fill the rows), and where the figure comes from."""
    known = read_json_quietly(folder / "data" / split / "data.json")
    if known:
        return float(known["source_tokens"] if "source_tokens" in known else known["tokens"]), "tokenised"
    share = study.data.splits.shares().get(split, 0.05)
    if study.data.documents:
        return share * study.data.documents * per_document, "assumed"
    if study.data.source == "embedded":
        return share * EMBEDDED_TOKENS.get(study.model.architecture.vocabulary, 1_000_000), "known corpus"
    return share * 100_000 * per_document, "assumed, for 100 000 documents"


def steps_of(training: Training, tokens: float) -> int:
    """Optimizer steps: ceil(epochs x blocks / global batch), bounded by ``max_steps``."""
    blocks = max(1, int((tokens - 1) // training.length))
    steps = math.ceil(training.epochs * blocks / training.global_batch)
    return min(steps, training.max_steps) if training.max_steps else steps


class Estimate:
    """Adds up a study."""

    def __init__(self, study: Study, folder: Path, device: str, count: int, per_document: float) -> None:
        """Fix the device and find the model's shape.

        Raises:
            ConfigurationError: if the size of the model is not known yet.
        """
        if study.writes:  # a pair is attacked whole
            window = study.data.pairs.max_source + study.data.pairs.max_target
            study = replace(study, attacks=replace(study.attacks, shared=replace(study.attacks.shared, window=window)))
        self.study, self.folder, self.device, self.count = study, folder, device, count
        self.per_document = per_document
        base = folder / "base"
        self.shape: Shape = shape_of(study.model, base)
        self.tokens = {
            split: split_tokens(study, folder, split, per_document)
            for split in ("train", "validation", "test", "attack_search", "attack_test")
        }

    def _hours(self, flops: float, *, narrow: bool) -> float:
        peak = DEVICES[self.device][0 if narrow else 1]
        return flops / (peak * REACHED * self.count) / 3600

    def _training(self, name: str, training: Training, jobs: int) -> Stage:
        steps = steps_of(training, self.tokens["train"][0])
        tokens = float(steps * training.global_batch * training.length)
        factor = (
            4.0 if training.gradient_checkpointing else 3.0
        )  # a backward pass is two forwards, checkpointing a third
        flops = jobs * tokens * factor * self.shape.forward_flops(training.length)
        narrow = training.precision != "fp32"
        weights = 4.0 * self.shape.parameters
        return Stage(
            name,
            jobs,
            jobs * tokens,
            jobs * steps,
            flops,
            self._hours(flops, narrow=narrow),
            jobs * weights,
        )

    def checkpoints(self) -> Stage:
        """Checkpoints of the runs that train at the same time: a run that is done has none."""
        study, runs = self.study, sum(len(self.study.seeds_of(arm)) for arm in self.study.arms)
        most = max(
            checkpoints_at_most(study.operation.keep, training)
            * (training_memory(self.shape, training).state - 4.0 * self.shape.parameters)  # no gradients
            for training in map(study.training_of, study.arms)
        )
        return Stage("checkpoints", 0, 0, 0, 0.0, 0.0, min(self.count, runs) * most)

    def _scoring(self, name: str, jobs: int, forward: float, backward: float, length: int) -> Stage:
        flops = jobs * (forward + 2.0 * backward) * self.shape.forward_flops(length)
        return Stage(name, jobs, jobs * (forward + backward), 0, flops, self._hours(flops, narrow=False), 0.0)

    def _mean_length(self) -> float:
        """Tokens of a test document."""
        known = read_json_quietly(self.folder / "data" / "test" / "data.json")
        if known:
            return self.tokens["test"][0] / known["documents"]
        if self.study.data.source != "embedded" or (self.study.writes and self.study.data.documents):
            return self.per_document  # as the tokens of the split were guessed
        return VERSE_MEAN if self.study.writes else EMBEDDED_MEAN

    def _test_tokens(self) -> float:
        """Tokens that perplexity scores: all of the test split, or its first documents."""
        total, wanted = self.tokens["test"][0], self.study.perplexity.documents
        return min(total, wanted * self._mean_length()) if wanted else total

    def _writing(self) -> list[Stage]:
        """Generation at its limit: every source read once, and every beam written to the last token."""
        study, found = self.study, []
        settings, longest = study.generation, study.data.pairs.max_source + study.generation.max_new_tokens
        each = float(study.data.pairs.max_source + settings.beams * settings.max_new_tokens)
        test = self.tokens["test"][0] / self._mean_length()
        documents = min(test, settings.documents) if settings.documents else test
        found.append(self._scoring("generate", len(study.runs()), documents * each, 0.0, longest))
        for attack in settings.attacks:
            jobs = sum(attack in study.written_after(arm) for arm, _ in study.runs())
            twice = 2 * study.attacks.shared.documents  # from the clean source and from the attacked one
            found.append(self._scoring(f"generate after {attack}", jobs, twice * each, 0.0, longest))
        return found

    def stages(self) -> list[Stage]:
        """Every stage with its share of the work."""
        study = self.study
        total = sum(tokens for tokens, _ in self.tokens.values())
        width = 2 if self.shape.vocabulary <= 1 << 16 else 4
        found = [Stage("data", 5, total, 0, 0.0, total / 1e6 / 3600, total * (width + 4.5))]
        found.append(Stage("base model", 1, 0, 0, 0.0, 0.0, 4.0 * self.shape.parameters))
        if study.model.source == "scratch":
            found.append(self._training("pretrain", study.base_job().training, 1))
        starts = len(study.arms) if study.operation.keep_starts else min(len(study.arms), self.count)
        found.append(Stage("starts", len(study.arms), 0, 0, 0.0, 0.0, starts * 4.0 * self.shape.parameters))
        for arm in study.arms:
            found.append(self._training(f"train {arm}", study.training_of(arm), len(study.seeds_of(arm))))
        found.append(self.checkpoints())
        controls = sum(len(study.seeds_of(arm)) for arm in study.control_arms())
        if controls:
            validation = 12 * study.training.validation_blocks * study.training.length  # root finding
            stage = self._scoring("controls", controls, validation, 0.0, study.training.length)
            stage.disk = controls * 4.0 * self.shape.parameters
            found.append(stage)
        runs = study.runs()
        test = self._test_tokens()
        scored = sum(
            study.perplexity.length / study.perplexity.stride if protocol == "strided" else 1.0
            for protocol in study.perplexity.protocols
        )
        found.append(self._scoring("perplexity", len(runs), test * scored, 0.0, study.perplexity.length))
        found += self._writing() if study.writes else []
        for attack in dict.fromkeys([*study.attacks.run, *study.controls.attacks]):
            jobs = sum(attack in study.attacks_of(arm) for arm, _ in runs)
            cost = SPECS[attack].cost(study.attacks)
            found.append(
                self._scoring(f"attack {attack}", jobs, cost.forward, cost.backward, study.attacks.shared.window)
            )
        sources = sum(len(study.seeds_of(arm)) for arm in study.arms)
        for attack in study.attacks.transfer:
            replay = (
                sources
                * study.attacks.shared.documents
                * 2  # the text, unchanged and changed
                * study.attacks.shared.window
            )
            found.append(self._scoring(f"transfer {attack}", sources, float(replay), 0.0, study.attacks.shared.window))
        return found

    def notes(self) -> list[str]:
        """Assumptions, and whether training fits the device."""
        kinds = sorted({kind for _, kind in self.tokens.values()})
        found = [f"tokens: {', '.join(kinds)} ({quantity(self.tokens['train'][0])} to train on)"]
        if self.study.writes:
            found.append(
                "pairs: tokens are those of sources, targets count as if they were as long (more FLOPs than there are), and rows as full "
                "(fewer steps than there are)"
            )
            found.append(
                "generation writes token by token, reaches less of the peak, and takes longer than its FLOPs say"
            )
        gib = DEVICES[self.device][2]
        training, devices = self.study.training, 1
        memory = training_memory(self.shape, training)
        if gib and memory.total > gib * GIB and self.count > 1:
            devices = 1 << (self.count.bit_length() - 1)  # a power of two, for training.reduction: exact
            memory = training_memory(self.shape, training, processes=devices, sharded=True)
        among = f", shared by {devices} devices" if devices > 1 else ""
        found.append(
            f"memory of training{among}: {memory.total / GIB:.1f} GiB (state {memory.state / GIB:.1f}, partial sums "
            f"{memory.tree / GIB:.1f}, activations of a micro-batch of {training.micro_batch_size} x {training.length}: "
            f"{memory.activations / GIB:.1f})"
        )
        if gib:
            try:
                check_fits(self.shape, training, gib * GIB, f"{devices} x {self.device}", devices)
            except ConfigurationError as error:
                found.append(f"DOES NOT FIT: {error}")
            else:
                if memory.total > gib * GIB:
                    found.append(
                        "a micro-batch does not fit: lower training.micro_batch_size, set training.gradient_checkpointing, "
                        "or let several devices share the model (--count)"
                    )
        return found
