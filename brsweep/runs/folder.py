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
does not fit raises `BrsweepError`, one line that names the file. A result holds the name of its run, a digest of
itself and one of each file that the run left beside it, so another run's, a cut or an edited one does not answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsweep.errors import BrsweepError
from brsweep.runs.files import MEND, CheckedFolder, Damaged, digest_of, seal, write_atomically
from brsweep.stages.store import lock_is_held, os_lock
from brsweep.tracking import jsonl, snapshots

if TYPE_CHECKING:
    import numpy as np

RESULT, CONFIG, METRICS, LAYERS, CONSOLE = "result.json", "config.yaml", "metrics.jsonl", "layers.jsonl", "console.log"
CHECKPOINTS, CHECKPOINT, EXPORTS = "checkpoints", "checkpoint.pt", "export"
WHICH = ("best", "last")
"""The epochs whose weights a finished run keeps."""
FILES = "files"
"""In a result: the digest of each file that the run left, by its path in the folder."""
ASIDE = ".before"
PLAN, FAILURE, LOCK, ATTEMPT = "plan.json", "failure.json", ".lock", "run_id"
OF_A_TRAINING = (RESULT, FAILURE, METRICS, LAYERS, CONSOLE, ATTEMPT, CHECKPOINTS, snapshots.SNAPSHOTS, EXPORTS)
"""What a new training begins without; the result first."""
LOOKS, LOOK_S = 10, 0.05
"""How often, and at what distance, a busy lock is tried: a status table looks at locks too, for an instant."""


class RunFolder(CheckedFolder):
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
        return self._yaml(CONFIG)

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
        """Publish the result, with the run's name, a digest of it and one of each other file: from here on the run is
        finished. What was written."""
        digests = {name: digest_of(self.path / name) for name in self._left()}
        named = dict(result) | {"name": self.path.resolve().name, FILES: digests}
        content = json.loads(json.dumps(named, allow_nan=False))  # as it will be read back
        sealed = content | {"digest": seal(content)}
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

        state = _state(load(self._weights_file(f"{which}.pt")), self.checkpoints / f"{which}.pt")
        if reestimated:
            path = self._weights_file(f"{which}.buffers.pt")
            if not path.exists():
                raise BrsweepError(
                    f"{self.path}: holds no re-estimated batch norm; reestimate_bn_batches=N trains such a run"
                )
            state = state | _state(load(path), path)
        return state

    def _weights_file(self, name: str) -> Path:
        """Where the file lies; one that is there has to be the run's own, since its weights answer for the result."""
        name = f"{CHECKPOINTS}/{name}"
        return self._unchanged(name) if os.path.exists(self._own(name)) else self.path / name

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
        path = self._unchanged(METRICS)
        return jsonl.read_epochs(path, skip_damaged) if os.path.exists(path) else []

    def layers(self) -> list[dict[str, Any]]:
        """An entry for each quantized epoch, see `brsweep.tracking.snapshots.layers`. Raises `BrsweepError`."""
        self._unchanged(LAYERS)
        return snapshots.layers(self.path)

    def open_records(self) -> tuple[jsonl.JsonLines, jsonl.JsonLines]:
        """metrics.jsonl and layers.jsonl, to append to."""
        return jsonl.JsonLines(self.path / METRICS), jsonl.JsonLines(self.path / LAYERS)

    def write_snapshot(self, name: str, content: Mapping[str, Any]) -> None:
        """See `brsweep.tracking.snapshots.write`."""
        snapshots.write(self.path, name, content)

    def snapshot(self, name: str) -> tuple[dict[str, snapshots.Histogram], np.ndarray | None]:
        """Site -> histogram, and the confusion counts or None. Raises `BrsweepError`."""
        self._unchanged(f"{snapshots.SNAPSHOTS}/{name}.npz")
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
        checkpoint = self.checkpoints / CHECKPOINT
        left = [self.path / FAILURE, checkpoint, *self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")]
        left = [path for path in (*left, self.path / ASIDE) if path.exists()]
        if left and self.finished:
            with suppress(BrsweepError), self.locked():
                _remove(left)

    def check(self) -> list[str]:
        """A line for each file that is not what the run left, or can't be read as what it is. Imports torch."""
        from brsweep.training.checkpoint import load

        reads: dict[str, Callable[[], Any]] = {RESULT: self.result, CONFIG: self.config}
        reads |= {METRICS: self.records, LAYERS: self.layers}
        digests = (self.result() or {}).get(FILES, {}) if self.finished else {}
        for name in dict.fromkeys([*self._left(), *digests]):
            weights, shot = partial(load, self.path / name), partial(self.snapshot, Path(name).stem)
            reads.setdefault(name, weights if name.endswith(".pt") else shot)
        problems = []
        for name, read in reads.items():
            try:
                self._unchanged(name)
                if name != PLAN:
                    read()
            except BrsweepError as error:
                problems.append(str(error))
        return problems

    def clear(self) -> None:
        """Forget an earlier training of this run; call it with the lock held. The result goes first."""
        _remove(self.path / name for name in (*OF_A_TRAINING, ASIDE))

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Let a new training begin in the block, or behind it: the failure of an earlier one goes, and with a result
        everything of it. What went comes back where the block raises. Holds the lock only meanwhile."""
        names = [name for name in OF_A_TRAINING if os.path.lexists(self.path / name)]
        names = names if self.holds_result else [name for name in names if name == FAILURE]
        if names:
            with self.locked():
                _remove([self.path / ASIDE])  # of a launch that was killed here
                self._move(names, self.path, self.path / ASIDE)
        try:
            yield
        except BaseException:
            if names:
                self._move(reversed(names), self.path / ASIDE, self.path)
                _remove([self.path / ASIDE])
            raise
        _remove([self.path / ASIDE])

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

    @staticmethod
    def _move(names: Iterable[str], start: Path, end: Path) -> None:
        """The result goes first and comes back last: whenever this ends, no result stands beside a part of its run."""
        end.mkdir(exist_ok=True)
        for name in names:
            os.replace(start / name, end / name)

    # --- what the run left -------------------------------------------------------------------------------------------

    def _left(self) -> list[str]:
        """The files that a finished run leaves beside its result, logs left out, by their paths in the folder."""
        found = [self.path / name for name in (CONFIG, PLAN, METRICS, LAYERS)]
        found += sorted((self.path / snapshots.SNAPSHOTS).glob("*.npz"))
        found += [path for path in sorted(self.checkpoints.glob("*.pt")) if path.name != CHECKPOINT]
        return [path.relative_to(self.path).as_posix() for path in found if path.exists()]

    def _unchanged(self, name: str) -> Path:
        """`_own`, and of a finished run the file has to be the one that the run left; else `Damaged`."""
        path = self._own(name)
        try:
            digests = (self.result() or {}).get(FILES)
        except Damaged:
            return path  # whoever asks for the result is told
        if isinstance(digests, dict) and name in digests and not digests[name] == digest_of(path):
            raise Damaged(f"{path}: damaged, it is not what the run left there; {MEND}")
        return path

    def _why_no_result(self, result: Any) -> str | None:
        if not isinstance(result, dict) or result.get("status") != "finished":
            return "damaged, it is no result"
        if not isinstance(result.get("digest"), str):
            return "without a digest: of an older brsweep, or damaged"
        if seal(result) != result["digest"]:
            return "damaged, its content does not match its digest"
        if result.get("name") != self.path.resolve().name:
            return f"that of another run, {result.get('name')}"
        return None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _state(content: Any, path: Path) -> dict[str, Any]:
    """The state in a file of weights. Raises `Damaged`."""
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise Damaged(f"{path}: damaged, it holds no network's state; {MEND}")
    return content["model"]
