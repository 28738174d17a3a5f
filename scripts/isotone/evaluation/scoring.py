"""The scoring kernel: token ids in, negative log-likelihoods out.

Perplexity and every attack call this and nothing else. It never holds logits of
more than a few rows, chooses its batches by memory, halves a batch that does not
fit and loses no token on the way. Numbers are in nats, rows in fp32.
"""

# Shape suffixes: B = sequences, T = text tokens, S = input tokens (prefix included), N = rows, D = width, V = vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from isotone import devices, models
from isotone.errors import ConfigurationError
from isotone.models import loss
from isotone.models.split_product import Parts, split_products

Result = TypeVar("Result")
COLUMNS = 1024  # tokens of a tile of logits
TILE = 1 << 19  # logits of a tile: 2 MiB stay in a core's cache; fewer rows would read the head's weights too often
STRIDE = 16  # flips whose unchanged fronts end in the same stride are scored together
PADDING = 1.05  # a batch may hold so many times the tokens that it needs


def split_when_full(work: Callable[[Sequence[Any]], list[Result]], items: Sequence[Any]) -> list[Result]:
    """``work(items)``; out of memory halves ``items`` and tries both halves, so that every item is covered.

    Raises:
        torch.OutOfMemoryError: if a single item does not fit.
    """
    try:
        return work(items)
    except (torch.OutOfMemoryError, MemoryError):
        if len(items) < 2:
            raise
        devices.release()
    half = len(items) // 2
    return split_when_full(work, items[:half]) + split_when_full(work, items[half:])


@dataclass(frozen=True)
class Window:
    """One forward pass: ``inputs`` go in, the last ``len(targets)`` positions predict ``targets``."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """What a model makes of a text and of a changed one, per token of the first, ``[T]`` on the CPU.

    Where the shorter text predicts nothing, losses and divergence are 0 and the rest is True.

    Attributes:
        kl: KL(before || after) of the distribution that predicts the token, nats.
        same: whether both rank the same token first.
        right_before, right_after: whether the token that stands there is ranked first.
        nll_before, nll_after: losses at the temperature that was asked for, nats.
    """

    kl: Tensor
    same: Tensor
    right_before: Tensor
    right_after: Tensor
    nll_before: Tensor
    nll_after: Tensor


class Scorer:
    """A frozen model that scores token ids.

    Args:
        model: a causal language model in evaluation mode; its parameters are frozen here.
        prefix: token in front of every text, or None (then a text's first token is not scored).
        batch: sequences per forward pass; 0 chooses by memory. Never changes a result beyond rounding.
    """

    def __init__(self, model: Any, prefix: int | None, *, batch: int = 0) -> None:
        self.model = model.eval().requires_grad_(False)
        self.prefix = prefix
        self.batch = batch
        self.device = next(model.parameters()).device
        self.head = models.head_of(model)
        self.embedding = models.embedding_of(model)
        vocabulary, width = self.head.weight_VD.shape
        # A CPU's tile of logits stays in its cache; an accelerator takes the whole vocabulary in few kernels.
        self.rows, self.columns = (
            (0, 0) if devices.accelerated(self.device) else (TILE // min(vocabulary, COLUMNS), COLUMNS)
        )
        if devices.splits_products(self.device, self.head.weight_VD.dtype):
            self._use_tensor_cores()
        inner = getattr(model.config, "intermediate_size", None) or getattr(model.config, "ffn_dim", None) or 4 * width
        self.pass_tokens = max(1, devices.activation_bytes(self.device) // (4 * (12 * width + 3 * inner)))
        self.context = models.context_of(model.config) or 1 << 30
        self.border = models.longrope_border(model.config)

    def _use_tensor_cores(self) -> None:
        """Compute fp32 products in parts; weights are kept in parts where that leaves most of the device free."""
        size = sum(value.nbytes for value in self.model.parameters())
        split_products(self.model, keep=3 * size < devices.total_memory(self.device) // 4)
        self.head = replace(self.head, parts=Parts.of(self.head.weight_VD.detach()))

    # --- batches -------------------------------------------------------------------------------------------------

    def fit(self, length: int) -> int:
        """How many sequences of ``length`` tokens one forward pass takes."""
        by_memory = max(1, self.pass_tokens // length)
        return min(self.batch, by_memory) if self.batch else by_memory

    def check_length(self, length: int, what: str) -> None:
        """Raise unless ``length`` input tokens fit the model's context."""
        if length > self.context:
            raise ConfigurationError(
                f"{what} needs {length} input tokens, but the model's context is {self.context}. Lower the window or length."
            )

    # --- scoring -------------------------------------------------------------------------------------------------

    def windows(self, windows: Sequence[Window], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """Summed NLL of each window's targets, nats, float64, in the order given.

        Windows are sorted by length, so that almost nothing is padded; padding stands on the
        right, where a causal model cannot see it. The head takes the rows of several batches
        at once, since it reads its weights anew for every call.
        """
        totals = np.zeros(len(windows))
        order = sorted(range(len(windows)), key=lambda index: (-len(windows[index].inputs), index))
        for group in self._groups(order, windows):
            totals[group] = split_when_full(lambda part: self._score_windows([windows[i] for i in part]), group)
            if progress:
                progress(len(group))
        return totals

    def _groups(self, order: list[int], windows: Sequence[Window]) -> Iterable[list[int]]:
        group: list[int] = []
        tokens = 0
        for index in order:
            length = len(windows[index].inputs)
            if group and tokens + length > self.pass_tokens:
                yield group
                group, tokens = [], 0
            group.append(index)
            tokens += length
        if group:
            yield group

    def _batches(self, windows: Sequence[Window]) -> Iterable[list[Window]]:
        batch: list[Window] = []
        longest = tokens = 0
        for window in windows:
            length = len(window.inputs)
            wasteful = longest * (len(batch) + 1) > PADDING * (tokens + length)
            # padding would take a short text over the border, behind which positions are rotated otherwise
            apart = length <= self.border < longest
            if batch and (len(batch) >= self.fit(longest) or wasteful or apart):
                yield batch
                batch, longest, tokens = [], 0, 0
            batch.append(window)
            longest, tokens = max(longest, length), tokens + length
        yield batch

    @torch.inference_mode()
    def _score_windows(self, windows: Sequence[Window]) -> list[float]:
        hidden_ND = torch.cat([self._scored_rows(batch) for batch in self._batches(windows)])
        targets_N = torch.from_numpy(np.concatenate([window.targets for window in windows]).astype(np.int64))
        nll_N = self.rows_nll(hidden_ND, targets_N.to(self.device))
        parts = np.split(nll_N.double().cpu().numpy(), np.cumsum([len(window.targets) for window in windows])[:-1])
        return [float(part.sum()) for part in parts]

    def _scored_rows(self, batch: Sequence[Window]) -> Tensor:
        """Hidden states of the positions that predict targets, one window behind the other: ``[N, D]``."""
        longest = max(len(window.inputs) for window in batch)
        inputs_BS = np.zeros((len(batch), longest), np.int64)
        scored_BS = np.zeros((len(batch), longest), bool)
        for row, window in enumerate(batch):
            end = len(window.inputs)
            inputs_BS[row, :end] = window.inputs
            scored_BS[row, end - len(window.targets) : end] = True
        hidden_BSD = models.hidden_states(self.model, torch.from_numpy(inputs_BS).to(self.device))
        return hidden_BSD[torch.from_numpy(scored_BS).to(self.device)]

    def rows_nll(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """NLL of each row, nats, fp32; differentiable with respect to ``hidden_ND``."""
        return loss.token_nll(hidden_ND, self.head, targets_N, rows=self.rows, columns=self.columns)

    def inputs_of(self, ids_BT: Tensor) -> Tensor:
        """What goes into the model to score ``ids_BT``: the prefix, and all tokens but the last."""
        if self.prefix is None:
            return ids_BT[:, :-1]
        return torch.cat([ids_BT.new_full((len(ids_BT), 1), self.prefix), ids_BT[:, :-1]], dim=1)

    def nll_of_hidden(self, hidden_BSD: Tensor, ids_BT: Tensor) -> Tensor:
        """Loss of each token; one text at a time, so that the shape of a product, and its rounding, is the text's own."""
        scored_BS = ids_BT[:, ids_BT.shape[1] - hidden_BSD.shape[1] :]
        nll_BS = torch.stack(
            [self.rows_nll(hidden_SD, ids_S) for hidden_SD, ids_S in zip(hidden_BSD, scored_BS, strict=True)]
        )
        missing = ids_BT.shape[1] - nll_BS.shape[1]
        return torch.nn.functional.pad(nll_BS, (missing, 0)) if missing else nll_BS

    def texts(self, ids_BT: Tensor) -> Tensor:
        """NLL of every text token, ``[B, T]`` fp32 on the CPU; an unscored first token has 0."""

        @torch.inference_mode()
        def score(rows: Sequence[int]) -> list[Tensor]:
            part_BT = ids_BT[rows[0] : rows[-1] + 1].to(self.device)
            hidden_BSD = models.hidden_states(self.model, self.inputs_of(part_BT))
            return list(self.nll_of_hidden(hidden_BSD, part_BT).cpu())

        return torch.stack(self.in_batches(score, len(ids_BT), ids_BT.shape[1]))

    def in_batches(self, work: Callable[[Sequence[int]], list[Result]], count: int, length: int) -> list[Result]:
        """``work`` over ``count`` sequences of ``length`` tokens, as many at a time as memory takes; it gets their numbers."""
        step, results = self.fit(length), []
        for first in range(0, count, step):
            results += split_when_full(work, range(first, min(first + step, count)))
        return results

    def flips(
        self, ids_BT: Tensor, nll_BT: Tensor, rows_N: np.ndarray, places_N: np.ndarray, tokens_N: np.ndarray
    ) -> Tensor:
        """NLL of texts that differ from known ones in one token, ``[N, T]`` fp32 on the CPU.

        A causal model computes the same in front of the flip, so that part is taken from the known
        text: its losses as they are, its keys and values from a cache, cut at a multiple of `STRIDE`
        (equal cuts share a batch; the cut depends on the flip alone, so a batch never changes a result).

        Args:
            ids_BT, nll_BT: the known texts and their losses.
            rows_N, places_N, tokens_N: text, position (1 or later) and new token of each flip.
        """
        cuts_N = (places_N - 1) // STRIDE * STRIDE
        result_NT = nll_BT[torch.from_numpy(rows_N)].clone()
        known: dict[int, Any] = {}
        for cut in np.unique(cuts_N).tolist():
            chosen = np.flatnonzero(cuts_N == cut)
            changed_BT = ids_BT[torch.from_numpy(rows_N[chosen])].clone()
            changed_BT[torch.arange(len(chosen)), torch.from_numpy(places_N[chosen])] = torch.from_numpy(
                tokens_N[chosen]
            )
            if cut == 0:
                result_NT[torch.from_numpy(chosen)] = self.texts(changed_BT)
                continue
            if not known:
                known = self._remember(ids_BT)
            part = self._behind(known, rows_N[chosen], changed_BT, cut)
            result_NT[torch.from_numpy(chosen), cut + 1 :] = part
        return result_NT

    @torch.inference_mode()
    def _remember(self, ids_BT: Tensor) -> dict[int, Any]:
        """Keys and values of every layer for some texts: ``{layer: (keys, values)}``, ``[B, heads, S, width]``."""

        def run(rows: Sequence[int]) -> list[list[tuple[Tensor, Tensor]]]:
            inputs_BS = self.inputs_of(ids_BT[rows[0] : rows[-1] + 1].to(self.device))
            # the model's own kind of cache would drop what lies in front of a sliding window
            cache: Any = DynamicCache()
            given = models.positions(self.model, inputs_BS)
            self.model.base_model(input_ids=inputs_BS, past_key_values=cache, use_cache=True, **given)
            return [[(layer.keys[row], layer.values[row]) for layer in cache.layers] for row in range(len(rows))]

        texts = self.in_batches(run, len(ids_BT), 2 * ids_BT.shape[1])
        layers = range(len(texts[0]))
        return {layer: tuple(torch.stack([text[layer][side] for text in texts]) for side in (0, 1)) for layer in layers}

    def _behind(self, known: dict[int, Any], rows_N: np.ndarray, changed_NT: Tensor, cut: int) -> Tensor:
        """NLL of the tokens behind position ``cut`` of texts that equal known ones up to there."""
        start = cut + (self.prefix is not None)

        @torch.inference_mode()
        def score(part: Sequence[int]) -> list[Tensor]:
            members = slice(part[0], part[-1] + 1)
            rows = torch.from_numpy(rows_N[members]).to(self.device)
            cache = DynamicCache()
            for layer, (keys, values) in known.items():
                cache.update(keys[rows, :, :start], values[rows, :, :start], layer)
            ids_BT = changed_NT[members].to(self.device)
            inputs_BS, given = ids_BT[:, cut:-1], models.positions(self.model, ids_BT[:, cut:-1], start)
            output = self.model.base_model(input_ids=inputs_BS, past_key_values=cache, use_cache=True, **given)
            return list(self.nll_of_hidden(output.last_hidden_state, ids_BT[:, cut + 1 :]).cpu())

        return torch.stack(self.in_batches(score, len(rows_N), changed_NT.shape[1]))

    def gradients(self, ids_BT: Tensor, weights_BT: Tensor) -> tuple[Tensor, Tensor]:
        """NLL of every token and the slope of their weighted sum at every text position.

        Args:
            weights_BT: weight of each token's NLL in the sum that is differentiated.

        Returns:
            ``(nll_BT, grad_BTD)``, fp32 on the CPU; ``grad[b, t]`` is d(sum) / d(embedding of text
            token t). The last token is no input, so its slope is 0.
        """

        def slope(rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
            part_BT = ids_BT[rows[0] : rows[-1] + 1].to(self.device)
            inputs_BS = self.inputs_of(part_BT)
            embeds_BSD = self.embedding(inputs_BS).detach().requires_grad_()
            hidden_BSD = models.hidden_states(self.model, inputs_embeds_BTD=embeds_BSD)
            nll_BT = self.nll_of_hidden(hidden_BSD, part_BT)
            (grad_BSD,) = torch.autograd.grad(
                (nll_BT * weights_BT[rows[0] : rows[-1] + 1].to(self.device)).sum(), embeds_BSD
            )
            text_BTD = grad_BSD[:, 1:] if self.prefix is not None else grad_BSD
            grad_BTD = torch.nn.functional.pad(text_BTD, (0, 0, 0, 1))
            return list(zip(nll_BT.detach().cpu(), grad_BTD.cpu(), strict=True))

        pairs = self.in_batches(slope, len(ids_BT), 3 * ids_BT.shape[1])
        return torch.stack([nll for nll, _ in pairs]), torch.stack([grad for _, grad in pairs])

    def states(self, before_T: Tensor, after_T: Tensor) -> list[Tensor]:
        """Hidden states that predict the tokens of two texts, ``[S, D]`` each."""
        sides = [self.inputs_of(ids_T[None].to(self.device)) for ids_T in (before_T, after_T)]
        if sides[0].shape == sides[1].shape:
            return list(models.hidden_states(self.model, torch.cat(sides)))
        return [models.hidden_states(self.model, side)[0] for side in sides]

    @torch.inference_mode()
    def compare(self, before_T: Tensor, after_T: Tensor, temperature: float = 1.0) -> Comparison:
        """How the predictions of one text's tokens differ from those of another's, aligned at the end.

        Args:
            temperature: of the losses in the result (logits / temperature), and of nothing else.
        """
        return self.compare_hidden(self.states(before_T, after_T), (before_T, after_T), temperature)

    @torch.inference_mode()
    def compare_hidden(
        self, hidden: Sequence[Tensor], texts: tuple[Tensor, Tensor], temperature: float = 1.0
    ) -> Comparison:
        """`compare` from what the vocabulary projection sees of both sides, ``[S, D]`` each, aligned at the end."""
        before_T, _ = texts
        head = self.head
        count = min(len(hidden_SD) for hidden_SD in hidden)
        targets = [ids_T[-count:].to(self.device) for ids_T in texts]
        parts: list[list[Tensor]] = []
        size = loss.chunk_rows(len(head.weight_VD), self.device, self.rows)
        for first in range(0, count, size):
            rows = slice(first, min(first + size, count))
            logits = [head.logits(side_SD[-count:][rows]) for side_SD in hidden]
            log_before, log_after = (logits_RV.log_softmax(-1) for logits_RV in logits)
            best = [log_RV.argmax(-1) for log_RV in (log_before, log_after)]
            kl_R = (log_before.exp() * (log_before - log_after)).sum(-1)
            right = [best_R == targets_N[rows] for best_R, targets_N in zip(best, targets, strict=True)]
            nll = [
                -(logits_RV / temperature).log_softmax(-1).gather(1, targets_N[rows, None])[:, 0]
                for logits_RV, targets_N in zip(logits, targets, strict=True)
            ]
            parts.append([kl_R, best[0] == best[1], *right, *nll])
        missing = len(before_T) - count

        def whole(pieces: Sequence[Tensor]) -> Tensor:
            joined = torch.cat(list(pieces)).cpu()
            return torch.nn.functional.pad(joined, (missing, 0), value=joined.dtype == torch.bool)

        return Comparison(*(whole(pieces) for pieces in zip(*parts, strict=True)))
