"""Clean quality, the scoring kernel, and the order of graded sentences."""
