"""What a stage has done to the network, as pictures: drawn from the run folder, so that they can be drawn at any time.

    weights, activations   per layer, the latent values in steps of alpha around their levels, before and after
    alpha                  each layer's step size over the epochs so far
    occupancy              per layer, the share of values in each bin at the stage's end
    confusion              true against predicted classes of the test set

Colours are those of Okabe and Ito and of perceptually uniform maps, told apart by colour-blind readers. Matplotlib is
imported when first needed and used without pyplot: no backend, no window, no state left behind.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brsweep.tracking.snapshots import Histogram, layers, snapshot

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, LEVEL, QUIET = "#E69F00", "#0072B2", "#999999", "#666666"
TITLES = {"float": "float", "warmup": "warm-up", "br": "BR"}
KINDS = {"weight": "weights", "act": "activations"}
FEW_BITS = 4
"""Levels and bins are drawn up to this many bits; beyond it they are finer than the picture."""
DPI = 110


def pictures(folder: Path, stage: str) -> dict[str, bytes]:
    """Name -> PNG, of what `folder` holds of `stage`; empty before the stage has ended."""
    after, confusion = snapshot(folder, f"{stage}-end")
    drawn: dict[str, Figure] = {}
    lines = layers(folder) if after else []
    if lines:
        before, _ = snapshot(folder, f"{stage}-start")
        kind_of = dict(zip(lines[-1]["site"], lines[-1]["kind"], strict=True))
        for kind, name in KINDS.items():
            sites = [site for site in after if kind_of.get(site) == kind]
            if sites:
                drawn[name] = ridges(kind, {site: (before.get(site), after[site]) for site in sites}, stage)
        drawn["alpha"] = alpha_paths(lines)
        drawn["occupancy"] = occupancy([line for line in lines if line["stage"] == stage][-1])
    if confusion is not None:
        drawn["confusion"] = confusion_matrix(confusion)
    return {name: _png(figure) for name, figure in drawn.items()}


def ridges(kind: str, sites: Mapping[str, tuple[Histogram | None, Histogram]], stage: str) -> Figure:
    """One row per layer, first on top, and one column per bit-width. Each curve is scaled to its own maximum."""
    widths = sorted({after.bits for _, after in sites.values()})
    most = max(sum(after.bits == bits for _, after in sites.values()) for bits in widths)
    figure, axes = _figure([4.6 if bits <= FEW_BITS else 2.6 for bits in widths], most)
    for ax, bits in zip(axes, widths, strict=True):
        rows = {site: pair for site, pair in sites.items() if pair[1].bits == bits}
        for row, (before, after) in enumerate(rows.values()):
            _ridge(ax, row, after, fill=True, color=AFTER, alpha=0.75, linewidth=0)
            if before is not None:
                _ridge(ax, row, before, color=BEFORE, linewidth=0.9)
        if bits <= FEW_BITS:
            codes = next(iter(rows.values()))[1].codes
            for code in codes:
                ax.axvline(code, color=LEVEL, linewidth=0.8, zorder=0)
            ax.set_xticks(codes)
        _rows(ax, list(rows), f"{bits} bits", most)
        ax.set_xlabel("value / alpha")
    what = "Latent weights" if kind == "weight" else "Activations before quantization (zeros cut off)"
    figure.suptitle(f"{what} as {TITLES.get(stage, stage)} begins (orange) and ends (blue); levels grey", fontsize=10)
    return figure


def _ridge(ax: Axes, row: int, histogram: Histogram, **style: Any) -> None:
    """The histogram upwards from its row's line, over the range that holds values."""
    import numpy as np

    edges, counts = histogram.coarse(cells_per_step=1) if histogram.bits > FEW_BITS else histogram.coarse(16)
    held = np.flatnonzero(counts)
    if not len(held):
        return
    begin, end = held[0], held[-1] + 1
    top = histogram.scale(counts, edges)
    heights = 0.9 * np.minimum(counts[begin:end] / top, 1.0)
    ax.stairs(row - heights, edges[begin : end + 1], baseline=row, **style)


def alpha_paths(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """alpha over the quantized epochs relative to its value after the first one, a line per layer."""
    import matplotlib

    figure, axes = _figure([4.2, 4.2], 12)
    epochs = [line["epoch"] for line in lines]
    switches = [epochs[i] - 0.5 for i in range(1, len(lines)) if lines[i]["stage"] != lines[i - 1]["stage"]]
    colours = matplotlib.colormaps["viridis"]
    for ax, (kind, name) in zip(axes, KINDS.items(), strict=True):
        picked = [i for i, k in enumerate(lines[-1]["kind"]) if k == kind]
        for order, i in enumerate(picked):
            style = "-" if lines[-1]["bits"][i] <= FEW_BITS else "--"
            values = [math.nan if line["alpha"][i] is None else line["alpha"][i] for line in lines]
            values = [value / values[0] if values[0] else math.nan for value in values]
            colour = colours(0.95 * order / max(len(picked) - 1, 1))
            ax.plot(epochs, values, style, color=colour, linewidth=1.1, marker="." if len(epochs) == 1 else None)
        for switch in switches:
            ax.axvline(switch, color=LEVEL, linewidth=1.0, linestyle=":")
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("quantized epoch")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("alpha / alpha after the first epoch")
    figure.suptitle("Step sizes, first layer dark to last light; dashed: over 4 bits; dotted: BR begins", fontsize=10)
    return figure


def occupancy(line: Mapping[str, Any]) -> Figure:
    """The share of values per bin, a bar per layer; each bin's code is written in its colour's key."""
    import matplotlib

    known = [i for i, held in enumerate(line["occupancy"]) if held is not None and line["bits"][i] <= FEW_BITS]
    kinds = {kind: [i for i in known if line["kind"][i] == kind] for kind in KINDS}
    most = max(len(picked) for picked in kinds.values())
    figure, axes = _figure([4.6, 4.6], most)
    for ax, (kind, picked) in zip(axes, kinds.items(), strict=True):
        bins = max((len(line["occupancy"][i]) for i in picked), default=0)
        first = -(bins // 2) if kind == "weight" else 0
        colours = matplotlib.colormaps["Blues" if kind == "act" else "PuOr"]
        for code in range(first, first + bins):
            cuts = []
            for held in (line["occupancy"][i] for i in picked):
                k = code + (len(held) // 2 if kind == "weight" else 0)  # layers differ in bits
                cuts.append((sum(held[: max(k, 0)]), sum(held[: max(k + 1, 0)])))
            starts, shares = [begin for begin, _ in cuts], [end - begin for begin, end in cuts]
            place = 0.5 + 0.4 * code / max(-first, 1) if kind == "weight" else 0.05 + 0.9 * code / max(bins - 1, 1)
            style = {"height": 0.8, "color": colours(place), "edgecolor": QUIET, "linewidth": 0.3}
            ax.barh(range(len(picked)), shares, left=starts, label=f"{code}", **style)
        _rows(ax, [line["site"][i] for i in picked], f"{KINDS[kind]}, by code", most)
        ax.set_xlim(0, 1)
        ax.set_xlabel("share of values")
        if bins:
            ax.legend(ncols=8, fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.suptitle(f"Bin occupancy at the end of {TITLES.get(line['stage'], line['stage'])}", fontsize=10)
    return figure


def confusion_matrix(counts: np.ndarray) -> Figure:
    """Shares of each true class, in percent; written out up to 20 classes."""
    import numpy as np

    classes = len(counts)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (ax,) = _figure([5.4], 20)
    ax.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=10)  # the root shows rare confusions
    if classes <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            ax.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color="w" if share > 40 else "k")
        ax.set_xticks(range(classes))
        ax.set_yticks(range(classes))
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    accuracy = counts.trace() / max(counts.sum(), 1)
    figure.suptitle(f"Test set at the stage's end, % of each true class; accuracy {accuracy:.2%}", fontsize=10)
    return figure


def _figure(widths: Sequence[float], rows: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure of panels side by side, `widths` in inches, tall enough for `rows` layers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(sum(widths), 1.5 + 0.21 * rows), dpi=DPI, layout="constrained")
    return figure, figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]


def _rows(ax: Axes, names: Sequence[str], title: str, most: int) -> None:
    """Layers from top to bottom, named at the left; panels of one figure have room for `most` of them."""
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set_ylim(most - 0.4, -1.1)
    ax.set_title(title, fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
