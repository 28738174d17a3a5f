"""Settings of perplexity and order preservation."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.errors import ConfigurationError
from isotone.schema import section, setting

PROTOCOLS = ["rolling", "strided", "llamacpp", "document"]
SHORTEST = 16  # text tokens; protocol `document` and the attacks leave out what is shorter, and count it


@dataclass(frozen=True)
class Perplexity:
    """Clean quality under named protocols."""

    protocols: list[str] = setting(
        PROTOCOLS, "which protocols", items={"enum": PROTOCOLS}, minItems=1, uniqueItems=True
    )
    length: int = setting(256, "window in tokens", minimum=8)
    stride: int = setting(128, "stride of protocol `strided`", minimum=1)
    documents: int = setting(0, "test documents scored, drawn with data.seed; 0: all", minimum=0)

    def needs(self, document_start: str) -> dict[str, int]:
        """Text tokens that a document needs to be scored, by protocol."""
        prefix = 0 if document_start == "none" else 1
        fewest = {"rolling": 2 - prefix, "strided": 2, "llamacpp": self.length - prefix, "document": SHORTEST}
        return {protocol: fewest[protocol] for protocol in self.protocols}


@dataclass(frozen=True)
class OrderPreservation:
    """Whether hidden states keep the order of graded sentences."""

    run: bool = setting(False, "measure it")
    axes: int = setting(12, "semantic axes", minimum=1)
    probes: int = setting(16, "probe directions per layer", minimum=1)
    seed: int = setting(0, "splits and nulls", minimum=0)


@dataclass(frozen=True)
class Generation:
    """What an encoder-decoder model writes, and what it is compared with."""

    beams: int = setting(4, "beams; 1: greedy", minimum=1)
    length_penalty: float = setting(
        1.0, "exponent of the length that a beam's score is divided by; above 0 favours longer outputs"
    )
    early_stopping: bool = setting(True, "a search ends as soon as it has as many finished outputs as beams")
    min_new_tokens: int = setting(0, "fewest tokens written", minimum=0)
    max_new_tokens: int = setting(
        80, "most tokens written, EOS included; outputs that end there are counted", minimum=1
    )
    no_repeat_ngram: int = setting(0, "no run of so many tokens is written twice; 0: it may", minimum=0)
    documents: int = setting(0, "test documents written for, drawn with data.seed; 0: all", minimum=0)
    attacks: list[str] = setting(
        ["hotflip"],
        "attacks after which a model writes once more: how far the output itself falls",
        items={"minLength": 1},
        uniqueItems=True,
    )
    lead: int = setting(3, "sentences of the source that the lead baseline takes", minimum=1)

    def __post_init__(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigurationError(
                f"generation.min_new_tokens is {self.min_new_tokens}, and generation.max_new_tokens is {self.max_new_tokens}: no "
                "output could end. Lower the first, or raise the second."
            )


@dataclass(frozen=True)
class PerplexityJob:
    """`scripts/perplexity.py --settings`."""

    perplexity: Perplexity = section(Perplexity, "protocols and windows")
    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])
    window: int = setting(128, "text tokens of protocol `document`: attacks.shared.window", minimum=16)


@dataclass(frozen=True)
class OrderJob:
    """`scripts/order_preservation.py --settings`."""

    order: OrderPreservation = section(OrderPreservation, "corpus, probes and nulls")
    document_start: str = setting("bos", "token in front of every sentence", enum=["bos", "eos", "none"])
    prefix: str = setting("", "of an encoder-decoder model, the text in front of every source")


@dataclass(frozen=True)
class GenerateJob:
    """`scripts/generate.py --settings`."""

    generation: Generation = section(Generation, "how it writes")
