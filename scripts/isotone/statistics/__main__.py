"""Plan sample sizes and compare two row files: `python -m isotone.statistics --help`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from isotone import errors
from isotone.statistics import planning
from isotone.statistics.bootstrap import bca_mean
from isotone.statistics.means import paired_t, sign_flip
from isotone.statistics.proportions import cohens_d_paired, cohens_d_pooled, mcnemar, wilson


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m isotone.statistics", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    plan = verbs.add_parser("plan", help="how many documents or seeds a study needs")
    designs = plan.add_subparsers(dest="design", required=True)
    paired = designs.add_parser("paired", help="mean difference of pairs (documents, or seeds)")
    paired.add_argument("--effect", type=float, required=True, help="smallest mean difference that matters, nats")
    paired.add_argument("--spread", type=float, required=True, help="standard deviation of the differences, nats")
    shares = designs.add_parser("proportions", help="two independent shares")
    shares.add_argument("--first", type=float, required=True, help="share in one group")
    shares.add_argument("--second", type=float, required=True, help="share in the other")
    pairs = designs.add_parser("mcnemar", help="paired success or failure, exact test")
    pairs.add_argument("--only-first", type=float, required=True, help="share of pairs where only the first breaks")
    pairs.add_argument("--only-second", type=float, required=True, help="share of pairs where only the second breaks")
    seeds = designs.add_parser("seeds", help="seeds crossed with documents")
    seeds.add_argument("--effect", type=float, required=True, help="smallest mean difference that matters, nats")
    seeds.add_argument("--seed-spread", type=float, required=True, help="standard deviation between seeds, nats")
    seeds.add_argument("--document-spread", type=float, required=True, help="between documents, nats")
    seeds.add_argument("--residual-spread", type=float, default=0.0, help="what is left, nats")
    seeds.add_argument("--documents", type=int, required=True, help="documents at hand")
    for design in (paired, shares, pairs, seeds):
        design.add_argument("--power", type=float, default=0.8)
        design.add_argument("--alpha", type=float, default=0.05)
    compare = verbs.add_parser("compare", help="two row files of the same documents")
    compare.add_argument("first", type=Path, help="JSON Lines with one row per document")
    compare.add_argument("second", type=Path)
    compare.add_argument("--measure", default="J", help="the number that is compared")
    compare.add_argument("--key", default="document", help="what pairs rows")
    compare.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE", help="rows to keep, such as variant=greedy"
    )
    compare.add_argument("--threshold", type=float, help="also compare the shares above this value")
    compare.add_argument("--resamples", type=int, default=10_000)
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--confidence", type=float, default=0.95)
    compare.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def _insist(options: argparse.Namespace, names: list[str], fits: Callable[[float], bool], what: str) -> None:
    """Every one of these options, where the verb has it, fits; else a paragraph that names it."""
    for name in names:
        value = getattr(options, name, None)
        if value is not None and not fits(value):
            raise errors.ConfigurationError(f"--{name.replace('_', '-')} is {value:g}; it must be {what}.")


def check(options: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ConfigurationError: names the option, its value and what it may be.
    """
    _insist(options, ["alpha", "power", "confidence"], lambda value: 0 < value < 1, "between 0 and 1")
    shares = ["first", "second"] if options.verb == "plan" else []
    _insist(options, [*shares, "only_first", "only_second"], lambda value: 0 <= value <= 1, "a share, from 0 to 1")
    _insist(options, ["spread"], lambda value: 0 < value < np.inf, "a standard deviation above 0")
    spreads = ["seed_spread", "document_spread", "residual_spread"]
    _insist(options, spreads, lambda value: 0 <= value < np.inf, "a standard deviation of at least 0")
    _insist(options, ["effect"], lambda value: value != 0 and bool(np.isfinite(value)), "a difference other than 0")
    _insist(options, ["documents"], lambda value: value >= 2, "at least 2")
    _insist(options, ["resamples"], lambda value: value >= 100, "at least 100")
    _insist(options, ["seed"], lambda value: value >= 0, "at least 0")
    if getattr(options, "only_first", None) is not None and options.only_first + options.only_second > 1:
        raise errors.ConfigurationError(
            f"--only-first {options.only_first:g} and --only-second {options.only_second:g} add up to more than 1: "
            "they are shares of the same pairs."
        )
    for condition in getattr(options, "where", []):
        if "=" not in condition:
            raise errors.ConfigurationError(
                f"--where {condition} has no value. Write it as KEY=VALUE, such as variant=greedy."
            )


def plan(options: argparse.Namespace) -> str:
    """The answer to a question about sample sizes, one sentence."""
    alpha = options.alpha
    start, unit = 2, "pairs"
    if options.design == "paired":
        power_of = lambda n: planning.paired_power(options.effect, options.spread, n, alpha=alpha)  # noqa: E731
    elif options.design == "proportions":
        power_of = lambda n: planning.proportions_power(options.first, options.second, n, alpha=alpha)  # noqa: E731
        unit = "units in each group"
    elif options.design == "mcnemar":
        power_of = lambda n: planning.mcnemar_power(options.only_first, options.only_second, n, alpha=alpha)  # noqa: E731
    else:
        unit = f"seeds on {options.documents} documents"

        def power_of(n: int) -> float:
            return planning.two_way_power(
                options.effect,
                seeds=n,
                documents=options.documents,
                seed_spread=options.seed_spread,
                document_spread=options.document_spread,
                residual_spread=options.residual_spread,
                alpha=alpha,
            )

    n = planning.smallest_size(power_of, options.power, start=start)
    if n is None:
        return f"No number of {unit} reaches power {options.power:g} at alpha {alpha:g}."
    return f"{n} {unit} reach power {power_of(n):.3f} (asked: {options.power:g}) at alpha {alpha:g}, two-sided."


def read_values(path: Path, key: str, measure: str, where: list[str]) -> dict[str, float]:
    """One number per document.

    Raises:
        ConfigurationError: no such file, a damaged line, a value that is no number,
            no row left, or a document that stands twice.
    """
    wanted = dict(condition.split("=", 1) for condition in where)
    found: dict[str, float] = {}
    if not path.is_file():
        raise errors.ConfigurationError(f"{path} does not exist. Give a JSON Lines file with one row per document.")
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise errors.ConfigurationError(f"{path}, line {number} is not JSON ({error}).") from None
        if not isinstance(row, dict) or key not in row:
            raise errors.ConfigurationError(f"{path}, line {number} has no {key!r}, which pairs rows. Choose --key.")
        if any(str(row.get(name)) != value for name, value in wanted.items()):
            continue
        value, name = row.get(measure), str(row.get(key))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise errors.ConfigurationError(
                f"{path}, line {number}: {measure} is {value!r}, not a number. Choose --measure."
            )
        if name in found:
            raise errors.ConfigurationError(
                f"{path}, line {number}: {key} {name!r} stands twice. Keep one kind of row with --where, such as --where variant=greedy."
            )
        found[name] = float(value)
    if not found:
        raise errors.ConfigurationError(f"{path} has no row that fits --where {' '.join(where)}.")
    return found


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """First minus second, paired.

    Raises:
        ConfigurationError: if the files do not hold the same documents.
    """
    first = read_values(options.first, options.key, options.measure, options.where)
    second = read_values(options.second, options.key, options.measure, options.where)
    if set(first) != set(second):
        lost = sorted(set(first) ^ set(second))
        raise errors.ConfigurationError(
            f"{options.first} and {options.second} do not hold the same documents: {len(lost)} are in one only, such as {lost[0]!r}."
        )
    names = sorted(first)
    one, two = np.array([first[name] for name in names]), np.array([second[name] for name in names])
    if len(names) < 2:
        raise errors.ConfigurationError("a comparison needs at least two documents.")
    draw = {"confidence": options.confidence, "resamples": options.resamples, "seed": options.seed}
    estimate = bca_mean(one - two, **draw)
    flip, t = sign_flip(one - two, seed=options.seed), paired_t(one - two)
    answer: dict[str, Any] = {
        "measure": options.measure,
        "documents": len(names),
        "first": bca_mean(one, **draw).__dict__,
        "second": bca_mean(two, **draw).__dict__,
        "difference": estimate.__dict__,
        "sign_flip": flip.__dict__,
        "paired_t": t.__dict__,
        "d_paired": cohens_d_paired(one - two),
        "d_pooled": cohens_d_pooled(one, two),
    }
    if options.threshold is not None:
        above = one > options.threshold, two > options.threshold
        result = mcnemar(*above)
        shares = [wilson(int(which.sum()), len(names), confidence=options.confidence).__dict__ for which in above]
        answer["success"] = {
            "threshold": options.threshold,
            "shares": shares,
            "table": result.table,
            "mcnemar": result.test.__dict__,
        }
    return answer


def in_words(answer: dict[str, Any]) -> str:
    """The comparison for a reader."""

    def span(entry: dict[str, Any]) -> str:
        return f"{entry['value']:.4f} [{entry['low']:.4f}, {entry['high']:.4f}]"

    lines = [
        f"{answer['measure']} of {answer['documents']} paired documents",
        f"  first       {span(answer['first'])}",
        f"  second      {span(answer['second'])}",
        f"  difference  {span(answer['difference'])}  ({answer['difference']['method']})",
        f"  p           {answer['sign_flip']['p']:.4g} ({answer['sign_flip']['method']}), {answer['paired_t']['p']:.4g} (paired t)",
    ]
    if answer["d_paired"] is not None:
        lines.append(f"  Cohen's d   {answer['d_paired']:.3f} paired, {answer['d_pooled']:.3f} pooled")
    if "success" in answer:
        part = answer["success"]
        (both, one), (two, neither) = part["table"]
        lines.append(
            f"  above {part['threshold']:g}: first {span(part['shares'][0])}, second {span(part['shares'][1])}"
        )
        lines.append(
            f"              both {both}, only first {one}, only second {two}, neither {neither}; McNemar p {part['mcnemar']['p']:.4g}"
        )
    return "\n".join(lines)


def main() -> int:
    """Plan or compare."""
    options = arguments()
    check(options)
    if options.verb == "plan":
        print(plan(options))
    else:
        answer = compare(options)
        print(json.dumps(answer, indent=2) if options.json else in_words(answer))
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
