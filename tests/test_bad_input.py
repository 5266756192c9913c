"""bad_input.yaml: hundreds of command lines, each with its answer, in one process.

Overrides alone are composed from one configuration, as the points of a grid are; flags, files and sweeps go through
the command's own `main`. Nothing is trained: what gets as far as a run's folder has passed.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from commands import call
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from brsweep.config.compose import CONF_DIR, VERSION_BASE, checked, register
from brsweep.config.grid import Composer
from brsweep.config.hydra_keys import check_typed
from brsweep.config.messages import known_keys, one_line, read_overrides
from brsweep.errors import BrsweepError
from brsweep.runs.folder import RunFolder
from brsweep.runs.run import Run
from brsweep.stages.preflight import check_parts
from brsweep.sweep.plan import SweepPlan

LINES = yaml.safe_load((Path(__file__).parent / "bad_input.yaml").read_text(encoding="utf-8"))
BASE = (
    "logger=none", "model=tiny", "data=synthetic", "device=cpu", "threads=1",
    "schedule.float_epochs=1", "schedule.warmup_epochs=1", "schedule.qat_epochs=2",
)  # fmt: skip
KEY = "0123456789abcdef0123456789abcdef01234567"

GLOBAL = "# @package _global_\n"
FILES = {
    "data/list": b"- 1\n- 2\n",
    "data/empty": b"",
    "data/bytes": bytes(range(256)),
    "data/tag": b"_target_: !!python/object/apply:os.mkdir ['hacked']\n",
    "data/tabs": b"_target_: brsweep.data.digits.Digits\nval_fraction:\t0.1\n",
    "data/latin": "# café\n_target_: brsweep.data.digits.Digits\n".encode("latin-1"),
    "data/twice": b"flip: true\nflip: false\n",
    "data/anchor": b"flip: *nowhere\n",
    "quant/types": b"defaults: [lsq, _self_]\nweight_bits: [2]\n",
    "quant/unknown": b"defaults: [lsq, _self_]\nweight_bit: 2\n",
    "quant/nowhere": b"defaults: [elsewhere, _self_]\n",
    "quant/itself": b"defaults: [itself, _self_]\n",
    "quant/crlf": b"defaults:\r\n  - lsq\r\n  - _self_\r\nweight_bits: 3\r\nact_bits: 3\r\n",
    "quant/mark": b"\xef\xbb\xbfdefaults: [lsq, _self_]\nweight_bits: 3\nact_bits: 3\n",
    "quant/letters": "# Größe, 大きさ\ndefaults: [lsq, _self_]\nweight_bits: 3\nact_bits: 3\n".encode(),
    "experiment/number": b"7\n",
    "experiment/folders": f"{GLOBAL}hydra: {{run: {{dir: x}}}}\n".encode(),
    "experiment/callback": f"{GLOBAL}hydra: {{callbacks: {{x: {{_target_: os.mkdir, path: hacked}}}}}}\n".encode(),
    "experiment/logging": (GLOBAL + "hydra: {hydra_logging: {filters: {x: {(): os.mkdir, path: hacked}}}}\n").encode(),
    "experiment/launcher": f"{GLOBAL}hydra: {{launcher: {{_target_: os.mkdir}}}}\n".encode(),
    "experiment/consent": f"{GLOBAL}allow_targets: [os]\nmodel: {{_target_: os.mkdir, path: hacked}}\n".encode(),
    "experiment/environment": f"{GLOBAL}logger: {{entity: '${{oc.env:WANDB_API_KEY}}'}}\n".encode(),
    "sweep/consent": f"{GLOBAL}hydra: {{mode: MULTIRUN, sweeper: {{params: {{allow_targets: '[os]'}}}}}}\n".encode(),
    "sweep/rows": f"{GLOBAL}hydra: {{mode: MULTIRUN, sweeper: {{rows: [{{allow_targets: '[os]'}}]}}}}\n".encode(),
    "sweep/hydra": f"{GLOBAL}hydra: 7\n".encode(),
}  # fmt: skip


class Begun(BaseException):
    """What was typed passed every check."""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working directory, beside DIR; and no training."""

    def begun(*_):
        raise Begun

    monkeypatch.setattr(RunFolder, "locked", begun)
    monkeypatch.setattr(SweepPlan, "begin", begun)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "cwd"


@pytest.fixture(scope="module")
def composer():
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        return Composer(GlobalHydra.instance().config_loader(), "config")


def answer(composer: Composer, words: list[str]) -> str | None:
    """The line that answers overrides, as the command makes it; None where a run begins."""
    try:
        read = read_overrides(words)
        check_typed(read)
        lists = [o.input_line for o in read if o.is_sweep_override()]
        if lists:
            return f"{lists[0]}: add --multirun"
        config = checked(composer.compose([*BASE, *words]), words)
        Run.of(config)
        check_parts(config)
    except BrsweepError as error:
        return str(error)
    except Exception as error:
        line = one_line(error, known_keys("config"))
        if line is None:
            raise
        return line
    return None


def wrong_with(line: str | None, says: str, folder: Path) -> str | None:
    """Why an answer is none."""
    if line is None:
        return "a run began"
    if says.lower() not in line.lower():
        return f"does not say {says!r}"
    if len(line) > 1000 or KEY in line:
        return "too long, or with a key in it"
    if list(folder.iterdir()):
        return f"left {list(folder.iterdir())}"
    return None


def check(lines, folder: Path) -> None:
    """lines: (what was typed, what its answer says, its answer)."""
    faults = [(typed, why, line) for typed, says, line in lines if (why := wrong_with(line, says, folder))]
    assert not faults, "\n".join(map(str, faults))


@pytest.mark.parametrize("entry", LINES["fields"], ids=lambda e: f"{e['field']}: {e['says']}"[:70])
def test_a_field_refuses_what_it_cannot_hold(entry, composer, folder):
    typed = [f"{entry['field']}={_quoted(word)}" for word in _split(entry["wrong"])]
    check([(one, entry["says"], answer(composer, [one])) for one in typed], folder)


@pytest.mark.parametrize("part", range(8))
def test_overrides_that_are_wrong(part, composer, folder):
    lines = list(LINES["values"].items())[part::8]
    check([(typed, says, answer(composer, shlex.split(typed))) for typed, says in lines], folder)


def test_words_that_are_no_override_are_answered_with_the_cure(composer, folder):
    check([(typed, says, answer(composer, [typed])) for typed, says in LINES["unreadable"].items()], folder)


@pytest.mark.parametrize("part", range(8))
def test_whole_commands_that_are_wrong(part, folder, monkeypatch, capsys):
    conf = folder.parent / "conf"
    for name, content in FILES.items():
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / f"{name}.yaml").write_bytes(content)
    (folder.parent / "file").touch()
    told = []
    for typed, says in list(LINES["commands"].items())[part::8]:
        words = [word.replace("DIR", str(folder.parent)) for word in shlex.split(typed)]
        try:
            said = call(monkeypatch, capsys, *BASE, *words)
        except Begun:
            told.append((typed, says, None))
            continue
        whole = said.code == 1 and said.err.startswith("error: ") and said.err.count("\n") == 1
        told.append((typed, says if whole else "one line and exit code 1", said.err if whole else str(said)))
    check(told, folder)


@pytest.mark.parametrize(("typed", "why"), LINES["good"].items(), ids=LINES["good"])
def test_what_may_look_wrong_and_is_right(typed, why, composer, folder):
    assert answer(composer, shlex.split(typed)) is None, why
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("choice", ["quant=crlf", "quant=mark", "quant=letters"])
def test_files_of_other_systems_are_read(choice, folder, monkeypatch, capsys):
    conf = folder.parent / "conf"
    (conf / "quant").mkdir(parents=True)
    name = choice.replace("=", "/")
    (conf / f"{name}.yaml").write_bytes(FILES[name])
    said = call(monkeypatch, capsys, "--config-dir", str(conf), *BASE, choice, "--cfg", "job")
    assert said.code == 0 and "weight_bits: 3" in said.out


def test_overrides_are_answered_by_the_command_as_they_are_here(composer, folder, monkeypatch, capsys):
    for typed, says in list(LINES["values"].items())[::12] + list(LINES["unreadable"].items())[::4]:
        words = shlex.split(typed) if typed in LINES["values"] else [typed]
        said = call(monkeypatch, capsys, *BASE, *words)
        assert said.code == 1 and said.out == "" and wrong_with(said.err, says, folder) is None, (typed, said)
        assert said.err.startswith("error: ") and said.err.count("\n") == 1


def test_there_are_enough_of_them():
    fields = sum(len(_split(entry["wrong"])) for entry in LINES["fields"])
    assert fields + sum(len(LINES[kind]) for kind in ("values", "unreadable", "commands", "good")) >= 400


def _split(words: str) -> list[str]:
    """At spaces outside quotes; the quotes stay."""
    lexer = shlex.shlex(words, posix=False)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " ", True, ""
    return list(lexer)


def _quoted(word: str) -> str:
    return f"'{word[1:-1]}'" if word.startswith('"') else word
