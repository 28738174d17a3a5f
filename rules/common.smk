# Needs: the merged configuration `config`. Makes: `study` and functions; no rules.

import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import yaml
from snakemake.io import is_flagged

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from isotone.attacks.registry import SPECS
from isotone.cluster import executor, local, plan
from isotone.config.constraint import Init
from isotone.config.data import SPLITS, Corpus, Setup, Tokens
from isotone.studies.reading import read_mapping, refuse_target
from isotone.schema import as_mapping
from isotone.studies.study import read_study
from isotone.errors import ConfigurationError
from isotone.layout import Layout, of_study
from isotone.planning.preflight import check_study
from isotone.provenance import code_digest
from isotone.records import canonical_json

if workflow.is_main_process:
    # Faults of Snakemake and its executors; without the Slurm executor the first does nothing.
    executor.mend()
    local.mend_local()
    plan.mend_plan()


def checked_study():
    """The study of this configuration; a wrong one ends the main process with 78."""
    where = ", ".join(str(path) for path in workflow.configfiles) or "--config"
    try:
        if workflow.is_main_process:
            for path in workflow.configfiles:
                refuse_target(path)
                read_mapping(path)  # Snakemake keeps the last of a key given twice
        study = read_study(config, where)
        if workflow.is_main_process:
            check_study(study, where)
        return study
    except ConfigurationError as error:
        if not workflow.is_main_process:
            raise
        print(error, file=sys.stderr)
        sys.exit(ConfigurationError.code)


study = checked_study()
LAYOUT = of_study(study.study)
FILES = Layout("results/{study}")  # the same, as patterns of rules

os.environ.update(
    {
        # Rule shells may find another Python than this one.
        "PATH": os.pathsep.join(
            [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
        ),
        # Before Python starts, or it has no effect.
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        # How a run is operated changes no result, so it is no parameter of a rule.
        "ISOTONE_OPERATION": canonical_json(as_mapping(study.operation)),
        # What messages advise is typed as it stands.
        "ISOTONE_CONFIGFILE": shlex.join(str(path) for path in workflow.configfiles)
        or "config/config.yaml",
        # Only rule fetch uses the network, and only if the user lets it.
        "ISOTONE_HUB_OFFLINE": os.environ.get(
            "ISOTONE_HUB_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0")
        ),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
)


def in_study(path):
    """A path below the results of this study."""
    return LAYOUT.at(path)


def save_configuration():
    """Keep the merged configuration beside the results: a record, never an input."""
    from isotone.records import whole_file

    with whole_file(Path(LAYOUT.configuration)) as file:
        yaml.safe_dump(as_mapping(study), file, sort_keys=False)


def tell_user(status):
    """Run the user's own command at the end, if there is one."""
    from isotone.reporting.notify import notify

    notify(study.operation.notify, status, study.study, Path(in_study("")))


def settings(**parts):
    """Canonical JSON for a program's --settings; exactly what changes its result."""
    plain = {
        key: as_mapping(value) if hasattr(value, "__dataclass_fields__") else value
        for key, value in parts.items()
    }
    return as_param(plain)


def as_param(plain):
    """Canonical JSON as a parameter: `{word}` in a user's text is spelt so that Snakemake does not expand it."""
    return re.sub(r"\{(?=\s*\w)", r"\\u007b", canonical_json(plain))


def tokens_settings(wildcards):
    """How a split is tokenised; the test split also says what perplexity will need of it."""
    scored = study.perplexity if wildcards.split == "test" else None
    return settings(
        document_start=study.data.document_start,
        score=study.data.score,
        needs=(
            scored.needs(study.data.document_start)
            if scored and study.data.task == "text"
            else {}
        ),
        scored=scored.documents if scored else 0,
        version=Tokens.version,
        **({"pairs": study.data.pairs} if study.data.task == "pairs" else {}),
    )


def texts_that_fit():
    """Before anything is trained: test and attack documents are long enough. They change no training."""
    return ancient(
        [in_study("data/test/data.json"), in_study("data/attack/manifest.json")]
    )


def train_settings(wildcards):
    """The job of one trained run."""
    return as_param(as_mapping(study.train_job(wildcards.arm, int(wildcards.seed))))


def consumed(path):
    """An output that may go once every job that reads it is done, if the user wants the room."""
    return path if study.operation.keep_starts else temp(path)


def study_settings():
    """The whole study as the report needs it: all that is result, nothing that is operation."""
    plain = as_mapping(study)
    del plain["operation"]
    return as_param(plain)


def train_threads(wildcards):
    """CPU threads of one run (a setting, since the bits depend on it)."""
    return study.training_of(wildcards.arm).threads


def arms_like(constrained):
    """A pattern of the arms with, or without, a constraint; one that never matches if there are none."""
    names = [
        arm for arm in study.arms if (arm in study.constrained_arms()) == constrained
    ]
    return "|".join(names) or "(?!)"


def attack_markers():
    """The marker of every attack on every run."""
    return [
        LAYOUT.run(arm, seed).attack(attack).marker
        for arm, seed in study.runs()
        for attack in study.attacks_of(arm)
    ]


def run_files():
    """All that the aggregate reads of the runs, from the configuration and not from the disk."""
    found = []
    for run in (LAYOUT.run(arm, seed) for arm, seed in study.runs()):
        found += [run.marker, run.certificate, run.history, run.perplexity.marker]
        if study.writes:
            found.append(run.generation.marker)
            found += [
                run.generation_after(attack).marker
                for attack in study.written_after(run.arm)
            ]
        if study.order_preservation.run:
            found.append(run.order.marker)
    return found


def transfer_markers():
    """The marker of every transfer attack on every target run."""
    return [
        LAYOUT.transfer(attack, arm, seed).marker
        for attack in study.attacks.transfer
        for arm in study.arms
        for seed in study.seeds_of(arm)
    ]


EACH_RUN = FILES.run("{arm}", "{seed}")


def trained_runs():
    """All trained runs, arm by arm."""
    return [FILES.run(arm, seed) for arm in study.arms for seed in study.seeds_of(arm)]


def members_of(spec):
    """The attacks whose rows an attack is made of; none for one that searches."""
    return spec.combines(study.attacks.of(spec.name))


def groups_of(runs):
    """Which runs share a job, by name; one group without a name where each run has a job of its own."""
    if study.operation.attack_jobs == "run":
        return {"": [EACH_RUN]}
    groups = {}
    for run in runs:
        groups.setdefault(study.shared_job(run.arm, run.seed), []).append(run)
    return groups


def attack_groups(attack):
    """The runs that an attack attacks."""
    return groups_of(
        FILES.run(arm, seed)
        for arm, seed in study.runs()
        if attack in study.attacks_of(arm)
    )


def evaluation_groups():
    """Every run has a best temperature and a clean quality."""
    return groups_of(FILES.run(arm, seed) for arm, seed in study.runs())


def transfer_groups():
    """The targets of replays."""
    return groups_of(trained_runs())


def replays(run):
    """The rows of all replays on one target."""
    return FILES.transfer("{attack}", run.arm, run.seed)


def crossed_models(run, wildcards):
    """The model whose gradients propose flips on the others, to see whether theirs are masked: the baseline's."""
    if not (SPECS[wildcards.attack].guided and study.attacks.shared.crossed):
        return []
    baseline = study.report.baseline
    seed = int(str(run.seed).format(**dict(wildcards.items())))
    own = seed if seed in study.seeds_of(baseline) else study.seeds[0]
    return [LAYOUT.run(baseline, own).model]


def attack_settings(attack, run=None):
    """A params function: shared documents, the attack's own settings, and those of attacks whose budget it matches.

    The fresh starts of the gate run on the first seed of each arm only, and on no control.
    """

    def of(wildcards):
        key = run.key.format(**dict(wildcards.items())) if run else ""
        gated = key.endswith(f"seed-{study.seeds[0]}") and "~" not in key
        shared = (
            study.attacks.shared
            if gated
            else replace(study.attacks.shared, fresh_starts=0)
        )
        return settings(
            shared=shared,
            document_start=study.data.document_start,
            **{name: study.attacks.of(name) for name in (attack, *SPECS[attack].reads)},
        )

    return of


def everything():
    """All that the report rests on, from the configuration and not from the disk."""
    pretraining = LAYOUT.pretraining
    scratch = study.model.source == "scratch"
    return {
        "setup": [
            LAYOUT.setup,
            LAYOUT.corpus,
            LAYOUT.attack_manifest,
            *([pretraining.marker, pretraining.history] if scratch else []),
        ],
        "data": [LAYOUT.split(split).marker for split in SPLITS],
        "starts": [LAYOUT.start(arm).certificate for arm in study.arms],
        "runs": run_files(),
        "calibrations": [
            LAYOUT.run(arm, seed).calibration for arm, seed in study.runs()
        ],
        "attacks": attack_markers(),
        "transfers": transfer_markers(),
    }


def suffix(group):
    """How a group of runs ends the name of its rule."""
    return f"_{group}" if group else ""


# What a study has to have, and what it has lost


LAST = [LAYOUT.results, LAYOUT.summary, LAYOUT.tables, LAYOUT.figures, LAYOUT.report]


def steps():
    """The declared outputs of every step of this study, step by step: each is found by its marker."""
    markers = [path for paths in everything().values() for path in paths]
    found = {}
    for path in [*FETCHED, *markers, *LAST]:
        for maker in workflow.rules:
            if maker.is_producer(path):
                wildcards = maker.get_wildcards(path)
                outputs = tuple(
                    str(output.apply_wildcards(wildcards))
                    for output in maker.output
                    if not is_flagged(output, "temp")
                )
                found[outputs] = maker.name
    return found


def lost():
    """What a finished step has lost, and what a finished study has lost.

    Snakemake makes a file in the middle again only if a target names it. To name every file
    would make each plan hundreds of lines long, so only those are named that are missing.
    """
    finished = Path(LAYOUT.report).exists()
    found = []
    for outputs in steps():
        missing = [path for path in outputs if not Path(path).exists()]
        if finished or len(missing) < len(outputs):
            found += missing
    return found
