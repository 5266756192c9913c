"""The path of each row's interval over the seeds, where the launcher looked after every seed."""

from __future__ import annotations

from brsweep.errors import BrsweepError
from brsweep.report.figures import Figure, Panel, Series
from brsweep.report.results import Judged, row_label
from brsweep.report.seeds import SeedPath, seed_paths

MOST_ROWS = 24


def seeds_until_decided(judged: Judged) -> list[Figure]:
    """One figure, a panel for each row; none where the seeds were given."""
    try:
        paths = [path for path in seed_paths(judged) if path.looks]
    except BrsweepError:
        return []  # the report's notices say why
    if not paths:
        return []
    shown, design = paths[:MOST_ROWS], paths[0].design
    caption = (
        "Difference of validation accuracy to the row without a lambda: mean over the first n seeds, with the interval "
        f"that holds at all looks at once, for all {design.comparisons} rows together in 95 % of such sweeps. Pale "
        f"dots are single seeds, each at its place. Dashed: 0, and ±{100 * design.smallest:g} points, within which an "
        "interval ends a row as smaller. Intervals that leave a panel are cut at its edge."
        + (f" The first {MOST_ROWS} of {len(paths)} rows." if len(paths) > MOST_ROWS else "")
    )
    panels = [_panel(path) for path in shown]
    return [Figure("seeds", "Seeds until decided", caption, panels, columns=min(2, len(panels)))]


def _panel(path: SeedPath) -> Panel:
    """In points. What is shown reaches from the last interval, the means, 0 and the smallest difference as far again on
    either side: the first intervals are often many times as wide."""
    last = path.looks[-1]
    means = [100 * look.mean for look in path.looks]
    smallest = 100 * path.design.smallest
    ends = [100 * end for end in (last.low, last.high) if end is not None]
    kept = [*means, *ends, -smallest, smallest]
    bottom, top = min(kept), max(kept)
    bottom, top = bottom - (top - bottom) / 2, top + (top - bottom) / 2
    low, high = (
        [mean if end is None else min(max(100 * end, bottom), top) for mean, end in zip(means, side, strict=True)]
        for side in ([look.low for look in path.looks], [look.high for look in path.looks])
    )
    dots = [(n, min(max(100 * gap, bottom), top)) for n, gap in enumerate(path.differences[: last.n], start=1)]
    series = Series("difference", [look.n for look in path.looks], means, low, high, dots, markers=True)
    ticks = [(float(n), str(n)) for n in range(1, last.n + 1)]
    levels = [(0.0, path.baseline), *([(smallest, ""), (-smallest, "")] if smallest else [])]
    title = f"{row_label(path.result)}: {path.verdict.partition(':')[0]}"
    return Panel(title, [series], "seeds", "difference (points)", x_ticks=ticks, levels=levels)
