"""A study small enough to train in a second: text from a Markov chain, a model of 20 thousand weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from isotone.schema import merge

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY, LENGTH = 64, 16
RARE = 62  # in one training block only
COMMON = 63  # in many

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "training": {
        "epochs": 3,
        "global_batch": 8,
        "micro_batch_size": 2,
        "length": LENGTH,
        "learning_rate": 3e-3,
        "validation_blocks": 6,
    },
}
CONSTRAINED: dict[str, Any] = {"scope": "mlp_both", "init": "abs"}
OPERATION: dict[str, Any] = {"tensorboard": False, "lock_wait": 20, "lease": 3.0}


def write_split(folder: Path, blocks: int, seed: int, **special: int) -> None:
    """A tokenised split of ``blocks`` blocks, laid out as the tokenisation step does."""
    rng = np.random.default_rng(seed)
    successors = np.random.default_rng(0).integers(1, VOCABULARY - 2, (VOCABULARY, 3))
    tokens = np.empty(blocks * LENGTH + 1, np.uint16)
    token = 1
    for position in range(len(tokens)):
        token = 0 if position % 37 == 36 else int(successors[token, rng.integers(3)])
        tokens[position] = token
    for position in range(special.get("common", 0)):
        tokens[position * LENGTH * 2 + 5] = COMMON
    if "rare" in special:
        tokens[special["rare"] * LENGTH + 5] = RARE
    folder.mkdir(parents=True)
    tokens.tofile(folder / "tokens.bin")
    pd.DataFrame({"document": ["all"], "start": [0], "length": [len(tokens)], "bytes": [1], "words": [1]}).to_parquet(
        folder / "documents.parquet"
    )
    fingerprint = f"{seed}-{blocks}-{sorted(special.items())}"
    info = {
        "dtype": "uint16",
        "tokens": len(tokens),
        "fingerprint": fingerprint,
        "bos": 0,
        "eos": 0,
        "document_start": "bos",
    }
    (folder / "data.json").write_text(json.dumps(info))


def write_model(folder: Path, **changes: Any) -> None:
    """A random GPT-NeoX in Hugging Face format."""
    import torch
    from isotone.config.constraint import Constraint
    from isotone.constraints import constrain
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(changes.pop("seed", 0))
    constraint = changes.pop("constraint", None)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**(settings | changes)))
    if constraint:
        model = constrain(model, Constraint(**constraint))
    model.save_pretrained(folder)


class Study:
    """Paths and commands of one tiny study."""

    def __init__(self, folder: Path) -> None:
        """Name the places below ``folder``."""
        self.folder = folder
        self.start, self.train, self.validation = folder / "start", folder / "train", folder / "validation"

    @classmethod
    def make(cls, folder: Path, *, blocks: int = 32, model: dict[str, Any] | None = None, **special: int) -> Study:
        """Write model and data."""
        study = cls(folder)
        write_model(study.start, **(model or {}))
        write_split(study.train, blocks, 1, **special)
        write_split(study.validation, 8, 2)
        return study

    def arguments(
        self,
        place: Path,
        settings: dict[str, Any] | None = None,
        operation: dict[str, Any] | None = None,
        **options: Any,
    ) -> list[str]:
        """The command line of one run whose state and results go below ``place``."""
        values = {
            "settings": json.dumps(merge(SETTINGS, settings or {})),
            "operation": json.dumps(merge(OPERATION, operation or {})),
            "start": self.start,
            "train": self.train,
            "validation": self.validation,
            "study-folder": place,
            "name": "tiny/seed-3",
            "model": place / "model",
            "history": place / "history.csv",
            "certificate": place / "certificate.json",
            "marker": place / "train.json",
        } | {key.replace("_", "-"): value for key, value in options.items()}
        words: list[str] = []
        for key, value in values.items():
            if value is True:
                words.append(f"--{key}")
            elif value is not None and value is not False:
                words += [f"--{key}", str(value)]
        return words

    def run(
        self, place: Path, *args: Any, variables: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the program to its end in a process of its own."""
        command = [sys.executable, str(ROOT / "scripts/train.py"), *self.arguments(place, *args, **options)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (variables or {})
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
