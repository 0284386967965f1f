"""Stored pictures of every kind become the pixels that they show, at a scale decided once; what is odd is said."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, Array3D, ClassLabel, Dataset, Features
from PIL import Image

from provfl_cli.config import schema
from provfl_cli.data import embedded
from provfl_cli.data import picture_facts as facts
from provfl_cli.data.decode import decode, resize
from provfl_cli.data.encoding import picture_encoding
from provfl_cli.data.likeness import all_alike, blank, look_of, unlike
from provfl_cli.data.load import load
from provfl_cli.data.pixel_scale import AS_BEFORE, BLACK, Levels, Reading
from provfl_cli.errors import InputError
from provfl_cli.run.inputs import RunInputs

from .picture_files import deep_png, encoded, read, shown
from .unread import never_read

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
GREY[0, :2] = 0, 255
COLOUR = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
COLOUR[0, 0], COLOUR[0, 1] = 0, 255
ALPHA = np.tile(np.arange(16, dtype=np.uint8) * 17, (12, 1))
# orientation of EXIF, and what turns pixels that are stored so upright
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


SQUARE = GREY[:, :12]
FRACTIONS = SQUARE.astype(np.float32) / 255


# --- scale


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (FRACTIONS, "fractions from 0 to 1: 0 is black, 1 is white"),
        (FRACTIONS.astype(np.float64), "0 is black, 1 is white"),
        (FRACTIONS.astype(">f4"), "0 is black, 1 is white"),
        (FRACTIONS * 2 - 1, "fractions from -1 to 1: -1 is black, 1 is white"),
        (FRACTIONS * 255, "fractions from 0 to 255: 0 is black, 255 is white"),
        (FRACTIONS * 5 - 2, "fractions from -2 to 3: -2 is black, 3 is white"),
        (FRACTIONS * 16, "0 is black, 16 is white"),
        (SQUARE.astype(np.int32), None),
        (SQUARE.astype(np.int64), None),
        (SQUARE.astype(">u2"), None),
        (SQUARE.astype(np.int32) - 100, "whole numbers from -100 to 155: -100 is black, 155 is white"),
        (SQUARE.astype(np.int64) * 1000, "whole numbers from 0 to 255,000: 0 is black, 255,000 is white"),
        (SQUARE.astype(np.uint16) << 4, "whole numbers from 0 to 4,080: read as 12-bit data, 0 is black, 4,095 is"),
        (SQUARE.astype(">u2") << 2, "read as 10-bit data"),
        (SQUARE.astype(np.int32) << 6, "read as 14-bit data"),
        (SQUARE.astype(np.uint16) << 8, "read as 16-bit data"),
    ],
)
def test_numbers_become_pixels_at_the_scale_that_they_have(values, says):
    for cell in (values, values.tolist(), values[..., np.newaxis], values[np.newaxis]):
        read_back = decode([("a", cell)], 12, hashlib.sha256())
        assert np.array_equal(read_back.pixels[0, ..., 0], SQUARE)
        lines = " ".join(line for line in read_back.lines if "channels first" not in line)
        assert says in lines if says else not lines


def test_black_and_white_as_bool_or_as_numbers():
    mask = SQUARE > 127
    for cell in (mask, mask.tolist(), mask.astype(int), mask.astype(int).tolist(), mask.astype(float)):
        assert np.array_equal(shown(cell)[0, ..., 0], resize(mask[..., None] * np.uint8(255), 16)[..., 0])


@pytest.mark.parametrize(
    ("form", "picture"),
    [
        ("TIFF", Image.fromarray(FRACTIONS)),
        ("TIFF", Image.fromarray(SQUARE.astype(np.int32))),
        ("TIFF", Image.fromarray(SQUARE.astype(np.uint16) << 4)),
        ("PNG", Image.fromarray(SQUARE.astype(np.uint16) << 4)),
        ("PNG", Image.fromarray(SQUARE)),
        ("PNG", Image.fromarray(SQUARE).convert("P")),
        ("JPEG2000", Image.fromarray(SQUARE)),
    ],
)
def test_files_of_every_depth(form, picture):
    pixels = decode([("a", encoded(picture, form))], 12, hashlib.sha256()).pixels
    assert np.array_equal(pixels[0, ..., 0], SQUARE)


def test_one_scale_serves_the_whole_set():
    dark, bright = (np.full((12, 12), value, np.uint16) for value in (255, 4095))
    assert shown(dark, bright)[:, 0, 0, 0].tolist() == [15, 255]
    assert shown(dark.tolist(), (bright / 1.0).tolist())[:, 0, 0, 0].tolist() == [0, 255], "whole among fractions"
    plain = np.full((12, 12), 77, np.uint8)
    both = read(plain, bright, plain)
    assert both.pixels[:, 0, 0, 0].tolist() == [77, 255, 77], "those of 8 bits stay, in their order"


def test_pictures_beyond_the_memory_kept_are_read_again(monkeypatch):
    cells = [encoded(Image.fromarray(np.full((12, 12), value, np.uint16))) for value in (255, 4095, 1023)]
    whole = read(*cells)
    monkeypatch.setattr("provfl_cli.data.decode.KEPT_BYTES", 300)
    assert np.array_equal(read(*cells).pixels, whole.pixels)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (np.full((9, 9), np.nan), "holds NaN or infinite values"),
        ([[0.5, float("inf")]] * 2, "holds NaN or infinite values"),
        ([[1, None], [2, 3]], "no numbers"),
        ([["a", "b"]] * 2, "no numbers"),
        ([[1, 2], [3]], "its rows have different lengths"),
        ([], r"shape \[0\]"),
        (np.zeros((9, 9, 2), np.uint8), r"shape \[9, 9, 2\]: accepted are"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"shape \[2, 9, 9, 3\]: accepted are"),
        (np.zeros((3, 9, 3), np.uint8), "may have their channels first or last"),
        (np.zeros((9, 9), complex), "no numbers"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(cell, says):
    with pytest.raises(InputError, match=f"unreadable picture: picture 1: .*{says}") as caught:
        read(GREY, cell)
    assert "\n" not in str(caught.value)


# --- colours, layout


def test_deep_colours_are_read_in_full():
    square = COLOUR[:, :12]
    twelve = square.astype(np.uint16) << 4
    assert np.array_equal(decode([("a", deep_png(twelve))], 12, hashlib.sha256()).pixels[0], square)
    full = np.full((12, 12, 1), 65535, np.uint16)
    for values in (twelve, twelve[..., :1]):
        opaque = deep_png(np.concatenate([values, full], axis=-1))
        assert np.array_equal(decode([("a", opaque)], 12, hashlib.sha256()).pixels[0], values >> 4)


def test_deep_colours_of_which_only_the_upper_bits_can_be_read_are_refused_where_that_loses_them(monkeypatch):
    png, twelve = deep_png(COLOUR.astype(np.uint16) << 8), deep_png(COLOUR.astype(np.uint16) << 4)
    monkeypatch.setattr("provfl_cli.data.pixels._deep_png", lambda source: None)
    assert np.array_equal(read(png).pixels[0], resize(COLOUR, 16))
    with pytest.raises(InputError, match="only the upper 8 of 16"):
        read(twelve)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "P", "1", "LA", "RGBA"])
def test_modes_are_converted_as_pillow_does(mode):
    picture = Image.fromarray(COLOUR)
    kept = "TIFF" if mode in ("CMYK", "YCbCr", "LAB") else "PNG"
    stored = encoded(picture.convert("RGB" if mode == "LAB" else mode), kept)
    with Image.open(io.BytesIO(stored)) as opened:
        expected = np.asarray(opened.convert("L" if mode in ("1", "LA") else "RGB")).reshape(12, 16, -1)
    assert np.array_equal(read(stored).pixels[0], resize(expected, 16))


def test_channels_first_is_recognised_or_settled_by_the_set_or_refused():
    first = np.moveaxis(COLOUR, -1, 0)
    for cell in (first, first.tolist(), first / 255, (first / 255).tolist()):
        made = read(cell)
        assert np.array_equal(made.pixels[0], resize(COLOUR, 16))
        assert any("1 of 1 pictures have their channels first" in line for line in made.lines)
    narrow = COLOUR[:, :3]
    assert narrow.shape == (12, 3, 3)
    low = COLOUR[:3, :3]
    turned = np.moveaxis(low, -1, 0)
    assert np.array_equal(shown(turned, first)[0], resize(low, 16))
    assert np.array_equal(shown(low, COLOUR)[0], resize(low, 16))
    assert np.array_equal(shown(turned, reading=Reading(channels_first=True))[0], resize(low, 16))
    with pytest.raises(InputError, match="may have their channels first or last"):
        shown(low, GREY)


# --- alpha


def translucent(mode: str) -> tuple[Image.Image, np.ndarray]:
    """A picture whose alpha varies, and what it shows on white."""
    colours = GREY[..., np.newaxis] if mode in ("LA", "L") else COLOUR
    on_white = np.rint(colours * (ALPHA[..., None] / 255) + 255 * (1 - ALPHA[..., None] / 255)).astype(np.uint8)
    return Image.fromarray(np.concatenate([colours, ALPHA[..., np.newaxis]], axis=-1), mode), on_white


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_that_varies_is_drawn_on_white_and_said(mode):
    picture, on_white = translucent(mode)
    made = read(encoded(picture))
    assert np.abs(made.pixels[0].astype(int) - resize(on_white, 16)).max() <= 1
    assert made.lines == ("1 of 1 pictures are partly transparent: drawn on white",)
    if mode == "RGBA":
        values = np.asarray(picture)
        for cell in (values, np.moveaxis(values, -1, 0), values / 255, values.tolist()):
            assert np.abs(shown(cell)[0].astype(int) - resize(on_white, 16)).max() <= 1


def test_a_palette_or_a_colour_that_is_transparent():
    indices = Image.fromarray((GREY > 127).astype(np.uint8), "P")
    indices.putpalette([0, 0, 0, 0, 0, 0])
    for stored in (encoded(indices, transparency=1), encoded(indices, "GIF", transparency=1)):
        assert np.array_equal(
            read(stored).pixels[0, ..., 0], resize((GREY > 127)[..., None] * np.uint8(255), 16)[..., 0]
        )
    grey = read(encoded(Image.fromarray(GREY), transparency=int(GREY[5, 5])))
    assert grey.pixels.shape[-1] == 1
    assert (
        resize(np.where(GREY[5, 5] == GREY, 255, GREY).astype(np.uint8)[..., None], 16).tolist()
        == grey.pixels[0].tolist()
    )


def test_alpha_that_is_the_same_everywhere_changes_nothing():
    for value in (255, 128, 0):
        picture = Image.fromarray(np.dstack([COLOUR, np.full((12, 16), value, np.uint8)]), "RGBA")
        made = read(encoded(picture))
        assert np.array_equal(made.pixels[0], resize(COLOUR, 16))
        assert not made.lines


def test_white_shapes_are_drawn_on_black():
    white = np.dstack([np.full((12, 16, 3), 255, np.uint8), ALPHA])
    made = read(white, white[::-1].copy())
    assert made.reading.background == BLACK
    assert np.ptp(made.pixels) > 200
    assert "drawn on black" in made.lines[0]


# --- orientation


@pytest.mark.parametrize("value", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, value):
    exif = orientation(value)
    expected = resize(np.ascontiguousarray(TURNS[value](COLOUR)), 16)
    file = tmp_path / "a.png"
    file.write_bytes(encoded(Image.fromarray(COLOUR), exif=exif))
    deep = deep_png(COLOUR.astype(np.uint16) << 8, exif.tobytes().removeprefix(b"Exif\0\0"))
    tiff = encoded(Image.fromarray(COLOUR), "TIFF", exif=exif)
    for cell in (
        file,
        file.read_bytes(),
        encoded(Image.fromarray(COLOUR), "WEBP", exif=exif, lossless=True),
        deep,
        tiff,
    ):
        assert np.array_equal(read(cell).pixels[0], expected)
    made = read(file)
    assert bool(made.lines) == (value != 1)
    jpeg = encoded(Image.fromarray(COLOUR), "JPEG", exif=exif)
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert np.array_equal(read(jpeg).pixels[0], resize(np.ascontiguousarray(TURNS[value](np.asarray(picture))), 16))


def test_damaged_exif_data_turn_nothing():
    stored = encoded(Image.fromarray(COLOUR), "WEBP", exif=b"Exif\0\0II*\0nonsense", lossless=True)
    assert np.array_equal(read(stored).pixels[0], resize(COLOUR, 16))


# --- whole sets


def folder(path: Path, pictures: list[Image.Image], form: str = "png") -> schema.Dataset:
    for number, picture in enumerate(pictures):
        (path / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        picture.save(path / "ab"[number % 2] / f"{number}.{form}")
    return schema.Dataset("custom", "path", path=str(path), image_size=12, test_fraction=0.5)


def test_ordinary_pictures_have_the_fingerprint_and_pixels_that_they_always_had(tmp_path):
    rng = np.random.default_rng(1)
    made = [Image.fromarray(rng.integers(0, 256, (9 + n, 11, 3), dtype=np.uint8)) for n in range(4)]
    grey = [Image.fromarray(rng.integers(0, 256, (9, 11), dtype=np.uint8)).convert(m) for m in ("L", "1", "LA", "P")]
    examples, source = load(folder(tmp_path, made + grey), 12)
    content = hashlib.sha256(examples.train_inputs.tobytes() + examples.test_inputs.tobytes()).hexdigest()[:16]
    assert (source.fingerprint, content) == ("fa38a200690857dc", "2235cdf0fb99aae4")
    assert not examples.picture_lines


def test_how_a_set_was_read_is_said_and_kept(tmp_path):
    rng = np.random.default_rng(1)
    made = [Image.fromarray(rng.random((12, 12)).astype(np.float32)) for _ in range(8)]
    dataset = folder(tmp_path, made, "tif")
    examples, _ = load(dataset, 12)
    assert np.concatenate([examples.train_inputs, examples.test_inputs]).std() > 60
    encoding = picture_encoding(examples, dataset)
    assert encoding.lines == encoding.pictures.lines
    assert "0 is black, 1 is white" in encoding.lines[0]
    assert facts.from_values(facts.as_values(encoding.pictures)) == encoding.pictures
    again = shown(encoded(made[0], "TIFF"), reading=encoding.pictures.reading)
    assert np.array_equal(
        again[0, ..., 0], resize((np.asarray(made[0]) * 255).round().astype(np.uint8)[..., None], 16)[..., 0]
    )


def test_embedded_pictures_in_parquet_are_read_as_those_in_folders(tmp_path):
    rng = np.random.default_rng(1)
    made = [Image.fromarray(rng.integers(0, 4096, (12, 12)).astype(np.uint16)) for _ in range(8)]
    kept = folder(tmp_path / "folder", made)
    cells = pa.array([{"bytes": encoded(picture), "path": None} for picture in made])
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"image": cells, "label": ["a", "b"] * 4}), tmp_path / "table" / "train.parquet")
    both = [load(source, 12)[0] for source in (kept, replace(kept, path=str(tmp_path / "table")))]
    values = [np.sort(np.concatenate([e.train_inputs, e.test_inputs]).reshape(8, -1), axis=0) for e in both]
    assert np.array_equal(*values)
    assert len(np.unique(values[0])) > 200, "not 16 grey levels"


def test_array_features_of_datasets(tmp_path):
    rng = np.random.default_rng(1)
    label = ClassLabel(names=["a", "b"])
    for feature, shape in ((Array2D((12, 12), "float32"), (12, 12)), (Array3D((3, 12, 12), "float32"), (3, 12, 12))):
        values = rng.integers(0, 256, (8, *shape))
        rows = {"image": list((values / 255).astype(np.float32)), "label": [0, 1] * 4}
        Dataset.from_dict(rows, Features({"image": feature, "label": label})).to_parquet(tmp_path / "train.parquet")
        examples, _ = load(schema.Dataset("custom", "path", path=str(tmp_path), image_size=12, test_fraction=0.5), 12)
        read_back = np.concatenate([examples.train_inputs, examples.test_inputs])
        assert read_back.shape == (8, 12, 12, 3 if len(shape) == 3 else 1)
        assert sorted(read_back.sum(axis=(1, 2, 3)).tolist()) == sorted(values.reshape(8, -1).sum(axis=1).tolist())


def test_arrays_of_fractions_and_with_channels_first_in_npz(tmp_path):
    values = np.random.default_rng(1).integers(0, 256, (6, 12, 12, 3))
    for images in (values / 255, np.moveaxis(values, -1, 1).astype(np.uint8), values.astype(np.int64)):
        np.savez(
            tmp_path / "a.npz", train_images=images, train_labels=[0, 1] * 3, test_images=images, test_labels=[0, 1] * 3
        )
        examples, _ = load(schema.Dataset("custom", "path", path=str(tmp_path / "a.npz"), image_size=12), 12)
        assert np.array_equal(examples.train_inputs, values)


def test_blank_pictures_and_sets_that_are_nearly_blank_are_said_before_training(tmp_path):
    rng = np.random.default_rng(1)
    made = [Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)) for _ in range(8)]
    dataset = folder(tmp_path / "some", [*made, Image.new("L", (12, 12), 7), Image.new("L", (12, 12), 9)])
    lines = picture_encoding(load(dataset, 12)[0], dataset).lines
    assert len(lines) == 1
    assert lines[0].startswith("2 of 10 pictures are one colour throughout, such as ")
    assert lines[0].endswith(("8.png", "9.png"))
    dim = [Image.fromarray(rng.integers(0, 2, (12, 12), dtype=np.uint8)) for _ in range(8)]
    dataset = folder(tmp_path / "dim", dim)
    lines = picture_encoding(load(dataset, 12)[0], dataset).lines
    assert len(lines) == 1
    assert "pixels are nearly all the same" in lines[0]
    dataset = folder(tmp_path / "same", made[:1] * 8)
    assert "are the same" in picture_encoding(load(dataset, 12)[0], dataset).lines[0]


def test_an_embedded_function_may_return_fractions(monkeypatch):
    digits = embedded.digits()
    parts = {name: getattr(digits, name) / 255 for name in ("train_inputs", "test_inputs")}
    monkeypatch.setattr(embedded, "digits", lambda: replace(digits, **parts))
    dataset = schema.Dataset("digits", "embedded", embedded="provfl_cli.data.embedded.digits")
    examples, _ = load(dataset, 8)
    assert np.array_equal(examples.train_inputs, digits.train_inputs)
    assert np.array_equal(examples.test_inputs, digits.test_inputs)
    assert "0 is black, 1 is white" in examples.picture_lines[0]


# --- later pictures


def test_later_pictures_are_read_at_the_scale_of_the_training_set_and_what_is_new_is_said():
    trained = Reading(integers=Levels(0, 4095, 12))
    dark = np.full((12, 12), 255, np.uint16)
    made = read(dark, reading=trained)
    assert (made.pixels[0, 0, 0, 0], made.lines) == (15, ())
    made = read(np.full((12, 12), 40000, np.uint16), reading=trained)
    assert made.pixels.min() == 255
    assert "cut off" in made.lines[0]
    made = read(FRACTIONS, reading=trained)
    assert "0 is black, 1 is white" in made.lines[0]
    made = read(encoded(translucent("RGBA")[0]), reading=trained)
    assert made.lines == ("picture 0 is partly transparent, as no training picture was: drawn on white",)
    assert not read(encoded(translucent("RGBA")[0]), reading=Reading(background=BLACK)).lines


def test_runs_from_before_read_pictures_as_they_did():
    picture = encoded(translucent("RGBA")[0], exif=orientation(6))
    assert np.array_equal(shown(picture, reading=AS_BEFORE)[0], resize(COLOUR, 16))
    values = np.full((12, 12), 300, np.uint16)
    assert shown(encoded(Image.fromarray(values)), reading=AS_BEFORE).max() == 1
    assert facts.from_values(None).reading == AS_BEFORE


@pytest.mark.parametrize("kind", ["fractions", "12 bits", "transparent", "turned", "colours of 16 bits"])
def test_training_and_every_way_of_tracing_read_the_same_pictures_alike(tmp_path, kind):
    rng, form = np.random.default_rng(1), "png"
    colours = [rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(8)]
    if kind == "fractions":
        form, made = "tif", [encoded(Image.fromarray((c[..., 0] / 300).astype(np.float32)), "TIFF") for c in colours]
    elif kind == "12 bits":
        made = [encoded(Image.fromarray(c[..., 0].astype(np.uint16) * 16)) for c in colours]
    elif kind == "transparent":
        made = [encoded(Image.fromarray(np.dstack([c, c[..., 0]]))) for c in colours]
    elif kind == "turned":
        made = [encoded(Image.fromarray(c), exif=orientation(6)) for c in colours]
    else:
        made = [deep_png(c.astype(np.uint16) * 16) for c in colours]
    for number, data in enumerate(made):
        (tmp_path / "data" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "ab"[number % 2] / f"{number}.{form}").write_bytes(data)
    dataset = schema.Dataset("custom", "path", path=str(tmp_path / "data"), image_size=12, test_fraction=0.5)
    examples, _ = load(dataset, 12)
    encoding = picture_encoding(examples, dataset)
    kept = facts.from_values(json.loads(json.dumps(facts.as_values(encoding.pictures))))
    inputs = RunInputs(tmp_path, dataset, never_read, encoding.form, examples.label_names, "", kept)
    trained = {picture.numpy().tobytes() for picture in encoding.encode(examples.train_inputs)}
    trained |= {picture.numpy().tobytes() for picture in encoding.encode(examples.test_inputs)}
    files = sorted((tmp_path / "data").rglob(f"*.{form}"))
    cells = pa.array([{"bytes": data, "path": None} for data in made])
    pq.write_table(pa.table({"image": cells, "label": ["a", "b"] * 4}), tmp_path / "table.parquet")
    pq.write_table(pa.table({"image": [str(file) for file in files]}), tmp_path / "paths.parquet")
    ways = [inputs.many(tmp_path / name) for name in ("data", "table.parquet", "paths.parquet")]
    for pictures in (*ways, *map(inputs.picture, files)):
        assert {picture.numpy().tobytes() for picture in pictures.inputs} <= trained, "an exact match"
        assert not pictures.warnings
    assert {picture.numpy().tobytes() for picture in ways[0].inputs} == trained


@pytest.mark.parametrize("change", [{"reading": {}}, {"look": {}}, {"reading": None}, {"lines": None}])
def test_damaged_facts_are_no_facts(change):
    look = look_of(GREY[None, ..., None], frozenset({(12, 16)}))
    values = {**facts.as_values(facts.PictureFacts(Reading(), look)), **change}
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        facts.from_values(values)


# --- likeness


def sets(name: str, shared: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Training and test pictures at 28x28 or 32x32."""
    if name == "cifar10":
        examples, _ = load(schema.Dataset(name, "path", path=str(shared), input_column="img", image_size=32), 32)
        return examples.train_inputs, examples.test_inputs
    examples = getattr(embedded, name)()
    train, test = (
        np.stack([resize(picture, 28) for picture in pictures])
        for pictures in (examples.train_inputs, examples.test_inputs)
    )
    return train, test


def odd(pictures: np.ndarray, look) -> float:
    """Share of pictures said to be unlike the training data."""
    return float(np.mean([bool(unlike(picture, picture.shape[:2], look)) for picture in pictures]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "digits", pytest.param("cifar10", marks=pytest.mark.slow)])
@pytest.mark.parametrize("count", [100, None])
def test_real_pictures_are_hardly_ever_unlike_the_training_data_and_others_are(name, count):
    shared = Path(__file__).parents[2] / "shared" / "data" / "cifar10"
    if name == "cifar10" and not shared.is_dir():
        pytest.skip("no shared data")
    train, test = sets(name, shared)
    look, rng = look_of(train[:count]), np.random.default_rng(0)
    shape = (50, *test.shape[1:])
    assert odd(test[:1000], look) < 0.01
    assert odd(rng.integers(0, 256, shape).astype(np.uint8), look) == 1
    assert odd(rng.normal(128, 20, shape).clip(0, 255).astype(np.uint8), look) == 1
    assert odd(np.stack([np.zeros(shape[1:], np.uint8), np.full(shape[1:], 200, np.uint8)]), look) == 1
    assert not all_alike(look)
    if name != "cifar10":  # photographs of anything have no look of their own to tell light from dark
        assert odd(255 - test[:200], look) == 1
        assert odd(test[:200] // 8, look) == 1
        said = unlike(255 - test[0], test[0].shape[:2], look)
        assert "inverted, it would be like them" in said
        assert any("brightness at the edge is 255" in reason for reason in said)


def test_other_proportions_and_sizes_are_said():
    look = look_of(np.stack([GREY[:, :12, None]] * 4), frozenset({(28, 28)}))
    picture = GREY[:, :12, None]

    def said(*shape):
        return [reason for reason in unlike(picture, shape, look) if "pixels" in reason]

    assert not said(28, 28)
    assert not said(40, 42)
    assert said(28, 100) == ["it is stretched from 100x28 pixels (there 28 wide and 28 high)"]
    assert said(280, 280) == ["it came in 280x280 pixels (there 28 wide and 28 high)"]
    assert said(9, 9)
    assert not said(12, 12), "the size that the model reads"


def test_where_blank_pictures_are_common_another_is_nothing_new():
    pictures = np.stack([GREY, np.zeros_like(GREY), *RNG.integers(0, 256, (8, 12, 16), dtype=np.uint8)])[..., None]
    assert not unlike(pictures[1], (12, 16), look_of(pictures))
    dotted = np.zeros_like(pictures)
    dotted[:, 3, 3] = 1
    assert not blank(dotted, str)
    assert blank(pictures, str) == ("1 of 10 pictures is one colour throughout, such as 1",)
