"""Where the text came from, in sentences: the source and parts that were really used, and what the model may have seen."""

from __future__ import annotations

from isotone.records import Json


def _name(source: Json) -> str:
    """A source as its marker describes it; local ones by their last name only."""
    name = str(source.get("package") or source.get("name") or source.get("source"))
    details = [f"{key} {source[key]}" for key in ("version", "subset", "revision") if source.get(key)]
    other = f", with the targets of {source['targets']} {source['targets_version']}" if source.get("targets") else ""
    return f"{name} ({', '.join([str(source['source']), *details])}){other}"


def _parts(corpus: Json) -> list[str]:
    """Splits that asked for named parts: which part served, and which were asked for in vain before it."""
    found = []
    for split, facts in sorted(corpus.get("splits", {}).items()):
        if "part" not in facts:
            continue
        vain = facts.get("asked", [])[: facts.get("asked", []).index(facts["part"])]
        text = f"Split {split} is part {facts['part']} of the source"
        found.append(f"{text}, since {', '.join(vain)} could not be had." if vain else f"{text}.")
    return found


def origin(setup: Json, data: Json) -> list[str]:
    """What a reader must know of the text before comparing any number.

    Args:
        setup: facts of the model, of which ``test_text_seen_in_pretraining`` is used.
        data: ``corpus`` is the result of its marker; empty where a study was given without it.
    """
    corpus = data.get("corpus", {})
    sentences = []
    if used := corpus.get("used"):
        sentences.append(f"Source of the text: {_name(used)}.")
        if failed := corpus.get("failed_before"):
            sentences.append(
                f"That is an alternative: {len(failed)} preferred {'source' if len(failed) == 1 else 'sources'} "
                f"({', '.join(failed)}) could not be had."
            )
    sentences += _parts(corpus)
    if disjoint := corpus.get("disjoint"):
        sentences.append(f"Splits share no document: checked {disjoint}.")
    seen = setup.get("test_text_seen_in_pretraining")
    if seen == "possible":
        sentences.append(
            "The corpus on which the base model was pretrained may contain the test text: clean quality may flatter all arms."
        )
    elif seen == "no":
        sentences.append("The base model was pretrained by this study and has not seen the test text.")
    return sentences
