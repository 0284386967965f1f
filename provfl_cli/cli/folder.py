"""Run folders: which one is meant, each written by one run at a time, removed where nothing came of a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from ..errors import InputError
from ..imports import later
from ..results.links import refuse_links, refuse_links_of_sweep
from ..results.newest import newest_run
from ..store.locks import CLAIM, FolderClaimed, claim, give_back

if TYPE_CHECKING:
    import omegaconf
    from hydra.core import hydra_config
else:  # commands that open a run need neither
    omegaconf, hydra_config = later("omegaconf"), later("hydra.core.hydra_config")

LAST = "last"  # on the command line in place of a folder
OUTPUTS = Path("outputs")  # where hydra.run.dir and hydra.sweep.dir lead by default


def named(place: str) -> Path:
    """The folder that a command line names; `last` is the run below `outputs/` that ended last.

    A folder called `last` in the working folder is taken as what it is.

    Raises:
        InputError: there is no such run.
    """
    if place != LAST or Path(place).exists():
        return Path(place)
    newest = newest_run(OUTPUTS)
    if newest is None:
        raise InputError(f"last: no run in {OUTPUTS}{os.sep} of this folder: provfl run makes one, or give its folder")
    return newest


def called(folder: Path) -> str:
    """What to type on a command line for a run's folder: `last` where it is that."""
    newest = newest_run(OUTPUTS)
    if newest is not None and not Path(LAST).exists() and newest.absolute() == folder.absolute():
        return LAST
    return shlex.quote(os.path.relpath(folder))


def unclaimed_pattern(cfg: omegaconf.DictConfig, key: str) -> bool:
    """Whether `hydra.KEY.dir` is named after the clock; a folder that the user named is taken as it is."""
    raw = omegaconf.OmegaConf.to_container(cfg.hydra[key], resolve=False)
    return "${now:" in str(raw["dir"])  # type: ignore[index, call-overload]


def wanted(cfg: omegaconf.DictConfig, key: str) -> Path:
    """The folder `hydra.KEY.dir`, what it refers to filled in."""
    current = hydra_config.HydraConfig.instance()
    before = current.cfg
    current.set_config(cfg)
    try:
        folder = str(cfg.hydra[key].dir)
        if not folder.strip():
            raise InputError(f"hydra.{key}.dir: is empty, give a folder (. is the one you are in)")
        return Path(folder)
    finally:
        current.cfg = before


@contextmanager
def held(folder: Path, kind: str, sweep: bool = False, hydra: str = ".hydra") -> Iterator[None]:
    """Within the context no other run writes into the folder, which is made where it is missing.

    What is left empty goes again. `kind` is that of the cache's locks, `store.lock`; `sweep`: whether jobs write into
    folders below; `hydra`: what the configuration is written into.

    Raises:
        Claimed: another run does.
        InputError: the folder is none for a run, or holds a link that leads out of it.
        OSError: it cannot be made, or not be written to.
    """
    rounds = folder / "rounds"
    if rounds.exists() and not rounds.is_symlink():
        raise InputError(f"{rounds} is in the way: a run keeps a link of that name in its folder; move it away")
    if sweep:
        refuse_links_of_sweep(folder)
    else:
        refuse_links(folder, hydra, done="written")
    try:
        lock = claim(folder, kind)
    except FolderClaimed:
        raise FolderClaimed(
            f"{folder}: another run is writing into it: wait until it has ended, or give this one another folder "
            "(hydra.run.dir, of a sweep hydra.sweep.dir)"
        ) from None
    try:
        yield
    finally:
        give_back(lock)
        pruned(folder)


def claimed(cfg: omegaconf.DictConfig, key: str) -> Path:
    """Make the folder `hydra.KEY.dir`, or one beside it with -2, -3, … where another run was there first."""
    first = wanted(cfg, key)
    for number in count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():
                raise InputError(f"{folder} is in the way: not a folder") from None
        except OSError as error:
            raise InputError(f"{folder}: the run folder cannot be made ({error.strerror})") from error
    raise AssertionError("unreachable")


def discard_if_nothing_computed(folder: Path, job_name: str) -> None:
    """Remove the run folder when it holds nothing but Hydra's own files."""
    own = {".hydra", f"{job_name}.log", CLAIM}
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= own:
        rmtree(folder / ".hydra", ignore_errors=True)
        (folder / f"{job_name}.log").unlink(missing_ok=True)
        pruned(folder)


def pruned(folder: Path) -> None:
    """Remove `folder` if it is empty, then the folders above it that are, up to the working folder."""
    here = Path.cwd()
    folder = folder.absolute()
    with suppress(OSError):
        while folder != here and here in folder.parents:
            folder.rmdir()
            folder = folder.parent
