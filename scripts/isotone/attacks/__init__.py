"""Attacks on token ids: an objective that scores texts, proposals, and a search."""
