# Needs: all rules. Makes: the list of what a study has to have; no rules.

from snakemake.io import is_flagged

LAST = [LAYOUT.results, LAYOUT.summary, LAYOUT.tables, LAYOUT.figures, LAYOUT.report]


def steps():
    """The declared outputs of every step of this study, step by step: each is found by its marker."""
    markers = [path for paths in everything().values() for path in paths]
    found = {}
    for path in [*FETCHED, *markers, *LAST]:
        for rule in workflow.rules:
            if rule.is_producer(path):
                wildcards = rule.get_wildcards(path)
                outputs = tuple(
                    str(output.apply_wildcards(wildcards))
                    for output in rule.output
                    if not is_flagged(output, "temp")
                )
                found[outputs] = rule.name
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
