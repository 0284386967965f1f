"""The gate: whatever a configuration holds is refused in one line, or within its bounds when anything starts."""

from __future__ import annotations

import random
import time
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from omegaconf import OmegaConf

from provfl_cli.checks import ranges
from provfl_cli.cli import main
from provfl_cli.config.compose import compose_jobs, conf_dir, validated
from provfl_cli.config.fields import hint_of
from provfl_cli.config.schema import Config, Experiment, Model
from provfl_cli.config.validate import BLOCKS
from provfl_cli.errors import InputError
from tests import gate


def targets(block: Any) -> set[str]:
    """The dotted names under `_target_`, wherever they stand."""
    if not isinstance(block, dict):
        return set()
    own = {block["_target_"]} if "_target_" in block else set()
    return own.union(*(targets(value) for value in block.values()))


def dataclasses_of_the_configuration() -> list[type]:
    named = set[str]()
    for path in conf_dir().rglob("*.yaml"):
        named |= targets(yaml.safe_load(path.read_text(encoding="utf-8")))
    settings = sorted(name for name in named if ".models." not in name)  # those are functions
    classes = [getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in settings]
    return [Config, Model, Experiment, *BLOCKS.values(), *(kind for kind in classes if is_dataclass(kind))]


def numbers_in(hint: Any) -> set[type]:
    inner = {hint} & {int, float}
    return inner.union(*(numbers_in(argument) for argument in get_args(hint)))


def test_every_number_of_the_configuration_has_a_range() -> None:
    kinds = dataclasses_of_the_configuration()
    assert len(kinds) > 35
    bare = [
        f"{kind.__name__}.{field.name}"
        for kind in kinds
        for field in fields(kind)
        if numbers_in(hint_of(kind, field.name)) and field.name not in ranges(kind)
    ]
    assert bare == []


LONG = "x" * 5000
REFUSED = {  # what is set, and what the line says
    "federation.straggler_delay=99999999999999999999": "must be 1 or more and at most 1000",
    "federation.rounds=10000000000": "must be 1 or more and at most 100000",
    "model.min_image_size=200000": "must be 1 or more and at most 1024",
    "dataset.mean=[nan]": "dataset.mean.0=nan: must be a finite number",
    "dataset.std=[1e-300]": "dataset.std=1e-300: each value must be 0.001 or more and at most 1000",
    "dataset.std=[inf]": "must be a finite number",
    f"dataset.path={LONG}": "has 5,000 characters, at most 4,096 are accepted",
    f"dataset.path=/{'y' * 300}": "cannot be a path (File name too long)",
    f"store.cache=/{'y' * 300}": "cannot be a path (File name too long)",
    "dataset.path=''": "dataset.path: is empty",
    "store.cache=''": "store.cache: is empty",
    "dataset.path='~nobody_at_all/x'": "cannot be a path (Could not determine home directory.)",
    'dataset.name="a\x07b"': "holds the control character U+0007",
    "threshold=inf": "threshold=inf: must be a finite number",
    "threshold=1e9": "threshold=1000000000.0: must be -1000000 or more",
    "federation.clients=100000 federation.rounds=100000": "would train 10,000,000,000 times, at most 100,000,000",
    "federation.batch_size=1000000000": "at most 100000",
    "engine.workers=1000000": "engine.workers=1000000: must be 1 or more and at most 1024",
    "federation.leaves={1:99999999999999999999}": "federation.leaves=99999999999999999999: each value must be",
    "provenance.rounds=[1,99999999999]": "provenance.rounds=99999999999: each value must be 1 or more",
    "store.keep=99999999999": "at most 100000",
    "model.min_image_size=8": "model=lenet reads pictures of 28 or more pixels",
    "dataset.mean=[1,1,1,1,1] dataset.std=[1,1,1,1,1]": "5 values, give one a channel",
    "fusion=geometric_median fusion.iterations=100000000000000000000": "must be 1 or more and at most 10000",
    "fusion=trimmed_mean fusion.fraction=0.5": "must be 0 or more and below 0.5",
    "attribution=[shapley] attribution.shapley.permutations=1000000000000": "at most 1000000",
    "privacy=central_dp privacy.noise_multiplier=1e300": "at most 1000000",
    "injection=exclusive_label injection.label=99999999999999999999": "at most 999999",
    "dataset=languages model=gpt_mini model.config.n_layer=1000000000": "model.config.n_layer=1000000000: must be",
    "dataset=languages model=gpt_mini model.config.n_embd=65536 model.config.n_layer=900": "parameters, at most",
    "federation.rounds=1 ~store.cache=" + "x" * 5000: "xxx…",
    "federation.rounds=" + "9" * 5000: "a number of 5,000 digits, at most 300",
    "federation.learning_rate=" + "9" * 300: "at most 1000000",
    "attribution=[0.5]": "attribution=[0.5]: a group takes the names of its options",
    "dataset=[1,2]": "dataset=[1,2]: a group takes the names of its options",
    "attribution=[null]": "a group takes the names of its options",
    "attribution=[[cosine]]": "a group takes the names of its options",
    "provenance.layers=" + "[" * 300 + "]" * 300: "is 300 brackets deep, at most 16",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=lambda text: text[:60].encode("unicode_escape").decode())
def test_what_no_machine_could_do_is_refused_and_the_range_said(
    overrides: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert main(["run", *overrides.split(" ")]) == 2
    error = capsys.readouterr().err
    assert REFUSED[overrides] in error
    assert error.count("\n") == 1
    assert len(error) < 900
    assert time.monotonic() - began < 10
    assert not list(workspace.iterdir())


def outcome(check: Any) -> str:
    """`fine`, or the line of an InputError; whatever else is raised goes on."""
    try:
        made = check()
    except InputError as error:
        line = str(error)
        assert line == " ".join(line.split()) and len(line) < 1500, line  # noqa: PT018
        return line
    assert gate.outside(made) == []
    return "fine"


@pytest.mark.slow
def test_whatever_values_are_changed_the_gate_answers(workspace: Path) -> None:
    """Some hundred configurations with values changed at random: each is valid or refused in one line."""
    rng, bases = random.Random(16), gate.composed()
    outcomes = []
    for _ in range(250):
        plain = gate.changed(rng.choice(bases), rng)
        cfg = OmegaConf.create(plain)
        began = time.monotonic()
        outcomes.append(outcome(lambda cfg=cfg: validated(cfg)))
        assert time.monotonic() - began < 10, outcomes[-1]
    assert outcomes.count("fine") > 10, "some of them are valid"
    assert len({line.partition("=")[0] for line in outcomes}) > 60, "most of them in a way of their own"


@pytest.mark.slow
def test_whatever_overrides_are_typed_the_gate_answers(workspace: Path) -> None:
    rng = random.Random(17)
    for _ in range(40):
        overrides = gate.overrides(rng)
        outcome(lambda overrides=overrides: validated(compose_jobs(overrides)[0][1]))
