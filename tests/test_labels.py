"""Labels are what the data say: one way from a label to its number, in training and when predictions are traced."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from provfl_cli.data.examples import Examples
from provfl_cli.data.federated import Texts
from provfl_cli.data.labels import Classes
from provfl_cli.data.load import load
from provfl_cli.errors import InputError
from provfl_cli.run.inputs import RunInputs
from provfl_cli.run.query import _notes
from tests.text_sets import text_set

from .unread import never_read


def csv(file: Path, labels: list[str]) -> Path:
    file.write_text("text,label\n" + "".join(f"{file.stem} {row},{label}\n" for row, label in enumerate(labels)))
    return file


def jsonl(file: Path, labels: list[object]) -> Path:
    rows = [{"text": f"{file.stem} {row}", "label": label} for row, label in enumerate(labels)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def parquet(file: Path, labels: list[object] | pa.Array, names: list[str] | None = None) -> Path:
    table = pa.table({"text": [f"{file.stem} {row}" for row in range(len(labels))], "label": labels})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, file)
    return file


def examples_of(folder: Path) -> Examples:
    return load(text_set(folder, test_fraction=0.5), 8)[0]


def labels_of(examples: Examples) -> list[str]:
    """The name of each training label."""
    return [examples.label_names[number] for number in examples.train_labels]


# --- CSV, which has no types


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "1", "2", "10"], ("0", "1", "2", "10")),
        (["01", "1", "01", "1"], ("01", "1")),
        ([" 1", "0 ", "1", "0"], ("0", "1")),
        (["NA", "null", "None", "nan"], ("NA", "None", "nan", "null")),
        (["NA", "1", "2", "10"], ("1", "10", "2", "NA")),
        (["1.0", "2.0", "1.0", "2.0"], ("1.0", "2.0")),
        (["true", "false", "true", "false"], ("false", "true")),
        (["2020-01-01", "2020-01-02"] * 2, ("2020-01-01", "2020-01-02")),
        (["12345678901234567890123", "7"] * 2, ("12345678901234567890123", "7")),
        (["+1", "-0", "x", "1e3"], ("+1", "-0", "1e3", "x")),
    ],
)
def test_labels_of_csv_are_whole_numbers_or_stay_as_they_are_written(tmp_path, labels, names):
    for split in ("train", "test"):
        csv(tmp_path / f"{split}.csv", labels)
    examples = examples_of(tmp_path)
    assert examples.label_names == names
    assert labels_of(examples) == [label.strip() for label in labels]


def test_both_splits_decide_whether_labels_of_csv_are_numbers(tmp_path):
    csv(tmp_path / "train.csv", ["1", "2", "10", "2"])
    csv(tmp_path / "test.csv", ["01", "1"])
    examples = examples_of(tmp_path)
    assert examples.label_names == ("01", "1", "10", "2")
    assert [examples.label_names[number] for number in examples.test_labels] == ["01", "1"]
    assert any("labels in column label are texts, not whole numbers: 01 among them" in x for x in examples.lines)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["1", "", "0"], r"train\.csv: column label has no label in row 1: fill or remove it"),
        (["a", "  ", "b"], r"train\.csv: column label has no label in row 1"),
        (["0.5", "1.0", "0.25"], r"values of type float \(0.25\): labels are whole numbers or texts"),
        (["1", "1.0", "2"], "holds 1 and 1.0, the same number: write them alike"),
        (["0", "-1", "1"], "label holds -1"),
        (["caf\u00e9", "cafe\u0301", "x"], r"holds 'cafe\\u0301' and 'caf\\xe9', which look the same"),
    ],
)
def test_what_is_wrong_with_labels_of_csv_is_said(tmp_path, labels, says):
    csv(tmp_path / "train.csv", labels)
    with pytest.raises(InputError, match=says) as caught:
        examples_of(tmp_path)
    assert "\n" not in str(caught.value)


# --- formats with types


def test_labels_of_two_kinds_are_refused_and_both_are_named(tmp_path):
    jsonl(tmp_path / "train.jsonl", ["0", "1", "0"])
    jsonl(tmp_path / "test.jsonl", [0, 1])
    says = (
        r"column label: train holds texts \('0' in train\.jsonl row 0\), test holds whole numbers \(0 in test\.jsonl "
        r"row 0\): write all labels alike"
    )
    with pytest.raises(InputError, match=says):
        examples_of(tmp_path)
    jsonl(tmp_path / "train.jsonl", [0, 1, "0", True])
    (tmp_path / "test.jsonl").unlink()
    says = (
        r"train holds whole numbers \(0 in .* row 0\), train holds texts \('0' in .* row 2\), train holds true or fal"
    )
    with pytest.raises(InputError, match=says):
        examples_of(tmp_path)
    jsonl(tmp_path / "train.jsonl", ["a", "b", "a ", "b"])
    with pytest.raises(InputError, match="holds 'a' and 'a ', which look the same"):
        examples_of(tmp_path)


def test_texts_that_look_like_numbers_stay_texts_in_formats_with_types(tmp_path):
    jsonl(tmp_path / "train.jsonl", ["10", "2", "01", "1"])
    jsonl(tmp_path / "test.jsonl", ["2", "1"])
    assert examples_of(tmp_path).label_names == ("01", "1", "10", "2")


def test_a_categorical_column_is_one_of_texts(tmp_path):
    parquet(tmp_path / "train.parquet", pa.array(["b", "a", "b", "c"]).dictionary_encode())
    parquet(tmp_path / "test.parquet", pa.array(["a", "b", "c"]).dictionary_encode())
    assert labels_of(examples_of(tmp_path)) == ["b", "a", "b", "c"]


def test_class_names_are_each_files_own(tmp_path):
    parquet(tmp_path / "train.parquet", [0, 1, 0], ["neg", "pos"])
    parquet(tmp_path / "test.parquet", [0, 1, 1], ["pos", "neg"])
    examples = examples_of(tmp_path)
    assert (examples.label_names, examples.test_labels.tolist()) == (("neg", "pos"), [1, 0, 0])
    parquet(tmp_path / "test.parquet", ["pos", "neg"])
    assert examples_of(tmp_path).test_labels.tolist() == [1, 0], "a text is a name"
    parquet(tmp_path / "test.parquet", [0, 1], ["pos", "neutral"])
    with pytest.raises(InputError, match="holds neutral, none of the class names"):
        examples_of(tmp_path)
    (tmp_path / "test.parquet").unlink()
    (tmp_path / "train").mkdir()
    (tmp_path / "train.parquet").rename(tmp_path / "train" / "0.parquet")
    parquet(tmp_path / "train" / "1.parquet", [0, 1], ["pos", "neg"])
    with pytest.raises(InputError, match="the files of one split have different class names"):
        examples_of(tmp_path)


def test_labels_that_one_split_lacks_are_said(tmp_path):
    csv(tmp_path / "train.csv", ["a", "b", "a", "b"])
    csv(tmp_path / "test.csv", ["a", "c"])
    examples = examples_of(tmp_path)
    assert examples.label_names == ("a", "b", "c")
    assert examples.lines[-1] == "labels without a test example: b"


# --- after training


def asked_labels(examples: Examples, file: Path) -> list[int]:
    """The labels of a table that is traced after a run on `examples`."""
    form, names = Texts(9, 9, 0), examples.label_names
    inputs = RunInputs(file.parent, text_set(file), never_read, form, names, "", indexed=examples.indexed)
    object.__setattr__(inputs, "encode", lambda shown: shown)
    return inputs.many(file).labels.tolist()


def test_a_label_is_the_same_number_when_it_is_traced_as_in_training(tmp_path):
    numbers = [0, 1, 2, 3, 4] * 2
    train = parquet(tmp_path / "train.parquet", numbers, ["1", "2", "3", "4", "5"])
    examples = load(text_set(train, test_fraction=0.5), 8)[0]
    assert asked_labels(examples, train) == numbers
    assert asked_labels(examples, jsonl(tmp_path / "index.jsonl", numbers)) == numbers
    assert asked_labels(examples, csv(tmp_path / "index.csv", [str(x) for x in numbers])) == numbers
    assert asked_labels(examples, jsonl(tmp_path / "name.jsonl", [str(x + 1) for x in numbers])) == numbers
    other = parquet(tmp_path / "other.parquet", [0, 1], ["5", "4"])
    assert asked_labels(examples, other) == [4, 3], "by the names of its own file"
    with pytest.raises(InputError, match=r"--inputs: column label holds 5: numbers are those of the classes, 0 to 4"):
        asked_labels(examples, jsonl(tmp_path / "out.jsonl", [5]))


def test_numbers_that_are_values_are_looked_up_as_values(tmp_path):
    train = csv(tmp_path / "train.csv", ["5", "30"] * 4)
    examples = load(text_set(train), 8)[0]
    assert (examples.label_names, examples.indexed) == (("5", "30"), False)
    assert asked_labels(examples, csv(tmp_path / "a.csv", ["30", "5", ""])) == [1, 0, -1]
    assert asked_labels(examples, jsonl(tmp_path / "a.jsonl", [30, 5, None, -1])) == [1, 0, -1, -1]
    with pytest.raises(InputError, match=r"column label holds 1: accepted: 30, 5|did you mean"):
        asked_labels(examples, jsonl(tmp_path / "b.jsonl", [1]))
    words = load(text_set(csv(tmp_path / "words.csv", ["no", "yes"] * 4)), 8)[0]
    assert asked_labels(words, csv(tmp_path / "c.csv", ["1", "0"])) == [1, 0]
    assert asked_labels(words, csv(tmp_path / "d.csv", ["yes", " no"])) == [1, 0]


def test_a_word_of_the_command_line_is_a_name_first_and_what_else_it_may_be_is_said():
    classes = Classes(("1", "2", "30"))
    assert [classes.typed(word) for word in ("1", "30", "0", "7", "x", "01")] == [0, 2, 0, None, None, None]
    assert Classes(("no", "yes")).typed("1") == 1
    opened = SimpleNamespace(classes=classes, label_counts={0: 1}, fusion=True, settings=None, notes=())
    inputs = SimpleNamespace(chosen=False, notes=("read without quoting",))
    question = SimpleNamespace(target="1", without=(), verify=False)
    assert list(_notes(opened, inputs, question)) == [
        "read without quoting",
        "--target 1 is the class of that name, number 0; class 1 is named 2: --target 2",
    ]
    assert np.array([classes.ambiguity(word) is None for word in ("30", "0", "x")]).all()
