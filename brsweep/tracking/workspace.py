"""`python -m brsweep.tracking.workspace SWEEP`: the dashboard of a sweep at W&B, made by code.

Sections: lambda against accuracy, bits, alpha control, BR's curves, the stages, all settings at once, and the pictures
of the stages' ends. It shows the runs whose group is SWEEP. With a key it is saved as a view of the project, each time
as a new one; `--json` writes its serialised form instead and needs no key. Needs the extra `dashboards`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsweep.errors import BrsweepError
from brsweep.files import replace_file
from brsweep.output import reader_may_leave
from brsweep.tracking.tracker import one_line
from brsweep.tracking.wandb_session import will_be_online

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

SETTINGS = {
    "reg.lambda_weight": "lambda, weights",
    "reg.lambda_act": "lambda, activations",
    "quant.weight_bits": "weight bits",
    "quant.act_bits": "activation bits",
    "quant.clip_value": "clip",
    "schedule.freeze_alpha": "alpha frozen",
    "reg.backprop_to_alpha": "BR moves alpha",
    "seed": "seed",
}
"""What sweeps vary, by its key in a run's configuration."""
RESULTS = {
    "val_accuracy": "validation accuracy, best epoch",
    "test_accuracy": "test accuracy at that epoch",
    "gap_to_float": "gap to float",
}
CURVES = {
    "task_loss": "task loss",
    "penalty_weight": "BR penalty, weights",
    "penalty_act": "BR penalty, activations",
    "near_weight": "weights within 1 % of a level",
    "near_act": "activations within 1 % of a level",
    "changed_weight": "weights whose code changed",
    "oscillating_weight": "weights whose code turned round",
    "clipped_act": "activations beyond the range",
    "empty_bins_weight": "bins without a weight",
    "pull_over_decay_weight": "BR's pull over weight decay's",
}
LOG = ("task_loss", "penalty_weight", "penalty_act", "pull_over_decay_weight")
MEDIA = ("weights", "activations", "alpha", "occupancy", "confusion")
MOST_RUNS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m brsweep.tracking.workspace", description="A sweep's dashboard.")
    parser.add_argument("sweep", help="the sweep's name: the group of its runs")
    parser.add_argument("--project", default="brsweep")
    parser.add_argument("--entity", help="team or user; without it the account's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the dashboard there instead of saving it")
    asked = parser.parse_args(arguments)
    try:
        if asked.json is not None:
            made = serialised(build(asked.sweep, asked.entity or "", asked.project))
            replace_file(asked.json, json.dumps(made, indent=2) + "\n")
            print(f"dashboard of {asked.sweep}: {asked.json}")
        else:
            print(f"dashboard of {asked.sweep}: {_save(asked.sweep, asked.entity, asked.project)}")
        return 0
    except (BrsweepError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def build(sweep: str, entity: str, project: str) -> Workspace:
    """The dashboard; nothing is sent. Raises `BrsweepError` without the package wandb-workspaces."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        cure = "install the extra: pip install 'brsweep[dashboards]'"
        raise BrsweepError(f"dashboards need wandb-workspaces ({error}); {cure}") from None
    return ws.Workspace(
        name=f"BR: {sweep}",
        entity=entity,
        project=project,
        sections=[ws.Section(name=name, panels=panels(wr), is_open=True) for name, panels in SECTIONS.items()],
        settings=ws.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=f'Metric("Group") == {sweep!r}',
            pinned_columns=[f"summary:{key}" for key in RESULTS],
        ),
    )


def serialised(workspace: Workspace) -> dict[str, Any]:
    """What would be saved, as W&B's server takes it."""
    return workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def _save(sweep: str, entity: str | None, project: str) -> str:
    if not will_be_online():
        raise BrsweepError("no W&B key, and a dashboard is saved at W&B; `wandb login` first, or write it with --json")
    import wandb

    try:
        workspace = build(sweep, entity or wandb.Api().default_entity, project)
        return workspace.save().url
    except BrsweepError:
        raise
    except Exception as error:
        raise BrsweepError(f"W&B did not take the dashboard ({one_line(error)})") from None


def _lambdas(wr: Any) -> list[Any]:
    return [
        wr.ScatterPlot(title=f"{RESULTS[result]} against {SETTINGS[key]}", x=wr.Config(key), y=wr.SummaryMetric(result))
        for key in ("reg.lambda_weight", "reg.lambda_act")
        for result in RESULTS
    ]


def _bits(wr: Any) -> list[Any]:
    keys = ("quant.weight_bits", "quant.act_bits")
    bars = [_bars(wr, result, key) for result in ("test_accuracy", "gap_to_float") for key in keys]
    return [*bars, *(_curve(wr, "br", "test_accuracy", "test accuracy", key) for key in keys)]


def _alpha(wr: Any) -> list[Any]:
    keys = ("schedule.freeze_alpha", "reg.backprop_to_alpha")
    kinds = {"weight": "weights", "act": "activations"}
    paths = [
        _curve(wr, "br", f"alpha_{kind}", f"alpha of {name}, geometric mean over layers", key)
        for key in keys
        for kind, name in kinds.items()
    ]
    return [*(_bars(wr, "test_accuracy", key) for key in keys), *paths]


def _curves(wr: Any) -> list[Any]:
    return [_curve(wr, "br", name, title) for name, title in CURVES.items()]


def _stages(wr: Any) -> list[Any]:
    shown = {"val_accuracy": "validation accuracy", "lr": "learning rate"}
    stages = {"float": "float", "warmup": "warm-up", "br": "BR"}
    return [_curve(wr, s, key, f"{name}: {title}") for key, title in shown.items() for s, name in stages.items()]


def _settings(wr: Any) -> list[Any]:
    axes = [(wr.Config(key), name) for key, name in SETTINGS.items()]
    axes += [(wr.SummaryMetric(key), name) for key, name in RESULTS.items()]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=metric, display_name=name) for metric, name in axes]
    return [wr.ParallelCoordinatesPlot(title="settings and results", columns=columns)]


def _media(wr: Any) -> list[Any]:
    return [wr.MediaBrowser(title=f"BR's end: {name}", media_keys=[f"br/media/{name}"]) for name in MEDIA]


SECTIONS = {
    "Lambda against accuracy": _lambdas,
    "Bits": _bits,
    "Alpha control": _alpha,
    "Bin Regularization": _curves,
    "Stages": _stages,
    "All settings at once": _settings,
    "Inside the network": _media,
}


def _bars(wr: Any, result: str, key: str) -> Any:
    title = f"{RESULTS[result]}, by {SETTINGS[key]}"
    metrics = [wr.SummaryMetric(result)]
    return wr.BarPlot(title=title, metrics=metrics, orientation="v", **_by(wr, key))


def _curve(wr: Any, stage: str, name: str, title: str, key: str | None = None) -> Any:
    title += f", by {SETTINGS[key]}" if key else ""
    axes = {"x": f"{stage}/epoch", "y": [f"{stage}/{name}"], "title_x": "epoch", "log_y": name in LOG or None}
    return wr.LinePlot(title=title, **axes, max_runs_to_show=MOST_RUNS, **(_by(wr, key) if key else {}))


def _by(wr: Any, key: str) -> dict[str, Any]:
    """Mean and standard deviation over the runs that have a setting in common."""
    return {"groupby": wr.Config(key), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}


if __name__ == "__main__":
    with reader_may_leave():
        sys.exit(main())
