"""Which epochs W&B has: `wandb.json` in the run folder.

    attempt       the id that the run folder gives this training of the run
    id            the id of W&B's run: the same, unless an agent of `wandb sweep` gave another
    epochs_sent   how many epochs need no sending
    mode          online or offline, of the last session
    status        how the last session ended; null while it lasts, or when it was killed or left behind

W&B writes its own file a little after each log, so an epoch counts as sent once it is older than that delay. A killed
process then leads to an epoch that is sent twice, under the same step, and never to one that is missing.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from brsweep.tracking.atomic import replace_file


@dataclass(frozen=True)
class OnRecord:
    """What earlier sessions left: W&B's id of the run, the last epoch sent, and the last session's mode and end."""

    run_id: str
    epochs: int = 0
    mode: str | None = None
    status: str | None = None


class Sent:
    """The steps that W&B has been sent for the training `attempt` of a run.

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
            note = json.loads(self._path.read_bytes())
            if note["attempt"] != attempt or not isinstance(note["id"], str):
                return OnRecord(attempt)
            epochs, ended = int(note["epochs_sent"]), (note["mode"], note["status"])
            kept = note["mode"] == "online" or any(self._folder.glob(f"wandb/*run-*/run-{note['id']}.wandb"))
        except (OSError, ValueError, KeyError, TypeError):
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
        replace_file(self._path, json.dumps(self._note).encode() + b"\n")
