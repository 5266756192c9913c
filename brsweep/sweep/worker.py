"""One task in a process of its own: `python -m brsweep.sweep.worker`, with the task as a line of JSON on its input.

The launcher keeps the other end of the input open and writes nothing more to it. When it is gone, however it ended,
the input ends, and so does the worker at once: the last epoch's checkpoint is what the next launch goes on from.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from brsweep import targets
from brsweep.errors import BrsweepError

ORPHANED = 86
"""Exit code of a worker whose launcher is gone."""


def work(task: Mapping[str, Any]) -> None:
    """Do a task: `config`, and `upto`, the signature of the shared stage to train, or None for the whole run."""
    from brsweep.runs.execution import execute, execute_shared

    targets.consent(task["config"]["allow_targets"])  # as the launcher's command line gave it
    if task["upto"] is None:
        execute(task["config"])
    else:
        execute_shared(task["config"], task["upto"])


def main() -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a launcher in a shell's background ignores it
    task = json.loads(_first_line(0))
    threading.Thread(target=_follow_launcher, daemon=True).start()
    try:
        work(task)
    except BrsweepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _first_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        line += piece
    return line


def _follow_launcher() -> None:
    while os.read(0, 1):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
