"""Clean quality under four named protocols; never "the perplexity".

A protocol is a list of windows per document: what goes in, which tokens are scored.
Sums are per document and in nats, so that any ratio can be formed and paired later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from isotone.config.evaluation import SHORTEST
from isotone.errors import ConfigurationError
from isotone.evaluation.scoring import Scorer, Window
from isotone.records import Json


def rolling(ids: np.ndarray, length: int, prefix: int | None) -> list[Window]:
    """Every token once, in windows of full length; the last one is extended to the left.

    Source: lm-evaluation-harness, ``loglikelihood_rolling`` with ``context_len=1``: one prefix
    token in front of the first window. Without a prefix the first token stands in for it and
    is not scored.
    """
    stream = ids if prefix is None else np.concatenate([[prefix], ids])
    windows = []
    for begin in range(1, len(stream), length):
        end = min(begin + length, len(stream))
        windows.append(Window(stream[max(0, end - 1 - length) : end - 1], stream[begin:end]))
    return windows


def strided(ids: np.ndarray, length: int, stride: int) -> list[Window]:
    """Windows of ``length`` tokens every ``stride`` tokens; each label is scored once, the first token never.

    Source: the loop of the transformers documentation, weighted by the labels that are really scored.
    """
    windows, done = [], 1
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        scored = min(end - done, end - begin - 1)
        if scored > 0:
            windows.append(Window(ids[begin : end - 1], ids[end - scored : end]))
        done = end
        if end == len(ids):
            break
    return windows


def llamacpp(ids: np.ndarray, length: int, prefix: int | None) -> list[Window]:
    """Chunks of ``length`` tokens, each begun with the prefix token; the second half of each is scored.

    Source: llama.cpp's perplexity program: ``first = n_ctx / 2``, ``n_ctx - 1 - first`` tokens a
    chunk, the rest behind the last whole chunk left out.
    """
    stream = ids if prefix is None else np.concatenate([[prefix], ids])
    windows = []
    for begin in range(0, len(stream) - length + 1, length):
        chunk = stream[begin : begin + length].copy()
        if prefix is not None:
            chunk[0] = prefix
        windows.append(Window(chunk[:-1], chunk[length // 2 + 1 :]))
    return windows


def document(ids: np.ndarray, window: int, prefix: int | None) -> list[Window]:
    """The first ``window`` tokens behind the prefix: the text that attacks change. Too short: nothing."""
    if len(ids) < SHORTEST:
        return []
    return rolling(ids[:window], window, prefix)


def windows_of(
    protocol: str, ids: np.ndarray, *, length: int, stride: int, window: int, prefix: int | None
) -> list[Window]:
    """The windows of one document under a named protocol."""
    if protocol == "rolling":
        return rolling(ids, length, prefix)
    if protocol == "strided":
        return strided(ids, length, stride)
    if protocol == "llamacpp":
        return llamacpp(ids, length, prefix)
    return document(ids, window, prefix)


def score(
    scorer: Scorer,
    names: Sequence[str],
    windows: Sequence[Sequence[Window]],
    progress: Callable[[int], None] | None = None,
) -> list[tuple[int, float]]:
    """``(tokens scored, summed NLL in nats)`` of each document.

    Raises:
        ConfigurationError: if a sum is not a number; names the document.
    """
    flat = [window for part in windows for window in part]
    for window in flat:
        scorer.check_length(len(window.inputs), "A perplexity window")
    sums = scorer.windows(flat, progress)
    result, first = [], 0
    for name, part in zip(names, windows, strict=True):
        total = math.fsum(sums[first : first + len(part)])
        first += len(part)
        if not math.isfinite(total):
            raise ConfigurationError(
                f'Document "{name}" has a loss that is not a number. The model is broken: look at its train.json and history.csv.'
            )
        result.append((sum(len(window.targets) for window in part), total))
    return result


def summary(rows: Sequence[Json], protocol: str) -> Json:
    """The protocol's numbers, each with its unit in its name: ratios of sums over documents.

    Bytes and words are those of whole documents, so only `rolling`, which scores whole
    documents, has ``bits_per_byte`` and ``word_perplexity``.

    Raises:
        ConfigurationError: if no document was scored.
    """
    scored = [row for row in rows if not row["excluded"]]
    tokens = sum(row["tokens"] for row in scored)
    if not tokens:
        raise ConfigurationError(
            f"Perplexity protocol {protocol} scored none of {len(rows)} documents: all are shorter than it needs. "
            "Lower perplexity.length, or leave the protocol out (perplexity.protocols)."
        )
    nll = math.fsum(row["nll"] for row in scored)
    whole = protocol == "rolling"
    size, words = sum(row["bytes"] for row in scored), sum(row["words"] for row in scored)
    return {
        "nats_per_token": nll / tokens,
        "token_perplexity": _exp(nll / tokens),
        "bits_per_byte": nll / math.log(2) / size if whole and size else None,
        "word_perplexity": _exp(nll / words) if whole and words else None,
        "documents": len(scored),
        "excluded": len(rows) - len(scored),
        "tokens": tokens,
    }


def _exp(value: float) -> float | None:
    """``exp(value)``; None where it is beyond any float."""
    return math.exp(value) if value < 700 else None
