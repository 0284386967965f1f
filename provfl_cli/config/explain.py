"""Hydra's and OmegaConf's errors as one line: what was wrong, what is accepted, what to type instead."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from ..checks import excerpt
from ..errors import InputError, did_you_mean
from .builtin import CALLED
from .tree import options

LONGEST_MESSAGE = 800  # characters: some repeat a value in full
LAUNCHER = "hydra/launcher"
LAUNCHERS = {  # that come with an extra of the project: its name
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
    "ray_aws": "ray",
}


@contextmanager
def explained(hydra: Hydra, config_name: str, overrides: list[str]) -> Iterator[None]:
    """Turn what composition raises inside the block into an InputError of one line; `overrides` are the user's."""
    try:
        yield
    except OverrideParseException as error:
        raise InputError(
            f"{excerpt(error.override)}: cannot be read as an override: KEY=VALUE, a list as KEY=[a,b], "
            "special characters in quotes ('KEY=\"a b\"')"
        ) from error
    except MissingConfigException as error:
        raise InputError(excerpt(_missing(hydra, error), LONGEST_MESSAGE)) from error
    except YAMLError as error:
        raise InputError(f"not valid YAML: {_one_line(error)}") from error
    except RecursionError as error:
        raise InputError("the configuration refers to itself, or its blocks are too deep inside each other") from error
    except TypeError as error:  # of Hydra, which looks into a list of options as if each were a text
        argument = _list_of_options(hydra, overrides)
        if argument is None:
            raise
        raise InputError(f"{excerpt(argument)}: a group takes the names of its options (provfl ls)") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(excerpt(_composition(hydra, config_name, overrides, error), LONGEST_MESSAGE)) from error


def _list_of_options(hydra: Hydra, overrides: list[str]) -> str | None:
    """The override that gives a group a list; None where there is none."""
    groups = _groups(hydra)
    named = (text for text in overrides if text.partition("=")[0].lstrip("+~").partition("@")[0] in groups)
    return next((text for text in named if text.partition("=")[2].startswith("[")), None)


def _missing(hydra: Hydra, error: MissingConfigException) -> str:
    """A config file that is not there: an unknown option of a group, or an unknown `--config-name`."""
    group, slash, option = (error.missing_cfg_file or "").rpartition("/")
    if not slash:
        names = hydra.config_loader.get_group_options("")
        return f"--config-name {option}: no such file, {did_you_mean(option, names)}"
    if group == LAUNCHER and option in LAUNCHERS:
        extra = LAUNCHERS[option]
        return f"{group}={option} needs an extra: pip install 'provfl[{extra}]' (scripts/provfl: PROVFL_EXTRAS={extra})"
    known = error.options or hydra.config_loader.get_group_options(group)
    if known:
        return f"{group}={option}: {did_you_mean(option, known)}"
    return f"{group}: no such config group, {did_you_mean(group, _groups(hydra))}"


def _composition(hydra: Hydra, config_name: str, overrides: list[str], error: Exception) -> str:
    cause = error.__cause__
    key = cause.full_key if isinstance(cause, ConfigKeyError | ConfigAttributeError) else None
    method = _method_not_chosen(str(key), overrides)
    if method:
        return f"attribution.{method}: {method} is not among the methods: attribution=[{method}]"
    if key:
        argument = next(
            (override for override in overrides if override.partition("=")[0].lstrip("+~") == key), str(key)
        )
        near = _nearest_key(str(key), _composed(hydra, config_name, overrides), _groups(hydra))
        return f"{argument}: no such key, {near}"
    text = _one_line(error)
    if text.startswith("Ambiguous value for argument"):
        argument = text.split("'")[1]
        name, _, values = argument.partition("=")
        return f"{argument}: add -m to run one job a value, or write a list as {name}=[{values}]"
    if "requires --multirun" in text:
        return f"{text.split(chr(39))[1]}: add -m to run one job a value"
    if text.startswith("Config group override must be"):
        argument = next((override for override in overrides if override.partition("=")[0] in ("", *_groups(hydra))), "")
        return f"{argument or text}: a group takes the name of one of its options (provfl ls)"
    if text.endswith("more than once in the final defaults list"):
        return f"{text.split()[0]} is chosen twice: write it once, {text.split()[0]}=OPTION, without +"
    if text.startswith("Could not append to config."):
        there = text.split("'")[1]
        return f"+{there}: there is a key {there} already, write {there}=VALUE"
    text = text.removeprefix("Could not delete from config. ")
    return text if not isinstance(cause, OmegaConfBaseException) else f"{text}: {str(cause).splitlines()[0]}"


def _method_not_chosen(key: str, overrides: list[str]) -> str:
    """The attribution method that an override sets something of, where `key` is missing since it is not chosen."""
    keys = [override.partition("=")[0].split(".") for override in overrides]
    names = {parts[1] for parts in keys if parts[0] == "attribution" and len(parts) > 2}
    missing = {name for name in names if key in ("attribution", f"attribution.{name}")}
    return next((name for name in sorted(missing & set(options("attribution")))), "")


def _nearest_key(wrong: str, cfg: DictConfig | None, groups: list[str]) -> str:
    """What to type for the unknown key `wrong`: a near name beside it, the same name elsewhere, or a near one there."""
    known = sorted(_full_keys(cfg)) if cfg is not None else []
    parent, _, last = wrong.rpartition(".")
    names = {key: key.rpartition(".")[2] for key in known}
    beside = [key for key in known if key.rpartition(".")[0] == parent]
    same = [key for key in known if names[key] == last]
    if parent and beside and not same:
        near = get_close_matches(last, [names[key] for key in beside], n=3, cutoff=0.6)
        settings = (names[key] for key in beside if names[key] != CALLED)
        return _question([f"{parent}.{name}" for name in near]) or did_you_mean("", settings, 30)
    tops = {*groups, *(key for key in known if "." not in key and key != "hydra")}
    near = get_close_matches(last, set(names.values()), n=2, cutoff=0.7)
    return (
        _question(same)
        or _question(get_close_matches(wrong, tops, n=3, cutoff=0.6))
        or _question([key for key in known if names[key] in near and not key.startswith("hydra.")])
        or did_you_mean("", tops, limit=30)
    )


def _question(keys: list[str]) -> str:
    return f"did you mean {' or '.join(keys[:3])}?" if keys else ""


def _full_keys(cfg: Any, prefix: str = "") -> Iterator[str]:
    for key, value in cfg.items_ex(resolve=False):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
            yield from _full_keys(value, f"{prefix}{key}.")


def _composed(hydra: Hydra, config_name: str, overrides: list[str]) -> DictConfig | None:
    """The configuration with the user's choices of options and nothing else of theirs: the keys that there are."""
    groups = set(_groups(hydra))
    chosen = []
    for text in overrides:
        with suppress(HydraException):
            parsed = OverridesParser.create().parse_override(text)
            if parsed.key_or_group in groups and not parsed.is_sweep_override():
                chosen.append(text)
    for attempt in (chosen, []):
        with suppress(Exception):
            return hydra.compose_config(config_name, attempt, RunMode.MULTIRUN, validate_sweep_overrides=False)
    return None


def _groups(hydra: Hydra) -> list[str]:
    return [group for group in hydra.list_all_config_groups() if not group.startswith("hydra")]


def _one_line(error: BaseException) -> str:
    """The message of `error` without line breaks, Hydra's list of search paths and its links left out."""
    text = str(error).split("Config search path")[0].split("See https://hydra.cc")[0]
    return " ".join(text.split()) or type(error).__name__
