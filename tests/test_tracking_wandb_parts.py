"""W&B's mode, decided by keys, and the record of what it was sent: both without W&B."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

from brsweep.tracking.wandb_session import mode_arguments
from brsweep.tracking.weights_and_biases import OnRecord, Sent

KEY = "f00dbeef" * 5


def test_a_key_is_found_in_each_of_its_places(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = SimpleNamespace(api_key=None, base_url="https://wandb.example")
    offline = {"mode": "offline"}
    assert mode_arguments(settings) == offline
    for machine, expected in (("wandb.example", {}), ("other.example", offline)):
        (tmp_path / ".netrc").write_text(f"machine {machine}\n  login user\n  password {KEY}\n")
        assert mode_arguments(settings) == expected
    (tmp_path / ".netrc").write_text("machine wandb.example nonsense")
    assert mode_arguments(settings) == offline
    (tmp_path / ".netrc").unlink()
    settings.api_key = KEY
    assert mode_arguments(settings) == {}
    settings.api_key = None
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert mode_arguments(settings) == {}


def note(folder, **changes):
    (folder / "wandb" / "offline-run-1-id1").mkdir(parents=True, exist_ok=True)
    (folder / "wandb" / "offline-run-1-id1" / "run-id1.wandb").touch()
    told = {"attempt": "id1", "id": "id1", "epochs_sent": 3, "mode": "offline", "status": None}
    (folder / "wandb.json").write_text(json.dumps(told | changes))


def test_what_was_sent_is_believed_only_with_its_files_and_its_id(tmp_path):
    def recorded():
        found = Sent(tmp_path, "id1", 1.0).on_record()
        assert found.run_id == "id1"
        return found.epochs

    assert recorded() == 0
    note(tmp_path)
    assert recorded() == 3
    for damage in ({"attempt": "id2"}, {"epochs_sent": None}, {"epochs_sent": "many"}, {"id": None}):
        note(tmp_path, **damage)
        assert recorded() == 0
    for content in ("", '{"id": "id1"}', "[1]", '{"id": "id1", "epochs_s'):
        (tmp_path / "wandb.json").write_text(content)
        assert recorded() == 0
    note(tmp_path)
    (tmp_path / "wandb" / "offline-run-1-id1" / "run-id1.wandb").unlink()
    assert recorded() == 0


def test_an_agents_run_keeps_its_id_over_a_resume_and_not_over_a_new_attempt(tmp_path):
    steps = Sent(tmp_path, "id1", 1.0)
    steps.open("agents", "online", 2)
    steps.close("failed")
    assert Sent(tmp_path, "id1", 1.0).on_record() == OnRecord("agents", 2, "online", "failed")
    assert Sent(tmp_path, "id2", 1.0).on_record() == OnRecord("id2")


def test_an_epoch_counts_as_sent_once_it_has_settled(tmp_path, monkeypatch):
    def on_file():
        return json.loads((tmp_path / "wandb.json").read_text())["epochs_sent"]

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    steps = Sent(tmp_path, "id1", settle_s=4.0)
    steps.open("id1", "offline", 2)
    seen = []
    for step, clock.now in ((3, 0.0), (4, 3.0), (5, 5.0), (6, 8.0), (7, 20.0)):
        steps.add(step)
        seen.append((steps.last, on_file()))
    assert seen == [(3, 2), (4, 2), (5, 3), (6, 4), (7, 6)]
    steps.close("finished")
    assert on_file() == 7
