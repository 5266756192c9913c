"""What a busy neighbour costs the default run: `python -m benchmarks.neighbour --rounds 5`.

Each round trains the default run, shortened, in processes of their own: by itself and beside one process that computes
without a pause, with `threads=0` (brsweep's choice) and with as many threads as there are cores, in an order drawn
anew. What counts is the median epoch of a stage over the rounds, busy over quiet: at most 1.5 with brsweep's choice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.timing import ratio

SHORT = ("schedule.float_epochs=4", "schedule.warmup_epochs=2", "schedule.qat_epochs=6")
QUIET, BUSY = "quiet", "busy"
HEAD = "| threads | stage | quiet epoch | beside a busy process | ratio |\n|---|---|---|---|---|"
LIMIT = 1.5


@contextmanager
def neighbour():
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def train(threads: int, typed: Sequence[str]) -> dict[str, float]:
    """Median seconds of an epoch, by stage, of one run. Raises SystemExit where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "brsweep.train", "logger=none", f"threads={threads}", f"output_dir={folder}"]
        done = subprocess.run([*command, *SHORT, *typed], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        (metrics,) = Path(folder).glob("*/*/metrics.jsonl")
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
    stages = dict.fromkeys(record["stage"] for record in records)
    return {stage: statistics.median(r["time_s"] for r in records if r["stage"] == stage) for stage in stages}


def rounds(count: int, choices: Sequence[int], typed: Sequence[str]) -> dict[tuple[int, str], list[dict[str, float]]]:
    """(threads, QUIET or BUSY) -> what `train` gave in each round."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {(n, kind): [] for n in choices for kind in (QUIET, BUSY)}
    draw = random.Random(0)
    for _ in range(count):
        for threads, kind in draw.sample(list(found), len(found)):
            if kind == BUSY:
                with neighbour():
                    found[threads, kind].append(train(threads, typed))
            else:
                found[threads, kind].append(train(threads, typed))
    return found


def rows(found: dict[tuple[int, str], list[dict[str, float]]]) -> list[str]:
    lines = []
    for threads in dict.fromkeys(n for n, _ in found):
        quiet, busy = found[threads, QUIET], found[threads, BUSY]
        for stage in quiet[0]:
            times = [[epoch[stage] for epoch in kind] for kind in (quiet, busy)]
            alone, beside = map(statistics.median, times)
            middle, low, high = ratio(times[1], times[0])
            held = "" if threads else (" holds" if high <= LIMIT else " falls short" if low > LIMIT else " undecided")
            shown = f"{middle:.2f} ({low:.2f} to {high:.2f}){held}"
            lines.append(f"| {threads or 'by the work'} | {stage} | {alone:.2f} s | {beside:.2f} s | {shown} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="further settings of the run, such as data=mnist")
    typed = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    told = machine.describe(torch.device("cpu"))
    print(f"{typed.rounds} rounds; {told['device']}; {told['versions']}; {told['date']}\n")
    print(HEAD)
    print("\n".join(rows(rounds(typed.rounds, (0, cores), typed.overrides))))


if __name__ == "__main__":
    main()
