"""The commands of `isotone`: each module has ``options(parser)`` and ``run(arguments)``."""
