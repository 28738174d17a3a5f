"""Whether the hub has what a study wants of it, at the pinned revision, and lets this user have it."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.data import Data, Model, user_path
from isotone.environment import until
from isotone.hub.network import cache_in_words, explain, is_offline, is_transient, status_of
from isotone.planning.checks import Verdict
from isotone.studies.study import Study

PATIENCE = 10.0  # seconds that an answer may take
ORDER = ("green", "yellow", "red")


@dataclass(frozen=True)
class Wanted:
    """A model or a data set of the hub.

    Attributes:
        kind: ``model`` or ``data``, the section of the configuration.
        cached: what a study reads of it is in the cache.
    """

    kind: str
    name: str
    revision: str
    cached: bool


def _ask(wanted: Wanted) -> Verdict:
    """What the hub says: whether the revision is there, and whether files of a gated one are given out.

    Raises:
        Exception: of huggingface_hub or the connection.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    api = HfApi()
    asked = api.model_info if wanted.kind == "model" else api.dataset_info
    info = asked(wanted.name, revision=wanted.revision, timeout=PATIENCE)
    words = f"{wanted.name} ({wanted.revision}) is there, commit {str(info.sha)[:12]}"
    if info.gated:  # its page is public, its files are not
        names = [entry.rfilename for entry in info.siblings or []]
        names = [name for name in names if not name.endswith(".md") and not name.startswith(".")]
        if not names:
            return "yellow", f"{words}; it is gated, and shows no file by which access could be tried"
        repository = "model" if wanted.kind == "model" else "dataset"
        url = hf_hub_url(wanted.name, names[0], repo_type=repository, revision=wanted.revision, endpoint=api.endpoint)
        get_hf_file_metadata(url, timeout=PATIENCE)
        words += "; it is gated, and you have access"
    return "green", f"{words}; {'in the cache' if wanted.cached else 'to be fetched'}"


def _judge(wanted: Wanted) -> Verdict:
    """Ask, unless the hub is cut off."""
    if is_offline():
        if wanted.cached:
            return (
                "green",
                f"{wanted.name} is in the cache ({cache_in_words()}); HF_HUB_OFFLINE is set, nobody was asked",
            )
        return (
            "red",
            f"HF_HUB_OFFLINE is set and {wanted.name} is not in the cache ({cache_in_words()}). "
            f"Fetch first, online: {until('fetch')}",
        )
    try:
        return _ask(wanted)
    except Exception as error:  # any failure of asking is a finding; `explain` knows what each means
        words = str(explain(error, wanted.kind, wanted.name, wanted.revision))
        if wanted.cached:
            return "yellow", f"{words} It is in the cache: to work from there, export HF_HUB_OFFLINE=1."
        if status_of(error) and is_transient(error):
            return "yellow", f"{words} Fetching tries again for some minutes."
        return "red", words


def _model(model: Model) -> Verdict:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    return _judge(Wanted("model", model.name, model.revision, isinstance(found, str)))


def _text(data: Data) -> Verdict:
    """The first source that can be had decides; yellow if it is not the first of all."""
    from isotone.data.readers.dataset import cached
    from isotone.data.readers.sources import wanted_rows

    failed: list[str] = []
    for source in data.candidates():
        if source.source == "hub":
            here = cached(source, None, wanted_rows(data.documents)).exists()
            verdict = _judge(Wanted("data", source.name, source.revision, here))
        elif source.source == "local" and not user_path(source.path).exists():
            verdict = "red", f"{source.path} does not exist."
        else:
            verdict = "green", f"text from {source.path or 'the embedded corpus'}"
        if verdict[0] != "red":
            if not failed:
                return verdict
            return "yellow", f"{'; '.join(failed)}. The next of data.alternatives is taken: {verdict[1]}"
        failed.append(verdict[1].removesuffix("."))
    return "red", "; ".join(failed)


def downloads(study: Study) -> Verdict:
    """Model and text of the hub: there, at this revision, and accessible; or in the cache where the hub is cut off."""
    verdicts = []
    if study.model.source == "hub":
        verdicts.append(_model(study.model))
    if any(source.source == "hub" for source in study.data.candidates()):
        verdicts.append(_text(study.data))
    if not verdicts:
        return "green", "not needed by this study"
    return max((colour for colour, _ in verdicts), key=ORDER.index), ". ".join(
        words.removesuffix(".") for _, words in verdicts
    )
