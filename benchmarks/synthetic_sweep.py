"""Sweep folders as training leaves them, with made-up numbers: for the report's tests and its timing.

Every number follows from a run's configuration and seed, so that the same call writes the same files.
"""

from __future__ import annotations

import copy
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from brsweep.quant.grid import Grid
from brsweep.runs.folder import RunFolder
from brsweep.runs.words import readable_name
from brsweep.stages.plan import identity
from brsweep.sweep.manifest import add_to_manifest

STAGES = {"float": 2, "warmup": 1, "br": 2}
BLOCK = (("conv1", "weight"), ("relu1", "act"), ("conv2", "weight"), ("relu2", "act"))
ONE_BLOCK = tuple((f"stages.0.0.{part}", kind) for part, kind in BLOCK)
RESNET20 = tuple((f"stages.{s}.{b}.{part}", kind) for s in range(3) for b in range(3) for part, kind in BLOCK)
CORE, CODE, DATA = "c04e000000000001", "c0de000000000001", "digits-1"


@cache
def _composed() -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register

    register()
    GlobalHydra.instance().clear()
    overrides = ["logger=none", "output_dir=runs"]
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        return checked(compose("config", overrides=overrides), overrides)


def config(changes: Mapping[str, Any], sweep: str = "made") -> dict[str, Any]:
    """The default run's configuration with dotted keys changed; `bits` sets both bit-widths."""
    made = copy.deepcopy(_composed()) | {"sweep_name": sweep}
    for key, value in changes.items():
        keys = ("quant.weight_bits", "quant.act_bits") if key == "bits" else (key,)
        for path in keys:
            *parents, leaf = path.split(".")
            node = made
            for parent in parents:
                node = node[parent]
            node[leaf] = value
    return made


def write_run(
    sweep: Path,
    changes: Mapping[str, Any],
    *,
    result: Mapping[str, Any] | None = None,
    state: str = "finished",
    stages: Mapping[str, int] = STAGES,
    sites: Sequence[tuple[str, str]] = (),
    name: str | None = None,
) -> Path:
    """Write one run folder. `result` overrides fields of result.json; another `state` than finished leaves it away.
    `sites`: layers with histograms and records; none without."""
    made = config(changes, sweep.name)
    folder = sweep / (name or f"{readable_name(made)}-{identity(made, DATA)[:8]}")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    log = "".join(f"line {i} of {folder.name}\n" for i in range(30))
    (folder / "console.log").write_text(log, encoding="utf-8", errors="backslashreplace")
    records = epochs(changes, stages)
    records = records if state == "finished" else records[: sum(stages.values()) // 2]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if sites:
        _write_inside(folder, made, sites, stages)
    if state == "finished":
        stored = outcome(changes) | {"sweep": sweep.name, "config": made} | dict(result or {})
        RunFolder(folder).write_result(stored)
    elif state == "failed":
        (folder / "failure.json").write_text(json.dumps({"cause": "no memory left", "log": "console.log"}))
    return folder


def write_sweep(sweep: Path, runs: Iterable[Mapping[str, Any]], **options: Any) -> list[Path]:
    """Write finished runs and the manifest that a launcher would have written."""
    runs = list(runs)
    folders = [write_run(sweep, changes, **options) for changes in runs]
    planned = [
        {"name": f.name, "overrides": [f"{key}={value}" for key, value in changes.items()], "epochs": 5, "stages": []}
        for f, changes in zip(folders, runs, strict=True)
    ]
    add_to_manifest(sweep, sweep.name, "python -m brsweep.train --multirun", planned)
    return folders


def outcome(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A result.json's fields: accuracy falls with fewer bits and with lambda, and moves a little with the seed."""
    strength = float(changes.get("reg.lambda_act", 1.0))
    level = 0.99 - 0.3 * 0.5 ** float(changes.get("bits", 2)) - 0.004 * strength
    noise = np.random.default_rng(_number(changes)).normal(0, 0.004, 3)
    test = float(level + noise[0])
    return {
        "status": "finished",
        "val_accuracy": float(level + noise[1]),
        "test_accuracy": test,
        "best_epoch": 3,
        "test_accuracy_last": float(test + noise[2]),
        "float_val_accuracy": 0.99,
        "float_test_accuracy": 0.985 + 0.001 * (int(changes.get("seed", 42)) % 3),
        "penalty_weight": 0.1,
        "penalty_act": 1.0,
        "collapse": None,
        "time_s": 12.5,
        "threads": 1,
        "device": "cpu",
        "kernels": "numba",
        "core": CORE,
        "code": CODE,
        "data": DATA,
        "git_commit": "0" * 40,
        "stages": {},
    }


def epochs(changes: Mapping[str, Any], stages: Mapping[str, int]) -> list[dict[str, Any]]:
    """The records of metrics.jsonl."""
    noise = np.random.default_rng(_number(changes)).normal(0, 0.01, sum(stages.values()))
    records = []
    for stage, count in stages.items():
        first = 0 if stage != "br" else stages.get("warmup", 0)
        for i in range(count):
            accuracy = float(0.95 - 0.4 * 0.8 ** len(records) + noise[len(records)])
            record = {
                "stage": stage,
                "epoch": first + i + 1,
                "lr": 0.1 / (len(records) + 1),
                "train_accuracy": accuracy,
            }
            record |= {"train_loss": 2 - accuracy, "task_loss": 2 - accuracy, "time_s": 1.0, "shared": False}
            record |= {"val_accuracy": accuracy, "test_accuracy": accuracy}
            if stage != "float":
                record |= {"penalty_weight": 0.1 / (i + 1), "penalty_act": 2.0 / (i + 1)}
            records.append(record)
    return records


def _write_inside(
    folder: Path, made: Mapping[str, Any], sites: Sequence[tuple[str, str]], stages: Mapping[str, int]
) -> None:
    """layers.jsonl and the last histograms. Equal runs of a sweep share one file on disk."""
    bits, strength = made["quant"]["weight_bits"], made["reg"]["lambda_act"]
    kept = folder.parent / f".layers-{bits}-{strength:g}-{len(sites)}-{sum(stages.values())}"
    if not kept.exists():
        first = stages.get("warmup", 0)
        names = ["warmup"] * first + ["br"] * stages["br"]
        lines = [json.dumps(layer_record(bits, strength, sites, stage, i + 1)) for i, stage in enumerate(names)]
        kept.write_text("\n".join(lines) + "\n")
    os.link(kept, folder / "layers.jsonl")
    kept = kept.with_name(f"{kept.name}.npz")
    if not kept.exists():
        arrays = {}
        for site, kind in sites:
            counts, about = histogram(bits, kind, strength)
            arrays |= {f"{site}/counts": counts, f"{site}/about": about}
        np.savez_compressed(kept, **arrays)
    (folder / "snapshots").mkdir()
    os.link(kept, folder / "snapshots" / "br-end.npz")


def layer_record(
    bits: int, strength: float, sites: Sequence[tuple[str, str]], stage: str, epoch: int
) -> dict[str, Any]:
    """One line of layers.jsonl, with the ends at 8 bits as in a real one."""
    every = [("conv1", "weight"), *sites, ("fc", "weight")]
    low = [name not in ("conv1", "fc") for name, _ in every]
    width = [bits if is_low else 8 for is_low in low]
    record: dict[str, Any] = {"stage": stage, "epoch": epoch, "site": [name for name, _ in every]}
    record["kind"] = [kind for _, kind in every]
    record |= {"bits": width, "low": low, "alpha": [0.1 + 0.01 * i + 0.001 * epoch for i in range(len(every))]}
    for key in ("br_mean", "br_variance", "clip_low", "clip_high"):
        record[key] = [0.0123456789 / (1 + i) for i in range(len(every))]
    record["near"] = [min(1.0, 0.02 + 0.01 * strength * epoch)] * len(every)
    record["occupancy"] = [[1 / Grid(b, signed=True).bins] * Grid(b, signed=True).bins for b in width]
    record["changed"] = [0.1 / epoch if kind == "weight" else None for _, kind in every]
    return record


def histogram(bits: int, kind: str, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """A bell, pulled to the levels as lambda grows; laid out as brsweep.training.measure lays it out."""
    grid = Grid(bits, signed=kind == "weight")
    low, high = grid.qn - 1.5, grid.qp + 1.5
    cells = int((high - low) * max(8, 128 // grid.bins))
    x = low + (np.arange(cells) + 0.5) * (high - low) / cells
    bell = np.exp(-0.5 * (x / (0.4 * grid.qp + 0.5)) ** 2) * ((x > 0) if kind == "act" else 1)
    pulled = bell * np.exp(-((x - np.round(x)) ** 2) * 20 * strength)
    return (1000 * pulled).astype(np.int64), np.array([low, high, 0.0, 0.0, 0.1, bits])


def _number(changes: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps({k: str(v) for k, v in changes.items()}, sort_keys=True).encode())
