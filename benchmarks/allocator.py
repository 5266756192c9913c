"""What `brsweep.training.allocator` gives: `python -m benchmarks.allocator --rounds 5`.

Each round times steps of LSQ+BR(W+A) at 2 bits in two processes of their own, one after the other and in an order drawn
anew: one that sets the allocator, one that leaves it as it is. Reported is the ratio of the medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys

import torch

from benchmarks import machine
from benchmarks.step import variants
from benchmarks.timing import measure, ratio
from brsweep.training.allocator import keep_freed_memory

CHOICES = ("as it is", "kept")


def child(net: str, batch_size: int, steps: int) -> dict[str, float]:
    """Median seconds of a step in this process, and the most memory that it held."""
    name = "LSQ+BR(W+A) 2 bits"
    found = variants(net, [2], batch_size, torch.device("cpu"))[name]
    times = measure({name: found.step}, steps)[name]
    return {
        "median_s": statistics.median(times),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=15, help="steps of each process in a round")
    parser.add_argument("--child", choices=CHOICES, help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.child:
        if typed.child == "kept" and not keep_freed_memory():
            raise SystemExit("this C library is not glibc: there is nothing to measure")
        print(json.dumps(child(typed.net, typed.batch_size, typed.steps)))
        return
    passed = ["--net", typed.net, "--batch-size", str(typed.batch_size), "--steps", str(typed.steps)]
    found: dict[str, list[dict[str, float]]] = {choice: [] for choice in CHOICES}
    draw = random.Random(0)
    for _ in range(typed.rounds):
        for choice in draw.sample(CHOICES, 2):
            command = [sys.executable, "-m", "benchmarks.allocator", *passed, "--child", choice]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found[choice].append(json.loads(done.stdout.splitlines()[-1]))
    times = {choice: [one["median_s"] for one in rounds] for choice, rounds in found.items()}
    peaks = {choice: max(one["peak_mib"] for one in rounds) for choice, rounds in found.items()}
    middle, low, high = ratio(times["kept"], times["as it is"])
    told = machine.describe(torch.device("cpu"))
    print(f"{typed.net}, batch {typed.batch_size}, {typed.rounds} rounds of two processes, {typed.steps} steps each")
    print(f"{told['device']}; {told['versions']}; {told['date']}")
    print(f"step with freed memory kept / as it is: {middle:.3f} ({low:.3f} to {high:.3f})")
    print(f"peak memory of the process: {peaks['kept']:.0f} MiB kept, {peaks['as it is']:.0f} MiB as it is")


if __name__ == "__main__":
    main()
