"""Whole trainings by `python -m brsweep.train`, in processes of their own, and what they leave on disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.device.budget import Budget

SMALL = ("model=tiny", "data=synthetic", "schedule.float_epochs=2", "schedule.warmup_epochs=1", "schedule.qat_epochs=4")
SMALL_IMAGES = ("data.batch_size=2", *SMALL[2:], "schedule.float_lr_warmup_epochs=0", "schedule.qat_lr_warmup_epochs=0")
PRECISIONS = ("float32", "bf16")
WORKERS, WORKERS_DRY = (1, 2, 4, 8), (1, 2)
KILLED_AT, KILLED_AT_DRY = 33, 4
"""Of 50 epochs, and of 6."""
LONG = 100_000
"""Epochs that no worker comes to the end of."""
POLL_S = 0.05
DRY_S = 2.0
"""How long workers are watched in a dry form."""


def start(out: Path, typed: Sequence[str]) -> subprocess.Popen:
    """A training whose folders lie under `out`, and whose output goes to its train.log."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "brsweep.train", "logger=none", f"output_dir={out.resolve()}", *typed]
    with open(out / "train.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def epochs(out: Path) -> list[dict[str, Any]]:
    """The records of the run under `out`, as far as it is."""
    lines = [line for path in out.glob("*/*/metrics.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith("}")]


def finish(process: subprocess.Popen, out: Path, budget: Budget) -> None:
    """Wait for it. Raises RuntimeError where it fails, TimeoutError, with the process gone, where its time is up."""
    try:
        code = process.wait(budget.left)
    except subprocess.TimeoutExpired:
        end(process)
        raise TimeoutError(f"{out.name}: {len(epochs(out))} epochs done when the time was up") from None
    if code:
        raise RuntimeError(f"{out.name}: {(out / 'train.log').read_text()[-1000:]}")


def result(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/*/result.json")
    return json.loads(path.read_text())


def weights(out: Path) -> dict[str, torch.Tensor]:
    (path,) = out.glob("*/*/checkpoints/last.pt")
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def rows_of(found: dict[str, Any]) -> dict[str, Any]:
    """What a run's result says that stands on the page."""
    names = (
        "test_accuracy",
        "test_accuracy_last",
        "float_test_accuracy",
        "time_s",
        "epoch_time_s",
        "kernels",
        "device",
    )
    return {name: found[name] for name in names}


# --- the default run -------------------------------------------------------------------------------------------------


def runs(budget: Budget) -> dict[str, Any]:
    """To its end in both precisions; and the first once more beside them, killed after KILLED_AT epochs, and gone on
    with: `equal` says whether its weights are those of the unbroken run, bit for bit."""
    fixed = [f"device={budget.device}", "deterministic=true", *(SMALL if budget.dry else ())]
    begun = {
        name: (start(budget.out / "runs" / name, [*fixed, f"precision={name}"]), budget.out / "runs" / name)
        for name in PRECISIONS
    }
    found: dict[str, Any] = {}
    try:
        broken = _killed_once([*fixed, f"precision={PRECISIONS[0]}"], budget)
        for name, (process, out) in begun.items():
            try:
                finish(process, out, budget)
            except TimeoutError as error:
                found[name] = {"left_out": str(error)}
            else:
                found[name] = rows_of(result(out))
    finally:
        for process, _ in begun.values():
            end(process)
    whole = begun[PRECISIONS[0]][1]
    if "left_out" not in broken and "left_out" not in found[PRECISIONS[0]]:
        one, other = weights(whole), weights(budget.out / "runs" / "killed")
        broken["equal"] = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return found | {"killed once": broken}


def _killed_once(typed: Sequence[str], budget: Budget) -> dict[str, Any]:
    out, wanted = budget.out / "runs" / "killed", KILLED_AT_DRY if budget.dry else KILLED_AT
    process = start(out, typed)
    while process.poll() is None and len(epochs(out)) < wanted and budget.left:
        time.sleep(POLL_S)
    broken_off = process.poll() is None
    end(process)
    try:
        finish(start(out, typed), out, budget)
    except TimeoutError as error:
        return {"left_out": str(error)}
    return rows_of(result(out)) | {"broken_off": broken_off}


def runs_lines(found: dict[str, Any]) -> list[str]:
    lines = ["| run | test | float | whole | epochs alone | |", "|---|---|---|---|---|---|"]
    for name, row in found.items():
        if name == "seconds":
            continue
        if "left_out" in row:
            lines.append(f"| {name} | {row['left_out']} |")
            continue
        same = {None: "", True: "equal bits", False: "other bits"}[row.get("equal")]
        accuracies = f"{row['test_accuracy_last']:.2%} | {row['float_test_accuracy']:.2%}"
        lines.append(f"| {name} | {accuracies} | {row['time_s']:.1f} s | {row['epoch_time_s']:.1f} s | {same} |")
    return lines


# --- real images -----------------------------------------------------------------------------------------------------


def images(budget: Budget) -> dict[str, Any]:
    if budget.data is None:
        return {"left_out": "no --data"}
    out = budget.out / "images"
    typed = ["data=image_folder", f"data.root={budget.data.resolve()}", "experiment=cifar10_resnet20_short"]
    typed += [f"device={budget.device}", f"data.cache_dir={(budget.out / 'cache').resolve()}"]
    try:
        finish(start(out, [*typed, *(SMALL_IMAGES if budget.dry else ())]), out, budget)
    except TimeoutError as error:
        last = "".join(f"; {r['stage']} {r['epoch']}: test {r['test_accuracy']:.2%}" for r in epochs(out)[-1:])
        return {"left_out": f"{error}{last}"}
    return rows_of(result(out)) | {"epochs": len(epochs(out))}


def images_lines(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['epochs']} epochs in {found['time_s']:.0f} s: test {found['test_accuracy_last']:.2%}, float "
        f"{found['float_test_accuracy']:.2%}"
    ]


# --- several runs on one device --------------------------------------------------------------------------------------


def workers(budget: Budget) -> dict[str, Any]:
    """Number of float stages at once -> epochs per second of all of them, once each has two epochs done. All are begun;
    for fewer the others are stopped and go on no more."""
    counts = sorted(WORKERS_DRY if budget.dry else WORKERS, reverse=True)
    typed = [f"device={budget.device}", f"schedule.float_epochs={LONG}", *(SMALL[:2] if budget.dry else ())]
    outs = [budget.out / "workers" / str(i) for i in range(counts[0])]
    processes = [start(out, [*typed, f"seed={i}", "threads=1"]) for i, out in enumerate(outs)]
    found: dict[str, Any] = {}
    try:
        while budget.left and min(len(epochs(out)) for out in outs) < 2:
            if any(process.poll() is not None for process in processes):
                logs = [(out / "train.log").read_text()[-500:] for out in outs]
                return {str(counts[0]): {"left_out": f"a worker ended: {' '.join(max(logs, key=len).split())}"}}
            time.sleep(POLL_S)
        each = DRY_S if budget.dry else budget.left / len(counts)
        for count in counts:
            for process in processes[count:]:
                process.send_signal(signal.SIGSTOP)
            found[str(count)] = _pace(outs[:count], min(each, budget.left))
    finally:
        for process in processes:
            end(process)
    return dict(reversed(found.items()))


def _pace(outs: Sequence[Path], seconds: float) -> dict[str, Any]:
    before, began = sum(len(epochs(out)) for out in outs), time.monotonic()
    time.sleep(seconds)
    done = sum(len(epochs(out)) for out in outs) - before
    return {"epochs_per_s": done / (time.monotonic() - began)} if done else {"left_out": "no epoch within its time"}


def workers_lines(found: dict[str, Any]) -> list[str]:
    lines = ["| runs at once | epochs per second in all |", "|---|---|"]
    for count, row in found.items():
        if count != "seconds":
            lines.append(f"| {count} | {row.get('left_out') or format(row['epochs_per_s'], '.2f')} |")
    return lines
