"""State on disk: written in one atomic move, read without running code, refused in one line where it does not fit.

A file of ours is torch's archive, whose comment (an archive's last bytes) is the SHA-256 of all bytes before it:
`torch.load` and every zip program read it as they read any, and a bit that changed anywhere is noticed, which torch
itself does not look for. Files from elsewhere are taken as people have them: see `load_pretrained`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor, nn

from brsweep.errors import BrsweepError
from brsweep.files import replacing

MARK = b"\nbrsweep sha256 "
SEAL_BYTES = len(MARK) + 64
HASHED_AT_ONCE = 2**20

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What data parallelism, torch.compile and activation checkpointing put before or into a parameter's name."""
USUAL_ENTRIES = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "params")
AVERAGES = frozenset({"ema", "swa", "avg", "averaged", "shadow"})
SAFETENSORS = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    **{"BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}
COUNTER = "num_batches_tracked"
PICKLED = "(pickled object)"
SHOWN = 3
DEEPEST = 4


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers) so that `path` holds the old state or the new one, whole.

    Raises `BrsweepError` where the disk is full or the folder can't be written; the old state stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            torch.save(state, file)
            _seal(file)
    except (OSError, RuntimeError) as error:
        why = _reason(error)
        raise BrsweepError(f"{path}: can't be written ({why}); free the disk or choose another folder") from None


def load(path: Path) -> Any:
    """Read what `save` wrote. Raises `BrsweepError` for a file that is missing, changed in any bit since it was
    written, or a pickle with code; also for one without a digest, which nothing can vouch for."""
    with _reading(path) as file:
        whole = _is_whole(file)
        if whole is None:
            raise BrsweepError(
                f"{path}: damaged or no checkpoint of this version (its last bytes are no digest); "
                "move it away, and the command that made it makes it again"
            )
        if not whole:
            raise BrsweepError(f"{path}: damaged (it does not match its own digest)")
        return torch.load(file, map_location="cpu", weights_only=True)


def _seal(file: IO[bytes]) -> None:
    """Give torch's archive its comment. The archive's last two bytes say how long that is; torch left them 0."""
    file.seek(-2, os.SEEK_END)
    file.write(SEAL_BYTES.to_bytes(2, "little"))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(MARK + digest.encode())


def _is_whole(file: IO[bytes]) -> bool | None:
    """Whether a file's digest is that of its content; None where it carries none. Leaves the file at its start."""
    left = os.fstat(file.fileno()).st_size - SEAL_BYTES
    file.seek(max(left, 0))
    seal = file.read()
    file.seek(0)
    if not seal.startswith(MARK):
        return None
    digest = hashlib.sha256()
    while left > 0 and (piece := file.read(min(left, HASHED_AT_ONCE))):
        digest.update(piece)
        left -= len(piece)
    file.seek(0)
    return seal == MARK + digest.hexdigest().encode()


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """The open file; whatever its bytes make torch raise becomes one line that names it."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may never end
            raise BrsweepError(f"{path}: {'a folder' if path.is_dir() else 'no ordinary file'}, not a checkpoint")
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of pickle protocols before it refuses the file
            yield file
    except BrsweepError:
        raise
    except FileNotFoundError:
        raise BrsweepError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise BrsweepError(f"{path}: can't be read ({_reason(error)})") from None
    except Exception as error:
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) and ("WeightsUnpickler" in text or "weights_only" in text.lower()):
            raise BrsweepError(
                f"{path}: refused, because it holds more than tensors and plain values; "
                "torch.save(model.state_dict(), PATH) writes a file that can be read"
            ) from None
        raise BrsweepError(f"{path}: damaged or no checkpoint ({_reason(error)})") from None


class _Choice(NamedTuple):
    """A set of weights in a file. entry: keys that lead to its mapping; prefix: what its names have before the
    network's, such as "module."; names: how many of the network's names it has."""

    entry: tuple[str, ...]
    prefix: str
    names: int

    def __str__(self) -> str:
        return ", ".join(part for part in (".".join(self.entry), self.prefix and f"names with {self.prefix}") if part)

    @property
    def rank(self) -> tuple[bool, int]:
        """Averaged weights come last, usual names first."""
        words = set(re.split(r"[._]", ".".join((*self.entry, self.prefix)).lower()))
        first = self.entry[0] if self.entry else None
        return bool(words & AVERAGES), USUAL_ENTRIES.index(first) if first in USUAL_ENTRIES else len(USUAL_ENTRIES)


def load_pretrained(path: Path, model: nn.Module, replace_head: bool = False) -> str:
    """Put a float checkpoint into a float network and return one line that says what was taken from the file.

    The file: ours, any of `torch.save` (only its tensors are used, and no code in it runs), or safetensors. The weights
    may lie in an entry of it, whatever its name, beside others; their names may have "module.", "_orig_mod." and one
    more prefix in front. Where several sets of weights fit, averaged ones (EMA) are not taken, and of the others the
    one in an entry with a usual name. Batch counters of batch norm may be missing; other floating types are converted.

    replace_head: leave out the last layer's parameters where their shapes differ, and keep its fresh values.
    Raises `BrsweepError` that lists the mismatches, or names the weights that are not finite; the network is then as
    it was.
    """
    path = Path(path)
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    content = _foreign(path)
    state, words = _weights(path, content, own)
    head = _head(model) + "."
    shapes = [key for key in own if key in state and state[key].shape != own[key].shape]
    if replace_head:
        state = {key: value for key, value in state.items() if not (key in shapes and key.startswith(head))}
        fresh = [key for key in own if key.startswith(head) and key not in state]
        words += [f"fresh values: {_listed(fresh)}"] if fresh else []
        shapes = [key for key in shapes if not key.startswith(head)]
    lacking = [key for key in own if key not in state and not (replace_head and key.startswith(head))]
    missing = [key for key in lacking if key.rpartition(".")[2] != COUNTER]
    unknown = [key for key in state if key not in own]
    kinds = [key for key in own if key in state and not _convertible(state[key], own[key])]
    if missing or unknown or shapes or kinds:
        both = [f"missing {_listed(missing)}"] * bool(missing) + [f"unknown {_listed(unknown)}"] * bool(unknown)
        both += [f"{key} is {_shape(state[key])}, wanted {_shape(own[key])}" for key in shapes[:SHOWN]]
        both += [f"{key} is {_kind(state[key])}, wanted {_kind(own[key])}" for key in kinds[:SHOWN]]
        only_head = not (missing or unknown or kinds) and all(key.startswith(head) for key in shapes)
        hint = " (pretrained_replace_head=true keeps a fresh last layer)" if only_head else ""
        sides = f"the file has {len(state)} entries, the network wants {len(own)}"
        raise BrsweepError(f"{path}: not this architecture; {sides}: {'; '.join(both)}{hint}")
    other = {key: value.dtype for key, value in state.items() if value.is_floating_point()}
    state = {key: value.to(own[key].dtype) for key, value in state.items()}
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise BrsweepError(f"{path}: values that are not finite in {_listed(broken)}; give another checkpoint")
    model.load_state_dict(state, strict=False)
    made = Counter(f"{dtype} made {own[key].dtype}" for key, dtype in other.items() if dtype != own[key].dtype)
    words += [f"{count} of {kinds}".replace("torch.", "") for kinds, count in made.items()]
    words += [f"{COUNTER} from 0"] if len(lacking) > len(missing) else []
    return f"{path}: {'; '.join(words)}"


def _foreign(path: Path) -> Any:
    """What a file from elsewhere holds; its objects that are not plain values are replaced by empty ones."""
    with _reading(path) as file:
        if _is_whole(file) is False:
            raise BrsweepError(f"{path}: damaged (it does not match its own digest)")
        start = file.read(9)
        file.seek(0)
        if start[8:] == b"{":
            return _safetensors(file)
        unsafe = []
        if zipfile.is_zipfile(file):
            damaged = zipfile.ZipFile(file).testzip()
            if damaged:
                raise BrsweepError(f"{path}: damaged ({damaged} does not match its CRC-32); fetch it again")
            file.seek(0)
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        file.seek(0)
        with torch.serialization.safe_globals([(_Pickled(name, (), {}), name) for name in unsafe]):
            return torch.load(file, map_location="cpu", weights_only=True)


class _Pickled(type):
    """A class that stands in for one that a pickle names: its objects are empty, and nothing of the other runs.

    torch's reader makes an object by `__new__`, and may then fill it as a mapping, or calls the class like a function.
    """

    def __new__(cls, name: str, bases: tuple, namespace: dict) -> _Pickled:
        def empty(stand_in: type, *arguments: Any) -> OrderedDict:
            return OrderedDict({PICKLED: name})

        return super().__new__(cls, name, bases, {"__new__": empty, "__setstate__": lambda self, state: None})

    def __call__(cls, *arguments: Any) -> Any:
        return object.__new__(cls)


def _safetensors(file: IO[bytes]) -> dict[str, Tensor]:
    """https://huggingface.co/docs/safetensors: the header's length in 8 bytes, the header in JSON, the values."""
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    values = bytearray(file.read())
    if max((entry["data_offsets"][1] for entry in header.values()), default=0) != len(values):
        raise ValueError("its length is not what its header says")
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in SAFETENSORS:
            raise ValueError(f"{name} is {entry['dtype']}")
        dtype, (start, end) = SAFETENSORS[entry["dtype"]], entry["data_offsets"]
        flat = torch.frombuffer(values[start:end], dtype=dtype) if end > start else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def _weights(path: Path, content: Any, own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The file's tensors under the network's names as far as they have any, and what there is to say of the choice."""
    mappings = _mappings(content)
    inner = WRAPPERS - {part for name in own for part in name.split(".")}
    choices = [choice for entry, mapping in mappings.items() for choice in _choices(entry, mapping, own, inner)]
    if choices:
        best = max(choice.names for choice in choices)
        fitting = sorted((choice for choice in choices if choice.names == best), key=lambda choice: choice.rank)
        chosen, others = fitting[0], fitting[1:]
        if others and others[0].rank == chosen.rank:
            raise BrsweepError(
                f"{path}: several sets of weights fit ({'; '.join(map(str, fitting))}); keep one of them"
            )
    else:
        alike = [
            entry
            for entry, mapping in mappings.items()
            if mapping and all(isinstance(value, Tensor) for value in mapping.values())
        ]
        if not alike:
            raise BrsweepError(f"{path}: {_without_weights(mappings)}")
        chosen, others = _Choice(max(alike, key=lambda entry: len(mappings[entry])), "", 0), []
    state: dict[str, Tensor] = {}
    left_out = []
    for key, value in mappings[chosen.entry].items():
        if not isinstance(value, Tensor):
            continue
        if not key.startswith(chosen.prefix):
            left_out.append(key)
            continue
        name = _unwrapped(key.removeprefix(chosen.prefix), inner)
        if name in state:
            raise BrsweepError(f"{path}: two entries for {name}; keep one of them")
        state[name] = value
    words = [f"weights from {chosen}" if str(chosen) else "weights as they lie"]
    words += [f"not taken: {'; '.join(map(str, others))}"] if others else []
    words += [f"left out: {_listed(left_out)}"] if left_out else []
    return state, words


def _choices(
    entry: tuple[str, ...], mapping: Mapping[str, Any], own: Collection[str], inner: Collection[str]
) -> list[_Choice]:
    """Every prefix under which the mapping has tensors of the network's names."""
    found: dict[str, set[str]] = {}
    for key, value in mapping.items():
        parts = key.split(".") if isinstance(value, Tensor) else ()
        for i in range(len(parts)):
            name = _unwrapped(".".join(parts[i:]), inner)
            if parts[i] not in inner and name in own and parts[-1] != COUNTER:
                found.setdefault("".join(part + "." for part in parts[:i]), set()).add(name)
    return [_Choice(entry, prefix, len(names)) for prefix, names in found.items()]


def _mappings(content: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    """All mappings in what a file holds, a few levels deep, each once, by the keys (and places in lists) to it."""
    found, seen, waiting = {}, set(), [((), content)]
    for entry, value in waiting:  # grows while it is read
        if id(value) in seen or len(entry) > DEEPEST or not isinstance(value, (Mapping, list, tuple)):
            continue
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        named = {str(key): inside for key, inside in items}
        if isinstance(value, Mapping):
            found[entry] = named
        waiting += [((*entry, key), inside) for key, inside in named.items()]
    return found


def _without_weights(mappings: Mapping[tuple[str, ...], Mapping[str, Any]]) -> str:
    pickled = next((mapping[PICKLED] for mapping in mappings.values() if PICKLED in mapping), None)
    if pickled is None:
        return "holds no state dict; give a file of name -> tensor, or a checkpoint of brsweep"
    return f"holds an object of {pickled}, not its weights; where it loads, torch.save(model.state_dict(), PATH)"


def _unwrapped(name: str, inner: Collection[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in inner)


def _convertible(value: Tensor, wanted: Tensor) -> bool:
    return value.layout is torch.strided and (value.is_floating_point() or not wanted.is_floating_point())


def _head(model: nn.Module) -> str:
    """The name of the last layer with weights."""
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    return next((name for name, module in reversed([*model.named_modules()]) if isinstance(module, layers)), "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype}{'' if tensor.layout is torch.strided else ' and sparse'}".removeprefix("torch.")


def _reason(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text[:120] or type(error).__name__
