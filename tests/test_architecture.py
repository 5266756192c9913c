"""The rooms of the design, read off the source: who imports whom, what lies where, how long things are."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "brsweep"
MODULES = sorted(PACKAGE.rglob("*.py"))

BELOW = {
    "errors": set(),
    "torchvision_import": set(),
    "arguments": {"errors"},
    "targets": {"errors", "torchvision_import", "arguments"},
    "kernels": {"errors"},
    "quant": {"errors", "kernels"},
    "regularizers": {"errors", "kernels", "quant"},
    "memory": {"errors"},
    "files": set(),
    "secrets": set(),
    "output": set(),
    "tracking": {"errors", "files", "secrets", "output", "quant"},
    "models": {"errors", "torchvision_import"},
    "data": {"errors", "files", "torchvision_import"},
}
BELOW["training"] = BELOW["tracking"] | BELOW["data"] | {"kernels", "regularizers", "tracking", "models", "data"}
BELOW["training"] -= {"torchvision_import"}
BELOW["stages"] = BELOW["training"] | {"training", "targets", "arguments"}
BELOW["runs"] = BELOW["stages"] | {"stages"}
BELOW["sweep"] = BELOW["runs"] | {"runs", "memory"}
BELOW["report"] = BELOW["sweep"] | {"sweep"}
BELOW["export"] = BELOW["report"] | {"report"}
BELOW["config"] = BELOW["sweep"] | {"sweep"}
BELOW["search"] = BELOW["config"] | {"config"}
BELOW["train"] = BELOW["search"] | {"report"}
"""Room -> the rooms that it may import, beside itself."""

TORCHLESS = (
    "tracking",
    "runs",
    "sweep",
    "config",
    "stages/plan",
    "stages/signature",
    "stages/store",
    "stages/source",
    "targets",
    "arguments",
    "errors",
    "output",
)
TORCHLESS += tuple(f"search/{name}" for name in ("__main__", "settings", "space", "study", "loop"))
TORCHLESS += ("report",)
TORCHLESS += tuple(f"data/{name}" for name in ("synthetic", "digits", "downloads", "image_folder", "images"))
TORCHLESS += ("data/split", "data/limit")
HEAVY = {"torch", "torchvision", "numba", "wandb", "sklearn", "rich", "PIL"}

LONG_FUNCTIONS = {"quant/convert.py:quantize_model": 65}  # the public signature and its documentation are half of it


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """The modules that a file imports; at_import: only those that importing it imports."""
    tree = ast.parse(path.read_text())
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if at_import and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_downwards(path):
    room = room_of(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("brsweep.")}
    assert room == "__init__" or used <= BELOW[room] | {room}


def test_only_the_border_imports_hydra():
    found = {room_of(p) for p in MODULES if {"hydra", "omegaconf"} & {n.split(".")[0] for n in imports(p)}}
    assert found == {"config", "train", "search"}


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith(TORCHLESS)], ids=name_of)
def test_planning_imports_nothing_heavy(path):
    assert not HEAVY & {name.split(".")[0] for name in imports(path, at_import=True)}


def test_the_torchless_list_names_files_that_exist():
    for start in TORCHLESS:
        assert any(name_of(p).startswith(start) for p in MODULES), start


def test_no_room_for_odds_and_ends():
    names = {part.removesuffix(".py") for p in MODULES for part in p.relative_to(PACKAGE).parts}
    assert not names & {"utils", "util", "helpers", "helper", "common", "core", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length < LONG_FUNCTIONS.get(f"{name_of(path)}:{node.name}", 50), node.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_powers_of_two_of_bits_live_in_the_grid_alone(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Pow, ast.LShift)):
            base, exponent = node.left, ast.unparse(node.right)
            powers = isinstance(base, ast.Constant) and base.value in (1, 2)
            found += [ast.unparse(node)] if powers and re.search(r"bits\b", exponent) else []
    assert bool(found) == (name_of(path) == "quant/grid.py"), found


def test_the_step_and_the_penalties_never_wait_for_the_device():
    files = [PACKAGE / "training/step.py", *(PACKAGE / "regularizers").glob("*.py")]
    assert len(files) > 3
    assert not [name_of(p) for p in files if ".item()" in p.read_text()]


def test_tracked_files_hold_no_notes_and_no_machine_paths():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    paths = [
        ROOT / name
        for name in listed.stdout.split("\0")
        if name and Path(name) != Path("tests") / "test_architecture.py"
    ]
    unwanted = re.compile(r"\b(?:TODO|FIXME|XXX)\b|(?<![\w.$}/])/(?:work|root|tmp/w)(?:/|\b)")
    found = []
    for path in paths:
        try:
            text = path.read_text()
        except (UnicodeDecodeError, OSError):
            continue
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in unwanted.finditer(text)]
    assert not found
