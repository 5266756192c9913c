"""Checkpoints: ours, whole or refused, and other people's, taken as they come."""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from references import SmallNet
from torch import nn

from brsweep.errors import BrsweepError
from brsweep.training import checkpoint
from brsweep.training.checkpoint import load, load_pretrained, save

# --- ours ------------------------------------------------------------------------------------------------------------


class Power(BaseException):
    """The power is cut."""


def test_a_cut_before_the_move_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save(path, {"epoch": 1})
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(Power))
        with pytest.raises(Power):
            save(path, {"epoch": 2})
    assert load(path) == {"epoch": 1}
    save(path, {"epoch": 3})
    assert load(path) == {"epoch": 3}
    assert list(tmp_path.iterdir()) == [path]  # what the cut left behind has been used up


def test_the_state_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)
        monkeypatch.setattr(checkpoint.os, name, lambda *a, n=name, f=function: (calls.append(n), f(*a)))
    save(tmp_path / "state.pt", {"epoch": 1})
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_full_disk_leaves_the_old_state_and_one_line(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save(path, {"epoch": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(BrsweepError, match=r"state\.pt: can't be written \(No space left on device\)"):
        save(path, {"epoch": 2})
    assert load(path) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def written(tmp_path) -> Path:
    save(tmp_path / "state.pt", {"weight": torch.arange(5.0), "epoch": 3, "name": "warmup"})
    return tmp_path / "state.pt"


def refused(path: Path) -> str:
    with pytest.raises(BrsweepError, match=r"^[^\n]*state\.pt: [^\n]*$") as raised:
        load(path)
    return str(raised.value)


def test_every_flipped_bit_is_noticed(written):
    content = bytearray(written.read_bytes())
    for place, bit in itertools.product(range(len(content)), range(8)):
        content[place] ^= 1 << bit
        written.write_bytes(content)
        assert "damaged" in refused(written), (place, bit)
        content[place] ^= 1 << bit
    written.write_bytes(content)
    assert load(written)["epoch"] == 3


def test_every_cut_and_every_addition_is_noticed(written):
    content = written.read_bytes()
    for length in range(len(content)):
        written.write_bytes(content[:length])
        assert "damaged" in refused(written), length
    for more in (b"\0", b"a", content[-1:], content[-80:], content):
        written.write_bytes(content + more)
        assert "damaged" in refused(written), more
    written.write_bytes(content[:100] + content[101:])
    assert "damaged" in refused(written)


def test_parts_of_two_states_are_noticed(written, tmp_path):
    """What a disk that lost a write leaves."""
    new = written.read_bytes()
    save(tmp_path / "other.pt", {"weight": torch.arange(5.0) + 1, "epoch": 4, "name": "warmup"})
    old = (tmp_path / "other.pt").read_bytes()
    assert len(old) == len(new)
    written.write_bytes(old[: len(old) // 2] + new[len(old) // 2 :])
    assert "damaged" in refused(written)


def test_torch_and_zip_programs_read_our_files(written):
    assert torch.equal(torch.load(written, weights_only=True)["weight"], torch.arange(5.0))
    assert torch.load(written, weights_only=True, mmap=True)["epoch"] == 3
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None and b"sha256" in archive.comment


def test_a_large_state_is_hashed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "HASHED_AT_ONCE", 1000)
    save(tmp_path / "state.pt", {"weight": torch.arange(5000.0)})
    assert torch.equal(load(tmp_path / "state.pt")["weight"], torch.arange(5000.0))


def test_a_file_without_a_digest_is_refused_and_says_what_to_do(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "state.pt")
    assert "no digest" in refused(tmp_path / "state.pt") and "move it away" in refused(tmp_path / "state.pt")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to("/dev/null"), "no ordinary file"),
        (lambda path: os.mkfifo(path), "no ordinary file"),
        (lambda path: path.write_text("some text\n"), "damaged or no checkpoint"),
        (lambda path: path.write_bytes(b""), "damaged or no checkpoint"),
        (lambda path: path.symlink_to("gone"), "no such checkpoint"),
    ],
    ids=["folder", "device", "pipe", "text", "empty", "dangling link"],
)
def test_what_is_no_checkpoint_is_one_line(tmp_path, make, words):
    make(tmp_path / "state.pt")
    assert words in refused(tmp_path / "state.pt")
    with pytest.raises(BrsweepError, match=rf"^[^\n]*state\.pt: [^\n]*{words}[^\n]*$"):
        load_pretrained(tmp_path / "state.pt", SmallNet())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BrsweepError, match=r"file/state\.pt: can't be written"):
        save(tmp_path / "file" / "state.pt", {"epoch": 1})
    (tmp_path / "state.pt").mkdir()
    with pytest.raises(BrsweepError, match=r"state\.pt: can't be written"):
        save(tmp_path / "state.pt", {"epoch": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "state.pt"]


def test_a_missing_file(tmp_path):
    with pytest.raises(BrsweepError, match=r"state\.pt: no such checkpoint"):
        load(tmp_path / "state.pt")


class Code:
    def __init__(self, ran) -> None:
        self.ran = ran

    def __reduce__(self):
        return (os.mkdir, (str(self.ran),))


def torch_with_digest(content, path) -> None:
    with open(path, "w+b") as file:
        torch.save(content, file)
        checkpoint._seal(file)


def plain_pickle(content, path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("read", [load, lambda path: load_pretrained(path, SmallNet())], ids=["ours", "pretrained"])
@pytest.mark.parametrize("write", [torch.save, torch_with_digest, plain_pickle])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, write, read):
    write({"model": Code(tmp_path / "ran")}, tmp_path / "state.pt")
    with pytest.raises(BrsweepError, match=r"state\.pt: (refused|damaged|holds no state dict)") as raised:
        read(tmp_path / "state.pt")
    assert not (tmp_path / "ran").exists() and "\n" not in str(raised.value)


# --- other people's --------------------------------------------------------------------------------------------------


@pytest.fixture
def trained() -> nn.Module:
    torch.manual_seed(5)
    return SmallNet()


class Averaged(nn.Module):
    """What a training script's own class looks like to somebody who does not have it."""


def renamed(state, prefix="", **more):
    return {prefix + key: value for key, value in state.items()} | more


def shifted(state):
    return {key: value + 1 for key, value in state.items()}


def without_counters(state):
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


FORMS = {
    "plain": (lambda s: s, "weights as they lie"),
    "ours": (lambda s: {"model": s, "optimizer": {"state": {}}, "done": 3, "history": [{"loss": 1.0}]}, "from model"),
    **{
        f"under {entry}": (lambda s, e=entry: {e: s, "epoch": 3, "lr": 0.1}, f"from {entry}")
        for entry in (*checkpoint.USUAL_ENTRIES, "generator", "model_ema", "state_dict_ema", "ema", "backbone")
    },
    "two wrappers": (lambda s: {"model": {"state_dict": s}}, "from model.state_dict"),
    "in a tuple": (lambda s: (s, {"state": {}, "param_groups": []}), "from 0"),
    **{
        f"named {prefix}": (lambda s, p=prefix: renamed(s, p), f"from names with {prefix}")
        for prefix in (
            *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.", "net."),
            *("backbone.", "encoder.", "model._orig_mod.", "module.model.", "model.backbone.", "student.net."),
        )
    },
    "wrapped inside": (lambda s: {k.replace(".", "._orig_mod.", 1): v for k, v in s.items()}, "as they lie"),
    "averaged model": (lambda s: renamed(s, "module.", n_averaged=torch.tensor(3)), "left out: n_averaged"),
    "lightning": (
        lambda s: {"state_dict": renamed(s, "model.", **{"criterion.weight": torch.ones(5)}), "epoch": 3},
        "from state_dict, names with model.; left out: criterion.weight",
    ),
    "torchvision's script": (
        lambda s: {"model": s, "model_ema": renamed(shifted(s), "module.", n_averaged=torch.tensor(3))},
        "from model; not taken: model_ema, names with module.",
    ),
    "averages first": (
        lambda s: {"state_dict_ema": shifted(s), "state_dict": s},
        "from state_dict; not taken: state_dict_ema",
    ),
    "averages beside": (
        lambda s: renamed(shifted(s), "ema_model.") | renamed(s, "model."),
        "from names with model.; not taken: names with ema_model.",
    ),
    "averages with more": (
        lambda s: {"ema": shifted(s), "net": without_counters(s)},
        "from net; not taken: ema; num_batches_tracked from 0",
    ),
    "another beside the usual": (lambda s: {"best": shifted(s), "model": s}, "from model; not taken: best"),
    "one under two names": (lambda s: {"model": s, "last": s}, "from model"),
    "no counters": (without_counters, "num_batches_tracked from 0"),
    "namespace": (lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=Path("x"))}, "from model"),
    "numpy": (lambda s: {"model": s, "best": np.float64(0.9), "curve": np.arange(3.0)}, "from model"),
    "objects beside": (lambda s: {"model": s, "ema": Averaged(), "kinds": {Averaged}}, "from model"),
    "parameters": (lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()}, "as they lie"),
    "float64": (
        lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
        "of float64 made float32",
    ),
}


def same(model: nn.Module, state) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_as_people_have_them(tmp_path, trained, form):
    wrap, words = FORMS[form]
    torch.save(wrap(trained.state_dict()), tmp_path / "net.pt")
    fresh = SmallNet()
    said = load_pretrained(tmp_path / "net.pt", fresh)
    assert same(fresh, trained.state_dict())
    assert words in said and said.startswith(f"{tmp_path}/net.pt: ") and "\n" not in said


def test_our_own_checkpoints_are_pretrained_weights_too(tmp_path, trained):
    save(tmp_path / "net.pt", {"model": trained.state_dict()})
    fresh = SmallNet()
    load_pretrained(str(tmp_path / "net.pt"), fresh)
    assert same(fresh, trained.state_dict())
    content = bytearray((tmp_path / "net.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(BrsweepError, match=r"net\.pt: damaged"):
        load_pretrained(tmp_path / "net.pt", fresh)


def test_the_old_format_of_torch(tmp_path, trained):
    torch.save({"net": trained.state_dict()}, tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    fresh = SmallNet()
    load_pretrained(tmp_path / "net.pt", fresh)
    assert same(fresh, trained.state_dict())


def test_a_flipped_bit_in_torchs_own_file_is_noticed(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    content = bytearray((tmp_path / "net.pt").read_bytes())
    place = content.index(trained.conv2.weight.detach().numpy().tobytes())
    content[place + 3] ^= 1
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(BrsweepError, match=r"net\.pt: damaged \(.*does not match its CRC-32"):
        load_pretrained(tmp_path / "net.pt", SmallNet())


def test_a_module_of_its_own_names_is_not_unwrapped(tmp_path):
    """A network that has a part called "module" keeps it."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"module": nn.Linear(2, 3), "head": nn.Linear(3, 2)})
    torch.save(renamed(net.state_dict(), "_orig_mod."), tmp_path / "net.pt")
    fresh = nn.ModuleDict({"module": nn.Linear(2, 3), "head": nn.Linear(3, 2)})
    load_pretrained(tmp_path / "net.pt", fresh)
    assert same(fresh, net.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_short_floats_are_converted_and_said(tmp_path, trained, dtype):
    short = {k: v.to(dtype) if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    torch.save(short, tmp_path / "net.pt")
    fresh = SmallNet()
    said = load_pretrained(tmp_path / "net.pt", fresh)
    assert f"{sum(v.dtype == dtype for v in short.values())} of {str(dtype)[6:]} made float32" in said
    assert same(fresh, {k: v.to(trained.state_dict()[k].dtype) for k, v in short.items()})


def safetensors_of(state, **metadata) -> bytes:
    names = {dtype: name for name, dtype in checkpoint.SAFETENSORS.items()}
    header, values = {"__metadata__": metadata}, b""
    for key, value in state.items():
        raw = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        offsets = [len(values), len(values) + len(raw)]
        header[key] = {"dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
        values += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_safetensors(tmp_path, trained, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in trained.state_dict().items()}
    (tmp_path / "net.pt").write_bytes(safetensors_of(renamed(state, "model."), format="pt"))
    fresh = SmallNet()
    assert "from names with model." in load_pretrained(tmp_path / "net.pt", fresh)
    assert same(fresh, {k: v.to(trained.state_dict()[k].dtype) for k, v in state.items()})


def test_safetensors_of_their_own_library(tmp_path, trained):
    library = pytest.importorskip("safetensors.torch")
    library.save_file(trained.state_dict(), tmp_path / "net.safetensors", metadata={"format": "pt"})
    fresh = SmallNet()
    load_pretrained(tmp_path / "net.safetensors", fresh)
    assert same(fresh, trained.state_dict())


def test_damaged_safetensors_are_one_line(tmp_path, trained):
    content = safetensors_of(trained.state_dict())
    size = 8 + int.from_bytes(content[:8], "little")
    header = content[8:size]
    fakes = [content[:-1], content + b"a", content[: size - 9], content[:8] + b"{" * (size - 8) + content[size:]]
    for old, new in ((b"F32", b"F99"), (b"[0, ", b"[-1,"), (b'"shape"', b'"shame"'), (b"[4, 3", b"[9, 3")):
        assert old in header
        fakes.append(content[:8] + header.replace(old, new) + content[size:])
    for fake in fakes:
        (tmp_path / "net.pt").write_bytes(fake)
        with pytest.raises(BrsweepError, match=r"^[^\n]*net\.pt: damaged[^\n]*$"):
            load_pretrained(tmp_path / "net.pt", SmallNet())


REFUSED = {
    "a whole network": (lambda net: net, ["SmallNet", "torch.save(model.state_dict(), PATH)"]),
    "a whole network inside": (lambda net: {"model": net, "epoch": 3}, ["SmallNet", "torch.save(model.state_dict()"]),
    "two that fit": (
        lambda net: renamed(net.state_dict(), "encoder_q.") | renamed(net.state_dict(), "encoder_k."),
        ["encoder_q.", "encoder_k.", "keep one"],
    ),
    "two entries that fit": (
        lambda net: {"teacher": net.state_dict(), "student": copy.deepcopy(net.state_dict())},
        ["teacher", "student", "keep one"],
    ),
    "one weight twice": (
        lambda net: net.state_dict() | {"conv1._orig_mod.weight": torch.zeros(4, 3, 3, 3)},
        ["two entries for conv1.weight"],
    ),
    "NaN": (lambda net: net.state_dict() | {"bn2.bias": torch.full((6,), torch.nan)}, ["not finite", "bn2.bias"]),
    "infinite once it is float32": (
        lambda net: net.state_dict() | {"fc.bias": torch.full((5,), 1e300, dtype=torch.float64)},
        ["not finite", "fc.bias"],
    ),
    "codes": (
        lambda net: net.state_dict() | {"conv2.weight": torch.zeros(6, 4, 3, 3, dtype=torch.int8)},
        ["conv2.weight is int8, wanted float32"],
    ),
    "sparse": (
        lambda net: net.state_dict() | {"fc.weight": torch.zeros(5, 6).to_sparse()},
        ["fc.weight is float32 and sparse, wanted float32"],
    ),
    "all names other": (
        lambda net: {f"block{i}.kernel": torch.zeros(2) for i in range(9)},
        ["the file has 9 entries", "missing conv1.weight", "unknown block0.kernel, block1.kernel, block2.kernel and 6"],
    ),
    "a list of numbers": (lambda net: [1, 2], ["holds no state dict"]),
    "no weights": (lambda net: {"epoch": 3}, ["holds no state dict"]),
    "text among them": (lambda net: {"model": {"a": torch.zeros(1), "b": "text"}}, ["holds no state dict"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_taken_is_one_line_and_changes_nothing(tmp_path, trained, case):
    make, words = REFUSED[case]
    torch.save(make(trained), tmp_path / "net.pt")
    fresh = SmallNet()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(BrsweepError) as raised:
        load_pretrained(tmp_path / "net.pt", fresh)
    line = str(raised.value)
    assert "\n" not in line and all(word in line for word in (*words, "net.pt: ")), line
    assert same(fresh, before)


def test_mappings_without_end_are_one_line(tmp_path):
    loop: dict = {}
    loop["model"] = {"state_dict": loop}
    deep: dict = {}
    for _ in range(300):
        deep = {"model": deep}
    for content in (loop, deep):
        torch.save(content, tmp_path / "net.pt")
        with pytest.raises(BrsweepError, match="holds no state dict"):
            load_pretrained(tmp_path / "net.pt", SmallNet())


def test_a_pickle_made_for_another_reader_is_one_line(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "net.pt", pickle_protocol=4)
    with pytest.raises(BrsweepError, match=r"^[^\n]*net\.pt: [^\n]*$"):
        load_pretrained(tmp_path / "net.pt", SmallNet())


def test_another_architecture_lists_what_differs(tmp_path):
    state = SmallNet().state_dict()
    del state["bn1.weight"]
    state["conv2.weight"] = torch.zeros(7, 4, 3, 3)
    state["extra.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "net.pt")
    fresh = SmallNet()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(BrsweepError) as raised:
        load_pretrained(tmp_path / "net.pt", fresh)
    line = str(raised.value)
    assert "missing bn1.weight; unknown extra.weight; conv2.weight is 7x4x3x3, wanted 6x4x3x3" in line
    assert "replace_head" not in line and "\n" not in line
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


def test_another_head(tmp_path):
    trained = SmallNet()
    trained.fc = nn.Linear(6, 10)
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    fresh = SmallNet()
    head = fresh.fc.weight.clone()
    with pytest.raises(BrsweepError, match=r"fc\.weight is 10x6, wanted 5x6.*pretrained_replace_head=true"):
        load_pretrained(tmp_path / "net.pt", fresh)
    said = load_pretrained(tmp_path / "net.pt", fresh, replace_head=True)
    assert said.endswith("fresh values: fc.weight, fc.bias")
    assert torch.equal(fresh.conv1.weight, trained.conv1.weight) and torch.equal(fresh.fc.weight, head)
