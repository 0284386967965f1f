"""Who took part when, as a table: `participation.csv` of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    import pandas as pd

    from ..config.schema import Federation
    from ..federation.participation import Roster
else:
    pd = lazy.load("pandas")


def participation_frame(rosters: Sequence[Roster], ids: Sequence[int], federation: Federation) -> pd.DataFrame:
    """What each client did in each round: `round, client, status, epochs, from_round`, by round and client.

    `status` is one of `MARKS`; who was there and not chosen has no row. `epochs` are the passes that it made in this
    round, null where it made none; `from_round` is the round whose global model its work started from, null where there
    is no work. One row of `late` without one of `arrived` is work that was lost.

    Args:
        rosters: the rounds.
        ids: numbers of the clients kept.
        federation: the settings that the rosters were made of.
    """
    joins, leaves = federation.joins or {}, federation.leaves or {}
    rows: list[tuple[int, int, str, int | None, int | None]] = []
    for roster in rosters:
        number = roster.number
        for work in roster.trained:
            status = "late" if work.delay else "partial" if work.epochs < federation.local_epochs else "trained"
            rows.append((number, ids[work.position], status, work.epochs, number))
        rows += [(number, ids[work.position], "arrived", None, work.from_round) for work in roster.arriving]
        gone = "dropped" if federation.mode == "sync" else "unused"
        rows += [(number, ids[position], gone, None, None) for position in roster.dropped]
        rows += [(number, client, "not_joined", None, None) for client in ids if number < joins.get(client, number)]
        rows += [(number, client, "left", None, None) for client in ids if number > leaves.get(client, number)]
    rows.sort(key=lambda row: (row[0], row[1]))
    frame = pd.DataFrame(rows, columns=["round", "client", "status", "epochs", "from_round"])
    return frame.astype({"round": "int64", "client": "int64", "epochs": "Int64", "from_round": "Int64"})
