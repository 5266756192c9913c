"""Read what W&B wrote into an offline `.wandb` file, so that a test can say what was logged.

The file is a LevelDB log: seven bytes of header, then blocks of 32 KiB with chunks of crc32, length and kind (1: a
whole record; 2, 3, 4: the first, a middle and the last part of one); a record is a protobuf message of W&B's own. A
chunk that ends beyond the file was being written when its process died, and ends the reading.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32 * 1024, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbFile:
    """history: one dict per logged step. metrics: name or pattern to (step metric, hidden). git: a commit is in it."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, tuple[str, bool]] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    git: bool = False
    exit_code: int | None = None


def read_wandb(path: Path) -> WandbFile:
    from wandb.proto.wandb_internal_pb2 import Record

    found = WandbFile()
    for data in _records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        found.kinds.add(kind)
        if kind == "run":
            found.run = record.run
            found.config.update(_values(record.run.config.update))
        elif kind == "config":
            found.config.update(_values(record.config.update))
        elif kind == "history":
            found.history.append(_values(record.history.item))
        elif kind == "summary":
            found.summary.update(_values(record.summary.update))
        elif kind == "metric":
            metric = record.metric
            found.metrics[metric.name or metric.glob_name] = (metric.step_metric, metric.options.hidden)
        elif kind == "environment":
            found.git |= record.environment.HasField("git")
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _values(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = [item.key] if item.key else item.nested_key
        node = found
        for key in outer:
            node = node.setdefault(key, {})
        node[last] = json.loads(item.value_json)
    return found


def _records(content: bytes) -> Iterator[bytes]:
    assert content[:6] == b":W&B\xe1\xbe", content[:7]
    position, parts = 7, b""
    while position + HEADER.size <= len(content):
        left = BLOCK - position % BLOCK
        crc, length, kind = HEADER.unpack_from(content, position) if left >= HEADER.size else (0, 0, 0)
        if kind == 0:  # the rest of the block is padding
            position += left
            continue
        data = content[position + HEADER.size :][:length]
        if len(data) < length:
            return
        assert zlib.crc32(data, zlib.crc32(bytes([kind]))) == crc, f"damaged at byte {position}"
        position += HEADER.size + length
        parts = data if kind in (WHOLE, FIRST) else parts + data
        if kind in (WHOLE, LAST):
            yield parts
