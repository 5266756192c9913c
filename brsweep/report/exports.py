"""The files that a run was exported to, and what its network costs, as the records beside them say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.runs.words import printable

MOST = 2**53
LONGEST = 100


@dataclass(frozen=True)
class Exports:
    """files: name -> bytes, of those that are there. bytes: of the parameters at their bits. bit_operations: for one
    image. None where nothing was exported."""

    files: Mapping[str, int] = field(default_factory=dict)
    bytes: int | None = None
    bit_operations: int | None = None


NOTHING = Exports()


def exports_of(path: Path) -> Exports:
    """What lies in a run's folder of exports. Raises `BrsweepError` for a record that no export wrote."""
    folder, files, total = RunFolder(path), {}, {}
    for record in folder.export_records():
        if not isinstance(record, dict) or not _are_counts(record.get("files"), record.get("total")):
            raise BrsweepError(f"{folder.exports}: damaged, it holds a record that no export wrote")
        there = {printable(name): size for name, size in record["files"].items() if (folder.exports / name).is_file()}
        files |= there
        total = record["total"] if there else total
    return Exports(files, total.get("bytes"), total.get("bit_operations"))


def link(path: Path, name: str, page_folder: Path) -> str:
    """Where a file of a run's exports lies, seen from the page."""
    return Path(os.path.relpath(RunFolder(path.resolve()).exports / name, page_folder.resolve())).as_posix()


def _are_counts(*mappings: Any) -> bool:
    for mapping in mappings:
        if not isinstance(mapping, dict):
            return False
        for name, count in mapping.items():
            if len(name) > LONGEST or set(name) & set("/\\\0") or type(count) is not int or not 0 <= count < MOST:
                return False
    return True
