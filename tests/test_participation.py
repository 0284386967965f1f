"""Who takes part in which round: the plain choice to the bit, the laws of the others, and what never may happen."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from rich.console import Console

from provfl_cli.config import blocks, schema
from provfl_cli.data.attackers import ScaledUpdate
from provfl_cli.errors import InputError
from provfl_cli.federation.key import training_key
from provfl_cli.federation.participation import Arrival, Participant, Roster, rosters, settings_that_matter
from provfl_cli.reporting.participation import table
from provfl_cli.results.participation import participation_frame
from provfl_cli.run.findings import newcomers

from .federations import make_config, make_data, make_model


def settings(clients: int = 8, rounds: int = 40, **changes: Any) -> schema.Federation:
    """Settings of a federation, 3 local epochs, everybody in every round."""
    plain = schema.Federation(clients, None, rounds, 3, 16, "sgd", 0.05, 0.9, 0.0)
    return replace(plain, **changes)


def made(federation: schema.Federation, seed: int = 0, examples: list[int] | None = None) -> list[Roster]:
    """Its rosters, nobody dropped by the partition."""
    count = federation.clients
    return rosters(federation, range(count), examples or [10] * count, seed, federation.rounds)


def positions(roster: Roster) -> list[int]:
    return [client.position for client in roster.trained]


@pytest.mark.parametrize("wanted", [None, 1, 3, 10])
def test_with_the_defaults_it_is_the_plain_choice_to_the_bit(wanted: int | None) -> None:
    """Federations in the cache were trained by it."""
    for roster in made(settings(10, 20, clients_per_round=wanted), seed=4):
        digest = hashlib.sha256(f"4/choice/{roster.number}".encode()).digest()
        order = torch.randperm(10, generator=torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
        expected = sorted(order[: wanted or 10].tolist())
        assert roster == Roster(roster.number, tuple(Participant(position, 3) for position in expected))


FEDERATIONS = st.fixed_dictionaries(
    {
        "clients": st.integers(2, 12),
        "sampling": st.sampled_from(blocks.SAMPLINGS),
        "go_offline": st.floats(0, 1),
        "come_online": st.floats(0.05, 1),
        "dropout": st.sampled_from([0.0, 0.3, 0.95]),
        "stragglers": st.sampled_from([0.0, 0.4, 1.0]),
        "straggler_work": st.sampled_from(["late", "partial"]),
        "straggler_delay": st.integers(1, 4),
    }
)


@property_settings(max_examples=25, deadline=None)
@given(given_settings=FEDERATIONS, seed=st.integers(0, 99), data=st.data())
def test_what_holds_in_every_round(given_settings: dict[str, Any], seed: int, data: st.DataObject) -> None:
    clients = given_settings["clients"]
    wanted = data.draw(st.one_of(st.none(), st.integers(1, clients)))
    some = st.integers(2, clients - 1) if clients > 2 else st.nothing()  # clients 0 and 1 stay
    joins = data.draw(st.dictionaries(some, st.integers(1, 5), max_size=3)) if clients > 2 else {}
    leaves = data.draw(st.dictionaries(some, st.integers(5, 12), max_size=3)) if clients > 2 else {}
    federation = settings(rounds=12, clients_per_round=wanted, joins=joins, leaves=leaves, **given_settings)
    rounds = made(federation, seed, list(range(10, 10 + clients)))
    assert rounds[:7] == rosters(federation, range(clients), list(range(10, 10 + clients)), seed, 7)
    outstanding: dict[int, tuple[int, int]] = {}  # position: round started, round due
    for roster in rounds:
        number = roster.number
        chosen = sorted([*positions(roster), *roster.dropped])
        assert positions(roster) == sorted(positions(roster))
        assert list(roster.dropped) == sorted(roster.dropped)
        assert len(set(chosen)) == len(chosen) <= (wanted or clients)
        there = {k for k in range(clients) if joins.get(k, 1) <= number <= leaves.get(k, 99)}
        assert set(chosen) <= there - {k for k, (_, due) in outstanding.items() if due >= number}
        due_now = {Arrival(k, start) for k, (start, due) in outstanding.items() if due == number and k in there}
        assert set(roster.arriving) == due_now
        assert len(roster.fused) >= min(2, wanted or 2)
        assert [client.position for client in roster.fused] == sorted({client.position for client in roster.fused})
        assert {client.position for client in roster.fused if client.from_round == number} == {
            client.position for client in roster.trained if not client.delay
        }
        for client in roster.trained:
            if federation.straggler_work == "late" or not federation.stragglers:
                assert client.epochs == 3
                assert client.delay in ((0, federation.straggler_delay) if federation.stragglers else (0,))
            else:
                assert 1 <= client.epochs <= 3
                assert client.delay == 0
            if client.delay:
                outstanding[client.position] = (number, number + client.delay)
        if not federation.dropout:
            assert roster.dropped == ()


def test_by_examples_one_after_the_other() -> None:
    """Three clients, two a round: the pairs as often as successive draws without replacement say."""
    federation = settings(3, 3000, clients_per_round=2, sampling="weighted")
    pairs = [tuple(positions(roster)) for roster in made(federation, examples=[10, 30, 60])]
    shares = [0.1, 0.3, 0.6]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        a, b = shares[first], shares[second]
        expected = a * b / (1 - a) + b * a / (1 - b)
        assert pairs.count((first, second)) / 3000 == pytest.approx(expected, abs=0.035)


def test_round_robin_takes_turns_and_keeps_the_turn_of_those_away() -> None:
    federation = settings(5, 5, clients_per_round=2, sampling="round_robin")
    assert [positions(roster) for roster in made(federation)] == [[0, 1], [2, 3], [0, 4], [1, 2], [3, 4]]
    # Client 2 joins in round 3: it has waited longest.
    late = replace(federation, joins={2: 3})
    assert [positions(roster) for roster in made(late)] == [[0, 1], [3, 4], [0, 2], [1, 3], [2, 4]]


def test_markov_chains_move_as_often_as_they_should() -> None:
    federation = settings(40, 200, sampling="markov", go_offline=0.1, come_online=0.3)
    online = np.zeros((200, 40), dtype=bool)
    for roster in made(federation):
        online[roster.number - 1, positions(roster)] = True
    before, after = online[:-1], online[1:]
    assert online[0].mean() == pytest.approx(0.75, abs=0.2)  # what the chains tend to, from the start
    assert online.mean() == pytest.approx(0.75, abs=0.04)
    assert (~after[before]).mean() == pytest.approx(0.1, abs=0.02)
    assert after[~before].mean() == pytest.approx(0.3, abs=0.04)
    # Where hardly anybody ever is online, the server waits for two, not always the same.
    rare = made(settings(6, 60, sampling="markov", go_offline=1.0, come_online=0.01))
    alone = [tuple(positions(roster)) for roster in rare]
    assert min(map(len, alone)) == 2
    assert len(set(alone)) > 10


def test_dropouts_are_as_many_as_said_and_never_too_many() -> None:
    rounds = made(settings(40, 100, dropout=0.25))
    assert np.mean([len(roster.dropped) / 40 for roster in rounds]) == pytest.approx(0.25, abs=0.03)
    assert all(sorted([*positions(roster), *roster.dropped]) == list(range(40)) for roster in rounds)
    spared = [tuple(positions(roster)) for roster in made(settings(6, 60, dropout=0.999))]
    assert set(map(len, spared)) == {2}
    assert len(set(spared)) > 10
    assert {len(positions(roster)) for roster in made(settings(6, 60, dropout=0.999, clients_per_round=1))} == {1}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_stragglers_are_as_many_as_said(share: float) -> None:
    """On average exactly, though 4 clients have no tenth."""
    rounds = made(settings(4, 1500, stragglers=share, straggler_work="partial", local_epochs=5))
    less = [client.epochs for roster in rounds for client in roster.trained if client.epochs < 5]
    assert len(less) / 6000 == pytest.approx(share, abs=0.03)
    for epochs in (1, 2, 3, 4):
        assert less.count(epochs) / len(less) == pytest.approx(0.25, abs=0.06)


def test_late_work_arrives_when_it_should_or_is_lost() -> None:
    """Everybody straggles, but two have to be in time while nothing arrives."""
    rounds = made(settings(5, 6, stragglers=1.0, straggler_delay=2, leaves={4: 3}))
    for roster in rounds:
        started = [client.position for client in roster.trained if client.delay]
        later = rounds[roster.number + 1] if roster.number <= 4 else None
        if later is not None:
            expected = [k for k in started if k != 4 or roster.number + 2 <= 3]
            assert later.arriving == tuple(Arrival(k, roster.number) for k in expected)
    assert any(client.delay for roster in rounds for client in roster.trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": "markow"}, "did you mean markov"),
        ({"go_offline": 1.5}, "federation.go_offline=1.5: must be 0 or more and at most 1"),
        ({"come_online": 0.0}, "federation.come_online=0.0: must be above 0"),
        ({"dropout": 1.0}, "federation.dropout=1.0: must be 0 or more and below 1"),
        ({"stragglers": -0.1}, "federation.stragglers=-0.1: must be 0 or more and at most 1"),
        ({"straggler_work": "early"}, "federation.straggler_work=early"),
        ({"straggler_delay": 0}, "federation.straggler_delay=0: must be 1 or more"),
        (
            {"stragglers": 0.5, "straggler_work": "partial", "local_epochs": 1},
            "federation.local_epochs=2 or more, or federation.straggler_work=late",
        ),
        ({"joins": {8: 2}}, "federation.joins: client 8: clients are numbered 0 to 7"),
        ({"leaves": {-1: 2}}, "federation.leaves: client -1: clients are numbered 0 to 7"),
        ({"leaves": {1: 0}}, "federation.leaves=0: each value must be 1 or more"),
        ({"joins": {1: 41}}, "the federation has only federation.rounds=40"),
        ({"joins": {1: 9}, "leaves": {1: 8}}, "before it joins in round 9"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as caught:
        settings(**changes)
    assert "\n" not in str(caught.value)


def test_what_only_the_clients_kept_can_contradict() -> None:
    with pytest.raises(InputError, match=r"federation.joins: client 1 was dropped, .* choose among 0, 2"):
        rosters(settings(3, joins={1: 2}), [0, 2], [10, 10], 0, 3)
    with pytest.raises(InputError, match="client 2 alone would be there in round 4: let at least 2 be"):
        rosters(settings(3, leaves={0: 3, 1: 3}), [0, 1, 2], [10] * 3, 0, 5)
    assert len(rosters(settings(3, leaves={0: 3, 1: 3}), [0, 1, 2], [10] * 3, 0, 3)) == 3


def test_the_name_in_the_cache_tells_who_takes_part_and_nothing_else() -> None:
    data, model = make_data(), make_model()

    def key(**changes: Any) -> str:
        return training_key(make_config(**changes), data, model, torch.device("cpu"))[0]

    assert settings_that_matter(settings()) == {}
    assert key() == key(straggler_delay=3, go_offline=0.5, straggler_work="partial", joins={})
    late = {"stragglers": 0.5, "straggler_delay": 2}
    assert key(**late) == key(**late, come_online=0.9)
    different = [
        key(),
        key(**late),
        key(stragglers=0.5),
        key(stragglers=0.5, straggler_work="partial"),
        key(dropout=0.1),
        key(sampling="markov"),
        key(sampling="markov", go_offline=0.3),
        key(sampling="weighted"),
        key(joins={1: 2}),
        key(leaves={1: 2}),
    ]
    assert len(set(different)) == len(different)


ROSTERS = [
    Roster(1, (Participant(0, 3), Participant(1, 3, 1), Participant(2, 2)), (), ()),
    Roster(2, (Participant(0, 3), Participant(3, 3)), (Arrival(1, 1),), (2,)),
]


def test_the_table_of_who_did_what() -> None:
    federation = settings(9, joins={8: 2}, leaves={0: 1})
    frame = participation_frame(ROSTERS, [0, 4, 5, 8], federation)
    rows = frame.astype(object).where(frame.notna(), None).values.tolist()
    assert rows == [
        [1, 0, "trained", 3, 1],
        [1, 4, "late", 3, 1],
        [1, 5, "partial", 2, 1],
        [1, 8, "not_joined", None, None],
        [2, 0, "trained", 3, 2],
        [2, 0, "left", None, None],
        [2, 4, "arrived", None, 1],
        [2, 5, "dropped", None, None],
        [2, 8, "trained", 3, 2],
    ]
    assert participation_frame([], [0, 1], federation).empty
    # The work of client 4 is late, and so is its first part in a model.
    assert newcomers(ROSTERS, [0, 4, 5, 8]) == {1: {0, 5}, 2: {4, 8}}


def test_the_table_has_the_passes_that_attackers_make() -> None:
    attack = ScaledUpdate([0, 5], 10.0, rounds=[1], epochs=9)
    frame = participation_frame(ROSTERS, [0, 4, 5, 8], settings(9), attack, free_riders=[8])
    started = frame[frame["status"] != "arrived"].set_index(["round", "client"])
    assert started.loc[1, "epochs"].tolist() == [9, 3, 9]
    assert started.loc[1, "status"].tolist() == ["trained", "late", "trained"]
    assert started.loc[(2, 0), "epochs"] == 3, "honest again"
    assert started["epochs"].isna().to_dict()[2, 8], "trains on nothing"


def shown(frame: Any, ids: list[int]) -> list[str]:
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(table(frame, ids))
    return captured.get().splitlines()


def test_the_console_draws_few_clients_and_counts_many() -> None:
    ids = [0, 4, 5, 11, 12]
    lines = shown(participation_frame(ROSTERS, ids, settings(13, joins={11: 2}, leaves={12: 1})), ids)
    assert [line.rstrip() for line in lines[:4]] == ["client    11", "       04512", "     1 █→▄ ·", "     2 █←x█"]
    assert " ".join(lines[4:]).endswith("x returned nothing; · not chosen; blank: not joined, or left")
    many = list(range(41))
    counted = shown(participation_frame(ROSTERS, many, settings(41)), many)
    assert counted[0].split() == ["round", "trained", "partial", "late", "arrived", "dropped"]
    assert [line.split() for line in counted[2:]] == [["1", "1", "1", "1", "0", "0"], ["2", "2", "0", "0", "1", "1"]]
    long = made(settings(6, 30, dropout=0.3))
    drawn = shown(participation_frame(long, list(range(6)), settings(6, 30)), list(range(6)))
    assert len(drawn) == 1 + 10 + 1 + 10 + 1
    assert drawn[11].strip() == "…"
