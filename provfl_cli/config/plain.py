"""A validated configuration as text, to be read by another process or on another machine."""

from dataclasses import asdict
from typing import Any

import yaml
from omegaconf import OmegaConf

from .schema import Config
from .validate import BLOCKS, SCALARS, TARGETED, validated


def as_text(config: Config) -> str:
    """All of a configuration but the methods that it is compared with, as YAML (which has whole numbers as keys)."""
    plain: dict[str, Any] = {name: asdict(getattr(config, name)) for name in BLOCKS}
    plain |= {name: _targeted(getattr(config, name)) for name in TARGETED}
    model = asdict(config.model)
    plain["model"] = {"_target_": model.pop("target"), **model.pop("options"), **model}
    plain |= {name: getattr(config, name) for name in SCALARS}
    text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return text


def from_text(text: str) -> Config:
    """The configuration that `as_text` has written, validated again.

    Raises:
        InputError: it does not fit here, such as a folder of data that this machine does not have.
    """
    return validated(OmegaConf.create(yaml.safe_load(text)))


def _targeted(part: Any) -> dict[str, Any]:
    """A part that is its own dataclass, with the name by which it is found again."""
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **asdict(part)}
