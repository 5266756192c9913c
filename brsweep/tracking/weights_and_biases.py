"""The run as Weights & Biases sees it: a mirror of metrics.jsonl that needs neither an account nor a network.

With `WANDB_MODE` set, W&B does what it says. Otherwise a run is online where W&B finds a key (`WANDB_API_KEY`, netrc,
its settings file), and offline where there is none; a key whose server does not answer within `init_timeout_s` costs
one warning line, and the run is kept offline. W&B's files lie in `folder`/wandb, and one line says how to send them.

Each stage has axes of its own: its metrics are `<stage>/<name>` over `<stage>/epoch`, with `<stage>/step` beside it;
`epoch_total`, which is W&B's own step as well, counts over all stages.

A run that goes on under the same id is sent only what W&B lacks. Online the server says what it has, offline
`folder`/wandb.json does (see `wandb_sent`).

W&B's reports on its own use are switched off unless WANDB_ERROR_REPORTING asks for them: they start threads that
outlive the run and post to W&B's server.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from brsweep.tracking.tracker import FAILED, FINISHED, INTERRUPTED, Record, RunInfo, one_line
from brsweep.tracking.wandb_mode import mode_arguments
from brsweep.tracking.wandb_sent import Sent

STAGES = ("float", "warmup", "br")
EXIT_CODES = {FINISHED: 0, FAILED: 1, INTERRUPTED: 255}
TAG_LENGTH = 64  # W&B refuses a run with a longer tag

_live: set[int] = set()  # ids of the trackers of this process whose W&B run is open


class WeightsAndBiases:
    """A tracker that mirrors the run to W&B, online or into a file for `wandb sync`.

    project, entity, job_type: as in wandb.init, where an entity of None is the account's own; the group is the sweep.
    init_timeout_s, finish_timeout_s: the longest that the start and the end of a run wait for the server, in seconds.
    flush_s: a killed process loses records younger than this, in seconds.
    system_stats: let W&B sample the machine's load, which takes time from the training.
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
    ) -> None:
        self._folder, self._about = Path(folder).resolve(), run
        self._place = {"project": project, "entity": entity, "job_type": job_type}
        self._init_timeout_s, self._finish_timeout_s = init_timeout_s, finish_timeout_s
        self._flush_s, self._system_stats = flush_s, system_stats
        self._sent = Sent(self._folder, run.id, settle_s=2 * flush_s)
        self._run: Any = None

    def replay(self, records: Sequence[Record]) -> None:
        on_record = self._sent.on_record()
        run = self._start()
        _live.add(id(self))
        self._run = run
        if run.disabled:
            self._about.notice("W&B is disabled by WANDB_MODE")
            return
        for stage in STAGES:
            for axis in ("epoch", "step"):
                run.define_metric(f"{stage}/{axis}", hidden=True)
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
        if run.offline:
            self._sent.open("offline", min(on_record, len(records)))
        else:
            self._sent.open("online", run.step - 1 if run.resumed else 0)
        if self._sent.last > len(records):
            self._about.warn(f"W&B has {self._sent.last} epochs of this run and keeps them; only later ones are added")
        for step, record in enumerate(records, start=1):
            self.log(record, step)
        where = "offline" if run.offline else run.url
        self._about.notice(f"W&B ({where}) in {self._files()}; send it with: {self._sync()}")

    def log(self, metrics: Record, step: int) -> None:
        if self._run.disabled or step <= self._sent.last:
            return
        stage = metrics["stage"]
        values = {f"{stage}/{name}": value for name, value in metrics.items() if name != "stage" and value is not None}
        self._run.log({**values, "epoch_total": step}, step=step, commit=True)  # else held back until the next epoch
        self._sent.add(step)

    def summarise(self, values: Record) -> None:
        self._run.summary.update({name: value for name, value in values.items() if value is not None})

    def finish(self, status: str) -> None:
        if self._run is None:
            return
        self._run.summary["status"] = status
        _live.discard(id(self))
        teardown = not _live
        try:
            _within(self._finish_timeout_s, lambda: self._close(EXIT_CODES[status], teardown))
        except TimeoutError:
            self._about.warn(
                f"W&B is not done after {self._finish_timeout_s:g} s and is left behind; send the rest with: "
                f"{self._sync()}"
            )
            return
        if not self._run.disabled:
            self._sent.close()

    def _close(self, exit_code: int, teardown: bool) -> None:
        self._run.finish(exit_code=exit_code)
        if teardown:  # ends W&B's threads and its service process
            import wandb

            wandb.teardown()

    def _start(self) -> Any:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
        hooks = sys.exit, sys.excepthook  # W&B puts its own in their place and does not take them away
        try:
            mode = mode_arguments(wandb.setup(settings=wandb.Settings(silent=True)).settings)
            try:
                return self._init(wandb, mode)
            except Exception as error:
                if mode:
                    raise
                self._about.warn(f"W&B cannot be reached, this run is kept offline: {one_line(error)}")
            if not _live:
                wandb.teardown()  # the attempt still holds the id
                wandb.setup(settings=wandb.Settings(silent=True))
            return self._init(wandb, {"mode": "offline"})
        finally:
            sys.exit, sys.excepthook = hooks

    def _init(self, wandb: Any, mode: dict[str, str]) -> Any:
        about = self._about
        wanted = {
            "silent": True,
            "console": "off",
            "save_code": False,
            "disable_code": True,
            "disable_git": True,
            "init_timeout": self._init_timeout_s,
            "finish_timeout": self._finish_timeout_s,
            "finish_timeout_raises": True,
            "x_disable_stats": not self._system_stats,
            "x_transaction_log_flush_interval": self._flush_s,
        }
        known = wandb.Settings.model_fields  # versions differ
        return wandb.init(
            dir=str(self._folder),
            **self._place,
            name=about.name,
            group=about.sweep,
            tags=list(dict.fromkeys(tag[:TAG_LENGTH] for tag in about.tags if tag)),
            config=dict(about.config),
            id=about.id,
            resume="allow",
            reinit="create_new",  # no current run of the process: each tracker has its own
            settings=wandb.Settings(**{name: value for name, value in wanted.items() if name in known}),
            **mode,
        )

    def _files(self) -> Path:
        return Path(self._run.dir).parent

    def _sync(self) -> str:
        return f"wandb sync {shlex.quote(str(self._files()))}"


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
