"""Online or offline: decided here, because `wandb.init` without a key asks on a terminal and raises anywhere else."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from brsweep.errors import BrsweepError


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

    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
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
