"""Which epochs W&B has: `wandb.json` in the run folder, `{"id", "epochs_sent", "mode"}`.

W&B writes its own file a little after each log, so an epoch counts as sent once it is older than that delay. A killed
process then leads to an epoch that is sent twice, under the same step, and never to one that is missing.
"""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path

from brsweep.tracking.atomic import replace_file


class Sent:
    """The steps that W&B has been sent for the run `run_id`.

    settle_s: after how many seconds a logged step is safely in W&B's own file.
    """

    def __init__(self, folder: Path, run_id: str, settle_s: float) -> None:
        self._folder, self._path, self._id, self._settle_s = folder, folder / "wandb.json", run_id, settle_s
        self._pending: deque[tuple[int, float]] = deque()  # (step, time of its log)
        self._mode = ""
        self.last = 0  # the highest step that needs no sending

    def open(self, mode: str, last: int) -> None:
        """Begin a session in `mode` ("online" or "offline") in which W&B has the steps up to `last`."""
        self._mode, self.last = mode, last
        self._write(last)

    def on_record(self) -> int:
        """The last step sent by earlier sessions; 0 where their files are gone or nothing readable is on record."""
        try:
            note = json.loads(self._path.read_bytes())
            kept = any(self._folder.glob(f"wandb/*run-*/run-{self._id}.wandb"))
            return int(note["epochs_sent"]) if kept and note["id"] == self._id else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def add(self, step: int) -> None:
        """`step` was logged: it needs no sending in this session, and counts on file once it has settled."""
        self.last = step
        self._pending.append((step, time.monotonic()))
        settled = None
        while self._pending and time.monotonic() - self._pending[0][1] > self._settle_s:
            settled = self._pending.popleft()[0]
        if settled is not None:
            self._write(settled)

    def close(self) -> None:
        """W&B has finished its file: every step logged is in it."""
        self._pending.clear()
        self._write(self.last)

    def _write(self, epochs_sent: int) -> None:
        note = {"id": self._id, "epochs_sent": epochs_sent, "mode": self._mode}
        replace_file(self._path, json.dumps(note).encode() + b"\n")
