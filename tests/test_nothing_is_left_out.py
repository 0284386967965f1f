"""What lies in a data folder is read, or refused or named: no file vanishes, and none comes from elsewhere."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from provfl_cli.config import schema
from provfl_cli.data.federated import Pictures
from provfl_cli.data.folder import read
from provfl_cli.data.left_out import has_columns
from provfl_cli.data.load import load
from provfl_cli.errors import InputError
from provfl_cli.run.inputs import RunInputs
from tests.picture_files import encoded
from tests.split_files import classes, lines, pictures, sizes, texts

from .unread import never_read


def records(file: Path, rows: int, name: str = "a") -> None:
    file.write_text("".join(json.dumps({"text": f"{name} {row}", "label": row % 2}) + "\n" for row in range(rows)))


def table(file: Path, *rows: tuple[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("image,label\n" + "".join(f"{path},{label}\n" for path, label in rows))


# --- other formats


def test_a_table_of_another_format_is_refused_whatever_its_name(tmp_path):
    for number, (csv, other) in enumerate(
        (("a", "b.jsonl"), ("train", "train.jsonl"), ("a", "a.tsv"), ("a", "b.json"))
    ):
        place = tmp_path / str(number)
        dataset = texts(place, **{csv: 8})
        records(place / other, 6)
        if other.endswith("tsv"):
            (place / other).write_text("text\tlabel\na\t0\n")
        with pytest.raises(
            InputError, match=rf"{other} would be left out beside {csv}\.csv: one format is read"
        ) as caught:
            load(dataset, 8)
        assert "\n" not in str(caught.value)
    pq.write_table(pa.table({"text": ["a"] * 4, "label": [0, 1] * 2}), tmp_path / "0" / "b.parquet")
    with pytest.raises(InputError, match=r"a\.csv would be left out beside b\.parquet"):
        load(texts(tmp_path / "0"), 8)


def test_a_packed_table_is_refused_where_it_is_not_there_unpacked(tmp_path):
    dataset = texts(tmp_path, a=8)
    (tmp_path / "a.csv.gz").write_bytes(b"")
    (tmp_path / "about.json.gz").write_bytes(b"")
    assert sizes(dataset) == (6, 2)
    (tmp_path / "b.csv.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.csv\.gz is packed: unpack it"):
        load(dataset, 8)


def test_of_json_lines_and_parquet_the_start_tells_the_columns(tmp_path):
    dataset = texts(tmp_path)
    file = tmp_path / "a.jsonl"
    for text, has in (('\n{"text": "a", "label": 0}\n{"te', True), ('{"text": 1}', False), ("[1]", False), ("", False)):
        file.write_text(text)
        assert has_columns(file, dataset) == has
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "a.parquet")
    assert has_columns(tmp_path / "a.parquet", dataset)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert not has_columns(tmp_path / "a.parquet", dataset)


# --- pictures beside tables


@pytest.mark.parametrize("labels", [("cat", "dog"), ("0", "1")])
def test_pictures_in_class_folders_that_a_table_does_not_list_are_refused(tmp_path, labels):
    dataset = pictures(tmp_path, *classes("cat", "dog", "fox"))
    rows = [(f"{name}/{number}.png", labels[name == "dog"]) for name in ("cat", "dog") for number in range(3)]
    table(tmp_path / "labels.csv", *rows)
    with pytest.raises(
        InputError, match=r"6 pictures are in no table and left out, such as cat/3\.png, though .*class"
    ):
        load(dataset, 8)
    everything = [(f"{name}/{number}.png", name) for name in ("cat", "dog", "fox") for number in range(4)]
    table(tmp_path / "labels.csv", *everything)
    assert sizes(dataset) == (10, 2)
    assert "in no table" not in lines(dataset)


def test_other_pictures_that_no_table_lists_are_said(tmp_path):
    dataset = pictures(tmp_path, *classes("images", "test"))
    table(tmp_path / "train.csv", *[(f"images/{number}.png", "ab"[number % 2]) for number in range(4)])
    assert "4 pictures are in no table and left out, such as test/0.png" in lines(dataset)
    table(tmp_path / "train.csv", *[(f"{tmp_path}/images/{number}.png", "ab"[number % 2]) for number in range(4)])
    assert "4 pictures are in no table" in lines(dataset), "paths as they are on this machine"
    cells = [encoded(Image.new("L", (8, 8), value)) for value in range(4)]
    (tmp_path / "train.csv").unlink()
    pq.write_table(pa.table({"image": cells, "label": ["a", "b"] * 2}), tmp_path / "train.parquet")
    assert "8 pictures are in no table and left out, such as images/0.png" in lines(dataset)


def test_arrays_in_a_folder_are_named(tmp_path):
    dataset = pictures(tmp_path, *classes("cat", "dog"))
    np.save(tmp_path / "cat" / "5.npy", np.zeros((8, 8)))
    assert "cat/5.npy is left out: arrays are read from one .npz file" in lines(dataset)
    np.save(tmp_path / "x.npy", np.zeros((8, 8)))
    assert "2 files of arrays are, such as cat/5.npy, left out" in lines(dataset)


def test_class_folders_of_the_same_name_in_different_places_are_said_to_be_one_class(tmp_path):
    dataset = pictures(tmp_path, *classes("en/cat", "fr/cat", "fr/dog"))
    assert "folders of the same name are one class: cat (en/cat and fr/cat)" in lines(dataset)
    splits = pictures(tmp_path / "s", *classes("train/cat", "train/dog", "test/cat", "test/dog"))
    assert "same name" not in lines(splits)


# --- paths in tables


def picture(file: Path, value: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(file)


def values(folder: Path) -> list[int]:
    cells = read(folder, schema.Dataset("custom", "path", path=str(folder)))["train"].cells
    return [np.asarray(Image.open(cell))[0, 0] for _, cell in cells]


def test_paths_count_from_the_table_first_and_from_the_root_else(tmp_path):
    for number in range(2):
        picture(tmp_path / "sub" / f"{number}.png", number)
    picture(tmp_path / "2.png", 2)
    table(tmp_path / "sub" / "train.csv", ("0.png", "a"), ("1.png", "b"), ("2.png", "a"), ("sub/1.png", "b"))
    assert values(tmp_path) == [0, 1, 2, 1]
    picture(tmp_path / "0.png", 0)
    assert values(tmp_path) == [0, 1, 2, 1], "two of the same content"
    picture(tmp_path / "0.png", 9)
    with pytest.raises(InputError, match=r"train\.csv row 0: 0\.png may be .*/sub/0\.png or .*/0\.png, which differ"):
        values(tmp_path)


def test_paths_stay_inside_the_folder_of_the_data(tmp_path):
    root, outside = tmp_path / "data", tmp_path / "private.png"
    picture(outside, 7)
    picture(root / "images" / "0.png", 1)
    honest = ("../images/0.png", str(root / "images" / "0.png"), "images/../images/0.png")
    table(root / "tables" / "train.csv", *[(path, "a") for path in honest])
    assert values(root) == [1, 1, 1]
    link = tmp_path / "link"
    link.symlink_to(root)
    assert values(link) == [1, 1, 1]
    for path in ("../../private.png", str(outside), "../../data/../private.png"):
        table(root / "tables" / "train.csv", (path, "a"))
        with pytest.raises(InputError, match=r"train\.csv row 0: .* lies outside .*/data: move the pictures into"):
            values(root)
    table(root / "tables" / "train.csv", ("../../nowhere.png", "a"))
    with pytest.raises(InputError, match="neither a picture nor the path of one"):
        values(root)
    (root / "images" / "far").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    picture(tmp_path / "elsewhere" / "private.png", 8)
    table(root / "tables" / "train.csv", ("images/far/../private.png", "a"))
    with pytest.raises(InputError, match="neither a picture nor the path of one"):
        read(root, schema.Dataset("custom", "path", path=str(root)))


# --- tracing


def test_inputs_of_a_folder_with_pictures_and_a_table_are_refused(tmp_path):
    picture(tmp_path / "in" / "0.png", 1)
    table(tmp_path / "in" / "more.csv", ("0.png", "a"))
    dataset = schema.Dataset("custom", "path", path=str(tmp_path), image_size=8)
    inputs = RunInputs(tmp_path, dataset, never_read, Pictures(1, 8), ("a", "b"), "")
    with pytest.raises(InputError, match=r"holds pictures and more\.csv, a table of inputs: give --inputs .*more\.csv"):
        inputs.many(tmp_path / "in")
    assert inputs.many(tmp_path / "in" / "more.csv").names == ("row 0",)
    (tmp_path / "in" / "more.csv").write_text("size\n1\n")
    assert inputs.many(tmp_path / "in").names == ("0.png",)
