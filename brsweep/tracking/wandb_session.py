"""Opening and closing a run of W&B: in the right mode, quietly, in bounded time, with nothing of it left behind.

The mode is decided here, because `wandb.init` without a key asks on a terminal and raises anywhere else.

W&B's reports on its own use are switched off unless WANDB_ERROR_REPORTING asks for them: they start threads that
outlive the run and post to W&B's server. Its hook at the process's end is kept from it: that waits for W&B's service
process without a limit, and what it would end is ended here, by `close`, or by `_leave` where a run is left behind.
"""

from __future__ import annotations

import atexit
import netrc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from brsweep.errors import BrsweepError
from brsweep.tracking.tracker import RunInfo, one_line

TAG_LENGTH = 64  # W&B refuses a run with a longer tag
SERVICE = "wandb-core"
"""The program of W&B's service process, a child of this one."""
SERVICE_START_S = 30.0
"""How long W&B waits for its service process to begin, whatever WANDB__SERVICE_WAIT says: 0 waits for ever."""

_live: set[Session] = set()
"""This process's sessions that W&B works for; one that hangs stays here until the process ends."""


@dataclass(frozen=True, eq=False)
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
        _live.add(self)
        atexit.register(_leave)
        with _own_hooks():
            mode = mode_arguments(_set_up(wandb))
            try:
                return self._init(wandb, folder, about, run_id, mode)
            except Exception as error:
                if mode or not fall_back:
                    raise
                about.warn(f"W&B cannot be reached, this run is kept offline: {one_line(error)}")
            if _live == {self}:
                wandb.teardown()  # the attempt still holds the id
                _set_up(wandb)
            return self._init(wandb, folder, about, run_id, {"mode": "offline"})

    def close(self, run: Any, exit_code: int) -> None:
        """End `run`. Raises TimeoutError when that takes longer than `finish_timeout_s`: then it is left behind."""

        def finish() -> None:
            run.finish(exit_code=exit_code)
            if _live == {self}:  # ends W&B's threads and its service process
                import wandb

                wandb.teardown()
            _live.discard(self)

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
            settings=_settings(wandb, **wanted),
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


def _set_up(wandb: Any) -> Any:
    """Start W&B's service process where none runs yet; W&B's settings, of its files and environment variables."""
    return wandb.setup(settings=_settings(wandb, silent=True, x_service_wait=SERVICE_START_S)).settings


def _settings(wandb: Any, **wanted: Any) -> Any:
    known = wandb.Settings.model_fields  # versions differ
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


@contextmanager
def _own_hooks() -> Iterator[None]:
    """Keep the process's hooks as they are: W&B puts its own in their place and does not take them away."""
    before, register = (sys.exit, sys.excepthook), atexit.register

    def register_others(function: Callable, *args: Any, **named: Any) -> Callable:
        of_wandb = str(getattr(function, "__module__", "")).startswith("wandb.")
        return function if of_wandb else register(function, *args, **named)

    atexit.register = register_others
    try:
        yield
    finally:
        atexit.register = register
        sys.exit, sys.excepthook = before


def _leave() -> None:
    """At the process's end: end the service of a run that was left behind, which may hang or upload for hours."""
    if _live:
        for process in _services():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)


def _services() -> list[int]:
    """The process ids of W&B's services that this process has started; none where there is no /proc."""
    found = []
    for about in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            number, _, rest = about.read_text(encoding="utf-8", errors="replace").partition(" (")
            name, _, state = rest.rpartition(") ")
            if name == SERVICE and int(state.split()[1]) == os.getpid():
                found.append(int(number))
    return found


def mode_arguments(settings: Any) -> dict[str, str]:
    """What `wandb.init` is to be told of the mode: nothing where the user or a key decides, else offline.

    settings: those of `wandb.setup()`, which hold W&B's settings files and environment variables.
    """
    if "WANDB_MODE" in os.environ or has_key(settings):  # an explicit mode would beat the user's
        return {}
    return {"mode": "offline"}


def will_be_online() -> bool:
    """Whether a run that begins now talks to the server. Raises `BrsweepError` where WANDB_MODE switches W&B off."""
    import wandb

    with _own_hooks():
        settings = _set_up(wandb)
        wandb.teardown()
    if settings.mode == "disabled":
        raise BrsweepError("WANDB_MODE=disabled: W&B takes nothing; unset it")
    return settings.mode == "online" and ("WANDB_MODE" in os.environ or has_key(settings))


def has_key(settings: Any) -> bool:
    """Whether W&B will find credentials for its server. The key itself is not looked at."""
    if os.environ.get("WANDB_API_KEY") or settings.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    candidates = [named] if named else ["~/.netrc", "~/_netrc"]
    for path in (Path(candidate).expanduser() for candidate in candidates):
        if path.exists():
            try:
                return netrc.netrc(path).authenticators(urlsplit(settings.base_url).netloc) is not None
            except (netrc.NetrcParseError, OSError):
                return False
    return False
