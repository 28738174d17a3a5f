"""Settings of perplexity, attacks, nulls and order preservation."""

from __future__ import annotations

from dataclasses import dataclass

from isotone.config.schema import section, setting

ATTACKS = ["hotflip", "uat", "query", "random", "gcg"]


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
class HotFlip:
    """First-order proposals, exact re-scoring."""

    flips: int = setting(5, "changed tokens per document (K)", minimum=1)
    candidates: int = setting(8, "proposals scored exactly per step (M)", minimum=1)
    beam: int = setting(1, "beam width (w)", minimum=1)
    one_shot: bool = setting(True, "also run the first study's form: all flips from one gradient, nothing re-scored")
    iterative: bool = setting(True, "run the greedy form with exact re-scoring")


@dataclass(frozen=True)
class UniversalTrigger:
    """One trigger for all documents; found on one set, measured on another."""

    length: int = setting(3, "trigger tokens", minimum=1)
    restarts: int = setting(2, "independent searches", minimum=1)
    iterations: int = setting(12, "coordinate steps per restart", minimum=1)
    candidates: int = setting(8, "proposals scored exactly per step", minimum=1)
    batch: int = setting(4, "search documents per step; four times as many confirm a change", minimum=1)


@dataclass(frozen=True)
class QueryAttack:
    """Greedy search without gradients, at hotflip's number of forward passes."""

    flips: int = setting(5, "changed tokens per document", minimum=1)
    candidates: int = setting(0, "random proposals per step; 0: as many forwards as hotflip spends", minimum=0)


@dataclass(frozen=True)
class RandomAttack:
    """Random flips at matched positions, and the best of N at the full budget."""

    flips: int = setting(5, "changed tokens per document", minimum=1)
    draws: int = setting(0, "draws for best of N; 0: as many forwards as hotflip spends", minimum=0)


@dataclass(frozen=True)
class GreedyCoordinateGradient:
    """GCG for untargeted loss."""

    form: str = setting(
        "document", "document: flips in each text; universal: one trigger for all", enum=["document", "universal"]
    )
    flips: int = setting(5, "positions that may change per document, or trigger tokens", minimum=1)
    iterations: int = setting(20, "steps", minimum=1)
    candidates: int = setting(32, "candidates scored per step", minimum=1)
    top: int = setting(64, "proposals per position", minimum=1)


@dataclass(frozen=True)
class Attacks:
    """Which attacks run, and with what budgets."""

    run: list[str] = setting(["hotflip", "uat", "query", "random"], "attacks of this study", uniqueItems=True)
    shared: AttackDocuments = section(AttackDocuments, "documents, positions and vocabulary")
    hotflip: HotFlip = section(HotFlip, "gradient-guided flips")
    uat: UniversalTrigger = section(UniversalTrigger, "universal adversarial triggers")
    query: QueryAttack = section(QueryAttack, "no gradients")
    random: RandomAttack = section(RandomAttack, "the floor")
    gcg: GreedyCoordinateGradient = section(GreedyCoordinateGradient, "greedy coordinate gradient")
    transfer: list[str] = setting(
        [], "attacks whose flips or triggers are replayed on every other run", uniqueItems=True
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
class AttackJob:
    """`scripts/attack.py --settings` and `scripts/transfer.py --settings`; what an attack does not use stays at its default."""

    shared: AttackDocuments = section(AttackDocuments, "documents, positions and vocabulary")
    document_start: str = setting("bos", "token in front of every document", enum=["bos", "eos", "none"])
    hotflip: HotFlip = section(HotFlip, "also the budget that query and random match")
    uat: UniversalTrigger = section(UniversalTrigger, "universal adversarial triggers")
    query: QueryAttack = section(QueryAttack, "no gradients")
    random: RandomAttack = section(RandomAttack, "the floor")
    gcg: GreedyCoordinateGradient = section(GreedyCoordinateGradient, "greedy coordinate gradient")


@dataclass(frozen=True)
class OrderJob:
    """`scripts/order_preservation.py --settings`."""

    order: OrderPreservation = section(OrderPreservation, "corpus, probes and nulls")
    document_start: str = setting("bos", "token in front of every sentence", enum=["bos", "eos", "none"])
