"""What the data say, in plain words. Every sentence follows from a test; none is written in advance."""

from __future__ import annotations

from isotone.records import Json
from isotone.reporting.analysis.origin import origin
from isotone.reporting.analysis.verdicts import EFFECT, NO_EFFECT, OPPOSITE, UNDERPOWERED
from isotone.statistics.estimate import percent


def _span(number: Json) -> str:
    if number["interval"] is None:
        return "no interval"
    return f"{number['interval'][0]:+.3f} to {number['interval'][1]:+.3f}"


def _units(claim: Json) -> str:
    seeds, documents = claim["excess"]["seeds"], claim["excess"]["documents"]
    if seeds > 1:
        return f"{seeds} seeds x {documents} documents"
    return f"one training run, {documents} documents: nothing is said about other seeds"


def _needed(claim: Json, settings: Json) -> str:
    """How much more data would tell, from the spreads of these."""
    plan, report = claim["plan"], settings["report"]
    what = f"{report['smallest_effect']:g} nats with power {report['power']:g}"
    if plan.get("documents") and plan["documents"] <= claim["excess"]["documents"]:
        return f"{what} are within reach of these data, but the interval goes beyond them"
    ways = []
    if plan.get("documents"):
        ways.append(f"{plan['documents']} documents with these seeds")
    if plan.get("seeds"):
        ways.append(f"{plan['seeds']} seeds on these documents")
    return (
        f"to see {what} one would need about {' or '.join(ways)}"
        if ways
        else f"no number of documents alone would show {what}"
    )


def robustness_sentence(claim: Json, settings: Json) -> str:
    """One primary comparison in words; the wording depends on its verdict alone."""
    confidence = percent(settings["report"]["confidence"])
    value = claim["excess"]["value"]
    start = f"{claim['arm']} under {claim['attack']}"
    facts = f"{confidence} interval {_span(claim['excess'])} nats per token, adjusted p = {claim['p_adjusted']:.3g}; {_units(claim)}"
    against = f"a model of equal quality ({', '.join(claim['nulls'])})"
    if claim["verdict"] == EFFECT:
        return f"{start}: more robust than {against}, by {value:.3f} nats per token ({facts})."
    if claim["verdict"] == OPPOSITE:
        return f"{start}: less robust than {against}, by {-value:.3f} nats per token ({facts})."
    if claim["verdict"] == NO_EFFECT:
        small = settings["report"]["smallest_effect"]
        return f"{start}: no effect that matters; the difference to {against} lies within {small:g} nats per token ({facts})."
    return f"{start}: these data cannot tell whether it differs from {against} ({facts}); {_needed(claim, settings)}."


def quality_sentence(arm: str, entry: Json, reference: Json, protocol: str, confidence: float) -> str:
    """What an arm costs in clean quality."""
    cost = entry["cost"]
    before, after = reference["token_perplexity"]["value"], entry["token_perplexity"]["value"]
    start = f"{arm}: perplexity per token {before:.4g} -> {after:.4g} (protocol {protocol})"
    span = f"{cost['value']:+.3f} nats per token"
    if cost["interval"] is None:
        return f"{start}, {span}."
    word = "no difference beyond chance"
    if _beyond_chance(cost):
        word = "worse" if cost["value"] > 0 else "better"
    return f"{start}: {word}, {span} ({percent(confidence)} interval {_span(cost)})."


def _beyond_chance(difference: Json) -> bool:
    """Whether the interval leaves zero out; without an interval nothing can be said."""
    interval = difference["interval"]
    return interval is not None and not interval[0] <= 0 <= interval[1]


def _raw_sentence(entry: Json, claim: Json | None) -> str:
    """The plain comparison with the reference, and why it is or is not a claim of robustness."""
    difference = entry["difference"]
    value = difference["value"]
    start = f"{entry['arm']} under {entry['attack']}: against {entry['against']} itself"
    span = f"({_span(difference)} nats per token)"
    text = f"{start} {abs(value):.3f} nats per token {'less' if value > 0 else 'more'} damage {span}"
    if claim is None:
        return f"{text}; without a control of equal quality this is no claim of robustness."
    if value > 0 and claim["verdict"] == OPPOSITE:
        return f"{text}; a control of equal quality loses even less, so this is no gain in robustness."
    if value > 0 and claim["verdict"] != EFFECT:
        return f"{text}; a control of equal quality is not shown to do worse, so this is no gain in robustness."
    return f"{text}."


def limits(results: Json) -> list[str]:
    """What a reader must know before believing the sentences."""
    claims, gates, seeds = results["primary"], results["gates"], results["settings"]["seeds"]
    found = ["Seeds vary the order of recovery only: base model, data, starts and attack streams are the same for all."]
    if len(seeds) > 1:
        floor = 2.0 ** (1 - len(seeds))
        found.append(f"With {len(seeds)} seeds no two-sided sign-flip p over seeds can be below {floor:.4g}.")
    else:
        found.append("One seed: the intervals cover the choice of documents, not a new training run.")
    failed = [gate for gate in gates if gate["state"] == "fail"]
    skipped = [gate for gate in gates if gate["state"] == "not run"]
    if failed:
        found.append(f"{len(failed)} of {len(gates)} gates failed: {_by_gate(failed)}.")
    else:
        found.append(f"No gate failed ({len(gates) - len(skipped)} ran).")
    if skipped:
        found.append(f"{len(skipped)} gates were not run: {'; '.join(sorted({gate['gate'] for gate in skipped}))}.")
    if not claims:
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


def headline(claims: list[Json], without: list[str]) -> str:
    """The whole study in one sentence.

    Args:
        without: constrained arms for which no control could be made.
    """
    if not claims:
        return "This study measured attacks but no control of equal quality, so it makes no claim of robustness."
    words = {
        EFFECT: "more robust",
        OPPOSITE: "less robust",
        NO_EFFECT: "no effect that matters",
        UNDERPOWERED: "cannot tell",
    }
    parts = []
    for state, word in words.items():
        found = [f"{claim['arm']} ({claim['attack']})" for claim in claims if claim["verdict"] == state]
        parts += [f"{word}: {', '.join(found)}"] if found else []
    parts += [f"without such a control: {', '.join(without)}"] if without else []
    return f"Compared with models of equal quality, {'; '.join(parts)}."


def summary(results: Json) -> Json:
    """Headline, sentences on robustness and on quality, limits, and where the text came from."""
    settings, claims = results["settings"], results["primary"]
    reference = settings["report"]["baseline"]
    protocol = settings["perplexity"]["protocols"][0]
    known = {(claim["arm"], claim["attack"], claim["variant"]): claim for claim in claims}
    costs = [
        quality_sentence(
            arm,
            results["quality"][arm][protocol],
            results["quality"][reference][protocol],
            protocol,
            settings["report"]["confidence"],
        )
        for arm in results["arms"]
        if arm != reference and results["quality"][arm][protocol]["cost"]
    ]
    constrained = [arm for arm in results["arms"] if settings["arms"][arm]["constraint"]["scope"] != "none"]
    without = [arm for arm in constrained if arm not in {claim["arm"] for claim in claims}]
    entries = [entry for entry in results["comparisons"] if entry["primary_form"]]
    told = [entry for entry in entries if _beyond_chance(entry["difference"])]
    raw = [_raw_sentence(entry, known.get((entry["arm"], entry["attack"], entry["variant"]))) for entry in told]
    for arm in results["arms"]:
        quiet = [entry["attack"] for entry in entries if entry["arm"] == arm and entry not in told]
        raw += (
            [f"{arm} under {', '.join(quiet)}: no difference from {reference} itself beyond chance."] if quiet else []
        )
    return {
        "headline": headline(claims, without),
        "robustness": [robustness_sentence(claim, settings) for claim in claims],
        "quality": costs,
        "against_reference": raw,
        "limits": limits(results),
        "text": origin(results["setup"], results["data"]),
    }
