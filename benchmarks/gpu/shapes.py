"""Models with random weights, made where they are used, and streams of tokens for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from benchmarks.gpu.record import Plan

PYTHIA_1B4 = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 50304}
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 50304}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 512}


def configuration(shape: dict[str, int], length: int) -> GPTNeoXConfig:
    """A GPT-NeoX of this shape."""
    return GPTNeoXConfig(
        **shape,
        intermediate_size=4 * shape["hidden_size"],
        max_position_embeddings=length,
        rotary_pct=0.25,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="sdpa",
    )


def network(shape: dict[str, int], length: int, device: str, seed: int = 0) -> Any:
    """Random weights in fp32, in evaluation mode."""
    torch.manual_seed(seed)
    with torch.device(device):
        return GPTNeoXForCausalLM(configuration(shape, length)).eval()


def large(plan: Plan) -> dict[str, int]:
    """The shape that speed is promised for."""
    return TINY if plan.tiny else PYTHIA_1B4


def small(plan: Plan) -> dict[str, int]:
    """A shape for checks of bits, with a whole vocabulary."""
    return TINY if plan.tiny else SMALL


def stream(count: int, vocabulary: int, seed: int = 0) -> np.ndarray:
    """Tokens with frequencies like those of text, int64."""
    return np.random.default_rng(seed).zipf(1.2, count) % (vocabulary - 2) + 1


def write_split(folder: Path, blocks: int, length: int, vocabulary: int, seed: int) -> Path:
    """A tokenised split as the tokenisation step leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = stream(blocks * length + 1, vocabulary, seed).astype(np.uint16)
    tokens.tofile(folder / "tokens.bin")
    info = {"dtype": "uint16", "tokens": len(tokens), "fingerprint": f"{seed}-{blocks}-{length}-{vocabulary}"}
    (folder / "data.json").write_text(json.dumps({**info, "bos": 0, "eos": 0, "document_start": "bos"}))
    return folder
