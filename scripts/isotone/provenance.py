"""Which code a program runs: its version and commit, and a digest that comments and layout do not change.

The digest of a cheap stage stands in its rule's ``params``: change what it
computes and Snakemake reruns it. Training and all that comes before it have
integer versions instead, because a digest would retrain for a renamed variable.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import subprocess
from pathlib import Path
from typing import Any

from isotone import __version__

LIBRARY = Path(__file__).resolve().parent
PROGRAMS = LIBRARY.parent


def _git(*words: str) -> str | None:
    """What git says about this checkout; None without git, or where this is none."""
    try:
        done = subprocess.run(["git", "-C", PROGRAMS.parent, *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def software() -> dict[str, Any]:
    """Isotone's version; its commit, and whether tracked files differ from it (both None outside a checkout).

    It stands in markers and final_results.json beside what is digested, for it changes no result.
    """
    top = _git("rev-parse", "--show-toplevel")
    ours = top is not None and Path(top).resolve() == PROGRAMS.parent  # not a checkout around an installed copy
    commit = _git("rev-parse", "HEAD") if ours else None
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"version": __version__, "commit": commit, "dirty": None if changed is None else bool(changed)}


def _module_file(name: str) -> Path | None:
    """The source file of an isotone module, or None if ``name`` is not a module."""
    path = LIBRARY.joinpath(*name.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:]
    return ast.dump(tree)


@functools.cache
def _read(path: Path) -> tuple[str, frozenset[Path]]:
    """The code of one file without comments, and the isotone files that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = {name for name in names if name.split(".")[0] == "isotone"}
    packages = {name.rsplit(".", depth)[0] for name in ours for depth in range(name.count(".") + 1)}
    files = {file for name in ours | packages if (file := _module_file(name))}
    return _without_docstrings(tree), frozenset(files)


@functools.cache
def code_files(program: str) -> tuple[Path, ...]:
    """Every file of Isotone that ``scripts/<program>.py`` can import, sorted."""
    found: set[Path] = set()
    queue = [PROGRAMS / f"{program}.py"]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue.extend(_read(path)[1])
    return tuple(sorted(found))


def data_files(program: str) -> list[Path]:
    """Templates, schemas and the like, in the folders of the packages that the program uses."""
    packages = {path.parent for path in code_files(program) if path.name == "__init__.py" and path.parent != LIBRARY}
    found = {path for package in packages for path in package.rglob("*") if path.is_file()}
    return sorted(path for path in found if path.suffix != ".py" and "__pycache__" not in path.parts)


@functools.cache
def code_digest(program: str) -> str:
    """SHA-256 (first 16 hex digits) of code and templates behind a program, without comments and docstrings."""
    digest = hashlib.sha256()
    for path in code_files(program):
        digest.update(path.relative_to(PROGRAMS).as_posix().encode() + b"\0" + _read(path)[0].encode())
    for path in data_files(program):
        digest.update(path.relative_to(PROGRAMS).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
