"""Who took part when, as a table: `participation.csv` of a run folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..imports import later

if TYPE_CHECKING:
    import pandas as pd

    from ..config.parts import Injection
    from ..config.schema import Federation
    from ..federation.participation import Roster
else:
    pd = later("pandas")


def participation_frame(
    rosters: Sequence[Roster],
    ids: Sequence[int],
    federation: Federation,
    injection: Injection | None = None,
    free_riders: Collection[int] = (),
) -> pd.DataFrame:
    """What each client did in each round: `round, client, status, epochs, from_round`, by round and client.

    `status` is one of `MARKS`; who was there and not chosen has no row. `epochs` are the passes that it made in this
    round, those of its attack where it attacks, null where it made none, as free riders do; `from_round` is the round
    whose global model its work started from, null where there is no work. One row of `late` without one of `arrived` is
    work that was lost.

    Args:
        rosters: the rounds.
        ids: numbers of the clients kept.
        federation: the settings that the rosters were made of.
        injection: what is planted: attackers may make other numbers of passes; None: nothing is.
        free_riders: numbers of the clients that return something without training.
    """
    joins, leaves = federation.joins or {}, federation.leaves or {}
    rows: list[tuple[int, int, str, int | None, int | None]] = []
    for roster in rosters:
        number = roster.number
        for work in roster.trained:
            client, made = ids[work.position], work.epochs
            if injection is not None and injection.attacks(client, number):
                made = injection.attack_epochs or made
            status = "late" if work.delay else "partial" if made < federation.local_epochs else "trained"
            rows.append((number, client, status, None if client in free_riders else made, number))
        rows += [(number, ids[work.position], "arrived", None, work.from_round) for work in roster.arriving]
        gone = "dropped" if federation.mode == "sync" else "unused"
        rows += [(number, ids[position], gone, None, None) for position in roster.dropped]
        rows += [(number, client, "not_joined", None, None) for client in ids if number < joins.get(client, number)]
        rows += [(number, client, "left", None, None) for client in ids if number > leaves.get(client, number)]
    rows.sort(key=lambda row: (row[0], row[1]))
    frame = pd.DataFrame(rows, columns=["round", "client", "status", "epochs", "from_round"])
    return frame.astype({"round": "int64", "client": "int64", "epochs": "Int64", "from_round": "Int64"})
