"""Whether hidden states keep the order of graded sentences, beside two nulls.

Per layer and axis, probe directions are fitted on the training chains (each on half of
them) and read on chains of other topics in other templates: the share of directions a
with ``a . h <= a . h'`` for a weaker sentence h and a stronger h'. Controls: the same probes
fitted on chains whose order was shuffled, and random directions; both are near one half.
"""

# Shape suffixes: C = chains, L = levels, D = width, N = pairs, P = probes.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from isotone.config.evaluation import OrderPreservation
from isotone.errors import ConfigurationError
from isotone.evaluation.graded import LEVELS, Chain
from isotone.evaluation.streams import stream
from isotone.models import positions
from isotone.records import Json

RIDGE = 1e-2  # share of the mean diagonal
ALL_PAIRS = [(low, high) for low in range(LEVELS) for high in range(low + 1, LEVELS)]


@torch.inference_mode()
def sentence_states(model: Any, sentences: Sequence[list[int]], *, front: int = 0, batch: int = 64) -> np.ndarray:
    """What each sentence became behind every layer: ``[layers, sentences, D]``, float64.

    Of a decoder it is the state of the last token, which alone has seen the whole sentence. Every state of an
    encoder has: there it is the mean over the sentence's own tokens, without prefix and EOS. The
    embedding's output (layer 0 of transformers) is left out. Sentences of equal length go together.

    Args:
        front: of an encoder-decoder model, tokens of the prefix; its sentences end with EOS.

    Raises:
        ConfigurationError: if a state is not a number.
    """
    device = next(model.parameters()).device
    states: dict[int, np.ndarray] = {}
    for length in sorted({len(ids) for ids in sentences}):
        group = [index for index, ids in enumerate(sentences) if len(ids) == length]
        for first in range(0, len(group), batch):
            part = group[first : first + batch]
            ids = torch.tensor([sentences[index] for index in part], device=device)
            if model.config.is_encoder_decoder:
                layers = model.get_encoder()(input_ids=ids, output_hidden_states=True).hidden_states[1:]
                found = [hidden[:, front:-1].double().mean(1) for hidden in layers]
            else:
                given = positions(model, ids)
                output = model.base_model(input_ids=ids, output_hidden_states=True, use_cache=False, **given)
                found = [hidden[:, -1].double() for hidden in output.hidden_states[1:]]
            states.update(zip(part, torch.stack(found, dim=1).cpu().numpy(), strict=True))
    result = np.stack([states[index] for index in range(len(sentences))], axis=1)
    if not np.isfinite(result).all():
        raise ConfigurationError(
            "A hidden state of the graded sentences is not a number. The model is broken: look at its train.json."
        )
    return result


def fit_direction(difference_ND: np.ndarray) -> np.ndarray:
    """The direction along which stronger minus weaker is most steadily 1: ridge regression through the origin."""
    gram_DD = difference_ND.T @ difference_ND
    ridge = RIDGE * np.trace(gram_DD) / len(gram_DD) + 1e-12
    return np.linalg.solve(gram_DD + ridge * np.eye(len(gram_DD)), difference_ND.sum(0))


def differences(
    states_CLD: np.ndarray, pairs: Sequence[Sequence[tuple[int, int]]], orders: np.ndarray | None = None
) -> np.ndarray:
    """Stronger minus weaker over all pairs of all chains, ``[N, D]``; ``orders`` relabels the levels of each chain."""
    found = []
    for chain, states_LD in enumerate(states_CLD):
        rank = np.arange(LEVELS) if orders is None else orders[chain]
        for low, high in pairs[chain]:
            sign = 1.0 if rank[high] > rank[low] else -1.0
            found.append(sign * (states_LD[high] - states_LD[low]))
    return np.array(found)


def probes(
    states_CLD: np.ndarray,
    pairs: Sequence[Sequence[tuple[int, int]]],
    count: int,
    generator: np.random.Generator,
    *,
    shuffle: bool,
) -> np.ndarray:
    """``count`` directions ``[P, D]``, each from a random half of the chains; ``shuffle`` destroys the order first."""
    found = []
    usable = [chain for chain in range(len(pairs)) if pairs[chain]]
    for _ in range(count):
        half = generator.permutation(usable)[: max(1, len(usable) // 2)]
        orders = generator.permuted(np.tile(np.arange(LEVELS), (len(half), 1)), axis=1) if shuffle else None
        found.append(fit_direction(differences(states_CLD[half], [pairs[chain] for chain in half], orders)))
    return np.array(found)


def shares(states_LD: np.ndarray, pairs: Sequence[tuple[int, int]], directions_PD: np.ndarray) -> float:
    """Share of (pair, direction) with the order kept; an exact tie is half a success."""
    gaps = np.array([states_LD[high] - states_LD[low] for low, high in pairs]) @ directions_PD.T
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def rows_of(chains: Sequence[Chain], states: np.ndarray, settings: OrderPreservation) -> list[Json]:
    """Rows of schema ``order/1``: one per layer and test chain that has a pair.

    Args:
        states: ``[layers, chains x levels, D]``, chains in order.
    """
    layers, _, width = states.shape
    states = states.reshape(layers, len(chains), LEVELS, width)
    rows = []
    for layer in range(layers):
        for axis in dict.fromkeys(chain.axis for chain in chains):
            train = [i for i, chain in enumerate(chains) if chain.axis == axis and chain.part == "train"]
            test = [i for i, chain in enumerate(chains) if chain.axis == axis and chain.part == "test" and chain.pairs]
            pairs = [chains[i].pairs for i in train]
            if not any(pairs):
                continue
            kinds = {
                "share": probes(
                    states[layer, train], pairs, settings.probes, _stream(settings, axis, layer, 0), shuffle=False
                ),
                "shuffled": probes(
                    states[layer, train], pairs, settings.probes, _stream(settings, axis, layer, 1), shuffle=True
                ),
                "random": _stream(settings, axis, layer, 2).standard_normal((settings.probes, width)),
            }
            for i in test:
                chain = chains[i]
                found = {kind: shares(states[layer, i], chain.pairs, directions) for kind, directions in kinds.items()}
                rows.append(
                    {
                        "layer": layer,
                        "axis": axis,
                        "topic": chain.topic,
                        "template": chain.template,
                        "chain": chain.name,
                        "pairs": len(chain.pairs),
                        **found,
                    }
                )
    return rows


def _stream(settings: OrderPreservation, axis: str, layer: int, kind: int) -> np.random.Generator:
    return stream(settings.seed, "order/probes", axis, restart=layer, step=kind)


def summary(chains: Sequence[Chain], rows: Sequence[Json]) -> Json:
    """Means over test chains per layer, and how many pairs were lost to unequal lengths."""
    layers = {}
    for layer in sorted({row["layer"] for row in rows}):
        members = [row for row in rows if row["layer"] == layer]
        layers[str(layer)] = {
            kind: sum(row[kind] for row in members) / len(members) for kind in ("share", "shuffled", "random")
        }
    test = [chain for chain in chains if chain.part == "test"]
    return {
        "layers": layers,
        "test_chains": len(test),
        "test_pairs": sum(len(chain.pairs) for chain in test),
        "unmatched_pairs": sum(len(ALL_PAIRS) - len(chain.pairs) for chain in test),
    }
