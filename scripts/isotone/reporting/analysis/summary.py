"""What the data say, in plain words. Every sentence follows from a test; none is written in advance."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.analysis import recovery
from isotone.reporting.analysis.origin import origin
from isotone.reporting.analysis.verdicts import LESS, MORE, NO_CONTROL
from isotone.reporting.analysis.words import cells_of, headline, span, verdict_sentence
from isotone.statistics.estimate import percent


def quality_sentence(arm: str, entry: Json, baseline: Json, protocol: str, confidence: float) -> str:
    """What an arm costs in clean quality."""
    cost = entry["cost"]
    before, after = baseline["token_perplexity"]["value"], entry["token_perplexity"]["value"]
    start = f"{arm}: perplexity per token {before:.4g} -> {after:.4g} (protocol {protocol})"
    rise = f"{cost['value']:+z.3f} nats per token"
    if cost["interval"] is None:
        return f"{start}, {rise}."
    word = "no difference beyond chance"
    if _beyond_chance(cost):
        word = "worse" if cost["value"] > 0 else "better"
    return f"{start}: {word}, {rise} ({percent(confidence)} interval {span(cost)})."


def _beyond_chance(difference: Json) -> bool:
    """Whether the interval leaves zero out; without an interval nothing can be said."""
    interval = difference["interval"]
    return interval is not None and not interval[0] <= 0 <= interval[1]


def _raw_sentence(entry: Json, verdict: Json | None) -> str:
    """The plain comparison with the baseline, and why it is or is not a claim of robustness."""
    difference = entry["difference"]
    value = difference["value"]
    start = f"{entry['arm']} under {entry['attack']}: against {entry['against']} itself"
    text = f"{start} {abs(value):.3f} nats per token {'less' if value > 0 else 'more'} damage ({span(difference)} nats per token)"
    if verdict is None or verdict["word"] == NO_CONTROL:
        return f"{text}; without a control of equal quality this is no claim of robustness."
    if value > 0 and verdict["word"] == LESS:
        return f"{text}; every control of equal quality loses even less, so this is no gain in robustness."
    if value > 0 and verdict["word"] != MORE:
        return f"{text}; not every control of equal quality is shown to do worse, so this is no gain in robustness."
    return f"{text}."


def limits(results: Json) -> list[str]:
    """What a reader must know before believing the sentences."""
    gates, seeds = results["gates"], results["settings"]["seeds"]
    found = ["Seeds vary the order of recovery only: base model, data, starts and attack streams are the same for all."]
    if len(seeds) > 1:
        floor = 2.0 ** (1 - len(seeds))
        found.append(f"With {len(seeds)} seeds no two-sided sign-flip p over seeds can be below {floor:.4g}.")
    else:
        found.append("One seed: the intervals cover the choice of documents, not a new training run.")
    found += recovery.sentences(results["recovery"])
    failed = [gate for gate in gates if gate["state"] == "fail"]
    skipped = [gate for gate in gates if gate["state"] == "not run"]
    ran = len(gates) - len(skipped)
    if failed:
        found.append(
            f"{len(failed)} of the {ran} gates that ran failed; what these ask for does not hold: {_by_gate(failed)}."
        )
    else:
        found.append(f"No gate failed ({ran} ran).")
    if skipped:
        found.append(f"{len(skipped)} gates were not run: {'; '.join(sorted({gate['gate'] for gate in skipped}))}.")
    if all(entry["word"] == NO_CONTROL for entry in results["verdicts"]):
        found.append("No control of equal quality was made: nothing here is a claim of robustness.")
    missing: dict[tuple[str, str], list[str]] = {}
    for key, reason in results["unavailable"].items():
        name, _, seed = key.partition("/seed-")
        missing.setdefault((name, reason), []).append(seed)
    for (name, reason), lost in missing.items():
        found.append(f"The control {name} could not be made for seed {', '.join(lost)}: {reason.rstrip('.')}.")
    return found


def _by_gate(gates: list[Json]) -> str:
    """Gates with the arms that they concern."""
    arms: dict[str, list[str]] = {}
    for gate in gates:
        arms.setdefault(gate["gate"], []).append(gate["arm"])
    return "; ".join(f"{name} ({', '.join(found)})" for name, found in sorted(arms.items()))


def summary(results: Json) -> Json:
    """Headline, sentences on robustness and on quality, limits, and where the text came from."""
    settings, verdicts = results["settings"], results["verdicts"]
    baseline = settings["report"]["baseline"]
    protocol = settings["perplexity"]["protocols"][0]
    known = {(entry["arm"], entry["attack"], entry["variant"]): entry for entry in verdicts}
    costs = [
        quality_sentence(
            arm,
            results["quality"][arm][protocol],
            results["quality"][baseline][protocol],
            protocol,
            settings["report"]["confidence"],
        )
        for arm in results["arms"]
        if arm != baseline and results["quality"][arm][protocol]["cost"]
    ]
    entries = [entry for entry in results["comparisons"] if entry["primary_form"]]
    told = [entry for entry in entries if _beyond_chance(entry["difference"])]
    raw = [_raw_sentence(entry, known.get((entry["arm"], entry["attack"], entry["variant"]))) for entry in told]
    for arm in results["arms"]:
        quiet = [entry["attack"] for entry in entries if entry["arm"] == arm and entry not in told]
        raw += [f"{arm} under {', '.join(quiet)}: no difference from {baseline} itself beyond chance."] if quiet else []
    return {
        "headline": headline(verdicts),
        "robustness": [verdict_sentence(entry, cells_of(results, entry), settings) for entry in verdicts],
        "quality": costs,
        "against_baseline": raw,
        "limits": limits(results),
        "text": origin(results["setup"], results["data"]),
    }
