"""Watch the NVIDIA GPUs of this machine: a line a second and GPU until Ctrl-C; rows as in a run's gpu.jsonl with --file."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from isotone.environment import say
from isotone.errors import ConfigurationError
from isotone.records import Json


def options(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument("--file", type=Path, help="append rows to this file too (gpu.jsonl), which stays bounded")
    parser.add_argument("--json", action="store_true", help="print rows as JSON, for scripts")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between readings (default: %(default)s)")


def line(row: Json) -> str:
    """One reading for people."""
    return (
        f"{time.strftime('%H:%M:%S', time.localtime(row['time']))}  GPU {row['gpu']}  {row['utilisation']:3.0f} %  "
        f"{row['memory'] / 2**30:.1f} of {row['total'] / 2**30:.1f} GiB  {row['temperature']:.0f} C  {row['power']:.0f} W"
    )


def tell(kind: str, **facts: object) -> None:
    """Advice and alarms, beside the readings."""
    say(f"{kind}: {', '.join(f'{key} {value}' for key, value in facts.items())}")


def run(arguments: argparse.Namespace) -> int:
    """Read until Ctrl-C, or until nobody reads what is printed.

    Raises:
        ConfigurationError: if there is no NVIDIA GPU, or the file cannot be written.
    """
    from isotone.training.telemetry.gpu import Monitor

    if not arguments.every > 0:
        raise ConfigurationError(f"--every is {arguments.every}. Give seconds above 0.")
    if arguments.file and not os.access(arguments.file if arguments.file.exists() else arguments.file.parent, os.W_OK):
        raise ConfigurationError(f"--file {arguments.file} cannot be written. Give a file in a folder that is yours.")
    monitor = Monitor(arguments.file, tell, alone=True)
    if not monitor.gpus.handles:
        raise ConfigurationError(
            f"No NVIDIA GPU can be read on this machine ({monitor.gpus.trouble}). Run this where there is one, with its "
            "driver; inside a container, let the driver's management library in (--nv, --gpus all)."
        )
    try:
        while True:
            for row in monitor.look():
                print(json.dumps(row) if arguments.json else line(row), flush=True)
            time.sleep(arguments.every)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # such as `| head`; the interpreter must not try to write the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
