"""Runs whose backdoor does not work, said below the tables that they are not in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..evaluation.backdoor import AttackSuccess, failures

if TYPE_CHECKING:
    import pandas as pd


def without_effect(rows: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """A note for each group of runs in some of which the backdoor does not work.

    Args:
        rows: of joined runs; `run` numbers them, and the column `=KEY` has their setting of each of `keys`.
        keys: by which runs are grouped.
    """
    of_run = rows.drop_duplicates(["run", "round"])
    of_run = of_run.assign(setting=[", ".join(map(str, row)) for row in of_run[[f"={key}" for key in keys]].to_numpy()])
    notes = []
    for setting, group in of_run.groupby("setting", sort=False):
        failed = group[failures(group)]
        if failed.empty:
            continue
        success = AttackSuccess(*map(float, failed[["attack_success", "attack_success_untriggered"]].mean()))
        whose = f"{setting!s}: " if setting else ""
        often = f" in {len(failed)} of {len(group)} runs" if len(group) > 1 else ""
        notes.append(f"{whose}the backdoor does not work{often}: {success}")
    return notes
