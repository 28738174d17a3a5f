"""Readers: where text comes from, document by document."""
