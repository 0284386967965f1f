"""Rounds on disk: the file format, laziness, checksums, the commit."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from provfl_cli.errors import RunError
from provfl_cli.fusion.decomposition import Decomposition, Multiplier
from provfl_cli.store import rounds as store
from provfl_cli.store.cache import Entry
from provfl_cli.store.cost import Cost, cost_of
from provfl_cli.store.disk import replacing
from provfl_cli.store.new_round import begin_round, commit_round
from provfl_cli.store.tensorfile import (
    NAMES,
    allocate,
    checksum,
    open_tensors,
    specs_of,
    stacked,
    write_slot,
    write_tensors,
)

from .lineages import changed

METRICS = store.Metrics(1, 0.5, 0.75, 0.4, 3, 1.25)


def sample_state(seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "b": torch.randn(3, generator=random),
        "a.weight": torch.randn(2, 3, generator=random),
        "steps": torch.tensor(seed),
        "half": torch.randn(5, generator=random).to(torch.bfloat16),
        "flag": torch.tensor([True, False, True]),
    }


def commit(folder: Path, number: int, previous: dict[str, torch.Tensor], **changes: object) -> store.Round:
    states = [sample_state(10 * number + client) for client in range(3)]
    temporary = begin_round(folder, number, specs_of(states[0]), 3)
    for slot in (2, 0, 1):  # in any order
        write_slot(temporary / store.CLIENTS, states[slot], slot)
    values = {
        "clients": [0, 4, 7],
        "examples": [10, 20, 30],
        "weights": sample_state(100 + number),
        "previous": previous,
        "state": {},
        "next_state": {},
        "decomposition": Decomposition(torch.tensor([1 / 6, 1 / 3, 0.5], dtype=torch.float64)),
        "buffers": frozenset({"steps"}),
        "history": [METRICS],
    } | changes
    return commit_round(temporary, number, **values)  # type: ignore[arg-type]


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=6),
    types=st.lists(
        st.sampled_from([getattr(torch, name.removeprefix("torch.")) for name in NAMES]), min_size=6, max_size=6
    ),
)
@settings(deadline=None, max_examples=25)
def test_files_are_what_the_safetensors_library_reads(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], types: list[torch.dtype]
) -> None:
    path = tmp_path_factory.mktemp("files") / "some.safetensors"
    tensors = {f"t{n}": (torch.rand(shape) * 9).to(types[n]) for n, shape in enumerate(shapes)}
    write_tensors(path, tensors)
    loaded, ours = load_file(path), open_tensors(path)
    assert set(loaded) == set(ours) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == ours[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
        assert torch.equal(ours[name], tensor)


def test_same_tensors_give_same_bytes_whatever_their_order(tmp_path: Path) -> None:
    state = sample_state()
    write_tensors(tmp_path / "one", state)
    write_tensors(tmp_path / "two", dict(reversed(state.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_slots_are_stacked_and_nothing_is_written_outside(tmp_path: Path) -> None:
    states = [sample_state(seed) for seed in range(3)]
    path = tmp_path / "clients.safetensors"
    allocate(path, stacked(specs_of(states[0]), 3))
    for slot, state in enumerate(states):
        write_slot(path, state, slot)
    for name, stack in open_tensors(path).items():
        assert torch.equal(stack, torch.stack([state[name] for state in states]))
    with pytest.raises(ValueError, match="outside"):
        write_slot(path, states[0], 3)


def test_numbers_that_nobody_knows_are_null_and_read_back(tmp_path: Path) -> None:
    """Python would write NaN, which is no JSON."""
    unknown = store.Metrics(1, math.nan, math.inf, 0.5, 3, 1.0, (4,))
    commit(tmp_path, 1, sample_state(1), history=[unknown, METRICS])

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    written = json.loads((tmp_path / "0001" / store.MANIFEST).read_text(), parse_constant=refuse)
    assert written["history"][0]["loss"] is written["history"][0]["accuracy"] is None
    first, second = store.read_round(tmp_path, 1).history
    assert math.isnan(first.loss)
    assert math.isnan(first.accuracy)
    assert (first.train_loss, first.failed) == (0.5, (4,))
    assert second == METRICS


def test_reading_a_slice_maps_the_file_and_reads_little(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    allocate(path, {"w": (torch.float32, (64, 1 << 20))})  # 256 MB, mostly never touched

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().split("\n")
        at = [n for n, line in enumerate(lines) if str(path) in line]
        return sum(int(line.split()[1]) for n in at for line in lines[n : n + 6] if line.startswith("Rss:"))

    if not Path("/proc/self/smaps").exists():
        pytest.skip("needs /proc")
    stack = open_tensors(path)["w"]
    assert stack[5].sum() == 0
    assert 0 < resident() < 40_000  # kB


def test_a_round_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    initial = sample_state(50)
    multipliers = {"b": Multiplier(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64), shared=torch.ones(3))}
    unsent = {"noise": {"b": torch.ones(3)}, "momentum": {"a.weight": torch.full((2, 3), 2.0)}}
    weights = torch.tensor([1 / 6, 1 / 3, 0.5], dtype=torch.float64)
    made_of = Decomposition(weights, multipliers, unsent)
    commit(tmp_path, 1, initial, decomposition=made_of, state={"m": torch.zeros(2)}, next_state={"m": torch.ones(2)})
    assert store.stored_rounds(tmp_path) == [1]
    read = store.read_round(tmp_path, 1)
    assert (read.number, read.clients, read.examples, read.buffers) == (1, (0, 4, 7), (10, 20, 30), {"steps"})
    assert read.metrics == METRICS
    assert torch.equal(read.decomposition.example_weights, weights)  # to the last bit
    assert torch.equal(read.decomposition.multipliers["b"].scalars, multipliers["b"].scalars)
    assert torch.equal(read.decomposition.multipliers["b"].shared, torch.ones(3))
    assert read.decomposition.multipliers["b"].bits is None
    assert torch.equal(read.decomposition.unsent["noise"]["b"], torch.ones(3))
    assert set(read.decomposition.unsent) == {"noise", "momentum"}
    assert all(torch.equal(read.previous()[name], tensor) for name, tensor in initial.items())
    assert all(torch.equal(read.weights()[name], tensor) for name, tensor in sample_state(101).items())
    assert torch.equal(read.client_stack()["a.weight"][2], sample_state(12)["a.weight"])
    assert read.server_state()["m"].sum() == 0
    assert read.next_server_state()["m"].sum() == 2


def test_previous_is_the_last_rounds_global_and_survives_it(tmp_path: Path) -> None:
    first = commit(tmp_path, 1, sample_state(50))
    second = commit(tmp_path, 2, dict(first.weights()))
    linked = (second.folder / store.PREVIOUS).stat().st_ino == (first.folder / store.GLOBAL).stat().st_ino
    store.remove_round(tmp_path, 1)
    assert linked
    assert store.stored_rounds(tmp_path) == [2]
    previous = store.read_round(tmp_path, 2).previous()
    assert all(torch.equal(previous[name], tensor) for name, tensor in sample_state(101).items())


@pytest.mark.parametrize("name", [store.CLIENTS, store.GLOBAL, store.PREVIOUS])
def test_one_changed_bit_is_found_and_named(tmp_path: Path, name: str) -> None:
    path = commit(tmp_path, 1, sample_state(50)).folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    read = store.read_round(tmp_path, 1)
    access = {store.CLIENTS: read.client_stack, store.GLOBAL: read.weights, store.PREVIOUS: read.previous}[name]
    with pytest.raises(RunError, match=rf"{name} is damaged.*delete .*0001 and run again"):
        access()


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, sample_state(50)).folder
    read = store.read_round(tmp_path, 1)
    (folder / store.GLOBAL).unlink()
    with pytest.raises(RunError, match=r"global\.safetensors is missing"):
        read.weights()
    (folder / store.MANIFEST).write_text("{")
    with pytest.raises(RunError, match=r"round\.json cannot be read"):
        store.read_round(tmp_path, 1)
    manifest = tmp_path / "0002" / store.MANIFEST
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(RunError, match="format 99"):
        store.read_round(tmp_path, 2)


def test_an_unfinished_round_is_no_round(tmp_path: Path) -> None:
    begin_round(tmp_path, 1, specs_of(sample_state()), 3)
    assert store.stored_rounds(tmp_path) == []
    store.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checksum_is_of_the_content(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3)}, tmp_path / "x.safetensors")
    assert open_tensors(tmp_path / "x.safetensors", checksum(tmp_path / "x.safetensors"))["x"].sum() == 3


def test_what_a_killed_process_left_goes_with_the_next_write_and_nobody_elses(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from provfl_cli.store.disk import replacing
with replacing(Path({str(tmp_path / "rows [1].csv")!r})) as beside:
    beside.write_text("half")
    print("written", flush=True)
    sys.stdin.read()
"""
    lives, dies = (
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    )
    for process in (lives, dies):
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
    dies.kill()
    dies.wait()
    other = tmp_path / ".rows [1].csv.another-machine.1.part"
    other.touch()
    assert len(list(tmp_path.iterdir())) == 3
    with replacing(tmp_path / "rows [1].csv") as beside:
        beside.write_text("whole")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert f".{lives.pid}.part" in "".join(names)
    assert (tmp_path / "rows [1].csv").read_text() == "whole"
    lives.communicate(b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "rows [1].csv"]


MANIFEST_DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "clients exchanged": lambda text: text["clients"].reverse(),
    "examples exchanged": lambda text: text["examples"].reverse(),
    "weights exchanged": lambda text: text["example_weights"].reverse(),
    "a buffer": lambda text: text["buffers"].clear(),
    "an accuracy": lambda text: text["history"][0].update(accuracy=1.0),
    "no checksums": lambda text: text["checksums"].clear(),
    "another key": lambda text: text.update(key="b"),
    "no checksum of its own": lambda text: text.pop("sha256"),
    "of an older format": lambda text: text.update(format=2),
}


@pytest.mark.parametrize("damage", MANIFEST_DAMAGE)
def test_the_manifest_of_a_round_covers_itself(damage: str, tmp_path: Path) -> None:
    folder = commit(tmp_path, 1, sample_state(50), key="a").folder
    assert store.read_round(tmp_path, 1).key == "a"
    changed(folder / store.MANIFEST, MANIFEST_DAMAGE[damage])
    with pytest.raises(RunError, match=r"round\.json cannot be read \(it is damaged.*delete .*0001"):
        store.read_round(tmp_path, 1)


@pytest.mark.parametrize("number", [2, store.FORMAT])
def test_a_manifest_lists_every_file_of_its_round(number: int, tmp_path: Path) -> None:
    unsent = {"noise": {"b": torch.ones(3)}}
    weights = torch.tensor([1 / 6, 1 / 3, 0.5], dtype=torch.float64)
    folder = commit(tmp_path, 1, sample_state(50), decomposition=Decomposition(weights, {}, unsent)).folder
    whole = (folder / store.MANIFEST).read_text()

    def of_format(text: dict[str, Any]) -> None:
        text["format"] = number
        text.pop("sha256", None)

    for name in (store.CLIENTS, store.NEXT_STATE, store.DECOMPOSITION):
        (folder / store.MANIFEST).write_text(whole)
        changed(folder / store.MANIFEST, lambda text, name=name: text["checksums"].pop(name), seal=True)
        changed(folder / store.MANIFEST, of_format, seal=number == store.FORMAT)
        with pytest.raises(RunError, match=f"the checksum of {name} is missing"):
            store.read_round(tmp_path, 1)
    (folder / store.MANIFEST).write_text(whole)
    changed(folder / store.MANIFEST, of_format, seal=number == store.FORMAT)
    assert set(store.read_round(tmp_path, 1).decomposition.unsent) == {"noise"}


def test_a_round_in_the_place_of_another_is_found(tmp_path: Path) -> None:
    commit(tmp_path, 1, sample_state(50)).folder.rename(tmp_path / "0007")
    with pytest.raises(RunError, match="it is that of round 1"):
        store.read_round(tmp_path, 7)


def test_rounds_of_another_federation_are_refused(tmp_path: Path) -> None:
    mine, other = Entry(tmp_path / "a"), Entry(tmp_path / "b")
    for number, key, source in ((1, "a", ""), (2, None, ""), (3, "b", ""), (4, None, "import")):
        names = ["x", "y", "z"] if source else []
        commit(mine.rounds, number, sample_state(50), key=key, source=source, names=names)
    assert [mine.read(number).key for number in (1, 2)] == ["a", None]
    for number, whose in ((3, "b"), (4, "import")):
        with pytest.raises(RunError, match=f"is of another federation, {whose}"):
            mine.read(number)
    mine.rounds.rename(tmp_path / "moved")
    other.folder.mkdir()
    (tmp_path / "moved").rename(other.rounds)
    with pytest.raises(RunError, match="is of another federation, a"):
        other.read(1)


def test_what_a_file_manager_leaves_beside_a_rounds_tensors_is_not_part_of_it(tmp_path: Path) -> None:
    temporary = begin_round(tmp_path, 1, specs_of(sample_state()), 3)
    (temporary / ".DS_Store").write_text("")
    (temporary / "._clients.safetensors").write_text("")
    for slot in range(3):
        write_slot(temporary / store.CLIENTS, sample_state(slot), slot)
    weights = Decomposition(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    stored = commit_round(
        temporary, 1, clients=[0, 1, 2], examples=[2, 3, 5], weights=sample_state(), previous=sample_state(1),
        state={}, next_state={}, decomposition=weights, buffers=frozenset(), history=[METRICS],
    )  # fmt: skip
    assert set(stored.checksums) == set(store.ALWAYS)
    store.remove_round(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_round_is_named_and_left(tmp_path: Path) -> None:
    (tmp_path / "0001").write_text("mine")
    with pytest.raises(RunError, match="0001 is in the way of round 1: not a folder"):
        begin_round(tmp_path, 1, specs_of(sample_state()), 3)
    assert [path.name for path in tmp_path.iterdir()] == ["0001"]


def test_rounds_that_may_not_be_seen_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store.os, "scandir", denied)
    with pytest.raises(RunError, match=r"cannot be read \(Permission denied\)"):
        store.stored_rounds(tmp_path)


def test_what_rounds_take_is_what_their_files_take(tmp_path: Path) -> None:
    rounds = tmp_path / "rounds"
    assert cost_of(rounds) is None
    rounds.mkdir()
    assert cost_of(rounds) is None
    for number in (1, 2):
        commit(rounds, number, sample_state())
    files = [file for file in rounds.rglob("*") if file.is_file()]
    os.link(files[0], rounds / "0002" / "the same file again")
    found = cost_of(rounds)
    assert found is not None
    clients = (rounds / "0002" / store.CLIENTS).stat().st_size
    once = {file.stat().st_ino: file.stat().st_size for file in files}
    assert len(once) < len(files), "rounds share files that are the same"
    assert found == Cost(2, sum(once.values()), clients / 3, 0)
    assert str(Cost(1, 24_100_000, 247_000, 4_938_272)) == (
        "1 round, 24.1 MB; 0.2 MB a client and round; 4.9 MB of lineage a round"
    )
    assert str(found) == f"2 rounds, {found.size / 1e6:.2g} MB; {clients / 3e6:.2g} MB a client and round"
