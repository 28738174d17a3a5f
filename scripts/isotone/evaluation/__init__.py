"""Clean quality, the scoring kernel, what a model writes, and the order of graded sentences."""
