"""The README's promises: its commands work as written, its Python runs, its tree and links exist."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import small_runs
from commands import TINY, call, shell
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked
from brsweep.export.__main__ import main as export_main
from brsweep.search.__main__ import register_search
from brsweep.stages.source import data_source

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
METHODS, SEEDS = ((ROOT / "docs" / name).read_text() for name in ("methods.md", "seeds.md"))


def blocks(kind: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.M | re.S)


def commands(kind: str, text: str = TEXT) -> list[list[str]]:
    lines = [line for block in blocks(kind, text) for line in block.splitlines() if line.strip()]
    return [shlex.split(line) for line in lines]


def test_every_block_has_a_kind_that_a_test_takes():
    kinds = re.findall(r"^```(.+)$", TEXT, flags=re.M)
    listings = {kind for kind in kinds if re.fullmatch(r"(python mine|yaml conf)/\S+", kind)}
    assert set(kinds) - listings == {
        "bash", "bash compose", "bash dry", "bash own", "bash run", "python", "python run", "text", "tree",
    }  # fmt: skip
    assert len(listings) == 8
    assert len(commands("bash")) >= 3 and len(commands("bash compose")) >= 5


COMPOSED = [*commands("bash compose"), *commands("bash compose", METHODS)]


@pytest.mark.parametrize("command", COMPOSED, ids=lambda c: " ".join(c[3:])[:60])
def test_commands_that_need_a_download_compose(command, tmp_path):
    assert command[:2] == ["python", "-m"]
    primary = {"brsweep.train": "config", "brsweep.search": "search"}[command[2]]
    (tmp_path / "conf").mkdir()
    overrides = [o.replace("/path/to/my/conf", str(tmp_path / "conf")) for o in command[3:]]
    register_search()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        cfg = compose(primary, overrides=overrides)
    with open_dict(cfg):
        search = cfg.pop("search", {})
    config = checked(cfg, overrides) | {"search": search}
    for override in overrides:
        key, _, value = override.partition("=")
        if "." in key and not key.startswith("hydra"):
            node = config
            for part in key.split("."):
                node = node[part]
            assert str(node).lower().removesuffix(".0") == value.lower()


PLANNED = [*commands("bash dry"), *commands("bash dry", METHODS), *commands("bash dry", SEEDS)]


@pytest.mark.parametrize("command", PLANNED, ids=lambda c: " ".join(c[3:])[:60])
def test_sweeps_plan_as_written(command, tmp_path, monkeypatch, capsys):
    assert command[:3] == ["python", "-m", "brsweep.train"]
    answer = call(monkeypatch, capsys, *command[3:], f"output_dir={tmp_path}", "hydra.launcher.dry_run=true")
    assert answer.code == 0, answer.err
    assert "epochs to train" in answer.out


@pytest.mark.slow
def test_commands_on_digits_run_as_written(tmp_path):
    environment = os.environ | {"WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
    for command in commands("bash"):
        assert command[0] == "python"
        done = subprocess.run(
            [sys.executable, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    results = list((tmp_path / "runs" / "default").glob("*/result.json"))
    assert len(results) == 3  # lambda_act = 0, 1 and 10: the first two commands are points of the third


@pytest.mark.slow
def test_parts_of_ones_own_run_as_listed(tmp_path):
    """The listings become files, and the commands run in the folder that holds them, with a short schedule."""
    for path, content in re.findall(r"^```(?:python|yaml) (\S+)\n(.*?)^```", TEXT, flags=re.M | re.S):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    short = [o for o in TINY if not o.startswith(("model=", "data="))]
    for command in commands("bash own"):
        assert command[:3] == ["python", "-m", "brsweep.train"]
        answer = shell(tmp_path, *command[3:], *short, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
        assert answer.code == 0, answer.err + answer.out
    results = [json.loads(path.read_text()) for path in (tmp_path / "runs/default").glob("*/result.json")]
    assert {result["config"]["reg"]["_target_"].rpartition(".")[2] for result in results} == {
        "BinRegularization", "Spread",
    }  # fmt: skip
    assert len(results) == 7 and len({result["core"] for result in results}) == 1


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_a_network_is_taken_out_as_written(tmp_path, monkeypatch):
    """The lines on a finished run, whose name stands for RUN, in the folder that holds `runs`."""
    pytest.importorskip("onnxruntime")
    result = small_runs.train(tmp_path=tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    images = data_source(result["config"]).load().test_images
    names = {"images": images}
    exec(compile(blocks("python run")[0].replace("RUN", result["name"]), "README.md", "exec"), names)
    assert names["labels"].shape == (len(images),)
    for command in commands("bash run"):
        assert command[:3] == ["python", "-m", "brsweep.export"]
        assert export_main([word.replace("RUN", result["name"]) for word in command[3:]]) == 0
    exported = {path.name for path in (tmp_path / "runs/default" / result["name"] / "export").iterdir()}
    assert {"network.onnx", "codes.safetensors", "network.pt2"} < exported
    assert (tmp_path / "exported" / result["name"] / "network.onnx").is_file()


def test_the_tree_names_what_is_there():
    lines = blocks("tree")[0].splitlines()
    named = {line.split()[0] for line in lines if line.startswith("    ")}
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "brsweep").iterdir()
        if path.name not in ("__init__.py", "__pycache__")
    }
    assert named == there
    for line in lines:
        assert len(line.split(maxsplit=1)) == 2 or line == "brsweep/", f"no half line for {line.strip()}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_and_pictures_exist(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    assert len(links) >= 3
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_changelog_begins_with_the_version_and_the_licence_is_the_one_that_is_named():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[0] == about["version"]
    text = (ROOT / "LICENSE").read_bytes()
    standard = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text at apache.org
    assert about["license"] == "Apache-2.0" and hashlib.sha256(text).hexdigest() == standard
    assert about["license-files"] == ["LICENSE"]
