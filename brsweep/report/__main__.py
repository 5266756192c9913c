"""The command: `python -m brsweep.report runs/<sweep> [runs/<another> ...]`."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from brsweep.errors import BrsweepError
from brsweep.memory import lack_of_memory_in_words
from brsweep.output import reader_may_leave
from brsweep.runs.words import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with a line for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        with lack_of_memory_in_words():
            if options.compare:
                from brsweep.report.compare import compare

                print(compare(*options.compare))
                if options.out is None:
                    return 0
            from brsweep.report.write import write_comparison, write_report

            if options.compare:
                path = write_comparison(*options.compare, options.out)
            else:
                path = write_report(options.sweeps, options.out or default_place(options.sweeps))
    except BrsweepError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    print(f"report in {printable(str(path))}")
    if options.open:
        webbrowser.open(path.resolve().as_uri())
    return 0


def default_place(sweeps: Sequence[Path]) -> Path:
    """<sweep>/report for one sweep, report-<name>-<name> beside the first for several."""
    if len(sweeps) == 1:
        return sweeps[0] / "report"
    return sweeps[0].resolve().parent / "-".join(["report", *(sweep.resolve().name for sweep in sweeps)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m brsweep.report",
        description="Tables (CSV, Markdown, LaTeX), all runs and all epochs (CSV), figures (PNG, PDF) and one HTML "
        "page of finished, running or broken sweeps; or two runs side by side.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("sweeps", nargs="*", type=Path, default=[], help="sweep folders, such as runs/default")
    what.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), 
                      help="two run folders: what differs; with --out their curves and layers, too")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for the report (default: <sweep>/report)")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    return parser


if __name__ == "__main__":
    with reader_may_leave():
        sys.exit(main())
