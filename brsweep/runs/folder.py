"""A run's folder: what is in it, and the only code that reads it or writes to it.

    <output_dir>/<sweep_name>/<readable name>-<hash>/
        config.yaml      the configuration, resolved
        plan.json        the signatures of the shared stages that the run needs from the store
        console.log      what was printed
        metrics.jsonl    a line per epoch: scalars
        layers.jsonl     a line per epoch of a quantized stage: one array per metric, in the order of "site"
        snapshots/       histograms and confusion counts at the stages' ends
        checkpoints/     last.pt and best.pt, weights alone; while training, the checkpoint to go on from;
                         best.buffers.pt and last.buffers.pt where batch norm was re-estimated
        result.json      last, in one move: the run is finished when it is there
        export/          the network in formats that others read, where it was exported
        failure.json     why the last training of it failed, in one line; gone when it begins again

What is read back is data that may have been damaged or come from somebody else: it is checked for its shape, and what
does not fit raises `BrsweepError`, one line that names the file. A result holds the name of its run and a digest of
itself, so another run's, a cut one or an edited one does not answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsweep.errors import BrsweepError
from brsweep.files import replace_file
from brsweep.stages.store import lock_is_held, os_lock
from brsweep.tracking import jsonl, snapshots

if TYPE_CHECKING:
    import numpy as np

RESULT, CONFIG, METRICS, LAYERS, CONSOLE = "result.json", "config.yaml", "metrics.jsonl", "layers.jsonl", "console.log"
CHECKPOINTS, EXPORTS = "checkpoints", "export"
WHICH = ("best", "last")
"""The epochs whose weights a finished run keeps."""
PLAN, FAILURE, LOCK, ATTEMPT = "plan.json", "failure.json", ".lock", "run_id"
LOOKS, LOOK_S = 10, 0.05
"""How often, and at what distance, a busy lock is tried: a status table looks at locks too, for an instant."""
MEND = "the same command with stale=retrain trains the run again"
LARGEST_TEXT = 16 * 2**20
"""Bytes of a result, a failure or a configuration; what is larger was not written here."""
MOST_LEVELS = 64
"""Levels of a configuration's nesting, far more than one has."""


class Damaged(BrsweepError):
    """A file of a run's folder is there and is not what the run wrote."""


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    # --- the configuration, the result, the failure ------------------------------------------------------------------

    def begin(self, config: Mapping[str, Any], shared_stages: Sequence[str]) -> None:
        """Write what the run is: its configuration, and the signatures of the stages that it shares."""
        import yaml

        write_atomically(self.path / PLAN, json.dumps({"stages": list(shared_stages)}) + "\n")
        write_atomically(self.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))

    def planned_stages(self) -> list[str] | None:
        """The signatures of the shared stages that the run needs; None where the folder does not tell."""
        try:
            stages = self._json(PLAN)["stages"]
            return stages if all(isinstance(signature, str) for signature in stages) else None
        except (Damaged, KeyError, TypeError):
            return None

    def config(self) -> dict[str, Any] | None:
        """The run's configuration, plain nested data; None where it was never begun. Raises `Damaged`."""
        import yaml

        text = self._text(CONFIG)
        if text is None:
            return None
        try:
            _check_events(text)
            config = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise Damaged(f"{self.path / CONFIG}: damaged; {MEND}")
        return config

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run; None where there is none yet. Raises `Damaged`."""
        result = self._json(RESULT)
        if result is None:
            return None
        why = self._why_no_result(result)
        if why is not None:
            raise Damaged(f"{self.path / RESULT}: {why}; {MEND}")
        return result

    @property
    def holds_result(self) -> bool:
        """Whether a result is there, whole or damaged."""
        return (self.path / RESULT).exists()

    @property
    def finished(self) -> bool:
        """Whether a whole result is there."""
        try:
            return self.result() is not None
        except Damaged:
            return False

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Publish the result, with the run's name and a digest: from here on the run is finished. What was written."""
        named = dict(result) | {"name": self.path.resolve().name}
        content = json.loads(json.dumps(named, allow_nan=False))  # as it will be read back
        sealed = content | {"digest": _seal(content)}
        write_atomically(self.path / RESULT, json.dumps(sealed, indent=2) + "\n")
        return sealed

    def failure(self) -> dict[str, Any] | None:
        """`cause`, one line, and `log`, a file in the folder: why the last training failed, where it did."""
        try:
            failure = self._json(FAILURE)
        except Damaged:
            return None
        known = isinstance(failure, dict) and all(isinstance(failure.get(key), str) for key in ("cause", "log"))
        return failure if known else None

    def write_failure(self, cause: str, log: str) -> None:
        """Keep the cause for whoever looks for it; where that fails too (a full disk), the log has to do."""
        with suppress(BrsweepError):
            text = json.dumps({"cause": " ".join(cause.split()), "log": log})
            write_atomically(self.path / FAILURE, text + "\n")

    def forget_failure(self) -> None:
        (self.path / FAILURE).unlink(missing_ok=True)

    # --- weights -----------------------------------------------------------------------------------------------------

    @property
    def exports(self) -> Path:
        return self.path / EXPORTS

    def weights(self, which: str, reestimated: bool = False) -> dict[str, Any]:
        """The network's state after the epoch `which`, one of `WHICH`; reestimated: with the buffers of the network
        whose batch norm was re-estimated. Imports torch. Raises `BrsweepError`."""
        from brsweep.training.checkpoint import load

        state = _state(load(self._own(f"{CHECKPOINTS}/{which}.pt")), self.checkpoints / f"{which}.pt")
        if reestimated:
            path = self._own(f"{CHECKPOINTS}/{which}.buffers.pt")
            if not path.exists():
                raise BrsweepError(
                    f"{self.path}: holds no re-estimated batch norm; reestimate_bn_batches=N trains such a run"
                )
            state = state | _state(load(path), path)
        return state

    def export_records(self) -> list[Any]:
        """The records of the formats that the network was exported in. Raises `Damaged`."""
        self._own(EXPORTS)
        names = sorted(os.listdir(self.exports)) if os.path.isdir(self.exports) else []
        return [self._json(f"{EXPORTS}/{name}") for name in names if name.endswith(".json")]

    def write_buffers(self, which: str, buffers: Mapping[str, Any]) -> None:
        """Keep the buffers of the network whose batch norm was re-estimated. Imports torch."""
        from brsweep.training.checkpoint import save

        save(self.checkpoints / f"{which}.buffers.pt", {"model": dict(buffers)})

    # --- records -----------------------------------------------------------------------------------------------------

    def records(self, skip_damaged: bool = False) -> list[dict[str, Any]]:
        """The epochs so far, those of all stages; none where no epoch has ended. Raises `BrsweepError`, and where
        lines are damaged unless they are to be skipped."""
        return self._lines(METRICS, skip_damaged)

    def layers(self) -> list[dict[str, Any]]:
        """An entry for each quantized epoch. Raises `BrsweepError`."""
        return self._lines(LAYERS, False)

    def write_snapshot(self, name: str, content: Mapping[str, Any]) -> None:
        """See `brsweep.tracking.snapshots.write`."""
        snapshots.write(self.path, name, content)

    def snapshot(self, name: str) -> tuple[dict[str, snapshots.Histogram], np.ndarray | None]:
        """Site -> histogram, and the confusion counts or None. Raises `BrsweepError`."""
        self._own(f"{snapshots.SNAPSHOTS}/{name}.npz")
        return snapshots.snapshot(self.path, name)

    def stage_has_ended(self, stage: str) -> bool:
        return snapshots.has_ended(self.path, stage)

    def log_end(self, lines: int, most_bytes: int = 4096) -> str:
        """The last lines of what the run printed, or of the log that its failure names. Links out of the folder are not
        followed."""
        name = Path((self.failure() or {}).get("log") or CONSOLE).name
        try:
            with open(self._own(name), "rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - most_bytes))
                text = file.read().decode(errors="replace")
        except (OSError, ValueError):  # ValueError: not the folder's own, or a name that can be no file's
            return ""
        return "\n".join(text.splitlines()[-lines:])

    # --- one training at a time --------------------------------------------------------------------------------------

    def attempt_id(self, full_name: str) -> str:
        """The id that trackers know this run by: kept in the folder, so a run that goes on keeps it, and a run trained
        again from the beginning gets a new one. A damaged one is replaced."""
        known = (self._text(ATTEMPT) or "").strip()
        if len(known) != 16 or not set(known) <= set("0123456789abcdef"):
            known = hashlib.sha256(f"{full_name}/{secrets.token_hex(8)}".encode()).hexdigest()[:16]
            write_atomically(self.path / ATTEMPT, known)
        return known

    def take(self, other: RunFolder, sweep: str) -> dict[str, Any]:
        """Make the finished run in `other` this folder's, its result last; call it with the lock held. The result.

        What is of that folder alone stays there: its id for trackers, what they wrote, and its lock.
        """
        result = other.result()
        self.clear()
        for name in (CONFIG, PLAN, METRICS, LAYERS, CONSOLE):
            if (other.path / name).is_file():
                shutil.copy2(other.path / name, self.path / name)
        for name in (CHECKPOINTS, snapshots.SNAPSHOTS):
            if (other.path / name).is_dir():
                shutil.copytree(other.path / name, self.path / name)
        return self.write_result(result | {"sweep": sweep, "taken_from": f"{result['sweep']}/{result['name']}"})

    def tidy(self) -> None:
        """Remove what a training that was killed after its result left: the checkpoint, a failure, half-written files.

        Leaves alone a folder without a result, or one that a process holds.
        """
        checkpoint = self.checkpoints / "checkpoint.pt"
        left = [self.path / FAILURE, checkpoint, *self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")]
        left = [path for path in left if path.exists()]
        if left and self.finished:
            with suppress(BrsweepError), self.locked():
                for path in left:
                    path.unlink(missing_ok=True)

    def check(self) -> list[str]:
        """What is damaged, a line for each file that is there and can't be read as what it is. Imports torch."""
        from brsweep.training.checkpoint import load

        shots = sorted(path.stem for path in (self.path / snapshots.SNAPSHOTS).glob("*.npz"))
        weights = sorted(self.checkpoints.glob("*.pt")) if self.checkpoints.is_dir() else []
        reads = [self.result, self.config, self.records, self.layers]
        if self.finished:  # these have to be there
            reads[2] = partial(jsonl.read, self.path / METRICS)
            weights = list(dict.fromkeys([*weights, self.checkpoints / "last.pt", self.checkpoints / "best.pt"]))
        reads += [partial(self.snapshot, name) for name in shots] + [partial(load, path) for path in weights]
        problems = []
        for read in reads:
            try:
                read()
            except BrsweepError as error:
                problems.append(str(error))
        return problems

    def clear(self) -> None:
        """Forget an earlier training of this run; call it with the lock held. The result goes first."""
        for name in (RESULT, FAILURE, METRICS, LAYERS, CONSOLE, ATTEMPT):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path / snapshots.SNAPSHOTS, self.exports):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def held(self) -> bool:
        """Whether a process trains this run at this moment."""
        try:
            return lock_is_held(self._own(LOCK))
        except Damaged:
            return False

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

    # --- reading -----------------------------------------------------------------------------------------------------

    def _lines(self, name: str, skip_damaged: bool) -> list[dict[str, Any]]:
        path = self._own(name)
        return jsonl.read(path, skip_damaged) if os.path.exists(path) else []

    def _own(self, name: str) -> Path:
        """Where a file of the folder lies. Raises `Damaged` for a link that leads out of the folder, and for what is
        neither file nor folder: a pipe is waited for without end."""
        path = self.path / name
        try:
            real = os.path.realpath(path)
        except ValueError:
            raise Damaged(f"{path}: a name that no file can have") from None
        if os.path.commonpath([real, os.path.realpath(self.path)]) != os.path.realpath(self.path):
            raise Damaged(f"{path}: a link out of the run's folder, not read; put the file itself in its place")
        if os.path.exists(real) and not (os.path.isfile(real) or os.path.isdir(real)):
            raise Damaged(f"{path}: no file; remove it")
        return path

    def _text(self, name: str) -> str | None:
        path = self._own(name)
        try:
            with open(path, "rb") as file:
                content = file.read(LARGEST_TEXT + 1)
            if len(content) > LARGEST_TEXT:
                raise ValueError(f"more than {LARGEST_TEXT} bytes")
            return content.decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no text"
            raise Damaged(f"{path}: can't be read ({why}); {MEND}") from None

    def _json(self, name: str) -> Any:
        text = self._text(name)
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            raise Damaged(f"{self.path / name}: damaged, it is no JSON; {MEND}") from None

    def _why_no_result(self, result: Any) -> str | None:
        if not isinstance(result, dict) or result.get("status") != "finished":
            return "damaged, it is no result"
        if not isinstance(result.get("digest"), str):
            return "without a digest: of an older brsweep, or damaged"
        if _seal(result) != result["digest"]:
            return "damaged, its content does not match its digest"
        if result.get("name") != self.path.resolve().name:
            return f"that of another run, {result.get('name')}"
        return None


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds the old content or the new, whole. Raises `BrsweepError` on a full disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError as error:
        why = error.strerror
        raise BrsweepError(f"{path}: can't be written ({why}); free the disk or choose another folder") from None


def _state(content: Any, path: Path) -> dict[str, Any]:
    """The state in a file of weights. Raises `Damaged`."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise Damaged(f"{path}: damaged, it holds no network's state; {MEND}")
    return content["model"]


def _seal(result: Mapping[str, Any]) -> str:
    """The digest of a result's content. Exact: a changed last digit of a number shows."""
    content = {key: value for key, value in result.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_events(text: str) -> None:
    """Raise ValueError for YAML that is never written here and dear to read: anchors and aliases, a few of which stand
    for gigabytes, and nesting that libyaml's recursion does not survive."""
    import yaml

    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_LEVELS or getattr(event, "anchor", None) is not None:
            raise ValueError("an anchor, an alias, or too deep")
