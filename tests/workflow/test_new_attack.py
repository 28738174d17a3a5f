"""A new attack is one module and one line: rules, settings, rows, gates, paper and page follow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import copy_checkout, planned, run

MODULE = '''
"""Writes the first allowed token at the first open position."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.attacks.proposals import Flip, flipped
from isotone.attacks.search import State, begin
from isotone.attacks.spec import AttackSpec, Cost
from isotone.schema import setting


@dataclass(frozen=True)
class Toy:
    """One flip."""

    rank: int = setting(0, "which of the allowed tokens", minimum=0)


def attack(context, documents):
    token = int(context.vocabulary.allowed[context.job.toy.rank])
    traces = begin(context.objective, documents, 1)
    for trace in traces:
        place = int(trace.document.eligible[0])
        trace.best[1] = State(flipped(trace.document.ids, [Flip(place, token)]), [place], trace.clean, 0.0)
    return {"first": traces}


SPEC = AttackSpec(
    name="toy",
    title="one flip",
    settings=Toy,
    search=attack,
    variants=lambda settings: ["first"],
    prefers=("first",),
    flips=lambda settings: 1,
    cost=lambda attacks: Cost(float(attacks.shared.documents)),
    sentence=lambda settings: f"a toy that writes allowed token {settings.rank}",
    beats=(("first", "random", "matched"),),
)
'''

REPORT = """
import sys
from pathlib import Path
from isotone.reporting.page.html import render
from isotone.reporting.page.paper import methods_tex
from isotone.reporting.final_results import build
from synthetic_study import Planted, study_settings, write_study

study = study_settings(
    arms=("baseline", "mlp_in"), seeds=(7, 8), attacks=("toy", "random"), control_attacks=("toy",), documents=8, resamples=100,
    settings={"toy": {"rank": 3}},
)
folder = write_study(Path(sys.argv[1]), study, Planted(damage={"mlp_in": -0.3}, noise=0.01, seed_spread=0.0))
document = build(study, folder)
claims = document["results"]["primary"]
found = {(claim["control"], claim["attack"], claim["variant"], claim["verdict"]) for claim in claims}
assert found == {(control, "toy", "first", "more_robust") for control in ("tempered", "noised")}, found
gates = {gate["gate"]: gate["state"] for gate in document["results"]["gates"]}
assert gates["toy first >= random matched"] == "pass", gates
assert "a toy that writes allowed token 3" in methods_tex(document)
page = render(document, folder)
assert "toy, first" in page, "no examples of the toy"
"""


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_checkout(root, tmp_path_factory.mktemp("toy") / "checkout")
    (folder / "scripts/isotone/attacks/toy.py").write_text(MODULE)
    registry = folder / "scripts/isotone/attacks/registry.py"
    before = registry.read_text().split("\n")
    after = [line.replace("strongest, uat", "strongest, toy, uat") for line in before]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1  # one line
    registry.write_text("\n".join(after))
    config = folder / "config/smoke.yaml"
    config.write_text(
        config.read_text().replace("run: [hotflip, random]", "run: [hotflip, random, toy]\n  toy: {rank: 3}")
    )
    return folder


def test_a_new_attack_has_a_rule(checkout: Path) -> None:
    plan = planned(checkout)
    assert plan["attack_toy"] == plan["attack_random"] == 4 and "attack_uat" not in plan


def test_a_typo_in_a_new_attack_is_refused(checkout: Path) -> None:
    config = checkout / "config/typo.yaml"
    config.write_text((checkout / "config/smoke.yaml").read_text().replace("toy: {rank: 3}", "toy: {rnk: 3}"))
    done = run(checkout, "-m", "snakemake", "-n", "--configfile", "config/typo.yaml")
    assert done.returncode != 0 and 'Did you mean "rank"?' in done.stderr


def test_a_new_attack_reaches_the_report(checkout: Path, tmp_path: Path, root: Path) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    around = os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout / "scripts"), str(root / "tests/unit")])}
    command = [sys.executable, str(tmp_path / "report.py"), str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=around)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_new_attack_makes_rows(checkout: Path, tmp_path: Path, root: Path) -> None:
    code = (
        "import attack_zoo as az\n"
        "from pathlib import Path\n"
        "from isotone.attacks import run\n"
        "from isotone.evaluation.journal import Journal\n"
        "documents = az.manifest(2, shorten=0)\n"
        "context = az.context(az.objective(), documents)\n"
        f"rows, _, _ = run.run('toy', context, documents, Journal(Path({str(tmp_path / 'rows')!r}), {{}}))\n"
        "assert [row['variant'] for row in rows] == ['first'] * 2 and len(rows[0]['flips']) == 1, rows\n"
    )
    around = os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout / "scripts"), str(root / "tests/unit")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=around)
    assert done.returncode == 0, done.stderr[-3000:]
