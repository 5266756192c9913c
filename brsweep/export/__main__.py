"""The command: `python -m brsweep.export RUN [RUN ...]`, where a RUN is a run's folder or a sweep's."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brsweep.errors import BrsweepError
from brsweep.output import reader_may_leave
from brsweep.runs.folder import CONFIG, RESULT, RunFolder
from brsweep.runs.words import printable

if TYPE_CHECKING:
    from brsweep.export.qdq import Form


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with a line for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        runs = [run for path in options.runs for run in _runs_of(path)]
        from brsweep.export.qdq import Form

        form = Form(options.fold, options.weights, options.pixels)
        for run in dict.fromkeys(runs):
            _export(run, options, form)
    except BrsweepError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _runs_of(path: Path) -> list[Path]:
    """The run itself; of a sweep, those that the report picks."""
    if (path / CONFIG).is_file() or (path / RESULT).is_file():
        return [path]
    from brsweep.report.picked import picked_runs

    return picked_runs(path)


def _export(run: Path, options: argparse.Namespace, form: Form) -> None:
    from brsweep.export.load import load
    from brsweep.export.write import export

    network = load(
        run, options.which, "cpu", reestimated=options.reestimated, stale=options.stale, allow_targets=options.allow
    )
    to = options.to / run.resolve().name if options.to else RunFolder(run).exports
    print(printable(f"{run}: the {options.which} epoch"))
    records = export(
        network, to, dict.fromkeys(options.format or ["onnx"]), form=form, check=options.check, bound=options.bound,
        force=options.force, say=lambda line: print(printable(f"  {line}")),
    )  # fmt: skip
    for record in records.values():
        whole = record["total"]["bytes_float32"]
        for file, size in record["files"].items():
            print(printable(f"  {to / file}: {size:,} bytes; as float32 its parameters alone take {whole:,}"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m brsweep.export",
        description="Write a finished run's network as ONNX, packed codes or a torch program, and check on test images "
        "that it is the trained one. Of a sweep, the rows that its report picks.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a sweep's")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a folder for each run in it (default: <run>/export)")
    formats = ("onnx", "codes", "torch")
    parser.add_argument("--format", action="append", choices=formats, help="may be repeated (default: onnx)")
    parser.add_argument("--which", choices=("best", "last"), default="best", help="which epoch's weights")
    parser.add_argument("--reestimated", action="store_true", help="with batch norm as the run re-estimated it")
    parser.add_argument("--check", type=_count, default=512, metavar="N", help="test images to compare on; 0 for none")
    parser.add_argument("--bound", type=float, default=0.01, help="largest share of a site's codes that may differ")
    parser.add_argument(
        "--fold", choices=("exact", "nearest", "none"), default="exact", help="batch norm into integers"
    )
    parser.add_argument("--weights", choices=("int8", "int4", "int2"), default="int8", help="narrowest type in ONNX")
    parser.add_argument("--pixels", action="store_true", help="the ONNX file takes uint8 images and normalises them")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.add_argument("--stale", choices=("stop", "keep"), default="stop", help="keep: take a run of other code")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="run parts of this package")
    return parser


def _count(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word}: a whole number, 0 or more")
    return int(word)


if __name__ == "__main__":
    with reader_may_leave():
        sys.exit(main())
