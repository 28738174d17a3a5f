"""Checkpoints: whole or absent, verified, and held by one trainer at a time."""
