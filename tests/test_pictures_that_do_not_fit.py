"""Pictures that do not fit the rest of their set, in scale, alpha or shape, are read for what they are, or said."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from provfl_cli.data import picture_facts as facts
from provfl_cli.data.pixel_scale import WHITE, Levels, Reading
from provfl_cli.errors import InputError
from tests.picture_files import deep_png, encoded, read, shown

RNG = np.random.default_rng(0)
UNIT = RNG.random((8, 16, 16))
UNIT[:, 0, 0] = 1
COLOUR = RNG.integers(0, 200, (16, 16, 3), dtype=np.uint8)


def tiff(values: np.ndarray, **options) -> bytes:
    return encoded(Image.fromarray(values), "TIFF", **options)


# --- scale

SCALED = {
    "lists": lambda values, top: (values * top).tolist(),
    "whole numbers among fractions": lambda values, top: (values * top).round(9 if top == 1 else 0).tolist(),
    "float TIFF": lambda values, top: tiff((values * top).astype(np.float32)),
    "arrays": lambda values, top: values * top,
    "around 0": lambda values, top: values * 2 - 1 if top == 1 else values * top,
}


@pytest.mark.parametrize("form", SCALED)
def test_one_picture_on_another_scale_is_refused_by_name_whichever_it_is(form):
    made = SCALED[form]
    with pytest.raises(InputError, match=r"7 of 8 have values to [01].*, 1 \(picture 7\) to 25\d.*same scale"):
        read(*(made(values, 1) for values in UNIT[:7]), made(UNIT[7], 255))
    if form != "around 0":  # its last picture is one from -1 to 1
        with pytest.raises(InputError, match=r"7 of 8 have values to 25\d.*, 1 \(picture 0\) to [01]"):
            read(made(UNIT[0], 1), *(made(values, 255) for values in UNIT[1:]))


def test_pictures_of_12_bits_are_not_blackened_by_one_of_16():
    twelve = [encoded(Image.fromarray((values * 4095).astype(np.uint16))) for values in UNIT[:7]]
    sixteen = encoded(Image.fromarray((UNIT[7] * 65535).astype(np.uint16)))
    with pytest.raises(InputError, match=r"7 of 8 have values to 4,0.*, 1 \(picture 7\) to 65,535.* nearly black"):
        read(*twelve, sixteen)
    lines = read(*[sixteen] * 7, twelve[0]).lines
    assert "7 of 8 have values to 65," in lines[-1]
    assert "1 (picture 7) to 4,0" in lines[-1]
    fourteen = encoded(Image.fromarray((UNIT[7] * 16383).astype(np.uint16)))
    assert "are they on the same scale?" in read(*twelve, fourteen).lines[-1]


def test_dark_pictures_are_read_and_said_and_sets_that_are_dark_throughout_are_nothing_new():
    bright = [(values * 255).astype(int).tolist() for values in UNIT[:7]]
    dark = (UNIT[7] * 2).astype(int)
    made = read(*bright, dark.tolist())
    assert np.array_equal(made.pixels[7, ..., 0], dark)
    assert "1 (picture 7) to 2: those to 2 are nearly black" in made.lines[-1]
    assert not read(*[(values * 15.9).astype(int).tolist() for values in UNIT[:7]], [[16] * 16] * 16).lines
    assert not read(*bright, np.zeros((16, 16), int).tolist()).lines, "blank ones are said elsewhere"


def test_a_later_picture_from_0_to_1_among_others_is_said():
    made = read(UNIT[0].tolist(), reading=Reading(lists=Levels(0, 255)))
    assert "picture 0 has values to" in made.lines[-1]
    assert "nearly black" in made.lines[-1]


# --- alpha


def faded(alpha: int) -> np.ndarray:
    return np.dstack([COLOUR, np.full((16, 16), alpha, np.uint8)])


FORMS = {
    "PNG": lambda values: encoded(Image.fromarray(values)),
    "arrays": lambda values: values,
    "lists": lambda values: values.tolist(),
    "16 bits": lambda values: deep_png(values.astype(np.uint16) * 257),
    "grey": lambda values: encoded(Image.fromarray(values[..., 2:], "LA")),
}


@pytest.mark.parametrize("form", FORMS)
def test_alpha_that_is_constant_in_a_picture_counts_where_others_differ(form):
    varying = np.dstack([COLOUR, np.tile(np.arange(16, dtype=np.uint8) * 17, (16, 1))])
    cells = [FORMS[form](values) for values in (varying, faded(0), faded(128), faded(255))]
    colours = COLOUR[..., 2:].astype(float) if form == "grey" else COLOUR.astype(float)
    half = np.rint(colours * (128 / 255) + 255 * (127 / 255))
    for chosen in ([0, 1, 2, 3], [1, 2, 3], [2, 3, 1]):
        made = read(*(cells[number] for number in chosen))
        pixels = {number: made.pixels[place] for place, number in enumerate(chosen)}
        assert (pixels[1] == 255).all()
        assert np.abs(pixels[2].astype(int) - half).max() <= 1
        assert np.abs(pixels[3].astype(int) - colours).max() <= 1
        assert "partly transparent: drawn on white" in made.lines[-1]
    later = read(cells[1], reading=Reading(background=WHITE, integers=Levels(0, 65535, 16), lists=Levels(0, 255)))
    assert (later.pixels == 255).all(), "as in training"


def test_alpha_that_is_the_same_in_the_whole_set_and_runs_from_before_leave_it_out():
    alike = [encoded(Image.fromarray(faded(128)))] * 2
    assert (shown(*alike) == COLOUR).all()
    values = facts.as_values(facts.PictureFacts(Reading(background=WHITE)))
    assert facts.from_values(json.loads(json.dumps(values))).reading == Reading(background=WHITE)
    del values["reading"]["complete"]
    before = facts.from_values(values).reading
    assert (shown(alike[0], reading=before) == COLOUR).all()


def with_transparent(png: bytes, *colour: int) -> bytes:
    """A PNG with a chunk that calls a colour transparent."""
    data = b"tRNS" + struct.pack(f">{len(colour)}H", *colour)
    head = png.index(b"IHDR") + 4 + 13 + 4
    return png[:head] + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)) + png[head:]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits_is_drawn_on_white(channels):
    values = RNG.integers(0, 256, (16, 16, channels)).astype(np.uint16) * 16
    values[3:6, 2:9] = 65535  # which is no colour of 12-bit data
    made = read(with_transparent(deep_png(values), *[65535] * channels))
    expected = (values >> 4).clip(0, 255)
    expected[3:6, 2:9] = 255
    assert np.array_equal(made.pixels[0], expected)
    assert "read as 12-bit data" in made.lines[0]
    assert made.lines[1] == "1 of 1 pictures are partly transparent: drawn on white"
    unused = with_transparent(deep_png(values), *[1] * channels)
    assert len(read(unused).lines) == 1, "a colour that it does not have"


def test_a_transparent_colour_that_cannot_be_read_is_said(monkeypatch):
    monkeypatch.setattr("provfl_cli.data.pixels._deep_png", lambda source: None)
    png = with_transparent(deep_png(COLOUR.astype(np.uint16) * 256), 1, 2, 3)
    with pytest.raises(InputError, match="picture 0: the colour that it calls transparent cannot be read here"):
        read(png)


# --- black and white


def test_a_tiff_whose_0_is_white_is_turned_around():
    values = (UNIT[0] * 65535).astype(np.uint16)
    made = shown(tiff(values, tiffinfo={262: 0}))
    assert np.array_equal(made[0, ..., 0], (65535 - values) >> 8)
    assert np.array_equal(shown(tiff(values))[0, ..., 0], values >> 8)
    before = Reading(integers=Levels(0, 65535, 16), complete=False)
    assert np.array_equal(shown(tiff(values, tiffinfo={262: 0}), reading=before)[0, ..., 0], values >> 8)
    with pytest.raises(InputError, match=r"picture 0: a TIFF of 32-bit numbers of which 0 is white"):
        read(tiff(UNIT[0].astype(np.float32), tiffinfo={262: 0}))


# --- shape


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        ((784,), r"\[28, 28\]"),
        ((1, 784), r"\[28, 28\]"),
        ((784, 1), r"\[28, 28\]"),
        ((1, 1, 784), r"\[28, 28\]"),
        ((1, 784, 1), r"\[28, 28\]"),
        ((784, 1, 1), r"\[28, 28\]"),
        ((1, 64), r"\[8, 8\]"),
        ((3, 1024), r"\[32, 32, 3\] or \[3, 32, 32\]"),
        ((1, 1024, 3), r"\[32, 32, 3\]"),
        ((1, 100, 1), r"\[10, 10\]"),
        ((1, 90), r"\[height, width\]"),
    ],
)
def test_flattened_pictures_are_refused_with_the_shape_to_give_them(shape, way):
    values = np.zeros(shape, np.uint8)
    for cell in (values, values.tolist(), values / 1.0):
        with pytest.raises(InputError, match=f"picture 0: .*reshape them to {way}"):
            read(cell)


def test_narrow_pictures_are_read_and_files_of_strips_are_said():
    for shape in ((1, 9), (4, 60), (64, 1500), (3, 20, 20), (2, 3), (1, 1)):
        assert not [line for line in read(np.zeros(shape, np.uint8)).lines if "strip" in line]
    made = read(encoded(Image.new("L", (16, 16))), encoded(Image.new("L", (784, 1))))
    assert made.lines == ("1 of 2 pictures is a strip, such as picture 1 (784x1 pixels): stretched",)
