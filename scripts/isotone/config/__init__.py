"""Typed settings; the one place where the schema of a study lives."""
