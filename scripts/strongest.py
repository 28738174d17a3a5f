"""Take, for each document, the row of the attack that did most damage; no model is needed."""

import argparse
import json
from pathlib import Path

from isotone import environment, errors
from isotone.attacks.settings import AttackJob
from isotone.attacks.strongest import strongest
from isotone.records import file_digest, read_rows, write_marker, write_rows
from isotone.schema import parse

ROWS = "attack/1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON: {strongest}")
    parser.add_argument(
        "--sources", type=Path, nargs="+", required=True, help="their row files: all members, run by run"
    )
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="JSON Lines, schema attack/1, one per run")
    parser.add_argument("--cost", type=Path, nargs="+", required=True, help="empty: nothing is searched; one per run")
    parser.add_argument("--markers", type=Path, nargs="+", required=True, help="written last, JSON, one per run")
    options = parser.parse_args()
    environment.prepare()
    members = parse(AttackJob, json.loads(options.settings), "--settings").strongest.members
    count = len(members)
    if len(options.sources) != count * len(options.rows) or not len(options.rows) == len(options.cost) == len(
        options.markers
    ):
        raise errors.ConfigurationError(
            f"{len(options.rows)} runs of {count} members need {count * len(options.rows)} --sources, not {len(options.sources)}, and "
            "one of --rows, --cost and --markers each."
        )
    for index, (rows, cost, marker) in enumerate(zip(options.rows, options.cost, options.markers, strict=True)):
        files = options.sources[index * count : (index + 1) * count]
        found = strongest({name: read_rows(path, ROWS) for name, path in zip(members, files, strict=True)})
        write_rows(rows, ROWS, found.values())
        write_rows(cost, "attack_cost/1", [])
        of: dict[str, int] = {}
        for row in found.values():
            name = f"{row['of']['attack']} {row['of']['variant']}"
            of[name] = of.get(name, 0) + 1
        write_marker(
            marker,
            "attack_strongest",
            settings={"members": members},
            inputs={f"rows {name}": file_digest(path) for name, path in zip(members, files, strict=True)},
            outputs={"rows": file_digest(rows)},
            result={"of": of, "documents": len(found), "J_mean": sum(row["J"] for row in found.values()) / len(found)},
            cost={"seconds": 0.0},
        )
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
