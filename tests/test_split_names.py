"""Which file belongs to which split: by its name, said to the user, and nothing vanishes without a word."""

import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import data_files

from provfl_cli.config import schema
from provfl_cli.data import listing
from provfl_cli.data.folder import read
from provfl_cli.data.load import federated_data, load
from provfl_cli.errors import InputError
from tests.text_sets import config

from .split_files import classes, lines, pictures, sizes, texts


def test_the_names_of_splits_are_those_of_the_library_datasets():
    theirs = {str(split): tuple(words) for split, words in data_files.SPLIT_KEYWORDS.items()}
    assert {split: set(words) for split, words in listing.KEYWORDS.items()} == {k: set(v) for k, v in theirs.items()}
    assert listing.SEPARATORS == data_files.NON_WORDS_CHARS


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"Corona_NLP_train": 8, "Corona_NLP_test": 4}, (8, 4)),
        ({"mydata.training": 8, "mydata.dev": 4}, (8, 4)),
        ({"TRAIN": 8, "Validation": 4}, (8, 4)),
        ({"train": 8, "test": 4, "val": 6}, (8, 4)),
        ({"train__part-0": 8, "train__part-1": 4, "test__part-0": 4}, (12, 4)),
        ({"data__train-00000-of-00002": 8, "data__train-00001-of-00002": 6, "data__test-00000-of-00001": 4}, (14, 4)),
        ({"plain_text__train-00000-of-00001": 8, "plain_text__test-00000-of-00001": 4}, (8, 4)),
        ({"my_test_project__train": 8, "my_test_project__test": 4}, (8, 4)),
        ({"contest": 10}, (8, 2)),
        ({"part_1": 5, "part_2": 5}, (8, 2)),
    ],
)
def test_tables_are_split_by_their_names(tmp_path, files, expected):
    assert sizes(texts(tmp_path, **files)) == expected


def test_parts_keep_their_order_and_the_hubs_own_splits_are_left_out_and_said(tmp_path):
    names = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "unsupervised-00000-of-00001"]
    dataset = texts(tmp_path, **{f"plain_text__{name}": 4 for name in names})
    examples, _ = load(dataset, 8)
    assert examples.train_inputs.tolist() == [f"plain_text__{name} {row}" for name in names[:2] for row in range(4)]
    assert examples.lines[0] == (
        "splits: train = plain_text/train-00000-of-00002.csv and 1 more (8), "
        "test = plain_text/test-00000-of-00001.csv (4), "
        "left out: unsupervised = plain_text/unsupervised-00000-of-00001.csv (4)"
    )


def test_the_splits_are_said_in_the_output_and_the_manifest(tmp_path):
    data = federated_data(config(texts(tmp_path, a_train=40, a_test=4)))
    assert data.lines[0] == "splits: train = a_train.csv (40), test = a_test.csv (4)"
    (tmp_path / "a_test.csv").unlink()
    data = federated_data(config(texts(tmp_path)))
    assert data.lines[0] == "splits: train = a_train.csv (40), test = held out of train (dataset.test_fraction)"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"train": 4, "test": 4, "submission": 4},
            r"submission\.csv names no split, but test\.csv and train\.csv besid",
        ),
        (
            {"train_test": 4, "train": 4},
            r"train_test\.csv names two splits \(train, test\): rename it, or read it alone",
        ),
        ({"train__test-0": 4, "val__x": 4}, r"train/test-0\.csv falls into two splits, train and test"),
        ({"amazon_train": 4, "yelp_train": 4}, r"both amazon_train\.csv and yelp_train\.csv are train data"),
        ({"train": 4, "test": 4, "eval": 4}, r"both eval\.csv and test\.csv are test data"),
        ({"en__train": 4, "de__train": 4}, r"several datasets in it; choose one: .*/de or .*/en"),
        ({"test": 4, "dev": 4}, "no training examples"),
    ],
)
def test_tables_that_would_vanish_or_fall_into_two_splits_are_refused(tmp_path, files, says):
    with pytest.raises(InputError, match=says) as caught:
        load(texts(tmp_path, **files), 8)
    assert "\n" not in str(caught.value)


def test_a_split_in_another_format_or_packed_is_not_left_out_without_a_word(tmp_path):
    dataset = texts(tmp_path, train=8)
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": 0}\n')
    with pytest.raises(InputError, match=r"test\.jsonl would be left out beside train\.csv"):
        load(dataset, 8)
    (tmp_path / "test.jsonl").write_text('{"version": 1}\n')
    assert sizes(dataset) == (6, 2), "bookkeeping"
    (tmp_path / "test.csv.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"test\.csv\.gz is packed: unpack it"):
        load(dataset, 8)
    (tmp_path / "train.csv").rename(tmp_path / "train.csv.gz")
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(InputError, match=r"test\.csv\.gz is packed: unpack it"):
        load(dataset, 8)
    alone = schema.Dataset("custom", "path", path=str(tmp_path / "train.csv.gz"), input="text", input_column="text")
    with pytest.raises(InputError, match=r"train\.csv\.gz: is packed: unpack it"):
        load(alone, 8)


@pytest.mark.parametrize(
    ("folders", "expected", "names"),
    [
        (["seg_train/seg_train/sea", "seg_train/seg_train/ice", "seg_test/seg_test/sea"], (8, 4), ("ice", "sea")),
        (["archive/train/cat", "archive/train/dog", "archive/val/cat"], (8, 4), ("cat", "dog")),
        (["crash_test", "street"], (6, 2), ("crash_test", "street")),
        (["train", "test", "car"], (10, 2), ("car", "test", "train")),
        (["train/train", "train/car", "test/train", "test/car"], (8, 8), ("car", "train")),
        (["train/crash_test", "train/street"], (6, 2), ("crash_test", "street")),
        (["animals/cat", "plants/elm"], (6, 2), ("cat", "elm")),
        (["Training/cat", "Training/dog", "Testing/cat", "Testing/dog"], (8, 8), ("cat", "dog")),
    ],
)
def test_folders_of_pictures_are_splits_or_classes(tmp_path, folders, expected, names):
    dataset = pictures(tmp_path, *classes(*folders))
    assert sizes(dataset) == expected
    assert load(dataset, 8)[0].label_names == names


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            classes("seg_train/seg_train/sea", "seg_train/seg_train/ice", "seg_test/seg_test/sea", "seg_pred/seg_pred"),
            "seg_pred names no split, but seg_test and seg_train beside it",
        ),
        (classes("train/cat", "train/dog", "extra/cat"), "extra names no split, but train beside it: move it out"),
        (classes("train/cat", "train/dog", "test"), r"test/0\.png lies in no class folder; expected test/CLASS/0\.png"),
        (classes("train/cat", "train/dog", "test/test"), r"test/test/0\.png lies in no class folder"),
        (classes("train", "test1"), "test1 and train name splits, and no class folders are in them"),
        (classes("cat/train", "cat/test", "dog/train"), "test and train name splits, and no class folders are in them"),
        (classes("train/test/cat", "train/test/dog", "val/cat"), "train/test/cat/0.png falls into two splits"),
        (classes("train_test/a", "train_test/b", "x/a"), r"train_test names two splits \(train, test\)"),
        (classes("train/a", "train/b", "test/a", "eval/a"), "eval and test are both test data"),
        ([*classes("train/a", "train/b"), "1.png"], r"1\.png lies in no class folder; expected CLASS/1\.png"),
    ],
)
def test_pictures_that_would_vanish_or_fall_into_two_splits_are_refused(tmp_path, files, says):
    with pytest.raises(InputError, match=says) as caught:
        load(pictures(tmp_path, *files), 8)
    assert "\n" not in str(caught.value)


def test_what_is_unusual_about_a_folder_of_pictures_is_said(tmp_path):
    dataset = pictures(tmp_path, *classes("crash_test", "street"), "street/5.JPG")
    (tmp_path / "unicorn").mkdir()
    for name in ("street/6.heic", "street/.DS_Store", "street/._5.JPG", "__MACOSX/street/7.png", "notes/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    said = lines(dataset)
    assert sizes(dataset) == (7, 2), "upper-case endings count, what systems leave behind does not"
    assert "taken as classes, not as splits, since pictures lie in them: crash_test" in said
    assert "folders without pictures are no classes: notes, unicorn" in said
    assert "files in class folders that are no pictures are left out: 1 .heic" in said


def test_folders_behind_links_count_and_none_counts_twice(tmp_path):
    dataset = pictures(tmp_path / "data", *classes("cat"))
    pictures(tmp_path / "elsewhere", *classes("dog"))
    os.symlink(tmp_path / "elsewhere" / "dog", tmp_path / "data" / "dog")
    assert load(dataset, 8)[0].label_names == ("cat", "dog")
    os.symlink(tmp_path / "data", tmp_path / "data" / "cat" / "again")
    with pytest.raises(InputError, match=r"is the same folder as .*, by a link: remove one of them"):
        load(dataset, 8)


@pytest.mark.slow
def test_ten_thousand_files_are_sorted_out_within_a_second(tmp_path):
    for split in ("train", "test"):
        for label in range(50):
            folder = tmp_path / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(100):
                os.close(os.open(folder / f"{number}.png", os.O_CREAT))
    dataset = schema.Dataset("custom", "path", path=str(tmp_path))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        splits = read(tmp_path, dataset)
        seconds.append(time.process_time() - start)
    assert {name: len(split.cells) for name, split in splits.items()} == {"train": 5000, "test": 5000}
    assert min(seconds) < 1


def test_a_split_without_labels_is_left_out_and_the_next_taken(tmp_path):
    for split, labels in (("train", [0, 1, 0, 1]), ("validation", [1, 0]), ("test", [-1, -1, -1])):
        table = pa.table({"text": [f"{split} {row}" for row in range(len(labels))], "label": labels})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    dataset = schema.Dataset("custom", "path", path=str(tmp_path), input="text", input_column="text")
    examples, _ = load(dataset, 8)
    assert examples.test_inputs.tolist() == ["validation 0", "validation 1"]
    assert "left out: test = test.parquet (3), which has no labels" in examples.lines[0]
    pq.write_table(pa.table({"index": [0], "text": ["a"]}), tmp_path / "test.parquet")
    assert "left out: test = test.parquet (1), which has no labels" in lines(dataset)
    pq.write_table(pa.table({"Label": [0], "text": ["a"]}), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"no such column in .*test\.parquet: did you mean Label\?"):
        load(dataset, 8)


def test_the_order_of_pictures_is_that_of_their_paths(tmp_path):
    dataset = pictures(tmp_path, "train/b/2.png", "train/b/10.png", "train/a-1/1.png", "train/a/1.png", "test/a/1.png")
    examples, _ = load(dataset, 8)
    assert examples.train_inputs[:, 0, 0, 0].tolist() == [3, 2, 1, 0]
    assert np.array_equal(examples.train_labels, [0, 1, 2, 2])
