"""A command from its words to its end.

Hydra composes the configuration and answers --help, --cfg and completion. It does not run anything: it would make
folders before a value is checked, configure logging, environment and callbacks from any YAML (each of which can run
code), and print errors of its own. What is run is `task` with a composed configuration, or the grid's launcher.

What a person can mend is one line on standard error and exit code 1; a fault of the program has its traceback.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from argparse import ArgumentError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from brsweep.config.compose import CONF_DIR
from brsweep.config.hydra_keys import check_hydra, check_typed
from brsweep.config.messages import known_keys, one_line, read_overrides
from brsweep.errors import BrsweepError
from brsweep.memory import check_address_space, lack_of_memory_in_words
from brsweep.secrets import masked

OPEN = ("hydra.sweeper.params", "hydra.launcher.additional_parameters")
ASKED = ("help", "hydra_help", "cfg", "info", "shell_completion")
"""Flags of Hydra's that print something and end."""


def run_command(task: Callable[..., Any], config_name: str, sweeps: bool = True) -> None:
    """Do what the command line says. task: a function that `hydra.main` decorated; config_name: its configuration.
    sweeps: whether --multirun means something to it."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here instead of being printed by Hydra
    try:
        with lack_of_memory_in_words():
            flags = read_flags(sys.argv[1:])
            if flags.shell_completion:
                task()
            else:
                _compose_and_do(task, flags, flags.config_name or config_name, sweeps)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrsweepError as error:
        stop(str(error))
    except Exception as error:
        line = one_line(error, known_keys(config_name))
        if line is None:
            raise
        stop(line)


def stop(line: str) -> NoReturn:
    """End with one line that holds no secret, no line break and nothing that a terminal would take for a command."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in masked(line))
    print(f"error: {escaped}", file=sys.stderr)
    sys.exit(1)


def read_flags(words: Sequence[str]) -> Namespace:
    """Hydra's flags and the overrides, in any order; sys.argv is put into the order that Hydra takes."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise BrsweepError("the working directory is gone; change into one that is there") from None
    parser = get_args_parser()
    parser.exit_on_error = False
    parser.error = _refuse  # type: ignore[method-assign]
    try:
        flags = parser.parse_intermixed_args(list(words))
    except ArgumentError as error:
        raise BrsweepError(f"{' '.join(str(error).split())} (--help shows what there is)") from None
    if flags.experimental_rerun is not None:
        raise BrsweepError("--experimental-rerun: loads a pickle, which can run any code; type the overrides again")
    asked = [flag for flag in (*ASKED, "multirun", "run") if getattr(flags, flag) not in (None, False)]
    if len(asked) > 1:
        flag, other = (f"--{name.replace('_', '-')}" for name in asked[:2])
        raise BrsweepError(f"{flag} and {other}: one at a time")
    if flags.resolve and not (flags.cfg or flags.help):
        raise BrsweepError("--resolve: goes with --cfg job, which prints the configuration")
    if flags.package and not flags.cfg:
        raise BrsweepError("--package: goes with --cfg job, which prints the configuration")
    for flag, given in (("--config-dir", flags.config_dir), ("--config-path", flags.config_path)):
        if given is not None and "://" not in given and not Path(given).is_dir():
            raise BrsweepError(f"{flag} {given}: there is no such folder")
    if flags.shell_completion:
        if not (len(flags.overrides) == 1 and re.fullmatch(r"(query|install|uninstall)=\w+", flags.overrides[0])):
            raise BrsweepError("--shell-completion: give query=bash, install=bash or uninstall=bash (or fish, or zsh)")
    else:
        sys.argv[1:] = [word for word in words if word not in flags.overrides] + flags.overrides
    return flags


def _refuse(message: str) -> NoReturn:
    raise BrsweepError(f"{message} (--help shows the flags; everything else is key=value)")


def _compose_and_do(task: Callable[..., Any], flags: Namespace, config_name: str, sweeps: bool) -> None:
    typed = read_overrides(flags.overrides)
    check_typed(typed)
    overrides = [_opened(override) for override in typed]
    loader = _loader(flags)
    try:
        if flags.hydra_help:
            return task()
        cfg = _composed(loader, config_name, overrides)
        check_hydra(cfg)
        if any(getattr(flags, flag) for flag in ASKED):
            GlobalHydra.instance().clear()
            return task()
        check_address_space()
        cfg.hydra.mode = RunMode.MULTIRUN if flags.multirun else cfg.hydra.mode or RunMode.RUN
        HydraConfig.instance().set_config(cfg)
        if cfg.hydra.mode == RunMode.MULTIRUN:
            if not sweeps:
                raise BrsweepError(
                    "a search is one command: leave --multirun out; it ends with the line for more seeds"
                )
            context = HydraContext(config_loader=loader, callbacks=None)
            sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=task, config=cfg)
            sweeper.sweep(arguments=OmegaConf.to_container(cfg.hydra.overrides.task))  # ${seed} is each point's
        else:
            lists = [override.input_line for override in typed if override.is_sweep_override()]
            if lists:
                raise BrsweepError(
                    f"{lists[0]}: several values make a sweep: add --multirun to your command line; "
                    f"where the comma belongs to one value, put that in quotes: key=\\'a,b\\'"
                )
            alone = [override.input_line for override in typed if override.key_or_group.startswith("sweep.")]
            if alone:
                raise BrsweepError(f"{alone[0]}: has an effect on sweeps alone; add --multirun seed=auto")
            with open_dict(cfg):
                del cfg["hydra"]
            task(cfg)
    finally:
        GlobalHydra.instance().clear()


def _opened(override: Override) -> str:
    """The override as Hydra takes it: the grid's keys are new ones by nature, and want no plus."""
    line = override.input_line or ""
    return f"++{line.lstrip('+')}" if line.lstrip("+").startswith(OPEN) else line


def _loader(flags: Namespace) -> ConfigLoader:
    path = create_config_search_path(str(Path(flags.config_path).absolute()) if flags.config_path else str(CONF_DIR))
    if flags.config_dir is not None:
        schema = next(entry for entry in path.get_path() if entry.provider == "schema")
        path.get_path().remove(schema)
        path.append("command-line", f"file://{Path(flags.config_dir).absolute()}")
        path.append(schema.provider, schema.path)
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2("brsweep", path).config_loader


def _composed(loader: ConfigLoader, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """As for a sweep, whose lists of values are no values yet: what a preset says decides whether it is one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not available", category=UserWarning)
        try:
            return loader.load_configuration(
                config_name, list(overrides), RunMode.MULTIRUN, validate_sweep_overrides=False
            )
        except UserWarning as warning:
            place = str(warning).split("path=")[-1].removesuffix(" is not available.")
            raise BrsweepError(f"hydra.searchpath: there is no folder {place}") from None
