"""Models: load, save, and find their parts by role in each architecture family."""

from isotone.models.families import FAMILIES, Family, Projection, Sublayer, family_of
from isotone.models.folder import load_model, load_tokenizer, save_model
from isotone.models.forward import embedding_of, head_of, hidden_states, prefix_token

__all__ = [
    "FAMILIES",
    "Family",
    "Projection",
    "Sublayer",
    "embedding_of",
    "family_of",
    "head_of",
    "hidden_states",
    "load_model",
    "load_tokenizer",
    "prefix_token",
    "save_model",
]
