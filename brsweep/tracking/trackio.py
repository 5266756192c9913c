"""The epochs in Trackio: W&B's calls, a database on this machine, `trackio show --project <project>` to look at it.

Scalars are tagged `<stage>/<name>` at the run's step, as on every tracker with one axis. Where TRACKIO_SPACE_ID or
TRACKIO_SERVER_URL is set, Trackio sends them there; else they lie in TRACKIO_DIR, by default in Hugging Face's cache.
A run that goes on is written anew, so that its history is that of one which never stopped.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.tracking.tracker import Record, RunInfo, Tracker


class Trackio(Tracker):
    """A tracker that writes to `project`: the run's readable name and id, in the group of its sweep."""

    def __init__(self, folder: Path, run: RunInfo, project: str) -> None:
        self._run, self._project = run, project
        self._name = f"{run.name}-{run.id}"
        self._open: Any = None
        self._step = 0

    def replay(self, records: Sequence[Record]) -> None:
        trackio = _trackio()
        with _quietly():
            with contextlib.suppress(ValueError):  # the project is a new one
                for old in trackio.Api().runs(self._project):
                    if old.name == self._name:
                        old.delete()
            self._open = trackio.init(
                self._project, self._name, group=self._run.sweep, config=dict(self._run.config), embed=False,
                auto_log_cpu=False, auto_log_gpu=False,
            )  # fmt: skip
        self._run.notice(f"Trackio: trackio show --project {self._project}")
        for step, record in enumerate(records, start=1):
            self.log(record, step)

    def log(self, metrics: Record, step: int) -> None:
        self._step = step
        stage = metrics["stage"]
        numbers = {key: value for key, value in metrics.items() if key != "stage" and value is not None}
        self._open.log({f"{stage}/{key}": value for key, value in numbers.items()}, step)

    def summarise(self, values: Record) -> None:
        known = {f"summary/{key}": value for key, value in values.items() if value is not None}
        self._open.log(known, self._step)

    def finish(self, status: str) -> None:
        if self._open is not None:
            with _quietly():
                self._open.finish()


def _trackio() -> Any:
    try:
        return import_module("trackio")
    except ModuleNotFoundError as error:
        if error.name != "trackio":
            raise
        raise BrsweepError("trackio is not installed: pip install brsweep[trackio], or choose another logger") from None


def _quietly() -> contextlib.AbstractContextManager:
    """Trackio prints on its own; the console is the run's."""
    return contextlib.redirect_stdout(io.StringIO())
