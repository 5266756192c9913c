"""What a regularizer does inside the network, layer by layer: distributions around the levels, alpha, bin occupancy,
code changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.report.figures import Absent, Figure, Heat, Panel, Series
from brsweep.report.figures.curves import run_marks
from brsweep.report.figures.pairs import Pair
from brsweep.report.runs import ReportedRun, histograms, layer_records
from brsweep.runs.words import printable

KIND_WORDS = {"weight": "weights", "act": "activations"}
WHAT = {"weight": "latent weights", "act": "activations before quantization"}
CUT = {"weight": "", "act": " apart from the one at 0, which is cut off"}
MOST_BINS = 32


class Inside:
    """A pair with what its runs recorded of their layers: epochs of layers.jsonl and the last histograms."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.unread: list[str] = []
        self.epochs = {name: self._read(lambda run=run: layer_records(run), []) for name, run in pair.runs}
        self.last = {name: self._read(lambda run=run: histograms(run, _at_the_end(run)), {}) for name, run in pair.runs}
        self.names = pair.methods

    def _read(self, read: Callable[[], Any], nothing: Any) -> Any:
        """What `read` gives; `nothing`, and a line in `unread`, where a file is damaged."""
        try:
            return read()
        except BrsweepError as error:
            self.unread.append(f"Not read: {printable(str(error))}.")
            return nothing

    @property
    def words(self) -> str:
        return " ".join([f"{self.pair.words}.", *self.unread])

    def sites(self, kind: str) -> list[str]:
        """The sites of this kind at the low bit-width, first to last."""
        for records in self.epochs.values():
            if records:
                last = records[-1]
                columns = (last["site"], last["kind"], last["low"])
                return [site for site, k, low in zip(*columns, strict=True) if k == kind and low]
        return []

    def over_epochs(self, name: str, key: str, site: str) -> list[Any]:
        records = self.epochs[name]
        return [record[key][record["site"].index(site)] if key in record and site in record["site"] else None
                for record in records]  # fmt: skip

    def latest(self, name: str, key: str, site: str) -> Any:
        values = self.over_epochs(name, key, site) if self.epochs[name] else []
        return values[-1] if values else None

    def marks(self, name: str) -> list[tuple[float, str]]:
        """Where the stages of the run of that name begin."""
        return run_marks(dict(self.pair.runs)[name], self.epochs[name])


def _at_the_end(run: ReportedRun) -> str:
    """The name of the snapshot at the end of the run's last stage."""
    return f"{run.stages[-1].name}-end"


def distributions(inside: Inside, kind: str) -> Figure | Absent:
    """The signature picture: per layer, the quantizer alone upwards and the regularized downwards, about the levels."""
    name = f"{KIND_WORDS[kind]}-{inside.pair.place}"
    title = f"{inside.pair.title}: {WHAT[kind]} around their levels"
    panels = [panel for site in inside.sites(kind) if (panel := _distribution_panel(inside, kind, site))]
    if not panels:
        snapshot = _at_the_end(inside.pair.runs[-1][1])
        why = f"no finished run has histograms (snapshots/{snapshot}.npz) and layers.jsonl"
        return Absent(name, title, _why(inside, why))
    sides = "{} upwards, {} downwards".format(*inside.names) if len(inside.names) == 2 else inside.names[0]
    caption = (
        f"{sides}; each side is scaled to its own highest cell{CUT[kind]}. Upright lines are the levels, the axis "
        f"counts in steps (v / alpha). In each title: the share of values within 1 % of a step of their level. "
        f"{inside.words}"
    )
    return Figure(name, title, caption, panels, columns=4, small=True)


def _distribution_panel(inside: Inside, kind: str, site: str) -> Panel | None:
    series, shares, codes = [], [], range(0)
    for color, name in enumerate(inside.names):
        held = inside.last[name].get(site)
        if held is None or not held.counts.sum():
            continue
        counts, low, codes = held.counts, held.low, held.codes
        width = (held.high - low) / len(counts)
        sign = 1 if color == 0 else -1
        x = [round(low + (i + 0.5) * width, 4) for i in range(len(counts))]
        top = _highest(counts, x, width, kind)
        y = [round(sign * min(1.0, float(value) / top), 4) for value in counts]
        series.append(Series(name, x, y, color=color, area=True))
        share = inside.latest(name, "near", site)
        shares.append("?" if share is None else f"{100 * share:.0f} %")
    marks = [(float(code), "") for code in codes]
    ticks = [(float(code), str(code)) for code in codes][:: max(1, len(codes) // 8)]
    title = f"{site.removeprefix('stages.')}: {' → '.join(shares)}"
    return Panel(title, series, x_ticks=ticks, y_hidden=True, marks=marks) if series else None


def _highest(counts: Any, x: Sequence[float], width: float, kind: str) -> float:
    """The highest cell. Of activations the one at 0 is left aside where others are filled: it holds what the ReLU cut
    off, often half of all values."""
    rest = [float(count) for count, at in zip(counts, x, strict=True) if kind == "weight" or abs(at) > width]
    return max(rest, default=0.0) or float(counts.max())


def _why(inside: Inside, nothing: str) -> str:
    """The cause where a file could not be read, else that there is none."""
    return " ".join([nothing, *inside.unread]).removesuffix(".")


def alphas(inside: Inside) -> Figure | Absent:
    name, title = f"alpha-{inside.pair.place}", f"{inside.pair.title}: trajectory of alpha per layer"
    panels = []
    for kind in KIND_WORDS:
        sites = inside.sites(kind)
        for run in inside.names if sites else []:
            series = [
                Series(site, _numbered(values), values, shade=i / max(1, len(sites) - 1))
                for i, site in enumerate(sites)
                if any(values := inside.over_epochs(run, "alpha", site))
            ]
            words = f"{KIND_WORDS[kind]}, {run}"
            panels.append(Panel(words, series, "quantized epoch", "alpha", marks=inside.marks(run), y_log=True))
    panels = [panel for panel in panels if panel.series]
    if not panels:
        return Absent(name, title, _why(inside, "no finished run has a readable layers.jsonl"))
    caption = f"A line for each layer, violet to yellow from the first to the last. {inside.words}"
    return Figure(name, title, caption, panels, columns=2)


def bin_occupancy(inside: Inside) -> Figure | Absent:
    name, title = f"occupancy-{inside.pair.place}", f"{inside.pair.title}: bin occupancy"
    panels = []
    for kind in KIND_WORDS:
        for run in inside.names:
            sites = [site for site in inside.sites(kind) if inside.latest(run, "occupancy", site)]
            shares = [inside.latest(run, "occupancy", site) for site in sites]
            bins = max(map(len, shares), default=0)
            if 0 < bins <= MOST_BINS:
                codes = _codes(kind, bins)
                of_code = [dict(zip(_codes(kind, len(line)), line, strict=True)) for line in shares]
                values = [[_percent(line.get(code)) for code in codes] for line in of_code]
                heat = Heat(sites, codes, values, None, "share of values (%)")
                panels.append(Panel(f"{KIND_WORDS[kind]}, {run}", x_label="code", heat=heat))
    if not panels:
        why = f"no finished run has a readable layers.jsonl with at most {MOST_BINS} bins"
        return Absent(name, title, _why(inside, why))
    caption = f"Share of a layer's values in each bin at the end of training. {inside.words}"
    return Figure(name, title, caption, panels, columns=2)


def _codes(kind: str, bins: int) -> list[str]:
    from brsweep.quant.grid import Grid

    grid = Grid(bins.bit_length() - 1, signed=kind == "weight")
    return [str(code) for code in grid.codes]


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def changes(insides: Sequence[Inside]) -> Figure | Absent:
    """Code-change rates, oscillation where it was recorded, and the share of values that reached their level."""
    name, title = "codes", "Code changes, and values that reach their level"
    recorded = {key for i in insides for records in i.epochs.values() for record in records[-1:] for key in record}
    swings = sorted(key for key in recorded if key.startswith("oscillat"))
    shown = [("changed", "weight", "codes changed (%)")]
    shown += [(key, "weight", f"{key.replace('_', ' ')} (%)") for key in swings]
    shown += [("near", kind, "within 1 % of a level (%)") for kind in KIND_WORDS]
    panels = [panel for inside in insides for what in shown if (panel := _mean_panel(inside, *what))]
    if not panels:
        return Absent(name, title, "no finished run has a readable layers.jsonl")
    caption = (
        "Per epoch; mean over the layers at the low bit-width, the band reaches from the lowest layer to the highest. "
        + ("" if swings else "These runs recorded no oscillation. ")
        + " ".join(inside.words for inside in insides)
    )
    return Figure(name, title, caption, panels, columns=len(shown))


def _mean_panel(inside: Inside, key: str, kind: str, label: str) -> Panel | None:
    series = []
    for color, name in enumerate(inside.names):
        sites = [site for site in inside.sites(kind) if key in (inside.epochs[name] or [{}])[-1]]
        lines = [inside.over_epochs(name, key, site) for site in sites]
        columns = [[100 * value for value in column if value is not None] for column in zip(*lines, strict=True)]
        if any(columns):
            mean = [sum(column) / len(column) if column else None for column in columns]
            low, high = ([pick(column) if column else None for column in columns] for pick in (min, max))
            series.append(Series(name, _numbered(mean), mean, low, high, color=color))
    if not series:
        return None
    title, marks = f"{inside.pair.title}, {KIND_WORDS[kind]}", inside.marks(series[-1].name)
    return Panel(title, series, "quantized epoch", label, marks=marks)


def _numbered(values: Sequence[Any]) -> list[int]:
    return list(range(1, len(values) + 1))
