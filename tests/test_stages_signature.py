"""What code a stage's signature holds: equal under every Python, of what the stage uses, with all that it imports."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import small_runs
from stage_configs import ALL, BR, CONFIG, NONE, WARMUP, changed

from brsweep.errors import BrsweepError
from brsweep.runs.run import Run
from brsweep.stages import signature
from brsweep.stages.plan import plan, run_code
from brsweep.stages.signature import core_digest, stage_code, syntax

ROOT = Path(__file__).parents[1]


def forget() -> None:
    """As a new process: nothing read."""
    for value in vars(signature).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.fixture(autouse=True)
def nothing_read():
    forget()
    yield
    forget()


# --- a file's syntax -------------------------------------------------------------------------------------------------

SOURCE = '''\
"""Prose."""
from __future__ import annotations
import os, sys as system; from math import (pi,
    tau)
@property
@staticmethod
def größe(a: int, /, b: list[str] | None = None, *c: float, d=..., **e) -> dict[str, int]:
    "Prose."
    total = a + \\
        1; more = 1_000, 0xFF, 1e3, 2j, b"\\x00", r"\\d", u"u" "v"
    if (n := len(more)) > 1: pass
    else:
        "Prose."
    plain = f"" f"{a}" "b" rf"\\{a!r}" F'{a=}' f"{a = !s:>{n}}" f"{{}}" f"{a:}" f"{a:{n}}" f"{a:{n}.{n}f}" f"{a:%Y-{n}}"
    lines = f"""{
        a
    } and {b["key"]} {'quoted "' + "'"!a:>{'1' + "0"}} \\N{BULLET} é
    """
    async def inner():
        async with a as f, b: yield [x async for x in f if (await x)]
    match more:
        case [1, *rest] | {"k": rest, **others} if rest: return lambda *, x=1: x
        case str(y, z=2) as w: del w
        case -1 | None | "s" | a.b: raise ValueError from None
        case _: global größe
    try: assert n, f"{n}"
    except* (OSError, ValueError) as error: print(*more, sep="", **e)
    finally: n = a if b else not a @ b ** -c[1:, ::2, ...]
    return {**e, "k": {*more}, größe: [*more]}, 'it''s'
class \U0001d400(dict, metaclass=type): x: int; y: int = 1
'''
DIGEST = "b7c314617a796034"


def digest_of(text: str) -> str:
    return hashlib.sha256(syntax(ast.parse(text)).encode()).hexdigest()[:16]


def interpreters() -> list[str]:
    """Those of other versions that run, of the path and of a pyenv behind it."""
    found = {name: shutil.which(name) for name in ("python3.11", "python3.12", "python3.13", "python3.14")}
    versions = {name: [path] for name, path in found.items() if path}
    for name, paths in versions.items():
        number = name.removeprefix("python")
        paths += map(str, sorted(Path(paths[0]).parents[1].glob(f"versions/{number}*/bin/{name}")))
    running = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [
        next(filter(_runs, paths)) for name, paths in versions.items() if name != running and any(map(_runs, paths))
    ]


def _runs(path: str) -> bool:
    return subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


def test_a_source_has_one_digest():
    """Under every Python: where this fails under a new one alone, `syntax` writes something that it has changed."""
    assert digest_of(SOURCE) == DIGEST


def test_pythons_agree_on_every_file(tmp_path):
    others = interpreters()
    if not others:
        pytest.skip("one Python is installed")
    (tmp_path / "source.py").write_text(SOURCE)
    files = [tmp_path / "source.py", *(f for room in ("brsweep", "tests") for f in sorted((ROOT / room).rglob("*.py")))]
    code = (
        "import ast, hashlib, json, pathlib, sys; from brsweep.stages.signature import syntax\n"
        "texts = [syntax(ast.parse(pathlib.Path(name).read_bytes())) for name in sys.argv[1:]]\n"
        "print(json.dumps([hashlib.sha256(text.encode()).hexdigest() for text in texts]))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    told = {}
    for python in (sys.executable, *others):
        command = [python, "-W", "ignore", "-c", code, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        told[python] = dict(zip(map(str, files), json.loads(done.stdout), strict=True))
    first = told[sys.executable]
    assert {
        python: [n for n in first if digests[n] != first[n]] for python, digests in told.items() if digests != first
    } == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1", "# why\na = 1  # because\n\n"),
        ("a = 1", '"""A head."""\na = 1'),
        ("a = 1; b = 2", "a = 1\nb = 2"),
        ("def f():\n  return 1", 'def f():\n    """Prose."""\n\n    return 1\n'),
        ("def f():\n  'Prose.'", "def f(): pass"),
        ("class A:\n  'Prose.'\n  x = 1\n  'Of x.'", "class A:\n  x = 1"),
        ("if a:\n  'Prose.'\n  f()", "if a: f()"),
        ("f(a, b)", "f(\n    a,\n    b,\n)"),
        ("a = b + c", "a = (\n    b\n    + c\n)"),
        ("a = 'x'", 'a = u"x"'),
        ("a = 'xy'", "a = ('x'\n 'y')"),
        ("a = 0xFF", "a = 255"),
    ],
)
def test_prose_and_layout_do_not_count(one, other):
    assert digest_of(one) == digest_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1", "a = 2"), ("a = 1", "a = 1.0"), ("a = 1", "a = True"), ("a = 'x'", "a = b'x'"),
        ("a = 'x'", "a = f'x'"),
        ("a = ''", "a = 'b'"), ("a = (b)", "a = (b,)"), ("a = [b]", "a = [[b]]"), ("f('a,b')", "f('a', 'b')"),
        ("f(a)", "f(*a)"), ("if a:\n  b\n  c", "if a:\n  b\nc"), ("a = None", "a = ..."), ("f(a=b)", "f(b, a)"),
        ("f'{a}'", "f'{a!r}'"), ("f'{a:>2}'", "f'{a:<2}'"), ("f'{a}b'", "f'{a}'"), ("[a, b]", "(a, b)"),
        ("a - b", "b - a"),
        ("def f(): return", "def f(): yield"), ("def f(a, /): 0", "def f(a): 0"), ("{**a, 'b': 1}", "{'b': 1, **a}"),
        ("from a import b", "from .a import b"), ("x: int", "x: str"), ("del a", "a"), ("@a\ndef f(): 0", "def f(): 0"),
    ],
)  # fmt: skip
def test_what_a_program_does_counts(one, other):
    assert digest_of(one) != digest_of(other)


# --- of brsweep itself -----------------------------------------------------------------------------------------------

PLAN = (
    "import json, sys\n"
    "from brsweep.stages.plan import plan, run_code\n"
    "from brsweep.stages.signature import core_digest\n"
    "config = json.load(sys.stdin)\n"
    "stages = {stage.name: stage.signature for stage in plan(config, 'made-up-1')}\n"
    "print(json.dumps([stages, run_code(config), core_digest()]))"
)


def planned(folder: Path, config=CONFIG) -> tuple[dict[str, str], str, str]:
    """Signatures, the run's code and the core's digest by the package in `folder`."""
    command = [sys.executable, "-c", PLAN]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=json.dumps(config), capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


@pytest.fixture(scope="module")
def untouched():
    return planned(ROOT)


@pytest.fixture
def package(tmp_path):
    """A copy of the package to edit."""
    shutil.copytree(ROOT / "brsweep", tmp_path / "brsweep", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "brsweep"


def stages_that_differ(one, other) -> set[str]:
    return {name for name in one[0] if one[0][name] != other[0][name]}


QAT = {WARMUP, BR}


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("training/schedule.py", "0.5 + 0.5 *", "0.5 + 0.25 *", ALL),
        ("stages/run.py", "config = setup.config", "config = dict(setup.config)", ALL),
        ("stages/setup.py", "PROBE_IMAGES = 256", "PROBE_IMAGES = 128", ALL),
        ("data/split.py", "import numpy as np", "import numpy as np, math", ALL),
        ("models/build.py", "import torch", "import torch, math", ALL),
        ("quant/places.py", "import copy", "import copy, math", ALL),
        ("models/tiny.py", "(2 * width, 1, 2)", "(2 * width, 1, 1)", ALL),
        ("models/resnet.py", "import torch", "import math, torch", ALL),
        ("models/vgg.py", "import", "import math\nimport", NONE),
        ("data/synthetic.py", "DARKEST, BRIGHTEST = 64", "DARKEST, BRIGHTEST = 65", ALL),
        ("data/digits.py", "import numpy", "import math, numpy", NONE),
        ("kernels/op.py", "2.0**-20", "2.0**-21", QAT),
        ("kernels/cpu_loops.py", "import numpy", "import math, numpy", QAT),
        ("quant/calibration.py", "import torch", "import math, torch", QAT),
        ("quant/sites.py", "ALL_VALUES", "ALL_VALUES, COUNT", QAT),
        ("quant/lsq.py", "(2 * magnitude", "(3 * magnitude", QAT),
        ("regularizers/bin.py", "clamp(min=1)", "clamp(min=2)", {BR}),
        ("regularizers/br.py", "import torch", "import math, torch", {BR}),
        ("regularizers/regularizer.py", "import math", "import cmath, math", {BR}),
        ("stages/collapse.py", "COLLAPSED_BELOW = 0.5", "COLLAPSED_BELOW = 0.4", NONE),
        ("errors.py", "(ValueError)", "(RuntimeError)", NONE),
    ],
)
def test_an_edit_reaches_the_stages_that_run_it(package, untouched, file, old, new, stages):
    path = package / file
    text = path.read_text()
    rest = text.partition("from __future__ import annotations\n")[2] or text
    assert old in rest
    path.write_text(text.removesuffix(rest) + rest.replace(old, new, 1))
    edited = planned(package.parent)
    assert stages_that_differ(edited, untouched) == stages
    assert (edited[1] != untouched[1]) == bool(stages)


def test_a_regularizer_that_is_off_does_not_count(package):
    off = changed(reg__lambda_weight=0.0, reg__lambda_act=0.0)
    before = planned(package.parent, off)
    with open(package / "regularizers" / "br.py", "a") as file:
        file.write("MORE = 1\n")
    assert planned(package.parent, off) == before


@pytest.mark.parametrize(
    ("room", "stages"),
    [("training", ALL), ("kernels", QAT), ("models", NONE), ("data", NONE), ("quant", NONE), ("regularizers", NONE),
     ("sweep", NONE), ("tracking", NONE)],
)  # fmt: skip
def test_a_new_file_counts_in_the_core_alone(package, untouched, room, stages):
    """A new quantizer, regularizer, model or data set leaves the others' stages in the store."""
    (package / room / "more.py").write_text("A = 1\n")
    edited = planned(package.parent)
    assert stages_that_differ(edited, untouched) == stages and (edited[2] != untouched[2]) == bool(stages)


def test_prose_and_layout_of_every_file_do_not_count(package, untouched):
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        del tree.body[: ast.get_docstring(tree) is not None]
        path.write_text(f"""'Another head.'\n# and a comment\n{ast.unparse(tree)}\n\n'the end'\n""")
    assert planned(package.parent) == untouched


def test_every_declared_file_is_there_and_parts_are_not_the_core():
    for kind in signature.CORES:
        files = signature.core_files(kind)
        assert all(path.is_file() for path in files.values())
        assert not {"brsweep.quant.lsq", "brsweep.regularizers.br", "brsweep.models.tiny"} & files.keys()
    assert signature.core_files("float").items() <= signature.core_files("quantized").items()


def test_the_core_has_no_parts():
    code = stage_code("quantized", {})
    assert code["parts"] == {} and core_digest() == signature.digest(code)
    assert {"torch", "numpy", "numba"} <= code["versions"].keys() and "brsweep" not in code["versions"]
    assert stage_code("float", {})["versions"].keys() == {"torch", "numpy"}


CAN_NOT_CHANGE_RESULTS = (
    "errors", "targets", "config", "tracking", "runs", "sweep", "torchvision_import", "stages.plan", "stages.signature",
    "stages.store", "stages.preflight", "stages.fitting", "stages.trial", "stages.determinism", "stages.collapse",
    "files", "secrets", "arguments",
)  # fmt: skip


def test_every_module_of_a_training_is_covered(tmp_path):
    """The declaration of the core against what a process that trains has imported."""
    code = (
        "import json, sys; sys.path.insert(0, 'tests'); from pathlib import Path; import small_runs\n"
        f"small_runs.train('schedule.qat_epochs=3', 'quant.clip_value=6', tmp_path=Path({str(tmp_path)!r}))\n"
        "found = {n: m.__file__ for n, m in sys.modules.items() if n.startswith('brsweep.')}\n"
        "print(json.dumps(found), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    loaded = json.loads(done.stderr.splitlines()[-1])
    config = small_runs.config(tmp_path=tmp_path)
    covered = dict(signature.core_files("float")) | signature.core_files("quantized")
    for node in (config["model"], config["data"], config["quant"]["quantizer"], config["reg"]):
        covered |= signature.part_files(node["_target_"])
    assert {"brsweep.training.loop", "brsweep.kernels.cpu", "brsweep.quant.lsq"} <= loaded.keys()
    left = {name.removeprefix("brsweep.") for name in loaded if name not in covered}
    known = {name for name in left if any(f"{name}.".startswith(f"{room}.") for room in CAN_NOT_CHANGE_RESULTS)}
    empty = {name for name in left - known if digest_of(Path(loaded[f"brsweep.{name}"]).read_text()) == digest_of("")}
    assert left - known - empty == set()


# --- a user's parts --------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package with a model whose helpers come in by every kind of import."""
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "__init__.py": "",
        "model.py": (
            "import os, torch, sklearn.svm\nimport mine.plain\nimport mine.named as other\n"
            "from mine.source import thing\nfrom mine import submodule\nfrom . import relative\n"
            "from .deep.inner import thing as again\n"
            "from .lazy import LazyThing\nfrom .star import *\nfrom .cycle import back\n"
            "try:\n    import mine.missing\nexcept ImportError: pass\n"
            "def net():\n    from .within import thing\n    from ..beyond import nothing\n"
            "class Net:\n    import mine.attribute\n"
        ),
        "plain.py": "", "named.py": "", "source.py": "from mine.second import thing", "second.py": "thing = 1",
        "submodule.py": "", "relative.py": "", "within.py": "thing = 1", "attribute.py": "",
        "deep/__init__.py": "", "deep/inner.py": "from ..above import thing", "above.py": "thing = 1",
        "lazy/__init__.py": "from importlib import import_module\ndef __getattr__(n): return import_module('.on_use')",
        "lazy/on_use.py": "", "star/__init__.py": "__all__ = ['of_all']", "star/of_all.py": "",
        "cycle.py": "from . import model\nback = 1",
        "beside.py": "", "other_model.py": "", "passed/__init__.py": "def __getattr__(n): return __import__('x')",
        "passed/used.py": "", "passed/not_used.py": "", "namespace/module.py": "",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "mine"


def of(target: str, *allowed: str) -> str:
    forget()
    return stage_code("float", {"model": target}, allowed)["parts"]["model"]


HELPERS = (
    "__init__", "model", "plain", "named", "source", "second", "submodule", "relative", "deep/__init__", "deep/inner",
    "above", "lazy/__init__", "lazy/on_use", "star/__init__", "star/of_all", "cycle", "within", "attribute",
)  # fmt: skip


@pytest.mark.parametrize("name", HELPERS)
def test_a_helper_of_the_same_package_counts(mine, name):
    config = changed(model={"_target_": "mine.model.Net"}, allow_targets=["mine"])
    before = of("mine.model.Net", "mine"), run_code(config), [stage.signature for stage in plan(config, "data")]
    with open(mine / f"{name}.py", "a") as file:
        file.write("\nCHANGED = 1\n")
    after = of("mine.model.Net", "mine"), run_code(config), [stage.signature for stage in plan(config, "data")]
    assert before[0] != after[0] and before[1] != after[1]
    assert all(one != other for one, other in zip(before[2], after[2], strict=True))


def test_the_rest_of_the_package_does_not(mine):
    before = of("mine.model.Net", "mine")
    for name in ("beside.py", "other_model.py", "new.py"):
        (mine / name).write_text("CHANGED = 1\n")
    assert of("mine.model.Net", "mine") == before


def test_prose_of_a_helper_does_not(mine):
    before = of("mine.model.Net", "mine")
    (mine / "second.py").write_text('"""Prose."""\nthing = (  # why\n    1\n)\n')
    assert of("mine.model.Net", "mine") == before


def test_a_lazy_package_on_the_way_is_its_init_alone(mine):
    assert list(signature.part_files("mine.passed.used.Net")) == ["mine.passed.used", "mine.passed", "mine"]
    assert "mine.passed.not_used" in signature.part_files("mine.passed.Net")


def test_a_folder_without_init_and_a_class_in_a_class_are_found(mine):
    assert list(signature.part_files("mine.namespace.module.Net")) == ["mine.namespace.module", "mine"]
    assert of("mine.plain.Outer.make", "mine") == of("mine.plain.Net", "mine")


@pytest.mark.parametrize("how", ["mine.model.Net with consent", "without a version", "of a distribution"])
def test_other_packages(mine, monkeypatch, how):
    """Source counts with consent, and of code that has no version at all; that of a distribution counts by version."""
    other = mine.parent / "others"
    other.mkdir()
    (other / "__init__.py").write_text("")
    (other / "blocks.py").write_text("import scipy.signal\nA = 1\n")
    (mine / "plain.py").write_text("from others.blocks import A\n")
    allowed = ("mine", "others") if "consent" in how else ("mine",)
    if "consent" in how or "distribution" in how:
        real = signature.version
        monkeypatch.setattr(signature, "version", lambda name: "1.2" if name == "others" else real(name))
    before = of("mine.model.Net", *allowed)
    versions = stage_code("float", {"model": "mine.model.Net"}, allowed)["versions"]
    (other / "blocks.py").write_text("import scipy.signal\nA = 2\n")
    assert (of("mine.model.Net", *allowed) == before) == ("distribution" in how)
    assert versions.get("others") == ("1.2" if "distribution" in how else None)
    assert ("scipy" in versions) == ("distribution" not in how) and "os" not in versions and "mine" not in versions


def test_what_a_part_takes_of_brsweep_counts(mine, package, monkeypatch):
    """A quantizer of one's own on LSQ, also by the package's lazy names."""
    (mine / "half.py").write_text("from brsweep.quant.lsq import LSQQuantizer\n")
    (mine / "lazily.py").write_text("from brsweep.quant import LSQQuantizer\n")
    for name in ("half", "lazily"):
        assert "brsweep.quant.lsq" in signature.part_files(f"mine.{name}.Half")
    assert not [n for n in signature.part_files("mine.half.Half") if n.startswith(("brsweep.models", "brsweep.errors"))]


def test_a_package_whose_name_begins_as_torch_does(mine, monkeypatch):
    for name in ("torchmine", "timmy"):
        folder = mine.parent / name
        folder.mkdir()
        (folder / "__init__.py").write_text("A = 1\n")
        before = of(f"{name}.Net", name)
        (folder / "__init__.py").write_text("A = 2\n")
        assert of(f"{name}.Net", name) != before


def test_an_extension_module_counts_by_its_bytes(mine):
    (mine / "plain.py").write_text("from . import fast\n")
    path = mine / f"fast{EXTENSION_SUFFIXES[0]}"
    path.write_bytes(b"\x7fELF 1")
    before = of("mine.model.Net", "mine")
    path.write_bytes(b"\x7fELF 2")
    assert of("mine.model.Net", "mine") != before


def test_a_file_that_is_no_python_counts_by_its_bytes(mine):
    (mine / "lazy" / "template.py").write_text("class {{ name }}:\n")
    before = of("mine.model.Net", "mine")
    (mine / "lazy" / "template.py").write_text("class {{ names }}:\n")
    assert of("mine.model.Net", "mine") != before


def test_a_part_without_source_has_no_identity(mine):
    py_compile.compile(str(mine / "beside.py"), cfile=str(mine / "beside.pyc"))
    (mine / "beside.py").unlink()
    for target in ("no_such_module_here.Part", "Part", "mine.beside.Net", "sys.version"):
        with pytest.raises(BrsweepError, match=r"its source can't be found, so runs that use it have no identity$"):
            of(target, "mine")


def test_planning_runs_none_of_it(mine):
    for path in mine.rglob("*.py"):
        path.write_text(f"{path.read_text()}\nraise SystemExit('ran')\n")
    assert len(signature.part_files("mine.model.Net", ("mine",))) == len(HELPERS)
    assert "mine" not in sys.modules


# --- versions --------------------------------------------------------------------------------------------------------

TORCHVISION = {"model": {"_target_": "torchvision.models.resnet18"}}
CIFAR = {"data": CONFIG["data"] | {"_target_": "brsweep.data.downloads.Cifar10"}}
DIGITS = {"data": CONFIG["data"] | {"_target_": "brsweep.data.digits.Digits"}}
TIMM = {"model": {"_target_": "timm.create_model"}}


@pytest.mark.parametrize(
    ("distribution", "parts", "stages"),
    [
        ("torch", {}, ALL), ("numpy", {}, ALL), ("numba", {}, QAT), ("torchvision", {}, NONE),
        ("torchvision", TORCHVISION, ALL), ("torchvision", CIFAR, ALL), ("timm", TIMM, ALL),
        ("timm", TORCHVISION, NONE),
        ("scikit-learn", DIGITS, ALL), ("scikit-learn", {}, NONE), ("rich", {}, NONE),
    ],
)  # fmt: skip
def test_a_version_reaches_the_stages_that_import_it(monkeypatch, distribution, parts, stages):
    config, numbers = changed(**parts), {distribution: "1.0"}
    monkeypatch.setattr(signature, "version", lambda name: numbers.get(name, "7"))

    def told():
        forget()
        return {stage.name: stage.signature for stage in plan(config, "data")}, run_code(config)

    before = told()
    numbers[distribution] = "1.0+cpu"  # another build of the same source
    assert told() == before
    numbers[distribution] = "1.1"
    assert stages_that_differ(told(), before) == stages and (told()[1] != before[1]) == bool(stages)


def test_a_distribution_of_another_name_is_found(mine):
    """By the search, and by the names that are known without one."""
    (mine / "plain.py").write_text("import PIL.Image, dateutil, not_installed\n")
    versions = stage_code("float", {"model": "mine.model.Net"}, ("mine",))["versions"]
    assert versions["PIL"] == signature.version("pillow") and versions["dateutil"] == signature.version(
        "python-dateutil"
    )
    assert versions["sklearn"] == signature.version("scikit-learn") and versions["not_installed"] == "absent"


def test_torch_optimizers_are_no_part():
    roles = {"model": "brsweep.models.tiny.tiny", "optimizer": "torch.optim.SGD"}
    assert stage_code("float", roles)["parts"].keys() == {"model"}


def test_a_run_is_planned_under_its_code(tmp_path):
    run = Run.of(small_runs.config(tmp_path=tmp_path))
    assert run.code == run_code(run.config)
    assert [stage.spec["code"]["parts"].keys() for stage in run.stages] == [
        {"model", "data"},
        {"model", "data", "quantizer"},
        {"model", "data", "quantizer", "regularizer"},
    ]
