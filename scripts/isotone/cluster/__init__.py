"""Slurm: its queue, its records, requeueing."""
