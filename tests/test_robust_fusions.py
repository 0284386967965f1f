"""Robust fusions against their definitions: by hand, against definitions written out plainly, and under attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from provfl_cli.errors import InputError, RunError
from provfl_cli.fusion.bulyan import Bulyan, iterated_krum
from provfl_cli.fusion.coordinates import nearest_to_median
from provfl_cli.fusion.distances import distances_from, squared_distances
from provfl_cli.fusion.fuse import fuse
from provfl_cli.fusion.geometric_median import GeometricMedian
from provfl_cli.fusion.krum import Krum, lowest
from provfl_cli.fusion.median import Median
from provfl_cli.fusion.multi_krum import MultiKrum
from provfl_cli.fusion.norm_clipping import NormClipping
from provfl_cli.fusion.trimmed_mean import TrimmedMean
from provfl_cli.fusion.updates import unclipped

from .fusions import (
    clipped,
    configured,
    federation,
    largest_gap,
    made_of,
    random_round,
    round_of,
    values_of,
    whole_shares,
)

LINE = [0.0, 1.0, 3.0, 7.0, 20.0]  # Krum scores with f = 1, two neighbours each: 10, 5, 13, 52, 458
CHOOSING = [Median(), TrimmedMean(), Krum(), MultiKrum(), MultiKrum(weighted=True), Bulyan(), Bulyan(selection="once")]


def fused_line(fusion: Any, values: list[float], examples: list[int] | None = None) -> tuple[float, list[float]]:
    """What clients on a line are fused to, and their shares."""
    returned = round_of([[value] for value in values], examples)
    fused = fuse(fusion, returned, {})
    return values_of(fused)[0], whole_shares(fused.decomposition, returned)["w"].flatten().tolist()


# --- median and trimmed mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "result", "shares"),
    [
        ([5.0], 5.0, [1]),
        ([5.0, 1.0], 3.0, [1 / 2, 1 / 2]),
        ([5.0, 1.0, 2.0], 2.0, [0, 0, 1]),
        ([100.0, 1.0, 4.0, 2.0], 3.0, [0, 0, 1 / 2, 1 / 2]),
        ([2.0, 1.0, 2.0, 9.0, 2.0], 2.0, [1 / 3, 0, 1 / 3, 0, 1 / 3]),
        ([1.0, 2.0, 2.0, 5.0], 2.0, [0, 1 / 2, 1 / 2, 0]),
        ([2.0, 2.0, 2.0, 5.0], 2.0, [1 / 3, 1 / 3, 1 / 3, 0]),
        ([1.0, 2.0, 3.0, 3.0], 2.5, [0, 1 / 2, 1 / 4, 1 / 4]),  # the middle two are 2 and a 3
    ],
)
def test_median_by_hand(values: list[float], result: float, shares: list[float]) -> None:
    fused, its_shares = fused_line(Median(), values, list(range(1, len(values) + 1)))  # examples do not count
    assert fused == pytest.approx(result)
    assert its_shares == pytest.approx(shares)


@pytest.mark.parametrize(
    ("cut", "values", "result", "shares"),
    [
        (0, LINE, 6.2, [1 / 5] * 5),
        (1, LINE, 11 / 3, [0, 1 / 3, 1 / 3, 1 / 3, 0]),
        (2, LINE, 3.0, [0, 0, 1, 0, 0]),
        (1, [0.0, 1.0, 1.0, 4.0, 9.0], 2.0, [0, 1 / 3, 1 / 3, 1 / 3, 0]),
        (1, [1.0, 4.0, 2.0, 1.0, 4.0], 7 / 3, [1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6]),
        (1, [1.0, 1.0, 1.0, 1.0, 4.0], 1.0, [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0]),
    ],
)
def test_trimmed_mean_by_hand(cut: int, values: list[float], result: float, shares: list[float]) -> None:
    fused, its_shares = fused_line(TrimmedMean(count=cut), values)
    assert fused == pytest.approx(result)
    assert its_shares == pytest.approx(shares)


def test_trimmed_mean_cuts_a_fraction_rounded_down() -> None:
    assert [TrimmedMean(fraction=0.2).cut(clients) for clients in (4, 5, 9, 10)] == [0, 1, 1, 2]
    assert TrimmedMean(fraction=0.29).cut(100) == 29  # 0.29 * 100 is a little below
    assert TrimmedMean(fraction=0.2, count=3).cut(10) == 3


def test_coordinates_choose_each_for_itself_also_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provfl_cli.fusion.updates.BLOCK_NUMBERS", 40)  # a row or two at a time
    returned = random_round(4, 8)
    for fusion, truth in (
        (Median(), lambda sent: np.median(sent, 0)),
        (TrimmedMean(count=2), lambda sent: np.sort(sent, 0)[2:6].mean(0)),
    ):
        fused = fuse(fusion, returned, {})
        for name in returned.parameters:
            assert np.allclose(fused.weights[name], truth(returned.clients[name].double().numpy()), atol=1e-6)


def test_a_choice_costs_a_bit_a_client_and_a_number_a_coordinate() -> None:
    """Without ties there is one term, whose bits are packed."""
    fused = fuse(TrimmedMean(), random_round(0, 9), {})
    multiplier = fused.decomposition.multipliers["w"]
    assert multiplier.bits is not None
    assert multiplier.values is not None
    assert (tuple(multiplier.bits.shape), tuple(multiplier.values.shape)) == ((1, 9, 3, 1), (1, 3, 5))


def test_clients_of_which_nothing_was_taken_are_no_candidates() -> None:
    """The first three are each the median of one coordinate, the others of none."""
    returned = round_of([[1.0, 3.0, 2.0], [2.0, 1.0, 3.0], [3.0, 2.0, 1.0], [4.0, 4.0, -4.0], [-9.0, -9.0, 9.0]])
    parts = fuse(Median(), returned, {}).decomposition
    assert parts.candidates(["w"]).tolist() == [True, True, True, False, False]


# --- Krum, Multi-Krum, Bulyan -----------------------------------------------------------------------------------------


def test_squared_distances_and_distances_from_a_point() -> None:
    returned = round_of([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])
    assert squared_distances(unclipped(returned)).tolist() == [[0, 25, 9], [25, 0, 16], [9, 16, 0]]
    point = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)  # at (1.5, 0)
    assert distances_from(unclipped(returned), point).tolist() == pytest.approx([1.5, 18.25**0.5, 1.5])


def test_distances_are_of_what_the_server_sees_over_all_parameters() -> None:
    returned = random_round(6, 7, late=True)
    updates = clipped(returned, 6)
    flat = torch.cat([updates.rows(name, slice(None)).flatten(1) for name in returned.parameters], 1)
    assert torch.allclose(squared_distances(updates), torch.cdist(flat, flat).square(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("attackers", "values", "result", "shares"),
    [
        (1, LINE, 1.0, [0, 1, 0, 0, 0]),
        (1, [9.0, 1.0, 4.0, 1.0, 20.0], 1.0, [0, 1 / 2, 0, 1 / 2, 0]),  # scores 89, 9, 18, 9, 377
        (0, [0.0, 1.0, 5.0], 0.5, [1 / 2, 1 / 2, 0]),  # one neighbour: each other's nearest
    ],
)
def test_krum_by_hand(attackers: int, values: list[float], result: float, shares: list[float]) -> None:
    assert fused_line(Krum(attackers), values, [5, 4, 3, 2, 1][: len(values)]) == (result, shares)


@pytest.mark.parametrize(
    ("settings", "values", "result", "shares"),
    [
        ({"keep": 1}, LINE, 1.0, [0, 1, 0, 0, 0]),
        ({"keep": 3}, LINE, 4 / 3, [1 / 3, 1 / 3, 1 / 3, 0, 0]),
        ({}, LINE, 11 / 4, [1 / 4, 1 / 4, 1 / 4, 1 / 4, 0]),
        ({"keep": 5}, LINE, 31 / 5, [1 / 5] * 5),
        ({"weighted": True}, LINE, 39 / 10, [1 / 10, 2 / 10, 3 / 10, 4 / 10, 0]),
        ({"keep": 2}, [0.0, 3.0, -3.0, 9.0, -9.0], 0.0, [1 / 2, 1 / 4, 1 / 4, 0, 0]),  # 18, 45, 45, 180, 180
    ],
)
def test_multi_krum_by_hand(settings: Any, values: list[float], result: float, shares: list[float]) -> None:
    fused, its_shares = fused_line(MultiKrum(**settings), values, [1, 2, 3, 4, 5])
    assert fused == pytest.approx(result)
    assert its_shares == pytest.approx(shares)


def test_lowest_shares_what_is_left_at_the_border() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0])
    assert lowest(scores, 1).tolist() == [0, 1, 0, 0, 0]
    assert lowest(scores, 3).tolist() == pytest.approx([0, 1, 2 / 3, 2 / 3, 2 / 3])
    assert lowest(scores, 5).tolist() == [1] * 5


def test_bulyan_by_hand() -> None:
    """n = 7, f = 1: five are selected, three of them averaged.

    Selected are 2 (score 10); 3 (1 and 3 score 14, the next neighbour of 3 is nearer); 1 (score 10); 4 (0 and 4 score
    16, the next neighbour of 4 is nearer); of 0, 1000 and 2000 no neighbour counts, and 1000 is nearest to both others.
    The median is 3, and next to it are 2 and 4.
    """
    values = [0.0, 1.0, 2.0, 3.0, 4.0, 1000.0, 2000.0]
    distances = squared_distances(unclipped(round_of([[value] for value in values])))
    assert iterated_krum(distances, 1, 5).tolist() == [0, 1, 1, 1, 1, 1, 0]
    fused, shares = fused_line(Bulyan(), values)
    assert fused == pytest.approx(3.0)
    assert shares == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_bulyan_selecting_once_by_hand() -> None:
    """Among all seven, with four neighbours, 0 to 4 have the lowest scores: the median is 2."""
    fused, shares = fused_line(Bulyan(selection="once"), [0.0, 1.0, 2.0, 3.0, 4.0, 1000.0, 2000.0])
    assert fused == pytest.approx(2.0)
    assert shares == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0])


def test_bulyan_without_attackers_is_the_mean() -> None:
    assert fused_line(Bulyan(attackers=0), LINE)[0] == pytest.approx(6.2)


@pytest.mark.parametrize(
    ("values", "masses", "keep", "counts"),
    [
        ([0.0, 2.0, 4.0, 6.0, 8.0], [1, 1, 1, 1, 1], 2, [0, 1 / 2, 1, 1 / 2, 0]),
        ([0.0, 2.0, 4.0, 6.0, 8.0], [1, 1, 0, 1, 1], 2, [0, 1, 0, 1, 0]),  # an even number: the median is 4
        ([1.0, 1.0, 5.0, 9.0], [1 / 2, 1 / 2, 1, 1], 1, [0, 0, 1, 0]),  # 1 is there once
        ([1.0, 1.0, 5.0, 9.0], [1 / 2, 1 / 2, 1, 1], 2, [1 / 4, 1 / 4, 1, 1 / 2]),
        ([1.0, 1.0, 1.0, 5.0], [2 / 3, 2 / 3, 2 / 3, 1], 2, [2 / 3, 2 / 3, 2 / 3, 0]),
    ],
)
def test_nearest_to_the_median_by_hand(
    values: list[float], masses: list[float], keep: int, counts: list[float]
) -> None:
    updates = unclipped(round_of([[value] for value in values]))
    chosen = nearest_to_median(updates, torch.tensor(masses, dtype=torch.float64), keep)
    assert chosen["w"].rows(slice(None), (1,)).flatten().tolist() == pytest.approx(counts)


def plain_scores(points: list[np.ndarray], attackers: int) -> list[tuple[float, ...]]:
    """Krum's score of each point, and for ties the neighbours that do not count: the paper's words, one by one."""
    scores = []
    for at, point in enumerate(points):
        near = sorted(float(((point - other) ** 2).sum()) for to, other in enumerate(points) if to != at)
        counted = max(len(points) - attackers - 2, 0)
        scores.append((sum(near[:counted]), *near[counted:]))
    return scores


def plain_bulyan(points: list[np.ndarray], attackers: int) -> np.ndarray:
    """El Mhamdi et al. 2018, section 4, written out."""
    total, left, selected = len(points), list(points), []
    while len(selected) < total - 2 * attackers:
        scores = plain_scores(left, attackers)
        selected.append(left.pop(scores.index(min(scores))))
    result = np.empty_like(points[0])
    for at in range(len(result)):
        values = [point[at] for point in selected]
        middle = np.median(values)
        result[at] = np.mean(sorted(values, key=lambda value: abs(value - middle))[: total - 4 * attackers])
    return result


@pytest.mark.parametrize(("count", "attackers", "seed"), [(7, 1, 0), (8, 1, 1), (11, 2, 2), (13, 2, 3), (15, 3, 4)])
def test_krum_multi_krum_and_bulyan_are_their_definitions(count: int, attackers: int, seed: int) -> None:
    sent = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    returned = round_of(sent.tolist())
    points = list(sent.double().numpy())
    order = np.argsort([score[0] for score in plain_scores(points, attackers)])
    for fusion, truth in (
        (Krum(attackers), points[order[0]]),
        (MultiKrum(attackers, keep=4), np.mean([points[at] for at in order[:4]], 0)),
        (MultiKrum(attackers), np.mean([points[at] for at in order[: count - attackers]], 0)),
        (Bulyan(attackers), plain_bulyan(points, attackers)),
    ):
        assert np.allclose(values_of(fuse(fusion, returned, {})), truth, atol=1e-6), fusion


def test_bulyan_shares_among_twins_of_whom_not_all_are_selected() -> None:
    """Of three equal clients the selection takes some: the result is that of the definition, the shares are equal."""
    for seed in range(6):
        sent = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
        sent[3] = sent[6] = sent[0].clone()
        returned = round_of(sent.tolist())
        fused = fuse(Bulyan(), returned, {})
        assert np.allclose(values_of(fused), plain_bulyan(list(sent.double().numpy()), 1), atol=1e-6)
        shares = whole_shares(fused.decomposition, returned)["w"]
        assert torch.allclose(shares[[3, 6]], shares[[0, 0]])


# --- geometric median and clipping ------------------------------------------------------------------------------------


def test_geometric_median_by_hand() -> None:
    """From the mean 2 the distances are 2, 1, 3: weights 1/2, 1, 1/3 over 11/6."""
    fused, shares = fused_line(GeometricMedian(iterations=1), [0.0, 1.0, 5.0])
    assert shares == pytest.approx([3 / 11, 6 / 11, 2 / 11])
    assert fused == pytest.approx(16 / 11)


def test_geometric_median_weighs_by_examples() -> None:
    """As if the client were there three times: the mean is 1, the distances 1, 0 (counts as 1/2) and 3."""
    weighted = fused_line(GeometricMedian(iterations=1, epsilon=0.5), [0.0, 4.0], [3, 1])
    assert weighted[1] == pytest.approx([3 / (3 + 1 / 3), (1 / 3) / (3 + 1 / 3)])
    three = fused_line(GeometricMedian(iterations=5, epsilon=0.5), [0.0, 0.0, 0.0, 4.0])
    assert fused_line(GeometricMedian(iterations=5, epsilon=0.5), [0.0, 4.0], [3, 1])[0] == pytest.approx(three[0])


def test_geometric_median_goes_to_the_point_with_the_least_sum_of_distances() -> None:
    sent = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    examples = [3, 1, 4, 1, 5, 2]
    points, weights = sent.double().numpy(), np.array(examples) / sum(examples)

    def total(point: np.ndarray) -> float:
        return float(weights @ np.linalg.norm(points - point, axis=1))

    medians = [values_of(fuse(GeometricMedian(n), round_of(sent.tolist(), examples), {})) for n in (1, 3, 10, 300)]
    assert all(total(np.array(more)) < total(np.array(less)) for less, more in pairwise(medians))
    best = minimize(total, points.mean(0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    assert np.allclose(medians[-1], best, atol=1e-4)


def test_geometric_median_stays_where_all_are() -> None:
    """The distance 0 counts as epsilon: no division by 0, and examples decide."""
    assert fused_line(GeometricMedian(), [2.0, 2.0, 2.0], [2, 1, 1]) == (2.0, pytest.approx([0.5, 0.25, 0.25]))


def test_norm_clipping_by_hand() -> None:
    """Norms 5, 0.5 and 0 against at most 1, over both numbers; weighted by 1/4, 1/2, 1/4."""
    returned = round_of([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], [1, 2, 1])
    fused = fuse(NormClipping(max_norm=1.0), returned, {})
    assert whole_shares(fused.decomposition, returned)["w"][:, 0].tolist() == pytest.approx([0.05, 0.5, 0.25])
    assert values_of(fused) == pytest.approx([0.15 + 0.15, 0.2 + 0.2])


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", CHOOSING, ids=lambda fusion: type(fusion).__name__)
@pytest.mark.parametrize("late", [False, True])
def test_fusing_again_after_a_small_move_moves_by_the_share(fusion: Any, late: bool) -> None:
    """Fusions that choose, choose the same after a small move: the whole fusion done again moves W by A_k o eps."""
    returned = random_round(21, 9, late)
    updates = clipped(returned, 21)
    before = fuse(fusion, returned, {}, updates)
    shares = whole_shares(before.decomposition, returned)
    for client in range(9):
        sent = {name: value.clone() for name, value in returned.clients.items()}
        for name in returned.parameters:
            sent[name][client] += 2**-10
        moved = replace(returned, clients=sent)
        after = fuse(fusion, moved, {}, replace(updates, returned=moved))
        assert largest_gap(
            {name: after.weights[name].double() - before.weights[name].double() for name in shares},
            {name: share[client] * 2**-10 for name, share in shares.items()},
        ) < 1e-6  # fmt: skip


@pytest.mark.parametrize(
    ("fusion", "far"),
    [(Median(), 3.0), (TrimmedMean(), 3.0), (Krum(), 3.0), (MultiKrum(), 3.0), (Bulyan(), 3.0),
     (GeometricMedian(iterations=20), 3.0), (NormClipping(), 3.0)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_one_client_that_sends_anything_moves_little(fusion: Any, far: float) -> None:
    """Seven clients near 0 and one at a million: the result stays near 0, where the mean is at 125,000."""
    returned = random_round(8, 8)
    honest = {name: value * 0 for name, value in returned.previous.items()}
    for name in returned.parameters:
        returned.clients[name][5] = 1e6
    attacked = replace(returned, previous=honest, examples=[1] * 8)
    fused = fuse(fusion, attacked, {})
    assert max(float(fused.weights[name].abs().max()) for name in returned.parameters) < far
    parts = fused.decomposition
    assert largest_gap(made_of(attacked, whole_shares(parts, attacked), {}), fused.weights) < 1e-4


CONDITIONS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("krum", {"attackers": 4}, {}, r"2 \* 4 \+ 3 = 11 clients .* federation\.clients=11 .* fusion\.attackers=3"),
    ("krum", {}, {"clients_per_round": 4}, r"federation\.clients_per_round=5 or more, or fusion\.attackers=0"),
    ("krum", {"attackers": 0}, {"clients": 2}, r"federation\.clients=3 or more$"),
    ("krum", {"attackers": 1}, {"clients": 3}, r"federation\.clients=5 or more, or fusion\.attackers=0 at most$"),
    ("multi_krum", {"attackers": 4}, {}, "fusion=multi_krum"),
    ("multi_krum", {"keep": 11}, {}, r"fusion\.keep=10 at most"),
    ("bulyan", {"attackers": 2}, {}, r"4 \* 2 \+ 3 = 11 clients .* fusion\.attackers=1"),
    ("trimmed_mean", {"count": 5}, {}, r"at most fusion\.count=4"),
]


@pytest.mark.parametrize(("name", "settings", "clients", "message"), CONDITIONS)
def test_conditions_are_errors_of_the_configuration(name: str, settings: Any, clients: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        configured(name, **settings).check(federation(**clients))


@pytest.mark.parametrize(
    "make",
    [Krum, MultiKrum, lambda: MultiKrum(0, keep=5), lambda: Bulyan(), lambda: TrimmedMean(count=2)],
)
def test_too_few_that_returned_end_the_run(make: Callable[[], Any]) -> None:
    with pytest.raises(RunError, match="4 clients returned in this round, it needs"):
        fuse(make(), round_of([[1.0], [2.0], [3.0], [4.0]]), {})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("krum", "attackers", -1), ("multi_krum", "keep", 0), ("bulyan", "attackers", -1),
        ("bulyan", "selection", "twice"), ("trimmed_mean", "fraction", 0.5), ("trimmed_mean", "count", -1),
        ("geometric_median", "iterations", 0), ("geometric_median", "epsilon", 0.0), ("norm_clipping", "max_norm", 0.0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name: str, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"fusion\.{key}={value}"):
        configured(name, **{key: value})
