"""A run's folder: what is in it, and what state the run is in.

    <output_dir>/<sweep_name>/<readable name>-<hash>/
        config.yaml      the configuration, resolved
        console.log      what was printed
        metrics.jsonl    a line per epoch: scalars
        layers.jsonl     a line per epoch of a quantized stage: one array per metric, in the order of "site"
        snapshots/       histograms and confusion counts at the stages' ends
        checkpoints/     last.pt and best.pt, weights alone; while training, the checkpoint to go on from
        result.json      last, in one move: the run is finished when it is there
        failure.json     why the last training of it failed, in one line; gone when it begins again
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.files import replace_file
from brsweep.stages.store import lock_is_held, os_lock

RESULT, CONFIG, METRICS, LAYERS, CONSOLE = "result.json", "config.yaml", "metrics.jsonl", "layers.jsonl", "console.log"
FAILURE, LOCK = "failure.json", ".lock"
LOOKS, LOOK_S = 10, 0.05
"""How often, and at what distance, a busy lock is tried: a status table looks at locks too, for an instant."""


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def result(self) -> dict[str, Any] | None:
        """The stored result of a finished run; None where there is none, or a damaged one."""
        try:
            result = json.loads((self.path / RESULT).read_text())
        except (OSError, ValueError):
            return None
        return result if isinstance(result, dict) and result.get("status") == "finished" else None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Publish the result: from here on the run is finished."""
        write_atomically(self.path / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")

    def failure(self) -> dict[str, Any] | None:
        """`cause`, one line, and `log`, a file in the folder: why the last training failed, where it did."""
        try:
            failure = json.loads((self.path / FAILURE).read_text())
        except (OSError, ValueError):
            return None
        return failure if isinstance(failure, dict) and "cause" in failure else None

    def write_failure(self, cause: str, log: str) -> None:
        """Keep the cause for whoever looks for it; where that fails too (a full disk), the log has to do."""
        with suppress(BrsweepError):
            text = json.dumps({"cause": " ".join(cause.split()), "log": log})
            write_atomically(self.path / FAILURE, text + "\n")

    def forget_failure(self) -> None:
        (self.path / FAILURE).unlink(missing_ok=True)

    def attempt_id(self, full_name: str) -> str:
        """The id that trackers know this run by: kept in the folder, so a run that goes on keeps it, and a run trained
        again from the beginning gets a new one."""
        path = self.path / "run_id"
        if not path.exists():
            seed = f"{full_name}/{secrets.token_hex(8)}"
            write_atomically(path, hashlib.sha256(seed.encode()).hexdigest()[:16])
        return path.read_text().strip()

    def clear(self) -> None:
        """Forget an earlier training of this run; call it with the lock held. The result goes first."""
        for name in (RESULT, FAILURE, METRICS, LAYERS, CONSOLE, "run_id"):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.checkpoints, self.snapshots):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def held(self) -> bool:
        """Whether a process trains this run at this moment."""
        return lock_is_held(self.path / LOCK)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run. Raises `BrsweepError` where another process trains it."""
        with ExitStack() as stack:
            for look in range(LOOKS):
                try:
                    stack.enter_context(os_lock(self.path / LOCK))
                    break
                except BlockingIOError:
                    if look == LOOKS - 1:
                        line = f"{self.path}: another process trains this run; wait for it or stop it"
                        raise BrsweepError(line) from None
                    time.sleep(LOOK_S)
            yield


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds the old content or the new, whole. Raises `BrsweepError` on a full disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except OSError as error:
        why = error.strerror
        raise BrsweepError(f"{path}: can't be written ({why}); free the disk or choose another folder") from None
