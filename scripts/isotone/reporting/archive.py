"""Everything that the report rests on in one file, without weights; and the report again from it."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from isotone.errors import ConfigurationError, InputOutputError
from isotone.records import Json, canonical_json, file_digest, read_json, whole_file
from isotone.reporting import final_results as final
from isotone.reporting.evidence.expected import all_runs, expected_files
from isotone.schema import as_mapping
from isotone.studies.study import Study, read_study

MANIFEST = "manifest.json"
EXTRA = ["setup.json", "config.yaml", "experiment_summary.txt", "final_results.json", "report.html"]
PATTERNS = [
    "data/*/data.json",
    "data/attack/*.json*",
    "data/corpus.json",
    "starts/*/certificate.json",
    "transfer/*/*.json*",
]
PATTERNS += ["state/*/events.jsonl", "state/*/heartbeat.json", "figures/*", "tables/**/*", "runs/*/*/MODEL_CARD.md"]


def _members(study: Study, folder: Path) -> Iterator[str]:
    names = set(expected_files(study)) | {name for name in EXTRA if (folder / name).is_file()}
    for run in all_runs(study):
        names |= {path.relative_to(folder).as_posix() for path in (folder / run.folder).glob("**/*.cost.jsonl")}
    for pattern in PATTERNS:
        names |= {path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(names)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644  # no times, no owners: the same study gives the same bytes
    archive.addfile(entry, io.BytesIO(content))


def pack(folder: Path, out: Path, lock: Path | None = None) -> Json:
    """Write ``out`` (.tar.gz): rows, markers, settings, lock, digests, tables, figures, report; no weights.

    Args:
        folder: results/<study>, finished.
        lock: the file of locked packages, if there is one.

    Returns:
        the manifest: study, digest of the results, and the SHA-256 of every file.

    Raises:
        ConfigurationError: if the study is not finished.
        InputOutputError: if final_results.json does not fit its digest.
    """
    folder = Path(folder)
    path = folder / "final_results.json"
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing: the study is not finished. Run it, then archive it.")
    document = final.read(path)
    study = read_study(document["results"]["settings"], str(path))
    top = study.study
    missing = [name for name in expected_files(study) if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"{folder / missing[0]} is missing: an archive without it could not rebuild the report. Run the study again."
        )
    manifest: Json = {"study": top, "digest": document["digest"], "files": {}, "schema": "isotone/archive/1"}
    with (
        whole_file(out, "wb") as file,
        gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in _members(study, folder):
            manifest["files"][name] = file_digest(folder / name)
            _add(archive, f"{top}/{name}", (folder / name).read_bytes())
        settings = canonical_json({key: value for key, value in as_mapping(study).items() if key != "operation"})
        _add(archive, f"{top}/settings.json", settings.encode())
        if lock and lock.is_file():
            manifest["lock"] = file_digest(lock)
            _add(archive, f"{top}/{lock.name}", lock.read_bytes())
        _add(archive, f"{top}/{MANIFEST}", canonical_json(manifest).encode())
    return manifest


def unpack(archive: Path, into: Path) -> Path:
    """Unpack below ``into`` and check every digest; returns the study's folder.

    Raises:
        InputOutputError: damaged, or a file that is not what the manifest says.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:gz") as opened:
            members = opened.getmembers()
            for member in members:
                place = PurePosixPath(member.name)
                if not (member.isfile() or member.isdir()) or place.is_absolute() or ".." in place.parts:
                    raise tarfile.TarError(f"{member.name} is no plain file below one folder")
            if hasattr(tarfile, "data_filter"):  # not before Python 3.11.4
                opened.extraction_filter = tarfile.data_filter
            opened.extractall(into, members)
            top = members[0].name.split("/")[0]
    except (OSError, tarfile.TarError, EOFError, IndexError) as error:
        raise InputOutputError(f"{archive} is no whole archive of a study ({error}). Copy it again.") from None
    folder = into / top
    for name, digest in read_json(folder / MANIFEST)["files"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise InputOutputError(f"{archive}: {name} is not what the manifest says. Copy the archive again.")
    return folder


def rebuild(archive: Path, into: Path, say: Callable[[str], None] = lambda text: None) -> Path:
    """Unpack, aggregate, draw and render again from the rows; returns the report.

    Raises:
        InputOutputError: if the rebuilt results have another digest than the archived ones.
    """
    from isotone.reporting.figures.draw import write_figures
    from isotone.reporting.page.html import render
    from isotone.reporting.page.terminal import terminal_summary
    from isotone.reporting.tables.study import write_tables

    folder = unpack(archive, into)
    study = read_study(read_json(folder / "settings.json"), str(folder / "settings.json"))
    document = final.build(study, folder, say)
    archived = read_json(folder / MANIFEST)["digest"]
    if document["digest"] != archived:
        raise InputOutputError(
            f"{archive}: the rows give the digest {document['digest'][:12]}, the archive says {archived[:12]}. "
            "Another version of Isotone or of its packages computes otherwise; install the archived lock."
        )
    final.write(folder / "final_results.json", document)
    document = final.read(folder / "final_results.json")
    write_tables(folder / "tables", document)
    with whole_file(folder / "experiment_summary.txt") as file:
        file.write(terminal_summary(document))
    write_figures(folder / "figures", document, folder, say)
    with whole_file(folder / "report.html") as file:
        file.write(render(document, folder))
    return folder / "report.html"


__all__ = ["pack", "rebuild", "unpack"]
