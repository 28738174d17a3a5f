"""Settings of perplexity, attack documents, controls and order preservation."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.attacks.registry import SPECS
from isotone.config.schema import section, setting

ATTACKS = list(SPECS)
PROTOCOLS = ["rolling", "strided", "llamacpp", "document"]
CONTROLS = ["tempered", "noised", "early"]
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
class AttackDocuments:
    """The fixed documents, positions and vocabulary that every attack shares."""

    seed: int = setting(0, "streams of random numbers, keyed by document, restart and step", minimum=0)
    documents: int = setting(32, "documents that attacks are measured on, drawn with data.seed", minimum=1)
    search_documents: int = setting(32, "documents that universal triggers are searched on, drawn likewise", minimum=1)
    window: int = setting(128, "text tokens of each document", minimum=16)
    vocabulary: str = setting("printable", "replacement tokens", enum=["printable", "ascii"])
    threat_model: str = setting(
        "tokens", "text: only flips that survive decoding and encoding", enum=["tokens", "text"]
    )
    fresh_starts: int = setting(
        8,
        "documents that each search attacks once more from a fresh start, to judge convergence by (first seed only); 0: none",
        minimum=0,
    )
    crossed: int = setting(
        8, "documents on which `transfer` proposes with one model and scores with another; 0: none", minimum=0
    )


@dataclass(frozen=True)
class Controls:
    """Controls of equal quality: what robustness a worse model has for free."""

    kinds: list[str] = setting(
        ["tempered"], "which controls are made for each constrained arm", items={"enum": CONTROLS}, uniqueItems=True
    )
    attacks: list[str] = setting(
        ["hotflip"], "attacks that run on the controls", items={"enum": ATTACKS}, uniqueItems=True
    )
    seed: int = setting(0, "noise of kind `noised`", minimum=0)
    tolerance: float = setting(1e-3, "how closely the clean loss is matched, nats per token", exclusiveMinimum=0)
    match: str = setting(
        "attacked",
        "the text on which it is matched: the attacked documents, unchanged, or validation blocks (a sweep must not read the former)",
        enum=["attacked", "validation"],
    )


@dataclass(frozen=True)
class OrderPreservation:
    """Whether hidden states keep the order of graded sentences."""

    run: bool = setting(False, "measure it")
    axes: int = setting(12, "semantic axes", minimum=1)
    probes: int = setting(16, "probe directions per layer", minimum=1)
    seed: int = setting(0, "splits and nulls", minimum=0)


@dataclass(frozen=True)
class PerplexityJob:
    """`scripts/perplexity.py --settings`."""

    perplexity: Perplexity = section(Perplexity, "protocols and windows")
    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])
    window: int = setting(128, "text tokens of protocol `document`: attacks.shared.window", minimum=16)


@dataclass(frozen=True)
class DocumentsJob:
    """`scripts/attack_documents.py --settings`."""

    shared: AttackDocuments = section(AttackDocuments, "documents, positions and vocabulary")
    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])


@dataclass(frozen=True)
class OrderJob:
    """`scripts/order_preservation.py --settings`."""

    order: OrderPreservation = section(OrderPreservation, "corpus, probes and nulls")
    document_start: str = setting("bos", "token in front of every sentence", enum=["bos", "eos", "none"])
