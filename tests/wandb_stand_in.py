"""A stand-in for the module `wandb`, for what needs a server or a fault. The fixture `world` tracks with it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace


class Settings:
    model_fields = frozenset({"silent", "console", "init_timeout"})  # as of a version that knows few of them

    def __init__(self, **values):
        assert set(values) <= self.model_fields
        self.values = values


class StandIn:
    """Plays `wandb`: online `init` raises each of `failures` in turn; the server has `server_steps` epochs. run_id: the
    id that an agent of `wandb sweep` gives the run."""

    Settings = Settings

    def __init__(self, failures=(), server_steps=0, finish_s=0.0, run_id=None):
        self.failures, self.server_steps, self.finish_s, self.run_id = list(failures), server_steps, finish_s, run_id
        self.inits, self.logged, self.summary, self.ended = [], [], {}, []

    def setup(self, settings):
        return SimpleNamespace(settings=SimpleNamespace(api_key=None, base_url="https://wandb.example", mode="online"))

    def init(self, **arguments):
        self.inits.append(arguments)
        sys.excepthook = sys.exit = print  # as W&B does
        offline = arguments.get("mode") == "offline"
        if self.failures and not offline:
            raise self.failures.pop(0)
        run_id = self.run_id or arguments["id"]
        files = Path(arguments["dir"]) / "wandb" / f"{'offline-' * offline}run-1-{run_id}"
        (files / "files").mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(
            id=run_id,
            disabled=False,
            offline=offline,
            resumed=bool(self.server_steps) and not offline,
            step=self.server_steps + 1 if self.server_steps else 0,
            url="https://wandb.example/run",
            dir=str(files / "files"),
            summary=self.summary,
            define_metric=lambda *_, **__: None,
            log=lambda values, step, commit: self.logged.append((step, values, commit)),
            finish=lambda exit_code: (time.sleep(self.finish_s), self.ended.append(exit_code)),
        )

    def teardown(self):
        self.ended.append("teardown")


def sent(module):
    return [step for step, _, _ in module.logged]
