"""The attacks that there are. Adding one: a module with a `SPEC`, named in the import below."""

from __future__ import annotations

from isotone.attacks import gcg, hotflip, noise, query, random_flips, soft, strongest, uat  # noqa: F401, registered
from isotone.attacks.spec import AttackSpec

SPECS: dict[str, AttackSpec] = {
    module.SPEC.name: module.SPEC for module in list(globals().values()) if hasattr(module, "SPEC")
}
