"""A sweep's shared stages, as their folders tell, and the runs that wait for them.

    <sweep>/stages/<stage>-<signature>/     the records of a stage that the launcher trains by itself

A run whose shared stage is in training waits for it, and has come as far as the stage has. Where the stage failed the
run is cancelled, with the stage's cause and log: what is to be mended is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brsweep.runs.folder import RunFolder
from brsweep.runs.status import FAILED, FINISHED, MISSING, RUNNING, STOPPED, RunStatus, run_status
from brsweep.runs.words import duration, printable, progress

STAGES = "stages"
UNDER_WAY = (RUNNING, FAILED, STOPPED)
WAITING, CANCELLED = "waiting", "cancelled"


@dataclass(frozen=True)
class SharedStage:
    """status: of its folder, whose epochs are those of the stage and of the stages before it. users: how many runs of
    the sweep need it. log: where it failed."""

    status: RunStatus
    users: int
    log: Path | None = None

    @property
    def stage(self) -> str:
        """`float`, `warmup`."""
        return printable(self.status.name.rpartition("-")[0])

    @property
    def signature(self) -> str:
        return self.status.name.rpartition("-")[2]


def shared_stages(sweep: Path, manifest: Mapping[str, Any]) -> list[SharedStage]:
    """Those that have been begun, as far as their folders tell. manifest: the sweep's; it knows how many epochs each
    has, and which runs need it."""
    folder = sweep / STAGES
    if not folder.is_dir() or folder.is_symlink():
        return []
    found = []
    for path in (path for path in sorted(folder.iterdir()) if path.is_dir()):
        status = run_status(path, {"epochs": manifest["shared"].get(f"{STAGES}/{path.name}")})
        if status.state == STOPPED and status.done in (0, status.total):  # its process begins, or has ended well
            status = replace(status, state=FINISHED if status.done else MISSING)
        failure = RunFolder(path).failure() if status.state == FAILED else None
        users = sum(path.name.rpartition("-")[2] in run["stages"] for run in manifest["runs"])
        found.append(SharedStage(status, users, None if failure is None else path / failure["log"]))
    return found


def stage_line(stage: SharedStage) -> str | None:
    """What a report says of one that has begun and not ended; None for others."""
    status = stage.status
    if status.state not in UNDER_WAY:
        return None
    said = [f"epoch {progress(status)}", *([f"{duration(status.time_left_s)} left"] if status.time_left_s else [])]
    if status.state == FAILED:
        said = [f"{status.cause}; log: {stage.log}"]
    return printable(f"{STAGES}/{status.name}, shared by {stage.users} runs: {status.state}, {', '.join(said)}")


def behind(run: RunStatus, needs: Sequence[str], stages: Sequence[SharedStage]) -> RunStatus:
    """The run as the shared stages that it needs have it. needs: their signatures."""
    if run.state not in (MISSING, STOPPED):
        return run
    above = [stage for stage in stages if stage.signature in needs]
    for state, becomes in ((FAILED, CANCELLED), (RUNNING, WAITING)):
        for stage in above:
            if stage.status.state == state:
                done = max(run.done, stage.status.done)
                return replace(run, state=becomes, done=done, cause=_cause(stage) if state == FAILED else None)
    return run


def _cause(stage: SharedStage) -> str:
    return f"{stage.stage} failed: {stage.status.cause}; log: {printable(str(stage.log))}"
