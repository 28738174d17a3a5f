"""Settings of a constraint: which weights, how they start, how they stay non-negative."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.errors import ConfigurationError
from isotone.schema import section, setting

VERSION = 1  # raise it when the start of an arm is computed otherwise from the same settings

# The roles that each scope constrains; see isotone.models.families.
SCOPE_ROLES: dict[str, tuple[str, ...]] = {
    "none": (),
    "mlp_in": ("ffn_in",),
    "mlp_both": ("ffn_in", "ffn_out"),
    "mlp_in_attn_out": ("ffn_in", "attention_out"),
    "gated_updown": ("ffn_up", "ffn_out"),
    "gated_all": ("ffn_gate", "ffn_up", "ffn_out"),
}
SCOPES = list(SCOPE_ROLES)
MAPS = ["softplus", "exp", "square", "abs", "project", "sign_frozen", "free"]
INITS = ["keep", "abs", "relu", "nnls", "nnls_block", "lift", "no_ffn"]


@dataclass(frozen=True)
class Calibration:
    """Activations that data-driven starts look at."""

    tokens: int = setting(4096, "training tokens whose activations are used", minimum=16)
    ridge: float = setting(1e-4, "ridge penalty, as a share of the mean diagonal of the Gram matrix", minimum=0)
    iterations: int = setting(500, "FISTA iterations per matrix", minimum=1)


@dataclass(frozen=True)
class BlockReconstruction:
    """Gradient steps that fit each feed-forward block to the unconstrained one."""

    steps: int = setting(150, "Adam steps per block", minimum=0)
    learning_rate: float = setting(1e-3, "Adam learning rate", exclusiveMinimum=0)


@dataclass(frozen=True)
class Constraint:
    """What non-negativity means for one arm. The baseline's scope is ``none``."""

    scope: str = setting("none", "which weights are constrained, by role", enum=SCOPES)
    layers: list[int] = setting([], "layers that are constrained; empty: all", items={"minimum": 0}, uniqueItems=True)
    cone: str = setting(
        "elementwise", "elementwise: W >= 0; strict: non-negative on centred inputs", enum=["elementwise", "strict"]
    )
    map: str = setting(
        "softplus", "W = f(V); `project` clamps, `sign_frozen` keeps signs, `free` is unconstrained", enum=MAPS
    )
    init: str = setting(
        "keep", "how W starts from the pretrained weights; `keep` only with scope none or map sign_frozen", enum=INITS
    )
    learning_rate_scale: str = setting(
        "none", "auto: learning rate of V times 1 / mean(dW/dV), at most 50", enum=["none", "auto"]
    )
    weight_decay_on: str = setting("none", "whether weight decay acts on constrained W", enum=["none", "weight"])
    norm: str = setting(
        "keep", "rotate_center turns RMSNorm models into centring ones before a lift", enum=["keep", "rotate_center"]
    )
    activation: str = setting(
        "keep", "monotone replacement of the activation", enum=["keep", "clamp", "isotonic", "relu"]
    )
    add_bias: bool = setting(False, "data-driven starts may add output biases")
    calibration: Calibration = section(Calibration, "activations that data-driven starts look at")
    block_reconstruction: BlockReconstruction = section(BlockReconstruction, "for init nnls_block")

    def __post_init__(self) -> None:
        for wrong, sentence in (
            (
                self.scope != "none" and self.map not in ("sign_frozen", "free") and self.init in ("keep", "no_ffn"),
                f'constraint.init is "{self.init}", but scope {self.scope} needs non-negative weights. '
                "Choose abs, relu, nnls, nnls_block or lift.",
            ),
            (
                self.scope == "none" and self.init not in ("keep", "no_ffn"),
                f'constraint.init is "{self.init}", but scope none has no weights to start. Choose a scope.',
            ),
            (
                self.map == "sign_frozen" and self.init != "keep",
                f"constraint.map sign_frozen keeps the pretrained signs, which init {self.init} would change. "
                "Choose init keep.",
            ),
            (
                self.cone == "strict" and self.init == "lift",
                "constraint.init is lift, which the strict cone forbids: centred coordinates leave no free constant. "
                "Choose nnls, nnls_block, abs or relu.",
            ),
            (
                self.add_bias and self.init not in ("nnls", "nnls_block"),
                f"constraint.add_bias is true, but init {self.init} fits no biases. Choose nnls or nnls_block.",
            ),
        ):
            if wrong:
                raise ConfigurationError(sentence)


@dataclass(frozen=True)
class Init:
    """What `scripts/apply_monotonicity.py` needs to know: how an arm starts."""

    constraint: Constraint = section(Constraint, "the constraint of the arm")
    length: int = setting(256, "tokens per calibration sequence", minimum=8)
    version: int = setting(VERSION, "version of the start's program")
