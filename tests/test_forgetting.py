"""How a client's share of a label fades: the numbers, the table, the figure."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from provfl_cli.evaluation.contributions import tidy
from provfl_cli.evaluation.fading import fading
from provfl_cli.reporting.figure_files import write_figure
from provfl_cli.reporting.lineage import CAPTION, figure, show_fading

NAMES = ["zero", "one [bold]with[/bold] a very long name indeed"]
COUNTS = {0: np.array([50, 1]), 3: np.array([2, 40]), 4: np.array([30, 30])}
LAST = {0: 1, 3: 3, 4: 2}


@pytest.fixture
def frame() -> pd.DataFrame:
    """Three rounds, two inputs; client 3 joins in round 2; what others made counts, the initial model does not."""

    def traced(number: int, clients: list[int], values: list[list[float]], noise: list[float]) -> pd.DataFrame:
        used, labels = np.ones(len(clients), bool), np.array([0, 1])
        rows = {"previous": np.array([99.0, 99.0]), "noise": np.array(noise)}
        inputs, contributions = np.array([5, 8]), np.array(values)
        return tidy("provfl", "lineage", "centred", number, inputs, labels, labels, clients, used, contributions, rows)

    return pd.concat(
        [
            traced(1, [0, 4], [[8.0, 1.0], [1.0, 1.0]], [-1.0, 0.0]),
            traced(2, [0, 3, 4], [[4.0, -2.0, 2.0], [1.0, 6.0, 3.0]], [0.0, 0.0]),
            traced(3, [0, 3, 4], [[1.0, -2.0, 1.0], [1.0, 9.0, 0.0]], [0.0, 0.0]),
        ]
    )


def test_shares_by_hand(frame: pd.DataFrame) -> None:
    pairs = fading(frame, COUNTS, LAST)
    assert [(pair.client, pair.label, pair.last) for pair in pairs] == [(0, 0, 1), (4, 0, 2), (3, 1, 3)]
    assert all(pair.rounds == (1, 2, 3) for pair in pairs)
    assert pairs[0].shares == pytest.approx((8 / 10, 4 / 8, 1 / 4))
    assert pairs[1].shares == pytest.approx((1 / 10, 2 / 8, 1 / 4))
    assert math.isnan(pairs[2].shares[0])
    assert pairs[2].shares[1:] == pytest.approx((6 / 10, 9 / 10))


def test_the_table_marks_the_last_round_in_which_a_client_took_part(frame: pd.DataFrame) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(show_fading(fading(frame, COUNTS, LAST), NAMES))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "0 zero 1 0.800* 0.500 0.250" in lines
    assert "4 zero 2 0.100 0.250* 0.250" in lines
    (third,) = [line for line in lines if line.startswith("3 one [bold]")]
    assert third.endswith("… 3 – 0.600 0.900*")
    assert max(map(len, out.getvalue().splitlines())) <= 80


@pytest.mark.slow
def test_the_figure_is_the_same_each_time_and_says_what_it_shows(frame: pd.DataFrame, tmp_path: Path) -> None:
    pairs = fading(frame, COUNTS, LAST)
    for name in ("one", "two"):
        write_figure(tmp_path / name, "lineage", figure(pairs, NAMES))
    for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        first = (tmp_path / "one" / f"lineage.{kind}").read_bytes()
        assert first.startswith(magic)
        assert first == (tmp_path / "two" / f"lineage.{kind}").read_bytes()
    (axes,) = figure(pairs, NAMES).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert np.allclose(lines["client 0, label zero"], [0.8])  # drawn through while it took part
    assert np.allclose(lines["client 3, label one [bold]with[/bold] a very long name indeed"][1:], [0.6, 0.9])
    assert CAPTION.count(".") == 1
