"""Which options need an extra of the package, as their summaries say it: `(extra privacy)`; and whether it is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import yaml

from .tree import groups, option_file, options, summary

PACKAGES: Mapping[str, tuple[str, ...]] = {  # what an extra brings, by the name that is imported
    "flower": ("flwr", "ray"),
    "medmnist": ("medmnist",),
    "mlflow": ("mlflow",),
    "nvflare": ("nvflare",),
    "peft": ("peft",),
    "privacy": ("dp_accounting",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}


def of_option(group: str, option: str) -> str | None:
    """The extra that an option needs, None for most."""
    said = re.search(r"\(extra (\w+)\)", summary(option_file(group, option))) if option in options(group) else None
    return said[1] if said else None


def of_experiment(name: str) -> tuple[str, ...]:
    """The extras that the options of an experiment need: those it starts from, and those it sweeps over."""
    content = yaml.safe_load(option_file("experiment", name).read_text(encoding="utf-8"))
    needed = (of_option(group, option) for group, option in _chosen(content))
    return tuple(sorted({extra for extra in needed if extra is not None}))


def installed(extra: str) -> bool:
    """Whether all packages of an extra can be imported; imports none of them."""
    return all(find_spec(package) is not None for package in PACKAGES[extra])


def way_to(extra: str) -> str:
    """What to type to install an extra."""
    return f"pip install 'provfl[{extra}]' (scripts/provfl: PROVFL_EXTRAS={extra})"


def _chosen(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Groups and options that the file of an experiment names."""
    swept = ((content.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    for entry in (*(content.get("defaults") or ()), swept):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            group = key.rpartition(" ")[2].lstrip("/")
            if group in groups():
                taken = value if isinstance(value, list) else str(value).split(",")
                yield from ((group, str(option).strip()) for option in taken)
