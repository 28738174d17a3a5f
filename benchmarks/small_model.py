"""A small language model of the embedded corpus, pretrained once and kept for the benchmarks.

    python benchmarks/small_model.py --vocabulary 2048 --steps 400

A plain loop, on purpose: benchmarks of attacks must not depend on the training core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from isotone.data.readers.embedded import chapters
from isotone.data.tokenizer import train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

CACHE = Path(__file__).parent / ".cache"
BATCH, CONTEXT = 16, 256


def texts() -> tuple[list[str], list[str]]:
    """Chapters for training, and every tenth, held out."""
    all_texts = [chapter.text for chapter in chapters()]
    return [text for i, text in enumerate(all_texts) if i % 10], all_texts[::10]


def folder_of(vocabulary: int, steps: int) -> Path:
    return CACHE / f"kjv-{vocabulary}-{steps}"


def network(vocabulary: int, width: int, layers: int) -> GPTNeoXForCausalLM:
    """Random weights, the same every time."""
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            intermediate_size=4 * width,
            max_position_embeddings=CONTEXT,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def pretrain(vocabulary: int, steps: int, width: int = 128, layers: int = 4) -> Path:
    folder = folder_of(vocabulary, steps)
    if (folder / "model.safetensors").exists():
        return folder
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    train, _ = texts()
    tokenizer = train_tokenizer(train, vocabulary, CONTEXT)
    stream = np.array([token for text in train for token in [0, *tokenizer.encode(text, add_special_tokens=False)]])
    model = network(vocabulary, width, layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator, start = np.random.default_rng(0), time.time()
    for step in range(steps):
        begins = generator.integers(len(stream) - CONTEXT, size=BATCH)
        ids = torch.from_numpy(np.stack([stream[begin : begin + CONTEXT] for begin in begins]))
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step}: {loss.item():.3f} nats, {time.time() - start:.0f} s", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(vocabulary: int, steps: int):
    """``(model, tokenizer, held-out texts)``."""
    folder = pretrain(vocabulary, steps)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), texts()[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    print(pretrain(options.vocabulary, options.steps))
