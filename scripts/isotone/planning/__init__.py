"""Before anything runs: memory arithmetic, estimates and checks."""
