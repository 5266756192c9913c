"""What a sweep costs beside its training: `python -m benchmarks.sweep --runs 300`.

    plan      composing, checking and planning the grid for the first time (a dry run)
    answer    the same command when every run is finished
    status    `python -m brsweep.sweep` on it
    overhead  per run: a sweep of runs of the smallest net, less the lives of the same workers started one by one

The finished runs are made up: their folders hold what real ones do, 100 epochs each, but nothing was trained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register
from brsweep.config.grid import Composer
from brsweep.runs.run import Run
from brsweep.sweep.local import WORKER_LOG, Worker
from brsweep.sweep.tree import grow

SMALL = ("model=tiny", "data=synthetic", "logger=none", "threads=1", "device=cpu")
TRIES = 3


def timed(*arguments: str, tries: int = TRIES) -> tuple[float, str]:
    """Median seconds of a command, and what it printed."""
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
        seconds.append(time.perf_counter() - began)
        if done.returncode:
            raise SystemExit(done.stderr)
    return statistics.median(seconds), done.stdout


def configurations(overrides: Sequence[str], count: int) -> list[dict]:
    """Those of the seeds 0 to `count`."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        composer = Composer(GlobalHydra.instance().config_loader(), "config")
        return [checked(composer.compose([*overrides, f"seed={seed}"])) for seed in range(count)]


def finish(configs: Sequence[dict]) -> None:
    """A result, metrics and a configuration for each run."""
    sources: dict = {}
    for config in configs:
        run = Run.of(config, sources)
        run.folder.path.mkdir(parents=True)
        (run.folder.path / "config.yaml").write_text(json.dumps(config))
        record = {"stage": "br", "epochs": 100, "val_accuracy": 0.5, "test_accuracy": 0.5, "time_s": 1.0}
        lines = [json.dumps(record | {"epoch": epoch}) for epoch in range(100)]
        (run.folder.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        accuracies = {"val_accuracy": 0.5, "test_accuracy": 0.5, "test_accuracy_last": 0.5}
        run.folder.write_result({"status": "finished", "code": run.code, "config": config} | accuracies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        grid = ("--multirun", *SMALL, f"output_dir={folder}", f"seed=range(0,{count})", "sweep_name=many")
        first, _ = timed("brsweep.train", *grid, "hydra.launcher.dry_run=true", tries=1)
        finish(configurations([*SMALL, f"output_dir={folder}", "sweep_name=many"], count))
        answer, said = timed("brsweep.train", *grid)
        assert f"{count} runs, {count} finished already" in said
        status, said = timed("brsweep.sweep", f"{folder}/many")
        assert f"{count} runs: {count} finished" in said
    print(f"| {count} runs | s |\n|---|---|")
    print(f"| first plan | {first:.1f} |\n| finished sweep answers | {answer:.2f} |\n| status | {status:.2f} |")
    print(f"| launcher per run, beyond its worker | {overhead():.2f} |")


def overhead(count: int = 8) -> float:
    """Seconds per run of a small sweep that are not its workers' lives: the command's own start, which imports torch to
    check the parts, is among them."""
    with tempfile.TemporaryDirectory() as folder:
        small = ("schedule.float_epochs=1", "schedule.warmup_epochs=0", "schedule.qat_epochs=1")
        grid = ("--multirun", *SMALL, *small, f"output_dir={folder}", f"seed=range(0,{count})")
        sweep, _ = timed("brsweep.train", *grid, "sweep_name=launched", tries=1)
        configs = configurations([*SMALL, *small, f"output_dir={folder}", "sweep_name=alone"], count)
        tasks = grow([Run.of(config | {"store_dir": f"{folder}/store2"}) for config in configs], lambda _: False)
        began = time.perf_counter()
        for task in tasks:
            worker = Worker.start(task, None, 0)
            if worker.process.wait():
                raise SystemExit((task.folder.path / WORKER_LOG).read_text())
            worker.process.stdin.close()
        return (sweep - (time.perf_counter() - began)) / count


if __name__ == "__main__":
    main()
