"""Replay the substitutions or triggers of all runs on one of them; may be killed and started again."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.config.evaluation import ATTACKS, AttackJob
from isotone.config.schema import parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", required=True, choices=ATTACKS, help="whose rows are replayed")
    parser.add_argument("--settings", required=True, help="JSON, as for attack.py")
    parser.add_argument("--target", type=Path, required=True, help="model folder of the target")
    parser.add_argument("--target-name", default="", help="default: the last two folders above the model")
    parser.add_argument("--documents", type=Path, required=True, help="folder of attack_documents.py")
    parser.add_argument("--sources", type=Path, nargs="+", required=True, help="row files of attack.py")
    parser.add_argument("--source-names", nargs="+", required=True, help="one per row file")
    parser.add_argument("--source-models", type=Path, nargs="*", help="model folders, for crossed gradients (hotflip)")
    parser.add_argument("--rows", type=Path, required=True, help="result, JSON Lines, schema transfer/1")
    parser.add_argument("--cost", type=Path, required=True, help="seconds, JSON Lines")
    parser.add_argument("--marker", type=Path, required=True, help="written last, JSON")
    options = parser.parse_args()
    environment.prepare()
    job = parse(AttackJob, json.loads(options.settings), "--settings")
    folders = options.source_models or [None] * len(options.sources)
    if not len(options.sources) == len(options.source_names) == len(folders):
        raise errors.ConfigurationError(
            f"--sources has {len(options.sources)} files, --source-names {len(options.source_names)} names and "
            f"--source-models {len(folders)} folders. Give one of each per source."
        )
    name = options.target_name or "/".join(options.target.resolve().parts[-3:-1])

    from isotone.attacks.transfer import transfer

    environment.deterministic(seed=0)  # random streams carry keys of their own; sums depend on the thread count
    sources = list(zip(options.source_names, options.sources, folders, strict=True))
    target = (name, options.target)
    transfer(options.attack, job, target, options.documents, sources, options.rows, options.cost, options.marker)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
