"""What must exist: derived from the configuration alone, never from what happens to be there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from isotone.attacks.registry import SPECS
from isotone.errors import ConfigurationError
from isotone.layout import Layout, command_for
from isotone.studies.study import Study

HERE = Layout(".")  # paths relative to the study's folder


@dataclass(frozen=True, order=True)
class Run:
    """One evaluated model: an arm, or a control made for it (``mlp_in~tempered``), from one seed."""

    name: str
    seed: int

    @property
    def arm(self) -> str:
        """The trained arm that it is, or was made for."""
        return self.name.partition("~")[0]

    @property
    def kind(self) -> str:
        """The kind of control; empty for a trained arm."""
        return self.name.partition("~")[2]

    @property
    def folder(self) -> str:
        """Relative to the study's folder."""
        return os.path.normpath(HERE.run(self.name, self.seed).folder)

    @property
    def key(self) -> str:
        """``mlp_in/seed-42``, as transfer rows spell it."""
        return f"{self.name}/seed-{self.seed}"


def all_runs(study: Study) -> list[Run]:
    """Every arm and control with each of its seeds, in the order of the configuration."""
    return [Run(name, seed) for name, seed in study.runs()]


def trained_runs(study: Study) -> list[Run]:
    """The runs that were trained: no controls."""
    return [run for run in all_runs(study) if not run.kind]


def compared_arms(study: Study) -> list[str]:
    """All arms but the reference."""
    return [name for name in study.arms if name != study.report.baseline]


def primary_variant(study: Study, attack: str) -> str:
    """The form of an attack that the primary comparison uses."""
    return SPECS[attack].primary(study.attacks.of(attack))


def files_of(study: Study, run: Run) -> list[str]:
    """Every file that aggregation reads of one run, relative to the study's folder."""
    files = HERE.run(run.name, run.seed)
    found = [files.marker, files.history, files.certificate, files.perplexity.rows, files.perplexity.marker]
    for attack in study.attacks_of(run.name):
        found += [files.attack(attack).rows, files.attack(attack).marker]
    if study.writes:
        found += [files.generation.rows, files.generation.marker]
        for attack in study.written_after(run.name):
            found += [files.generation_after(attack).rows, files.generation_after(attack).marker]
    if study.order_preservation.run:
        found += [files.order.rows, files.order.marker]
    return [os.path.normpath(path) for path in found]


def transfer_files(study: Study) -> list[str]:
    """Rows of the transfer matrix: one file per attack and target run."""
    return [
        os.path.normpath(HERE.transfer(attack, run.name, run.seed).rows)
        for attack in study.attacks.transfer
        for run in trained_runs(study)
    ]


def expected_files(study: Study) -> list[str]:
    """Every file that the configuration promises, relative to the study's folder."""
    return [name for run in all_runs(study) for name in files_of(study, run)] + transfer_files(study)


def check_complete(study: Study, folder: Path) -> None:
    """Insist that every promised file is there.

    Raises:
        ConfigurationError: names the first missing file, how many more, and the command that makes it.
    """
    missing = [name for name in expected_files(study) if not (folder / name).is_file()]
    if not missing:
        return
    target = folder / missing[0]
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise ConfigurationError(
        f"{target} is missing{more}: the configuration promises it (arms {', '.join(study.arms)}; seeds {study.seeds}), "
        "and nothing is averaged over what happens to be there. "
        f"Make it with `{command_for(folder, str(target))}`, or take its arm, seed or attack out of the study."
    )
