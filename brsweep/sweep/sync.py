"""`python -m brsweep.sweep.sync runs/<sweep>`: give W&B what it lacks of a sweep's runs, from their folders.

With a key each run's missing epochs, pictures and final values go to the server, which says what it has; without one
they complete the offline record in the run folder. Either way metrics.jsonl is read and W&B's own files are not, so a
record that was cut by `kill -9`, a lost network or a full disk is made whole. What is complete already is left alone:
the same command twice changes nothing. A run that trains is left alone too, and mirrors itself.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.runs.folder import CONFIG, RunFolder
from brsweep.runs.words import final_values, tags
from brsweep.targets import TARGET, build
from brsweep.tracking.layer_means import with_layer_means
from brsweep.tracking.tracker import FINISHED, INTERRUPTED, RunInfo, one_line
from brsweep.tracking.wandb_session import will_be_online
from brsweep.tracking.weights_and_biases import OnRecord, Sent, WeightsAndBiases

WANDB = f"{WeightsAndBiases.__module__}.{WeightsAndBiases.__name__}"
SENT, COMPLETE, TRAINING = "completed", "complete already", "in training, left alone"
ELSEWHERE, EMPTY, FAILED = "not logged to W&B", "without an epoch", "failed"
NO_KEY = (
    "no W&B key: what is missing is added to the offline records in the run folders; with a key (`wandb login`, or "
    "WANDB_API_KEY) the same command uploads them"
)


class Unreachable(BrsweepError):
    """W&B can't be reached, or refuses: the next run would fare no better."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0: W&B has everything, or the offline records do; 1: something could not be read or sent."""
    parser = argparse.ArgumentParser(prog="python -m brsweep.sweep.sync", description="Give W&B what it lacks.")
    parser.add_argument("sweep", type=Path, nargs="+", help="a sweep's folder, runs/<sweep>, or one run's folder")
    try:
        return max(sync(sweep, print) for sweep in parser.parse_args(arguments).sweep)
    except BrsweepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def sync(sweep: Path, say: Callable[[str], None]) -> int:
    """Bring every run of `sweep` up to date; 1 if one could not be read.

    Raises `BrsweepError` where there are no runs, or where W&B refuses or cannot be reached: the runs before it are
    complete then, and the others as they were.
    """
    runs = [sweep] if (sweep / CONFIG).exists() else sorted(path.parent for path in sweep.glob(f"*/{CONFIG}"))
    if not runs:
        raise BrsweepError(f"{sweep}: no run folders here; give a sweep's folder, runs/<sweep>, or one run's")
    online = will_be_online()
    if not online:
        say(NO_KEY)
    outcomes: Counter[str] = Counter()
    for path in runs:
        try:
            outcome = _sync_run(RunFolder(path), online, say)
        except Unreachable:
            raise
        except BrsweepError as error:
            outcome = FAILED
            say(f"{path.name}: {error}")
        outcomes[outcome] += 1
    say(f"{sweep}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return int(outcomes[FAILED] > 0)


def _sync_run(folder: RunFolder, online: bool, say: Callable[[str], None]) -> str:
    """What was done for one run."""
    config = folder.config()
    if not isinstance(config.get("logger"), dict) or config["logger"].get(TARGET) != WANDB:
        return ELSEWHERE
    if not folder.records():
        return EMPTY
    if folder.held:
        return TRAINING
    with folder.locked():
        return _complete(folder, config, online, say)


def _complete(folder: RunFolder, config: Mapping[str, Any], online: bool, say: Callable[[str], None]) -> str:
    path, result, records = folder.path, folder.result(), folder.records()
    about = RunInfo(
        name=path.name,
        sweep=config["sweep_name"],
        config=config,
        tags=tags(config),
        id=folder.attempt_id(f"{config['sweep_name']}/{path.name}"),
        stage_ends=_stage_ends(folder, records),
        notice=lambda line: None,
        warn=lambda line: say(f"{path.name}: {line}"),
    )
    before = Sent(path, about.id, settle_s=0.0).on_record()
    if _is_complete(before, len(records), result is not None, online):
        return COMPLETE
    tracker = build("logger", config["logger"], folder=path, run=about)
    tracker.fall_back = False
    try:
        tracker.replay(with_layer_means(records, folder.layers()))
    except Exception as error:
        raise Unreachable(f"W&B can't be reached or refuses ({one_line(error)}); the same command goes on") from None
    if result is not None:
        tracker.summarise(final_values(result))
    tracker.finish(FINISHED if result is not None else INTERRUPTED)
    say(f"{path.name}: {len(records)} epochs {'at W&B' if online else 'in the offline record'}")
    return SENT


def _is_complete(before: OnRecord, epochs: int, finished: bool, online: bool) -> bool:
    whole = before.epochs >= epochs and before.status is not None and (before.status == FINISHED) == finished
    return whole and (before.mode == "online" or not online)


def _stage_ends(folder: RunFolder, records: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The steps that end a stage: those before another stage begins, and the last one where its stage has ended."""
    changes = [step for step, (a, b) in enumerate(pairwise(records), start=1) if a["stage"] != b["stage"]]
    ended = bool(records) and folder.stage_has_ended(records[-1]["stage"])
    return (*changes, len(records)) if ended else tuple(changes)


if __name__ == "__main__":
    sys.exit(main())
