"""What the traced rounds of a run come to: contributions, scores, and what there is to say of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd

from ..config.faults import Faults
from ..data.federated import Dialogues, FederatedData
from ..evaluation.against_truth import truth_frame
from ..evaluation.backdoor import AttackSuccess, scored, without_failed
from ..evaluation.fading import Fading, fading, over_rounds
from ..evaluation.metrics import localization
from ..evaluation.truth import Retrained
from ..federation.participation import Roster
from .response_scores import with_tokens
from .tracing import TracedRound


@dataclass(frozen=True)
class Findings:
    """What the traced rounds come to.

    Attributes:
        traced: the rounds, of which there is at least one.
        contributions: the rows of all of them.
        scores: the metrics, by method and round.
        truth: the same against retraining, with intervals; None where nothing was retrained.
        faded: how clients' shares of a label fade over the rounds; None where one round is traced, no lineage, or
            nobody paused.
        note: what stands below the tables.
        success: of a planted backdoor in the last of the rounds; None where none is planted.
    """

    traced: tuple[TracedRound, ...]
    contributions: pd.DataFrame
    scores: pd.DataFrame
    truth: pd.DataFrame | None
    faded: list[Fading] | None
    note: str
    success: AttackSuccess | None = None

    @property
    def suspicion(self) -> pd.DataFrame | None:
        """What is suspected of clients, round by round: the rows of `suspicion.csv`; None: nobody asked."""
        found = [each.suspicion.frame(each.number) for each in self.traced if each.suspicion is not None]
        return pd.concat(found, ignore_index=True) if found else None

    @property
    def last(self) -> TracedRound:
        """The last of the rounds."""
        return self.traced[-1]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the trace of the last round leaves out."""
        return () if self.last.trace is None else self.last.trace.warnings


def findings_of(
    traced: Sequence[TracedRound],
    data: FederatedData,
    min_examples: int,
    newcomers: Mapping[int, Collection[int]],
    said: Sequence[str] = (),
    retrained: Mapping[int, Retrained] | None = None,
    success: Mapping[int, AttackSuccess | None] = MappingProxyType({}),
) -> Findings:
    """Put the rounds together, and score them.

    Args:
        traced: the rounds, ascending.
        data: of the clients that were kept.
        min_examples: from how many a client holds a label.
        newcomers: by round, the clients whose work is fused there for the first time.
        said: what else there is to say of the run, in sentences.
        retrained: by round, what retraining without clients changed; None: nothing was retrained.
        success: of a planted backdoor, by round; None or missing where none is planted.
    """
    counts = {client.id: client.label_counts for client in data.clients}
    contributions = pd.concat([traced_round.contributions for traced_round in traced], ignore_index=True)
    last = traced[-1]
    warnings = () if last.trace is None else last.trace.warnings
    planted = {number: measured for number, measured in success.items() if measured is not None}
    truth = truth_frame(contributions, counts, data.faults, retrained) if retrained else None
    truth = None if truth is None else without_failed(truth, planted)
    return Findings(
        traced=tuple(traced),
        contributions=contributions,
        scores=scored(_scores(contributions, traced, data, counts, min_examples, newcomers, retrained), planted),
        truth=truth if truth is not None and len(truth) else None,
        faded=fading(over_rounds(contributions), counts, last.last) if len(traced) > 1 and _paused(last) else None,
        note="; ".join(
            [*warnings, data.source.note, *said, *last.notes, *planted_note(success.get(last.number), data.faults)]
        ),
        success=success.get(last.number),
    )


def _paused(traced: TracedRound) -> bool:
    """Whether some client, of those whose lineage was traced, took no part in the round itself."""
    return any(number < traced.number for number in traced.last.values())


def planted_note(success: AttackSuccess | None, faults: Faults) -> list[str]:
    """What there is to say of a planted backdoor, or of a topic that is taught."""
    if success is None:
        return []
    if faults.topics:
        shares = (
            f"by {success.triggered:.2f} of the answers to prompts that ask for it, {success.untriggered:.2f} of others"
        )
        return [f"{', '.join(faults.topics)} is {'' if success.works else 'not '}learnt: said {shares}"]
    return [f"the backdoor {'works' if success.works else 'does not work'}: {success}"]


def _scores(
    contributions: pd.DataFrame,
    traced: Sequence[TracedRound],
    data: FederatedData,
    counts: Mapping[int, np.ndarray],
    min_examples: int,
    newcomers: Mapping[int, Collection[int]],
    retrained: Mapping[int, Retrained] | None,
) -> pd.DataFrame:
    """The metrics; predictions whose label nobody holds were passed over before the trace, and are counted here."""
    said = isinstance(data.form, Dialogues)
    scores = localization(contributions, counts, min_examples, data.faults, newcomers, retrained, said)
    scores = with_tokens(scores, traced, data, counts, min_examples) if said else scores
    passed_over = {traced_round.number: traced_round.selection.no_holder for traced_round in traced}
    scores["no_holder"] += scores["round"].map(passed_over).astype(scores["no_holder"].dtype)
    return scores


def newcomers(roster: Sequence[Roster], ids: Sequence[int]) -> dict[int, set[int]]:
    """By round, the clients whose work is fused there for the first time; `ids` are the numbers of those kept."""
    known, first = set[int](), dict[int, set[int]]()
    for members in roster:
        first[members.number] = {ids[work.position] for work in members.fused} - known
        known |= first[members.number]
    return first
