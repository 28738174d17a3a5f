"""Settings of what all attacks share; a module of its own, so that documents are not chosen anew with an attack's code."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.schema import section, setting


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
class DocumentsJob:
    """`scripts/attack_documents.py --settings`."""

    shared: AttackDocuments = section(AttackDocuments, "documents, positions and vocabulary")
    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])
