"""What a constrained step costs: softplus in the optimizer, and torch's parametrize, over no constraint.

python benchmarks/constraint_cost.py [--accumulation 4] [--hidden 128] [--threads 1]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from isotone.config.constraint import Constraint
from isotone.config.training import Training
from isotone.constraints import constrain, weight_maps
from isotone.data.batch import Batch
from isotone.training.engine import Engine
from isotone.training.optimizer import Optimizer
from paired import compare, show
from torch import nn
from torch.nn.utils import parametrize
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

VOCABULARY, LENGTH = 2048, 256


class Map(nn.Module):
    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.rule.forward(latent)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return self.rule.inverse(weight)


def step_of(kind: str, options: argparse.Namespace) -> Any:
    """One optimizer step of ``accumulation`` leaves."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=options.hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * options.hidden,
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
    )
    constraint = Constraint(scope="mlp_both", init="abs")
    model: Any = GPTNeoXForCausalLM(config)
    if kind != "none":
        model = constrain(model, constraint)
    maps = weight_maps(model, constraint) if kind != "none" else {}
    if kind == "parametrize":
        for name, rule in maps.items():
            module, _, leaf = name.rpartition(".")
            parametrize.register_parametrization(model.get_submodule(module), leaf, Map(rule))
        maps = {}
    training = Training(global_batch=options.accumulation * 8, micro_batch_size=8, length=LENGTH, reduction="fast")
    optimizer = Optimizer(model, maps, training, decay_weight=False)
    engine = Engine(model, training, torch.device("cpu"), None)
    batch = torch.randint(0, VOCABULARY, (options.accumulation * 8, LENGTH))

    def step() -> None:
        optimizer.flat.zero_()
        for leaf in range(options.accumulation):
            part = batch[leaf * 8 : leaf * 8 + 8]
            engine.train(Batch(part, part), seed=0, step=0, micro_batch=leaf)
        optimizer.update(1e-4, optimizer.finish_gradients(1e-4))

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ways = {kind: step_of(kind, options) for kind in ("none", "softplus", "parametrize")}
    found = compare(ways, base="none", wanted=0.005)
    show(
        f"step time over an unconstrained step, {options.accumulation} accumulation steps, width {options.hidden}",
        found,
        "softplus <= 1.03",
    )


if __name__ == "__main__":
    main()
