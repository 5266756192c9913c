"""`python -m brsweep.export`: what it writes, what it proves, and one line for what is wrong, with nothing written."""

from __future__ import annotations

import builtins
import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch

import brsweep
from brsweep.errors import BrsweepError
from brsweep.export import write
from brsweep.export.__main__ import main
from brsweep.stages.source import data_source

pytest.importorskip("onnxruntime")
SHORT = ("schedule.float_epochs=1", "schedule.warmup_epochs=1", "schedule.qat_epochs=2")
ALL = ("--format", "onnx", "--format", "codes", "--format", "torch")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    return small_runs.folder(small_runs.train(*SHORT, tmp_path=place))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, in a place of its own."""
    shutil.copytree(trained, tmp_path / "runs" / trained.name)
    return tmp_path / "runs" / trained.name


def call(capsys, *arguments) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def refused(capsys, says: str, *arguments) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 1 and len(err.splitlines()) == 1 and err.startswith("error: ") and says in err, err


def test_all_formats_are_written_checked_and_used_without_brsweep(run, tmp_path, capsys):
    code, out, err = call(capsys, run, "--to", tmp_path / "out", *ALL, "--check", 40)
    assert (code, err) == (0, "")
    folder = tmp_path / "out" / run.name
    files = {"network.onnx", "onnx.json", "codes.safetensors", "codes.json", "network.pt2", "torch.json"}
    assert {path.name for path in folder.iterdir()} == files
    records = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("onnx", "codes", "torch")}
    network = brsweep.load(run, device="cpu")
    for record in records.values():
        assert all((folder / file).stat().st_size == size for file, size in record["files"].items())
        assert record["run"] == f"default/{run.name}" and record["images"]["classes"] == list(network.classes)
        assert record["total"]["bytes"] < record["total"]["bytes_float32"] / 4
    assert list(records["onnx"]["check"]) == ["none", "basic", "extended", "all"]
    for check in records["onnx"]["check"].values():
        assert check["images"] == 40 and check["accuracy_exported"] == check["accuracy_trained"]
        assert check["largest_share"] == 0.0 and check["first"] is None
    assert records["codes"]["check"] == {"differing": 0}
    assert out.count("no code differs") == 4 and "no class differs" in out and str(folder / "network.pt2") in out
    _use_elsewhere(folder, network, tmp_path)


def test_a_run_in_bf16_is_compared_in_float32_and_judged_as_it_was_scored(tmp_path, capsys):
    """What is written computes in float32; by bf16's roundings alone other codes come out."""
    run = small_runs.folder(small_runs.train(*SHORT, "precision=bf16", tmp_path=tmp_path / "runs"))
    code, out, err = call(capsys, run, "--to", tmp_path / "out", *ALL, "--check", 200)
    assert (code, err) == (0, ""), err
    network = brsweep.load(run, device="cpu")
    data = data_source(network.record["config"]).load()
    total = len(data.test_labels)
    chosen = np.arange(min(200, total)) * total // min(200, total)
    scored = float((network.predict(data.test_images[chosen]).numpy() == data.test_labels[chosen]).mean())
    for name in ("onnx", "torch"):
        found = json.loads((tmp_path / "out" / run.name / f"{name}.json").read_text())["check"]
        for check in found.values() if name == "onnx" else [found]:
            assert check["largest_share"] <= 1e-3 and check["accuracy_trained"] == scored
    assert out.count("trained in bf16 ") == 5


def _use_elsewhere(folder: Path, network, tmp_path: Path) -> None:
    """The torch program and the ONNX file in a process that can't import brsweep."""
    images = data_source(network.record["config"]).load().test_images[:20]
    np.save(tmp_path / "values.npy", network.preprocess(images).contiguous().numpy())
    code = (
        "import sys, json, numpy, torch, onnxruntime; sys.modules['brsweep'] = None\n"
        "values, about = numpy.load(sys.argv[2]), {'images.json': ''}\n"
        "program = torch.export.load(sys.argv[1] + '/network.pt2', extra_files=about)\n"
        "assert not [n for n in program.graph.nodes if 'brsweep' in str(n.target)]\n"
        "mine = program.module()(torch.from_numpy(values)).detach().numpy()\n"
        "session = onnxruntime.InferenceSession(sys.argv[1] + '/network.onnx')\n"
        "other = session.run(None, {'images': values})[0]\n"
        "print(json.dumps([mine.tolist(), other.tolist(), json.loads(about['images.json'])['classes']]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, folder, tmp_path / "values.npy"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    mine, other, classes = json.loads(done.stdout)
    torch.set_num_threads(1)
    expected = network.logits(images).numpy()
    assert classes == list(network.classes)
    # float32 sums in another order: codes are equal, the logits' own sums are not
    assert np.allclose(mine, expected, rtol=1e-5, atol=1e-6) and np.allclose(other, expected, rtol=1e-5, atol=1e-6)


def test_the_run_s_own_folder_takes_it_and_nothing_is_replaced_unasked(run, capsys):
    assert call(capsys, run, "--format", "codes", "--check", 0)[0] == 0
    codes = run / "export" / "codes.safetensors"
    before = codes.stat().st_mtime_ns
    refused(capsys, "codes.safetensors: exists; --force replaces it", run, *ALL, "--check", 0)
    assert {path.name for path in (run / "export").iterdir()} == {"codes.safetensors", "codes.json"}
    assert call(capsys, run, "--format", "onnx", "--check", 0)[0] == 0  # another format stands beside it
    (run / "export" / "mine.txt").write_text("kept")
    assert call(capsys, run, "--format", "codes", "--check", 0, "--force", "--which", "last")[0] == 0
    assert codes.stat().st_mtime_ns > before and (run / "export" / "mine.txt").read_text() == "kept"
    record = json.loads((run / "export" / "codes.json").read_text())
    assert record["epoch"] == "last" and "network.onnx" in {path.name for path in (run / "export").iterdir()}


def test_a_format_that_is_refused_takes_no_other_with_it(run, tmp_path, capsys, monkeypatch):
    def beyond(*_):
        raise BrsweepError("onnx: not the trained network")

    monkeypatch.setitem(write.MAKERS, "onnx", beyond)
    says = "onnx: not the trained network (written, as asked: codes, torch)"
    refused(capsys, says, run, "--to", tmp_path / "out", *ALL, "--check", 0)
    files = {"codes.safetensors", "codes.json", "network.pt2", "torch.json"}
    assert {path.name for path in (tmp_path / "out" / run.name).iterdir()} == files
    refused(capsys, "onnx: not the trained network", run, "--to", tmp_path / "none", "--check", 0)
    assert not (tmp_path / "none").exists()


def test_codes_are_read_as_the_docs_say(run, tmp_path, capsys):
    """The reader of docs/export.md, run on the files."""
    assert call(capsys, run, "--to", tmp_path / "out", "--format", "codes", "--check", 0)[0] == 0
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    reader = text.split("```python\n")[1].split("```")[0]
    names = {"folder": tmp_path / "out" / run.name}
    exec(compile(reader, "docs/export.md", "exec"), names)
    network = brsweep.load(run, device="cpu")
    for site in network.conversion.sites:
        if site.kind == "weight":
            layer = network.model.get_submodule(site.name)
            assert np.array_equal(names["levels"][site.name], layer.weight_quantizer(layer.weight).detach().numpy())
    assert len(names["levels"]) == sum(site.kind == "weight" for site in network.conversion.sites)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda f: (f / "result.json").unlink(), "not finished yet"),
        (lambda f: (f / "checkpoints/best.pt").unlink(), "best.pt: no such checkpoint"),
        (lambda f: shutil.rmtree(f), "no such folder"),
    ],
)
def test_a_run_that_is_not_whole(damage, says, run, tmp_path, capsys):
    damage(run)
    refused(capsys, says, run, "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_code(run, tmp_path, capsys):
    from brsweep.runs.folder import RunFolder

    result = json.loads((run / "result.json").read_text())
    del result["digest"]
    RunFolder(run).write_result(result | {"code": "0123"})
    refused(capsys, "finished under other training code", run, "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    code, *_ = call(capsys, run, "--to", tmp_path / "out", "--stale", "keep", "--check", 16)
    assert code == 0


def test_a_layer_that_onnx_has_no_form_for(run, tmp_path, capsys, monkeypatch):
    from brsweep.export import operators

    monkeypatch.delitem(operators.TRANSLATIONS, "pad")
    refused(capsys, "onnx: the operator aten.pad.default in stages.1.0.shortcut", run, "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing, form", [("onnx", "onnx"), ("onnxruntime", "onnx"), ("safetensors", "codes")])
def test_a_package_that_is_not_installed(missing, form, run, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(sys.modules, missing, None)
    refused(
        capsys,
        f"{missing} is not installed: pip install brsweep[export]",
        run,
        "--to",
        tmp_path / "out",
        "--format",
        form,
    )
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(run, tmp_path, capsys, monkeypatch):
    write, written = Path.write_bytes, []

    def full(path, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    arguments = run, "--to", tmp_path / "out", *ALL, "--check", 0
    refused(capsys, "can't be written (No space left on device); free the disk", *arguments)
    assert len(written) == 2 and not (tmp_path / "out").exists()


def test_places_that_hold_something_else(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / run.name).write_text("a file")
    refused(capsys, "a file; give a folder", run, "--to", tmp_path / "out", "--check", 0)
    (tmp_path / "empty").mkdir()
    refused(capsys, "holds no run", tmp_path / "empty")


def test_data_that_is_not_here_or_is_another(run, tmp_path, capsys, monkeypatch):
    from brsweep.data.synthetic import Synthetic

    monkeypatch.setattr(Synthetic, "identity", lambda self: "synthetic-2")
    refused(capsys, "this is synthetic-2 (for the check; --check 0 exports without one)", run, "--to", tmp_path / "out")
    assert call(capsys, run, "--to", tmp_path / "out", "--check", 0)[0] == 0
    assert json.loads((tmp_path / "out" / run.name / "onnx.json").read_text())["check"] is None


# --- a sweep ---------------------------------------------------------------------------------------------------------


def test_of_a_sweep_the_picked_row_of_each_bit_width(tmp_path, capsys):
    """Two bit-widths, two lambdas: the row with the higher validation accuracy of each, and both its seeds."""
    results = [
        small_runs.train(
            *SHORT, "regularizer=br_paper", f"quant={bits}", f"reg.lambda_weight={weight}", "reg.lambda_act=0",
            f"seed={seed}", tmp_path=tmp_path,
        )
        for bits in ("w2a2", "w4a4")
        for weight in (1, 1000)
        for seed in (1, 2)
    ]  # fmt: skip
    rows: dict[tuple, list] = {}
    for result in results:
        key = result["config"]["quant"]["weight_bits"], result["config"]["reg"]["lambda_weight"]
        rows.setdefault(key, []).append(result)
    expected = set()
    for bits in (2, 4):
        mean = {w: sum(r["val_accuracy"] for r in rows[bits, w]) for w in (1, 1000)}
        assert mean[1] != mean[1000]
        expected |= {r["name"] for r in rows[bits, max(mean, key=mean.get)]}
    code, _, err = call(capsys, tmp_path / "default", "--to", tmp_path / "out", "--format", "codes", "--check", 0)
    assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected


def test_a_sweep_without_a_pick(trained, capsys):
    alone = small_runs.train(*SHORT, "regularizer=none", "sweep_name=alone", tmp_path=trained.parents[1])
    refused(capsys, "picks no row; give the folders of runs", small_runs.folder(alone).parent)
