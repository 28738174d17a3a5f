"""Who a run is, whether it may start, and the supervisor that starts it again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from isotone.config.training import Distillation, Training, TrainJob
from isotone.errors import ConfigurationError, Diverged, Halted, InputOutputError, Unfinished
from isotone.layout import state_root
from isotone.training.checkpointing.lease import Lease, LostLease
from isotone.training.identity import identify, model_digest
from isotone.training.supervision import supervisor as module
from isotone.training.supervision.outcome import ResourceError, check_start, read_outcome, refuse, write_outcome
from isotone.training.supervision.stop import Stop
from isotone.training.supervision.supervisor import Supervisor, torchrun
from isotone.training.supervision.watchdog import Watchdog


@pytest.fixture
def inputs(tmp_path: Path) -> SimpleNamespace:
    for name in ("start", "train", "validation", "teacher"):
        (tmp_path / name).mkdir()
    for name in ("start", "teacher"):
        (tmp_path / name / "model.safetensors").write_text(name)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "start" / "tokenizer.json").write_text("{}")
    for name in ("train", "validation"):
        (tmp_path / name / "data.json").write_text(json.dumps({"fingerprint": name}))
    return SimpleNamespace(**{name: tmp_path / name for name in ("start", "train", "validation", "teacher", "root")})


def identity(inputs: SimpleNamespace, job: TrainJob | None = None, teacher: Path | None = None):
    return identify(job or TrainJob(), inputs.start, inputs.train, inputs.validation, teacher, inputs.root)


def test_every_input_that_matters_changes_the_state_folder(inputs: SimpleNamespace) -> None:
    first = identity(inputs)
    assert identity(inputs).digest == first.digest
    assert identity(inputs, teacher=inputs.teacher).digest == first.digest  # an unused teacher does not matter
    distilled = TrainJob(training=Training(distillation=Distillation(alpha=0.5)))
    seen = {first.digest, identity(inputs, TrainJob(seed=1)).digest, identity(inputs, distilled, inputs.teacher).digest}
    for path, text in (
        (inputs.start / "model.safetensors", "other weights"),
        (inputs.start / "config.json", '{"other": 1}'),
        (inputs.start / "tokenizer.json", "[]"),
        (inputs.train / "data.json", '{"fingerprint": "other"}'),
        (inputs.validation / "data.json", '{"fingerprint": "another"}'),
    ):
        path.write_text(text)
        seen.add(identity(inputs).digest)
    assert len(seen) == 8
    with pytest.raises(ConfigurationError, match="no --teacher"):
        identity(inputs, distilled)


def test_what_differs_is_said_in_words(inputs: SimpleNamespace) -> None:
    from isotone.schema import as_mapping

    then = as_mapping(identity(inputs))
    now = identity(inputs, TrainJob(training=Training(learning_rate=0.5)))
    assert now.changes(then) == ([], ["settings.training.learning_rate (0.001 then, 0.5 now)"])
    assert now.changes(as_mapping(now)) == ([], [])
    assert "the start weights (none then" in " ".join(now.changes({**as_mapping(now), "start": ""})[1])
    smaller = identity(inputs, TrainJob(training=Training(learning_rate=0.5, micro_batch_size=2, compile=True)))
    assert smaller.changes(as_mapping(now)) == (
        ["settings.training.compile (False then, True now)", "settings.training.micro_batch_size (8 then, 2 now)"],
        [],
    )


def test_large_weights_are_hashed_once(inputs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    first = identity(inputs)
    monkeypatch.setattr(
        "isotone.training.identity.file_digest",
        lambda path: pytest.fail("hashed again") if path.suffix == ".safetensors" else "t",
    )
    assert identity(inputs).start == first.start
    (inputs.root / "digests.json").write_text("damaged")
    monkeypatch.undo()
    assert identity(inputs) == first
    (inputs.start / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="has no"):
        model_digest(inputs.start)


def test_the_state_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ISOTONE_STATE", raising=False)
    assert state_root(tmp_path) == tmp_path / "state"
    monkeypatch.setenv("ISOTONE_STATE", "/elsewhere")
    assert state_root(tmp_path) == Path("/elsewhere")


def test_outcomes_and_refusals(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) is None
    write_outcome(tmp_path, 75, "why", step=3, steps=9)
    assert {key: read_outcome(tmp_path)[key] for key in ("code", "step", "steps")} == {
        "code": 75,
        "step": 3,
        "steps": 9,
    }
    write_outcome(tmp_path / "outcome.json" / "nowhere", 75, "", step=0, steps=0)  # quietly nothing
    check_start(tmp_path, tmp_path)
    for harmless in (Unfinished("again"), InputOutputError("disk"), ResourceError("too many processes")):
        refuse(tmp_path, harmless)
        check_start(tmp_path, tmp_path)
    for error in (ConfigurationError("wrong"), Diverged("NaN")):
        refuse(tmp_path, error)
        with pytest.raises(type(error), match=f"{error}\n  An earlier start"):
            check_start(tmp_path, tmp_path)
    (tmp_path / "refused.json").unlink()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "HALT").touch()
    with pytest.raises(Halted, match="isotone resume"):
        check_start(tmp_path, tmp_path / "study")


# The lease


def test_the_next_holder_fences_off_the_last(tmp_path: Path) -> None:
    first = Lease(tmp_path, seconds=30.0, wait=0.0)
    place = first.acquire()
    (place / "step-000000001").mkdir()
    first.check()
    with pytest.raises(Unfinished, match="Another trainer holds"):
        Lease(tmp_path, seconds=30.0, wait=0.0).acquire()
    said: list[str] = []
    with pytest.raises(Unfinished, match="Another trainer holds"):
        Lease(tmp_path, seconds=30.0, wait=0.2).acquire(said.append)
    assert "waiting up to" in said[0]
    with pytest.raises(Unfinished, match="Another trainer holds"):
        Lease(tmp_path, seconds=7.0, wait=0.1).acquire(said.append)  # disagrees on the duration
    first.release()
    second = Lease(tmp_path, seconds=30.0, wait=0.0)
    assert [path.name for path in second.acquire().iterdir()] == ["step-000000001"]
    assert second.generation == first.generation + 1
    with pytest.raises(LostLease):
        first.check()
    with pytest.raises(FileNotFoundError):
        (place / "step-000000002").mkdir()  # whatever the old one still tries
    second._compromised(None)
    with pytest.raises(LostLease):
        second.check()
    second.release()


# Stopping and hanging


def stop(folder: Path, **more: float) -> Stop:
    return Stop(folder, folder, grace=more.get("grace", 30.0), event=lambda *_, **__: None)


def test_reasons_and_deadlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    quiet = stop(tmp_path)
    assert not quiet.look(1.0, 1.0)
    assert quiet.seconds_left() == float("inf")
    quiet._on_signal(signal.SIGTERM, None)
    quiet._on_signal(signal.SIGINT, None)
    assert quiet.look(1.0, 1.0)
    assert quiet.reason == "signal SIGTERM"
    assert quiet.look(1.0, 1.0)
    assert 29 < quiet.seconds_left() <= 30
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + 100))
    assert not stop(tmp_path).look(10.0, 1.0)
    assert stop(tmp_path).look(70.0, 1.0)
    assert 90 < stop(tmp_path).seconds_left() < 101
    monkeypatch.setenv("SLURM_JOB_END_TIME", "Unknown")
    assert stop(tmp_path).job_end is None
    (tmp_path / "HALT").touch()
    halted = stop(tmp_path)
    assert halted.look(0.0, 0.0)
    assert "HALT exists" in halted.reason


def test_the_watchdog_allows_ten_medians_and_more_for_the_first_step(tmp_path: Path) -> None:
    dog = Watchdog(tmp_path / "stacks", medians=10.0, floor=0.5, hung=lambda _: None)
    assert dog.allowance() == 5.0
    for seconds in (0.1, 0.2, 0.3):
        dog.on_step(seconds)
    assert dog.allowance() == 2.0
    dog.on_step(0.0)
    dog.on_step(0.0)
    dog.on_step(0.0)
    assert dog.allowance() == pytest.approx(0.5)
    dog.on_work("saving")
    dog.on_work("reading back")
    dog._last -= 100
    assert dog.silence() == 0  # a slow disk is no hang
    dog.on_work("")
    assert dog.silence() == 0
    dog.on_work("")
    assert dog.silence() < 1  # and the clock begins anew behind it
    dog.close()
    assert not dog._thread.is_alive()
    never = Watchdog(tmp_path / "stacks", medians=0.0, floor=0.0, hung=lambda _: pytest.fail("it never hangs"))
    never.close()


HANG = """
import sys, time
from pathlib import Path
from isotone.training.supervision.watchdog import Watchdog
Watchdog(Path(sys.argv[1]), medians=2.0, floor=0.01, hung=lambda silent: print("hung", flush=True))
time.sleep(60)
"""


def test_a_hanging_process_leaves_its_stacks_and_ends_with_75(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANG, str(tmp_path / "stacks")], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 75, done.stderr
    assert done.stdout == "hung\n"
    assert 'File "<string>", line 6' in (tmp_path / "stacks").read_text()


WATCHED = """
import ctypes, faulthandler, signal, sys, time
from pathlib import Path
from isotone.training.supervision import watchdog
watchdog.STUCK = 0.5
faulthandler.register(signal.SIGUSR2, open(sys.argv[1], "a"), all_threads=True)
dog = watchdog.Watchdog(Path(sys.argv[1]), medians=2.0, floor=1.5, hung=lambda silent: print("hung", flush=True))
dog.on_step(0.1)
time.sleep(0.8)
print("ready", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.readline()
else:
    c, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    c.pthread_mutex_lock(mutex), c.pthread_mutex_lock(mutex)
dog.close()
print("done", flush=True)
"""


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(what: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WATCHED, str(tmp_path / "stacks"), what]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None and started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_time_in_which_a_process_was_stopped_is_no_hang(tmp_path: Path, watched) -> None:
    """Neither for the watchdog nor for the process beside it, which went on."""
    process = watched("wait")
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.8)  # either would have ended it by now
    assert process.communicate("go on\n", timeout=30)[0] == "done\n"
    assert process.returncode == 0 and (tmp_path / "stacks").read_text() == ""


def test_an_interpreter_that_is_stuck_is_ended_from_outside(tmp_path: Path, watched) -> None:
    process = watched("stick")  # a deadlock in C that holds the interpreter's lock
    assert process.communicate(timeout=50)[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert 'File "<string>", line 15' in (tmp_path / "stacks").read_text()


# The supervisor

CHILD = """
import json, os, signal, sys, time
folder, codes = sys.argv[1], json.loads(sys.argv[2])
count = int(open(f"{folder}/count").read()) if os.path.exists(f"{folder}/count") else 0
open(f"{folder}/count", "w").write(str(count + 1))
code, step = codes[count]
signal.signal(signal.SIGTERM, lambda *_: (json.dump({"code": 75, "step": 99}, open(f"{folder}/outcome.json", "w")), os._exit(75)))
if code == "wait":
    open(f"{folder}/ready", "w")
    time.sleep(30)
json.dump({"code": code, "step": step}, open(f"{folder}/outcome.json", "w"))
sys.exit(int(sys.argv[3]) if len(sys.argv) > 3 else code)
"""


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    known = {number: signal.getsignal(number) for number in module.FORWARDED}

    def make(codes: list, *more: str, distributed: bool = False) -> Supervisor:
        command = [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(codes), *more]
        return Supervisor(command, tmp_path, tmp_path, distributed=distributed)

    yield make
    for number, handler in known.items():
        signal.signal(number, handler)


def starts(folder: Path) -> int:
    return int((folder / "count").read_text())


@pytest.mark.parametrize(
    ("codes", "code", "count"),
    [
        ([(75, 1), (75, 2), (0, 3)], 0, 3),
        ([(75, 1), (75, 1), (0, 3)], 75, 2),  # no progress
        ([(75, 1), (78, 1)], 78, 2),
        ([(70, 0)], 70, 1),
        ([(74, 0)], 74, 1),
    ],
)
def test_it_starts_again_while_there_is_progress(supervise, tmp_path: Path, codes: list, code: int, count: int) -> None:
    assert supervise(codes).until_done() == code
    assert starts(tmp_path) == count


def test_a_finished_run_whose_files_were_deleted_is_trained_to_its_end_again(supervise, tmp_path: Path) -> None:
    (tmp_path / "outcome.json").write_text(json.dumps({"code": 0, "step": 3}))
    assert supervise([(75, 1), (75, 2), (0, 3)]).until_done() == 0
    assert starts(tmp_path) == 3


def test_a_signal_is_passed_on_and_ends_the_supervision(supervise, tmp_path: Path) -> None:
    made = supervise([("wait", 0), (0, 1)])

    def send() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    threading.Thread(target=send).start()
    assert made.until_done() == 75
    assert starts(tmp_path) == 1
    assert made.once() == 75  # asked to stop: nothing is started any more
    assert starts(tmp_path) == 1


def test_halt_keeps_it_from_starting_again(supervise, tmp_path: Path) -> None:
    (tmp_path / "HALT").touch()
    assert supervise([(75, 1), (0, 2)]).until_done() == 75
    assert starts(tmp_path) == 1


def test_torchruns_lost_code_is_found_in_the_outcome(supervise, tmp_path: Path) -> None:
    assert supervise([(75, 1)], "1", distributed=True).once() == 75
    assert supervise([(75, 1), (75, 1)], "1", distributed=False).once() == 1
    (tmp_path / "count").unlink()
    dead = supervise([(75, 1)])
    dead.command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert dead.once() == 137


@pytest.mark.parametrize(
    ("left", "outcome", "asked", "code"),
    [
        ({"1": 78}, None, False, 78),  # a process refused before the first one could leave word
        ({"0": 74, "1": 78}, None, False, 78),  # and the first one missed it
        ({"0": 1, "1": 74}, None, False, 74),
        ({"0": 1}, None, False, 1),
        ({"1": 78}, 75, False, 75),  # the first one's word is the run's
        ({"1": 74}, None, True, 75),  # it missed those that the signal had ended first
    ],
)
def test_the_code_of_any_process_tells_how_a_start_ended(
    supervise, tmp_path: Path, left: dict[str, int], outcome: int | None, asked: bool, code: int
) -> None:
    made = supervise([], distributed=True)
    end = ["import os, signal", "from isotone.training.supervision.outcome import leave_code"]
    if asked:
        end += ["signal.signal(signal.SIGTERM, signal.SIG_IGN)", "os.kill(os.getppid(), signal.SIGTERM)"]
    for rank, value in left.items():
        end += [f"os.environ['RANK'] = '{rank}'", f"leave_code({value})"]
    if outcome:
        end.append(f"open({str(tmp_path / 'outcome.json')!r}, 'w').write('{{\"code\": {outcome}}}')")
    made.command = [sys.executable, "-c", "\n".join([*end, "raise SystemExit(1)"])]
    assert made.once() == code
    assert not list(tmp_path.glob("code-*"))


@pytest.mark.parametrize(
    ("word", "asked", "code"),
    [
        (None, True, 75),  # srun killed it before it could leave word
        (None, False, 1),
        (1, True, 75),  # it lost the others, which had been ended first
        (1, False, 1),
        (78, True, 78),
        (74, True, 74),
    ],
)
def test_what_a_signal_explains(supervise, tmp_path: Path, word: int | None, asked: bool, code: int) -> None:
    made = supervise([], distributed=True)
    end = ["import os, signal", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"]
    if asked:
        end.append("os.kill(os.getppid(), signal.SIGTERM)")
    if word is not None:
        end.append(f"with open({str(tmp_path / 'outcome.json')!r}, 'w') as file: file.write('{{\"code\": {word}}}')")
    made.command = [sys.executable, "-c", "\n".join([*end, "raise SystemExit(1)"])]
    assert made.once() == code


def fake_scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, state: str = "RUNNING") -> None:
    """Notes requests in `asked` and answers them with `code`; restarts are what the file of that name says; `silent` once."""
    path = folder / "bin" / "scontrol"
    path.parent.mkdir()
    path.write_text(
        "#!/bin/sh\n"
        f"[ $1 = requeue ] || [ ! -e {folder}/silent ] || {{ rm {folder}/silent; exit 1; }}\n"
        f"[ $1 = requeue ] || exec echo JobState={state} Restarts=$(cat {folder}/restarts 2>/dev/null || echo 0)\n"
        f"echo $@ >> {folder}/asked\n"
        f"exit {code}\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("ISOTONE_JOB_LOG", str(folder / "job.log"))  # the mark of profiles/slurm/job.sh
    monkeypatch.setattr("isotone.cluster.requeue.WAIT_FOR_KILL", 0.01)


@pytest.mark.parametrize("code", [0, 1])
def test_on_slurm_the_job_goes_back_into_the_queue(
    supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made = supervise([(75, 1), (0, 2)])
    fake_scontrol(tmp_path, monkeypatch, code)
    assert made.until_done() == 75
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert starts(tmp_path) == 1
    assert ("refused" in capsys.readouterr().err) == bool(code)


SNAKEMAKE = """
import os, subprocess, sys
program = "from isotone.cluster import requeue; requeue.WAIT_FOR_KILL = 0.5; requeue.requeue(); exit(75)"
if subprocess.run([sys.executable, "-c", program]).returncode:
    os.remove(sys.argv[1])  # as Snakemake does with the results of a job that failed
"""


@pytest.mark.parametrize("requeued", [True, False])
def test_what_outlives_its_job_removes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requeued: bool
) -> None:
    """Seen on a real Slurm without control groups: the last start's Snakemake removed the next start's results."""
    fake_scontrol(tmp_path, monkeypatch, 0)
    result = tmp_path / "result"
    result.write_text("of the next start")
    monkeypatch.setenv("SLURM_JOB_ID", "4712")  # of a driver that is itself a job: not concerned
    bystander = "import subprocess, sys; code = subprocess.run(sys.argv[1:], env={**__import__('os').environ, 'SLURM_JOB_ID': '4711'}).returncode; print(code)"
    outer = subprocess.Popen(
        [sys.executable, "-c", bystander, sys.executable, "-c", SNAKEMAKE, str(result)],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "asked").exists():
        time.sleep(0.01)
    (tmp_path / "silent").touch()  # the controller does not answer at once
    if requeued:
        (tmp_path / "restarts").write_text("1")
    assert outer.communicate(timeout=60)[0].strip() == ("-9" if requeued else "0")
    assert result.exists() == requeued
    assert not (tmp_path / "silent").exists()


def test_a_job_that_its_user_cancelled_is_not_requeued(
    supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = supervise([(75, 1)])
    fake_scontrol(tmp_path, monkeypatch, 0, state="CANCELLED")
    assert made.until_done() == 75
    assert not (tmp_path / "asked").exists()


def test_without_scontrol_75_goes_out(supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = supervise([(75, 1)])
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("ISOTONE_JOB_LOG", str(tmp_path / "job.log"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert made.until_done() == 75


@pytest.mark.parametrize(
    "surroundings",
    [
        {},  # salloc, a notebook, a script: the job is its user's
        {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3"},  # its number alone means every task
        {"ISOTONE_JOB_LOG": "job.log", "ISOTONE_JOB_ID": "4000"},  # a job that was started from within one of ours
    ],
)
def test_somebodys_own_job_is_never_requeued(
    supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surroundings: dict[str, str]
) -> None:
    """Training in slices goes on here instead, as outside Slurm."""
    made = supervise([(75, 1), (75, 2), (0, 3)])
    fake_scontrol(tmp_path, monkeypatch, 0)
    monkeypatch.delenv("ISOTONE_JOB_LOG")
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    assert made.until_done() == 0 and starts(tmp_path) == 3
    assert not (tmp_path / "asked").exists()


def test_a_task_of_an_own_array_is_named_with_its_index(
    supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = supervise([(75, 1)])
    fake_scontrol(tmp_path, monkeypatch, 0)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert made.until_done() == 75
    assert (tmp_path / "asked").read_text() == "requeue 4711_3\n"


@pytest.mark.parametrize(("seconds", "count"), [(30, 1), (3600, 2)])
def test_near_the_end_of_somebodys_allocation_nothing_is_started_again(
    supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, count: int
) -> None:
    made = supervise([(75, 1), (75, 1)])
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + seconds))
    assert made.until_done() == 75 and starts(tmp_path) == count


def test_a_time_limit_shorter_than_a_save_ends_in_a_failure_that_says_so(
    supervise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start is stopped, and goes back into the queue, before it has saved anything."""
    fake_scontrol(tmp_path, monkeypatch, 0)

    def start(step: int) -> int:
        made = supervise([(75, step)])
        (tmp_path / "count").unlink(missing_ok=True)
        return made.until_done()

    for step in range(1, 4):
        assert start(step) == 75
    with pytest.raises(Unfinished, match="3 times in a row and no start of it saved anything new"):
        start(4)
    (tmp_path / "checkpoints.g000001" / "step-000000005").mkdir(parents=True)
    assert [start(step) for step in (5, 6, 7)] == [75] * 3  # something new each time it counts from there
    assert (tmp_path / "asked").read_text().count("requeue 4711\n") == 6


@pytest.mark.parametrize(("restarts", "code"), [("1", -9), ("0", 1)])
def test_a_start_that_a_lost_node_went_on_with_fails_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str, code: int
) -> None:
    """Its Snakemake must not report the failure: Slurm has started the job again elsewhere, in good order."""
    fake_scontrol(tmp_path, monkeypatch, 0)
    (tmp_path / "restarts").write_text(restarts)
    monkeypatch.setenv("ISOTONE_JOB_RESTARTS", "0")
    supervisor = (
        "import sys; from isotone.training.supervision.supervisor import Supervisor; folder = sys.argv[1]; "
        "sys.exit(Supervisor([sys.executable, '-c', 'raise SystemExit(1)'], folder, folder, distributed=False).until_done())"
    )
    done = subprocess.run([sys.executable, "-c", supervisor, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert ("left over from an earlier start of job 4711" in done.stderr) == (code == -9)


def test_a_closed_terminal_stops_a_run_unless_nohup_protects_it(supervise) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    supervise([])
    assert callable(signal.getsignal(signal.SIGHUP))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervise([])
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_torchrun_gets_the_grace_and_no_restarts() -> None:
    words = torchrun(4, 25.0)
    assert "--nproc-per-node=4" in words
    assert "--shutdown-timeout=25" in words
    assert "--max-restarts=0" in words
    several = torchrun(4, 25.0, nodes=2)
    assert several[:3] == ["srun", "--nodes=2", "--ntasks=2"]
    assert "--nproc-per-node=2" in several[-2]
    with pytest.raises(ConfigurationError, match="3 processes cannot be shared out equally to 2 nodes"):
        torchrun(3, 25.0, nodes=2)


def test_starting_needs_no_torch() -> None:
    code = "import sys; import isotone.training.supervision.supervisor, isotone.training.identity, isotone.training.inputs; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr
