"""The report of 300 runs of 100 quantized epochs: how long it takes, how large its page is, how fast that page sorts.

`python -m benchmarks.report [--runs N]`; wants a machine that does nothing else. The page is opened in headless
Chromium. Every heading of every table is clicked twice, and a word typed into every filter and taken out again; what
counts is the time until the next frame but one is drawn, so never less than 17 to 33 ms at 60 Hz.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import browser
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


SORTS = """
const done = arguments[arguments.length - 1];
const frame = () => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
async function timed(action) {
  await frame();
  const began = performance.now();
  action();
  await frame();
  return performance.now() - began;
}
(async () => {
  const [sorts, filters] = [[], []];
  for (const button of document.querySelectorAll("table.sortable thead button")) {
    for (let way = 0; way < 2; way++) sorts.push(await timed(() => button.click()));
  }
  for (const field of document.querySelectorAll("input[data-filters]")) {
    for (const word of ["w2a2", ""]) {
      field.value = word;
      filters.push(await timed(() => field.dispatchEvent(new Event("input"))));
    }
  }
  done([document.querySelectorAll("table.sortable tbody tr").length, sorts, filters]);
})();
"""


def sort_times(page: Path, profile: Path) -> str:
    """What sorting and filtering the page takes, in words."""
    with browser.chromium(profile) as driver:
        driver.set_script_timeout(120)
        driver.get(page.as_uri())
        rows, *times = driver.execute_async_script(SORTS)
    told = [
        f"{what} {len(found)} times: median {statistics.median(found):.0f} ms, longest {max(found):.0f} ms"
        for what, found in zip(("sorted", "filtered"), times, strict=True)
    ]
    return f"{rows} rows; {'; '.join(told)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
        print(browser.missing() or sort_times(sweep / "report" / "index.html", Path(temporary) / "profile"))


if __name__ == "__main__":
    main()
