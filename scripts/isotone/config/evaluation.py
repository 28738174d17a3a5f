"""Settings of perplexity, attack documents, controls and order preservation."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.schema import section, setting


@dataclass(frozen=True)
class Perplexity:
    """Clean quality under named protocols."""

    protocols: list[str] = setting(
        ["rolling", "strided", "llamacpp", "document"], "which protocols", minItems=1, uniqueItems=True
    )
    length: int = setting(256, "window in tokens", minimum=8)
    stride: int = setting(128, "stride of protocol `strided`", minimum=1)
    documents: int = setting(0, "test documents scored; 0: all", minimum=0)


@dataclass(frozen=True)
class AttackDocuments:
    """The fixed documents, positions and vocabulary that every attack shares."""

    seed: int = setting(0, "streams of random numbers, keyed by document, restart and step")
    documents: int = setting(32, "documents that attacks are measured on", minimum=1)
    search_documents: int = setting(32, "documents that universal triggers are searched on", minimum=1)
    window: int = setting(128, "text tokens of each document", minimum=16)
    vocabulary: str = setting("printable", "replacement tokens", enum=["printable", "ascii"])
    threat_model: str = setting(
        "tokens", "text: only flips that survive decoding and encoding", enum=["tokens", "text"]
    )
    doubling: int = setting(
        8, "documents on which search effort is doubled, for the gate (first seed only); 0: none", minimum=0
    )
    crossed: int = setting(
        8, "documents on which `transfer` proposes with one model and scores with another; 0: none", minimum=0
    )


@dataclass(frozen=True)
class Controls:
    """Controls of equal quality: what robustness a worse model has for free."""

    kinds: list[str] = setting(["tempered"], "which controls are made for each constrained arm", uniqueItems=True)
    attacks: list[str] = setting(["hotflip"], "attacks that run on the controls", uniqueItems=True)
    seed: int = setting(0, "noise of kind `noised`")
    tolerance: float = setting(1e-3, "how closely the clean loss is matched, nats per token", exclusiveMinimum=0)


@dataclass(frozen=True)
class OrderPreservation:
    """Whether hidden states keep the order of graded sentences."""

    run: bool = setting(False, "measure it")
    axes: int = setting(12, "semantic axes", minimum=1)
    probes: int = setting(16, "probe directions per layer", minimum=1)
    seed: int = setting(0, "splits and nulls")


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
