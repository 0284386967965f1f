"""What `provfl_cli.provenance` exports: examples that run, help that can be read, results that can be kept."""

from __future__ import annotations

import doctest
import inspect
import json
import pydoc
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

import provfl_cli.provenance as door
from provfl_cli.errors import InputError
from provfl_cli.provenance import Contributions, from_state_dicts, trace
from provfl_cli.provenance.contributions import LayerTrace
from provfl_cli.provenance.saved import KEY
from provfl_cli.store.rounds import Metrics, begin_round, commit_round
from provfl_cli.store.tensorfile import specs_of, write_slot

from .federations import settings

BEFORE = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
ANN = {"weight": torch.eye(2), "bias": torch.zeros(2)}
BOB = {"weight": torch.zeros(2, 2), "bias": torch.tensor([0.0, 0.5])}
EXAMPLES = [
    "trace", "trace_targets", "from_state_dicts", "read_round", "preset", "Provenance", "Contributions",
    "Contributions.to_frame", "Contributions.top", "Contributions.of", "Contributions.save", "Contributions.load",
]  # fmt: skip


def result(**changed: Any) -> Contributions:
    source = from_state_dicts({"Ann": ANN, "Bob": BOB}, [3, 1], BEFORE)
    return replace(trace(torch.nn.Linear(2, 2), torch.eye(2), source, settings(), layer_sample=2), **changed)


def store_round(rounds: Path) -> None:
    made = from_state_dicts([ANN, BOB], [3, 1], BEFORE)
    temporary = begin_round(rounds, 1, specs_of(BEFORE), 2)
    for slot, client in enumerate((ANN, BOB)):
        write_slot(temporary / "clients.safetensors", client, slot)
    commit_round(
        temporary, 1, clients=[0, 1], examples=[3, 1], weights=made.weights(), previous=BEFORE, state={}, next_state={},
        decomposition=made.decomposition, buffers=frozenset(), history=[Metrics(1, 0.0, 0.0, 0.0, 2, 0.0)],
    )  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store_round(tmp_path / "run" / "rounds")
    documented: Any = door
    for part in name.split("."):
        documented = getattr(documented, part)
    names = {exported: getattr(door, exported) for exported in door.__all__} | {"result": result()}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(documented) or "", names, name, None, None)
    assert example.examples
    said: list[str] = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=options).run(example, out=said.append)
    assert not said, "".join(said)


def test_everything_exported_is_documented() -> None:
    assert sorted(door.__all__) == door.__all__
    shown = pydoc.plain(pydoc.render_doc(door))
    for name in door.__all__:
        assert name in dir(door)
        assert name in shown
    with pytest.raises(AttributeError, match="no attribute 'tracing_of'"):
        door.tracing_of  # noqa: B018


@pytest.mark.parametrize("function", [trace, from_state_dicts])
def test_help_has_a_line_for_each_argument_that_begins_with_its_type(function: Callable[..., object]) -> None:
    lines = [line.strip(" |") for line in pydoc.plain(pydoc.render_doc(function)).splitlines()]
    kinds = ("nn.Module", "Tensor", "what `from_state_dicts`", "str", "list of", "state dict", "int")
    for name in inspect.signature(function).parameters:
        (line,) = (line for line in lines if line.startswith(f"{name}: "))
        assert line.removeprefix(f"{name}: ").startswith(kinds), line


def test_names_in_signatures_can_be_imported_from_the_door() -> None:
    for annotation in ("Inputs", "Classes", "Source", "Provenance"):
        assert annotation in str(inspect.signature(trace))
        assert annotation in door.__all__


def assert_same(answer: Contributions, other: Contributions) -> None:
    for field in fields(Contributions):
        ours, theirs = getattr(answer, field.name), getattr(other, field.name)
        if field.name == "layers":
            assert [layer.layer for layer in ours] == [layer.layer for layer in theirs]
            pairs = [(getattr(a, f.name), getattr(b, f.name)) for a, b in zip(ours, theirs, strict=True)
                     for f in fields(LayerTrace)[1:]]  # fmt: skip
        elif field.name == "rows":
            assert list(ours) == list(theirs)
            pairs = [(ours[kind], theirs[kind]) for kind in ours]
        else:
            pairs = [(ours, theirs)]
        for a, b in pairs:
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype, field.name
                assert np.array_equal(a, b), field.name
            else:
                assert a == b, field.name


def test_a_saved_result_is_the_same(tmp_path: Path) -> None:
    whole = result(
        rows={"previous": np.array([0.5, -1.0]), "a/b\n": np.zeros(2)},
        names=("Ann <1>", "clinic\x1b[2J é"),
        notes=("one", "two"),
        uncovered={"x": "no rule"},
        covered=0.5,
        unchecked=("a",),
        buffers=("b",),
        masked_layers=("c",),
    )
    assert whole.layers
    for number, kept in enumerate((whole, result(names=(), layers=()), result(values=result().values.T.copy().T))):
        kept.save(tmp_path / str(number))
        assert_same(Contributions.load(str(tmp_path / str(number))), kept)


def damaged(change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> Callable[[Path], object]:
    """A saved file whose JSON and arrays were changed."""

    def write(path: Path) -> None:
        result().save(path)
        arrays = dict(load(path.read_bytes()))
        header = path.read_bytes()
        text = json.loads(json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"][KEY])
        change(text, arrays)
        path.write_bytes(save(arrays, {KEY: json.dumps(text)}))

    return write


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "plain file"),
        (lambda path: path.write_bytes(b""), "too short"),
        (lambda path: path.write_bytes(b"\xff" * 100), "header"),
        (lambda path: path.write_bytes(save({"values": np.zeros(2)})), "provfl.contributions"),
        (lambda path: path.write_bytes(save({"values": np.zeros(2)}, {KEY: "[" * 100_000})), "RecursionError"),
        (damaged(lambda text, arrays: text.update(format=2)), "format 2"),
        (damaged(lambda text, arrays: text.update(clients=[0])), "candidates is bool [2] instead of bool [1]"),
        (damaged(lambda text, arrays: text.update(names=["a"])), "does not name each client"),
        (damaged(lambda text, arrays: text.update(uncovered=3)), "AttributeError"),
        (damaged(lambda text, arrays: arrays.update(values=np.zeros((2, 2), np.float32))), "values is float32"),
        (damaged(lambda text, arrays: arrays.pop("layers/0/neurons")), "layers/0/neurons"),
        (damaged(lambda text, arrays: arrays.update({"layers/0/active": np.zeros(1)})), "of other inputs"),
    ],
)
def test_a_file_that_is_no_result_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], object], words: str
) -> None:
    write(tmp_path / "x")
    with pytest.raises(InputError) as caught:
        Contributions.load(tmp_path / "x")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        result().save(tmp_path / "nowhere" / "x")


def test_the_best_clients_by_name() -> None:
    made = result(
        values=np.array([[1.0, 3.0, 2.0], [0.0, 9.0, -1.0]]),
        clients=(4, 7, 9),
        candidates=np.array([True, False, True]),
        names=("a", "b", "c"),
    )
    assert made.top() == [("c",), ("a",)]
    assert made.top(5) == [("c", "a"), ("a", "c")]  # fusion did not use b
    assert replace(made, names=()).top(1) == [("9",), ("4",)]
    assert made.of("b").tolist() == made.of(7).tolist() == [3.0, 9.0]
    for wrong in (0, -1, True, "2", 1.5):
        with pytest.raises(InputError, match=r"k=.*whole number from 1"):
            made.top(wrong)  # type: ignore[arg-type]
    for client in ("d", 5):
        with pytest.raises(InputError, match=rf"client {client}: is none of this round, accepted: "):
            made.of(client)


def test_a_result_and_a_round_are_shown_in_a_few_lines() -> None:
    many = result(values=np.zeros((50, 2)), residuals=np.zeros(50), predictions=np.zeros(50, int))
    assert len(str(many).splitlines()) <= 8
    assert str(from_state_dicts([ANN, BOB], [3, 1], BEFORE)) == "RoundInMemory(2 clients; 2 tensors)"
