"""For the paper: one macro per number, the method in words, references."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from isotone.attacks.registry import SPECS
from isotone.records import Json
from isotone.reporting.analysis.words import WORDS
from isotone.reporting.page.references import REFERENCES
from isotone.reporting.tables.table import is_number, latex_text
from isotone.schema import parse
from isotone.statistics.estimate import percent

_DIGITS = dict(
    zip("0123456789", ["Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"], strict=True)
)


def macro_name(*parts: str) -> str:
    r"""A LaTeX command name, letters only: ``("mlp_in", "hotflip") -> \isoMlpInHotflip``."""
    words = [word for part in parts for word in re.split(r"[^A-Za-z0-9]+", part) if word]
    spelled = ["".join(_DIGITS.get(letter, letter) for letter in word) for word in words]
    return "iso" + "".join(word[0].upper() + word[1:] for word in spelled)


def _amount(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _lines(name: str, number: Json, digits: int) -> list[str]:
    lines = [
        rf"\newcommand{{\{name}}}{{{_amount(number['value'], digits)}}} % {number['unit']}, n = {number['n']}; {number['method']}"
    ]
    if number["interval"]:
        low, high = number["interval"]
        lines.append(rf"\newcommand{{\{name}Interval}}{{[{_amount(low, digits)}, {_amount(high, digits)}]}}")
    return lines


def _walk(value: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Json]]:
    if is_number(value):
        return [(path, value)]
    if isinstance(value, dict):
        return [found for key, entry in value.items() for found in _walk(entry, (*path, key))]
    return []


def numbers_tex(document: Json) -> str:
    """One macro per number, and one for each interval.

    Raises:
        ValueError: if two numbers would get one name.
    """
    results = document["results"]
    found = _walk(results["quality"], ("quality",)) + _walk(results["damage"], ("damage",))
    for cell in results["primary"]:
        place = cell["arm"], cell["attack"], cell["control"]
        found += [(("excess", *place, outcome), entry["difference"]) for outcome, entry in cell["outcomes"].items()]
    found += [
        (("difference", entry["arm"], entry["attack"], entry["variant"]), entry["difference"])
        for entry in results["comparisons"]
    ]
    lines = [
        f"% Every number of this study; digest {document['digest']}.",
        rf"\newcommand{{\isoDigest}}{{{document['digest'][:12]}}}",
    ]
    seen: dict[str, tuple[str, ...]] = {}
    for path, number in found:
        name = macro_name(*path)
        if seen.setdefault(name, path) != path:
            raise ValueError(f"the numbers {path} and {seen[name]} would both be called {name}")
        lines += _lines(name, number, 2 if "perplexity" in path[-1] else 3)
    for cell in results["primary"]:
        if cell["p_adjusted"] is not None:
            name = macro_name("p", cell["arm"], cell["attack"], cell["control"])
            lines.append(rf"\newcommand{{\{name}}}{{{cell['p_adjusted']:.3g}}} % {cell['adjustment']}")
    for entry in results["verdicts"]:
        lines.append(
            rf"\newcommand{{\{macro_name('verdict', entry['arm'], entry['attack'])}}}{{{WORDS[entry['word']]}}}"
        )
    return "\n".join(lines) + "\n"


def _model_sentence(settings: Json) -> str:
    model = settings["model"]
    if model["source"] == "scratch":
        shape = model["architecture"]
        return (
            f"The base model is a {shape['family']} with {shape['layers']} layers of width {shape['hidden']} and a vocabulary of "
            f"{shape['vocabulary']} tokens, pretrained once (seed {settings['base']['seed']}) on the training split."
        )
    name = model["name"] or Path(model["path"]).name
    return f"The base model is {name}" + (f", revision {model['revision']}." if model["revision"] else ".")


def _attack_sentences(settings: Json) -> list[str]:
    attacks, shared = settings["attacks"], settings["attacks"]["shared"]
    listed = "; ".join(
        spec.sentence(parse(spec.settings, attacks[spec.name])) for spec in (SPECS[name] for name in attacks["run"])
    )
    return [
        f"Every attack sees the same {shared['documents']} documents of up to {shared['window']} tokens, the same eligible positions and "
        f"the same random streams (seed {shared['seed']}): {listed}.",
        "The measure of damage J is the mean rise of the negative log-likelihood, in nats, of the tokens that the attack did not change.",
    ]


def methods_tex(document: Json) -> str:
    """The method in sentences that follow from the settings."""
    settings = document["results"]["settings"]
    report, training = settings["report"], settings["training"]
    arms = []
    for name, arm in settings["arms"].items():
        constraint = arm["constraint"]
        what = "no constraint" if constraint["scope"] == "none" else (
            f"scope {constraint['scope']}, map {constraint['map']}, init {constraint['init']}"
        )  # fmt: skip
        arms.append(f"{name} ({what})")
    seeds = settings["seeds"]
    sentences = [
        _model_sentence(settings),
        f"Arms: {'; '.join(arms)}.",
        f"Each arm is trained for {training['epochs']:g} epochs with AdamW (peak learning rate {training['learning_rate']:g}, "
        f"{training['schedule']} schedule, warm-up {training['warm_up']:g}, decay {training['weight_decay']:g}, global batch "
        f"{training['global_batch']} sequences of {training['length']} tokens) unless its own settings say otherwise, from "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}), which change the order of the samples only.",
        *_attack_sentences(settings),
        f"Controls of equal quality ({', '.join(settings['controls']['kinds']) or 'none'}) are made from the baseline without the constraint, "
        "at each constrained arm's clean loss on the attacked text; a curve of earlier checkpoints is read off at that loss. An arm is more "
        "(or less) robust only if changed predictions and recalibrated damage, both per changed token, say so against every control; it is "
        f"equivalent if all intervals lie within {settings['report']['smallest_change']:g} predictions and "
        f"{settings['report']['smallest_effect']:g} nats per changed token; else the verdict depends on the control.",
        f"Differences are paired by document and seed. With several seeds intervals and tests treat seeds and documents as crossed "
        f"random factors (two-way variance, Cochran and Cox's critical values \\cite{{cochran1957}}); intervals over documents are "
        f"BCa bootstrap \\cite{{efron1987}} with {report['resamples']} resamples at {percent(report['confidence'])}. Primary p values are "
        f"adjusted by Holm's method \\cite{{holm1979}}, the grid of all others by Benjamini and Hochberg \\cite{{benjamini1995}}. Success "
        "rates are compared by exact McNemar tests \\cite{mcnemar1947}. HotFlip follows \\cite{ebrahimi2018}, triggers "
        "\\cite{wallace2019}, GCG \\cite{zou2023}.",
    ]
    escaped = [
        re.sub(r"\\textbackslash\{\}cite\\\{(\w+)\\\}", r"\\cite{\1}", latex_text(sentence)) for sentence in sentences
    ]
    return "% Written from the settings of the study; edit the settings, not this file.\n" + "\n\n".join(escaped) + "\n"


def write_paper(folder: Path, document: Json) -> None:
    """Write numbers.tex, methods.tex and references.bib into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "numbers.tex").write_text(numbers_tex(document), encoding="utf-8")
    (folder / "methods.tex").write_text(methods_tex(document), encoding="utf-8")
    (folder / "references.bib").write_text(REFERENCES, encoding="utf-8")
