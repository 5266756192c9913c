"""Hydra's and OmegaConf's errors in one line, with a suggestion for a key that is nearly right."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException


def one_line(error: BaseException, keys: Iterable[str] = ()) -> str | None:
    """The error as one line, or None where it is not about the configuration. keys: those that exist, dotted."""
    if isinstance(error, MissingConfigException):
        return _missing(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: can't be read as key=value ({str(error).splitlines()[0]})"
    if (isinstance(error, ValueError) and "Config group override must be" in str(error)) or _group_of_numbers(error):
        return "a group is chosen by its option's name, group=option; a number or an empty value names none"
    if not isinstance(error, (ConfigCompositionException, OmegaConfBaseException)):
        return None
    text = f"{error}\n{error.__cause__ or ''}"
    unknown = re.search(r"Could not (?:override|delete from|append to) '([^']+)'", text)
    if unknown and ("not in" in text or "No match" in text):
        return _unknown(unknown.group(1).split("@")[0], keys)
    unfit = re.search(r"Error merging override ([^\n]+)\n\s*([^\n]+)", text)
    if unfit:
        return f"{unfit.group(1).lstrip('+')}: {unfit.group(2)}"
    unknown = re.search(r"Key '([^']+)' (?:is )?not in", text)
    if unknown:
        return _unknown(getattr(error, "full_key", None) or unknown.group(1), keys)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = dict.fromkeys(line for line in lines if not line.startswith(("full_key", "object_type", "reference_type")))
    return "; ".join(shown)


def known_keys(config_name: str) -> list[str]:
    """Every dotted key and group that the configuration of that name has, the chosen launcher's options among them."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from brsweep.config.compose import CONF_DIR

    GlobalHydra.instance().clear()
    chosen = [argument for argument in sys.argv[1:] if argument.startswith(("hydra/launcher=", "hydra/sweeper="))]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        try:
            composed = compose(config_name, chosen, return_hydra_config=True)
        except MissingConfigException:  # the choice is what is wrong
            composed = compose(config_name, return_hydra_config=True)
    config = OmegaConf.to_container(composed, resolve=False)
    config["hydra"] = {name: config["hydra"][name] for name in ("launcher", "sweeper")}
    keys: list[str] = [folder.name for folder in CONF_DIR.iterdir() if folder.is_dir()]

    def walk(node: object, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            keys.append(prefix + str(key))
            walk(value, f"{prefix}{key}.")

    walk(config, "")
    return keys


def _group_of_numbers(error: BaseException) -> bool:
    """Whether Hydra's defaults list failed on a group given as a list of numbers, which it takes for names."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return isinstance(error, TypeError) and where == "hydra._internal.defaults_list"


def _unknown(key: str, keys: Iterable[str]) -> str:
    keys = list(keys)
    if key in keys:
        return f"{key}: a group is chosen by its option's name, {key}=option; its values are set one by one"
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{key}: there is no such option{hint} (--cfg job prints them all)"


def _missing(error: MissingConfigException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
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
