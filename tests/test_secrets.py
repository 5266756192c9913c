"""Keys and passwords are hidden wherever they stand, and nothing else is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brsweep.secrets import masked, names_key
from brsweep.tracking.console import Console
from brsweep.tracking.jsonl import JsonLines, read

KEY = "f00dbeef" * 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@host/path", "https://***@host/path"),
        ("https://token@host/path", "https://***@host/path"),
        ("git+ssh://u:p@ss@host and https://a:b@c", "git+ssh://***@host and https://***@c"),
        ("https://host/x?key=abc&n=1#end", "https://host/x?key=***&n=1#end"),
        ("https://host/x?n=1&X-Amz-Signature=abc", "https://host/x?n=1&X-Amz-Signature=***"),
        ("https://host/x?api_key=a&access_token=b", "https://host/x?api_key=***&access_token=***"),
        ("https://host/x?monkey=1&mail=a@b", "https://host/x?monkey=1&mail=a@b"),
        ("https://host/@scope/name", "https://host/@scope/name"),
        ("a@b, key=1, 1/2@3", "a@b, key=1, 1/2@3"),
    ],
)
def test_of_a_url_the_user_and_the_key_are_hidden_and_the_rest_stays(text, shown):
    assert masked(text) == shown


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "HF_TOKEN", "CLIENT_SECRET", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY", "OTHER_API_KEY"]
)
def test_the_values_of_variables_that_hold_keys_are_hidden(monkeypatch, name):
    monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("PART_TOKEN", KEY[:12])  # the longer one is hidden whole
    assert masked(f"key={KEY}, part={KEY[:12]}.") == "key=***, part=***."
    assert masked({KEY: [1, (KEY, None)], "n": 0.5}) == {"***": [1, ("***", None)], "n": 0.5}


def test_short_values_and_other_variables_hide_nothing(monkeypatch):
    monkeypatch.setenv("X_TOKEN", "true")
    monkeypatch.setenv("TOKENS", "abcdefgh")
    monkeypatch.setenv("EMPTY_SECRET", "")
    assert masked("true abcdefgh") == "true abcdefgh"


@pytest.mark.parametrize("name", ["api_key", "logger.apikey", "wandb-token", "password", "db_passwd", "private_key"])
def test_an_option_that_holds_a_key_is_known_by_its_name(name):
    assert names_key(name) and masked({name: "x"}) == {name: "***"}


@pytest.mark.parametrize("name", ["key", "keys", "monkey", "tokens", "tokenizer", "seed", 3, None])
def test_other_names_are_not(name):
    assert not names_key(name) and masked({name: "x"}) == {name: "x"}


@given(st.recursive(st.none() | st.floats(allow_nan=False) | st.integers() | st.text("abc {}[],.\"'"), st.lists))
def test_what_holds_no_key_stays_as_it_is(value):
    assert masked(value) == value


def test_no_key_is_in_the_console_or_in_the_records(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    console = Console(tmp_path / "console.log")
    for say in (console.say, console.warn, console.banner):
        say(f"{KEY} at https://me:pw@host")
    console.close()
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.append({"note": KEY, "notes": [KEY], "n": 1})
    lines.replace([*read(lines.path), {"url": "https://me:pw@host"}])
    lines.close()
    written = capsys.readouterr().out + "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    assert KEY not in written and "pw" not in written and written.count("***") == 15
    assert read(lines.path) == [{"note": "***", "notes": ["***"], "n": 1}, {"url": "https://***@host"}]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["n"] == 1
