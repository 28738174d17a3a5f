"""Where every file of a study lies: rules, programs, report and status ask here, and nobody spells a path twice.

A `Layout` speaks of one study's folder. Rules give it placeholders instead of names, so that the
patterns of Snakemake and the paths of everybody else are the same text:
``Layout("results/{study}").run("{arm}", "{seed}").model``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

RESULTS = "results"
RUN = "{arm}/seed-{seed}"


@dataclass(frozen=True)
class Split:
    """Tokens of one split of the text."""

    folder: str

    @property
    def tokens(self) -> str:
        """All tokens in a row, memory-mapped."""
        return f"{self.folder}/tokens.bin"

    @property
    def sources(self) -> str:
        """Of pairs, all tokens of the sources in a row."""
        return f"{self.folder}/sources.bin"

    @property
    def documents(self) -> str:
        """Where each document begins and ends."""
        return f"{self.folder}/documents.parquet"

    @property
    def marker(self) -> str:
        """Written last."""
        return f"{self.folder}/data.json"


@dataclass(frozen=True)
class Trained:
    """What a training run, or a control, leaves behind."""

    folder: str
    model: str

    @property
    def history(self) -> str:
        """One row per step."""
        return f"{self.folder}/history.csv"

    @property
    def certificate(self) -> str:
        """What the exported weights prove."""
        return f"{self.folder}/certificate.json"

    @property
    def marker(self) -> str:
        """Written last."""
        return f"{self.folder}/train.json"


@dataclass(frozen=True)
class Rows:
    """Rows of an evaluation: what was found, what it cost, and the marker that is written last."""

    stem: str

    @property
    def rows(self) -> str:
        """One row per document; repeats bit for bit."""
        return f"{self.stem}.jsonl"

    @property
    def cost(self) -> str:
        """Seconds per document, which do not repeat."""
        return f"{self.stem}.cost.jsonl"

    @property
    def marker(self) -> str:
        """Written last."""
        return f"{self.stem}.json"


@dataclass(frozen=True)
class Run(Trained):
    """One evaluated model: an arm or a control, from one seed."""

    arm: str
    seed: int | str

    @property
    def key(self) -> str:
        """How rows and reports call it: ``mlp_in/seed-42``."""
        return RUN.format(arm=self.arm, seed=self.seed)

    @property
    def calibration(self) -> str:
        """Its best temperature on validation text."""
        return f"{self.folder}/calibration.json"

    @property
    def perplexity(self) -> Rows:
        """Clean quality."""
        return Rows(f"{self.folder}/perplexity")

    @property
    def order(self) -> Rows:
        """Order preservation."""
        return Rows(f"{self.folder}/order")

    @property
    def generation(self) -> Rows:
        """What it wrote for the test documents (task: pairs)."""
        return Rows(f"{self.folder}/generation")

    def generation_after(self, attack: str) -> Rows:
        """What it wrote for attacked sources (task: pairs)."""
        return Rows(f"{self.folder}/generation_after/{attack}")

    def attack(self, name: str) -> Rows:
        """What one attack did to it."""
        return Rows(f"{self.folder}/attacks/{name}")


@dataclass(frozen=True)
class Layout:
    """The files of one study.

    Attributes:
        root: the study's folder, such as ``results/kjv``; every path begins with it.
    """

    root: str

    def at(self, path: str) -> str:
        """A path below the study's folder."""
        return f"{self.root}/{path}"

    # Before training

    @property
    def configuration(self) -> str:
        """The merged configuration: a record, never an input."""
        return self.at("config.yaml")

    @property
    def fetched(self) -> str:
        """Says that model and data set are in the cache."""
        return self.at("fetch.json")

    @property
    def documents(self) -> str:
        """Folder with one parquet file of documents for each split."""
        return self.at("data/documents")

    @property
    def corpus(self) -> str:
        """Marker of the documents."""
        return self.at("data/corpus.json")

    @property
    def setup(self) -> str:
        """Marker of the model in its own form."""
        return self.at("setup.json")

    def split(self, name: str) -> Split:
        """Tokens of a split."""
        return Split(self.at(f"data/{name}"))

    @property
    def attack_documents(self) -> str:
        """Folder of what every attack on every model shares."""
        return self.at("data/attack")

    @property
    def attack_texts(self) -> str:
        """The attacked documents and those that triggers are searched on."""
        return f"{self.attack_documents}/documents.jsonl"

    @property
    def attack_vocabulary(self) -> str:
        """The tokens that an attack may write."""
        return f"{self.attack_documents}/vocabulary.json"

    @property
    def attack_manifest(self) -> str:
        """Marker of the attack documents."""
        return f"{self.attack_documents}/manifest.json"

    # Models

    def initial(self, scratch: bool) -> str:
        """The model that setup makes: before pretraining where the study defines its own."""
        return self.at("init") if scratch else self.base

    @property
    def base(self) -> str:
        """The pretrained model."""
        return self.at("base")

    @property
    def pretraining(self) -> Trained:
        """Pretraining of a model that the study defines."""
        return Trained(self.at("pretrain"), self.base)

    def revision(self, label: str) -> str:
        """An earlier revision of the model, in the same form as the base."""
        return self.at(f"revisions/{label}")

    def start(self, arm: str) -> Trained:
        """The constrained and not yet trained model of an arm; it has no history and no marker."""
        return Trained(self.at(f"starts/{arm}"), self.at(f"starts/{arm}/model"))

    def run(self, arm: str, seed: int | str) -> Run:
        """One run."""
        folder = self.at("runs/" + RUN.format(arm=arm, seed=seed))
        return Run(folder, f"{folder}/model", arm, seed)

    def transfer(self, attack: str, arm: str, seed: int | str) -> Rows:
        """What all runs' attacks do to one run."""
        return Rows(self.at(f"transfer/{attack}/{arm}-seed-{seed}"))

    # The report

    @property
    def results(self) -> str:
        """Every number that was found."""
        return self.at("final_results.json")

    @property
    def summary(self) -> str:
        """The study for a terminal."""
        return self.at("experiment_summary.txt")

    @property
    def tables(self) -> str:
        """Folder of tables, CSV and LaTeX."""
        return self.at("tables")

    @property
    def figures(self) -> str:
        """Folder of figures, PDF and PNG."""
        return self.at("figures")

    @property
    def report(self) -> str:
        """The page."""
        return self.at("report.html")

    @property
    def halt(self) -> str:
        """While this file exists, no run of the study starts."""
        return self.at("HALT")

    def log(self, name: str) -> str:
        """The log of one step."""
        return self.at(f"logs/{name}.log")

    def timing(self, name: str) -> str:
        """What Snakemake measured of one step."""
        return self.at(f"timings/{name}.tsv")


def of_study(name: str) -> Layout:
    """The layout of a study by name."""
    return Layout(f"{RESULTS}/{name}")


def command_for(folder: Path | str, target: str = "") -> str:
    """What to type to make a study, or one file of it, as it was configured when it was last started.

    Args:
        folder: the study's folder.
        target: a file to make; empty: the whole study.
    """
    words = ["snakemake", target, "--profile profiles/local", f"--configfile {folder}/config.yaml"]
    return " ".join(word for word in words if word)


def state_root(study_folder: Path) -> Path:
    """Where the study's state folders are: ISOTONE_STATE, or ``state/`` beside the results."""
    chosen = os.environ.get("ISOTONE_STATE")
    return Path(chosen) if chosen else Path(study_folder) / "state"
