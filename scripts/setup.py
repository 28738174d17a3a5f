"""Bring model and tokenizer into one form, and prove that they work and read left to right."""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

from isotone import environment, errors


def _arithmetic(name: str) -> Any:
    import torch

    if name == "auto":
        name = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def _check_memory(model: Any) -> None:
    """Before a large model is loaded, if its size is known already."""
    import torch
    from isotone.planning.capacity import check_machine
    from isotone.planning.shape import shape_of

    try:
        shape = shape_of(model)
    except errors.ConfigurationError:
        return
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    check_machine(shape, [(gpu.name, gpu.total_memory) for gpu in found])


def _check_disk(folder: Path, needed: int) -> dict[str, int]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    room = environment.head_room(folder.parent)
    if room["disk_free"] < needed:
        raise errors.ConfigurationError(
            f"{folder.parent} has {room['disk_free'] / 1e9:.2f} GB free, but the model alone needs {needed / 1e9:.2f} GB. "
            "Free some space, or work on another disk."
        )
    return room


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--settings", required=True, help="JSON: model, base_seed, document_start, length, dtype, version"
    )
    parser.add_argument("--documents", type=Path, required=True, help="folder with train.parquet")
    parser.add_argument(
        "--longest", type=int, default=0, help="longest sequence that any later step feeds to the model"
    )
    parser.add_argument("--model", type=Path, required=True, help="folder to make: model and tokenizer")
    parser.add_argument("--marker", type=Path, required=True, help="what was found, written last")
    arguments = parser.parse_args()
    environment.prepare()

    from isotone.config.data import Setup
    from isotone.data.splits import facts_of, read_documents
    from isotone.models import load_tokenizer, save_model
    from isotone.models.origins import open_model
    from isotone.models.origins.causality import prove_causality
    from isotone.models.origins.facts import agreement_of, check_fit, check_splitter, forward_pass, model_facts
    from isotone.records import folder_digest, write_marker
    from isotone.schema import as_mapping, parse
    from isotone.tasks import task_of

    settings = parse(Setup, json.loads(arguments.settings), "setup.py --settings")
    start = time.monotonic()
    environment.deterministic(settings.base_seed)
    _check_memory(settings.model)
    train = arguments.documents / "train.parquet"
    model, tokenizer = open_model(settings.model, documents=train, seed=settings.base_seed)
    task_of(settings.task).check(model, tokenizer)
    check_fit(model, tokenizer, max(settings.length, arguments.longest))
    agreement = agreement_of(model, min(settings.length, 64))
    facts = model_facts(model, tokenizer) | {"logits_agree_to": agreement}
    room = _check_disk(arguments.model, 4 * facts["parameters"]["total"])
    facts["causality"] = prove_causality(model, min(settings.length, 512), _arithmetic(settings.dtype))
    facts["forward"] = forward_pass(model, tokenizer, next(read_documents(train))["text"], min(settings.length, 512))
    facts["test_text_seen_in_pretraining"] = "no" if settings.model.source == "scratch" else "possible"
    facts["versions"] = environment.versions()
    save_model(model, tokenizer, arguments.model)
    sample = [row["text"] for row in islice(read_documents(train), 16)]
    check_splitter(arguments.model, load_tokenizer(arguments.model), sample)
    write_marker(
        arguments.marker,
        "setup",
        settings=as_mapping(settings),
        inputs={"documents/train": facts_of(train)["fingerprint"]},
        outputs={"model": folder_digest(arguments.model)},
        result=facts,
        cost={"seconds": time.monotonic() - start, "devices": environment.devices(), **room},
    )


if __name__ == "__main__":
    errors.run(main)
