"""From RMSNorm to a centring norm: the same function, so that non-negative weights can be lifted.

RMSNorm without a gain commutes with rotations of the residual stream. Turn the direction
that carries the least energy into the all-ones vector, then replace RMSNorm by LayerNorm,
which removes just that direction. What is lost is the energy it carried.

Shape suffixes: D = width, N = tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isotone.constraints.capture import capture
from isotone.data.batch import Batch
from isotone.errors import ConfigurationError
from isotone.models.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OLMO_EPSILON = 1e-5  # fixed inside OlmoLayerNorm
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")


def _refuse(model: PreTrainedModel, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"constraint.norm is rotate_center, which turns a Llama-like model into an Olmo model, but {why}. "
        f"Choose constraint.norm keep for this {family_of(model).name} model."
    )


def _check(model: PreTrainedModel) -> None:
    config: Any = model.config
    name = family_of(model).name
    if name not in ("llama", "mistral", "qwen2"):
        raise _refuse(model, f"{name} is not such a model")
    if abs(config.rms_norm_eps - OLMO_EPSILON) > 1e-12:
        raise _refuse(model, f"its rms_norm_eps is {config.rms_norm_eps} and Olmo's norm has {OLMO_EPSILON}")
    if getattr(config, "mlp_bias", False):
        raise _refuse(model, "its feed-forward nets have biases, which Olmo has not")
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window < config.max_position_embeddings:
        raise _refuse(model, f"its attention sees a sliding window of {window} tokens")


@torch.no_grad()
def fold_gains(model: PreTrainedModel) -> None:
    """Move every RMSNorm's gain into the matrices that read it; the vocabulary projection is untied first."""
    body: Any = model.model
    if model.config.tie_word_embeddings:
        head: Any = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    for block in body.layers:
        attention, net = block.self_attn, block.mlp
        for norm, readers in (
            (block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (block.post_attention_layernorm, (net.gate_proj, net.up_proj)),
        ):
            for reader in readers:
                reader.weight.mul_(norm.weight)
            norm.weight.fill_(1.0)
    model.get_output_embeddings().get_parameter("weight").mul_(body.norm.weight)
    body.norm.weight.fill_(1.0)


@torch.no_grad()
def least_direction(model: PreTrainedModel, ids_BT: Tensor | Batch) -> Tensor:
    """The unit direction [D] that carries the least of the normalised residual stream, over all norms.

    Gains must be folded: then what a norm writes is the residual stream itself, at length sqrt(D).
    """
    body: Any = model.model
    names = [
        f"model.layers.{index}.{norm}"
        for index in range(len(body.layers))
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    seen = capture(model, ids_BT, [*names, "model.norm"])
    moments = sum(
        rows.outputs_NO.double().T @ rows.outputs_NO.double() / len(rows.outputs_NO) for rows in seen.values()
    )
    return torch.linalg.eigh(torch.as_tensor(moments)).eigenvectors[:, 0]


def rotation_to_ones(direction_D: Tensor) -> Tensor:
    """The orthogonal matrix [D, D] (a reflection) that takes a unit vector to the all-ones direction."""
    width = len(direction_D)
    ones_D = torch.full_like(direction_D, width**-0.5)
    v_D = direction_D - ones_D if float(direction_D @ ones_D) < 0 else direction_D + ones_D
    sign = 1.0 if float(direction_D @ ones_D) < 0 else -1.0
    v_D = v_D / v_D.norm()
    return sign * (torch.eye(width, dtype=direction_D.dtype, device=direction_D.device) - 2 * torch.outer(v_D, v_D))


@torch.no_grad()
def rotate(model: PreTrainedModel, matrix_DD: Tensor) -> None:
    """Rotate the residual stream in place, ``r -> Q r``: writers, readers and the embedding; gains must be folded."""
    body: Any = model.model

    def reads(parameter: nn.Parameter) -> None:
        parameter.copy_(parameter.double() @ matrix_DD.T)

    def writes(parameter: nn.Parameter) -> None:
        parameter.copy_(matrix_DD @ parameter.double())

    reads(body.embed_tokens.weight)  # rows are residual vectors: E Q^T
    reads(model.get_output_embeddings().get_parameter("weight"))
    for block in body.layers:
        for module in (
            block.self_attn.q_proj,
            block.self_attn.k_proj,
            block.self_attn.v_proj,
            block.mlp.gate_proj,
            block.mlp.up_proj,
        ):
            reads(module.weight)
        for module in (block.self_attn.o_proj, block.mlp.down_proj):
            writes(module.weight)
            if module.bias is not None:
                module.bias.copy_(matrix_DD @ module.bias.double())


def _olmo(model: PreTrainedModel) -> PreTrainedModel:
    from transformers import OlmoConfig, OlmoForCausalLM

    config: Any = model.config
    attention: Any = model.get_submodule("model.layers.0.self_attn")
    biased = any(getattr(attention, part).bias is not None for part in PARTS)
    shared = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "initializer_range",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "attention_dropout",
        "rope_parameters",
    ]
    options: dict[str, Any] = {name: getattr(config, name) for name in shared}
    if getattr(config, "head_dim", None) not in (None, config.hidden_size // config.num_attention_heads):
        options["head_dim"] = config.head_dim
    options["attn_implementation"] = config._attn_implementation
    target: Any = OlmoForCausalLM(
        OlmoConfig(**options, attention_bias=biased, tie_word_embeddings=False, clip_qkv=None)
    )
    weights = {name: value for name, value in model.state_dict().items() if "norm" not in name}
    missing, unexpected = target.load_state_dict(weights, strict=False)
    if unexpected or any(not name.endswith("_proj.bias") for name in missing):
        raise _refuse(model, f"these weights have no counterpart: {sorted([*missing, *unexpected])[:3]}")
    for name in missing:  # Olmo has biases on all four attention projections or on none
        target.get_parameter(name).data.zero_()
    return target.to(model.device).eval()


@torch.no_grad()
def rotate_and_centre(model: PreTrainedModel, ids_BT: Tensor | Batch | None) -> PreTrainedModel:
    """A plain Olmo model that computes nearly what a Llama-like model did.

    Args:
        ids_BT: text on which the direction of least energy is found.

    Raises:
        ConfigurationError: if the model does not fit Olmo's format, or without text.
    """
    _check(model)
    if ids_BT is None:
        raise ConfigurationError(
            "constraint.norm rotate_center looks at activations and needs calibration text. Give token ids."
        )
    fold_gains(model)
    rotate(model, rotation_to_ones(least_direction(model, ids_BT)))
    return _olmo(model)
