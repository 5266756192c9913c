"""The run as Weights & Biases sees it: a mirror of metrics.jsonl that needs neither an account nor a network.

With `WANDB_MODE` set, W&B does what it says. Otherwise a run is online where W&B finds a key (`WANDB_API_KEY`, netrc,
its settings file), and offline where there is none; a key whose server does not answer within `init_timeout_s` costs
one warning line, and the run is kept offline. W&B's files lie in `folder`/wandb, and one line says how to send the run.

A row per epoch. Each stage has axes of its own: its metrics are `<stage>/<name>` over `<stage>/epoch`, with
`<stage>/step`, the optimizer's steps, beside it; `epoch_total`, which is W&B's own step as well, counts over all
stages. The row of a stage's last epoch holds the stage's pictures, `<stage>/media/<name>` (see `pictures`): it waits
for them, so it is sent a moment later than the others, when the stage's snapshot is on file.

A run that goes on under the same id is sent only what W&B lacks. Online the server says what it has, offline
`folder`/wandb.json does (see `Sent`). An agent of `wandb sweep` gives the run an id and a project of its own,
which the run keeps.
"""

from __future__ import annotations

import io
import json
import shlex
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brsweep.files import read_file, replace_file
from brsweep.tracking.snapshots import has_ended
from brsweep.tracking.tracker import FAILED, FINISHED, INTERRUPTED, Record, RunInfo, Tracker, one_line, seconds
from brsweep.tracking.wandb_session import SERVICE_START_S, Session

REST_S = 10.0
"""What the guard grants beyond W&B's own time-outs, for sending what is on file and for keeping them."""
EXIT_CODES = {FINISHED: 0, FAILED: 1, INTERRUPTED: 255}


class WeightsAndBiases(Tracker):
    """A tracker that mirrors the run to W&B, online or into files that wait for it.

    project, entity, job_type: as in wandb.init, where an entity of None is the account's own; the group is the sweep.
    init_timeout_s, finish_timeout_s: the longest that the start and the end of a run wait for the server, in seconds.
    flush_s: a killed process loses records younger than this, in seconds.
    system_stats: let W&B sample the machine's load, which takes time from the training.
    media: draw the pictures, which takes a second or two at the end of each stage.

    `fall_back` may be set to False before the replay, which then raises where the server cannot be reached.
    """

    def __init__(
        self,
        folder: Path,
        run: RunInfo,
        project: str,
        entity: str | None,
        job_type: str,
        init_timeout_s: float,
        finish_timeout_s: float,
        flush_s: float,
        system_stats: bool,
        media: bool,
    ) -> None:
        times = {"init_timeout_s": init_timeout_s, "finish_timeout_s": finish_timeout_s, "flush_s": flush_s}
        init_timeout_s, finish_timeout_s, flush_s = (seconds(f"logger.{name}", value) for name, value in times.items())
        self.open_timeout_s = SERVICE_START_S + 2 * init_timeout_s + REST_S  # online, then offline
        self.finish_timeout_s = finish_timeout_s + REST_S
        self._folder, self._about, self._media = Path(folder).absolute(), run, media
        place = {"project": project, "entity": entity, "job_type": job_type}
        self._session = Session(place, init_timeout_s, finish_timeout_s, flush_s, system_stats)
        self._sent = Sent(self._folder, run.id, settle_s=2 * flush_s)
        self._row: tuple[int, str, dict[str, Any]] | None = None  # step, stage and values not yet sent
        self._run: Any = None
        self.fall_back = True

    def replay(self, records: Sequence[Record]) -> None:
        before = self._sent.on_record()
        run = self._run = self._session.open(self._folder, self._about, before.run_id, self.fall_back)
        if run.disabled:
            self._about.notice("W&B is disabled by WANDB_MODE")
            return
        for stage in self._about.stages:
            for axis in ("epoch", "step"):
                run.define_metric(f"{stage}/{axis}", hidden=True)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
        if run.offline:
            self._sent.open(run.id, "offline", min(before.epochs, len(records)) if run.id == before.run_id else 0)
        else:
            self._sent.open(run.id, "online", run.step - 1 if run.resumed else 0)
        if self._sent.last > len(records):
            self._about.warn(f"W&B has {self._sent.last} epochs of this run and keeps them; only later ones are added")
        for step, record in enumerate(records, start=1):
            self.log(record, step)
        self._about.notice(f"W&B offline; send it with: {self._sync()}" if run.offline else f"W&B: {run.url}")

    def log(self, metrics: Record, step: int) -> None:
        if self._run.disabled or step <= self._sent.last:
            return
        self._send_row()
        stage = metrics["stage"]
        values = {f"{stage}/{name}": value for name, value in metrics.items() if name != "stage" and value is not None}
        self._row = step, stage, {**values, "epoch_total": step}
        if step not in self._about.stage_ends:
            self._send_row()
        elif has_ended(self._folder, stage):
            self.stage_ended(stage)

    def stage_ended(self, stage: str) -> None:
        if self._row is None or self._row[1] != stage:
            return
        self._row[2].update(self._pictures(stage) if self._media else {})
        self._send_row()

    def summarise(self, values: Record) -> None:
        self._run.summary.update({name: value for name, value in values.items() if value is not None})

    def finish(self, status: str) -> None:
        if self._run is None:
            return
        self._send_row()
        self._run.summary["status"] = status
        try:
            self._session.close(self._run, EXIT_CODES[status])
        except TimeoutError:
            limit = f"{self._session.finish_timeout_s:g} s"
            self._about.warn(f"W&B is not done after {limit} and is left behind; send the rest with: {self._sync()}")
            return
        if not self._run.disabled:
            self._sent.close(status)

    def _send_row(self) -> None:
        if self._row is None:
            return
        (step, _, values), self._row = self._row, None
        self._run.log(values, step=step, commit=True)  # else held back until the next epoch
        self._sent.add(step)

    def _pictures(self, stage: str) -> dict[str, Any]:
        """The stage's pictures as W&B takes them; none and a warning where they can't be drawn."""
        try:
            import wandb
            from PIL import Image

            from brsweep.tracking.pictures import pictures

            drawn = pictures(self._folder, stage)
            return {f"{stage}/media/{k}": wandb.Image(Image.open(io.BytesIO(png))) for k, png in drawn.items()}
        except Exception as error:
            self._about.warn(f"W&B gets no pictures of the stage {stage}: {one_line(error)}")
            return {}

    def _sync(self) -> str:
        return f"python -m brsweep.sweep.sync {shlex.quote(str(self._folder))}"


@dataclass(frozen=True)
class OnRecord:
    """What earlier sessions left: W&B's id of the run, the last epoch sent, and the last session's mode and end."""

    run_id: str
    epochs: int = 0
    mode: str | None = None
    status: str | None = None


class Sent:
    """Which epochs W&B has been sent of the training `attempt` of a run: `wandb.json` in the run folder.

        attempt       the id that the run folder gives this training of the run
        id            the id of W&B's run: the same, unless an agent of `wandb sweep` gave another
        epochs_sent   how many epochs need no sending
        mode          online or offline, of the last session
        status        how the last session ended; null while it lasts, or when it was killed or left behind

    W&B writes its own file a little after each log, so an epoch counts as sent once it is older than that delay. A
    killed process then leads to an epoch that is sent twice, under the same step, and never to one that is missing.

    settle_s: after how many seconds a logged step is safely in W&B's own file.
    """

    def __init__(self, folder: Path, attempt: str, settle_s: float) -> None:
        self._folder, self._path, self._settle_s = folder, folder / "wandb.json", settle_s
        self._note = {"attempt": attempt, "id": attempt, "epochs_sent": 0, "mode": None, "status": None}
        self._pending: deque[tuple[int, float]] = deque()  # (step, time of its log)
        self.last = 0  # the highest step that needs no sending

    def open(self, run_id: str, mode: str, last: int) -> None:
        """Begin a session in `mode` ("online" or "offline") in which W&B's run has the steps up to `last`."""
        self.last = last
        self._write(id=run_id, mode=mode, epochs_sent=last)

    def on_record(self) -> OnRecord:
        """What earlier sessions sent of this attempt; nothing where no note is readable, or where the files of an
        offline one are gone."""
        attempt = self._note["attempt"]
        try:
            note = json.loads(read_file(self._path, 2**16))
            if note["attempt"] != attempt or not isinstance(note["id"], str):
                return OnRecord(attempt)
            epochs, ended = int(note["epochs_sent"]), (note["mode"], note["status"])
            kept = note["mode"] == "online" or any(self._folder.glob(f"wandb/*run-*/run-{note['id']}.wandb"))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return OnRecord(attempt)
        return OnRecord(note["id"], epochs, *ended) if kept else OnRecord(note["id"])

    def add(self, step: int) -> None:
        """`step` was logged: it needs no sending in this session, and counts on file once it has settled."""
        self.last = step
        self._pending.append((step, time.monotonic()))
        settled = None
        while self._pending and time.monotonic() - self._pending[0][1] > self._settle_s:
            settled = self._pending.popleft()[0]
        if settled is not None:
            self._write(epochs_sent=settled)

    def close(self, status: str) -> None:
        """W&B has finished its file: every step logged is in it."""
        self._pending.clear()
        self._write(epochs_sent=self.last, status=status)

    def _write(self, **changes: str | int) -> None:
        self._note.update(changes)
        replace_file(self._path, json.dumps(self._note) + "\n")
