"""What tests of adapters share: small networks with them, their federations, and runs from the command line."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import nn

from provfl_cli.cli import main
from provfl_cli.config import schema
from provfl_cli.config.lora import Lora
from provfl_cli.models.build import build
from tests.federations import make_config
from tests.runs import Result
from tests.text_networks import FORM, text_model

COMMON = shlex.split(
    "partition=pathological partition.classes_per_client=3 federation.clients=4"
    " federation.rounds=2 federation.local_epochs=1 partition.max_examples_per_client=100"
    " dataset.max_test_examples=60 evaluation.max_inputs=6 evaluation.inputs=all tracefl_beside=false device=cpu"
)
RUN = [*COMMON, *shlex.split("dataset=languages model=gpt_mini dataset.public_examples=300 dataset.vocabulary=400")]


def of(kind: str, **settings: Any) -> nn.Module:
    """A small network of an architecture, with adapters; the same for the same settings."""
    return build(replace(text_model(kind), adapter="lora"), FORM, 10, 0, Lora(**settings))


def adapter_config(**changes: Any) -> schema.Config:
    """A federation of texts with adapters; `lora` are settings of them."""
    config = make_config(rounds=2)
    dataset, model = replace(config.dataset, input="text"), replace(text_model("openai-gpt"), adapter="lora")
    return replace(config, dataset=dataset, model=model, **changes)


def without_dropout(model: nn.Module) -> nn.Module:
    """The model whose dropout lets all through: it is drawn from the same generator as the rest, in another order."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def ran(folder: Path, *overrides: str) -> Result:
    assert main(["run", *overrides, f"hydra.run.dir={folder}"]) == 0
    return Result(folder)


def agrees(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """`provfl trace` opens the run again, and says of an input what the run has said."""
    capsys.readouterr()
    rows = pd.read_parquet(folder / "contributions.parquet")
    rows = rows[(rows["method"] == rows["method"].iloc[0]) & (rows["scope"] == "round")]
    asked = int(rows["input"].iloc[0])
    assert main(["trace", str(folder), "--input", str(asked), "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    rows = rows[(rows["input"] == asked) & (rows["kind"] == "client")].set_index("client")
    for client in said["methods"][0]["clients"]:
        assert client["contribution"] == pytest.approx(rows.loc[client["client"], "contribution"], rel=1e-3, abs=1e-6)
    return said
