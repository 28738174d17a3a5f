"""The whole study: all settings together, read from YAML, checked, and published as schema and README."""
