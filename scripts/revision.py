"""Bring an earlier revision of a hub model into the form of the base model: a point of the control curve."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isotone import environment, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: the model, with the revision that is wanted")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model, whose tokenizer it shares")
    parser.add_argument("--model", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    environment.prepare()

    from isotone.config.data import Model
    from isotone.models import load_tokenizer, save_model
    from isotone.models.origins.hub import load_hub
    from isotone.records import read_json
    from isotone.schema import parse

    settings = parse(Model, json.loads(arguments.settings), "revision.py --settings")
    model, _ = load_hub(settings)
    ours, theirs = read_json(arguments.base / "config.json"), model.config.to_dict()
    for key in ("model_type", "vocab_size"):
        if ours.get(key) != theirs.get(key):
            raise errors.ConfigurationError(
                f'controls.revisions has "{settings.revision}", whose {key} is {theirs.get(key)}, but the model\'s is {ours.get(key)}. '
                "A curve of controls is made of one model's own pretraining; take this revision out."
            )
    save_model(model, load_tokenizer(arguments.base), arguments.model)


if __name__ == "__main__":
    errors.run(main)
