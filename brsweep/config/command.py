"""How a command ends: one line and exit code 1 for what the user can mend; a fault of the program has its traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from brsweep.config.messages import known_keys, one_line
from brsweep.errors import BrsweepError


def run_command(task: Callable[[], Any], config_name: str) -> None:
    """Call `task`, a function that `hydra.main` decorated, whose primary configuration is `config_name`."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here instead of being printed by Hydra
    try:
        task()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrsweepError as error:
        stop(str(error))
    except Exception as error:
        line = one_line(error, known_keys(config_name))
        if line is None:
            raise
        stop(line)


def stop(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(1)
