"""Replay the substitutions or triggers of all runs on some of them; may be killed and started again."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.attacks.registry import SPECS
from isotone.attacks.settings import AttackJob
from isotone.schema import parse


def run_name(model: Path) -> str:
    """``mlp_in/seed-42`` for the model folder of that run."""
    return "/".join(model.resolve().parts[-3:-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attack", required=True, choices=list(SPECS), help="whose rows are replayed")
    parser.add_argument("--settings", required=True, help="JSON, as for attack.py")
    parser.add_argument(
        "--targets",
        type=Path,
        nargs="+",
        required=True,
        help="model folders, named by the two folders above (arm/seed-1)",
    )
    parser.add_argument("--documents", type=Path, required=True, help="folder of attack_documents.py")
    parser.add_argument("--sources", type=Path, nargs="+", required=True, help="row files of attack.py")
    parser.add_argument("--source-names", nargs="+", required=True, help="one per row file")
    parser.add_argument(
        "--source-models",
        type=Path,
        nargs="*",
        default=[],
        help="model folders of those sources whose gradients propose flips too, named by the two folders above",
    )
    parser.add_argument(
        "--rows", type=Path, nargs="+", required=True, help="JSON Lines, schema transfer/1, one per target"
    )
    parser.add_argument("--cost", type=Path, nargs="+", required=True, help="seconds, JSON Lines, one per target")
    parser.add_argument("--markers", type=Path, nargs="+", required=True, help="written last, JSON, one per target")
    options = parser.parse_args()
    environment.prepare()
    job = parse(AttackJob, json.loads(options.settings), "--settings")
    if len(options.sources) != len(options.source_names):
        raise errors.ConfigurationError(
            f"--sources has {len(options.sources)} files and --source-names {len(options.source_names)} names. "
            "Give one of each per source."
        )
    if not len(options.targets) == len(options.rows) == len(options.cost) == len(options.markers):
        raise errors.ConfigurationError(
            f"--targets has {len(options.targets)} models, --rows {len(options.rows)} files, --cost {len(options.cost)} and "
            f"--markers {len(options.markers)}. Give one of each per target."
        )
    models = {run_name(folder): folder for folder in options.source_models}
    unknown = sorted(set(models) - set(options.source_names))
    if unknown:
        raise errors.ConfigurationError(
            f"--source-models has {models[unknown[0]]}, which is the model of {unknown[0]}; --source-names has no such source."
        )
    if models and not SPECS[options.attack].guided:
        raise errors.ConfigurationError(
            f"--source-models: {options.attack} has no gradients that another model could give."
        )

    from isotone.attacks.transfer import transfer

    environment.deterministic(seed=0)  # random streams carry keys of their own; sums depend on the thread count
    sources = [
        (source, path, models.get(source)) for source, path in zip(options.source_names, options.sources, strict=True)
    ]
    for target, *results in zip(options.targets, options.rows, options.cost, options.markers, strict=True):
        transfer(options.attack, job, (run_name(target), target), options.documents, sources, *results)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
