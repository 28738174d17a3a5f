"""Tokens per second and core against `datasets.map` with the same tokenizer, and the peak memory.

Both sides read the same parquet file of documents, on one core, with the same tokenizer.json,
and write the ids to disk. Seconds are the process's CPU time, so that a busy machine spoils nothing. The two take
turns, and what is printed is the ratio of their medians.

    python benchmarks/tokenising.py --megabytes 32 --rounds 3
    python benchmarks/tokenising.py --megabytes 1000 --rounds 1 --ours-only --processes 2     peak memory for 1 GB of text

With several processes the peak is that of the first plus that of the largest worker times their number: at least what
all of them held at once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import os, sys
from pathlib import Path
from isotone.config.data import Tokens
from isotone.data.tokenisation import tokenise
import shutil, time
start = time.process_time()
processes = int(sys.argv[4])
if __name__ == "__main__":
    info = tokenise(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Tokens(), processes=processes)
    used = os.times()
    seconds = time.process_time() - start + used.children_user + used.children_system
"""
THEIRS = """
import sys, time
from datasets import load_dataset
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
data = load_dataset("parquet", data_files=sys.argv[1], split="train", cache_dir=sys.argv[3])
start = time.process_time()
done = data.map(lambda rows: {"ids": tokenizer(rows["text"], add_special_tokens=False, verbose=False)["input_ids"]},
                batched=True, remove_columns=data.column_names, load_from_cache_file=False)
seconds = time.process_time() - start
info, processes = {"text_tokens": sum(len(row) for row in done["ids"])}, 1
"""
TAIL = """
import resource, json
if __name__ == "__main__":
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = (own + (worker * processes if processes > 1 else 0)) * 1024
    print(json.dumps({"tokens": info["text_tokens"], "seconds": seconds, "peak": peak}))
"""


def make_inputs(folder: Path, megabytes: int) -> tuple[Path, Path]:
    """A tokenizer of the embedded corpus, and its chapters again and again, each time a little different."""
    from isotone.data.document import Document
    from isotone.data.readers.embedded import chapters
    from isotone.data.splits import SplitWriter
    from isotone.data.tokenizer import train_tokenizer

    texts = [chapter.text for chapter in chapters()]
    train_tokenizer(texts[:300], 8192, 2048).save_pretrained(folder / "tokenizer")
    writer, size, number = SplitWriter(folder / "documents.parquet"), 0, 0
    while size < megabytes * 10**6:
        text = f"{number} {texts[number % len(texts)]}"
        writer.add(Document(str(number), text), "")
        size += len(text)
        number += 1
    writer.close({})
    return folder / "documents.parquet", folder / "tokenizer"


def measure(code: str, *arguments: object) -> dict:
    """Run one side in a process of its own."""
    variables = os.environ | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code + TAIL, *map(str, arguments)], capture_output=True, text=True, env=variables
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="of our side")
    parser.add_argument("--ours-only", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents, tokenizer = make_inputs(folder, arguments.megabytes)
        print(f"{documents.stat().st_size / 1e6:,.0f} MB of parquet, {arguments.megabytes:,} MB of text", flush=True)
        seen: dict[str, list[dict]] = {"ours": [], "datasets.map": []}
        for number in range(arguments.rounds):
            seen["ours"].append(measure(OURS, documents, tokenizer, folder / f"ours-{number}", arguments.processes))
            if not arguments.ours_only:
                seen["datasets.map"].append(measure(THEIRS, documents, tokenizer, folder / f"theirs-{number}"))
        rates = {}
        for side, rounds in seen.items():
            if rounds:
                rates[side] = statistics.median(entry["tokens"] / entry["seconds"] for entry in rounds)
                peak = max(entry["peak"] for entry in rounds)
                print(
                    f"{side}: {rates[side]:,.0f} tokens per CPU second, peak memory {peak / 2**20:,.0f} MiB, {rounds[0]['tokens']:,} tokens"
                )
        if len(rates) == 2:
            print(
                f"ratio: {rates['ours'] / rates['datasets.map']:.2f} (medians of {arguments.rounds}, taking turns; {time.strftime('%Y-%m-%d')})"
            )


if __name__ == "__main__":
    main()
