"""Isotone on one GPU: everything that only a GPU can show, in one command (`python -m benchmarks.gpu`)."""
