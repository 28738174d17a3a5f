"""Figures: vector PDF for the paper, PNG for the report; the same bytes from the same data."""
