"""From rows to tables, figures and one report."""
