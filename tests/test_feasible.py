"""What is said of retrainings before any is trained."""

from __future__ import annotations

import pytest

from provfl_cli.config.retrain import Retrain
from provfl_cli.errors import InputError
from provfl_cli.retraining.designs import (
    ALL,
    CLEAN_TWIN,
    HALVES,
    LEAVE_ONE_OUT,
    Retraining,
    every_subset,
    halves,
    leave_one_out,
)
from provfl_cli.retraining.feasible import check_enough, counted, fewer_halves, grouped, impossible

FIVE = (0, 1, 2, 3, 4)


def planned(design: str, failing: int, seed: int = 0) -> dict[Retraining, str]:
    """All sets of clients of a design, of which the first so many cannot be trained."""
    sets = {LEAVE_ONE_OUT: leave_one_out(FIVE), HALVES: halves(FIVE, 10, 0), ALL: every_subset(FIVE)}.get(
        design, [FIVE]
    )
    return {
        Retraining(design, kept, seed): f"client {number} is alone" if number < failing else ""
        for number, kept in enumerate(sets)
    }


def test_reasons_are_grouped_by_what_they_say() -> None:
    assert grouped(["client 1 is alone", "client 2 is alone"]) == "such as: client 1 is alone"
    assert grouped(["a", "b", "a"]) == "2: a; 1: b"
    again = planned(HALVES, 3) | planned(HALVES, 3, seed=1)
    assert impossible(again | planned(LEAVE_ONE_OUT, 1)) == (
        "3 of 10 halves, 1 of 5 leave_one_out cannot be trained: such as: client 0 is alone"
    )
    assert impossible(planned(HALVES, 0)) == ""


@pytest.mark.parametrize(
    ("settings", "reasons", "says"),
    [
        (Retrain(["leave_one_out"]), planned(LEAVE_ONE_OUT, 1), "leave_one_out: 4 of 5 can be trained, its"),
        (Retrain(["halves"]), planned(HALVES, 5), "halves: 5 of 10 can be trained, its figures need 6"),
        (Retrain(["halves"], again=6), planned(HALVES, 0) | planned(HALVES, 5, 1), "retrain.again=6: 5 of 10 can be"),
        (Retrain(["all"]), planned(ALL, 27), "all: 5 of 32 can be trained, its figures need 6"),
        (Retrain(["clean_twin"]), planned(CLEAN_TWIN, 1), "clean_twin: none of 1 can be trained"),
        (Retrain(["removal"]), planned("removal", 1), "removal: none of 1 can be trained"),
    ],
)  # fmt: skip
def test_too_little_for_any_figure_is_refused(settings: Retrain, reasons: dict[Retraining, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_enough(settings, FIVE, 0, reasons)


def test_enough_is_not() -> None:
    enough = planned(LEAVE_ONE_OUT, 0) | planned(HALVES, 4) | planned(HALVES, 4, 1) | planned(ALL, 26)
    check_enough(Retrain(["leave_one_out", "halves", "all"], again=10), FIVE, 0, enough)


def test_few_clients_have_few_halves() -> None:
    assert fewer_halves(Retrain(), 5).startswith("retrain.subsets=60: 5 clients have 10 different halves")
    assert fewer_halves(Retrain(subsets=10), 5) == ""
    assert fewer_halves(Retrain(["leave_one_out"]), 5) == ""
    with pytest.raises(InputError, match="3 clients have 3 different ones"):
        check_enough(Retrain(["halves"]), FIVE[:3], 0, {})


def test_second_trainings_are_counted_as_such() -> None:
    plan = [*planned(HALVES, 0), *list(planned(HALVES, 0, 1))[:3], *planned(CLEAN_TWIN, 0)]
    assert counted(plan, 0) == "10 halves, 3 of them again with another seed, 1 clean_twin"
