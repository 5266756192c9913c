"""The epochs as a TensorBoard event file in `folder`/tensorboard.

Scalars are tagged `<stage>/<name>` at the run's step, so that the stages show one after another on one axis. The file
is written with the tensorboard package's own record writer, in the calling thread: the writers of torch and of
tensorboardX start a thread that holds back up to two minutes of events, which a killed run would lose, and the former
imports torch.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from brsweep.tracking.tracker import Record, RunInfo, Tracker


class TensorBoard(Tracker):
    """A tracker that writes one event file per start of the run; the replay makes those before it superfluous."""

    def __init__(self, folder: Path, run: RunInfo) -> None:
        self._folder = Path(folder) / "tensorboard"
        self._step = 0

    def replay(self, records: Sequence[Record]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._folder.mkdir(parents=True, exist_ok=True)
        old = list(self._folder.glob("events.out.tfevents.*"))
        self._path = self._folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        epochs = [_event(_tagged(record), step) for step, record in enumerate(records, start=1)]
        self._write([Event(wall_time=time.time(), file_version="brain.Event:2"), *epochs])
        self._step = len(records)
        for path in old:
            path.unlink()

    def log(self, metrics: Record, step: int) -> None:
        self._step = step
        self._write([_event(_tagged(metrics), step)])

    def summarise(self, values: Record) -> None:
        self._write([_event({f"summary/{name}": value for name, value in values.items()}, self._step)])

    def _write(self, events: Iterable) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with open(self._path, "ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def _tagged(record: Record) -> dict:
    return {f"{record['stage']}/{name}": value for name, value in record.items() if name != "stage"}


def _event(values: Record, step: int):
    """Numbers and truth values (as 0 and 1); TensorBoard has no scalars of any other kind."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    numbers = {tag: value for tag, value in values.items() if isinstance(value, (int, float))}
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()])
    return Event(wall_time=time.time(), step=step, summary=summary)
