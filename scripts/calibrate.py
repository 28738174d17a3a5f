"""Find the temperature at which each model predicts validation text best: attacks report damage with and without it."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from isotone import environment, errors
from isotone.schema import as_mapping, parse, setting


@dataclass(frozen=True)
class Settings:
    """What changes a temperature."""

    length: int = setting(256, "tokens per validation block", minimum=8)
    blocks: int = setting(64, "validation blocks on which the loss is least", minimum=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: {length, blocks}")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="model folders")
    parser.add_argument("--validation", type=Path, required=True, help="folder of the tokenised validation split")
    parser.add_argument(
        "--markers", type=Path, nargs="+", required=True, help="calibration.json to write, one per model"
    )
    options = parser.parse_args()
    if len(options.models) != len(options.markers):
        raise errors.ConfigurationError(
            f"--models has {len(options.models)} entries, --markers {len(options.markers)}. Give one marker per model."
        )
    environment.prepare()
    settings = parse(Settings, json.loads(options.settings), "--settings")

    import torch
    from isotone.constraints.capture import calibration_blocks
    from isotone.controls.temperature import best_temperature
    from isotone.models import load_model
    from isotone.records import file_digest, folder_digest, write_marker

    environment.deterministic(seed=0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blocks = calibration_blocks(options.validation, settings.blocks * settings.length, settings.length)
    for folder, marker in zip(options.models, options.markers, strict=True):
        found = best_temperature(load_model(folder, device=device), *blocks)
        write_marker(
            marker,
            "calibrate",
            settings=as_mapping(settings),
            inputs={
                "model": folder_digest(folder, "*.safetensors"),
                "validation": file_digest(options.validation / "data.json"),
            },
            outputs={},
            result=found,
        )
        print(f"{folder}: temperature {found['temperature']:.4f}", flush=True)
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
