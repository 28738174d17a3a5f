"""Real tokens per second against Hugging Face's Trainer, and the loss against a plain torch loop.

    python benchmarks/training_speed.py [--hidden 128] [--layers 4] [--threads 2] [--steps 3]

Same model, data and hardware. Documents have log-normal lengths with a mean of 1,600
tokens. The Trainer gets them in the usual way, one row each, cut and padded to 2,048
(``padding="max_length"``); and, second, the very same packed blocks as Isotone.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from isotone.config.training import Operation, Training
from isotone.data.blocks import Blocks, TokenSplit
from isotone.data.sample_order import samples
from isotone.training.engine import Engine
from isotone.training.gather import Gatherer
from isotone.training.optimizer import Optimizer
from isotone.training.schedule import Schedule
from isotone.training.state import TrainerState
from isotone.training.telemetry.events import Events
from isotone.training.world import World
from paired import hardware, interval, seconds
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, Trainer, TrainingArguments

LENGTH, MEAN, SPREAD = 2048, 1600, 1.4
BATCH, LEAF = 4, 1


def make_documents(count: int, vocabulary: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = np.maximum(8, rng.lognormal(math.log(MEAN) - SPREAD**2 / 2, SPREAD, count)).astype(int)
    return [rng.zipf(1.3, length) % (vocabulary - 2) + 1 for length in lengths]


def pack(documents: list[np.ndarray], folder: Path) -> Blocks:
    tokens = np.concatenate([np.append(document, 0) for document in documents]).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    (folder / "data.json").write_text(json.dumps({"dtype": "uint16", "tokens": len(tokens), "fingerprint": "bench"}))
    return Blocks(TokenSplit.open(folder), LENGTH)


def make_model(options: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=4,
            intermediate_size=4 * options.hidden,
            vocab_size=options.vocabulary,
            max_position_embeddings=LENGTH,
        )
    )


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows: list[dict[str, torch.Tensor]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def padded(documents: list[np.ndarray]) -> list[dict[str, torch.Tensor]]:
    rows = []
    for document in documents:
        ids = np.append(document, 0)[:LENGTH]
        full, mask = np.zeros(LENGTH, np.int64), np.zeros(LENGTH, np.int64)
        full[: len(ids)], mask[: len(ids)] = ids, 1
        labels = np.where(mask == 1, full, -100)
        rows.append(
            {"input_ids": torch.tensor(full), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}
        )
    return rows


def trainer_of(options: argparse.Namespace, rows: list[dict[str, torch.Tensor]], steps: int) -> Trainer:
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=LEAF,
        gradient_accumulation_steps=BATCH // LEAF,
        max_steps=steps,
        learning_rate=1e-4,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(model=make_model(options), args=arguments, train_dataset=Rows(rows))


class Ours:
    """Isotone's step on packed blocks."""

    def __init__(self, options: argparse.Namespace, blocks: Blocks) -> None:
        self.training = Training(
            global_batch=BATCH,
            micro_batch_size=LEAF,
            length=LENGTH,
            learning_rate=1e-4,
            weight_decay=0.0,
            warm_up=0.0,
            epochs=100.0,
        )
        self.model = make_model(options)
        self.optimizer = Optimizer(self.model, {}, self.training, decay_weight=False)
        world = World(torch.device("cpu"))
        self.engine = Engine(self.model, self.training, world.device, None)
        events = Events(Path(tempfile.mkdtemp()))
        self.gather = Gatherer(self.training, Operation(), 0, world, self.engine, blocks, events)
        self.state = TrainerState(micro_batch_size=LEAF)
        self.gather.deal(LEAF)
        self.schedule = Schedule(self.training, len(blocks))

    def step(self) -> float:
        tokens, loss = self.gather(self.state, self.optimizer.flat)
        norms = self.optimizer.finish_gradients(1 / (tokens * self.engine.loss_scale))
        self.optimizer.update(self.schedule.learning_rate(self.state.step), norms)
        self.state.step += 1
        return loss


def same_loss(options: argparse.Namespace, blocks: Blocks) -> float:
    """Largest difference of the loss to a plain loop, over some steps."""
    ours, model = Ours(options, blocks), make_model(options)
    groups = [
        {"params": [value for value in model.parameters() if (value.ndim > 1) == matrix]} for matrix in (True, False)
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.0)
    worst = 0.0
    for step in range(options.steps):
        order = samples(0, len(blocks), step * BATCH, BATCH)
        inputs, targets = (torch.from_numpy(part) for part in blocks.arrays(order))
        loss = functional.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), targets.flatten())
        adamw.zero_grad()
        loss.backward()
        for group in groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        for group in adamw.param_groups:
            group["lr"] = ours.schedule.learning_rate(step)
        adamw.step()
        worst = max(worst, abs(float(loss.detach()) - ours.step()))
    ours.gather.close()
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps per turn")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    documents = make_documents(400, options.vocabulary)
    blocks = pack(documents, Path(tempfile.mkdtemp()))
    rows = padded(documents)
    used = float(np.mean([min(len(document) + 1, LENGTH) for document in documents]) / LENGTH)
    kept = sum(min(len(document) + 1, LENGTH) for document in documents) / sum(
        len(document) + 1 for document in documents
    )
    packed_rows = [
        {
            "input_ids": torch.from_numpy(blocks.arrays(np.array([i]))[0][0]),
            "labels": torch.from_numpy(blocks.arrays(np.array([i]))[0][0]),
        }
        for i in range(len(blocks))
    ]
    ours = Ours(options, blocks)
    rates: dict[str, list[float]] = {"isotone": [], "Trainer, padded": [], "Trainer, packed": []}
    for _ in range(options.turns + 1):
        rates["isotone"].append(
            options.steps * BATCH * LENGTH / seconds(lambda: [ours.step() for _ in range(options.steps)])
        )
        for name, data, share in (("Trainer, padded", rows, used), ("Trainer, packed", packed_rows, 1.0)):
            trainer = trainer_of(options, data, options.steps)
            # the Trainer's own figure leaves out its setting up
            spent = trainer.train().metrics["train_runtime"]
            rates[name].append(options.steps * BATCH * LENGTH * share / spent)
    ours.gather.close()
    print(
        f"GPT-NeoX width {options.hidden}, {options.layers} layers, vocabulary {options.vocabulary}, length {LENGTH}, {options.threads} threads   [{hardware()}]"
    )
    print(f"  padded rows use {100 * used:.0f} % of their positions and keep {100 * kept:.0f} % of the text")
    for name, values in rates.items():
        print(f"  {name:<16} {np.median(values[1:]):9.0f} real tokens/s")
    for name, target in (("Trainer, padded", 2.5), ("Trainer, packed", 1.1)):
        ratios = [one / other for one, other in zip(rates["isotone"][1:], rates[name][1:], strict=True)]
        low, high = interval(ratios)
        print(
            f"  isotone over {name}: {np.median(ratios):.2f}  (95 % interval of the median {low:.2f} to {high:.2f}; target {target})"
        )
    print(
        f"  largest difference of the loss to a plain torch loop over {options.steps} steps: {same_loss(options, blocks):.1e}   (target 1e-4)"
    )


if __name__ == "__main__":
    main()
