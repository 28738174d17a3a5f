"""A thousand kills: the test of tests/resume/test_kills.py, longer.

python benchmarks/soak.py [--kills 1000] [--corruptions 100] [--seed 0]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paired import hardware

from tests.resume.runs import Case, weights
from tests.resume.test_kills import torment
from tests.resume.tiny import CONSTRAINED, Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--corruptions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        study = Study.make(place / "study", model={"constraint": CONSTRAINED})
        quiet = Case(study, place / "quiet")
        if quiet.start().wait():
            sys.exit(quiet.text())
        case = Case(study, place / "run", operation={"save_every_steps": 1})
        begun = time.monotonic()
        count = torment(case, options.kills, options.corruptions, options.seed)
        same = weights(case.place) == weights(quiet.place)
    spent = time.monotonic() - begun
    print(
        f"{count['kills']} SIGKILLs, {count['corruptions']} corruptions, {count['ended']} runs ended in between, {spent:.0f} s   [{hardware()}]"
    )
    print(f"  final weights {'bit-identical to' if same else 'DIFFERENT from'} those of an undisturbed run")
    sys.exit(not same)


if __name__ == "__main__":
    main()
