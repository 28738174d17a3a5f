"""How much of a reference a written text holds: ROUGE, chrF and lengths, beside texts that nobody had to write.

ROUGE is rouge_score's F1 with stemmer, times 100; Lsum reads sentences, each on a line of its own on
both sides. chrF is sacrebleu's. A number is of one document; what stands in a report is the plain mean
of such numbers (rouge_score's own aggregator resamples). ROUGE reads ``a-z`` and ``0-9`` alone: accents
part a word, and a reference in another script has no word for it (`readable` says so).

Source: Lin 2004 (ROUGE); Popovic 2015 (chrF).
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import CHRF

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SCORES = (*ROUGE, "chrf")

_END = re.compile(r"""[.!?]+["'”’)\]]*\s+""")
_OPENING = "\"'“‘(["
_ABBREVIATION = re.compile(
    r"mrs?|ms|dr|prof|st|gen|rep|sen|gov|lt|col|sgt|capt|rev|hon|[js]r|vs|no|inc|corp?|co|ltd|fig|approx"
    r"|e\.g|i\.e|u\.[sk]|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, by rule and without any model: lines first, then full stops before a capital or a digit.

    Initials and usual abbreviations (``J. Smith``, ``Dr. No``) end no sentence.
    """
    found = []
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(line):
            following = line[match.end() :].lstrip(_OPENING)[:1]
            if following and not following.islower() and not _abbreviated(line[start : match.start()], match[0]):
                found.append(line[start : match.end()].strip())
                start = match.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def _abbreviated(before: str, stop: str) -> bool:
    word = before.rsplit(None, 1)[-1].lstrip(_OPENING) if before.strip() else ""
    initial = len(word) == 1 and word.isupper() and word != "I"
    return stop[0] == "." and stop[1:].isspace() and (initial or _ABBREVIATION.fullmatch(word.lower()) is not None)


def lead(text: str, count: int) -> str:
    """The first sentences of a text, one per line."""
    return "\n".join(sentences(text)[:count])


@functools.cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE), use_stemmer=True)


@functools.cache
def _chrf() -> CHRF:
    from sacrebleu.metrics import CHRF

    return CHRF()


def overlap(output: str, reference: str) -> dict[str, float]:
    """Scores of one text against one reference, each 0 to 100: `SCORES`."""
    found = _rouge().score("\n".join(sentences(reference)), "\n".join(sentences(output)))
    scores = {key: 100.0 * float(found[key].fmeasure) for key in ROUGE}
    return {**scores, "chrf": float(_chrf().sentence_score(output, [reference]).score)}


def readable(text: str) -> bool:
    """Whether a text has a word that ROUGE reads."""
    return re.search("[a-z0-9]", text.lower()) is not None
