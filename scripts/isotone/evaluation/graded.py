"""The corpus of graded sentences: the same sentence with a weaker and a stronger word.

Axes x topics x templates x levels. A level has several words, so that a chain can be
written with words of equal length in tokens: a model must not tell "stronger" from "longer".
Train and test share neither a topic nor a template.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from isotone.errors import ConfigurationError
from isotone.evaluation.streams import stream

# Each axis: four levels, weak to strong, with interchangeable words.
AXES: dict[str, list[list[str]]] = {
    "size": [["tiny", "little", "slight"], ["small", "modest", "short"], ["large", "big", "wide"], ["huge", "vast", "immense"]],
    "heat": [["frozen", "icy", "frosty"], ["cold", "cool", "chill"], ["warm", "mild", "heated"], ["hot", "burning", "fiery"]],
    "quality": [["vile", "awful", "evil"], ["bad", "poor", "weak"], ["good", "fine", "fair"], ["perfect", "excellent", "best"]],
    "age": [["new", "newborn", "newest"], ["young", "fresh", "recent"], ["old", "aged", "elder"], ["ancient", "eternal", "oldest"]],
    "light": [["black", "pitch dark", "lightless"], ["dark", "dim", "dull"], ["bright", "light", "clear"], ["blazing", "shining", "glorious"]],
    "wealth": [["destitute", "naked", "ruined"], ["poor", "needy", "humble"], ["rich", "wealthy", "noble"], ["royal", "richest", "golden"]],
    "courage": [["terrified", "fearful", "trembling"], ["timid", "afraid", "shy"], ["brave", "bold", "strong"], ["fearless", "mighty", "heroic"]],
    "certainty": [["false", "impossible", "denied"], ["doubtful", "unsure", "unclear"], ["likely", "true", "probable"], ["certain", "sure", "proven"]],
    "frequency": [["unknown", "unseen", "unheard"], ["rare", "seldom", "scarce"], ["common", "frequent", "usual"], ["constant", "daily", "endless"]],
    "joy": [["desperate", "wretched", "mourning"], ["sad", "sorry", "grieved"], ["glad", "happy", "merry"], ["joyful", "blessed", "rejoicing"]],
    "holiness": [["cursed", "wicked", "profane"], ["unclean", "common", "worldly"], ["clean", "pure", "just"], ["holy", "sacred", "divine"]],
    "strength": [["broken", "dead", "lifeless"], ["weak", "feeble", "faint"], ["strong", "firm", "stout"], ["mighty", "invincible", "almighty"]],
    "anger": [["gentle", "meek", "peaceful"], ["calm", "quiet", "still"], ["angry", "wroth", "bitter"], ["furious", "raging", "fierce"]],
    "number": [["absent", "none", "gone"], ["few", "scant", "single"], ["many", "several", "plenty"], ["countless", "numberless", "infinite"]],
}  # fmt: skip
TOPICS = [
    "the king", "the river", "the city", "the house", "the servant", "the people", "the mountain", "the prophet", "the field",
    "the army", "the garden", "the temple", "the shepherd", "the sea", "the child", "the stranger", "the vineyard", "the altar",
]  # fmt: skip
TEMPLATES = [
    "They said that {topic} was {word}.",
    "In those days {topic} seemed {word}.",
    "And {topic} became {word} again.",
]
LEVELS = 4
TRAIN_TOPICS, TRAIN_TEMPLATES = 9, 2


@dataclass(frozen=True)
class Chain:
    """One sentence at all levels, weak to strong.

    Attributes:
        pairs: (weaker, stronger) levels whose sentences have the same number of tokens.
    """

    axis: str
    topic: str
    template: int
    part: str
    sentences: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """What rows call it."""
        return f"{self.axis}/{self.topic}/{self.template}"


def split_of(seed: int) -> tuple[set[str], set[int]]:
    """Topics and templates of the training part; the test part has the others."""
    topics = stream(seed, "order", "topics").permutation(len(TOPICS))[:TRAIN_TOPICS]
    templates = stream(seed, "order", "templates").permutation(len(TEMPLATES))[:TRAIN_TEMPLATES]
    return {TOPICS[index] for index in topics}, {int(index) for index in templates}


def chains(axes: int, seed: int, length_of: Callable[[str], int]) -> list[Chain]:
    """All chains of both parts; cells that mix a part's topic with the other's template are left out.

    Args:
        length_of: number of tokens of a sentence under the model's tokenizer.

    Raises:
        ConfigurationError: if there are not so many axes.
    """
    if axes > len(AXES):
        raise ConfigurationError(f"order_preservation.axes is {axes}, but the corpus has {len(AXES)} axes. Lower it.")
    topics, templates = split_of(seed)
    found = []
    for axis in list(AXES)[:axes]:
        for topic, template in itertools.product(TOPICS, range(len(TEMPLATES))):
            if (topic in topics) != (template in templates):
                continue
            part = "train" if topic in topics else "test"
            found.append(_chain(axis, topic, template, part, length_of))
    return found


def _chain(axis: str, topic: str, template: int, part: str, length_of: Callable[[str], int]) -> Chain:
    """The words of each level that give the most pairs of equal length; ties go to the words listed first."""

    def sentence(word: str) -> str:
        text = TEMPLATES[template].format(topic=topic, word=word)
        return text[0].upper() + text[1:]

    options = [[(sentence(word), length_of(sentence(word))) for word in words] for words in AXES[axis]]
    best: tuple[tuple[str, ...], tuple[tuple[int, int], ...]] = ((), ())
    for choice in itertools.product(*options):
        pairs = tuple(
            (low, high) for low, high in itertools.combinations(range(LEVELS), 2) if choice[low][1] == choice[high][1]
        )
        if not best[0] or len(pairs) > len(best[1]):
            best = (tuple(text for text, _ in choice), pairs)
    return Chain(axis, topic, template, part, *best)
