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
from brsweep.memory import lack_of_memory_in_words
from brsweep.output import reader_may_leave
from brsweep.runs.folder import CONFIG, RESULT, RunFolder
from brsweep.runs.words import final_values, tags
from brsweep.targets import TARGET, build
from brsweep.tracking.layer_means import with_layer_means
from brsweep.tracking.tracker import FINISHED, INTERRUPTED, Guarded, RunInfo, one_line
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
        with lack_of_memory_in_words():
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
    online = _will_be_online()
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


def _will_be_online() -> bool:
    try:
        return will_be_online()
    except BrsweepError:
        raise
    except Exception as error:
        raise Unreachable(f"W&B can't be started here ({one_line(error)})") from None


def _sync_run(folder: RunFolder, online: bool, say: Callable[[str], None]) -> str:
    """What was done for one run."""
    config = folder.config() or {}
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
    about, values = _about(folder, config, records, say), None if result is None else _final_values(folder, result)
    before = Sent(path, about.id, settle_s=0.0).on_record()
    if _is_complete(before, len(records), result is not None, online):
        return COMPLETE
    mirrored, why = with_layer_means(records, folder.layers()), []

    def make(run: RunInfo) -> WeightsAndBiases:
        tracker = build("logger", config["logger"], folder=path, run=run)
        tracker.fall_back = False
        return tracker

    tracker = Guarded(make, about, off=why.append)
    if why:
        raise BrsweepError(f"{path / CONFIG}: its logger can't be made ({why[0]})")
    tracker.replay(mirrored)
    if why:
        raise Unreachable(f"W&B can't be reached or refuses ({why[0]}); the same command goes on")
    if values is not None:
        tracker.summarise(values)
    tracker.finish(FINISHED if result is not None else INTERRUPTED)
    if not _is_complete(Sent(path, about.id, settle_s=0.0).on_record(), len(records), result is not None, online):
        raise BrsweepError(f"W&B has not taken it all{f' ({why[0]})' if why else ''}; the same command goes on")
    say(f"{path.name}: {len(records)} epochs {'at W&B' if online else 'in the offline record'}")
    return SENT


def _about(
    folder: RunFolder, config: Mapping[str, Any], records: Sequence[Mapping[str, Any]], say: Callable[[str], None]
) -> RunInfo:
    """Raises `BrsweepError` where the configuration is none that this brsweep knows."""
    name = folder.path.name
    try:
        sweep = str(config["sweep_name"])
        words = tags(config, (folder.result() or {}).get("float_inputs", 0))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BrsweepError(f"{folder.path / CONFIG}: not a configuration that this brsweep knows") from None
    return RunInfo(
        name=name,
        sweep=sweep,
        config=config,
        tags=words,
        id=folder.attempt_id(f"{sweep}/{name}"),
        stage_ends=_stage_ends(folder, records),
        stages=tuple(dict.fromkeys(record["stage"] for record in records)),
        notice=lambda line: None,
        warn=lambda line: say(f"{name}: {line}"),
    )


def _final_values(folder: RunFolder, result: Mapping[str, Any]) -> dict[str, float | None]:
    try:
        return final_values(result)
    except (KeyError, TypeError):
        raise BrsweepError(f"{folder.path / RESULT}: lacks what a result has") from None


def _is_complete(before: OnRecord, epochs: int, finished: bool, online: bool) -> bool:
    whole = before.epochs >= epochs and before.status is not None and (before.status == FINISHED) == finished
    return whole and (before.mode == "online" or not online)


def _stage_ends(folder: RunFolder, records: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The steps that end a stage: those before another stage begins, and the last one where its stage has ended."""
    changes = [step for step, (a, b) in enumerate(pairwise(records), start=1) if a["stage"] != b["stage"]]
    ended = bool(records) and folder.stage_has_ended(records[-1]["stage"])
    return (*changes, len(records)) if ended else tuple(changes)


if __name__ == "__main__":
    with reader_may_leave():
        sys.exit(main())
