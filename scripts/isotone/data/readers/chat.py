"""Chats: rendered with the tokenizer's own template, with a mask of what is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isotone.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, str]]


def assistant_spans(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> tuple[str, list[tuple[int, int]]]:
    """The rendered chat, and the character spans that the assistant wrote.

    A span begins where the template asks the assistant to speak and ends with the
    turn, end-of-turn marker included, since the model must learn to stop.

    Raises:
        ConfigurationError: if the template has no fixed prefix per turn, so that
            the spans cannot be told apart.
    """
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    spans = []
    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = (
            str(tokenizer.apply_chat_template(turns[:index], tokenize=False, add_generation_prompt=True))
            if index
            else ""
        )
        until = str(tokenizer.apply_chat_template(turns[: index + 1], tokenize=False))
        if not (whole.startswith(before) and whole.startswith(until.rstrip())):
            raise ConfigurationError(
                'data.score is "assistant", but this tokenizer\'s chat template renders a turn differently once others '
                'follow it, so the assistant\'s part cannot be marked. Set data.score to "all".'
            )
        spans.append((len(before), len(until) if whole.startswith(until) else len(until.rstrip())))
    return whole, spans


def encode_chat(tokenizer: PreTrainedTokenizerBase, turns: Turns, score: str) -> tuple[list[int], list[bool]] | None:
    """Token ids of a chat and whether each is scored; the template's first BOS and last EOS are left to the packing.

    Returns None for a chat whose contents spell out a special token: it would
    turn into control tokens that nobody meant.

    Args:
        score: ``all`` or ``assistant``.

    Raises:
        ConfigurationError: if the tokenizer has no chat template, or ``assistant`` cannot be marked.
    """
    if not tokenizer.chat_template:
        raise ConfigurationError(
            "data.messages is set, but this model's tokenizer has no chat template. "
            "Choose an instruction-tuned model, or a column of plain text (data.column)."
        )
    if any(special in turn["content"] for turn in turns for special in tokenizer.all_special_tokens):
        return None
    try:
        if score == "assistant":
            text, spans = assistant_spans(tokenizer, turns)
        else:
            text, spans = str(tokenizer.apply_chat_template(turns, tokenize=False)), []
    except ConfigurationError:
        raise
    except Exception as error:  # a template may refuse a chat in its own words (order of roles, no system turn)
        raise ValueError(str(error)) from None
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
    if score == "all":
        scored = [True] * len(ids)
    else:
        scored = [any(start >= low and end <= high for low, high in spans) for start, end in offsets]
    if ids and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id:
        ids, scored = ids[1:], scored[1:]
    if ids and ids[-1] == tokenizer.eos_token_id and tokenizer.bos_token_id != tokenizer.eos_token_id:
        ids, scored = ids[:-1], scored[:-1]
    return ids, scored
