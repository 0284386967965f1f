"""Run folders: claimed so that two runs of the same second never share one, removed where nothing came of a run."""

from contextlib import suppress
from itertools import count
from pathlib import Path
from shutil import rmtree

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ..errors import InputError


def unclaimed_pattern(cfg: DictConfig, key: str) -> bool:
    """Whether `hydra.KEY.dir` is named after the clock; a folder that the user named is taken as it is."""
    raw = OmegaConf.to_container(cfg.hydra[key], resolve=False)
    return "${now:" in str(raw["dir"])  # type: ignore[index, call-overload]


def wanted(cfg: DictConfig, key: str) -> Path:
    """The folder `hydra.KEY.dir`, what it refers to filled in."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)
    try:
        folder = str(cfg.hydra[key].dir)
        if not folder.strip():
            raise InputError(f"hydra.{key}.dir: is empty, give a folder (. is the one you are in)")
        return Path(folder)
    finally:
        HydraConfig.instance().cfg = before


def claimed(cfg: DictConfig, key: str) -> Path:
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
    own = {".hydra", f"{job_name}.log"}
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
