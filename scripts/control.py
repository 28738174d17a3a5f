"""Make a control: the reference model with the clean loss of a constrained arm. Same files as training leaves."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isotone import environment, errors, records
from isotone.config.constraint import Constraint
from isotone.schema import as_mapping, parse, section, setting

if TYPE_CHECKING:
    from isotone.data.batch import Batch
    from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """What changes a control."""

    kind: str = setting("tempered", "which control", enum=["tempered", "noised", "early"])
    constraint: Constraint = section(Constraint, "the constraint of the arm whose loss is matched")
    tolerance: float = setting(1e-3, "nats per token", exclusiveMinimum=0)
    seed: int = setting(0, "noise of kind noised")
    document_start: str = setting("bos", "token in front of every attacked document", enum=["bos", "eos", "none"])
    length: int = setting(256, "tokens per validation block", minimum=8)
    blocks: int = setting(64, "validation blocks on which losses are matched", minimum=1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: kind, constraint, tolerance, seed, length, blocks")
    parser.add_argument(
        "--reference", type=Path, required=True, help="model folder of the unconstrained run; early: of the checkpoint"
    )
    parser.add_argument("--arm", type=Path, help="model folder of the constrained run; early: none")
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer; the unconstrained run's if left out")
    parser.add_argument("--validation", type=Path, required=True, help="folder of the tokenised validation split")
    parser.add_argument("--documents", type=Path, help="folder of the attacked documents, on which the loss is matched")
    parser.add_argument("--model", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--history", type=Path, required=True, help="history.csv to write (one row: nothing is trained)"
    )
    parser.add_argument("--certificate", type=Path, required=True, help="certificate.json to write")
    parser.add_argument("--marker", type=Path, required=True, help="train.json to write, last")
    return parser.parse_args()


def attacked(folder: Path, prefix: int | None) -> tuple[Tensor | Batch, Tensor]:
    """The unchanged attacked documents as (inputs, targets_BT), padded behind; -100 is not scored."""
    import torch
    from isotone.attacks.documents import read_manifest
    from isotone.data.pairs import padded

    manifest = read_manifest(folder)
    if manifest.eos is not None:
        ends = [int((document.ids == manifest.eos).argmax()) + 1 for document in manifest.test]
        split = [(document.ids[:end], document.ids[end:]) for document, end in zip(manifest.test, ends, strict=True)]
        batch = padded(split, manifest.start)
        return batch, batch.targets_BT
    texts = [torch.from_numpy(document.ids) for document in manifest.test]
    if prefix is None:
        pairs = [(ids[:-1], ids[1:]) for ids in texts]
    else:
        pairs = [(torch.cat([ids.new_tensor([prefix]), ids[:-1]]), ids) for ids in texts]
    pad = torch.nn.utils.rnn.pad_sequence
    inputs, targets = zip(*pairs, strict=True)
    return pad(list(inputs), batch_first=True), pad(list(targets), batch_first=True, padding_value=-100)


def main() -> int | None:
    options = arguments()
    settings = parse(Settings, json.loads(options.settings), "--settings")
    if (options.arm is None) != (settings.kind == "early"):
        raise errors.ConfigurationError(
            f"{settings.kind}: --arm names the run whose loss a control matches; a checkpoint (early) matches none."
        )
    environment.prepare()

    import torch
    from isotone.constraints import calibration_ids, certify
    from isotone.constraints.capture import calibration_blocks
    from isotone.controls.make import make_control, mean_nll
    from isotone.models import load_model, load_tokenizer, prefix_token, save_model

    environment.deterministic(settings.seed)  # sums depend on the thread count, the solved temperature on sums
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blocks = calibration_blocks(options.validation, settings.blocks * settings.length, settings.length)
    tokenizer = load_tokenizer(options.tokenizer or options.reference)
    by_text = options.documents is not None
    reference = load_model(options.reference, device=device)
    paired = reference.config.is_encoder_decoder
    prefix = None if paired else prefix_token(tokenizer, settings.document_start)
    texts = attacked(options.documents, prefix) if by_text else blocks
    arm = load_model(options.arm, device=device) if options.arm else reference
    target = mean_nll(arm, *texts, by_text=by_text)
    del arm
    control = make_control(
        settings.kind,
        reference,
        target,
        *texts,
        tolerance=settings.tolerance,
        seed=settings.seed,
        by_text=by_text,
    )
    save_model(control.model, tokenizer, options.model)
    exported = load_model(options.model, device=device)
    report = control.report() | {
        "matched_on": "attacked" if by_text else "validation",
        "exported_nats_per_token": mean_nll(exported, *texts, by_text=by_text),
    }
    validation = mean_nll(exported, *blocks)
    ids_BT = calibration_ids(options.validation, Constraint().calibration.tokens, settings.length).to(device)
    certificate = certify(exported, Constraint(), ids_BT, stage="exported")
    records.write_json(options.certificate, certificate)
    with records.whole_file(options.history) as file:
        file.write(f"step,epoch,tokens,loss,validation_loss,learning_rate\n0,0,0,,{validation!r},0\n")
    weights = records.folder_digest(options.model, "*.safetensors")
    records.write_marker(
        options.marker,
        "control",
        settings=as_mapping(settings),
        inputs={
            "reference": records.folder_digest(options.reference, "*.safetensors"),
            **({"arm": records.folder_digest(options.arm, "*.safetensors")} if options.arm else {}),
            "validation": records.file_digest(options.validation / "data.json"),
            **({"documents": records.file_digest(options.documents / "manifest.json")} if by_text else {}),
        },
        outputs={"model": weights},
        result={
            "steps": 0,
            "epochs": 0,
            "tokens": 0,
            "start_loss": validation,
            "final_loss": validation,
            "best": {"step": 0, "loss": validation},
            "weights_sha256": weights,
            "bitwise": True,
            "certificate": certificate["verdict"],
            "moved_share": None,
            "control": report,
        },
    )
    words = f"{control.setting}" if control.found else control.reason
    print(
        f"{settings.kind}: {words}; target {control.target_nll:.4f}, reached {control.reached_nll:.4f} nats per token"
    )
    return None


if __name__ == "__main__":
    errors.run(main)
