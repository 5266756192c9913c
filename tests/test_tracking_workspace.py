"""The dashboard's serialised form: what would be saved, without a key and without a server."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # of wandb-workspaces

from brsweep.tracking import workspace  # noqa: E402


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def view(tmp_path) -> dict:
    assert workspace.main(["it's λ", "--entity", "us", "--project", "p", "--json", str(tmp_path / "view.json")]) == 0
    return json.loads((tmp_path / "view.json").read_text())


def spec(view: dict) -> dict:
    return json.loads(view["spec"]) if isinstance(view["spec"], str) else view["spec"]


def panels(view: dict) -> list[dict]:
    return [panel for section in spec(view)["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def test_it_shows_the_runs_of_the_sweep_alone(view):
    assert (view["entity"], view["project"], view["displayName"]) == ("us", "p", "BR: it's λ")
    [runs] = spec(view)["section"]["runSets"]
    [shown] = runs["filters"]["filters"]
    assert (shown["key"], shown["op"], shown["value"]) == ({"section": "run", "name": "group"}, "=", "it's λ")


def test_each_section_answers_its_question(view):
    sections = spec(view)["section"]["panelBankConfig"]["sections"]
    kinds = {s["name"]: [panel["viewType"] for panel in s["panels"]] for s in sections}
    line, bar = "Run History Line Plot", "Bar Chart"
    assert kinds == {
        "Lambda against accuracy": ["Scatter Plot"] * 6,
        "Bits": [bar] * 4 + [line] * 2,
        "Alpha control": [bar] * 2 + [line] * 4,
        "Bin Regularization": [line] * 10,
        "Stages": [line] * 6,
        "All settings at once": ["Parallel Coordinates Plot"],
        "Inside the network": ["Media Browser"] * 5,
    }
    assert len(panels(view)) == 40  # far from a panel per layer
    first = panels(view)[0]["config"]
    assert (first["xAxis"], first["yAxis"]) == ("config:reg.value.lambda_weight", "summary:val_accuracy")
    curves = [panel["config"] for panel in panels(view) if panel["viewType"] == line]
    assert all(c["xAxis"] == c["metrics"][0].split("/")[0] + "/epoch" for c in curves)


def test_without_a_key_nothing_is_saved_and_one_line_says_why(capsys):
    assert workspace.main(["lambda"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "error: no W&B key, and a dashboard is saved at W&B; `wandb login` first, or write it with --json\n"
    )


def test_with_a_key_it_is_saved_and_its_address_said(monkeypatch, capsys):
    import wandb_workspaces.workspaces as ws

    saved = []
    monkeypatch.setattr(workspace, "will_be_online", lambda: True)
    monkeypatch.setattr(ws.Workspace, "save", lambda self: saved.append(workspace.serialised(self)) or self)
    monkeypatch.setattr(ws.Workspace, "url", "https://wandb.example/us/p?nw=1")
    assert workspace.main(["lambda", "--entity", "us"]) == 0
    assert capsys.readouterr().out == "dashboard of lambda: https://wandb.example/us/p?nw=1\n"
    assert [view["displayName"] for view in saved] == ["BR: lambda"]


def test_a_refusal_and_a_missing_package_are_one_line(monkeypatch, capsys):
    import sys

    import wandb_workspaces.workspaces as ws

    def refuse(self):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(workspace, "will_be_online", lambda: True)
    monkeypatch.setattr(ws.Workspace, "save", refuse)
    assert workspace.main(["lambda", "--entity", "us"]) == 1
    assert capsys.readouterr().err == "error: W&B did not take the dashboard (ConnectionError: no route)\n"
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert workspace.main(["lambda", "--entity", "us"]) == 1
    assert "pip install 'brsweep[dashboards]'" in capsys.readouterr().err
