"""W&B: real offline runs, read back from their files, each in a process of its own that has no key and no server.

What needs a server or a fault is played by a stand-in module, in `test_tracking_wandb_faults.py`.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from wandb_reader import read_wandb
from wandb_runs import files, row, rows, run

pytest.importorskip("wandb")


def test_an_offline_run_holds_every_record_and_leaves_the_process_as_it_was(tmp_path):
    said = run(
        tmp_path,
        """
import numpy, torch
watched = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGCHLD", "SIGUSR2", "SIGPIPE", "SIGWINCH")]
def state():
    return (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            [signal.getsignal(s) for s in watched], sys.stdout, sys.stderr, sys.exit, sys.excepthook, os.getcwd())
before = state()
t = tracker()
t.replay([record(1)])
assert state() == before
for step in range(2, 6): t.log(record(step), step)
t.summarise({"test_accuracy": 0.75, "val_accuracy": None})
t.finish("finished")
assert state() == before
assert threading.enumerate() == [threading.main_thread()]
children = Path(f"/proc/self/task/{os.getpid()}/children")
assert not children.exists() or children.read_text() == ""
""",
    )
    [path] = files(tmp_path)
    assert said == [f"W&B offline; send it with: python -m brsweep.sweep.sync {tmp_path}"]
    assert rows(path) == {step: row(step) for step in range(1, 6)}
    found = read_wandb(path)
    place = (found.run.run_id, found.run.project, found.run.run_group, found.run.job_type, found.run.display_name)
    assert place == ("0123abcd", "p", "lambda", "train", "resnet20-w2a2")
    assert list(found.run.tags) == ["w2a2", "x" * 64]
    assert {k: v for k, v in found.config.items() if k != "_wandb"} == {"quant": {"weight_bits": 2}, "seed": 42}
    assert (found.summary["test_accuracy"], found.summary["status"], found.exit_code) == (0.75, "finished", 0)
    assert {name: found.metrics[name] for name in ("br/*", "br/epoch", "br/step")} == {
        "br/*": ("br/epoch", False),
        "br/epoch": ("", True),
        "br/step": ("", True),
    }
    assert found.kinds.isdisjoint({"output", "output_raw", "stats"})
    assert not found.git  # the tests run in a checkout
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".patch", ".py", ".diff")]
    note = json.loads((tmp_path / "wandb.json").read_text())
    assert note == {
        "attempt": "0123abcd", "id": "0123abcd", "epochs_sent": 5, "mode": "offline", "status": "finished",
    }  # fmt: skip


def test_two_runs_in_one_process_have_files_of_their_own_side_by_side_and_in_turn(tmp_path):
    run(
        tmp_path,
        """
a, b = tracker(FOLDER / "a", "aaaa"), tracker(FOLDER / "b", "bbbb")
a.replay([record(1)]); b.replay([record(2)])
a.finish("finished")
b.log(record(3), 2); b.finish("finished")
c = tracker(FOLDER / "c", "cccc"); c.replay([record(4)]); c.finish("finished")
""",
    )
    held = {name: rows(files(tmp_path / name)[0]) for name in "abc"}
    assert held == {
        "a": {1: row(1)},
        "b": {1: row(2) | {"epoch_total": 1}, 2: row(3) | {"epoch_total": 2}},
        "c": {1: row(4) | {"epoch_total": 1}},
    }


def test_a_key_with_a_silent_server_costs_one_line_and_shows_nowhere(tmp_path):
    key = "f00dbeef" * 5
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and never answers
        started = time.monotonic()
        said = run(
            tmp_path,
            't = tracker(); t.replay([record(1)]); t.finish("finished")',
            WANDB_API_KEY=key,
            WANDB_BASE_URL=f"http://127.0.0.1:{server.getsockname()[1]}",
        )
    assert time.monotonic() - started < 20  # init_timeout_s is 1; W&B alone waits 90
    assert [line.partition(":")[0] for line in said[:1]] == ["W&B cannot be reached, this run is kept offline"]
    offline = next(path for path in files(tmp_path) if "offline-run" in path.parent.name)
    assert said[1:] == [f"W&B offline; send it with: python -m brsweep.sweep.sync {tmp_path}"]
    assert rows(offline) == {1: row(1)}
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 5
    assert not [file for file in written if key.encode() in file.read_bytes()]
    assert key not in "".join(said)


def test_wandb_mode_disabled_writes_nothing(tmp_path):
    said = run(
        tmp_path,
        't = tracker(); t.replay([record(1)]); t.log(record(2), 2); t.summarise({"a": 1.0}); t.finish("finished")',
        WANDB_MODE="disabled",
    )
    assert said == ["W&B is disabled by WANDB_MODE"]
    assert files(tmp_path) == []
    assert not (tmp_path / "wandb.json").exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the service is found in /proc")
@pytest.mark.parametrize("when", ["before init", "before log", "before finish"])
def test_a_service_that_stands_still_ends_neither_the_run_nor_the_process_late(tmp_path, when):
    started = time.monotonic()
    said = run(
        tmp_path,
        f"""
from brsweep.tracking import wandb_session
def stop(*_):
    [pid] = wandb_session._services()
    os.kill(pid, signal.SIGSTOP)
    (FOLDER / "pid").write_text(str(pid))
def make(info):
    made = WeightsAndBiases(FOLDER, info, **ARGUMENTS | {{"finish_timeout_s": 0.5}})
    made.open_timeout_s = 10.0
    return made
init = wandb_session.Session._init
if {when!r} == "before init":
    wandb_session.Session._init = lambda *given: (stop(), init(*given))[1]
g = Guarded(make, RunInfo("name", "lambda", {{"seed": 42}}, (), "0123abcd"))
g.replay([record(1)])
if {when!r} == "before log": stop()
g.log(record(2), 2)
if {when!r} == "before finish": stop()
g.finish("finished")
print("end", flush=True)
""",
    )
    off = "WeightsAndBiases is off for the rest of this run, the training goes on: no answer within 10 s"
    sync = f"send the rest with: python -m brsweep.sweep.sync {tmp_path}"
    left = f"W&B is not done after 0.5 s and is left behind; {sync}"
    offline = f"W&B offline; {sync.replace('the rest', 'it')}"
    assert said == ([off, "end"] if when == "before init" else [offline, left, "end"])
    assert time.monotonic() - started < 50
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().rpartition(") ")[2][0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().rpartition(") ")[2][0] == "Z"  # nobody waits for an orphan's end


def test_a_wait_for_the_service_of_0_is_not_for_ever(tmp_path):
    said = run(tmp_path, 't = tracker(); t.replay([record(1)]); t.finish("finished")', WANDB__SERVICE_WAIT="0")
    assert said == [f"W&B offline; send it with: python -m brsweep.sweep.sync {tmp_path}"]


def test_under_the_guard_a_whole_life_is_as_without_it(tmp_path):
    said = run(
        tmp_path,
        """
def state():
    return [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], sys.exit, sys.excepthook, os.getcwd()
before = state()
run = RunInfo("name", "lambda", {"seed": 42, "url": "https://me:pw@host"}, (), "0123abcd")
g = Guarded(lambda run: WeightsAndBiases(FOLDER, run, **ARGUMENTS), run)
g.replay([record(1)]); g.log(record(2), 2); g.summarise({"a": 1.0}); g.finish("finished")
assert state() == before
for thread in threading.enumerate():
    thread is threading.main_thread() or thread.join(5)
assert threading.enumerate() == [threading.main_thread()]
""",
    )
    assert said == [f"W&B offline; send it with: python -m brsweep.sweep.sync {tmp_path}"]
    [path] = files(tmp_path)
    assert rows(path) == {1: row(1), 2: row(2)}
    found = read_wandb(path)
    assert (found.summary["a"], found.summary["status"], found.exit_code) == (1.0, "finished", 0)
    assert found.config["url"] == "https://***@host"
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"me:pw" in file.read_bytes()]
