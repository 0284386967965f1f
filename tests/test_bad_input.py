"""Wrong data, and settings that only data or the machine can contradict: exit code 2, one line, nothing left behind.

What the configuration alone shows to be wrong is in `test_cli.py`.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import config
from PIL import Image

from tests.refusals import refusal

CLOSED = "http://127.0.0.1:9"  # nobody listens there
Prepare = Callable[[Path], object]


def png(value: int) -> bytes:
    """A picture, 8x8, in one shade of grey."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), value).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [{"bytes": png(value), "path": None} for value in range(40)]
LABELS = [0, 1] * 20


def parquet(
    pictures: Sequence[object] = PICTURES,
    labels: Sequence[object] = LABELS,
    columns: tuple[str, str] = ("image", "label"),
    names: Sequence[str] = (),
    split: str = "train",
) -> Prepare:
    """Writes one parquet file of these columns."""
    table = pa.table({columns[0]: pa.array(pictures), columns[1]: pa.array(labels)})
    if names:
        features = {"info": {"features": {columns[1]: {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"{split}.parquet")

    return write


def cut_off(folder: Path) -> None:
    parquet()(folder)
    file = folder / "train.parquet"
    file.write_bytes(file.read_bytes()[:-100])


def files(**content: bytes) -> Prepare:
    """Writes files; `__` in a name is a slash, `_` before the ending a dot."""

    def write(folder: Path) -> None:
        for name, data in content.items():
            path = folder / ".".join(name.replace("__", "/").rsplit("_", 1))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return write


def my_model(text: str) -> Prepare:
    """Writes an option of one's own: `--config-dir data model=mine`."""
    return files(model__mine_yaml=text.encode())


MODEL = "name: mine\ninput: image\nmin_image_size: 28\n"
FOLDER = ["dataset=custom", "dataset.path=data", "dataset.image_size=8", "partition=iid", "federation.clients=2"]
DIGITS = ["dataset=digits", "partition=iid", "federation.clients=4"]
SKEWED = ["dataset=digits", "partition.alpha=0.1", "federation.clients=30"]

DATA: dict[str, tuple[Prepare, list[str], list[str]]] = {  # what the folder holds, overrides, what the line contains
    "an empty folder": (lambda folder: folder.mkdir(), [], ["dataset.path=", "neither parquet files nor pictures"]),
    "a parquet file cut off": (cut_off, [], ["train.parquet: broken parquet file"]),
    "no rows": (parquet(PICTURES[:0], LABELS[:0]), [], ["dataset.path="]),
    "no input column": (parquet(columns=("img", "label")), [], ["dataset.input_column=image", "did you mean img?"]),
    "no label column": (parquet(columns=("image", "y")), [], ["dataset.label_column=label", "accepted: image, y"]),
    "both columns the same": (parquet(), ["dataset.label_column=image"], ["column image holds values of type dict"]),
    "an unreadable picture": (
        parquet([*PICTURES[:7], {"bytes": b"GIF89a and then not", "path": None}, *PICTURES[8:]]),
        [],
        ["unreadable picture", "train.parquet row 7", "repair or remove it"],
    ),
    "a picture that is no file": (
        parquet([{"bytes": None, "path": "lost.png"}, *PICTURES[1:]]),
        [],
        ["dataset.input_column=image", "row 0"],
    ),
    "texts for pictures": (parquet(["some words"] * 40), [], ["row 0", "neither a picture nor the path of one"]),
    "an unreadable file": (
        files(cat__1_png=png(1), dog__2_png=b"no picture"),
        ["dataset.test_fraction=0.5"],
        ["unreadable picture", "dog/2.png"],
    ),
    "one class only": (parquet(labels=[1] * 40, names=["no", "yes"]), [], ["one class only (yes)"]),
    "all labels missing": (parquet(labels=[None] * 40), [], ["no label in row 0"]),
    "nothing to hold out": (parquet(), ["dataset.test_fraction=0.001"], ["dataset.test_fraction=0.001"]),
    "too small to share out": (parquet(), [], ["only 0 of 2 clients", "partition.min_examples_per_client"]),
    "more clients than examples": (parquet(), ["federation.clients=33"], ["federation.clients=33", "32 training"]),
    "means of three channels": (
        parquet(),
        ["dataset.mean=[0.1,0.2,0.3]", "dataset.std=[1,1,1]", "partition.min_examples_per_client=8",
         "partition.min_examples_per_label=1"],
        ["3 values, the pictures 1 channel"],
    ),
}  # fmt: skip

SETTINGS: dict[str, tuple[list[str], list[str]]] = {  # overrides, what the line contains
    "custom without data": (["dataset=custom"], ["dataset.hub_id=OWNER/NAME or dataset.path=DIR"]),
    "too few clients kept": ([*SKEWED, "partition.min_examples_per_client=900"], ["only 0 of 30 clients", "lower"]),
    "more a round than kept": ([*SKEWED, "federation.clients_per_round=30"], ["federation.clients_per_round=30"]),
    "minimum of a share": ([*SKEWED, "partition.min_partition_size=50"], ["at most 47"]),
    "flip: no such label": ([*DIGITS, "injection=label_flip", "injection.mapping={1:10}"], ["label 10", "0 to 9"]),
    "flip: nobody holds it": (
        ["dataset=digits", "partition=pathological", "injection=label_flip", "injection.mapping={5:6}"],
        ["clients [0] hold none of these labels", "[0, 1]"],
    ),
    "flip: client dropped": (
        ["dataset=digits", "partition.alpha=0.1", "federation.clients=20", "injection=label_flip",
         f"injection.clients={list(range(20))}".replace(" ", "")],
        ["was dropped", "choose among"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_wrong_data(name: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare, overrides, expected = DATA[name]
    prepare(workspace / "data")
    error = refusal([*FOLDER, *overrides], workspace, capsys)
    assert all(part in error for part in expected), error


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_the_data_contradict(name: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides, expected = SETTINGS[name]
    error = refusal(overrides, workspace, capsys)
    assert all(part in error for part in expected), error


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["dataset.source=hub"], "dataset.source=embedded"),
        (["dataset=cifar10"], "HF_HOME=DIR (a filled cache), or dataset=mnist or dataset=digits (embedded)"),
    ],
)
def test_the_hub_cannot_be_reached(
    overrides: list[str],
    expected: str,
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(workspace / "none"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(workspace / "none"))
    began = time.monotonic()
    error = refusal(overrides, workspace, capsys)
    assert time.monotonic() - began < 10
    assert f"{CLOSED} cannot be reached" in error
    assert "dataset.path=DIR" in error
    assert expected in error


@pytest.mark.slow
def test_published_weights_cannot_be_reached(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(workspace / "none"))
    monkeypatch.setenv("https_proxy", CLOSED)
    began = time.monotonic()
    error = refusal([*DIGITS, "model=resnet18", "model.pretrained=true"], workspace, capsys)
    assert time.monotonic() - began < 10
    assert "cannot be reached: model.pretrained=false, or put" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_such_device(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "this machine has none; device=auto or device=cpu" in refusal([*DIGITS, "device=cuda"], workspace, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"_target_: provfl_cli.models.lenet.lenet\n{MODEL}wide: 3\n", "model.wide: model=mine has no such option"),
        (f"_target_: provfl_cli.models.lenet.lennet\n{MODEL}", "provfl_cli.models.lenet.lennet: cannot be imported"),
    ],
)
def test_a_wrong_model_of_ones_own(
    text: str, expected: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    my_model(text)(workspace / "mine")
    assert expected in refusal([*DIGITS, "--config-dir", "mine", "model=mine"], workspace, capsys)


def test_layer_types_that_the_model_does_not_have(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal([*DIGITS, "provenance.layers=[LSTM]"], workspace, capsys)
    assert "has none of these, only Conv2d, Linear" in line


def test_layer_types_that_nobody_knows(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal([*DIGITS, "provenance.layers=[Conv,Liner]"], workspace, capsys)
    assert "Liner is no layer type, did you mean Linear" in line


@pytest.mark.parametrize("flags", [["hydra.run.dir=taken/run"], ["-m", "hydra.sweep.dir=taken"]])
def test_a_file_where_the_run_folder_should_be(
    flags: list[str], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "taken").touch()
    assert "the run folder cannot be made" in refusal([*DIGITS, *flags], workspace, capsys)
