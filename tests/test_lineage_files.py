"""Accumulators of many clients: a round writes its own clients' rows, the others stay in earlier rounds' files."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from provfl_cli.attribution.removed import taken_out
from provfl_cli.config.validate import provenance_preset
from provfl_cli.errors import RunError
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.lineage import next_lineage
from provfl_cli.fusion.lineage_rows import OWNERS, Lineage
from provfl_cli.provenance.lineage import LineageRound, lineage_round
from provfl_cli.provenance.tracing import trace
from provfl_cli.store import disk
from provfl_cli.store import rounds as store
from provfl_cli.store.cost import cost_of

from .lineages import Work, chain, changed, perturbed, shapes
from .provenance.networks import LeNet

CLIENTS, PER_ROUND, ROUNDS = 24, 4, 15


def some(number: int, model: Mapping[str, Tensor], past: Any) -> Work:
    """Four of 24 clients, others in each round; from the fifth round on with noise."""
    chosen = random.Random(number).sample(range(CLIENTS), PER_ROUND)
    sent = {client: (3 + client, perturbed(model, 0.1, 100 * number + client)) for client in chosen}
    return Work(sent, noise=0.01 * (number >= 5))


def whole(lineage: Lineage) -> Lineage:
    """The same with all rows in memory."""
    return Lineage(replace(lineage.rows, held=()), lineage.initial, dict(lineage.tensors))


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[store.Round]:
    return chain(tmp_path_factory.mktemp("rounds"), FedAvg(), shapes(torch.float64), some, ROUNDS)


def lineage_of(stored: store.Round) -> Lineage:
    lineage = stored.lineage()
    assert lineage is not None
    return lineage


def test_accumulators_are_the_sums_of_what_was_sent(rounds: list[store.Round]) -> None:
    sums: dict[tuple[str, int], Tensor] = {}
    noise = {name: torch.zeros_like(tensor) for name, tensor in shapes(torch.float64).items()}
    for stored in rounds:
        for name, previous in stored.previous().items():
            moved = stored.weights()[name] - previous
            for client, share, sent in zip(
                stored.clients, stored.example_weights, stored.client_stack()[name], strict=True
            ):
                update = sent - previous
                sums[f"plain/{name}", client] = sums.get((f"plain/{name}", client), 0) + update
                sums[f"weighted/{name}", client] = sums.get((f"weighted/{name}", client), 0) + share * update
                moved = moved - share * update
            noise[name] += moved
        lineage = lineage_of(stored)
        positions = lineage.rows.positions
        for (name, client), wanted in sums.items():
            assert torch.allclose(lineage.tensors[name][positions[client]], wanted, rtol=1e-10, atol=1e-13)
            assert torch.equal(lineage.row(name, positions[client]), lineage.tensors[name][positions[client]])
        if "noise" in positions:
            for name, wanted in noise.items():
                assert torch.allclose(lineage.tensors[f"weighted/{name}"][positions["noise"]], wanted, atol=1e-12)
                assert torch.equal(
                    lineage.row(f"weighted/{name}", positions["noise"]), lineage.tensors[f"weighted/{name}"][-1]
                )
    assert "noise" in rounds[-1].lineage_rows.kinds  # type: ignore[union-attr]


def test_a_round_writes_few_rows_and_shares_the_files_of_the_others(rounds: list[store.Round]) -> None:
    sizes = []
    for stored in rounds:
        rows = stored.lineage_rows
        assert rows is not None
        assert len({*rows.held}) <= 2 * CLIENTS / PER_ROUND + 1
        for earlier in {*rows.held} - {stored.number}:
            file = stored.folder / store.lineage_part(earlier)
            assert file.samefile(rounds[earlier - 1].folder / store.LINEAGE)
            assert sum(held == earlier for held in rows.held) >= PER_ROUND / 2
        files = {file.name for file in stored.folder.glob("lineage*")}
        assert files == {store.LINEAGE, *(store.lineage_part(held) for held in {*rows.held} - {stored.number})}
        owners = lineage_of(stored).tensors.files[stored.number][OWNERS].tolist()  # type: ignore[attr-defined]
        assert {*stored.clients} <= {*owners}
        sizes.append(len(owners))
    assert len(rounds[-1].lineage_rows.clients) > CLIENTS * 0.8  # type: ignore[union-attr]
    assert np.mean(sizes[5:]) < 2 * PER_ROUND
    assert max(sizes) > PER_ROUND, "some rows were taken over from a file with few that count"
    cost = cost_of(rounds[-1].folder.parent)
    assert cost is not None
    assert cost.lineage == (rounds[-1].folder / store.LINEAGE).stat().st_size


def test_everybody_in_every_round_is_one_file(tmp_path: Path) -> None:
    def all_of_them(number: int, model: Mapping[str, Tensor], past: Any) -> Work:
        return Work({client: (2, perturbed(model, 0.1, 10 * number + client)) for client in range(3)})

    last = chain(tmp_path, FedAvg(), shapes(torch.float64), all_of_them, 3)[-1]
    assert [file.name for file in last.folder.glob("lineage*")] == [store.LINEAGE]
    tensors = lineage_of(last).tensors
    once, again = tensors["weighted/w"], tensors["weighted/w"]
    assert once.data_ptr() == again.data_ptr(), "mapped, not put together"
    assert OWNERS not in tensors
    assert len(tensors) == len([*tensors])
    with pytest.raises(KeyError):
        tensors[OWNERS]


@pytest.mark.parametrize("weighting", ["none", "fusion"])
def test_a_trace_is_the_same_wherever_the_rows_are(weighting: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    last = chain(tmp_path, FedAvg(), LeNet().state_dict(), some, 8)[-1]
    source = lineage_round(last)
    assert len({*source.lineage.rows.held}) > 2
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    settings = replace(provenance_preset("provfl"), client_weighting=weighting)
    ours = trace(LeNet(), images, source, settings)
    again = trace(LeNet(), images, LineageRound(source.after, whole(source.lineage)), settings)
    assert np.array_equal(ours.values, again.values)
    assert ours.residuals.max() < 1e-5
    assert all(np.array_equal(row, again.rows[kind]) for kind, row in ours.rows.items())
    for shards in (1, 2):
        split = trace(LeNet(), images, source, replace(settings, shards=shards, batch_size=1))
        assert np.allclose(split.values, ours.values, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_workers_on_ray_find_the_files(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra flower is not installed")
    torch.manual_seed(0)
    source = lineage_round(chain(tmp_path, FedAvg(), LeNet().state_dict(), some, 8)[-1])
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    settings = replace(provenance_preset("provfl"), batch_size=2)
    here = trace(LeNet(), images, source, replace(settings, shards=1))
    there = trace(LeNet(), images, source, replace(settings, shards=2, shard_on="local"))
    assert np.array_equal(here.values, there.values)


def test_clients_are_taken_out_by_their_rows(rounds: list[store.Round]) -> None:
    last, gone = rounds[-1], {rounds[-1].clients[0], rounds[2].clients[1]}
    lineage = lineage_of(last)
    places = [lineage.rows.positions[client] for client in gone]
    left = taken_out(last, gone)
    for name, tensor in last.weights().items():
        wanted = tensor - lineage.tensors[f"weighted/{name}"][places].sum(0)
        assert torch.allclose(left[name], wanted, rtol=1e-10, atol=1e-13)


def test_it_outlives_the_rounds_before(tmp_path: Path) -> None:
    stored = chain(tmp_path, FedAvg(), shapes(torch.float64), some, 6)
    expected = dict(lineage_of(stored[-1]).tensors)
    for number in range(1, 6):
        store.remove_round(tmp_path, number)
    again = lineage_of(store.read_round(tmp_path, 6)).tensors
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked = chain(tmp_path / "linked", FedAvg(), shapes(torch.float64), some, 5)[-1]

    def no_links(*_: Any) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    copied = chain(tmp_path / "copied", FedAvg(), shapes(torch.float64), some, 5)[-1]
    assert copied.checksums == linked.checksums
    assert (copied.folder / store.lineage_part(4)).stat().st_nlink == 1
    expected = lineage_of(linked).tensors
    assert all(torch.equal(tensor, expected[name]) for name, tensor in lineage_of(copied).tensors.items())


def test_a_round_after_one_that_has_all_rows_writes_all_of_them(tmp_path: Path) -> None:
    """Rounds of former versions have them in one file, which does not say whose rows it has."""
    stored = chain(tmp_path, FedAvg(), shapes(torch.float64), some, 3)[-1]
    before = whole(lineage_of(stored))

    class Fused:
        class updates:
            names = ()
            has_stale = False

            class returned:
                previous: Mapping[str, Tensor] = {}

        shares, noise = None, {"w": 1}
        scales: Mapping[str, float] = {}

        class decomposition:
            candidates = staticmethod(lambda names: torch.tensor([True]))

    fused: Any = Fused()
    coming = next_lineage(FedAvg(), fused, [23], 4, before)
    assert {*coming.rows.held} == {4}
    assert {*coming.rows.clients} == {*before.rows.clients, 23}


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_damage_of_an_earlier_file_is_found(harm: str, tmp_path: Path) -> None:
    last = chain(tmp_path, FedAvg(), shapes(torch.float64), some, 4)[-1]
    rows = last.lineage_rows
    assert rows is not None
    earliest = min(rows.held)
    assert earliest < 4
    file = last.folder / store.lineage_part(earliest)
    if harm == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.unlink()  # the other rounds keep theirs
        file.write_bytes(content)
    with pytest.raises(RunError, match=rf"{file.name} is {'missing' if harm == 'missing' else 'damaged'}"):
        store.read_round(tmp_path, 4).lineage()
    assert lineage_of(store.read_round(tmp_path, 3))


def test_a_file_without_a_row_that_it_should_have_is_refused(tmp_path: Path) -> None:
    last = chain(tmp_path, FedAvg(), shapes(torch.float64), some, 4)[-1]

    def elsewhere(content: dict[str, Any]) -> None:
        held = content["lineage"]["held"]
        held[held.index(min(held))] = 4

    changed(last.folder / store.MANIFEST, elsewhere, seal=True)
    with pytest.raises(RunError, match=r"the lineage of client \d+ is not in the file of round 4"):
        store.read_round(tmp_path, 4).lineage()


@pytest.mark.parametrize(
    ("held", "reason"),
    [([9], "does not give each"), ("later", "names round 5, which is later"), ([-1], "lineage.held")],
)
def test_a_manifest_that_cannot_be_is_refused(held: Any, reason: str, tmp_path: Path) -> None:
    last = chain(tmp_path, FedAvg(), shapes(torch.float64), some, 4)[-1]

    def other(content: dict[str, Any]) -> None:
        count = len(content["lineage"]["held"])
        content["lineage"]["held"] = [5] * count if held == "later" else held

    changed(last.folder / store.MANIFEST, other, seal=True)
    with pytest.raises(RunError, match=reason):
        store.read_round(tmp_path, 4)


def test_a_round_of_the_format_before_is_read(tmp_path: Path) -> None:
    last = chain(tmp_path, FedAvg(), shapes(torch.float64), some, 1)[-1]
    expected = dict(lineage_of(last).tensors)

    def former(content: dict[str, Any]) -> None:
        content["format"] = 3
        del content["lineage"]["held"]

    changed(last.folder / store.MANIFEST, former, seal=True)
    tensors = lineage_of(store.read_round(tmp_path, 1)).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())


def test_a_checksum_is_computed_once_for_a_file_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("one")
    os.link(file, link)
    first = disk.checksum(file)
    assert not disk._known.keys() & {key for key in disk._known if key[1] == file.stat().st_ino}, "just written"
    long_ago = file.stat().st_mtime - 60
    os.utime(file, (long_ago, long_ago))
    assert disk.checksum(file) == first
    monkeypatch.setattr("hashlib.file_digest", None)  # a second reading would fail
    assert disk.checksum(link) == first
    monkeypatch.undo()
    file.write_text("two")
    assert disk.checksum(file) != first
    assert disk.checksum(link) != first
