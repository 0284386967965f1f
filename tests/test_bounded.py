"""Small files that would become large ones are refused in one line, before they are read; what is real is read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import EpsImagePlugin, Image

from provfl_cli import load_run
from provfl_cli.bounded import (
    JSON_BYTES,
    Oversized,
    check_safetensors,
    read_csv,
    read_end,
    read_json,
    read_json_lines,
    read_text,
)
from provfl_cli.bounded_tables import RUN_TABLES, Room, check_dataset, check_run_table
from provfl_cli.cli import main
from provfl_cli.config.schema import Dataset
from provfl_cli.data import npz
from provfl_cli.data.decode import decode
from provfl_cli.data.picture import MOST_PIXELS, open_picture
from provfl_cli.data.tables import read_table
from provfl_cli.errors import InputError, RunError
from provfl_cli.parquet import measured
from provfl_cli.run.earlier import rounds_traced
from provfl_cli.run.inputs import RunInputs
from provfl_cli.run.manifest import form_of
from provfl_cli.store.recorded import read_recorded
from provfl_cli.store.tensorfile import open_tensors
from tests.made_runs import whole_run

from .unread import never_read


def shared(path: Path, rows: int, text: str, name: str = "text", nested: bool = False) -> Path:
    """A table of kilobytes: one text, to which all rows refer."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [text])
    numbers = pa.array(np.zeros(rows, np.int32))
    column = pa.StructArray.from_arrays([column], ["bytes"]) if nested else column
    pq.write_table(pa.table({"round": numbers, "input": numbers, name: column}), path, compression="zstd")
    assert path.stat().st_size < 300_000
    return path


def png(width: int, height: int, rows: int = 1) -> bytes:
    """The beginning of a picture of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width // 8 + 1) * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return whole_run(tmp_path / "run", inputs=6)


def many_rows(path: Path) -> None:
    shared(path, 1_500_000, "x")


def one_long_text(path: Path) -> None:
    shared(path, 400_000, "y" * 200_000, "method" if path.name == "contributions.parquet" else "text")


def deep(path: Path) -> None:
    path.write_text('{"a":' + "[" * 200_000)


def long(path: Path) -> None:
    path.write_text('{"a": "' + "x" * JSON_BYTES + '"}')


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def wide(path: Path) -> None:
    path.write_text(",".join(map(str, range(200_000))) + "\n")


BOMBS: list[tuple[str, Callable[[Path], None], str]] = [
    ("inputs.parquet", many_rows, "1,500,000 rows, at most 1,000,000 are read"),
    ("inputs.parquet", one_long_text, "more than the 2.0 GB of memory"),
    ("contributions.parquet", one_long_text, "more than the 5.0 GB of memory"),
    ("layers.parquet", one_long_text, "more than the 5.0 GB of memory"),
    ("manifest.json", long, "16.0 MB, at most 16.0 MB are read"),
    ("manifest.json", deep, "nested too deeply"),
    ("participation.csv", wide, "200,000 columns, at most 10,000 are read"),
]


@pytest.mark.parametrize(("name", "bomb", "says"), BOMBS)
def test_what_opens_a_run_refuses_a_table_that_would_explode(
    name: str, bomb: Callable[[Path], None], says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb(run / name)
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
    assert name in said
    with pytest.raises(InputError, match="cannot be read") as refused:
        load_run(run)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "localization.csv"])
@pytest.mark.parametrize("bomb", [deep, endless, wide])
def test_a_run_whose_small_files_are_bombs_has_nothing_to_show(
    name: str, bomb: Callable[[Path], None], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb(run / name)
    assert main(["table", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no run has ended well" in said


@pytest.mark.parametrize("bomb", [many_rows, one_long_text])
def test_a_trace_refuses_them_too(bomb: Callable[[Path], None], tmp_path: Path) -> None:
    bomb(tmp_path / "inputs.parquet")
    with pytest.raises(RunError, match=r"inputs\.parquet is not opened: .* (at most|more than)"):
        rounds_traced(tmp_path)
    with pytest.raises(RunError, match=r"inputs\.parquet is not opened: .* (at most|more than)"):
        RunInputs(tmp_path, None, never_read, None, (), "").first(1)  # type: ignore[arg-type]


def test_of_the_inputs_only_the_one_asked_for_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame({"round": [1, 1, 2, 2], "input": [5, 7, 5, 7], "text": list("abcd"), "label": 0})
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "inputs.parquet", row_group_size=3)
    inputs = RunInputs(tmp_path, None, never_read, None, (), "")  # type: ignore[arg-type]
    assert [inputs._row(position)["text"] for position in range(4)] == list("abcd")
    assert inputs._traced().columns.tolist() == ["round", "input"]


def test_a_recorded_federation_is_bounded(tmp_path: Path) -> None:
    deep(tmp_path / "recorded.json")
    with pytest.raises(RunError, match="nested too deeply"):
        read_recorded(tmp_path)


def test_text_and_json_are_read_as_they_are_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\n\n{"b": "é\u2028"}\n', encoding="utf-8")
    assert read_json_lines(path) == [{"a": 1}, {"b": "é\u2028"}]
    assert read_text(path, path.stat().st_size).startswith("{")
    with pytest.raises(Oversized, match="at most"):
        read_text(path, path.stat().st_size - 1)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="no JSON object"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        read_json(tmp_path / "pipe")
    (tmp_path / "log").write_text("x" * 500_000 + "\nRunError: the end")
    assert read_end(tmp_path / "log").endswith("the end")
    assert len(read_end(tmp_path / "log")) == 100_000


def test_a_csv_reads_as_pandas_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    frame = pd.DataFrame({"a": [1, 2], "b": ["x,y", None], "c": [0.5, np.nan]})
    frame.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_csv(path), pd.read_csv(path))
    wide(path)
    with pytest.raises(Oversized, match="200,000 columns"):
        read_csv(path)


@pytest.mark.parametrize("kind", ["text", "nested", "delta"])
def test_a_dataset_may_be_large_but_not_out_of_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    if kind == "delta":
        texts = pa.array(["y" * 10_000] * 1000)
        pq.write_table(
            pa.table({"text": texts}), path, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}
        )
        assert measured(path)[1] > 10_000_000
        return
    shared(path, 400_000, "y" * 200_000, nested=kind == "nested")
    with pytest.raises(InputError, match=r"train\.parquet: .* KB would become more than the 4\.0 GB"):
        read_table(path, Dataset(name="x", source="path", path="x", input="text"))


def test_sizes_are_what_a_table_takes(tmp_path: Path) -> None:
    """Within a third, so that real tables pass, and no more than twice as large ones."""
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "number": random.normal(size=5000),
            "name": pa.array(["client", "momentum"] * 2500),
            "text": pa.array([f"a sentence, number {number}, of some words" for number in range(5000)]),
            "list": pa.array([[1.0, 2.0]] * 5000),
            "image": pa.array([{"bytes": bytes(random.bytes(200)), "path": "x"}] * 5000),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2000)
    rows, size = measured(tmp_path / "a.parquet")
    assert rows == 5000
    assert 0.67 < size / table.nbytes < 2
    check_dataset(tmp_path / "a.parquet")
    with pytest.raises(Oversized, match="5,000 rows, at most 4,999"):
        check_dataset(tmp_path / "a.parquet", Room(4999, 10**9))


@pytest.mark.slow
def test_a_large_study_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 clients x 2,000 inputs x 10 methods: 20 million rows, by what a hundredth of them takes."""
    names = {name: pd.Categorical(["provfl"] * 200_000).astype("str") for name in ("method", "scope", "target", "kind")}
    numbers = {name: np.arange(200_000, dtype=np.int32) for name in ("round", "input", "label", "prediction")}
    others = {name: np.random.default_rng(0).normal(size=200_000) for name in ("contribution", "share")}
    frame = pd.DataFrame({**names, **numbers, **others}).assign(
        client=pd.array(numbers["round"]), rank=pd.array(numbers["round"]), tie=pd.array([True] * 200_000)
    )
    path = tmp_path / "contributions.parquet"
    pq.write_table(pa.Table.from_pandas(frame), path)
    check_run_table(path)
    rows, size = measured(path)
    assert rows * 100 <= RUN_TABLES[path.name].rows
    assert size * 100 <= RUN_TABLES[path.name].size


@pytest.mark.parametrize("size", [(13_000, 13_000), (20_000, 20_000), (1_000_000, 1_000_000)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    content = png(*size)
    (tmp_path / "large.png").write_bytes(content)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for cell in (content, tmp_path / "large.png"):
            with pytest.raises(
                InputError, match=r"more than 67 million pixels are not read, make it smaller"
            ) as refused:
                decode([("large.png", cell)], 28, hashlib.sha256())
            assert "\n" not in str(refused.value)
            assert "bomb" not in str(refused.value)
    assert warned == []


def test_pictures_as_large_as_cameras_make_them_are_read() -> None:
    assert MOST_PIXELS > 9_248 * 6_944  # 64 megapixels
    with open_picture(png(8_192, 8_192)) as picture:
        assert picture.size == (8_192, 8_192)


def test_only_the_first_picture_of_an_animation_is_looked_at() -> None:
    out = io.BytesIO()
    frames = [Image.new("L", (8, 8), 10 * number) for number in range(20)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    with open_picture(out.getvalue()) as picture:
        assert picture.size == (8, 8)


def test_no_program_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands Encapsulated PostScript to Ghostscript, whatever the file is called."""
    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **named: started.append(arguments))
    path = tmp_path / "cat.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="not a picture in a known format"):
        decode([("cat.png", path)], 28, hashlib.sha256())
    assert started == []


@pytest.mark.slow
def test_an_archive_that_would_explode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    images, labels = np.zeros((60_000, 28, 28), np.uint8), np.zeros(60_000, np.int64)
    np.savez_compressed(path, train_images=images, train_labels=labels)
    assert len(npz.read(path)["train"].cells) == 60_000  # 47 MB out of 50 KB, as blank pictures are
    monkeypatch.setattr("provfl_cli.bounded.UNPACKED_BYTES", 40_000_000)
    with pytest.raises(InputError, match=r"a\.npz: .* would become more than the 40\.0 MB"):
        npz.read(path)


def test_a_header_of_tensors_is_measured_first(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length, says in ((2**63, "longer than the file"), (50_000_000, "at most")):
        with path.open("wb") as file:
            file.write(struct.pack("<Q", length))
            file.truncate(60_000_000)
        with pytest.raises(Oversized, match=says):
            check_safetensors(path)
        with pytest.raises(RunError, match=says):
            open_tensors(path)
    path.write_bytes(b"abc")
    with pytest.raises(RunError, match="too short"):
        open_tensors(path)


def test_records_with_ever_new_names_do_not_become_a_square(tmp_path: Path) -> None:
    records = [{f"name{number}": 1, "text": "x"} for number in range(20_000)]
    (tmp_path / "train.json").write_text(json.dumps(records))
    (tmp_path / "train.csv").write_text(",".join(["text", *map(str, range(200_000))]) + "\n")
    dataset = Dataset(name="x", source="path", path="x", input="text", input_column="text")
    for name in ("train.json", "train.csv"):
        assert set(read_table(tmp_path / name, dataset).columns) == {"text"}


@pytest.mark.parametrize(
    "reads",
    [
        {"input": "image", "channels": 3, "image_size": 10**6},
        {"input": "image", "channels": 10**6, "image_size": 28},
        {"input": "image"},
        {"input": "text", "vocabulary": 10**12, "max_tokens": 64, "padding": 0},
        {"input": "text", "vocabulary": "9", "max_tokens": 64, "padding": 0},
    ],
)
def test_a_manifest_does_not_ask_for_a_giant(reads: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"manifest\.json: inputs\.\w+ is .*: a whole number from 1 to"):
        form_of(reads)
