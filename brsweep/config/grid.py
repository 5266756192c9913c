"""The points of a grid, composed and checked; compositions are remembered beside the sweep.

Composing takes Hydra some 65 ms a point, which is most of the time that a finished sweep needs to answer. What was
composed from the same overrides, files of configuration, environment variables that they name, and versions is taken
from `<sweep>/.compositions.json`; whatever does not fit, and a search path with more than folders, is composed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, open_dict

from brsweep.config import compose, schema
from brsweep.config.compose import checked
from brsweep.config.messages import known_keys, one_line
from brsweep.errors import BrsweepError
from brsweep.runs.folder import write_atomically
from brsweep.sweep.plan import Point

REMEMBERED = ".compositions.json"
ENVIRONMENT = re.compile(rb"oc\.env:\s*([A-Za-z_]\w*)")


def compose_points(loader: ConfigLoader, master: DictConfig, grid: Sequence[Sequence[str]]) -> list[Point]:
    """A checked configuration for each list of overrides. Raises `BrsweepError` that names the first bad point."""
    memory = _Memory(master, loader)
    points = [Point(tuple(overrides), _compose(loader, master, overrides, memory)) for overrides in grid]
    memory.write()
    return points


def _compose(loader: ConfigLoader, master: DictConfig, overrides: Sequence[str], memory: _Memory) -> dict[str, Any]:
    found = memory.find(overrides)
    if found is not None:
        return found
    try:
        cfg = loader.load_sweep_config(master, list(overrides))
        with open_dict(cfg):
            del cfg["hydra"]
        config = checked(cfg, overrides)
    except Exception as error:
        known = known_keys(master.hydra.job.config_name)
        line = str(error) if isinstance(error, BrsweepError) else one_line(error, known)
        if line is None:
            raise
        raise BrsweepError(f"{line} (at {' '.join(overrides)}; nothing was started)") from None
    memory.keep(overrides, config)
    return config


class _Memory:
    """Compositions by the hash of what they came from."""

    def __init__(self, master: DictConfig, loader: ConfigLoader) -> None:
        self._path = Path(str(master.output_dir)) / str(master.sweep_name) / REMEMBERED
        self._origin = _origin([*_places(loader), *map(str, master.hydra.searchpath)])
        self._known: dict[str, Any] = {}
        self._used: dict[str, Any] = {}
        with suppress(OSError, ValueError):  # whatever is wrong with it: composed and written anew
            self._known = json.loads(self._path.read_text()) if self._origin else {}

    def find(self, overrides: Sequence[str]) -> dict[str, Any] | None:
        key = self._key(overrides)
        found = self._known.get(key) if self._origin and isinstance(self._known, dict) else None
        if found is not None:
            self._used[key] = found
        return found

    def keep(self, overrides: Sequence[str], config: dict[str, Any]) -> None:
        self._used[self._key(overrides)] = config

    def write(self) -> None:
        if self._origin and self._used != self._known:
            write_atomically(self._path, json.dumps(self._used))

    def _key(self, overrides: Sequence[str]) -> str:
        return hashlib.sha256(json.dumps([self._origin, *overrides]).encode()).hexdigest()


def _places(loader: ConfigLoader) -> list[str]:
    """The search path as it was at the start: what `hydra.searchpath` adds is in the composed configuration alone."""
    path = loader.get_search_path().get_path()
    return [str(entry.path) for entry in path if entry.provider not in ("hydra", "schema")]


def _origin(places: Sequence[str]) -> str | None:
    """A hash of everything that a composition depends on beside its overrides; None where that can't be known."""
    content = [version("hydra-core"), version("omegaconf")]
    files = [Path(schema.__file__), Path(compose.__file__)]
    for place in places:
        folder = Path(place.removeprefix("file://"))
        if not folder.is_dir():
            return None
        files += sorted(folder.rglob("*.yaml"))
    for file in files:
        text = file.read_bytes()
        content += [f"{name.decode()}={os.environ.get(name.decode())}" for name in ENVIRONMENT.findall(text)]
        content.append(f"{file} {hashlib.sha256(text).hexdigest()}")
    return hashlib.sha256("\n".join(content).encode()).hexdigest()
