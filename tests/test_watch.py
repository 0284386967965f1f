"""Watching a federation: the band by hand, rounds as they are written and deleted, the page, the hook, the command."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch import Tensor

from provfl_cli.attribution.suspects import Score
from provfl_cli.cli import main
from provfl_cli.errors import InputError
from provfl_cli.evaluation.band import OWN, BandRound, next_round
from provfl_cli.federation.events import RoundsPlaced
from provfl_cli.federation.train import federated_rounds
from provfl_cli.fusion.fedavg import FedAvg
from provfl_cli.reporting import watch as show
from provfl_cli.run.hook import call_hook, hook_of
from provfl_cli.run.watch import Watch
from provfl_cli.run.watched import Over, Passed, Seen, Waiting, Watching, watched
from provfl_cli.store.rounds import remove_round, stored_rounds

from .cases import double_network
from .federations import CPU, make_config, make_data, make_model
from .lineages import Work, chain, perturbed
from .runs import SMALL, run

HIGH = Score("high", "high", threshold=20 / 3, least=0.5)  # beside others 10
LENGTH = Score("length", "both", threshold=10.0, least=0.1, logarithm=True)


def rounds_of(score: Score, *table: Sequence[float], strictness: float = 1.0) -> list[BandRound]:
    made: list[BandRound] = []
    for number, values in enumerate(table, 1):
        made.append(next_round(made, number, range(len(values)), {score: np.array(values)}, strictness))
    return made


STEADY: list[float] = [0, 1, 2, 3, 4]


def test_a_client_far_from_its_own_past_is_out_though_not_from_the_others() -> None:
    last = rounds_of(HIGH, *[STEADY] * 5, [0, 1, 2, 3, 14])[-1]
    # The median is 2, distances 2 1 0 1 12: their median is 1. The level of the last is 12, it was 2; nobody moved.
    assert last.federation[0].tolist() == pytest.approx([-2 / 1.4826, -1 / 1.4826, 0, 1 / 1.4826, 12 / 1.4826])
    assert last.own[0].tolist() == pytest.approx([0, 0, 0, 0, 10 / 0.5])
    assert last.degrees[4] == pytest.approx(20 / OWN)
    assert last.out == (4,)
    reason = last.reason(4)
    assert (reason.score, reason.value, reason.usual, reason.z) == ("high", 14, 4, 20)
    assert reason.against == "its own rounds before"
    assert reason.degree == pytest.approx(20 / OWN)


def test_how_much_clients_move_is_the_unit_of_their_past() -> None:
    # Of the first two rounds nothing counts. Then client 4 went 4, 6, 4, 6: median 5, deviation sqrt(4 / 3), of all
    # others 0: its own counts.
    table = [[0, 1, 2, 3, last] for last in (90, -50, 4, 6, 4, 6, 14)]
    last = rounds_of(replace(HIGH, least=0.01), *table)[-1]
    assert last.own[0, 4] == pytest.approx(9 / (4 / 3) ** 0.5)
    # Three of five clients do the same about their middles, client 4 does not: that of the federation counts.
    table = [[0 + move, 10 - move, 20, 30 + move, 40] for move in (9, 5, -1, 1, -1, 1)]
    last = rounds_of(replace(HIGH, least=0.01), *table, [0, 10, 20, 30, 60])[-1]
    assert last.own[0, 4] == pytest.approx(20 / (4 / 3) ** 0.5)


def test_a_client_far_from_the_others_is_out_whatever_it_was() -> None:
    always = rounds_of(HIGH, *[[0, 1, 2, 3, 100]] * 5)
    assert [band.out for band in always] == [(), (), (4,), (4,), (4,)], "of two rounds nothing is said"
    assert always[-1].reason(4).against == "the others"
    assert always[-1].federation[0, 4] == pytest.approx(98 / 1.4826)
    assert always[-1].degrees[4] == pytest.approx(98 / 1.4826 / 10)
    assert rounds_of(HIGH, *[[0, 1, 2, 3, 100]] * 5, strictness=10)[-1].out == ()


def test_what_happens_to_everybody_is_nobodys_doing() -> None:
    moved = [value + 1000 for value in STEADY]
    assert all(not band.out for band in rounds_of(HIGH, *[STEADY] * 5, moved))
    tenfold = [10 * value for value in (1.0, 1.1, 0.9, 1.2, 1.0)]
    assert all(not band.out for band in rounds_of(LENGTH, *[[1.0, 1.1, 0.9, 1.2, 1.0]] * 5, tenfold))


def test_a_fault_that_stays_does_not_become_usual() -> None:
    rounds = rounds_of(HIGH, *[STEADY] * 5, *[[0, 1, 2, 3, 14]] * 20, STEADY)
    assert [band.number for band in rounds if band.out] == list(range(6, 26))
    assert show.since(rounds[:-1], 4) == 6
    assert show.since(rounds, 4) is None
    assert show.verdict(rounds[:10], {}) == "round 10: out of the band: client 4 since round 6"
    assert show.verdict(rounds, {}) == "round 26: all in the band; out in earlier rounds: client 4"


def test_the_side_that_is_suspicious() -> None:
    down: list[list[float]] = [STEADY] * 5 + [[0, 1, 2, 3, -6]]
    assert rounds_of(HIGH, *down)[-1].out == ()
    assert rounds_of(replace(HIGH, suspicious="low"), *down)[-1].out == (4,)
    assert rounds_of(replace(HIGH, suspicious="both"), *down)[-1].out == (4,)
    idle = rounds_of(LENGTH, *[[1.0, 1.1, 0.9, 1.2, 1.0]] * 5, [1.0, 1.1, 0.9, 1.2, 0.0])[-1]
    assert idle.out == (4,)
    assert idle.own[0, 4] > 100


def test_clients_that_come_and_go() -> None:
    rounds: list[BandRound] = []
    for number in range(1, 13):
        clients = [client for client in range(8) if client != 3 or number % 2]
        values = np.array([float(client) + (20 if client == 3 and number == 11 else 0) for client in clients])
        rounds.append(next_round(rounds, number, clients, {HIGH: values}))
    assert [band.number for band in rounds if band.out] == [11]
    assert rounds[10].out == (3,)
    few = next_round([], 1, [0, 1], {HIGH: np.array([0.0, 1e9])})
    assert np.isnan(few.federation).all()
    assert few.degrees.tolist() == [0, 0]


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.floats(0.1, 10), st.integers(0, 2**16))
def test_neither_order_nor_unit_matters(order: list[int], factor: float, seed: int) -> None:
    table = np.random.default_rng(seed).normal(size=(8, 6))
    plain = rounds_of(HIGH, *table.tolist())[-1]
    moved = rounds_of(replace(HIGH, least=0.5 * factor), *(factor * table[:, order]).tolist())[-1]
    assert moved.degrees == pytest.approx(plain.degrees[order])


# ---------------------------------------------------------------- rounds as they are written

TURNS, LAST = 6, 8


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clients that learn much the same; from round 6 on client 2 goes ten times as far."""

    def work(number: int, model: dict[str, Tensor], past: list[dict[str, Tensor]]) -> Work:
        sent = {}
        for client in range(7):
            own = perturbed(perturbed(model, 0.05, number), 0.02, 10 * number + client)
            factor = 10 if client == 2 and number >= TURNS else 1
            sent[client] = (10, {name: model[name] + factor * (own[name] - model[name]) for name in own})
        return Work(sent)

    folder = tmp_path_factory.mktemp("turned")
    chain(folder / "rounds", FedAvg(), double_network().state_dict(), work, LAST, decay=None)
    return folder


@pytest.fixture
def copied(turned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(turned, tmp_path / "copied"))


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    code = main(["watch", *arguments, "--json"])
    said = capsys.readouterr()
    return code, [json.loads(line) for line in said.out.splitlines()], said.err


def test_every_round_is_a_line(turned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, said = asked(capsys, str(turned / "rounds"), "--updates", "--once")
    assert code == 0
    assert [line["round"] for line in lines] == list(range(1, LAST + 1))
    assert [line["left"] for line in lines] == [[2] if line["round"] == TURNS else [] for line in lines]
    assert [[out["client"] for out in line["out"]] for line in lines] == [[]] * (TURNS - 1) + [[2]] * 3
    last = lines[-1]["out"][0]
    assert (last["since"], last["score"]) == (TURNS, "norm")
    assert last["degree"] > 1
    assert f"round {TURNS}: client 2 leaves the band: norm" in said
    assert f"round {LAST}: out of the band: client 2 since round {TURNS}" in said


def test_rounds_come_and_are_deleted_while_it_waits(turned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "coming"
    rounds = folder / "rounds"
    folder.mkdir()

    def write(*numbers: int) -> None:
        for number in numbers:
            shutil.copytree(turned / "rounds" / f"{number:04d}", rounds / f".{number:04d}.partial")
            (rounds / f".{number:04d}.partial").rename(rounds / f"{number:04d}")

    def steps() -> Iterator[None]:
        yield  # no round yet
        rounds.mkdir()
        shutil.copytree(turned / "rounds" / "0001", rounds / ".0001.partial")  # half of one
        yield
        shutil.rmtree(rounds / ".0001.partial")
        write(1, 2)
        yield
        write(3, 4, 5)
        remove_round(rounds, 4)  # as `keep` does it, before anybody looked
        remove_round(rounds, 1)
        yield
        write(6)
        (rounds / "0007").mkdir()  # no program writes that
        yield
        shutil.rmtree(rounds / "0007")
        write(8)

    left = steps()
    events = list(watched(Watching(folder, updates=True, timeout=1.0), sleep=lambda _: next(left, None)))
    seen = [event for event in events if isinstance(event, Seen)]
    assert [event.band.number for event in seen] == [1, 2, 3, 5, 6, 8]
    assert [(event.band.number, event.left) for event in seen if event.left] == [(6, (2,))]
    passed = [event for event in events if isinstance(event, Passed)]
    assert [(event.number, event.gone) for event in passed] == [(4, True), (7, False)]
    assert "deleted before it was read" in passed[0].reason
    assert events[0] == Waiting(0)
    assert isinstance(events[-1], Over)
    assert "no new round within 1 s" in events[-1].reason


def test_nothing_is_written_into_the_folder(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> dict[str, int]:
        return {str(path.relative_to(copied)): path.stat().st_mtime_ns for path in copied.rglob("*")}

    before = state()
    assert asked(capsys, str(copied), "--updates", "--once")[0] == 0
    assert state() == before


def test_a_folder_without_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "empty"
    (folder / "rounds").mkdir(parents=True)
    assert main(["watch", str(folder), "--updates", "--once"]) == 0
    assert "no round yet" in capsys.readouterr().out
    assert main(["watch", str(folder), "--updates", "--timeout", "0", "--every", "0.05"]) == 1
    assert "no new round within 0 s" in capsys.readouterr().err


def test_only_damaged_rounds_is_an_error(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in stored_rounds(copied / "rounds"):
        (copied / "rounds" / f"{number:04d}" / "round.json").write_text("{")
    assert main(["watch", str(copied), "--updates", "--once"]) == 1
    assert "round.json cannot be read" in capsys.readouterr().err


def test_a_run_links_its_rounds_when_training_begins(tmp_path: Path) -> None:
    entry, folder, seen = tmp_path / "cache", tmp_path / "run", list[object]()
    folder.mkdir()
    with federated_rounds(make_config(rounds=1), make_data(), make_model(), entry, {1}, CPU, seen.append) as rounds:
        (placed,) = [event for event in seen if isinstance(event, RoundsPlaced)]
        assert not stored_rounds(placed.rounds), "nothing is trained yet"
        Watch(Console(), Console(), folder, cast(Any, None), generates=False)(placed)
        assert [stored.number for stored in rounds] == stored_rounds(folder / "rounds") == [1]


# ---------------------------------------------------------------- the page and the hook


def test_the_page_reads_itself_again_until_the_end(turned: Path, tmp_path: Path) -> None:
    page = tmp_path / "watch.html"
    main(["watch", str(turned), "--updates", "--once", "--page", str(page)])
    text = page.read_text()
    assert "client 2 since round 6" in text
    assert 'http-equiv="refresh"' not in text
    rounds = rounds_of(HIGH, *[STEADY] * 5, [0, 1, 2, 3, 14])
    names = {4: "<script>alert(1)</script>\x1b[31m"}
    text = show.page("a & b", rounds, names, [show.leaving(rounds[-1], 4, names)], 5)
    assert '<meta http-equiv="refresh" content="5">' in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "a &amp; b" in text
    assert "class=out>2.0<" in text


def test_the_hook_is_told_who_left_and_no_shell_reads_it(
    turned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, script = tmp_path / "told", tmp_path / "hook.py"
    script.write_text(
        "import json, os, sys\n"
        f"told = open({str(out)!r}, 'a')\n"
        "own = {k: v for k, v in os.environ.items() if k.startswith('PROVFL_')}\n"
        "told.write(json.dumps([sys.argv[1:], own, json.load(sys.stdin)]) + '\\n')\n"
        "sys.exit('it is broken')\n"
    )
    command = f"{sys.executable} {script} '$HOME; two words'"
    assert main(["watch", str(turned), "--updates", "--once", "--exec", command]) == 0, "a hook that fails ends nothing"
    (line,) = out.read_text().splitlines()
    words, environment, about = json.loads(line)
    assert words == ["$HOME; two words"]
    assert (environment["PROVFL_ROUND"], environment["PROVFL_CLIENT"]) == ("6", "2")
    assert environment["PROVFL_SCORE"] == "norm"
    assert (about["round"], about["client"], about["folder"]) == (6, 2, str(turned))
    assert float(environment["PROVFL_DEGREE"]) == about["degree"] > 1
    said = capsys.readouterr().out
    assert "--exec for client 2 in round 6 failed: exit code 1: it is broken" in said
    assert f"round {LAST}:" in said


def test_hooks_that_cannot_be() -> None:
    for command in ("", "'open", "no-such-program-here x"):
        with pytest.raises(InputError, match="--exec"):
            hook_of(command)
    slow = call_hook((sys.executable, "-c", "import time; time.sleep(20)"), {"round": 1}, seconds=0.2)
    assert slow == "it took longer than 0.2 s and was ended"


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no such folder"),
        ([".", "--updates", "--inputs", "x.csv"], "--inputs and --updates"),
        (["."], "--updates"),
        ([".", "--updates", "--page", "page.txt"], "must end in .html"),
        ([".", "--updates", "--timeout", "soon"], "--timeout soon: must be a number"),
        ([".", "--updates", "--probes", "0"], "--probes"),
        ([".", "--trust", "--updates"], "--trust is for runs"),
    ],
)
def test_what_cannot_be_watched(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (workspace / "rounds").mkdir()
    assert main(["watch", *arguments, "--once"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_watched_ended_or_not(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty = ["injection=scaled_update", "injection.factor=1", "injection.since=6", "store.keep=all"]
    learns = [
        "federation.clients=6",
        "federation.rounds=6",
        "federation.local_epochs=3",
        "federation.learning_rate=0.02",
    ]
    ended = run(workspace / "run", *SMALL, *faulty, *learns).folder
    capsys.readouterr()
    code, lines, _ = asked(capsys, str(ended), "--once", "--probes", "60")
    assert code == 0
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert 0 in lines[5]["left"]
    assert {"entropy", "disagreement", "margin", "norm", "direction", "harm"} >= {
        client["score"] for line in lines for client in line["clients"]
    }
    (ended / "manifest.json").unlink()  # as while it is at work
    code, again, said = asked(capsys, str(ended), "--once", "--probes", "60")
    assert (code, again) == (0, lines), said
    assert f"{ended}: " not in said
    pictures = workspace / "probes"
    pictures.mkdir()
    for number in range(4):
        Image.new("L", (8, 8), 60 * number).save(pictures / f"{number}.png")
    code, lines, said = asked(capsys, str(ended), "--once", "--inputs", str(pictures))
    assert (code, len(lines)) == (0, 6), said
    assert "harm" not in {client["score"] for line in lines for client in line["clients"]}, "nobody knows their labels"
