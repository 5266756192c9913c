"""A result of `benchmarks.step` as tables for a page, and as a figure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

Interval = tuple[float, float, float]


def page(result: dict[str, Any]) -> str:
    """What it was measured on, the targets, and every step."""
    told = f"{result['net']}, 3x32x32, batch {result['batch_size']}, {result['rounds']} rounds"
    where = f"{result['device']}, {result['threads']} threads; {result['versions']}; kernels {result['kernels']}"
    return "\n\n".join([f"{told}; {where}; {result['date']}.", targets(result), steps(result)])


def steps(result: dict[str, Any]) -> str:
    """The rows as a Markdown table; ratios with the 95 % interval of their medians."""
    lines = ["| step | ms | images/s | / float | / LSQ | saved for backward |", "|---|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        ratios = [_interval(row.get(key)) for key in ("over_float", "over_lsq")]
        saved = f"{row['saved_bytes'] / 1e6:.0f} MB" if "saved_bytes" in row else ""
        name += f", compiled in {row['compile_s']:.0f} s" if "compile_s" in row else ""
        times = f"{1e3 * row['median_s']:.1f} | {row['images_per_s']:.0f}"
        lines.append(f"| {name} | {times} | {ratios[0]} | {ratios[1]} | {saved} |")
    return "\n".join(lines)


def targets(result: dict[str, Any]) -> str:
    """The quantities that the design sets a bound for, as far as the steps and bits measured have them.

    Undecided: the interval has the bound within.
    """
    lines = ["| quantity | must hold | aim | measured | |", "|---|---|---|---|---|"]
    for quantity, bound, aim, measured in _targets(result):
        single = not isinstance(measured, tuple | list)
        _, low, high = (measured,) * 3 if single else measured
        verdict = "holds" if high <= bound else "falls short" if low > bound else "undecided"
        shown = f"{measured:.2g}" if single else _interval(measured)
        lines.append(f"| {quantity} | {bound:g} | {aim:g} | {shown} | {verdict} |")
    return "\n".join(lines)


def _targets(result: dict[str, Any]) -> Iterator[tuple[str, float, float, Interval | float]]:
    rows, bits = result["rows"], result["bits"]
    few = [width for width in bits if width <= 4]
    has_reference = f"reference LSQ+BR(W+A) {bits[0]} bits" in rows

    def worst(name: str, key: str, widths: list[int]) -> Interval:
        return max((rows[f"{name} {width} bits"][key] for width in widths), key=lambda found: found[0])

    def saved(width: int) -> float:
        return rows[f"LSQ+BR(W+A) {width} bits"]["saved_bytes"] / rows[f"LSQ {width} bits"]["saved_bytes"] - 1

    if 2 in bits:
        yield "LSQ W2A2 / float", 1.15, 1.07, rows["LSQ 2 bits"]["over_float"]
    if few:
        yield "LSQ+BR(W+A) / LSQ, worst of 2 to 4 bits", 1.10, 1.02, worst("LSQ+BR(W+A)", "over_lsq", few)
    if bits[0] == 2 and 8 in bits:
        yield "LSQ+BR(W+A) at 8 bits / at 2 bits", 1.35, 1.05, rows["LSQ+BR(W+A) 8 bits"]["over_fewest_bits"]
    yield "LSQ+BR(W) / LSQ, worst of all bits", 1.04, 1.00, worst("LSQ+BR(W)", "over_lsq", bits)
    yield "saved for backward, share that BR(W+A) adds to LSQ", 0.02, 0, max(map(saved, bits))
    if few and has_reference:
        reference = worst("reference LSQ+BR(W+A)", "over_float", few)
        yield "reference LSQ+BR(W+A) / float, worst of 2 to 4 bits", 2.0, 1.6, reference
    if 8 in bits and has_reference:
        yield "reference LSQ+BR(W+A) / float, 8 bits", 2.3, 1.6, rows["reference LSQ+BR(W+A) 8 bits"]["over_float"]
    yield "relative error of the penalty, bins sharp to 1e-4 alpha", 1e-5, 1e-7, result["penalty_error"]


def fill(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end -->` on a page. Raises where it has no such marks."""
    before, mark, rest = path.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not mark or not end:
        raise SystemExit(f"{path}: has no marks <!-- {name} --> and <!-- end -->, each on a line of its own")
    path.write_text(f"{before}{mark}\n{text}\n\n{end}{after}")


def figure(result: dict[str, Any], path: Path) -> None:
    """Each step's ratio to the float step over the bits, with its interval, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, bits = result["rows"], result["bits"]
    kinds = [name.removesuffix(f" {bits[0]} bits") for name in rows if name.endswith(f" {bits[0]} bits")]
    drawing, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    styles, colors = {"LSQ": "-", "LSQ+BR(W)": "--", "LSQ+BR(W+A)": ":"}, {}
    for kind in kinds:
        middle, low, high = zip(*[rows[f"{kind} {width} bits"]["over_float"] for width in bits], strict=True)
        errors = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        maker, _, form = kind.rpartition(" ")
        color = colors.setdefault(maker, f"C{len(colors)}")
        look = {"marker": "o", "capsize": 3, "linestyle": styles[form], "color": color}
        axes.errorbar(range(len(bits)), middle, yerr=errors, label=kind, **look)
    axes.set_xticks(range(len(bits)), [f"{width}" for width in bits])
    axes.set_yscale("log")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xlabel="bits", ylabel="step time / float step", title=f"{result['net']}, {result['device']}")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.savefig(path, dpi=120)
    plt.close(drawing)


def _interval(found: Interval | None) -> str:
    return "" if found is None else "{:.3g} ({:.3g} to {:.3g})".format(*found)
