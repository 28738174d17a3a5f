"""Talking to a hub: what its failures mean, and trying again."""
