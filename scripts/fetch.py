"""Download the model and the dataset of a study into the cache; the only step that uses the network."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from isotone import environment, errors


def _refuse_twins(result: dict[str, Any]) -> None:
    """Two names of one commit would be one model counted twice on the control curve."""
    seen = {result["model"]["commit"]: result["model"]["revision"]}
    for revision, commit in result.get("revisions", {}).items():
        if other := seen.get(commit):
            raise errors.ConfigurationError(
                f'controls.revisions has "{revision}", which is the same commit as {other}. Name each model once.'
            )
        seen[commit] = revision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: model, data")
    parser.add_argument("--marker", type=Path, required=True, help="what was fetched, written last")
    arguments = parser.parse_args()
    environment.prepare(offline=False)

    from isotone.config.data import Fetch
    from isotone.data.readers.sources import fetch_data
    from isotone.models.origins.hub import fetch_model
    from isotone.records import write_marker
    from isotone.schema import as_mapping, parse

    settings = parse(Fetch, json.loads(arguments.settings), "fetch.py --settings")
    environment.say(environment.cache_sentence())
    start = time.monotonic()
    result: dict[str, Any] = {}
    if settings.model.source == "hub":
        folder = fetch_model(settings.model)
        result["model"] = {"name": settings.model.name, "revision": settings.model.revision, "commit": folder.name}
        for revision in settings.revisions:
            commit = fetch_model(replace(settings.model, revision=revision)).name
            result.setdefault("revisions", {})[revision] = commit
        _refuse_twins(result)
    if data := fetch_data(settings.data):
        result["data"] = data
    write_marker(
        arguments.marker,
        "fetch",
        settings=as_mapping(settings),
        inputs={},
        outputs={},
        result=result,
        cost={"seconds": time.monotonic() - start},
    )


if __name__ == "__main__":
    errors.run(main)
