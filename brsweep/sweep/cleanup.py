"""What the store of shared stages holds, and removing what no unfinished run needs.

    python -m brsweep.sweep.cleanup runs                what is there, how large, who needs it
    python -m brsweep.sweep.cleanup runs --remove       remove what nobody needs

A run needs its shared stages until it is finished: those named by a sweep's manifest, also of runs that have not begun,
and those of every run folder without a result. Where a folder does not tell what it needs, nothing is removed. What a
process is training is left alone, and so is everything that is no entry of a store that brsweep made.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.memory import lack_of_memory_in_words
from brsweep.output import reader_may_leave
from brsweep.runs import words
from brsweep.runs.folder import CONFIG, RunFolder
from brsweep.runs.words import printable
from brsweep.stages.store import ENTRY, Store
from brsweep.sweep.manifest import MANIFEST, read_manifest

MIB = 2**20
PARTS_OF_DATA = ("limit=", "quick=")


@dataclass(frozen=True)
class Entry:
    """A folder of the store: a finished stage, a `.partial` one in training or broken off, or a `.damaged` one.

    about: its network, data, bits and seed in words, where it tells.
    """

    path: Path
    stage: str
    about: str
    size: int
    needed_by: tuple[str, ...]


def entries(store: Store, outputs: Sequence[Path]) -> list[Entry]:
    """Everything in the store, with the unfinished runs under `outputs` that need it.

    Raises `BrsweepError` where `store` is none that brsweep made, or where a run does not tell what it needs.
    """
    if store.root.exists() and not store.is_marked:
        raise BrsweepError(f"{store.root}: not a store of brsweep's; give the right one with --store")
    needs: dict[str, list[str]] = {}
    for output in outputs:
        for name, signatures in _unfinished(output):
            for signature in signatures:
                needs.setdefault(signature, []).append(name)
    found = []
    for path in store.folders():
        key, _, kind = path.name.partition(".")
        size = sum(file.stat().st_size for file in path.iterdir())
        users = () if kind == "damaged" else tuple(needs.get(key.partition("-")[0], ()))
        stage, about = _told(path)
        found.append(Entry(path, kind or stage, about, size, users))
    return found


def _unfinished(output: Path) -> Iterator[tuple[str, list[str]]]:
    """Runs without a result, with the signatures of their shared stages, as their folders and sweeps keep them."""
    if not output.is_dir():
        raise BrsweepError(f"{output}: no such folder; give the output_dir that holds the sweeps, such as runs")
    planned = set()
    for path in sorted(output.rglob(MANIFEST)):
        for run in (read_manifest(path.parent) or {"runs": []})["runs"]:
            planned.add(path.parent / run["name"])
            if not RunFolder(path.parent / run["name"]).finished:
                yield run["name"], run["stages"]
    for path in sorted(output.rglob(CONFIG)):
        folder = RunFolder(path.parent)
        if path.parent not in planned and not folder.finished:
            stages = folder.planned_stages()
            if stages is None:
                raise BrsweepError(
                    f"{path}: does not tell which stages its unfinished run needs; finish it or remove its folder"
                )
            yield path.parent.name, stages


def _told(folder: Path) -> tuple[str, str]:
    """The stage's name, and what it is a stage of: `resnet20 digits-1 w2a2 seed 42`, as its entry tells."""
    try:
        entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        stage = printable(str(entry["stage"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "damaged", ""
    try:
        config = entry["spec"]["config"]
        net = config["model"]["_target_"].rpartition(".")[2]
        data, *part = config["data"]["identity"].split()
        part = [word for word in part if word.startswith(PARTS_OF_DATA)]
        bits = words.bits(config) if "quant" in config else "float"
        return stage, printable(" ".join([net, data, *part, bits, f"seed {config['seed']}"]))
    except (KeyError, TypeError, AttributeError, ValueError):  # of a store of before, or from elsewhere
        return stage, ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m brsweep.sweep.cleanup", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, nargs="+", help="every output_dir whose sweeps use the store")
    parser.add_argument("--store", type=Path, help="the store, if it is not <output>/store")
    parser.add_argument("--remove", action="store_true", help="remove what no unfinished run needs")
    typed = parser.parse_args(arguments)
    store = Store(typed.store or typed.output[0] / "store")
    try:
        with lack_of_memory_in_words():
            found = entries(store, typed.output)
            width = max((len(entry.about) for entry in found), default=0)
            for entry in found:
                users = f"needed by {len(entry.needed_by)} unfinished runs" if entry.needed_by else "needed by no run"
                about = f"{entry.about:{width}}  " if width else ""
                print(f"{entry.path.name:25} {entry.stage:8} {about}{entry.size / MIB:9.1f} MiB  {users}")
            unwanted = [entry for entry in found if not entry.needed_by]
            gone = [entry for entry in unwanted if store.remove(entry.path)] if typed.remove else []
    except BrsweepError as error:
        sys.exit(f"error: {error}")
    total, spare = (sum(entry.size for entry in some) / MIB for some in (found, unwanted))
    print(f"{store.root}: {len(found)} entries, {total:.1f} MiB; {spare:.1f} MiB needed by no unfinished run")
    if typed.remove:
        print(f"removed {len(gone)} entries, {sum(entry.size for entry in gone) / MIB:.1f} MiB")
    elif unwanted:
        print("--remove removes them; a run that wants one later trains it again")


if __name__ == "__main__":
    with reader_may_leave():
        main()
