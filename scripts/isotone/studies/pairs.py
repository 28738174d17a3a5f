"""What a study of pairs (`data.task: pairs`) cannot do, said before any job starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from isotone.attacks.registry import SPECS
from isotone.errors import ConfigurationError
from isotone.schema import suggestion

if TYPE_CHECKING:
    from isotone.studies.study import Study


def check(study: Study) -> None:
    """Refuse what would give a wrong number, or none.

    Raises:
        ConfigurationError: one paragraph on the first such setting.
    """
    scratch = study.model.source == "scratch"
    encodes = study.model.architecture.family == "t5"
    if study.data.task == "text":
        if scratch and encodes:
            raise ConfigurationError(
                "model.architecture.family is t5, an encoder-decoder model, but data.task is text. Set data.task: pairs, or choose "
                "gpt_neox or llama."
            )
        return
    if scratch and not encodes:
        raise ConfigurationError(
            f"data.task is pairs, but model.architecture.family is {study.model.architecture.family}, which has no encoder. Choose t5."
        )
    for sentence in _refused(study):
        raise ConfigurationError(sentence)


def _refused(study: Study) -> Iterator[str]:
    data, shared = study.data, study.attacks.shared
    if study.model.source == "gguf":
        yield "data.task is pairs, but model.source is gguf, which holds decoder-only models. Choose scratch, local or hub."
    if study.perplexity.protocols != ["document"]:
        yield (
            f"perplexity.protocols is {study.perplexity.protocols}, but a target has one protocol only: all of it, its end included, "
            "given its source. Write perplexity.protocols: [document]."
        )
    jobs = {f"arms.{arm}.training": study.training_of(arm) for arm in study.arms}
    if study.model.source == "scratch":
        jobs["base.training"] = study.base_job().training
    for key, training in jobs.items():
        if training.precision == "fp16":
            yield f"{key}.precision is fp16, in which T5 overflows. Choose fp32 or bf16."
        if training.length < data.pairs.max_source:
            yield (
                f"{key}.length is {training.length}, but a source may have {data.pairs.max_source} tokens (data.pairs.max_source), and a "
                "row has to hold the longest pair. Raise training.length, or lower max_source."
            )
    if shared.threat_model == "text":
        yield "attacks.shared.threat_model is text, which is not written for the sources of pairs. Choose tokens."
    for attack in study.generation.attacks:
        if attack not in study.attacks.run:
            yield (
                f'generation.attacks has "{attack}", which is not in attacks.run.{suggestion(attack, study.attacks.run)} A model writes '
                "from sources that this study attacked; add the attack, or take it out of generation.attacks."
            )
        elif SPECS[attack].universal(study.attacks.of(attack)) or SPECS[attack].rows:
            yield f'generation.attacks has "{attack}", whose rows name no changed tokens of each source. Name an attack that flips tokens.'
    for key, names in (("attacks.run", study.attacks.run), ("controls.attacks", study.controls.attacks)):
        for name in names:
            if not SPECS[name].on_pairs or SPECS[name].universal(study.attacks.of(name)):
                can = ", ".join(each for each, spec in SPECS.items() if spec.on_pairs)
                yield f'{key} has "{name}", which attacks texts only; data.task is pairs. Take it out (for pairs: {can}).'
