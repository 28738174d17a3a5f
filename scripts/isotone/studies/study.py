"""The whole study: one YAML file, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isotone.attacks.registry import SPECS
from isotone.attacks.settings import Attacks
from isotone.config.constraint import Constraint
from isotone.config.data import Data, Model
from isotone.config.evaluation import Generation, OrderPreservation, Perplexity
from isotone.config.report import Report
from isotone.config.training import Operation, Training, TrainJob
from isotone.controls.settings import Controls
from isotone.errors import ConfigurationError
from isotone.schema import as_mapping, merge, parse, section, setting, suggestion
from isotone.studies import pairs

ARM_NAME = r"[a-z][a-z0-9_]*"
FEWEST = 3  # models that make a curve of controls


@dataclass(frozen=True)
class Base:
    """Pretraining of a model that is defined here (source: scratch)."""

    seed: int = setting(0, "initial weights and order of the samples", minimum=0)
    training: dict[str, Any] = setting({}, "training settings of the pretraining, on top of the defaults")


@dataclass(frozen=True)
class Arm:
    """One model variant: a constraint, and what differs in its training."""

    constraint: Constraint = section(Constraint, "what is constrained, and how it starts")
    training: dict[str, Any] = setting({}, "training settings of this arm, on top of the study's")
    seeds: str = setting(
        "all", "once: the arm does not depend on the seed and exists for the first one only", enum=["all", "once"]
    )


@dataclass(frozen=True)
class Study:
    """A complete study."""

    study: str = setting(description="name; results go to results/<study>/", pattern=r"^[a-z0-9][a-z0-9_-]*$(?!\n)")
    seeds: list[int] = setting(
        [42, 1337, 2024], "training seeds: order of recovery and dropout only", items={"minimum": 0}, minItems=1
    )
    model: Model = section(Model, "the pretrained model")
    base: Base = section(Base, "pretraining, source scratch only")
    data: Data = section(Data, "the text")
    training: Training = section(Training, "recovery, the same for every arm unless the arm says otherwise")
    arms: dict[str, Arm] = setting({}, "model variants by name", minProperties=1)
    perplexity: Perplexity = section(Perplexity, "clean quality")
    attacks: Attacks = section(Attacks, "attacks and their budgets")
    controls: Controls = section(Controls, "controls of equal quality")
    generation: Generation = section(Generation, "what an encoder-decoder model writes (task: pairs)", quiet=True)
    order_preservation: OrderPreservation = section(OrderPreservation, "order of graded sentences in hidden states")
    report: Report = section(Report, "statistics and report")
    operation: Operation = section(Operation, "how runs are operated; changes no result")

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(
                f"seeds is {self.seeds}, which repeats a seed. Each seed is one independent run; list it once."
            )
        for name in self.arms:
            if not re.fullmatch(ARM_NAME, name):
                raise ConfigurationError(
                    f'arms has the name "{name}". Use small letters, digits and _, starting with a letter.'
                )
        if self.report.baseline not in self.arms:
            raise ConfigurationError(
                f'report.baseline is "{self.report.baseline}", which is not an arm.{suggestion(self.report.baseline, self.arms)}'
            )
        for attack, spec in SPECS.items():
            for member in spec.combines(self.attacks.of(attack)):
                if member not in SPECS:
                    raise ConfigurationError(
                        f'attacks.{attack}.members has "{member}", which is no attack.{suggestion(member, SPECS)}'
                    )
        for key, names in (("attacks.run", self.attacks.run), ("controls.attacks", self.controls.attacks)):
            for attack in names:
                self._check_members(attack, key, names)
        for attack in self.attacks.transfer:
            if attack not in self.attacks.run:
                raise ConfigurationError(
                    f'attacks.transfer has "{attack}", which is not in attacks.run. Its flips have to be made before they are replayed; add it there.'
                )
            if SPECS[attack].rows is not None:
                raise ConfigurationError(
                    f'attacks.transfer has "{attack}", which changes no token for another and cannot be replayed on other models. Take it out.'
                )
        for attack in (*self.attacks.run, *self.controls.attacks):
            SPECS[attack].primary(self.attacks.of(attack))
        for name in self.arms:
            self.train_job(name, self.seeds[0])
        self.base_job()
        self._check_curve()
        pairs.check(self)

    def _check_curve(self) -> None:
        """A curve of controls needs three models, the baseline being one of them."""
        if self.controls.revisions and (self.model.source != "hub" or "early" not in self.controls.kinds):
            raise ConfigurationError(
                f"controls.revisions names {len(self.controls.revisions)} revisions of a hub model, but "
                + (
                    f'model.source is "{self.model.source}".'
                    if self.model.source != "hub"
                    else 'controls.kinds lacks "early".'
                )
                + " They are points of the curve of earlier checkpoints; take them out, or add what is missing."
            )
        if self.model.revision in self.controls.revisions:
            raise ConfigurationError(
                f'controls.revisions has "{self.model.revision}", which is the model itself. Name earlier ones only.'
            )
        have = len(self.checkpoints()) + len(self.shorter_arms())
        if "early" not in self.controls.kinds or have + 1 >= FEWEST:
            return
        how = {
            "scratch": "Name shares of the pretraining in base.training.milestones, such as [0.25, 0.5, 0.75], or",
            "hub": "Name revisions of the model in controls.revisions, such as [step64000, step128000], or",
        }.get(self.model.source, "")
        raise ConfigurationError(
            f'controls.kinds has "early", a curve of models that were trained less, which needs at least {FEWEST - 1} beside the '
            f"baseline; it has {have}. {how} add arms without a constraint and with a shorter training "
            '(baseline_short: {training: {epochs: 0.1}}), or take "early" out.'.replace("  add", " Add")
        )

    def _check_members(self, attack: str, key: str, names: list[str]) -> None:
        """Raise unless what an attack is made of runs on the same models, with as many flips, text by text."""
        members = SPECS[attack].combines(self.attacks.of(attack))
        for member in members:
            if member not in SPECS or SPECS[member].combines(self.attacks.of(member)) or SPECS[member].rows is not None:
                raise ConfigurationError(
                    f'attacks.{attack}.members has "{member}", which is no attack that searches tokens.{suggestion(member, SPECS)}'
                )
            if member not in names:
                raise ConfigurationError(
                    f'{key} has "{attack}", whose member "{member}" is not in {key}. Add it there, or take it out of attacks.{attack}.members.'
                )
        if any(SPECS[member].universal(self.attacks.of(member)) for member in members):
            raise ConfigurationError(
                f"attacks.{attack}.members has a universal attack; its trigger is no change of a text."
            )
        flips = {member: SPECS[member].flips(self.attacks.of(member)) for member in members}
        if len(set(flips.values())) > 1:
            raise ConfigurationError(
                f"attacks.{attack}.members change {flips} tokens, and the strongest of unequal budgets says nothing. Give them one number of flips."
            )

    def training_of(self, arm: str) -> Training:
        """The study's training settings with the arm's on top."""
        merged = merge(as_mapping(self.training), self.arms[arm].training)
        return parse(Training, merged, f"arms.{arm}.training")

    def train_job(self, arm: str, seed: int) -> TrainJob:
        """What `scripts/train.py` needs to know for one run."""
        return TrainJob(seed=seed, training=self.training_of(arm), constraint=self.arms[arm].constraint)

    def base_job(self) -> TrainJob:
        """Pretraining: the same program, constraint ``none``."""
        training = parse(Training, merge(as_mapping(Training()), self.base.training), "base.training")
        return TrainJob(seed=self.base.seed, training=training)

    def sequences(self) -> dict[str, int]:
        """The longest sequence that each stage feeds to the model, under the key that sets it."""
        prefix = 0 if self.data.document_start == "none" else 1
        trigger = self.attacks.longest_trigger()
        front = f" (and {prefix} token in front, and {trigger} of a trigger)"
        pretraining = (
            {"base.training.length": self.base_job().training.length} if self.model.source == "scratch" else {}
        )
        return {
            **pretraining,
            "training.length": max(self.training_of(arm).length for arm in self.arms),
            "perplexity.length": self.perplexity.length,
            f"attacks.shared.window{front}": prefix + trigger + self.attacks.shared.window,
        }

    def longest_sequence(self) -> int:
        """The longest sequence that any stage feeds to the model."""
        return max(self.sequences().values())

    def seeds_of(self, arm: str) -> list[int]:
        """The seeds for which an arm exists; a control has those of its arm, a checkpoint of the pretraining one."""
        name, _, kind = arm.partition("~")
        return self.seeds[:1] if kind.startswith("early-") or self.arms[name].seeds == "once" else self.seeds

    def constrained_arms(self) -> list[str]:
        """The arms whose feed-forward nets are changed: those with a scope."""
        return [name for name, arm in self.arms.items() if arm.constraint.scope != "none"]

    def claimed_arms(self) -> list[str]:
        """The arms that robustness is claimed of: constrained, and not only started as if they were."""
        return [name for name in self.constrained_arms() if self.arms[name].constraint.map != "free"]

    def unconstrained_twins(self, arm: str) -> list[str]:
        """Arms with the same scope and no constraint (``map: free``), such as ``no_ffn`` and ``abs_free``."""
        scope = self.arms[arm].constraint.scope
        free = [name for name in self.constrained_arms() if name not in self.claimed_arms()]
        return [name for name in free if self.arms[name].constraint.scope == scope]

    def checkpoints(self) -> list[str]:
        """Labels of the checkpoints on the control curve: shares of the pretraining, or revisions of the model."""
        if self.model.source == "hub":
            return self.revisions()
        if "early" not in self.controls.kinds or self.model.source != "scratch":
            return []
        return [f"{share:g}" for share in sorted(self.base_job().training.milestones)]

    def revisions(self) -> list[str]:
        """Earlier revisions of a hub model that are points of the control curve."""
        return self.controls.revisions if "early" in self.controls.kinds else []

    def shorter_arms(self) -> list[str]:
        """Unconstrained arms beside the baseline, which were trained less: points of the control curve."""
        return [name for name in self.arms if name not in self.constrained_arms() and name != self.report.baseline]

    def curve_runs(self) -> list[str]:
        """Checkpoints of the pretraining as run names; one run each, shared by all arms and seeds."""
        return [f"{self.report.baseline}~early-{label}" for label in self.checkpoints()]

    def control_arms(self) -> list[str]:
        """Controls of equal quality, as arm names ``{arm}~{kind}``; a gauge lift keeps the function and needs none."""
        kinds = [kind for kind in self.controls.kinds if kind != "early"]
        arms = [name for name in self.claimed_arms() if not self._keeps_function(name)]
        return [f"{arm}~{kind}" for arm in arms for kind in kinds] + self.curve_runs()

    def _keeps_function(self, arm: str) -> bool:
        constraint = self.arms[arm].constraint
        return constraint.init == "lift" and constraint.activation == "keep"

    def runs(self) -> list[tuple[str, int]]:
        """Every (arm, seed) that a complete study holds, controls included."""
        return [(arm, seed) for arm in [*self.arms, *self.control_arms()] for seed in self.seeds_of(arm)]

    def shared_job(self, arm: str, seed: int | str) -> str:
        """The name of the job that a run's attacks share with other runs'; empty where each run has its own.

        Trained runs and controls of a seed, whose settings differ, share none with each other.
        """
        return "" if self.operation.attack_jobs == "run" else f"{'controls' if '~' in arm else 'seed'}_{seed}"

    @property
    def writes(self) -> bool:
        """Whether its models write targets, which are compared with references."""
        return self.data.task == "pairs"

    def written_after(self, arm: str) -> list[str]:
        """The attacks after which an arm or control writes once more."""
        return [attack for attack in self.generation.attacks if attack in self.attacks_of(arm)] if self.writes else []

    def attacks_of(self, arm: str) -> list[str]:
        """The attacks that run on an arm or control."""
        return self.controls.attacks if "~" in arm else self.attacks.run


def read_study(raw: Mapping[str, Any], where: str) -> Study:
    """Validate the merged YAML; an arm that is ``null`` is left out.

    Raises:
        ConfigurationError: one paragraph on what is wrong.
    """
    arms = raw.get("arms")
    if isinstance(arms, Mapping):
        raw = {**raw, "arms": {name: arm for name, arm in arms.items() if arm is not None}}
    return parse(Study, raw, where)
