"""A network's files in one folder: made and checked beside it, then moved into their places; all of them or none.

    network.onnx, onnx.json                the QDQ form (`qdq.py`)
    codes.safetensors, codes.json          packed integers (`codes.py`)
    network.pt2, torch.json                a program of torch.export in plain operators

Each JSON file is the record of its format: the run, the files' sizes, what each layer costs, and what the check found.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from brsweep.errors import BrsweepError
from brsweep.export.check import BOUND, TestImages, check_onnx, check_torch, test_images
from brsweep.export.codes import check_codes, packed
from brsweep.export.costs import costs, table
from brsweep.export.levels import Levels, levels_of
from brsweep.export.load import Network
from brsweep.export.plain import exported, plain_network
from brsweep.export.program import Program
from brsweep.export.qdq import PLAIN, Form, to_onnx

ONNX, CODES, TORCH = FORMATS = ("onnx", "codes", "torch")
FILES = {ONNX: "network.onnx", CODES: "codes.safetensors", TORCH: "network.pt2"}
CHECKED = 512
VERSION = 1


def export(
    network: Network,
    to: Path,
    formats: Sequence[str] = (ONNX,),
    *,
    form: Form = PLAIN,
    check: int = CHECKED,
    bound: float = BOUND,
    force: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Write the network into folder `to`; format -> its record.

    check: how many test images to compare on; 0 for none. bound: the largest share of a site's codes that may differ.
    force: replace files that are there. say: told what the check found, line by line.

    Raises `BrsweepError`, and writes nothing, for files that are there or a full disk; and, when the other formats are
    written, for each that can't hold the network (named), whose check is beyond its bound or whose package is missing.
    """
    to = Path(to)
    _refuse_existing(to, formats, force)
    levels = levels_of(network)
    images = test_images(network, check) if check else None
    shared = {
        "version": VERSION,
        "run": f"{network.record['sweep']}/{network.record['name']}",
        "epoch": network.which,
        "reestimated": network.reestimated,
        "images": network.record["images"],
        **table(costs(Program(network, levels))),
    }
    contents, records, refused = {}, {}, {}
    for name in formats:
        try:
            content, about = MAKERS[name](network, levels, form, images, bound, say)
        except BrsweepError as error:
            refused[name] = str(error)
            continue
        contents[FILES[name]] = content
        records[name] = {"format": name, **shared, "files": {FILES[name]: len(content)}, **about}
        contents[f"{name}.json"] = (json.dumps(records[name], indent=1) + "\n").encode()
    if contents:
        _publish(to, contents)
    if refused:
        written = f" (written, as asked: {', '.join(records)})" if records else ""
        raise BrsweepError("; ".join(refused.values()) + written)
    return records


def _onnx(
    network: Network,
    levels: Mapping[tuple[str, str], Levels],
    form: Form,
    images: TestImages | None,
    bound: float,
    say: Callable[[str], None],
) -> tuple[bytes, dict[str, Any]]:
    found = to_onnx(network, levels, form)
    about: dict[str, Any] = {
        "fold": form.fold, "weight_type": form.weights, "pixels": form.pixels,
        "folded": list(found.folded), "kept": list(found.kept), "inexact": list(found.inexact), "check": None,
    }  # fmt: skip
    if images is not None:
        checks = check_onnx(network, found, images)
        about["check"] = {level: check.record() for level, check in checks.items()}
        for level, check in checks.items():
            say(f"onnx, ONNX Runtime's optimization {level}: {check.line()}")
        worst = max(checks, key=lambda level: checks[level].worst)
        _refuse_beyond(checks[worst].worst, bound, f"onnx, optimization {worst}", checks[worst].line())
    return found.model.SerializeToString(), about


def _codes(
    network: Network,
    levels: Mapping[tuple[str, str], Levels],
    form: Form,
    images: TestImages | None,
    bound: float,
    say: Callable[[str], None],
) -> tuple[bytes, dict[str, Any]]:
    content, meaning = packed(network, levels)
    differing = check_codes(content, meaning, levels)
    say(f"codes: {differing} of the weights' codes read back differ")
    _refuse_beyond(float(differing), 0.0, "codes", f"{differing} codes differ")
    return content, meaning | {"check": {"differing": differing}}


def _torch(
    network: Network,
    levels: Mapping[tuple[str, str], Levels],
    form: Form,
    images: TestImages | None,
    bound: float,
    say: Callable[[str], None],
) -> tuple[bytes, dict[str, Any]]:
    program = exported(plain_network(network, levels), network)
    about = json.dumps(network.record["images"])
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its deprecated parts
        torch.export.save(program, buffer, extra_files={"images.json": about})
        check = None if images is None else check_torch(network, buffer.getvalue(), images)
    if check is not None:
        say(f"torch: {check.line()}")
        _refuse_beyond(check.worst, bound, "torch", check.line())
    return buffer.getvalue(), {"check": check and check.record()}


MAKERS = {ONNX: _onnx, CODES: _codes, TORCH: _torch}


def _refuse_beyond(found: float, bound: float, where: str, line: str) -> None:
    if not found <= bound:
        raise BrsweepError(
            f"{where}: not the trained network: {line}; beyond the bound of {bound:g}, so it is not written "
            f"(--bound SHARE sets another, --check 0 leaves the check out)"
        )


def _refuse_existing(to: Path, formats: Sequence[str], force: bool) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise BrsweepError(f"format={', '.join(unknown) or 'none'}: choose of {', '.join(FORMATS)}")
    if to.exists() and not to.is_dir():
        raise BrsweepError(f"{to}: a file; give a folder")
    for name in formats:
        for file in (FILES[name], f"{name}.json"):
            if (to / file).exists() and not force:
                raise BrsweepError(f"{to / file}: exists; --force replaces it, --to FOLDER writes elsewhere")


def _publish(to: Path, contents: Mapping[str, bytes]) -> None:
    """The files into their places; on a full disk none of them."""
    made = [path for path in (to, *to.parents) if not path.exists()]
    try:
        to.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to, prefix=".part-") as part:
            for name, content in contents.items():
                (Path(part) / name).write_bytes(content)
            for name in contents:
                os.replace(Path(part) / name, to / name)
    except OSError as error:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        why = error.strerror
        raise BrsweepError(f"{to}: can't be written ({why}); free the disk or choose another folder") from None
