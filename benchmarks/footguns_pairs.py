"""Mistakes of summarisation studies, wrong beside right, on the embedded pairs (King James beside World English Bible).

python benchmarks/footguns_pairs.py

No model is needed: outputs are copies of the sources, whole or with words left out.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
from isotone.data.readers.embedded import verse_pairs
from isotone.data.tokenizer import train_tokenizer
from isotone.evaluation.overlap import overlap, sentences
from scipy import stats

VOCABULARY, LIMIT, TRIGGER, FLIPS = 2048, 512, 5, 5
VERSES, CHAPTERS = 300, 40


def trigger_cut(tokenizer, chapters: dict[str, list]) -> None:
    """A trigger in front of a source of which the last `LIMIT` tokens are kept."""
    lengths = np.array([len(tokenizer.encode(" ".join(v.source for v in verses))) for verses in chapters.values()])
    print(
        f"trigger of {TRIGGER} tokens in front, the last {LIMIT} tokens kept: cut away, whole or in part, in "
        f"{100 * np.mean(lengths + TRIGGER > LIMIT):.0f} % of {len(lengths)} chapters (median {np.median(lengths):.0f} tokens)"
    )


def without_sentences(chapters: dict[str, list]) -> None:
    """Lsum of the same outputs with and without lines of their own."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL", "rougeLsum"], use_stemmer=True)
    found = defaultdict(list)
    for verses in itertools.islice(chapters.values(), CHAPTERS):
        source, target = (" ".join(side) for side in zip(*((v.source, v.text) for v in verses), strict=True))
        split = ["\n".join(sentences(text)) for text in (target, source)]
        for name, pair in (("both", split), ("reference only", [split[0], source]), ("neither", [target, source])):
            found[name].append(scorer.score(*pair)["rougeLsum"].fmeasure)
        found["L"].append(scorer.score(target, source)["rougeL"].fmeasure)
    print("ROUGE-Lsum of copied chapters, sentences split on: " + ", ".join(f"{k} {100 * np.mean(v):.1f}" for k, v in found.items()))  # fmt: skip


def read_back(tokenizer, pairs: list) -> None:
    """Random flips, decoded without special tokens and encoded again."""
    generator = np.random.default_rng(0)
    stand = lengths = lost = 0
    for pair in pairs:
        ids = np.array(tokenizer.encode(pair.source))
        places = generator.permutation(len(ids))[:FLIPS]
        changed = ids.copy()
        changed[places] = generator.integers(0, len(tokenizer), len(places))
        again = np.array(tokenizer.encode(tokenizer.decode(changed, skip_special_tokens=True)))
        lengths += len(again) != len(changed)
        stand += len(again) == len(changed) and bool((again == changed).all())
        lost += int(sum(len(again) <= place or again[place] != changed[place] for place in places))
    print(
        f"{FLIPS} random flips in each of {len(pairs)} verses, decoded and encoded again: the attacked ids come back in "
        f"{100 * stand / len(pairs):.0f} %, another number of tokens in {100 * lengths / len(pairs):.0f} %, "
        f"{100 * lost / len(pairs) / FLIPS:.0f} % of flips do not stand where they were made"
    )


def unpaired(pairs: list) -> None:
    """Intervals of one difference: the copy against the copy with every tenth word left out."""

    def thinned(text: str) -> str:
        return " ".join(word for index, word in enumerate(text.split()) if index % 10 != 5)

    copied = [overlap(p.source, p.text) for p in pairs]
    print("copies of verses: " + ", ".join(f"{key} {np.mean([row[key] for row in copied]):.1f}" for key in copied[0]))
    thin = [overlap(thinned(p.source), p.text)["rouge1"] for p in pairs]
    scores = np.stack([[row["rouge1"] for row in copied], thin], 1)
    n = len(scores)
    difference = scores[:, 0] - scores[:, 1]
    paired = stats.t.ppf(0.975, n - 1) * stats.sem(difference)
    apart = stats.t.ppf(0.975, 2 * n - 2) * np.hypot(stats.sem(scores[:, 0]), stats.sem(scores[:, 1]))
    p = stats.ttest_rel(*scores.T).pvalue, stats.ttest_ind(*scores.T).pvalue
    print(
        f"ROUGE-1 of a copy over a copy without every tenth word, {n} verses: {difference.mean():.1f} points, "
        f"paired +- {paired:.1f} (p = {p[0]:.1g}), unpaired +- {apart:.1f} (p = {p[1]:.1g})"
    )


def threshold() -> None:
    """What 10 % asks of the two models of the published table."""
    print("relative threshold of 10 %: " + ", ".join(f"clean {nll} asks {0.1 * nll:.3f} nats" for nll in (2.65, 3.29)))


def main() -> None:
    pairs = [pair for pair in verse_pairs() if pair.text and pair.source]
    chapters = defaultdict(list)
    for pair in pairs:
        chapters[pair.group].append(pair)
    tokenizer = train_tokenizer((pair.source for pair in pairs[::4]), VOCABULARY, LIMIT, pairs=True)
    drawn = [pairs[index] for index in np.random.default_rng(0).permutation(len(pairs))[:VERSES]]
    trigger_cut(tokenizer, chapters)
    without_sentences(chapters)
    read_back(tokenizer, drawn)
    unpaired(drawn)
    threshold()


if __name__ == "__main__":
    main()
