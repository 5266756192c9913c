"""How long a report of 300 runs of 100 quantized epochs takes, and how large its page is:
`python -m benchmarks.report [--runs N]`. Wants a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.synthetic_sweep import RESNET20, write_sweep

STAGES = {"float": 100, "warmup": 30, "br": 70}


def grid(runs: int) -> list[dict]:
    """Seeds x bits x lambda x alpha control, as far as `runs` reaches; 51 configurations."""
    controls = [
        {"schedule.freeze_alpha": False, "reg.backprop_to_alpha": False},
        {"schedule.freeze_alpha": True, "reg.backprop_to_alpha": False},
        {"schedule.freeze_alpha": False, "reg.backprop_to_alpha": True},
    ]
    points = [
        {"seed": seed, "bits": bits, "reg.lambda_weight": value, "reg.lambda_act": value} | control
        for seed in range(42, 42 + -(-runs // 51))
        for bits in (2, 3, 4)
        for value in (0.0, 0.001, 0.01, 0.1, 1.0, 10.0)
        for control in controls[: 3 if value else 2]
    ]
    return points[:runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="folder to write the sweep to, and leave it there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sweep = (options.keep or Path(temporary)) / "made"
        if not sweep.exists():
            write_sweep(sweep, grid(options.runs), stages=STAGES, sites=RESNET20)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "brsweep.report", str(sweep)], check=True)
        seconds = time.perf_counter() - began
        size = (sweep / "report" / "index.html").stat().st_size / 2**20
        print(f"{options.runs} runs: {seconds:.1f} s, page {size:.1f} MiB")


if __name__ == "__main__":
    main()
