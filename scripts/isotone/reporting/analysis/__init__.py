"""Analysis: comparisons, gates, verdicts."""
