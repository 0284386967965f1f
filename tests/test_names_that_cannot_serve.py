"""`provfl run` takes any name that its user types; one that cannot serve is said before data are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from provfl_cli.attribution.method import Attribution
from provfl_cli.cli import main
from provfl_cli.config.parts import Injection, Partition, Tracker
from provfl_cli.config.targets import ASKED
from provfl_cli.errors import InputError
from provfl_cli.fusion.fuse import Fusion
from provfl_cli.fusion.privacy import Privacy

SERVING = """
from dataclasses import dataclass
from torch import nn

def build(channels, classes, image_size, width): return nn.Linear(1, 1)
def returns_none(channels, classes, image_size): return None
def exits(channels, classes, image_size): raise SystemExit(0)
def takes_anything(**options): return options
def one_argument(classes): return nn.Linear(1, 1)
def forty_two(): return 42
def needs(something): return 42

@dataclass(frozen=True)
class Nothing:
    alpha: float = 1.0
"""
PROTOCOLS = {
    "partition": Partition, "injection": Injection, "fusion": Fusion, "privacy": Privacy, "attribution": Attribution,
    "tracker": Tracker,
}  # fmt: skip
MODEL = "a model function takes (channels, classes, image_size) by name, and options, and returns a torch.nn.Module"
ALL = "takes no argument and returns provfl_cli.data.examples.Examples"
CASES = {
    ("model._target_=os.getpid",): MODEL,
    ("model._target_=builtins.dict",): MODEL,
    ("model._target_=os.sep",): "is no function: " + MODEL,
    ("model._target_=torch.nn.Linear",): MODEL,
    ("model._target_=my_parts.one_argument",): "unexpected keyword argument 'channels'): " + MODEL,
    ("model._target_=my_parts.build",): "missing a required argument: 'width'): " + MODEL,
    ("model._target_=my_parts.returns_none",): "returns NoneType, no torch.nn.Module: " + MODEL,
    ("model._target_=my_parts.takes_anything",): "returns dict, no torch.nn.Module: " + MODEL,
    ("model._target_=my_parts.exits",): "calling it failed (SystemExit: 0): " + MODEL,
    ("model._target_=my_exit.build",): "cannot be imported (SystemExit: 0)",
    ("model._target_=my_broken.build",): "cannot be imported (ZeroDivisionError: division by zero)",
    ("model._target_=",): "cannot be imported",
    ("dataset.embedded=os.abort",): ALL,
    ("dataset.embedded=os.getpid",): ALL,
    ("dataset.embedded=my_parts.needs",): "missing a required argument: 'something'): it " + ALL,
    ("dataset.embedded=my_parts.forty_two",): "returns int: it " + ALL,
    ("dataset.embedded=my_broken.forty_two",): "cannot be imported (ZeroDivisionError",
    ("partition._target_=os.getpid",): "not a dataclass",
    ("partition._target_=provfl_cli.fusion.fedavg.FedAvg",): "has no partitioner, which is asked of partition",
    ("fusion._target_=my_parts.Nothing",): "has no shares, which is asked of fusion",
    ("fusion._target_=my_broken.Nothing",): "cannot be imported (ZeroDivisionError",
    ("injection._target_=provfl_cli.data.partition.Iid",): "has no apply, which is asked of injection",
    ("privacy._target_=provfl_cli.fusion.fedavg.FedAvg",): "which is asked of privacy",
    ("+tracker._target_=my_parts.Nothing",): "has no start, which is asked of tracker",
    ("attribution=[random]", "attribution.random._target_=my_parts.Nothing"): "has no attribute, which is asked of",
}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", CASES)
def test_it_is_wrong_input(
    overrides: tuple[str, ...], workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "my_parts.py").write_text(SERVING)
    (workspace / "my_broken.py").write_text("1 / 0\n")
    (workspace / "my_exit.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(str(workspace))

    def refuse(config: object) -> None:
        raise InputError("data were read first")

    called = any(name in overrides[0] for name in ("returns_none", "takes_anything", "forty_two", "exits"))
    if not called:  # of those only the call tells
        monkeypatch.setattr("provfl_cli.run.prepared.federated_data", refuse)
    assert main(["run", "dataset=digits", "model=lenet", *overrides, "hydra.run.dir=run"]) == 2
    error = capsys.readouterr().err
    assert CASES[overrides] in error
    assert error.startswith("provfl: ")
    assert error.count("\n") == 1
    assert not (workspace / "outputs" / "cache").exists(), "nothing was trained"


@pytest.mark.parametrize("group", ASKED)
def test_a_part_is_asked_for_all_that_its_protocol_has(group: str) -> None:
    members = {name for kind in PROTOCOLS[group].__mro__ for name in vars(kind) if not name.startswith("_")}
    named_by_its_key = {"name"} if group == "attribution" else set()
    assert set(ASKED[group]) == members - named_by_its_key
