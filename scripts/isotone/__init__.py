"""Isotone: honest measurement of monotone language models."""

__version__ = "0.1.0"
