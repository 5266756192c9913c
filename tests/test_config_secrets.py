"""Keys and passwords: refused in a configuration by the field's name alone, masked in what is echoed or kept."""

from __future__ import annotations

import json

import pytest
from commands import TINY, call

from brsweep.config.secrets import check_secrets
from brsweep.errors import BrsweepError
from brsweep.secrets import masked

KEY = "0123456789abcdef0123456789abcdef01234567"
SECRET = "s3cr3tvalue"
HELD = [
    {"logger": {"api_key": SECRET}}, {"logger": {"wandb_api_key": SECRET}}, {"logger": {"password": 12345678}},
    {"data": {"root": f"https://me:{SECRET}@host/x"}}, {"data": {"root": f"https://{SECRET * 3}@host"}},
    {"data": {"root": f"https://host/x?api_key={SECRET}&y=1"}}, {"pretrained": f"s3://x?X-Amz-Security-Token={SECRET}"},
    {"model": {"hf_token": SECRET}}, {"model": {"name": f"hf_{SECRET}abcdefghij"}}, {"a": [f"ghp_{SECRET}abcdefghij"]},
    {"logger": {"entity": "f" * 40}}, {"logger": {"project": f"my-{KEY}"}}, {"x": {"y": {"client_secret": SECRET}}},
]  # fmt: skip
FREE = [
    {"model": {"revision": "f" * 40}}, {"model": {"token_mixer": "pool", "tokens": None, "num_tokens": 4}},
    {"data": {"root": "https://host/x?size=3"}}, {"seed": 1, "api_key": None, "password": "", "secret": False},
    {"pretrained": "/a/key/epoch=3.ckpt"}, {"sweep_name": "keys-and-tokens"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@pytest.mark.parametrize("config", HELD, ids=str)
def test_a_configuration_with_a_secret_is_refused_without_repeating_it(config):
    with pytest.raises(BrsweepError, match="holds what looks like a key") as refused:
        check_secrets(config)
    assert SECRET not in str(refused.value) and KEY not in str(refused.value)
    assert SECRET not in masked(json.dumps(config)) and KEY not in masked(json.dumps(config))


@pytest.mark.parametrize("config", FREE, ids=str)
def test_what_only_sounds_like_one_is_let_through(config):
    check_secrets(config)
    assert json.loads(masked(json.dumps(config))) == config or "api_key" in config


LINES = [
    f"+logger.api_key={SECRET} seed=1", f"'+logger.api_key={SECRET}' seed=1", f"x={KEY}",
    f"+hydra.job.env_set.A_TOKEN={SECRET}", f"+logger={{api_key: {SECRET}, x: 1}}", f"a=https://me:{SECRET}@host/x",
    f"password='{SECRET} {SECRET}'",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_kept_without_its_secrets(line):
    told = masked(line)
    assert SECRET not in told and KEY not in told and "***" in told
    assert ("seed=1" in told) == ("seed=1" in line)


def test_lines_without_secrets_stay_as_they_are():
    for line in ("logger.api_key: a key or password is no option", "seed=1 tokens=3 monkey=4", "--multirun quant=w2a2"):
        assert masked(line) == line


TYPED = [
    (f"+logger.api_key={SECRET}",), (f"+hydra.job.env_set.WANDB_API_KEY={SECRET}",), (f"seed={KEY}",),
    ("+logger.x=${oc.env:WANDB_API_KEY}",), (f"pretrained='https://me:{SECRET}@host/x'",), (f"quant={KEY}",),
    (f"pretrained=https://me:{SECRET}@host/x",), (f"reg.lamda_act={KEY}",),
    ("--multirun", "seed=1,2", f"+logger.api_key={SECRET}"),
]  # fmt: skip


@pytest.mark.parametrize("typed", TYPED, ids=str)
def test_a_refused_command_shows_and_leaves_none(typed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = call(monkeypatch, capsys, *TINY, "logger=csv", *typed)
    assert said.code == 1 and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert SECRET not in said.err + said.out and KEY not in said.err + said.out
    assert list(tmp_path.iterdir()) == []
