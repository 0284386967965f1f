"""Configurations changed at random, for the gate: what is composed, and what somebody might write into it."""

from __future__ import annotations

import copy
import random
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf

from provfl_cli.checks import ranges
from provfl_cli.config.compose import compose_jobs
from provfl_cli.config.validate import BLOCKS

BASES = (  # every group's options with numbers of their own are in one of them
    (),
    ("fusion=trimmed_mean", "privacy=central_dp", "partition=iid"),
    ("fusion=fedavgm", "partition=shard", "injection=backdoor", "attribution=[shapley,feddebug,gradient_neurons]"),
    ("fusion=fedadam", "partition=pathological", "injection=scaled_update", "provenance=faithful", "experiment=smoke"),
    ("fusion=scaffold", "partition=iid", "injection=exclusive_label", "dataset=digits", "federation.sampling=markov"),
    ("fusion=geometric_median", "injection=noisy_labels", "federation.stragglers=0.5", "store.keep=3"),
    ("dataset=languages", "model=gpt_mini", "fusion=multi_krum", "injection=free_rider", "provenance.rounds=[1,2]"),
    ("fusion=norm_clipping", "injection=label_flip", "federation.joins={3: 2}", "provenance=equations"),
)
NUMBERS = (0, -1, 1, 2, 3, 0.5, 1e-300, -1e300, 1e300, 10**10, -(10**20), 10**20, 10**400, 2**63, float("nan"))
OTHERS = (
    float("inf"), -float("inf"), True, None, "", " ", "x", "x" * 5000, "/" + "y" * 300, "a\0b", "\x1b[2J", "~nobody/x",
    "..", "/", "???", "${nothing}", "${seed}", "\ud800", "nan", "1e999", "9" * 5000, [], {}, [1, 2], [None],
    [float("nan")], [10**20], [1e-300], ["a", "a"], {"a": 1}, {1: 10**20}, {-1: 1}, {1: "x"}, [0] * 10_001, "0x10",
    [[1]], {"a": {"b": {"c": {}}}}, ["\n"], "os.getpid", "line\nbreak",
)  # fmt: skip


def composed() -> list[dict[str, Any]]:
    """Each of `BASES` as plain values, interpolations as they are."""
    return [_plain(compose_jobs(base)[0][1]) for base in BASES]


def _plain(cfg: Any) -> dict[str, Any]:
    made = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    assert isinstance(made, dict)
    return made


def leaves(block: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where values stand in a configuration; blocks count as well, so that they are replaced now and then."""
    places = []
    for key, value in block.items():
        places.append((*path, key))
        if isinstance(value, dict):
            places += leaves(value, (*path, key))
    return places


def changed(base: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy of `base` in which one to three values are others."""
    made = copy.deepcopy(base)
    for _ in range(rng.randint(1, 3)):
        *parents, last = rng.choice(leaves(made))
        block = made
        for key in parents:
            block = block[key]
        block[last] = copy.deepcopy(rng.choice(NUMBERS if rng.random() < 0.7 else OTHERS))
    return made


def outside(part: Any, key: str = "") -> list[str]:
    """Numbers of a validated configuration that are not in the range declared for them."""
    wrong = []
    declared = ranges(type(part))
    for field in fields(part):
        value, name = getattr(part, field.name), f"{key}.{field.name}"
        for part_of_value in value if isinstance(value, tuple) else [value]:
            if is_dataclass(part_of_value):
                wrong += outside(part_of_value, name)
        values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for number in values:
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if field.name in declared and is_number and number not in declared[field.name]:
                wrong.append(f"{name}={number}")
    return wrong


KEYS = [
    "seed",
    "threshold",
    "device",
    "experiment",
    "attribution",
    "injection",
    "privacy",
    "partition",
    "fusion",
    "model",
]
KEYS += [f"{group}.{field.name}" for group, kind in BLOCKS.items() for field in fields(kind)]
KEYS += ["partition.alpha", "partition.min_examples_per_label", "model.min_image_size", "model.name", "model._target_"]
TYPED = (
    "0", "-1", "1e300", "nan", "inf", "99999999999999999999", "null", "true", "''", "'a b'", "[]", "{}", "[1,2", "${x}",
    "${seed}", "???", "x" * 5000, "[nan]", "{1: -5}", "\x1b[31m", "9" * 5000, "[" * 300 + "]" * 300, "a,b", "=", "a:b",
    "range(0,9)", "choice(1,2)", "\\", '"', "é\u202e", "int(3)", "1e-320", "-0.0", "0x1F", "1_000", "$(id)", "\n",
)  # fmt: skip


def overrides(rng: random.Random) -> list[str]:
    """A command line of one to four overrides, some of which choose an option."""
    base = list(rng.choice(BASES)) if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        sign = rng.choice(["", "", "", "", "+", "++", "~"])
        base.append(f"{sign}{rng.choice(KEYS)}={rng.choice(TYPED)}")
    return base
