"""Opening and closing a run of W&B: in the right mode, quietly, in bounded time, with nothing of it left behind.

W&B's reports on its own use are switched off unless WANDB_ERROR_REPORTING asks for them: they start threads that
outlive the run and post to W&B's server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from brsweep.tracking.tracker import RunInfo, one_line
from brsweep.tracking.wandb_mode import mode_arguments

TAG_LENGTH = 64  # W&B refuses a run with a longer tag

_live: set[int] = set()  # ids of this process's open W&B runs


@dataclass(frozen=True)
class Session:
    """How runs are opened.

    place: project, entity and job_type for wandb.init. init_timeout_s, finish_timeout_s: the longest waits for the
    server.
    """

    place: Mapping[str, Any]
    init_timeout_s: float
    finish_timeout_s: float
    flush_s: float
    system_stats: bool

    def open(self, folder: Path, about: RunInfo, run_id: str, fall_back: bool) -> Any:
        """W&B's run, its files under `folder`/wandb; with `fall_back` offline where the server cannot be reached."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        hooks = sys.exit, sys.excepthook  # W&B puts its own in their place and does not take them away
        try:
            mode = mode_arguments(wandb.setup(settings=wandb.Settings(silent=True)).settings)
            try:
                run = self._init(wandb, folder, about, run_id, mode)
            except Exception as error:
                if mode or not fall_back:
                    raise
                about.warn(f"W&B cannot be reached, this run is kept offline: {one_line(error)}")
                if not _live:
                    wandb.teardown()  # the attempt still holds the id
                    wandb.setup(settings=wandb.Settings(silent=True))
                run = self._init(wandb, folder, about, run_id, {"mode": "offline"})
        finally:
            sys.exit, sys.excepthook = hooks
        _live.add(id(run))
        return run

    def close(self, run: Any, exit_code: int) -> None:
        """End `run`. Raises TimeoutError when that takes longer than `finish_timeout_s`: then it is left behind."""
        _live.discard(id(run))
        last = not _live

        def finish() -> None:
            run.finish(exit_code=exit_code)
            if last:  # ends W&B's threads and its service process
                import wandb

                wandb.teardown()

        _within(self.finish_timeout_s, finish)

    def _init(self, wandb: Any, folder: Path, about: RunInfo, run_id: str, mode: Mapping[str, str]) -> Any:
        wanted = {
            "silent": True,
            "console": "off",
            "save_code": False,
            "disable_code": True,
            "disable_git": True,
            "init_timeout": self.init_timeout_s,
            "finish_timeout": self.finish_timeout_s,
            "finish_timeout_raises": True,
            "x_disable_stats": not self.system_stats,
            "x_transaction_log_flush_interval": self.flush_s,
        }
        known = wandb.Settings.model_fields  # versions differ
        return wandb.init(
            dir=str(folder),
            **self.place,
            name=about.name,
            group=about.sweep,
            tags=list(dict.fromkeys(tag[:TAG_LENGTH] for tag in about.tags if tag)),
            config=dict(about.config),
            id=run_id,
            resume="allow",
            reinit="create_new",  # no current run of the process: each tracker has its own
            settings=wandb.Settings(**{name: value for name, value in wanted.items() if name in known}),
            **mode,
        )


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Do `action`; raise its exception, or TimeoutError when it takes longer: then it is left to a daemon thread."""
    failures: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=act, daemon=True, name="brsweep-finish")
    thread.start()
    thread.join(seconds + 1.0)  # W&B has the same limit, and time to keep it
    if thread.is_alive():
        raise TimeoutError
    if failures:
        raise failures[0]
