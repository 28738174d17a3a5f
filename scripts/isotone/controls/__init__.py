"""Controls: models of equal clean quality, and the winner of a sweep."""
