"""Protocol `rolling` against lm-evaluation-harness: the same numbers, documents per second.

    python benchmarks/rolling.py [--documents 6]                with as many rows of the head as Pythia has
    python benchmarks/rolling.py --documents 16 --head 0        with the tokenizer's 2,048
    python benchmarks/rolling.py --documents 3 --width 512 --layers 6      Pythia-70m's shape, random weights

Both get the same texts and tokenizer, one thread, fp32; the harness at several batch
sizes, of which its best counts. Rounds alternate; CPU seconds are compared, since
other work on the machine moves the wall clock.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from isotone.environment import keep_freed_memory
from isotone.evaluation.perplexity import rolling, score
from isotone.evaluation.scoring import Scorer
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from small_model import CONTEXT, load, network


def ours(scorer, tokenizer, texts):
    windows = [rolling(np.array(tokenizer.encode(text, add_special_tokens=False)), CONTEXT, 0) for text in texts]
    return np.array([nll for _, nll in score(scorer, [str(i) for i in range(len(texts))], windows)])


def theirs(harness, texts):
    requests = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    return -np.array(harness.loglikelihood_rolling(requests, disable_tqdm=True))


def timed(work):
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument(
        "--head", type=int, default=50304, help="enlarge the head to so many tokens (0: the tokenizer's)"
    )
    parser.add_argument("--width", type=int, default=0, help="random weights of this width (0: the pretrained model)")
    parser.add_argument("--layers", type=int, default=4, help="with --width")
    parser.add_argument("--steps", type=int, default=400, help="pretraining steps of the small model")
    options = parser.parse_args()
    keep_freed_memory()  # as every program of a study does; it serves both sides
    torch.set_num_threads(1)
    model, tokenizer, texts = load(options.vocabulary, options.steps)
    if options.width:
        model = network(options.head or options.vocabulary, options.width, options.layers).eval()
    elif options.head:
        model.resize_token_embeddings(options.head, mean_resizing=False)
    scorer = Scorer(model, 0)
    long, length = "", 0
    for text in texts[options.documents :]:
        long += text + "\n"
        length = len(tokenizer.encode(long, add_special_tokens=False))
        if length > 20 * CONTEXT:
            break
    lengths = np.random.default_rng(0).integers(20, 120, size=8 * options.documents)
    short = [" ".join(text.split()[:words]) for text, words in zip(texts, lengths, strict=False)]
    for name, part in (
        ("chapters", texts[: options.documents]),
        ("passages of 20 to 120 words", short),
        ("one document of 20 windows", [long]),
    ):
        ours(scorer, tokenizer, part[:1])
        seconds, best, expected = [], {}, None
        for _ in range(options.rounds):
            found, spent = timed(lambda part=part: ours(scorer, tokenizer, part))
            seconds.append(spent)
            for batch in (1, 4, 8, 16):
                harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=CONTEXT)
                expected, spent = timed(lambda part=part, harness=harness: theirs(harness, part))
                best.setdefault(batch, []).append(spent)
        difference = np.abs(found / expected - 1).max()
        theirs_best = min(best, key=lambda batch: min(best[batch]))
        ratios = sorted(min(best[theirs_best][i], 1e9) / seconds[i] for i in range(options.rounds))
        print(
            f"{name}: largest relative difference {difference:.1e}; {len(part) / min(seconds):.2f} documents/CPU s, harness "
            f"{len(part) / min(best[theirs_best]):.2f} at its best batch ({theirs_best}); "
            f"ratio {min(best[theirs_best]) / min(seconds):.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
