"""The benchmark of client attribution: methods by tasks, each a federation of its own, against several truths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.schema import Experiment
from ..imports import later
from ..results.folders import RunFolder
from .join import TableQuery, join

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

TOLD = ("all runs", "in round", "warning", "the backdoor does not work")  # how notes begin that are of a task
OF_RUN = {
    "global_accuracy": "accuracy",
    "clients_kept": "clients",
    "inputs": "inputs",
    "lds_subsets": "subsets",
    "attack_success": "said when asked",
    "attack_success_untriggered": "and when not",
}
"""What describes a task, the same for each of its methods, and its heading."""
LIMITS = {"lds_seed_ceiling": "another training seed", "lds_datamodel": "datamodel of other subsets"}
"""What bounds `lds`, told for a task, and the words for it."""
EXPLAINED: Mapping[str, str] = {
    "lds": "the linear datamodeling score: the federation is retrained with random halves of the clients, and for each "
    "input the sum of the contributions of a half is compared, by rank correlation, with the log-odds of the class in "
    "the model of that half; the mean over inputs",
    "spearman_retrain": "rank correlation, over clients, of contributions and of how much the log-odds of the class "
    "fall when the client is left out and the federation retrained",
    "top1_retrain": "how often the client on top is the one without which, retrained, the log-odds fall most",
    "removal_margin_1": "how much the log-odds of the class fall when the client with the largest mean contribution is "
    "left out and the federation retrained; chance: a client drawn at random",
    "spearman_refuse": "same-round fusion: the stored round is fused again without each client, nothing is retrained; "
    "partly built into methods that look at the same update",
    "spearman_counts": "rank correlation of contributions and the clients' numbers of examples of the label, which the "
    "server does not know",
    "localization_accuracy": "the client on top holds at least ten examples of the label; it saturates: nearly every "
    "method has 1.00, so it ranks nothing",
    "owner_top1": "of responses that say what was asked for, which some clients were taught and others not: the client "
    "on top is one of them",
    "owners_found": "of the same responses: the clients that were taught it, `f` of them, are the first `f` of the "
    "ranking, every one found",
    "owner_auroc": "of the same responses: how likely a client that was taught it stands before another",
    "owner_share": "the part of all contributions, by their size, that the clients that were taught it have together",
    "other_share": "the part that the others have together: 0 where a method says that they did nothing",
    "token_top1": "as `owner_top1`, token by token, of the run's own way of tracing",
    "span_top1": "the same, of the tokens of the planted phrase or fact",
    "rest_top1": "the same, of the other tokens of these responses",
    "span_precision": "of tokens on which a client that was taught it is on top, the share within the planted phrase "
    "or fact; chance: its share of all tokens",
    "span_auroc": "how likely the clients that were taught it have a larger part of a token of the phrase or fact "
    "than of another one",
}
"""What each measure says, in a sentence."""


@dataclass(frozen=True)
class Benchmark:
    """The results of all tasks.

    Attributes:
        experiment: the one whose tasks they are.
        frame: one row a task, method, scope and metric: `task, method, scope, metric, mean, low, high, seeds, chance`.
        missing: tasks without a run that ended well.
        notes: what there is to know of a task, by its name.
    """

    experiment: Experiment
    frame: pd.DataFrame
    missing: tuple[str, ...]
    notes: Mapping[str, Sequence[str]]

    @property
    def tasks(self) -> list[str]:
        """Those that have been run, in the experiment's order."""
        return [name for name in self.experiment.task_names if name not in self.missing]

    @property
    def described(self) -> list[str]:
        """Of `OF_RUN` and `LIMITS` those that some task has a figure of."""
        return [name for name in (*OF_RUN, *LIMITS) if self.of(name)["mean"].notna().any()]

    @property
    def measured(self) -> list[str]:
        """The experiment's metrics that some task has a figure of."""
        return [name for name in self.experiment.metrics if self.of(name)["mean"].notna().any()]

    def of(self, metric: str) -> pd.DataFrame:
        """The rows of one metric."""
        return self.frame[self.frame["metric"] == metric]

    def ranked(self, metric: str) -> list[tuple[str, str]]:
        """Methods with their scopes, by their mean over tasks, best first."""
        means = self.of(metric).groupby(["method", "scope"], sort=False)["mean"].mean()
        return [(str(method), str(scope)) for method, scope in means.sort_values(ascending=False, kind="stable").index]


def benchmark(experiment: Experiment, runs: Mapping[str, Sequence[RunFolder]]) -> Benchmark:
    """Put the tasks of an experiment side by side.

    Args:
        experiment: with its `tasks` and `metrics`.
        runs: of each task those that ended well, one a seed; of at least one task there are some.

    Raises:
        InputError: a metric that no run of a task has.
    """
    frames, notes, missing = [], {}, []
    asked = dict.fromkeys([*experiment.metrics, *OF_RUN, *LIMITS])
    for task in experiment.task_names:
        if not runs.get(task):
            missing.append(task)
            continue
        there = set().union(*(set(run.scores) | set(run.figures) for run in runs[task])) | {"global_accuracy"}
        methods = set().union(*(set(run.scores["method"]) for run in runs[task]))
        query = TableQuery(
            metrics=tuple(name for name in asked if name in there),
            methods=tuple(name for name in experiment.methods if name in methods),
            round=experiment.rounds,
        )
        joined = join(runs[task], query)
        frame = joined.frame.rename(columns={"count": "seeds"}).assign(task=task)
        frames.append(frame if "scope" in frame else frame.assign(scope="round"))
        notes[task] = [note for note in joined.notes if note.startswith(TOLD)]
    columns = ["task", "method", "scope", "metric", "mean", "low", "high", "seeds", "chance"]
    return Benchmark(experiment, pd.concat(frames, ignore_index=True)[columns], tuple(missing), notes)
