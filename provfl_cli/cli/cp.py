"""`provfl cp GROUP/OPTION FILE`: an option's file to edit, and how to use it afterwards."""

import shlex
from pathlib import Path

from ..config.flags import no_such_flag
from ..config.tree import groups, option_file, options
from ..errors import InputError, RunError, did_you_mean
from ..store.disk import replacing
from .saying import say

USAGE = "provfl cp GROUP/OPTION FILE [--force]: copies an option's file out; FILE may be a folder"


def main(arguments: list[str]) -> int:
    """Copy one option's file; refuses to overwrite without `--force`."""
    if any(argument in ("-h", "--help") for argument in arguments):
        say(USAGE)
        return 0
    force = "--force" in arguments
    names = [argument for argument in arguments if argument != "--force"]
    for flag in (name for name in names if name.startswith("-")):
        raise InputError(f"{no_such_flag(flag, ['--force', '--help'])} (provfl cp --help)")
    if len(names) != 2 or not all(names):
        raise InputError("give an option and a file: provfl cp model/lenet my/model/wide.yaml")
    source, target = _source(names[0]), _target(names[0], names[1])
    if target.exists() and not force:
        raise InputError(f"{target} is there already: another name, or --force to overwrite it")
    try:
        with replacing(target) as beside:
            beside.write_bytes(source.read_bytes())
    except RunError as error:
        raise InputError(str(error)) from error
    say(f"{names[0]} -> {target}")
    say(_how_to_use(names[0].partition("/")[0], target))
    return 0


def _source(name: str) -> Path:
    group, _, option = name.removesuffix(".yaml").rpartition("/")
    if group not in groups():
        holders = [f"{holder}/{option}" for holder in groups() if option in options(holder)]
        answer = f"did you mean {' or '.join(holders[:3])}?" if holders else did_you_mean(group or name, groups())
        raise InputError(f"{name}: no such config group, {answer} (GROUP/OPTION)")
    if option not in options(group):
        raise InputError(f"{name}: {did_you_mean(option, options(group))}")
    return option_file(group, option)


def _target(name: str, destination: str) -> Path:
    """The file to write: a folder becomes a config dir (DIR/GROUP/OPTION.yaml), unless it is a group's folder."""
    path = Path(destination).expanduser()
    group, _, option = name.removesuffix(".yaml").rpartition("/")
    if path.is_dir() or destination.endswith("/"):
        return (path if path.name == group else path / group) / f"{option}.yaml"
    return path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")


def _how_to_use(group: str, target: Path) -> str:
    if target.absolute().parent.name != group:
        return f"to use it, it has to lie in a folder {group}/: provfl cp into DIR/{group}/{target.name}"
    folder = shlex.quote(str(target.parent.parent))
    return f"use it: provfl run --config-dir {folder} {group}={target.stem}"
