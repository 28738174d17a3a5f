"""Constrain a pretrained model: write the start of an arm and its certificate."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isotone import errors, records
from isotone.config.constraint import Init
from isotone.schema import parse


def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: constraint, length, version")
    parser.add_argument("--base", type=Path, required=True, help="folder of the pretrained model")
    parser.add_argument("--train", type=Path, required=True, help="folder of the tokenised training split")
    parser.add_argument("--model", type=Path, required=True, help="folder to write")
    parser.add_argument("--certificate", type=Path, required=True, help="certificate.json to write")
    options = parser.parse_args()
    settings = parse(Init, json.loads(options.settings), "--settings")

    from isotone.constraints import calibration_ids, certify, constrain
    from isotone.models import load_model, load_tokenizer, save_model

    ids_BT = calibration_ids(options.train, settings.constraint.calibration.tokens, settings.length)
    model = constrain(load_model(options.base), settings.constraint, ids_BT)
    save_model(model, load_tokenizer(options.base), options.model)
    # on the folder read back: what later stages load is what is certified
    certificate = certify(load_model(options.model), settings.constraint, ids_BT)
    records.write_json(options.certificate, certificate)
    print(f"start written: {certificate['verdict']}, vacuous: {certificate['vacuous']}")
    return None


if __name__ == "__main__":
    errors.run(main)
