"""Subcommands of `python -m isotone`: each module has ``options(parser)`` and ``run(arguments)``."""
