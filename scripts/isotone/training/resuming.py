"""Whether a checkpoint may be resumed under the settings of this start."""

from __future__ import annotations

from isotone.errors import ConfigurationError
from isotone.records import Json
from isotone.training.inputs import Run


def check_identity(run: Run, progress: Json) -> None:
    """A checkpoint of another run is never resumed.

    Raises:
        ConfigurationError: it differs in anything.
    """
    if differences := run.identity.differences(progress["identity"]):
        raise ConfigurationError(
            f"The checkpoint in {run.folder} was made by another run: it differs in {'; '.join(differences)}. "
            "Restore the settings and inputs it was made with, or move the folder away to begin again."
        )
