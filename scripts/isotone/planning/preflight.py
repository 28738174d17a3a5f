"""What can be known to fail before any job starts; light enough for `snakemake -n`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from isotone.config.data import user_path
from isotone.errors import ConfigurationError
from isotone.models.families import FAMILIES, family_of_config
from isotone.models.family import Family, context_of
from isotone.models.files import LAYER_KEYS, check_files
from isotone.studies.study import Study

SMALLEST_DISK = 200 * 2**20


def _model_facts(study: Study) -> tuple[Family | None, int, int]:
    """Architecture family, context length and layers; (None, 0, 0) where only a download can tell."""
    model = study.model
    if model.source == "scratch":
        shape = model.architecture
        if shape.family == "t5":  # its positions are relative: no length is too long
            return FAMILIES["t5" if shape.activation == "relu" else "t5_gated"], 0, 2 * shape.layers
        return FAMILIES[shape.family], shape.context, shape.layers
    if model.source == "local":
        config = check_files(user_path(model.path))
        family = family_of_config(config)
        layers = next((config[key] for key in LAYER_KEYS if key in config), 0)
        if family and family.encodes:
            layers += config.get("num_decoder_layers") or layers
        return family, context_of(config), layers
    if model.source == "gguf" and not model.path.startswith("package:") and not user_path(model.path).is_file():
        raise ConfigurationError(f'model.path is "{model.path}", which does not exist. Give a .gguf file.')
    return None, 0, 0


def _check_lengths(study: Study, context: int) -> None:
    for key, length in study.sequences().items():
        if context and length > context:
            raise ConfigurationError(
                f"{key} gives sequences of {length} tokens, but the model's context is {context} tokens. Lower it, or take a "
                "model with a longer context."
            )


def _check_scopes(study: Study, family: Family | None, layers: int) -> None:
    if family is None:  # setup loads the model and says what it looks like
        return
    known = family.scopes
    for name, arm in study.arms.items():
        scope = arm.constraint.scope
        if scope not in ("none", *known):
            raise ConfigurationError(
                f'arms.{name}.constraint.scope is "{scope}", which matches nothing in this model '
                f"({family.name}, {family.kind}). It knows: {', '.join(known)}. See docs/constraints.md."
            )
        absent = [layer for layer in arm.constraint.layers if layers and layer >= layers]
        if absent:
            raise ConfigurationError(
                f"arms.{name}.constraint.layers names {', '.join(map(str, absent))}, but the model's layers are 0 to "
                f"{layers - 1}. List some of these, or nothing for all."
            )


def _check_task(study: Study, family: Family | None) -> None:
    if family is None:
        return
    if family.encodes != (study.data.task == "pairs"):
        has, fitting = ("an", "pairs") if family.encodes else ("no", "text")
        raise ConfigurationError(
            f"this model ({family.name}) has {has} encoder, but data.task is {study.data.task}. Set data.task: {fitting}, or take "
            "another model."
        )
    for name, arm in study.arms.items():
        if family.encodes and arm.constraint.init == "lift":
            raise ConfigurationError(
                f"arms.{name}.constraint.init is lift, which needs norms that subtract the mean, and those of {family.name} do not "
                "(RMSNorm). Choose abs, relu or nnls."
            )


def _check_data(study: Study) -> None:
    data = study.data
    if data.source == "local" and not user_path(data.path).exists():
        raise ConfigurationError(f'data.path is "{data.path}", which does not exist. Give a file or a folder of text.')
    shares = vars(data.splits)
    for name, share in shares.items():
        if share == 0:
            raise ConfigurationError(
                f"data.splits.{name} is 0, so that split would hold no documents. Give it a share above 0."
            )


def _check_disk(study: Study) -> None:
    folder = Path("results") / study.study
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigurationError(
            f"{folder} cannot be written: {nearest} is not a folder that you may write to. Change its permissions, or work elsewhere."
        )
    free = shutil.disk_usage(nearest).free
    if free < SMALLEST_DISK:
        raise ConfigurationError(
            f"{folder} lies on a disk with {free / 2**20:.0f} MiB free; a study needs at least {SMALLEST_DISK / 2**20:.0f} MiB. Free some space."
        )


def check_study(study: Study, where: str) -> None:
    """Refuse a study that cannot work, as far as that can be known without a job.

    Args:
        where: the configuration files, for the message.

    Raises:
        ConfigurationError: one paragraph.
    """
    try:
        family, context, layers = _model_facts(study)
        _check_task(study, family)
        _check_lengths(study, context)
        _check_scopes(study, family, layers)
        _check_data(study)
        _check_disk(study)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
