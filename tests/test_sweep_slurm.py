"""Sweeps on SLURM without SLURM: the plan as data, what sbatch is told, attaching, and what became of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, TINY, call
from fake_slurm import FakeSlurm

from brsweep.errors import BrsweepError
from brsweep.stages.preflight import check_parts
from brsweep.sweep.plan import SweepPlan
from brsweep.sweep.slurm import cluster, jobs
from brsweep.sweep.slurm.cluster import Request
from brsweep.sweep.slurm.engine import SlurmEngine
from brsweep.sweep.slurm.jobs import JobArray, TaskCall, check_installed, job_arrays, read_jobs, split, submit
from brsweep.sweep.tree import Task

PLAIN = Request(
    partition=None, account=None, qos=None, constraint=None, gres=None, gpus_per_node=None, cpus_per_task=None,
    mem_gb=None, timeout_min=60, signal_delay_s=120, max_num_timeout=10, array_parallelism=256, setup=[],
    additional_parameters={},
)  # fmt: skip


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    return fake


def task(name: str, parent: str | None = None, root: Path = Path("runs")) -> Task:
    """A run, or, where its name is that of a stage, a shared stage."""
    config = {"output_dir": str(root), "sweep_name": "s", "store_dir": str(root / "store"), "device": "auto"}
    return Task(name, config, name.split("-")[1] if "/" in name else None, (), parent, (name,))


def tree(root: Path = Path("runs")) -> list[Task]:
    """float -> two warm-ups -> three runs and two; and a run that shares nothing."""
    stem, left, right = "stages/float-f", "stages/warmup-l", "stages/warmup-r"
    return [
        task(stem, None, root), task(left, stem, root), *(task(f"l{i}", left, root) for i in range(3)),
        task(right, stem, root), *(task(f"r{i}", right, root) for i in range(2)), task("alone", None, root),
    ]  # fmt: skip


def plan(tasks: list[Task], root: Path, outdated: tuple[str, ...] = ()) -> SweepPlan:
    return SweepPlan(root / "s", [], [], [], {}, tasks, outdated=frozenset(outdated))


def finish(task: Task) -> None:
    task.folder.write_result({"status": "finished", "val_accuracy": 0.5, "test_accuracy": 0.5})


def said(array: JobArray) -> tuple:
    return array.parent, *(task.name for task in array.tasks)


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_tasks_with_one_parent_are_one_array():
    assert [said(array) for array in job_arrays(tree(), 100)] == [
        (None, "stages/float-f", "alone"),
        ("stages/float-f", "stages/warmup-l", "stages/warmup-r"),
        ("stages/warmup-l", "l0", "l1", "l2"),
        ("stages/warmup-r", "r0", "r1"),
    ]


def test_arrays_are_cut_to_the_limit_parents_first():
    assert [said(array) for array in job_arrays(tree(), 2)] == [
        (None, "stages/float-f", "alone"),
        ("stages/float-f", "stages/warmup-l", "stages/warmup-r"),
        ("stages/warmup-l", "l0", "l1"),
        ("stages/warmup-l", "l2"),
        ("stages/warmup-r", "r0", "r1"),
    ]
    assert [len(array.tasks) for array in job_arrays(tree(), 1)] == [1] * 9


# --- what sbatch is told ---------------------------------------------------------------------------------------------


def test_a_plain_request():
    assert PLAIN.parameters("brsweep-s", None) == {
        "job_name": "brsweep-s",
        "time": 60,
        "signal_delay_s": 120,
        "array_parallelism": 256,
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
    }


def test_what_sbatch_is_told(slurm, tmp_path):
    request = Request(
        partition="gpu", account="quant", qos="long", constraint="a100|h100", gres="gpu:1", gpus_per_node=None,
        cpus_per_task=8, mem_gb=1.5, timeout_min=240, signal_delay_s=90, max_num_timeout=3, array_parallelism=16,
        setup=["module load cuda", "export A='b c'"], additional_parameters={"reservation": "us", "requeue": True},
    )  # fmt: skip
    root = tmp_path / "my runs"
    submit(plan([task("a", None, root), task("b", None, root)], root), request, None, print)
    log = f"'{root}/s/slurm/%A_%a_0_log.out'"
    assert slurm.submitted() == [
        [
            "account=quant", "array=0-1%2", "constraint='a100|h100'", "cpus-per-task=8", "gres=gpu:1",
            "job-name=brsweep-s", "kill-on-invalid-dep=yes", "mem=1536M", "nodes=1", "open-mode=append",
            f"output={log}", "partition=gpu", "qos=long", "requeue", "reservation=us", "signal=USR2@90", "time=240",
            "wckey=submitit",
        ]
    ]  # fmt: skip
    script = (slurm.folder / "script-1").read_text()
    assert "\n# setup\nexport OMP_NUM_THREADS=8\nmodule load cuda\nexport A='b c'\n" in script
    assert f"srun --unbuffered --output {log.replace('_0_', '_%t_')} --cpus-per-task=8 {sys.executable} -u" in script


# --- attaching -------------------------------------------------------------------------------------------------------

STEM, CHILD = "stages/float-f", "run"


@pytest.mark.parametrize(
    ("known", "done", "queued", "needed"),
    [
        ({}, (), [], [STEM, CHILD]),
        ({"1": "RUNNING", "2": "PENDING"}, (), [STEM, CHILD], []),
        ({"1": "COMPLETED", "2": "PENDING"}, (STEM,), [CHILD], []),
        ({"2": "RUNNING"}, (STEM,), [CHILD], []),
        ({"1": "COMPLETED"}, (STEM,), [], [CHILD]),
        ({"1": "FAILED", "2": "PENDING"}, (), [], [STEM, CHILD]),  # the child waits for the old job
        ({"1": "FAILED", "2": "RUNNING"}, (), [CHILD], [STEM]),
        ({"1": "RUNNING", "2": "CANCELLED"}, (), [STEM], [CHILD]),
        ({"1": "COMPLETED", "2": "COMPLETED"}, (STEM, CHILD), [], []),
        ({"1": "REQUEUED", "2": "COMPLETING"}, (), [STEM, CHILD], []),
    ],
)
def test_what_is_queued_is_not_submitted_again(known, done, queued, needed):
    states = {job_id: cluster.JobState(state, "None", "brsweep-s") for job_id, state in known.items()}
    found = split([task(STEM), task(CHILD, STEM)], {STEM: "1", CHILD: "2"}, states, lambda t: t.name in done)
    assert [[t.name for t in tasks] for tasks in found] == [queued, needed]


def test_a_job_whose_dependency_can_never_be_met_counts_as_gone():
    states = {"2": cluster.JobState("PENDING", "DependencyNeverSatisfied", "brsweep-s")}
    assert [t.name for t in split([task(CHILD)], {CHILD: "2"}, states, lambda t: False)[1]] == [CHILD]


def test_arrays_wait_for_the_element_that_is_their_parent(slurm, tmp_path):
    tasks, lines = tree(tmp_path), []
    submitted = submit(plan(tasks, tmp_path), PLAIN, 100, lines.append)
    assert submitted == read_jobs(tmp_path / "s") == {
        "stages/float-f": "1_0", "alone": "1_1", "stages/warmup-l": "2_0", "stages/warmup-r": "2_1",
        "l0": "3_0", "l1": "3_1", "l2": "3_2", "r0": "4_0", "r1": "4_1",
    }  # fmt: skip
    assert slurm.told("dependency") == [None, "afterok:1_0", "afterok:2_0", "afterok:2_1"]
    assert slurm.told("array") == ["0-1%2", "0-1%2", "0-2%3", "0-1%2"]
    assert lines[-1] == "submitted job 4: tasks 2, after job 2_1"


def test_the_sites_limit_cuts_arrays(slurm, tmp_path):
    submit(plan([task(f"r{i}", None, tmp_path) for i in range(5)], tmp_path), PLAIN, None, print)
    assert slurm.told("array") == ["0-3%4", None]


def test_a_second_launch_attaches_and_submits_the_rest(slurm, tmp_path):
    tasks, lines = tree(tmp_path), []
    submit(plan(tasks, tmp_path), PLAIN, 100, print)
    finish(tasks[-1])
    slurm.queue({"1_0": "COMPLETED", "1_1": "COMPLETED", "2_0": "RUNNING", "2_1": "FAILED", "3_0": "PENDING",
                 "3_1": "PENDING", "4_0": "PENDING", "4_1": "CANCELLED"})  # fmt: skip
    submitted = submit(plan(tasks[1:], tmp_path), PLAIN, 100, lines.append)  # the float stage is in the store
    assert lines[0] == "attached to jobs in the queue: 3"
    assert slurm.told("dependency")[4:] == ["afterok:2_0", None, "afterok:6"]
    assert (slurm.folder / "cancelled").read_text() == "4_0\n"
    assert {name: submitted[name] for name in ("l0", "l2", "stages/warmup-r", "r0", "r1")} == {
        "l0": "3_0", "l2": "5", "stages/warmup-r": "6", "r0": "7_0", "r1": "7_1",
    }  # fmt: skip


def test_a_number_that_another_job_has_now_is_not_attached_to(slurm, tmp_path):
    tasks = [task("a", None, tmp_path)]
    submit(plan(tasks, tmp_path), PLAIN, 9, print)
    slurm.queue({"1": "RUNNING"}, name="brsweep-other")
    assert submit(plan(tasks, tmp_path), PLAIN, 9, print) == {"a": "2"}


# --- what became of them ---------------------------------------------------------------------------------------------


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line):
        self.lines.append(line)

    def started(self, task, device):
        self.lines.append(f"started {task.name}")

    def ended(self, outcome):
        self.lines.append(f"{outcome.status} {outcome.task.name}: {outcome.cause}")

    def look(self, running, left):
        pass


def watch(tasks: list[Task], root: Path, *tables: object) -> list[str]:
    """The lines of a watch that sees these tables, {task: state}, one after the other, and the last one from then on.
    A callable among them acts as the world between two looks, and the table before it is seen again."""
    screen, left, seen = Screen(), list(tables), {}

    def look(sweep: Path) -> dict[str, cluster.JobState]:
        nonlocal seen
        step = left.pop(0) if left else seen
        if isinstance(step, BrsweepError):
            raise step
        if callable(step):
            step()
        else:
            seen = step
        return {f"job-{name}": cluster.JobState(state, "None", "brsweep-s") for name, state in seen.items()}

    submitted = {task.name: f"job-{task.name}" for task in tasks}
    engine = SlurmEngine(PLAIN, None, poll_s=0.0, wait=True)
    engine.screen = screen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brsweep.sweep.slurm.engine.own_jobs", look)
        engine.follow(root / "s", tasks, submitted)
    return screen.lines


def test_a_run_that_ends_with_a_result_is_finished(slurm, tmp_path):
    a = task("a", None, tmp_path)
    lines = watch([a], tmp_path, {"a": "PENDING"}, {"a": "RUNNING"}, lambda: finish(a), {"a": "COMPLETED"})
    assert lines == ["started a", "finished a: None"]


def test_a_job_that_left_the_queue_without_a_result_was_killed(slurm, tmp_path):
    a = task("a", None, tmp_path)
    assert watch([a], tmp_path, {"a": "RUNNING"}, {}) == [
        "started a", "failed a: killed: job job-a left the queue without a result",
    ]  # fmt: skip
    assert a.folder.failure() == {
        "cause": "killed: job job-a left the queue without a result", "log": "../slurm/job-a_0_log.out",
    }  # fmt: skip


def test_accounts_that_do_not_know_of_its_end_say_nothing(slurm, tmp_path):
    (slurm.folder / "accounts").write_text("RUNNING\n")
    assert watch([task("a", None, tmp_path)], tmp_path, {}) == [
        "failed a: killed: job job-a left the queue without a result"
    ]


def test_accounts_say_how_it_ended(slurm, tmp_path):
    (slurm.folder / "accounts").write_text("OUT_OF_MEMORY\n")
    assert watch([task("a", None, tmp_path)], tmp_path, {}) == [
        "failed a: killed: job job-a ended as OUT_OF_MEMORY without a result; ask for more with hydra.launcher.mem_gb"
    ]


def test_the_cause_that_a_job_left_counts(slurm, tmp_path):
    a = task("a", None, tmp_path)
    a.folder.write_failure("the loss is not finite", "console.log")
    assert watch([a], tmp_path, {"a": "FAILED"}) == ["failed a: the loss is not finite"]


def test_dependants_of_a_failed_stem_are_cancelled(slurm, tmp_path):
    tasks = [task(STEM, None, tmp_path), task("a", STEM, tmp_path), task("b", None, tmp_path)]
    finish(tasks[2])
    table = {STEM: "FAILED", "a": "CANCELLED", "b": "COMPLETED"}
    assert watch(tasks, tmp_path, {**table, STEM: "RUNNING", "a": "PENDING"}, table) == [
        "finished b: None", f"started {STEM}",
        f"failed {STEM}: killed: job job-{STEM} ended as FAILED without a result", f"cancelled a: {STEM} failed",
    ]  # fmt: skip


def test_a_cancelled_job_is_said_to_be(slurm, tmp_path):
    assert watch([task("a", None, tmp_path)], tmp_path, {"a": "CANCELLED"}) == ["cancelled a: job job-a was cancelled"]


def test_a_requeued_job_may_be_out_of_sight_for_a_moment(slurm, tmp_path):
    a = task("a", None, tmp_path)
    tables = [{"a": "RUNNING"}, {}, {"a": "PENDING"}, {"a": "PREEMPTED"}, {"a": "RUNNING"}, lambda: finish(a), {}]
    assert watch([a], tmp_path, *tables) == ["started a", "finished a: None"]


def test_it_waits_while_slurm_does_not_answer(slurm, tmp_path):
    a, silence = task("a", None, tmp_path), BrsweepError("squeue: no answer")
    finish(a)
    tables = [{"a": "RUNNING"}, silence, silence, {"a": "RUNNING"}, {"a": "COMPLETED"}]
    assert watch([a], tmp_path, *tables) == ["started a", "squeue: no answer; still waiting", "finished a: None"]


def test_the_queue_as_squeue_prints_it(slurm):
    (slurm.folder / "queue").write_text("12_0|PENDING|Dependency|a|b\n13|RUNNING|None|c\n")
    assert cluster.squeue() == {"12_0": ("PENDING", "Dependency", "a|b"), "13": ("RUNNING", "None", "c")}


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_the_names_of_jobs_are_text_whatever_the_locale(slurm, locale):
    """A sweep whose name has an umlaut finds its jobs, where Python would take the queue for ASCII."""
    (slurm.folder / "queue").write_text("12|RUNNING|None|brsweep-gr\u00fcn\n", encoding="utf-8")
    program = "from pathlib import Path; from brsweep.sweep.slurm.jobs import own_jobs\n"
    program += "print([*own_jobs(Path('gr\\xfcn'))])"
    env = {"PATH": f"{slurm.folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "LC_ALL": locale}
    env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, encoding="utf-8", timeout=60)
    assert (done.stdout, done.stderr) == ("['12']\n", "")


# --- on the node -----------------------------------------------------------------------------------------------------


def test_a_job_notes_its_node_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JWT", "secret-1")
    monkeypatch.setenv("WANDB_API_KEY", "secret-2")
    done, one = [], task("a", None, tmp_path)
    monkeypatch.setattr(jobs, "work", done.append)
    TaskCall(one)()
    text = (one.folder.path / "environment.json").read_text()
    noted = json.loads(text)
    assert noted["variables"]["SLURM_JOB_ID"] == "7" and "secret" not in text
    assert set(noted["versions"]) == {"python", "cuda", "torch", "numpy", "numba", "submitit"}
    assert done == [{"config": one.config, "upto": None}]


def test_a_job_that_fails_before_it_trains_leaves_its_cause(tmp_path, monkeypatch):
    def refuse(task):
        raise BrsweepError("device=cuda: torch finds no CUDA device on this machine; take device=cpu or auto")

    for name, value in {"JOB_ID": "7", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path / "s" / "slurm"))
    monkeypatch.setattr(jobs, "work", refuse)
    one = task("a", None, tmp_path)
    with pytest.raises(BrsweepError):
        TaskCall(one)()
    assert one.folder.failure() == {
        "cause": "device=cuda: torch finds no CUDA device on this machine; take device=cpu or auto",
        "log": "../slurm/7_0_log.out",
    }


@pytest.mark.parametrize("when", ["before it began", "before it failed"])
def test_a_job_whose_run_is_finished_says_so_and_ends_well(when, monkeypatch, capfd, tmp_path):
    """By another job or by hand before it came to run; or by itself, before something behind the result broke."""
    one, worked = task("a", None, tmp_path), []

    def work(given):
        worked.append(given)
        finish(one)
        raise RuntimeError("behind the result")

    monkeypatch.setattr(jobs, "work", work)
    if when == "before it began":
        finish(one)
    TaskCall(one)()
    said = capfd.readouterr()
    assert f"finished {'already' if when == 'before it began' else 'all the same'}: {one.folder.path}\n" in said.out
    assert ("behind the result" in said.err) == bool(worked) == (when == "before it failed")
    assert one.folder.failure() is None


def test_a_requeued_job_does_the_same_task():
    one = TaskCall(task("a"))
    assert one.checkpoint().function is one


def test_the_login_node_needs_no_gpu(monkeypatch, tmp_path):
    from small_runs import config

    wanted = config("device=cuda:7", tmp_path=tmp_path)
    check_parts(wanted, device=False)
    with pytest.raises(BrsweepError, match="device=cuda:7"):
        check_parts(wanted)


# --- errors, in one line ---------------------------------------------------------------------------------------------


def test_without_submitit_or_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrsweepError, match="sbatch, srun or squeue is not on the PATH"):
        check_installed()
    monkeypatch.setattr("brsweep.sweep.slurm.jobs.find_spec", lambda name: None)
    with pytest.raises(BrsweepError, match=r"pip install brsweep\[slurm\]$"):
        check_installed()
    with pytest.raises(BrsweepError, match="squeue: not on the PATH"):
        cluster.squeue()


def test_what_sbatch_refuses(slurm, tmp_path, capfd):
    (slurm.folder / "refuse").write_text("sbatch: error: invalid partition specified: gpuu\nsbatch: error: it failed\n")
    with pytest.raises(BrsweepError) as raised:
        submit(plan([task("a", None, tmp_path)], tmp_path), PLAIN, 9, print)
    line = "sbatch: error: invalid partition specified: gpuu sbatch: error: it failed"
    assert str(raised.value) == f"{line} (what was submitted before goes on; the same command submits the rest)"
    assert capfd.readouterr().err == "" and read_jobs(tmp_path / "s") == {}
    assert not (tmp_path / "s").exists(), "no pickled task, no lock, no folder of it is left"


def test_a_refused_launch_takes_nothing_away(slurm, tmp_path):
    """The runs are to be trained again, but nobody does: results, and the cause of a failure, are as they were."""
    tasks, begun = [task(name, None, tmp_path) for name in ("a", "b", "c")], []
    for one in tasks[:2]:
        finish(one)
        (one.folder.path / "metrics.jsonl").write_text("{}\n")
        (one.folder.path / "checkpoints").mkdir()
        (one.folder.path / "checkpoints" / "last.pt").write_text("weights")
    tasks[2].folder.write_failure("the loss is not finite", "console.log")
    (tasks[2].folder.path / "metrics.jsonl").write_text("{}\n")
    before = files(tmp_path / "s")
    (slurm.folder / "refuse").write_text("sbatch: error: no such partition\n")
    again = plan(tasks, tmp_path, outdated=("a", "b"))
    with pytest.raises(BrsweepError, match="no such partition"):
        submit(again, PLAIN, 9, print, accepted=lambda: begun.append("manifest"))
    assert files(tmp_path / "s") == before and begun == []
    (slurm.folder / "refuse").unlink()
    accepted = submit(again, PLAIN, 9, print, accepted=lambda: begun.append("manifest"))
    assert accepted == {"a": "1_0", "b": "1_1", "c": "1_2"} and begun == ["manifest"]
    left = {path: text for path, text in files(tmp_path / "s").items() if not path.startswith("slurm")}
    assert left == {"c/metrics.jsonl": b"{}\n"}, "the broken run goes on, the finished ones begin anew"


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, by its path in the folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".slurm.lock")
    }


def test_what_was_submitted_before_a_refusal_stays(slurm, tmp_path):
    """The site's limit cuts the tasks into two arrays, and the second one is refused."""
    script = (slurm.folder / "sbatch").read_text()
    (slurm.folder / "sbatch").write_text(script.replace("test -e refuse", "test -e refuse -a -e script-1"))
    (slurm.folder / "refuse").write_text("sbatch: error: too many jobs\n")
    tasks, begun = [task(f"r{i}", None, tmp_path) for i in range(5)], []
    with pytest.raises(BrsweepError, match="too many jobs"):
        submit(plan(tasks, tmp_path), PLAIN, None, print, accepted=lambda: begun.append("manifest"))
    assert read_jobs(tmp_path / "s") == {f"r{i}": f"1_{i}" for i in range(4)} and begun == ["manifest"]
    kept = sorted(path.name for path in (tmp_path / "s" / "slurm").iterdir() if not path.is_symlink())
    assert kept == ["1_0_submitted.pkl", "1_1_submitted.pkl", "1_2_submitted.pkl", "1_3_submitted.pkl",
                    "1_submission.sh"]  # fmt: skip


def test_a_controller_that_does_not_answer_stops_the_launch(slurm, tmp_path):
    (slurm.folder / "silent").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    with pytest.raises(BrsweepError, match=r"^squeue: slurm_load_jobs error: Unable to contact slurm controller$"):
        submit(plan([task("a", None, tmp_path)], tmp_path), PLAIN, 9, print)
    assert slurm.submitted() == []


@pytest.mark.parametrize(
    "text",
    [
        "{", '{"version": 2, "jobs": {}}', '{"version": 1}', "[]", '{"version": 1, "jobs": {"a": 3}}',
        '{"version": 1, "jobs": ["ab"]}', '{"version": 1, "jobs": {"a": ["1"]}}', "[" * 99999, "\udcff",
    ],
)  # fmt: skip
def test_a_damaged_record_submits_nothing(text, slurm, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "slurm.json").write_text(text, errors="surrogateescape")
    with pytest.raises(BrsweepError, match=r"slurm\.json: damaged; end the sweep's jobs \(scancel --name=brsweep-s\)"):
        submit(plan([task("a", None, tmp_path)], tmp_path), PLAIN, 9, print)
    assert slurm.submitted() == []


# --- the command -----------------------------------------------------------------------------------------------------

SWEEP = ("--multirun", *TINY, "reg.lambda_act=0,1", "sweep_name=s", "device=cuda")


def test_submit_leave_come_back_and_find_one_killed(slurm, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = (*SWEEP, "hydra/launcher=gpu_cluster", "hydra.launcher.poll_s=0")
    first = call(monkeypatch, capsys, *command, "hydra.launcher.wait=false")
    assert first.code == 0, first.err
    assert "submitted job 1: tasks 1\nsubmitted job 2: tasks 2, after job 1\n" in first.out
    assert slurm.told("partition") == ["gpu", "gpu"] and slurm.told("gres") == ["gpu:1", "gpu:1"]
    slurm.queue({"1": "RUNNING", "2_0": "PENDING", "2_1": "PENDING"})
    again = call(monkeypatch, capsys, *command, "hydra.launcher.wait=false")
    assert again.code == 0 and "attached to jobs in the queue: 3" in again.out
    assert len(slurm.submitted()) == 2
    monkeypatch.setattr("brsweep.sweep.slurm.engine.sleep", lambda s: slurm.queue({}))
    last = call(monkeypatch, capsys, *command)
    assert last.code == 1
    assert last.err == "error: 2 of 2 runs not finished; the same command goes on with them\n"
    assert "sweep runs/s: 2 runs; 0 finished, 2 cancelled" in last.out


def test_to_stop_waiting_leaves_the_jobs(slurm, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("brsweep.sweep.slurm.engine.sleep", interrupt)
    answer = call(monkeypatch, capsys, *SWEEP, "hydra/launcher=slurm")
    assert answer.code == 130 and "detached: the jobs go on" in answer.out
    assert "scancel --name=brsweep-s ends them" in answer.out
    assert not (slurm.folder / "cancelled").exists()


def test_a_refused_launch_leaves_no_trace(slurm, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (slurm.folder / "refuse").write_text("sbatch: error: invalid partition specified: gpuu\n")
    answer = call(monkeypatch, capsys, *SWEEP, "hydra/launcher=slurm", "hydra.launcher.partition=gpuu")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert answer.err.startswith("error: sbatch: error: invalid partition specified: gpuu")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_dry_run_needs_no_slurm(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=240")
    answer = call(monkeypatch, capsys, *SWEEP, *launcher, "hydra.launcher.dry_run=true")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[-2] == "job array 1: tasks 1"
    assert lines[-1].startswith("job array 2: tasks 2, after stages/warmup-")
    assert not (tmp_path / "runs" / "s" / "sweep.json").exists()


def test_an_unknown_option_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = call(monkeypatch, capsys, *SWEEP, "hydra/launcher=slurm", "hydra.launcher.partitoin=gpu")
    assert answer.code == 1
    assert answer.err.startswith("error: hydra.launcher.partitoin: there is no such option; did you mean ")
    assert "hydra.launcher.partition?" in answer.err


def test_an_unknown_launcher_lists_those_that_there_are(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = call(monkeypatch, capsys, *SWEEP, "hydra/launcher=slrm")
    assert answer.code == 1
    assert answer.err.startswith("error: hydra/launcher=slrm: choose one of ")
    assert answer.err.endswith("; did you mean slurm?\n") and "gpu_cluster" in answer.err
