"""Ten minutes on a card: `python -m benchmarks.device --out FOLDER [--data DIR] [--minutes 8] [--device cpu]`.

In the order of what matters, each part with a share of the time, each result on disk as soon as it is there:

    machine     versions, the card, and how fast it copies its memory
    tests       those that need a CUDA device (`pytest -m cuda`)
    runs        the default run on digits in float32 and bf16, deterministic, to its end; killed once and gone on with
    steps       the op's passes, and whole training steps: float, LSQ, BR; eager, as a graph, compiled, textbook
    images      a short CIFAR-10 recipe on DIR, as an image folder, with its accuracy
    workers     several runs on the card at once: epochs per second in all

FOLDER gets result.json and page.md, which is printed at the end. A part that fails says so and stops no other; a part
whose time is up gives what it has. It wants torch and NEEDS, no more; pytest for the second part. On a CPU everything
is small, and runs through the same lines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

NEEDS = {
    "torch": "torch", "numpy": "numpy", "hydra": "hydra-core", "omegaconf": "omegaconf", "filelock": "filelock",
    "sklearn": "scikit-learn", "rich": "rich", "PIL": "pillow",
}  # fmt: skip
"""What has to be there, by its import, as its wheel is called; on CUDA triton too, which comes with torch there."""


class Part(NamedTuple):
    """share: of the time that is left when its turn comes. do: a budget -> what was found, "left_out" where nothing
    was. page: that -> lines."""

    name: str
    share: float
    do: Callable[[Any], dict[str, Any]]
    page: Callable[[dict[str, Any]], list[str]]


def parts() -> list[Part]:
    from benchmarks.device import card, steps, trainings

    return [
        Part("machine", 0.05, card.machine, card.machine_lines),
        Part("tests", 0.25, card.tests, card.tests_lines),
        Part("runs", 0.4, trainings.runs, trainings.runs_lines),
        Part("steps", 0.65, steps.steps, steps.lines),
        Part("images", 0.6, trainings.images, trainings.images_lines),
        Part("workers", 1.0, trainings.workers, trainings.workers_lines),
    ]


def missing(device: str) -> list[str]:
    """Wheels that have to be installed first."""
    wanted = NEEDS | ({"triton": "triton"} if device.startswith("cuda") else {"numba": "numba"})
    return [wheel for name, wheel in wanted.items() if find_spec(name) is None]


def check(options: argparse.Namespace) -> int:
    """Do every part; the number of those that failed."""
    from benchmarks.device.budget import Budget

    began, result = time.monotonic(), {"device": options.device, "minutes": options.minutes, "parts": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    for part in parts():
        left = 60 * options.minutes - (time.monotonic() - began)
        share = part.share * max(0.0, left)
        print(f"{part.name}: up to {share:.0f} s", flush=True)
        started = time.monotonic()
        try:
            budget = Budget(options.device, started + share, options.out, options.data)
            found = part.do(budget) if budget.left else {"left_out": "no time left"}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        result["parts"][part.name] = found | {"seconds": time.monotonic() - started}
        (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (options.out / "page.md").write_text(page(result), encoding="utf-8")
    print((options.out / "page.md").read_text(encoding="utf-8"))
    return sum("error" in found for found in result["parts"].values())


def page(result: dict[str, Any]) -> str:
    lines = [f"# brsweep on {result['device']}, {result['minutes']:g} minutes", ""]
    for part in parts():
        found = result["parts"].get(part.name)
        if found is None:
            continue
        short = f"FAILED: {found['error']}" if "error" in found else found.get("left_out")
        told = part.page(found) if short is None else [short]
        lines += [f"## {part.name} ({found['seconds']:.0f} s)", "", *told, ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder for result.json, page.md and the runs")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as an image folder: train/<class>/*, test/<class>/*")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a dry form")
    options = parser.parse_args(arguments)
    lacking = missing(options.device)
    if lacking:
        sys.exit(f"error: not installed: pip install {' '.join(lacking)}")
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device; --device cpu is a dry form")
    failed = check(options)
    if failed:
        sys.exit(f"error: {failed} parts failed; {options.out / 'result.json'} says which")


if __name__ == "__main__":
    main()
