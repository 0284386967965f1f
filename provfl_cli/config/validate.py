"""From a composed configuration to the schema: every value resolved, typed and within its range."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checks import check_number, check_plain, excerpt, ranges
from ..errors import InputError, did_you_mean
from ..provenance.settings import Provenance
from .environment import EnvironmentValue, anchored, environment, hiding
from .fields import converted, fitted, shown
from .lora import Lora
from .parts import Method
from .retrain import Retrain
from .schema import Config, Dataset, Engine, Evaluation, Experiment, Federation, Model, Store
from .targets import imported_part
from .tree import conf_dir, option_file, options
from .warm_start import WarmStart

BLOCKS = {
    "dataset": Dataset,
    "engine": Engine,
    "federation": Federation,
    "provenance": Provenance,
    "store": Store,
    "evaluation": Evaluation,
    "lora": Lora,
    "retrain": Retrain,
    "warm_start": WarmStart,
}
TARGETED = ("partition", "injection", "fusion", "privacy")  # groups whose dataclass stands beside the code that uses it
SCALARS = ("task", "seed", "device", "threshold", "tracefl_beside")
# Of schema.Model; the other keys go to the function as they are.
MODEL_FIELDS = ("name", "input", "min_image_size", "checkpoint", "revision", "pretrained", "tokenizer", "adapter")


def validated(cfg: DictConfig) -> Config:
    """The composed `cfg` as `schema.Config`; its paths absolute, from the folder that `provfl` was called from.

    Raises InputError, one line, for the first thing that is wrong. Imports nothing heavy.
    """
    plain, taken = _resolved(cfg), environment(cfg)
    with hiding(taken, InputError):
        check_plain(plain)
    plain = _anchored(plain)
    taken = anchored(taken, plain)
    with hiding(taken, InputError):
        config = fitted_config(plain, taken)
        if config.dataset.path is not None and not Path(config.dataset.path).exists():
            raise InputError(f"dataset.path={config.dataset.path}: no such folder")
        if config.tracker is not None:
            config.tracker.check()
    return config


def fitted_config(plain: Mapping[str, Any], taken: tuple[EnvironmentValue, ...] = ()) -> Config:
    """`schema.Config` made of plain values, some `taken` from the environment, whatever there is of what they name.

    Raises:
        InputError: one line, for the first thing that is wrong.
    """
    expected = {field.name for field in fields(Config)} - {"environment"}
    for key in plain:
        if key not in expected:
            raise InputError(f"{key}: no such key, {did_you_mean(key, expected)}")
    plain = {
        "lora": {},
        "retrain": {},
        "warm_start": {},
        **plain,
    }  # which configurations of former versions do not have
    for group in (*BLOCKS, *TARGETED, "model"):
        if plain.get(group) is None:
            choices = ", ".join(options(group))
            raise InputError(
                f"{group} is missing: " + (f"choose {group}=one of {choices}" if choices else "a block of keys")
            )
    scalars = converted(Config, {key: plain[key] for key in SCALARS if key in plain}, names=SCALARS)
    for key in ranges(Config):  # before the blocks, some of which take their values over
        check_number(key, scalars[key], ranges(Config)[key])
    parts: dict[str, Any] = {group: fitted(kind, plain[group], group) for group, kind in BLOCKS.items()}
    parts |= {group: _targeted(plain[group], group) for group in TARGETED}
    parts["attribution"] = _methods(plain.get("attribution") or {})
    parts["tracker"] = _targeted(plain["tracker"], "tracker") if plain.get("tracker") else None
    parts["model"] = _model(plain["model"])
    if plain.get("experiment") is not None:
        parts["experiment"] = fitted(Experiment, plain["experiment"], "experiment")
    return Config(**parts, **scalars, environment=taken)


def check_model_options(cfg: DictConfig, defaults: Mapping[str, Any], choice: str) -> None:
    """Refuse model keys that the option's own file (`defaults`) does not have, and values of another type than there.

    A key whose default is null takes anything, a whole number serves where a number is asked for.
    """
    model = cfg.get("model")
    if not isinstance(model, DictConfig):
        return
    plain = OmegaConf.to_container(model, resolve=True)  # blocks as plain as in `defaults`, what is missing as ???
    assert isinstance(plain, dict)
    for key, value in ((str(key), value) for key, value in plain.items()):
        if key not in defaults:
            settings = [name for name in defaults if name != "_target_"]
            raise InputError(f"model.{key}: model={choice} has no such key, {did_you_mean(key, settings)}")
        default = defaults[key]
        fits = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        if key == "min_image_size" and isinstance(default, int) and isinstance(value, int) and value < default:
            raise InputError(f"model.min_image_size={value}: model={choice} reads pictures of {default} or more pixels")
        if default is not None and key not in MODEL_FIELDS and not fits:
            raise InputError(f"model.{key}={shown(value)}: must be like its default, {key}={shown(default)}")


def provenance_preset(name: str) -> Provenance:
    """One of `conf/provenance/*.yaml` with the threshold it comes with, whatever the run itself uses."""
    path = conf_dir() / "provenance" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"provenance={name}: {did_you_mean(name, options('provenance'))}")
    plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(plain, dict)
    return fitted(Provenance, plain["provenance"], "provenance")


def attribution_method(name: str) -> Method:
    """The method of `conf/attribution/NAME.yaml`, with the settings of that file."""
    if name not in options("attribution"):
        raise InputError(f"attribution={name}: {did_you_mean(name, options('attribution'))}")
    plain = OmegaConf.to_container(OmegaConf.load(option_file("attribution", name)), resolve=True)
    return _methods({name: plain})[0]


def model_option(name: str) -> Model:
    """The model of `conf/model/NAME.yaml`, with the settings of that file."""
    if name not in options("model"):
        raise InputError(f"model={name}: {did_you_mean(name, options('model'))}")
    plain = OmegaConf.to_container(OmegaConf.load(option_file("model", name)))
    assert isinstance(plain, dict)
    return _model(plain.get("model", plain))


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` without the `hydra` node as plain values, every interpolation replaced by what it stands for."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]) if "hydra" in cfg else cfg
    try:
        plain = OmegaConf.to_container(own, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{error.full_key or 'the configuration'}: {reason}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _targeted(block: Any, group: str) -> Any:
    """The dataclass that `_target_` names, made from the other keys of `block`."""
    kind = _target(block, group)
    return fitted(kind, {key: value for key, value in block.items() if key != "_target_"}, group)


def _methods(block: Any) -> tuple[Method, ...]:
    """The attribution methods in the order in which they were chosen; `name`, of those that have one, is the key."""
    if not isinstance(block, dict):
        raise InputError(f"attribution={shown(block)}: a list of methods, attribution=[random,cosine]")
    methods = []
    for name, method in block.items():
        group = f"attribution.{name}"
        named = any(field.name == "name" for field in fields(_target(method, group)))
        methods.append(_targeted({**method, "name": name} if named else method, group))
    return tuple(methods)


def _target(block: Any, group: str) -> type:
    """The dataclass that `_target_` of a block names."""
    listed = group.partition(".")[0]
    if not isinstance(block, dict) or not isinstance(block.get("_target_"), str):
        raise InputError(f"{group}: needs _target_, the dotted name of a dataclass ({listed}=…, provfl ls {listed})")
    return imported_part(block["_target_"], group)


def _model(block: Any) -> Model:
    if not isinstance(block, dict) or not isinstance(block.get("_target_"), str):
        raise InputError("model: needs _target_, the dotted name of a function that builds a module (provfl ls model)")
    own = {key: value for key, value in block.items() if key in MODEL_FIELDS}
    rest = {key: value for key, value in block.items() if key not in (*MODEL_FIELDS, "_target_")}
    return fitted(Model, {"target": block["_target_"], **own, "options": rest}, "model")


def _anchored(plain: dict[str, Any]) -> dict[str, Any]:
    """`plain` with `store.cache`, `dataset.path`, `tracker.folder`, a `model.checkpoint` on disk as absolute paths."""
    # Inside a job the working folder may be the run's own (hydra.job.chdir): Hydra remembers the one called from.
    calling = Path(HydraConfig.get().runtime.cwd) if HydraConfig.initialized() else Path.cwd()
    for group, key in (("store", "cache"), ("dataset", "path"), ("tracker", "folder"), ("model", "checkpoint")):
        block = plain.get(group)
        if isinstance(block, dict) and isinstance(block.get(key), str):
            path = _absolute(f"{group}.{key}", block[key], calling)
            if key != "checkpoint" or path.is_dir():  # else a hub id
                plain[group] = {**block, key: str(path)}
    return plain


def _absolute(key: str, text: str, calling: Path) -> Path:
    """The path that `text` is, seen from the folder `calling`; InputError where none can be of that name."""
    if not text.strip():
        raise InputError(f"{key}: is empty, give a path")
    try:
        path = (calling / Path(text).expanduser()).resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # too long, behind a closed folder, ~ of nobody
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{key}={excerpt(text)}: cannot be a path ({reason})") from error
    return path
