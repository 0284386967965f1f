"""Composition by Hydra: one command line becomes one configuration a job, all of them checked before any of them runs.

Hydra composes and expands sweeps; what is here only calls it in the right order and says in one line what is wrong.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from ..checks import check_override
from ..errors import InputError
from .environment import environment, hiding
from .explain import explained
from .fields import fitted
from .flags import unknown_flag
from .loader import PLACES, Composer, Loader
from .schema import Experiment
from .tree import conf_dir
from .validate import check_model_options, provenance_preset, validated

__all__ = ["Plan", "compose_jobs", "conf_dir", "hydra_session", "parse", "plan", "provenance_preset", "validated"]

PRIMARY = "config"
BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"


@dataclass(frozen=True)
class Plan:
    """What a command line asks for: one job, or all jobs of a sweep."""

    config_name: str
    overrides: list[str]  # as given, the mode added where a flag chose it
    sweep: bool
    base: DictConfig  # with Hydra's own node, of the single job or of the sweep as a whole
    jobs: list[tuple[list[str], DictConfig]]  # what each job overrides, and its composed configuration
    experiment: Experiment | None = None  # what the sweep is made to show


def parser() -> ArgumentParser:
    """Hydra's own parser of flags and overrides, which answers with an InputError instead of its usage."""

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{unknown_flag(message, made)} (provfl run --help)")

    made: ArgumentParser = get_args_parser()
    made.error = refuse  # type: ignore[method-assign]
    return made


def parse(argv: Sequence[str]) -> Namespace:
    """Flags and overrides of `provfl run`, in any order."""
    args = parser().parse_intermixed_args(list(argv))
    if args.experimental_rerun is not None:
        raise InputError("--experimental-rerun reads pickles: use --config-dir RUN/.hydra to repeat a run")
    for override in args.overrides:
        check_override(override)
    return args


@contextmanager
def hydra_session(args: Namespace) -> Iterator[Hydra]:
    """A Hydra that reads the project's tree, and before it the folder that `--config-dir` names.

    Every error of composition inside the block leaves it as a one-line InputError.
    """
    version.setbase("1.3")
    if args.config_path is not None and not Path(args.config_path).is_dir():
        raise InputError(f"--config-path {args.config_path}: no such folder")
    search_path = create_config_search_path(str(Path(args.config_path or conf_dir()).absolute()))
    if args.config_dir is not None:
        if not Path(args.config_dir).is_dir():
            raise InputError(f"--config-dir {args.config_dir}: no such folder")
        # Before the project's tree, not behind it as Hydra does: an edited copy of an option has to win.
        search_path.prepend("command-line", f"file://{Path(args.config_dir).absolute()}", SearchPathQuery("main"))
    before = HydraConfig.instance().cfg
    hydra = Composer("provfl", Loader(search_path))
    GlobalHydra.instance().initialize(hydra)
    try:
        with explained(hydra, args.config_name or PRIMARY, args.overrides):
            yield hydra
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = before  # Hydra leaves that of its last job


def plan(hydra: Hydra, args: Namespace) -> Plan:
    """Compose every job that `args` asks for, and check each against the schema.

    A sweep is expanded as Hydra's basic sweeper does it. Other sweepers choose their jobs as they go: of those only
    the configuration they start from is checked. Raises InputError, or Hydra's errors (see `hydra_session`).
    """
    name = args.config_name or PRIMARY
    composed = _of_any_mode(hydra, name, args.overrides) if _may_set_mode(args) else None
    mode = None if composed is None else composed.hydra.mode
    sweep = args.multirun or (mode == RunMode.MULTIRUN)
    wanted = RunMode.MULTIRUN if sweep else RunMode.RUN
    overrides = [*args.overrides, *([f"hydra.mode={wanted.name}"] if mode != wanted else [])]
    base = (
        composed if composed is not None and mode == RunMode.MULTIRUN else hydra.compose_config(name, overrides, wanted)
    )
    if not sweep:
        candidates = iter([(texts(base.hydra.overrides.task), base)])
    elif base.hydra.sweeper._target_ == BASIC_SWEEPER:
        candidates = _expanded(hydra, base)
    else:
        candidates = iter(())
        _check(hydra, base, {})
    files: dict[str, dict[str, Any]] = {}
    jobs = []
    for job in candidates:
        _check(hydra, job[1], files)
        jobs.append(job)
    return Plan(name, overrides, sweep, base, jobs, shown_by(base))


def shown_by(cfg: DictConfig) -> Experiment | None:
    """The `experiment` block of a composed configuration, None where it has none; InputError where it is wrong."""
    block = cfg.get("experiment")
    if block is None:
        return None
    return fitted(Experiment, OmegaConf.to_container(block, resolve=True), "experiment")


def compose_jobs(argv: Sequence[str]) -> list[tuple[list[str], DictConfig]]:
    """The jobs of the command line `provfl run ARGV`, composed and checked: their overrides and configurations."""
    args = parse(argv)
    with hydra_session(args) as hydra:
        return plan(hydra, args).jobs


def texts(overrides: Any) -> list[str]:
    """A list of overrides out of Hydra's node, `${…}` left as it was typed."""
    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in plain]


def _may_set_mode(args: Namespace) -> bool:
    """Whether a file may say that this is a sweep: an experiment, or one of the user's own. Composing takes time."""
    own = args.config_name not in (None, PRIMARY) or args.config_dir or args.config_path
    named = (text.lstrip("+~") for text in args.overrides)
    return bool(own) or any(text.startswith(("experiment", "hydra")) and not text.startswith(PLACES) for text in named)


def _of_any_mode(hydra: Hydra, name: str, overrides: list[str]) -> DictConfig:
    """The configuration for whatever it is to be, a job or a sweep: its `hydra.mode` tells, or is null."""
    return hydra.compose_config(name, overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)


def _expanded(hydra: Hydra, base: DictConfig) -> Iterator[tuple[list[str], DictConfig]]:
    """The jobs of a sweep: every combination of `hydra.sweeper.params` and of the overrides with several values."""
    arguments = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
    arguments += texts(base.hydra.overrides.task)
    size = base.hydra.sweeper.max_batch_size
    if size is not None and size < 1:
        raise InputError(f"hydra.sweeper.max_batch_size={size}: must be 1 or more, or null")
    parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(arguments)
    for number, overrides in enumerate(BasicSweeper.split_arguments(parsed, None)[0]):
        cfg = hydra.config_loader.load_sweep_config(base, overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = str(number)
            cfg.hydra.job.num = number
        yield overrides, cfg


def _check(hydra: Hydra, cfg: DictConfig, files: dict[str, dict[str, Any]]) -> None:
    """Raise InputError unless `cfg` fits the schema, its model's keys those of the option's file (kept in `files`)."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(cfg)  # so that ${hydra:…} resolves as it will in the job
    try:
        choice = cfg.hydra.runtime.choices.get("model")
        if choice is not None:
            if choice not in files:
                files[choice] = _keys_of(hydra, f"model/{choice}")
            try:
                check_model_options(cfg, files[choice], choice)
            except InputError:
                with hiding(environment(cfg), InputError):
                    raise
        validated(cfg)
    finally:
        HydraConfig.instance().cfg = before


def _keys_of(hydra: Hydra, path: str) -> dict[str, Any]:
    """The keys that the file of an option holds, defaults of its own followed."""
    loaded = hydra.config_loader.repository.load_config(path)  # type: ignore[attr-defined]
    if loaded is not None and not loaded.defaults_list:  # as it is: composing it would take ten times as long
        config = loaded.config if loaded.header.get("package") != "_global_" else loaded.config[path.split("/")[0]]
        return {str(key): value for key, value in OmegaConf.to_container(config).items()}  # type: ignore[union-attr]
    composed = hydra.compose_config(path, [], RunMode.MULTIRUN, validate_sweep_overrides=False)
    for part in path.split("/")[:-1]:
        composed = composed[part]
    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}
