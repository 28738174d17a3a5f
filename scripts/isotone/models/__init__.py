"""Models: load, save, and find their parts by role in each architecture family."""

from isotone.data.tokenizer import load_tokenizer
from isotone.models.families import FAMILIES, family_of
from isotone.models.family import Family, context_of, longrope_border
from isotone.models.folder import load_model, save_model
from isotone.models.forward import embedding_of, head_of, hidden_states, positions, prefix_token, token_vectors
from isotone.models.parts import Projection, Sublayer

__all__ = [
    "FAMILIES",
    "Family",
    "Projection",
    "Sublayer",
    "context_of",
    "embedding_of",
    "family_of",
    "head_of",
    "hidden_states",
    "load_model",
    "load_tokenizer",
    "longrope_border",
    "positions",
    "prefix_token",
    "save_model",
    "token_vectors",
]
