"""The training core: one trainer for every arm and world size, which may be killed at any instant."""
