"""Train one arm from one seed. May be killed at any instant and started again: it goes on where it stood.

Exit codes: 0 done; 75 not done, run again; 74 input or output; 78 settings or data; 70 diverged.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from isotone import environment, errors
from isotone.config.training import Operation, TrainJob
from isotone.gpus import granted
from isotone.layout import state_root
from isotone.schema import parse
from isotone.training.identity import identify
from isotone.training.inputs import Outputs, Run
from isotone.training.supervision.outcome import check_start, leave_code
from isotone.training.supervision.startlog import keep_log
from isotone.training.supervision.supervisor import Supervisor, torchrun


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="training settings of this run (JSON; see config/README.md)")
    parser.add_argument("--operation", default="", help="how the run is operated (JSON); changes no result")
    parser.add_argument("--start", required=True, type=Path, help="model folder to start from")
    parser.add_argument("--train", required=True, type=Path, help="tokenised training split")
    parser.add_argument("--validation", required=True, type=Path, help="tokenised validation split")
    parser.add_argument("--teacher", type=Path, help="model folder to distil from")
    parser.add_argument("--study-folder", required=True, type=Path, help="results/<study>")
    parser.add_argument("--name", required=True, help="what to call the run, such as baseline/seed-42")
    parser.add_argument("--model", required=True, type=Path, help="output: model folder")
    parser.add_argument("--history", required=True, type=Path, help="output: one row per step")
    parser.add_argument("--certificate", required=True, type=Path, help="output: what the constraint proves")
    parser.add_argument("--marker", required=True, type=Path, help="output, written last")
    parser.add_argument("--max-epochs-per-run", type=int, default=0, help="stop with 75 after so many epochs; 0: never")
    parser.add_argument(
        "--processes", type=int, default=1, help="processes in all; changes no result; 0: one for each GPU of the job"
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes of this Slurm job that share the processes")
    parser.add_argument("--until-done", action="store_true", help="start again after each 75 that made progress")
    return parser.parse_args()


def read_json(text: str, option: str) -> object:
    try:
        return json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise errors.ConfigurationError(f"{option} is not JSON ({error}). Quote it as one argument.") from None


def without(words: list[str], flag: str, values: int) -> list[str]:
    """The command line without one option; for the program that the supervisor starts."""
    kept, skip = [], 0
    for word in words:
        if word == flag:
            skip = values + 1
        elif word.startswith(f"{flag}=") and values:
            continue
        if skip:
            skip -= 1
        else:
            kept.append(word)
    return kept


def main() -> int:
    environment.prepare()
    options = arguments()
    job = parse(TrainJob, read_json(options.settings, "--settings"), "--settings")
    operation = parse(Operation, read_json(options.operation, "--operation"), "--operation")
    root = state_root(options.study_folder)
    identity = identify(job, options.start, options.train, options.validation, options.teacher, root)
    folder = root / identity.digest
    check_start(folder, options.study_folder)
    processes = options.processes or job.training.processes_on(granted(), options.nodes)
    alone = processes <= 1 or "WORLD_SIZE" in os.environ
    if options.until_done or not alone:
        program = [os.path.abspath(__file__), *without(without(sys.argv[1:], "--until-done", 0), "--processes", 1)]
        front = [sys.executable] if alone else torchrun(processes, operation.grace, options.nodes)
        supervisor = Supervisor([*front, *program], folder, options.study_folder, distributed=not alone)
        return supervisor.until_done() if options.until_done else supervisor.once()

    log = keep_log(folder, int(os.environ.get("RANK", "0")))
    from isotone.training.run import train

    run = Run(
        job=job,
        operation=operation,
        identity=identity,
        folder=folder,
        study_folder=options.study_folder,
        name=options.name,
        start=options.start,
        train=options.train,
        validation=options.validation,
        teacher=options.teacher,
        outputs=Outputs(options.model, options.history, options.certificate, options.marker),
        max_epochs=options.max_epochs_per_run,
        log=log,
    )
    try:
        train(run)
    except errors.IsotoneError as error:
        leave_code(error.code)
        raise
    return errors.DONE


if __name__ == "__main__":
    errors.run(main)
