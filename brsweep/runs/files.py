"""Files of a folder that may have been damaged, or come from somebody else: read with a check, written whole.

What does not fit raises `Damaged`, one line that names the file and says what makes it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brsweep.errors import BrsweepError
from brsweep.files import replace_file

MEND = "the same command with stale=retrain trains the run again"
LARGEST_TEXT = 16 * 2**20
"""Bytes of a result, a failure or a configuration; what is larger was not written here."""
MOST_LEVELS = 64
"""Levels of a configuration's nesting, far more than one has."""


class Damaged(BrsweepError):
    """A file of a run's folder is there and is not what the run wrote."""


class CheckedFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def _own(self, name: str) -> Path:
        """Where a file of the folder lies. Raises `Damaged` for a link that leads out of the folder, and for what is
        neither file nor folder: a pipe is waited for without end."""
        path = self.path / name
        try:
            real = os.path.realpath(path)
        except ValueError:
            raise Damaged(f"{path}: a name that no file can have") from None
        if os.path.commonpath([real, os.path.realpath(self.path)]) != os.path.realpath(self.path):
            raise Damaged(f"{path}: a link out of the run's folder, not read; put the file itself in its place")
        if os.path.exists(real) and not (os.path.isfile(real) or os.path.isdir(real)):
            raise Damaged(f"{path}: no file; remove it")
        return path

    def _text(self, name: str) -> str | None:
        path = self._own(name)
        try:
            with open(path, "rb") as file:
                content = file.read(LARGEST_TEXT + 1)
            if len(content) > LARGEST_TEXT:
                raise ValueError(f"more than {LARGEST_TEXT} bytes")
            return content.decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "no text"
            raise Damaged(f"{path}: can't be read ({why}); {MEND}") from None

    def _json(self, name: str) -> Any:
        text = self._text(name)
        try:
            return None if text is None else json.loads(text)
        except (ValueError, RecursionError):
            raise Damaged(f"{self.path / name}: damaged, it is no JSON; {MEND}") from None

    def _yaml(self, name: str) -> dict[str, Any] | None:
        """The mapping in a YAML file; None where there is none. Raises `Damaged`."""
        import yaml

        text = self._text(name)
        if text is None:
            return None
        try:
            _check_events(text)
            content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise Damaged(f"{self.path / name}: damaged; {MEND}")
        return content


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds the old content or the new, whole. Raises `BrsweepError` on a full disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError as error:
        why = error.strerror
        raise BrsweepError(f"{path}: can't be written ({why}); free the disk or choose another folder") from None


def digest_of(path: Path) -> str | None:
    """Of a file's content; None where it can't be read."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return None


def seal(result: Mapping[str, Any]) -> str:
    """The digest of a result's content. Exact: a changed last digit of a number shows."""
    content = {key: value for key, value in result.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_events(text: str) -> None:
    """Raise ValueError for YAML that is never written here and dear to read: anchors and aliases, a few of which stand
    for gigabytes, and nesting that libyaml's recursion does not survive."""
    import yaml

    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_LEVELS or getattr(event, "anchor", None) is not None:
            raise ValueError("an anchor, an alias, or too deep")
