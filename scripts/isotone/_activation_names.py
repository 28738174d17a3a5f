"""Let transformers build Isotone's activations once it is imported, before or after Isotone.

`import isotone` must stay light, so it cannot import transformers itself. It watches for
the module that holds transformers' table of activations and adds its names right behind it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

TABLE = "transformers.activations"


def _register() -> None:
    from isotone.models import activations

    if hasattr(activations, "register"):  # else it is being imported right now, and registers at its end
        activations.register()


class _Behind(importlib.abc.Loader):
    """A module's own loader, followed by the registration."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to the module's own loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then add the names."""
        self.loader.exec_module(module)
        _register()


class _Watch(importlib.abc.MetaPathFinder):
    """Finds the table's module once, through the other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The table's specification with our loader; None for every other module."""
        if name != TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Behind(spec.loader)
        return spec


def announce() -> None:
    """Register now if transformers is there already, else when it comes."""
    if TABLE in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
