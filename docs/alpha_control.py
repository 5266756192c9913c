"""Run and draw what docs/alpha_control.md shows: `python docs/alpha_control.py [--runs DIR]`, minutes on two cores.

Each run is a command that anyone can type; finished ones answer from their results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

SEEDS = (42, 43, 44)
CONTROLS = {
    "free, BR detached": ("schedule.freeze_alpha=false", "reg.backprop_to_alpha=false"),
    "frozen": ("schedule.freeze_alpha=true", "reg.backprop_to_alpha=false"),
    "free, BR reaches alpha": ("schedule.freeze_alpha=false", "reg.backprop_to_alpha=true"),
    "free, BR reaches alpha, scaled": (
        "schedule.freeze_alpha=false",
        "reg.backprop_to_alpha=true",
        "reg.alpha_grad_scale=lsq",
    ),
}
FORMS = {
    "default": (),
    "default, constant": ("reg.ramp.act=constant",),
    "default, saturated left out": ("reg.saturated.act=ignore",),
    "plain": ("regularizer=br_paper",),
    "plain, cosine": ("regularizer=br_paper", "reg.ramp.act=cosine"),
}
LAMBDAS = (1, 10)


def run(folder: Path, overrides: tuple[str, ...]) -> dict:
    """Train (or find) one run and return its result with its folder."""
    command = [sys.executable, "-m", "brsweep.train", f"output_dir={folder}", "sweep_name=alpha_control", "logger=none"]
    command.append("reg.scale=1")  # lambdas in units of the plain mean, as in the page's tables
    done = subprocess.run([*command, *overrides], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(overrides)}: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    said = ("results in ", "finished already: ", "taken over as ")
    where = next(line.partition(words)[2] for line in reversed(lines) for words in said if words in line)
    path = Path(where.split(" (force")[0])
    return json.loads((path / "result.json").read_text()) | {"folder": path}


def spread(results: list[dict], key: str) -> str:
    values = [100 * result[key] for result in results]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def cells(results: list[dict]) -> str:
    collapsed = sum(result["collapse"] is not None for result in results)
    row = [spread(results, key) for key in ("test_accuracy", "test_accuracy_last")]
    row += [f"{statistics.mean(r[key] for r in results):.3g}" for key in ("penalty_weight", "penalty_act")]
    return " | ".join([*row, f"{collapsed} of {len(results)}"])


def over_seeds(folder: Path, overrides: tuple[str, ...]) -> list[dict]:
    return [run(folder, (*overrides, f"seed={seed}")) for seed in SEEDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    folder = parser.parse_args().runs
    head = "| test at best | test at last | BR_W | BR_A | collapsed |\n|---|---|---|---|---|---|"
    base = over_seeds(folder, ("reg.lambda_weight=0", "reg.lambda_act=0"))
    print(f"float stage: {spread(base, 'float_test_accuracy')}\n")
    print(f"| alpha {head}")
    print(f"| LSQ alone | {cells(base)} |")
    controls = {name: over_seeds(folder, overrides) for name, overrides in CONTROLS.items()}
    for name, results in controls.items():
        print(f"| {name} | {cells(results)} |", flush=True)
    draw({"LSQ alone": base} | controls, Path(__file__).with_suffix(".png"))
    print(f"\n| lambda_act, form {head}")
    for value in LAMBDAS:
        for name, overrides in FORMS.items():
            results = over_seeds(folder, (f"reg.lambda_act={value}", *overrides))
            print(f"| {value:g}, {name} | {cells(results)} |", flush=True)


def draw(groups: dict[str, list[dict]], path: Path) -> None:
    """Mean alpha over the low sites relative to the warm-up's end, and BR, per epoch; a line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = ("#000000", "#0072b2", "#e69f00", "#009e73", "#cc79a7")
    figure, axes = plt.subplots(2, 2, figsize=(9, 5.6), sharex=True, constrained_layout=True)
    for colour, (name, results) in zip(colours, groups.items(), strict=True):
        for i, result in enumerate(results):
            layers = [json.loads(line) for line in (result["folder"] / "layers.jsonl").read_text().splitlines()]
            epochs = [record["epoch"] for record in layers]
            start = next(record for record in reversed(layers) if record["stage"] == "warmup")
            for column, kind in enumerate(("weight", "act")):
                style = {"color": colour, "lw": 1.3, "alpha": 0.85, "label": name if i == 0 else None}
                axes[0, column].plot(epochs, [_alpha(record, start, kind) for record in layers], **style)
                axes[1, column].plot(epochs, [_penalty(record, kind) for record in layers], **style)
    warmup = next(iter(groups.values()))[0]["config"]["schedule"]["warmup_epochs"]
    for column, kind in enumerate(("weights", "activations")):
        axes[0, column].set_title(kind)
        axes[1, column].set(xlabel="quantized epoch", yscale="log")
        for row in (0, 1):
            axes[row, column].axvline(warmup, color="0.6", lw=0.8, ls="--")
            axes[row, column].spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("alpha / alpha at the warm-up's end")
    axes[1, 0].set_ylabel("L_BR (eq. 5, every value)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def _low(record: dict, kind: str) -> list[int]:
    return [i for i, (k, low) in enumerate(zip(record["kind"], record["low"], strict=True)) if k == kind and low]


def _alpha(record: dict, start: dict, kind: str) -> float:
    return statistics.mean(record["alpha"][i] / start["alpha"][i] for i in _low(record, kind))


def _penalty(record: dict, kind: str) -> float:
    return sum(record["br_mean"][i] + record["br_variance"][i] for i in _low(record, kind))


if __name__ == "__main__":
    main()
