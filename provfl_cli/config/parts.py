"""What the parts of a configuration provide: protocols that partitions, injections and trackers fulfil by their shape.

A part is a frozen dataclass of its settings, named by `_target_` in a file of its config group. Its fields are the keys
of that file; wrong values are refused when it is made (`__post_init__`), with an `InputError`. What fusions and privacy
provide is in `fusion/fuse.py` and `fusion/privacy.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..fusion.federation import Federation
from ..fusion.fuse import Fusion
from ..fusion.submission import Submission
from ..provenance.settings import Provenance
from . import blocks
from .behaviour import Behaviour
from .blocks import Dataset, Evaluation
from .faults import Faults
from .share import Share
from .trigger import Trigger

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from flwr_datasets.partitioner import Partitioner


class Partition(Protocol):
    """How training examples are split over clients; `data.partition.Iid` is the smallest, `Limits` has the shared part.

    Example: a dataclass that inherits from `Limits` needs a `partitioner` and nothing else.
    """

    @property
    def max_examples_per_client(self) -> int | None:
        """How many of its share a client keeps at most; None: all."""

    @property
    def min_examples_per_label(self) -> int:
        """A label of which a client holds fewer is dropped from it."""

    @property
    def min_examples_per_client(self) -> int:
        """A client that has fewer left takes no part."""

    def check(self, federation: Federation) -> None:
        """Raise InputError for what cannot work whatever the data."""

    def partitioner(self, labels: np.ndarray, clients: int, seed: int) -> Partitioner:
        """Return the partitioner of Flower Datasets for training labels int64 `[n]`.

        Its partitions number `clients`, and what it draws follows from `seed`. It is given a data set with the columns
        `label` and `index`, shuffled by the seed before.

        Raises:
            InputError: the labels do not allow it.
        """


class Injection(Protocol):
    """What is planted in clients whose origin is then known; `data.injection.NoInjection` does nothing, to inherit."""

    def check(self, federation: Federation) -> None:
        """Raise InputError for client numbers that no client has."""

    def fits(self, dataset: Dataset, evaluation: Evaluation, fusion: Fusion) -> None:
        """Raise InputError where the rest of the configuration does not go with it."""

    @property
    def seen_in(self) -> str | None:
        """What `evaluation.inputs=faults` stands for, such as `wrong`; None where nothing is planted to look for."""

    def trigger_of(self, classes: int, seed: int) -> Trigger | Behaviour | None:
        """The trigger of a backdoor, or what language models are taught as a topic of the number `classes`; or None."""

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """Return the shares as the clients train on them, and what was planted; random choices follow from `seed`.

        Raises:
            InputError: a client that is not among `shares`, a label that does not exist or that nobody holds.
        """

    def acts(self) -> dict[str, object]:
        """What determines how clients change the models that they return; empty where they return what they trained."""

    def returned(self, submission: Submission) -> None:
        """Change the weights that a client returns in place."""

    def attacking(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[Share, ...]:
        """What clients train on in rounds in which they attack, where that is not what `apply` returns of them.

        Arguments and errors are those of `apply`. Examples that these hold more or less count for nobody: an attacker
        tells the server the number of those that `apply` returns.
        """

    def attacks(self, client: int, number: int) -> bool:
        """Whether a client attacks in round `number`: it trains on `attacking`, for `attack_epochs` passes."""

    @property
    def attack_epochs(self) -> int | None:
        """Passes over its data that an attacker makes; None: as many as everybody."""

    def until(self, rounds: int) -> Injection:
        """The same in a federation of so many rounds: those counted from its end by their numbers, later ones gone."""

    def twin(self) -> Injection | None:
        """What is planted in the clean twin, the same federation without the fault; None where nothing is planted."""


class Log(Protocol):
    """An opened log of one run."""

    @property
    def where(self) -> str:
        """Where it is, in a few words."""

    @property
    def look(self) -> str:
        """What to type or to open to see it; "" where nothing can be seen."""

    def round(self, number: int, values: Mapping[str, float]) -> None:
        """Finite numbers of round `number`, by names such as `rounds/accuracy`; visible at once."""

    def figures(self, summary: Mapping[str, Any]) -> None:
        """The final figures (`summary.json`): numbers, words, None where there was nothing to measure."""

    def table(self, name: str, frame: pd.DataFrame, text: str) -> None:
        """A table, and the same in Markdown."""

    def picture(self, path: Path) -> None:
        """A PNG file, named by its stem; gone after this call."""

    def end(self, failed: bool) -> None:
        """Nothing follows; `failed`: the run did not come to its end."""


class Tracker(Protocol):
    """Where else a run is logged; `trackers.tensorboard` is the smallest."""

    def check(self) -> None:
        """Raise InputError where its package is missing; imports nothing heavy."""

    def start(self, settings: Mapping[str, Any], folder: Path) -> Log:
        """Open the log of the run in `folder`, with the settings by dotted key and the composed files beside them."""


@dataclass(frozen=True)
class RunSettings:
    """What an attribution method may look at of the run that it is compared in, before that starts.

    Attributes:
        federation: how many clients there are, and how many of them train in a round.
        fusion: how rounds are fused, and so with how few clients they can be fused again.
        provenance: the run's own settings of tracing.
        tracefl_beside: whether the run traces by the preset `tracefl` as well.
        seed: of everything random.
        keep: which rounds are kept (`store.keep`).
        task: `classify`, or `generate`: responses are attributed, of which no class is predicted.
    """

    federation: blocks.Federation
    fusion: Fusion
    provenance: Provenance
    tracefl_beside: bool
    seed: int
    keep: str | int = "last"
    task: str = "classify"


class Method(Protocol):
    """The settings of an attribution method, named by `_target_` in `conf/attribution/NAME.yaml`.

    Where it has a field `name`, that is the key under `attribution` where it stands. What it computes is said in
    `attribution/method.py`.
    """

    @property
    def name(self) -> str:
        """What it is called in every table."""

    def check(self, run: RunSettings) -> None:
        """Raise InputError where the method cannot work in a run of these settings."""
