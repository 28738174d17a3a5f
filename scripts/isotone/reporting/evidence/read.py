"""All rows of one study in memory: complete, finite, no duplicates, the same documents everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isotone.attacks.spec import RESTART
from isotone.errors import ConfigurationError
from isotone.records import Json, read_json
from isotone.reporting.evidence.expected import Run, all_runs, check_complete
from isotone.reporting.evidence.rows import AttackRows, CleanRows, read_attack, read_clean, shared_documents
from isotone.reporting.evidence.written import AfterRows, WrittenRows, read_after, read_written
from isotone.studies.study import Study


@dataclass
class Evidence:
    """What the statistics see.

    Attributes:
        clean: run to protocol to rows.
        attacks: run to attack to variant to rows.
        written: run to system to rows, where a study writes.
        after: run to attack to what was written after it.
        markers: relative path of a marker to its content.
        unavailable: controls that could not be made, and why.
    """

    study: Study
    folder: Path
    clean: dict[Run, dict[str, CleanRows]] = field(default_factory=dict)
    attacks: dict[Run, dict[str, dict[str, AttackRows]]] = field(default_factory=dict)
    written: dict[Run, dict[str, WrittenRows]] = field(default_factory=dict)
    after: dict[Run, dict[str, AfterRows]] = field(default_factory=dict)
    markers: dict[str, Json] = field(default_factory=dict)
    certificates: dict[Run, Json] = field(default_factory=dict)
    unavailable: dict[Run, str] = field(default_factory=dict)

    def runs_of(self, name: str) -> list[Run]:
        """The runs of an arm or control that could be made, in the order of the seeds."""
        return [run for run in all_runs(self.study) if run.name == name and run not in self.unavailable]

    def matrix(self, name: str, attack: str, variant: str, measure: str, seeds: list[int] | None = None) -> np.ndarray:
        """values_SN of one measure: a row per seed, a column per document."""
        runs = [run for run in self.runs_of(name) if seeds is None or run.seed in seeds]
        return np.stack([self.attacks[run][attack][variant].columns[measure] for run in runs])

    def common_seeds(self, first: str, second: str) -> list[int]:
        """Seeds that both have; an arm with ``seeds: once`` has one."""
        theirs = {run.seed for run in self.runs_of(second)}
        return [run.seed for run in self.runs_of(first) if run.seed in theirs]

    def variants(self, name: str, attack: str) -> list[str]:
        """The forms in which an attack ran on an arm."""
        runs = self.runs_of(name)
        found = list(self.attacks[runs[0]].get(attack, {})) if runs else []
        return [variant for variant in found if not variant.endswith(RESTART)]


def _refuse_duplicates(evidence: Evidence) -> None:
    """Two seeds of one arm with the same weights or rows are one run counted twice."""
    seen: dict[tuple[str, str, str], Run] = {}
    for run in evidence.clean:
        marks = [("perplexity.jsonl", next(iter(evidence.clean[run].values())).digest)]
        marks += [
            (f"attacks/{attack}.jsonl", next(iter(forms.values())).digest)
            for attack, forms in evidence.attacks[run].items()
        ]
        weights = evidence.markers[f"{run.folder}/train.json"]["result"].get("weights_sha256")
        if weights:
            marks.append(("model", weights))
        for what, digest in marks:
            other = seen.setdefault((run.name, what, digest), run)
            if other is not run:
                raise ConfigurationError(
                    f"{run.folder}/{what} is the same as {other.folder}/{what}: seeds {other.seed} and {run.seed} of "
                    f"{run.name} are one run counted twice, and intervals over seeds would be too short. "
                    f"Train them apart, or declare arms.{run.arm}.seeds: once if nothing in this arm depends on the seed."
                )


def _align(evidence: Evidence) -> None:
    """All runs have one set of documents per protocol and per attack, and the same variants."""
    for protocol in evidence.study.perplexity.protocols:
        lists = {}
        for run, tables in evidence.clean.items():
            if protocol not in tables:
                raise ConfigurationError(
                    f"{evidence.folder / run.folder}/perplexity.jsonl has no rows of protocol {protocol}, which "
                    "perplexity.protocols asks for. Delete the file and run its step again."
                )
            lists[f"{run.folder}/perplexity.jsonl"] = tables[protocol].documents
        shared_documents(lists, f"protocol {protocol}")
    if evidence.written:
        lists = {
            f"{run.folder}/generation.jsonl ({system})": rows.documents
            for run, systems in evidence.written.items()
            for system, rows in systems.items()
        }
        shared_documents(lists, "generation")
        for attack in evidence.study.generation.attacks:
            lists = {
                f"{run.folder}/generation_after/{attack}.jsonl": rows[attack].documents
                for run, rows in evidence.after.items()
                if attack in rows
            }
            shared_documents(lists, f"generation after {attack}")
    for attack in evidence.study.attacks.run:
        lists, forms = {}, {}
        for run, attacks in evidence.attacks.items():
            if attack in attacks:
                name = f"{run.folder}/attacks/{attack}.jsonl"
                whole = {variant: rows for variant, rows in attacks[attack].items() if not variant.endswith(RESTART)}
                forms[name] = sorted(whole)
                lists |= {f"{name} ({variant})": rows.documents for variant, rows in whole.items()}
        first = next(iter(forms))
        for name, variants in forms.items():
            if variants != forms[first]:
                raise ConfigurationError(
                    f"{name} has the forms {variants}, {first} has {forms[first]}. Delete the older one and run its step again."
                )
        shared_documents(lists, f"attack {attack}")


def _load_run(evidence: Evidence, run: Run) -> None:
    folder = evidence.folder / run.folder
    names = ["train.json", "perplexity.json"] + [f"attacks/{name}.json" for name in evidence.study.attacks_of(run.name)]
    for name in names:
        evidence.markers[f"{run.folder}/{name}"] = read_json(folder / name)
    evidence.certificates[run] = read_json(folder / "certificate.json")
    result = evidence.markers[f"{run.folder}/train.json"]["result"]
    made = result.get("control", {})
    if run.kind and made.get("found") is False:
        evidence.unavailable[run] = str(made.get("reason", "not available"))
        return
    evidence.clean[run] = read_clean(folder / "perplexity.jsonl")
    if evidence.study.writes:
        evidence.written[run] = read_written(folder / "generation.jsonl")
        evidence.after[run] = {
            attack: read_after(folder / "generation_after" / f"{attack}.jsonl")
            for attack in evidence.study.written_after(run.name)
        }
    evidence.attacks[run] = {
        attack: read_attack(folder / "attacks" / f"{attack}.jsonl") for attack in evidence.study.attacks_of(run.name)
    }


def optional_result(folder: Path, name: str) -> dict[str, Any]:
    """The result of a marker that older or partial studies lack; empty without it."""
    path = folder / name
    return dict(read_json(path).get("result", {})) if path.is_file() else {}


def load_evidence(study: Study, folder: Path) -> Evidence:
    """Read everything that the configuration promises.

    Raises:
        ConfigurationError: missing files (with the target that makes them), duplicated
            seeds, or files that disagree on documents or forms.
        InputOutputError: damaged rows or numbers that are none.
    """
    folder = Path(folder)
    check_complete(study, folder)
    evidence = Evidence(study, folder)
    for run in all_runs(study):
        _load_run(evidence, run)
    _refuse_duplicates(evidence)
    _align(evidence)
    return evidence
