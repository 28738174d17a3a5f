"""Which run is this? Its inputs, the digest of them, and the state folder of that name.

Torch is never imported here: a refused run must stop within a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotone.config.training import HOW, TrainJob
from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import Json, digest_of, file_digest, read_json, write_json
from isotone.schema import as_mapping


def _cached_digest(path: Path, cache: Json) -> str:
    """SHA-256 of a file; hashed again only if size or time of change differ."""
    status = path.stat()
    key = f"{path.name} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    if key not in cache:
        cache[key] = file_digest(path)
    return str(cache[key])


def model_digest(folder: Path, cache: Json | None = None) -> str:
    """SHA-256 over the files of a model folder that training depends on: weights, configuration.

    Raises:
        ConfigurationError: if there are no safetensors.
    """
    files = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("config.json")]
    if not any(path.suffix == ".safetensors" for path in files):
        raise ConfigurationError(
            f"{folder} has no *.safetensors, so it is not a model. Make it again, or correct the path."
        )
    cache = {} if cache is None else cache
    return digest_of([[path.name, _cached_digest(path, cache)] for path in sorted(files)])


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of the tokenizer beside a model; empty if there is none."""
    path = Path(folder) / "tokenizer.json"
    return file_digest(path) if path.exists() else ""


@dataclass(frozen=True)
class Identity:
    """Everything that the result of a run depends on."""

    settings: Json
    start: str
    tokenizer: str
    train: str
    validation: str
    teacher: str

    @property
    def digest(self) -> str:
        """SHA-256 that names the state folder."""
        return digest_of(as_mapping(self))

    def differences(self, other: Mapping[str, Any]) -> dict[str, str]:
        """What a checkpoint was made with and what this run has: the name of each difference, and words on it."""
        found: dict[str, str] = {}
        _compare("settings", other.get("settings", {}), self.settings, found)
        names = {
            "start": "the start weights",
            "tokenizer": "the tokenizer",
            "train": "the training data",
            "validation": "the validation data",
            "teacher": "the teacher",
        }
        for key, words in names.items():
            if other.get(key, "") != getattr(self, key):
                found[key] = (
                    f"{words} ({str(other.get(key, ''))[:12] or 'none'} then, {getattr(self, key)[:12] or 'none'} now)"
                )
        return found

    def changes(self, other: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Words on what differs and changes only how a step is computed, and on what changes the result."""
        found = self.differences(other)
        how = {f"settings.training.{key}" for key in HOW}
        return [found[key] for key in found if key in how], [found[key] for key in found if key not in how]

    def refuse(self, differences: list[str], folder: Path) -> None:
        """Never resume a checkpoint of another run.

        Raises:
            ConfigurationError: if there are differences.
        """
        if differences:
            raise ConfigurationError(
                f"The checkpoint in {folder} was made by another run: it differs in {'; '.join(differences)}. "
                "Restore the settings and inputs it was made with, or move the folder away to begin again."
            )


def _compare(path: str, then: Any, now: Any, found: dict[str, str]) -> None:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in sorted({*then, *now}):
            _compare(f"{path}.{key}", then.get(key), now.get(key), found)
    elif then != now:
        found[path] = f"{path} ({then!r} then, {now!r} now)"


def _fingerprint(folder: Path) -> str:
    return str(read_json(Path(folder) / "data.json")["fingerprint"])


def identify(job: TrainJob, start: Path, train: Path, validation: Path, teacher: Path | None, root: Path) -> Identity:
    """Digest a run's inputs; large weights are hashed once (``digests.json`` beside the state folders).

    Raises:
        InputOutputError, ConfigurationError: if an input is missing.
    """
    if job.training.distillation.alpha > 0 and teacher is None:
        raise ConfigurationError("training.distillation.alpha is above 0, but there is no --teacher. Name its folder.")
    root.mkdir(parents=True, exist_ok=True)
    store = root / "digests.json"
    try:
        cache = read_json(store) if store.exists() else {}
    except InputOutputError:
        cache = {}
    known = len(cache)
    identity = Identity(
        settings=as_mapping(job),
        start=model_digest(start, cache),
        tokenizer=tokenizer_digest(start),
        train=_fingerprint(train),
        validation=_fingerprint(validation),
        teacher=model_digest(teacher, cache) if teacher and job.training.distillation.alpha > 0 else "",
    )
    if len(cache) > known:
        write_json(store, cache)
    return identity
