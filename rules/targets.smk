# Needs: all rules. Makes: the list of what a study has to have; no rules.

import itertools

from snakemake.exceptions import WorkflowError

LAST = [LAYOUT.results, LAYOUT.summary, LAYOUT.tables, LAYOUT.figures, LAYOUT.report]


def steps_of(rule):
    """The outputs of each step of this study that a rule makes, step by step."""
    pairs = study.runs()
    choices = {
        "study": [{"study": study.study}],
        "split": [{"split": split} for split in SPLITS],
        "attack": [{"attack": attack} for attack in SPECS],
        "kind": [{"kind": kind} for kind in study.controls.kinds],
        "seed": [{"arm": arm, "seed": seed} for arm, seed in pairs],
        "arm": [{"arm": arm} for arm in study.arms],
    }
    wanted = set(rule.wildcard_names)
    if unknown := wanted - set(choices):
        raise WorkflowError(
            f"rules/targets.smk does not know the wildcard {', '.join(sorted(unknown))} of rule {rule.name}."
        )
    if "seed" in wanted:
        wanted.discard("arm")
    for parts in itertools.product(*(choices[name] for name in sorted(wanted))):
        values = {key: value for part in parts for key, value in part.items()}
        outputs = [str(output.apply_wildcards(values)) for output in rule.output]
        if outputs and rule.is_producer(outputs[0]):
            yield outputs


def lost():
    """What a finished step has lost, and markers that a finished study has lost.

    Snakemake makes a file in the middle again only if a target names it. To name every file
    would make each plan hundreds of lines long, so only those are named that are missing.
    """
    markers = set(itertools.chain.from_iterable(everything().values()))
    finished = Path(LAYOUT.report).exists()
    found = []
    for rule in workflow.rules:
        for outputs in steps_of(rule):
            missing = [path for path in outputs if not Path(path).exists()]
            begun = len(missing) < len(outputs)
            if missing and (begun or (finished and markers & set(outputs))):
                found += missing
    return list(dict.fromkeys(found))
