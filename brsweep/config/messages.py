"""Hydra's and OmegaConf's errors in one line, with a suggestion for a key that is nearly right."""

from __future__ import annotations

import difflib
import functools
import os
import re
import shlex
import sys
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from brsweep.errors import BrsweepError


def read_overrides(words: Iterable[str]) -> list[Override]:
    """Raises `BrsweepError` for a word that is none, with the cure where quotes are all that is missing."""
    parser = OverridesParser.create()
    read = []
    for word in words:
        try:
            read.append(parser.parse_override(word))
            if not read[-1].key_or_group:
                raise ValueError(word)
        except Exception:  # the grammar's, and its assertions
            raise BrsweepError(_unreadable(word)) from None
    return read


def one_line(error: BaseException, keys: Iterable[str] = ()) -> str | None:
    """The error as one line, or None where it is not about the configuration. keys: those that exist, dotted."""
    if isinstance(error, MissingConfigException):
        return _missing(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    for module, names in _frames(error):
        if module == "hydra._internal.config_loader_impl" and "override" in names and not _is_known(error):
            return f"{names['override'].input_line}: does not fit what is there ({_fault(error)})"
    file = _file_of(error)
    if isinstance(error, (YAMLError, UnicodeDecodeError)) or (file and not isinstance(error, HydraException)):
        return f"{file or 'a YAML file'}: can't be read: {_fault(error)}"
    if _in_defaults_list(error):
        return (
            "a group is chosen by its option's name, group=option; a number or an empty value names none "
            "(or a YAML file's defaults list holds what is no name)"
        )
    if not _is_known(error):
        return None
    if isinstance(error, RecursionError):
        return "the configuration refers to itself without end: look for a defaults list that names its own file"
    text = f"{error}\n{error.__cause__ or ''}"
    unknown = re.search(r"Could not (?:override|delete from|append to) '([^']+)'", text)
    if unknown and ("not in" in text or "No match" in text):
        return _unknown(unknown.group(1).split("@")[0], keys)
    missing = re.search(r"Could not delete from config\. '([^']+)'", text)
    if missing:
        return _unknown(missing.group(1), keys)
    unfit = re.search(r"Error merging override ([^\n]+)\n\s*([^\n]+)", text)
    if unfit and "does not support deletion" in text:
        return f"{unfit.group(1)}: every run has this field; set a value instead"
    if unfit:
        return f"{unfit.group(1).lstrip('+')}: {unfit.group(2)}"
    unknown = re.search(r"Key '([^']+)' (?:is )?not in", text)
    if unknown:
        key = getattr(error, "full_key", None) or unknown.group(1)
        return _without_package(key) or _unknown(key, keys)
    lines = [" ".join(line.split()).rstrip(":") for line in text.splitlines() if line.strip()]
    shown = dict.fromkeys(line for line in lines if not line.startswith(("full_key", "object_type", "reference_type")))
    return "; ".join(shown)


def known_keys(config_name: str) -> list[str]:
    """Every dotted key and group that the configuration of that name has, the chosen launcher's options among them."""
    chosen = [argument for argument in sys.argv[1:] if argument.startswith(("hydra/launcher=", "hydra/sweeper="))]
    return _keys(config_name, tuple(chosen))


@functools.cache
def _keys(config_name: str, chosen: tuple[str, ...]) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from brsweep.config.compose import CONF_DIR, VERSION_BASE

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), **VERSION_BASE):
        try:
            composed = compose(config_name, list(chosen), return_hydra_config=True)
        except Exception:  # the choice, or the configuration's name, is what is wrong
            composed = compose("config", return_hydra_config=True)
    config = OmegaConf.to_container(composed, resolve=False)
    config["hydra"] = {name: config["hydra"][name] for name in ("launcher", "sweeper")}
    keys: list[str] = [folder.name for folder in CONF_DIR.iterdir() if folder.is_dir()]

    def walk(node: object, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            keys.append(prefix + str(key))
            walk(value, f"{prefix}{key}.")

    walk(config, "")
    return keys


def _unreadable(override: str) -> str:
    """What the grammar does not take, and how to write it where quotes are all that is missing."""
    key, found, value = override.partition("=")
    if not found or not re.fullmatch(r"[+~]{0,2}[\w./@:-]+", key):
        return f"{override}: can't be read as key=value"
    proposed = f"{key}={os.path.expanduser(value)}" if value.startswith("~/") else override
    if not _readable(proposed):
        escaped = proposed.partition("=")[2].replace("\\", "\\\\").replace("'", "\\'")
        proposed = f"{key}='{escaped}'"
    if value.lstrip()[:1] in ("[", "{", "(", "'", '"') or not _readable(proposed):
        return f"{override}: can't be read as key=value; brackets and quotes have to be closed"
    return f"{override}: can't be read as key=value; put the value in quotes: {_for_shell(proposed)}"


def _for_shell(word: str) -> str:
    plain = not re.search(r"[\"$`\\!]", word)
    return f'"{word}"' if plain and "'" in word else shlex.quote(word)


def _readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except Exception:
        return False
    return True


def _is_known(error: BaseException) -> bool:
    return isinstance(error, (HydraException, OmegaConfBaseException, RecursionError))


def _frames(error: BaseException) -> Iterable[tuple[str, dict]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_globals.get("__name__", ""), trace.tb_frame.f_locals
        trace = trace.tb_next


def _file_of(error: BaseException) -> str | None:
    """The YAML file that was being read, where the error came from one: Hydra's messages seldom say."""
    cause: BaseException | None = error
    while cause is not None:
        for module, names in _frames(cause):
            if module.endswith("file_config_source") and "full_path" in names and not isinstance(cause, HydraException):
                return str(names["full_path"])
        cause = cause.__cause__
    return None


def _fault(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8; save the file as UTF-8"
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'no YAML'}"
    return " ".join(str(error).split())[:200]


def _in_defaults_list(error: BaseException) -> bool:
    """Whether Hydra's defaults list failed, which takes whatever it is given for names."""
    last = ""
    for module, _ in _frames(error):
        last = module
    unfit = isinstance(error, ValueError) and "Config group override must be" in str(error)
    return unfit or (not isinstance(error, HydraException) and last == "hydra._internal.defaults_list")


def _without_package(group: str) -> str | None:
    """For a file whose content went under its group's name, where no field is: the head that it lacks."""
    from brsweep.config.compose import CONF_DIR

    heads = {path.read_text().partition("\n")[0] for path in (CONF_DIR / group).glob("*.yaml")}
    head = next((head for head in heads if head.startswith("# @package")), None)
    return head and f"{group}: a file of this group begins with the line `{head}`, and the one that was chosen lacks it"


def _unknown(key: str, keys: Iterable[str]) -> str:
    keys = list(keys)
    if key in keys and "." in key:
        return f"{key}: not a field of the parts that were chosen; leave it out, or choose one that has it (--cfg job)"
    if key in keys:
        return f"{key}: a group is chosen by its option's name, {key}=option; its values are set one by one"
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{key}: there is no such option{hint} (--cfg job prints them all)"


def _missing(error: MissingConfigException) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    wanted = re.search(r"Could not find '([^']+)'", lines[0])
    options = [line for line in lines[1:] if not line.endswith(":") and "=" not in line and " " not in line]
    if not wanted:
        return lines[0]
    group, _, option = wanted.group(1).rpartition("/")
    if not options:
        return f"{group}={option}: there is no such file in conf/{group}"
    close = difflib.get_close_matches(option, options, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{group}={option}: choose one of {', '.join(options)}{hint}"
