"""What the hub's failures mean, and which of them pass by themselves."""

from __future__ import annotations

import os

from isotone.environment import until
from isotone.errors import ConfigurationError


def status_of(error: BaseException) -> int:
    """The HTTP status behind an error; 0 if there is none."""
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def is_transient(error: Exception) -> bool:
    """Whether a try some seconds later may succeed: broken connections, 429, 5xx."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status:
        return status in (408, 429) or status >= 500
    if isinstance(error, LocalEntryNotFoundError):  # "cannot reach the hub, and not cached"
        return not is_offline()
    names = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(names & {"TransportError", "RequestException"})


def is_offline() -> bool:
    """Whether the user, or the workflow, cut off the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")


def explain(error: Exception, kind: str, name: str, revision: str) -> ConfigurationError:
    """The paragraph for a failure that retries did not cure.

    Args:
        kind: ``model`` or ``data``, the section of the configuration.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"{kind}.name is {name!r} (revision {revision})"
    status = status_of(error)
    absent = isinstance(error, RepositoryNotFoundError)  # a hub says 401 of it to those who have not logged in
    if isinstance(error, GatedRepoError) or (status in (401, 403) and not absent):
        return ConfigurationError(
            f"{page}: the hub refuses it. It is gated or private: accept its terms on its page, make a read token "
            "in your account's settings, and say: export HF_TOKEN=... (or hf auth login) before you run this again."
        )
    if isinstance(error, RevisionNotFoundError):
        return ConfigurationError(
            f"{page}: it has no such revision. Set {kind}.revision to a commit hash or tag of it."
        )
    if absent or status == 404:
        return ConfigurationError(
            f"{page}: the hub has nothing of that name, or it is private. Check the spelling; for a private one, export HF_TOKEN."
        )
    if is_offline():
        return ConfigurationError(
            f"{page}: it is not complete in the cache ({cache_in_words()}), and the hub is cut off (HF_HUB_OFFLINE). Fetch it once on "
            f"a machine with a connection, with the same cache folder: {until('fetch')}"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ConfigurationError(
        f"{page}: the hub cannot be reached ({reason}). Check the connection, or work from files: {kind}.source: local."
    )


def cache_in_words() -> str:
    """Where the cache is, as the user would find it."""
    from huggingface_hub.constants import HF_HOME

    return f"HF_HOME={HF_HOME}"
