"""Is this run sharded? `operation.sharding`, and what it cannot do."""

from __future__ import annotations

from pathlib import Path

from isotone.config.training import Operation, Training, TrainJob
from isotone.planning.capacity import training_memory
from isotone.planning.shape import shape_of_config
from isotone.records import read_json
from isotone.training.micro_batch import memory_limit
from isotone.training.supervision.outcome import ResourceError
from isotone.training.world import World


def is_sharded(job: TrainJob, operation: Operation, world: World, start: Path) -> bool:
    """Whether this run's model is dealt out over its processes; the same in all of them.

    ``auto`` shards on GPUs where the whole would not fit into one; a single process never does.

    Raises:
        ResourceError: if it must be sharded and cannot be.
    """
    if world.size == 1 or operation.sharding == "none":
        return False
    if operation.sharding == "auto" and not world.any(_is_too_large(job, world, start))[0]:
        return False
    check(job.training)
    if read_json(start / "config.json").get("is_encoder_decoder"):
        raise ResourceError(
            "This model has an encoder, and encoder-decoder models are not sharded. Set operation.sharding: none, or take fewer or "
            "larger devices."
        )
    return True


def _is_too_large(job: TrainJob, world: World, start: Path) -> bool:
    if world.device.type != "cuda":
        return False
    shape = shape_of_config(read_json(start / "config.json"))
    constrained = job.constraint.scope != "none"
    return training_memory(shape, job.training, constrained=constrained).total > memory_limit(world.device)


def check(training: Training) -> None:
    """Refuse what has not been shown to work on shards.

    Raises:
        ResourceError: with the setting that does.
    """
    for wrong, sentence in (
        (training.micro_batch == "auto", "training.micro_batch is auto, whose search no other process would wait for"),
        (training.pure_bf16, "training.pure_bf16 trains in the parameters' own type, of which shards keep no copy"),
    ):
        if wrong:
            raise ResourceError(f"{sentence}; it is not sharded. Change it, or set operation.sharding: none.")
