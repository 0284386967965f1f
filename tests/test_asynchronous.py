"""Asynchronous federations against a loop with a clock of its own, and what holds whoever is slow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st

from provfl_cli.attribution.counterfactual import fused_again, sent_part
from provfl_cli.attribution.method import Case
from provfl_cli.config import schema
from provfl_cli.config.validate import provenance_preset
from provfl_cli.data.federated import FederatedData
from provfl_cli.errors import InputError
from provfl_cli.federation.buffers import buffers, durations
from provfl_cli.federation.client import train_client
from provfl_cli.federation.key import training_key
from provfl_cli.federation.participation import rosters
from provfl_cli.fusion.accounting import ledger_of
from provfl_cli.fusion.buffered import Buffered, staleness_weight
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.fusion.fedavgm import FedAvgM
from provfl_cli.fusion.fuse import fuse
from provfl_cli.fusion.privacy import CentralDP, NoPrivacy
from provfl_cli.provenance.lineage import lineage_round
from provfl_cli.provenance.tracing import trace
from provfl_cli.reporting.participation import MARKS
from provfl_cli.results.participation import participation_frame

from .federations import CPU, content, make_config, make_data, make_model, train
from .fusions import FUSIONS, configured, largest_gap, made_of, random_round, whole_shares

SIZES = (12, 20, 33, 50, 90)  # of the clients, which work at the same speed
ASYNC: dict[str, Any] = {"mode": "fedbuff", "clients_per_round": 2, "speeds": "equal", "local_epochs": 1}
NAMES = ("mode", "clients_per_round", "concurrency", "max_staleness", "speeds", "speed_spread")


def settings(clients: int = 8, rounds: int = 40, **changes: Any) -> schema.Federation:
    """Settings of an asynchronous federation."""
    plain = schema.Federation(clients, None, rounds, 3, 16, "sgd", 0.05, 0.9, 0.0)
    return replace(plain, **{"mode": "fedbuff", **changes})


def unequal_data() -> FederatedData:
    """Five clients, the last more than seven times as large as the first."""
    data = make_data(5, 100)
    clients = [
        replace(client, inputs=client.inputs[:size].clone(), labels=client.labels[:size].clone())
        for client, size in zip(data.clients, SIZES, strict=True)
    ]
    return replace(data, clients=tuple(clients))


def by_hand(config: schema.Config, data: FederatedData, until: int) -> tuple[list[dict[str, torch.Tensor]], list[int]]:
    """The models after each full buffer of two, all clients at work, and every staleness: a plain loop over time.

    Whoever finishes waits until the buffer is full; then the two start again.
    """
    model = make_model()
    parameters = {name for name, _ in model.named_parameters()}
    now = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    models, stale = [], []
    busy = {client: (float(size), 1, now) for client, size in enumerate(SIZES)}  # when it ends, version, base
    clock, full = 0.0, list[int]()
    while len(models) < until:
        clock = min(ends for client, (ends, _, _) in busy.items() if client not in full)
        full += [client for client, (ends, _, _) in busy.items() if ends == clock and client not in full][:1]
        if len(full) < 2:
            continue
        version = len(models) + 1
        total = sum(SIZES[client] for client in full)
        after = {name: now[name].double() for name in parameters} | {
            name: torch.zeros_like(now[name], dtype=torch.float64) for name in now if name not in parameters
        }
        for client in full:
            _, started, base = busy[client]
            model.load_state_dict(base)
            train_client(model, data.clients[client], config.federation, config.fusion, config.seed, started)
            stale.append(version - started)
            for name, value in model.state_dict().items():
                if name in parameters:
                    moved = value.double() - base[name].double()
                    after[name] += 0.7 * SIZES[client] / total * (1 + version - started) ** -0.5 * moved
                else:
                    after[name] += SIZES[client] / total * value
        now = {
            name: value.to(now[name].dtype) if now[name].is_floating_point() else value.round().to(now[name].dtype)
            for name, value in after.items()
        }
        models.append(now)
        for client in full:
            busy[client] = (clock + SIZES[client], version + 1, now)
        full = []
    return models, stale


@pytest.mark.slow
def test_the_models_are_those_of_a_loop_by_hand(tmp_path: Path) -> None:
    """Five clients at work, two to a buffer, six rounds; staleness up to several rounds."""
    data, config = unequal_data(), make_config(clients=5, rounds=6, server_rate=0.7, **ASYNC)
    stored, _ = train(tmp_path, config, set(range(1, 7)), data)
    with torch.random.fork_rng():
        models, stale = by_hand(config, data, 6)
    for ours, theirs in zip(stored, models, strict=True):
        assert largest_gap({n: t.double() for n, t in ours.weights().items()}, theirs) < 1e-6
    assert sorted(stale) == sorted(tau for ours in stored for tau in ours.buffered.staleness)  # type: ignore[union-attr]
    assert max(stale) >= 3
    before = make_model().state_dict()
    assert max(float((models[-1][name] - before[name]).abs().max()) for name in ("logits.weight",)) > 1e-2


def test_a_buffer_of_all_is_fedavg_to_the_bit(tmp_path: Path) -> None:
    """No matter how slow some are: the server waits for all."""
    train(tmp_path / "sync", make_config(rounds=2))
    train(tmp_path / "buffer", make_config(rounds=2, mode="fedbuff", speed_spread=2.0))
    assert content(tmp_path / "sync") == content(tmp_path / "buffer")


@pytest.mark.slow
def test_the_bytes_depend_neither_on_workers_nor_on_interruptions(tmp_path: Path) -> None:
    """Accumulators, server momentum, and updates that are on their way over several rounds."""
    changes = {"speed_spread": 1.0, "concurrency": 3, "clients_per_round": 2, "max_staleness": 2}
    lineage = replace(provenance_preset("provfl"), scope="lineage", lineage_decay=0.9)
    plain = make_config(mode="fedbuff", local_epochs=1, fusion=FedAvgM(), provenance=lineage, **changes)
    whole, _ = train(tmp_path / "whole", replace(plain, federation=replace(plain.federation, rounds=5)))
    for rounds in (1, 3, 4, 5):
        broken = replace(plain, engine=replace(plain.engine, workers=1))
        train(tmp_path / "broken", replace(broken, federation=replace(plain.federation, rounds=rounds)))
    last = {file: data for file, data in content(tmp_path / "whole").items() if "0005/" in file}
    broken_files = content(tmp_path / "broken")
    assert any("pending" in file for file in last)
    assert all(broken_files[file] == data for file, data in last.items())
    assert whole[0].buffered is not None


@pytest.mark.slow
def test_the_trace_and_the_lineage_add_up_and_no_row_is_stale(tmp_path: Path) -> None:
    lineage = replace(provenance_preset("faithful"), scope="lineage")
    config = make_config(clients=5, rounds=4, fusion=FedAvgM(), provenance=lineage, **ASYNC)
    (stored,), _ = train(tmp_path, config, {4}, unequal_data())
    assert max(stored.buffered.staleness) > 0  # type: ignore[union-attr]
    inputs = make_data().test.inputs[:6]
    for preset in ("provfl", "faithful"):
        for source in (stored, lineage_round(stored)):
            traced = trace(make_model(), inputs, source, preset)
            assert float(abs(traced.residuals).max()) < 1e-4
            assert "stale" not in traced.rows
    assert stored.lineage().rows.kinds == ()  # type: ignore[union-attr]


@pytest.mark.slow
def test_without_a_client_the_others_are_fused_as_they_were_stored(tmp_path: Path) -> None:
    """Withheld: its own term goes. Refused: the buffer is one shorter, the staleness of those left stays."""
    config = make_config(clients=5, rounds=4, server_rate=0.7, update_weights="equal", **ASYNC)
    (stored,), _ = train(tmp_path, config, {4}, unequal_data())
    none = np.zeros(0, np.int64)
    case = Case(
        model=make_model(),
        inputs=torch.zeros(0),
        numbers=none,
        labels=none,
        classes=none,
        stored=stored,
        fusion=FedAvg(),
        privacy=NoPrivacy(),
        form=None,
        provenance=provenance_preset("provfl"),
        seed=0,
        device=CPU,
    )
    whole, alone = fused_again(case, [0, 1]), fused_again(case, [1])
    buffered = stored.buffered
    assert buffered is not None
    for name in set(stored.weights()) - stored.buffers:
        assert torch.equal(whole[name], stored.weights()[name])
        before = stored.previous()[name].double()
        base = stored.bases().get(1, stored.previous())[name].double()
        own = stored.client_stack()[name][1].double() - base
        assert torch.allclose(alone[name].double(), before + 0.7 * buffered.weights[1] * own, atol=1e-6)
        withheld = stored.weights()[name].double() - sent_part(stored, 0, name)
        assert torch.allclose(withheld, before + 0.7 * 0.5 * buffered.weights[1] * own, atol=1e-6)


AVERAGES = [name for name in FUSIONS if configured(name).averages]


@pytest.mark.parametrize("name", AVERAGES)
def test_every_fusion_that_is_allowed_states_exactly_what_it_does(name: str) -> None:
    """With clip factors' place taken by staleness, momentum from the round before, and an old base."""
    fusion, returned = configured(name), random_round(3, 5, late=True)
    first = fuse(fusion, returned, {})
    buffered = Buffered((0, 3, 1, 0, 0), (1.0, 0.5, 0.7, 1.0, 1.0), 0.6)
    fused = fuse(fusion, replace(returned, buffered=buffered), first.state)
    shares = whole_shares(fused.decomposition, returned)
    assert largest_gap(made_of(returned, shares, fused.decomposition.unsent), fused.weights) < 1e-5
    assert "stale" not in fused.decomposition.unsent
    assert largest_gap(fused.weights, fuse(fusion, returned, first.state).weights) > 1e-3


def test_which_fusions_are_allowed() -> None:
    assert set(AVERAGES) == {
        "fedavg", "ffa_lora", "fedprox", "fednova", "norm_clipping", "fedavgm", "fedadagrad", "fedadam", "fedyogi",
    }  # fmt: skip
    for name in ("median", "krum", "scaffold", "bulyan"):
        federation: dict[str, Any] = {"clients": 12, "momentum": 0.0, "weight_decay": 0.0}
        with pytest.raises(InputError, match=f"fusion={name}: federation.mode=fedbuff takes weighted means"):
            make_config(mode="fedbuff", **federation, fusion=configured(name))


def test_weights_by_staleness() -> None:
    assert [staleness_weight("polynomial", tau, 0.5, 4) for tau in (0, 3, 8)] == pytest.approx([1, 0.5, 1 / 3])
    assert [staleness_weight("hinge", tau, 10.0, 4) for tau in (0, 4, 5)] == pytest.approx([1, 1, 1 / 11])
    assert staleness_weight("constant", 9, 0.5, 4) == 1


@property_settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_holds_in_every_buffer(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    size, most = data.draw(st.integers(1, count)), data.draw(st.sampled_from([None, 0, 1, 4]))
    places = data.draw(st.one_of(st.none(), st.integers(1, count)))
    examples = data.draw(st.lists(st.integers(2, 60), min_size=count, max_size=count))
    federation = settings(
        count,
        12,
        clients_per_round=size,
        concurrency=places,
        max_staleness=most,
        speeds=data.draw(st.sampled_from(["equal", "uniform", "half_normal", "lognormal"])),
        speed_spread=data.draw(st.sampled_from([0.2, 2.0])),
    )
    seed = data.draw(st.integers(0, 99))
    rounds = rosters(federation, range(count), examples, seed, 12)
    assert rounds[:5] == rosters(federation, range(count), examples, seed, 5)
    out = dict[int, tuple[int, int]]()  # client: started, due
    for roster in rounds:
        fused = [work.position for work in roster.fused]
        assert len(set(fused)) == len(fused) == size
        assert {work.position: work.from_round for work in roster.arriving} == {
            client: started for client, (started, due) in out.items() if due == roster.number
        }
        assert all(roster.number - work.from_round <= (99 if most is None else most) for work in roster.fused)
        started = [participant.position for participant in roster.trained]
        assert started == sorted(set(started))
        # Whose update is in the buffer or still on its way does not start again.
        assert not set(started) & {client for client, (_, due) in out.items() if due >= roster.number}
        assert not set(started) & set(roster.dropped)
        out |= {p.position: (roster.number, roster.number + p.delay) for p in roster.trained}
        late = [client for client, (_, due) in out.items() if due > roster.number]
        assert len(late) <= (places or count)


def test_the_faster_a_client_the_more_often_it_is_fused() -> None:
    """Small steps of time: each finishes as often as its speed says, whoever is drawn."""
    federation = settings(6, 2000, clients_per_round=1, speed_spread=1.0)
    takes = durations(federation, [10] * 6, 3)
    counts = [0] * 6
    for buffer in buffers(federation, [10] * 6, 3, 2000):
        for client in [*(k for k, delay in buffer.started.items() if not delay), *buffer.arriving]:
            counts[client] += 1
    rates = torch.tensor(takes).reciprocal()
    assert [count / 2000 for count in counts] == pytest.approx((rates / rates.sum()).tolist(), abs=0.01)
    assert len(set(takes)) == 6
    assert takes == durations(federation, [10] * 6, 3) != durations(federation, [10] * 6, 4)


def test_the_table_says_whose_update_was_too_stale() -> None:
    federation = settings(4, 6, clients_per_round=1, speed_spread=2.0, max_staleness=1)
    planned = rosters(federation, range(4), [10] * 4, 1, 6)
    frame = participation_frame(planned, [0, 4, 5, 8], federation)
    counted = frame["status"].value_counts()
    assert counted["unused"] == sum(len(roster.dropped) for roster in planned) > 0
    assert set(counted.index) <= {"trained", "late", "arrived", "unused"} <= set(MARKS)
    assert not frame.duplicated(["round", "client"]).any()


def test_other_federations_keep_their_name_in_the_cache() -> None:
    data, model = make_data(), make_model()

    def key(**changes: Any) -> str:
        return training_key(make_config(**changes), data, model, torch.device("cpu"))[0]

    assert key() == key(concurrency=3, staleness="hinge", server_rate=0.5, max_staleness=2, speeds="equal")
    on: dict[str, Any] = {"mode": "fedbuff"}
    assert key(**on, speeds="equal") == key(**on, speeds="equal", speed_spread=1.0)
    assert key(**on) == key(**on, staleness_grace=1) != key(**on, staleness_grace=1, staleness="hinge")
    different = [key(), key(**on), key(**on, concurrency=2), key(**on, server_rate=0.5), key(**on, max_staleness=1)]
    different += [key(**on, staleness="constant"), key(**on, update_weights="equal"), key(**on, clients_per_round=2)]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "async"}, "federation.mode=async"),
        ({"concurrency": 9}, "federation.concurrency=9: more than federation.clients=8"),
        ({"clients_per_round": 9}, "more than federation.clients=8"),
        ({"dropout": 0.1}, "federation.dropout=0.1: under federation.mode=fedbuff"),
        ({"stragglers": 0.1}, "federation.stragglers=0.1: under federation.mode=fedbuff"),
        ({"sampling": "markov"}, "federation.sampling=markov: under federation.mode=fedbuff"),
        ({"joins": {1: 2}}, "federation.joins=.*: under federation.mode=fedbuff"),
        ({"staleness": "linear"}, "federation.staleness=linear"),
        ({"speeds": "normal"}, "federation.speeds=normal"),
        ({"speed_spread": 3.0}, "federation.speed_spread=3.0: must be 0 or more and at most 2"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        settings(**changes)
    assert "\n" not in str(caught.value)


def test_privacy_counts_updates_and_never_amplifies() -> None:
    """A client of a buffer is not drawn: who is fast is in it more often."""
    federation = settings(8, 4, clients_per_round=2)
    ledger = ledger_of(federation, FedAvg(), 8, [[0, 1], [0, 2], [0, 3], [1, 2]])
    assert not ledger.regular
    returned = replace(random_round(1, 4), buffered=Buffered((0, 1, 2, 3), (1.0, 0.7, 0.6, 0.5)))
    counted, updates = CentralDP(clip_norm=0.5).clipped(returned, {})
    fused = fuse(FedAvg(), counted, {}, updates)
    moved = [
        sum(
            (parts * (fused.decomposition.multipliers[n].scalars[k] / 4)).square().sum()
            for n, parts in ((n, returned.clients[n][k] - returned.previous[n]) for n in returned.parameters)
        )
        ** 0.5
        for k in range(4)
    ]
    assert torch.tensor(moved).tolist() == pytest.approx([0.125, 0.0875, 0.075, 0.0625], rel=1e-5)
    assert NoPrivacy().clipped(returned, {})[0].buffered is returned.buffered
