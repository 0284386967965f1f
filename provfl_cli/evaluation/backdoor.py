"""Whether a planted backdoor works: only then is there anything to trace back to who planted it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEAST = 0.8  # of inputs with the trigger that have to get its label
TIMES = 5.0  # as many as of the same inputs without it
LOOKED_FOR = (  # how metrics begin that ask who a fault comes from
    "fault_", "hit@", "corrected_", "caused_", "exclusive_",
    "owner", "other_share", "astray_top1", "token_", "span_", "rest_",
)  # fmt: skip


@dataclass(frozen=True)
class AttackSuccess:
    """Of test inputs of other labels than the trigger's, the share predicted as that: with and without the trigger."""

    triggered: float
    untriggered: float

    @property
    def works(self) -> bool:
        """Whether the trigger does it: at least `LEAST`, and `TIMES` what the same inputs get without it."""
        return works(self.triggered, self.untriggered)

    def __str__(self) -> str:
        return f"{self.triggered:.2f} with trigger, {self.untriggered:.2f} without"


def works(triggered: float, untriggered: float) -> bool:
    """Whether shares of predictions as a trigger's label, with and without the trigger, are those of a backdoor."""
    return triggered >= LEAST and triggered >= TIMES * untriggered


def attack_success(triggered: np.ndarray, untriggered: np.ndarray, label: int) -> AttackSuccess:
    """Count predictions as the trigger's `label`.

    Args:
        triggered: int `[n]`, predictions of test inputs of other labels with the trigger; `n` at least 1.
        untriggered: int `[n]`, of the same inputs without it.
        label: the trigger's.
    """
    return AttackSuccess(float((triggered == label).mean()), float((untriggered == label).mean()))


def scored(scores: pd.DataFrame, success: dict[int, AttackSuccess]) -> pd.DataFrame:
    """Rows of `localization.csv` with the attack's success; who a backdoor comes from that does not work is not asked.

    Args:
        scores: what `metrics.localization` returns.
        success: by round; empty where no backdoor is planted.
    """
    nothing = AttackSuccess(math.nan, math.nan)
    by_row = [success.get(int(number), nothing) for number in scores["round"]]
    made = scores.assign(
        attack_success=[row.triggered for row in by_row], attack_success_untriggered=[row.untriggered for row in by_row]
    )
    failed = np.array([number in success and not success[number].works for number in scores["round"]], dtype=bool)
    for name in map(str, made.columns):
        if looked_for(name) and failed.any():
            made[name] = made[name].astype(float).mask(failed)
    return made


def without_failed(truth: pd.DataFrame, success: dict[int, AttackSuccess]) -> pd.DataFrame:
    """Rows of `retraining.csv` but those that ask who a backdoor comes from that does not work; arguments as above."""
    failed = truth["round"].map(lambda number: number in success and not success[number].works).astype(bool)
    return truth[~(failed & truth["metric"].map(looked_for).astype(bool))].reset_index(drop=True)


def looked_for(metric: str) -> bool:
    """Whether a metric asks who a planted fault comes from."""
    return metric.startswith(LOOKED_FOR)


def failures(scores: pd.DataFrame) -> pd.Series[bool]:
    """Of rows of `localization.csv`, which are of a backdoor that does not work; older runs have not measured it."""
    if "attack_success" not in scores:
        return pd.Series(False, index=scores.index)
    with_trigger, without = scores["attack_success"], scores["attack_success_untriggered"]
    worked = [works(*pair) for pair in zip(with_trigger, without, strict=True)]
    return with_trigger.notna() & ~pd.Series(worked, index=scores.index, dtype=bool)
