"""Where a run's records go: metrics.jsonl and layers.jsonl (the truth), the console, and a tracker (their mirror)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from brsweep.runs.folder import RunFolder
from brsweep.tracking.console import Console
from brsweep.tracking.layer_means import with_layer_means
from brsweep.tracking.tracker import Guarded

MINE = "trained_by"
OnEpoch = Callable[[Mapping[str, Any]], None]


class RunReporter:
    """Keeps the folder's files, the console and the tracker in step with the stages' records.

    A stage's records travel with its state, so the files are rewritten from them whenever a run begins, goes on, or
    takes a stage from the store: a cut or missing file mends itself. Records of a stage that another run trained are
    marked `shared`. With `steps_per_epoch`, each has the optimizer's steps at its end as `step`. The tracker gets the
    means over the layers as well. `watch` is told of each record of `last_stage` once, after all others; what it
    raises ends the run.
    """

    def __init__(
        self,
        folder: RunFolder,
        run_name: str,
        console: Console,
        tracker: Guarded | None,
        watch: OnEpoch | None = None,
        steps_per_epoch: int | None = None,
        last_stage: str | None = None,
    ) -> None:
        self._run_name, self._console, self._tracker, self._watch = run_name, console, tracker, watch
        self._steps_per_epoch, self._last_stage = steps_per_epoch, last_stage
        self._folder = folder
        self._metrics, self._layers = folder.open_records()
        self._epochs = 0
        self._opened = False

    def say(self, line: str) -> None:
        self._console.say(line)

    def warn(self, line: str) -> None:
        self._console.warn(line)

    def banner(self, line: str) -> None:
        self._console.banner(line)

    def bar(self, description: str, total: int) -> AbstractContextManager[Any]:
        return self._console.progress(description, total)

    def catch_up(self, history: Sequence[Mapping], layers: Sequence[Mapping]) -> None:
        marked = [self._marked(record) for record in history]
        self._metrics.replace(marked)
        self._layers.replace(layers)
        for record in marked[self._epochs :]:
            self._console.epoch(record)
        if self._tracker is not None:
            mirrored = with_layer_means(marked, layers)
            if not self._opened:
                self._tracker.replay(mirrored)
            else:
                for step, record in enumerate(mirrored[self._epochs :], self._epochs + 1):
                    self._tracker.log(record, step)
        new = marked[self._epochs :]
        self._opened, self._epochs = True, len(marked)
        self._show(new)

    def epoch(self, record: Mapping[str, Any], layers: Mapping[str, Any] | None) -> None:
        record = self._marked(record)
        self._epochs += 1
        self._metrics.append(record)
        if layers is not None:
            self._layers.append(layers)
        self._console.epoch(record)
        if self._tracker is not None:
            [mirrored] = with_layer_means([record], [layers] if layers else [])
            self._tracker.log(mirrored, self._epochs)
        self._show([record])

    def snapshot(self, name: str, content: Mapping[str, Any]) -> None:
        self._folder.write_snapshot(name, content)
        stage, _, moment = name.rpartition("-")
        if self._tracker is not None and moment == "end":
            self._tracker.stage_ended(stage)

    def close(self) -> None:
        self._metrics.close()
        self._layers.close()

    def _show(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self._watch is not None:
            for record in records:
                if record["stage"] == self._last_stage:
                    self._watch(record)

    def _marked(self, record: Mapping[str, Any]) -> dict[str, Any]:
        trained_by = record.get(MINE, self._run_name)
        rest = {key: value for key, value in record.items() if key != MINE}
        if self._steps_per_epoch is not None:
            rest["step"] = record["epoch"] * self._steps_per_epoch
        return rest | {"shared": trained_by != self._run_name}
