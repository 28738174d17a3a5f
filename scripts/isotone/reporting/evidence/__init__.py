"""Evidence: all rows of a study, complete and checked."""
