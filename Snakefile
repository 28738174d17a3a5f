"""Isotone: does monotonicity make a language model harder to attack, and what does it cost?

    snakemake --profile profiles/local                                   the embedded study
    snakemake --profile profiles/slurm --configfile config/pythia-1.4b.yaml
    snakemake -n                                                         the plan

One configuration file is one study; without --configfile it is config/config.yaml.
"""

from snakemake.utils import min_version

min_version("9.20")

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"


# Only with --sdm apptainer; built from envs/isotone.def, or the image that ISOTONE_CONTAINER names.
container: os.environ.get("ISOTONE_CONTAINER", "envs/isotone.sif")


wildcard_constraints:
    study=study.study,
    arm=r"[a-z][a-z0-9_]*(~[a-z]+(-[A-Za-z0-9._-]+)?)?",
    seed=r"\d+",
    split="|".join(SPLITS),
    kind=r"[a-z]+",


localrules:
    all,
    setup_all,
    train_all,
    attack_all,


rule all:
    input:
        lambda wildcards: [*LAST, *lost()],


include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/attack.smk"
include: "rules/report.smk"


rule setup_all:
    input:
        in_study("setup.json"),
        collect(in_study("data/{split}/data.json"), split=SPLITS),


rule train_all:
    input:
        [in_study(f"runs/{arm}/seed-{seed}/train.json") for arm, seed in study.runs()],


rule attack_all:
    input:
        attack_markers(),


onstart:
    save_configuration()


onsuccess:
    tell_user("success")


onerror:
    tell_user("failure")
