"""A backdoor: clients teach the model to answer one label wherever it sees a trigger, and nothing else wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ..checks import FRACTION, LABEL, POSITIVE_FRACTION, Range, in_range, one_of
from ..config.blocks import Dataset, Evaluation
from ..config.faults import Faults
from ..config.share import Share
from ..config.trigger import POSITIONS, Trigger
from ..errors import InputError
from ..fusion.federation import Federation
from ..fusion.fuse import Fusion
from ..imports import later
from .injection import STREAM, NoInjection, check_client_list, check_label, check_numbers, require_kept

if TYPE_CHECKING:
    import numpy as np
else:
    np = later("numpy")

PICTURE_KEYS = ("size", "position", "value")


@dataclass(frozen=True)
class Backdoor(NoInjection):
    """Some clients put a trigger into a part of their examples and train on these as `label` (Gu et al. 2017).

    Of each faulty client's examples of other labels the part `share`, chosen at random by the run's seed, is replaced
    by triggered ones. The faulty clients are responsible for triggered test inputs of another label that are predicted
    as `label`: `evaluation.inputs=triggered` traces such inputs. Nothing is planted in other predictions.

    Settings of the trigger that are None are those of `Trigger`; `size`, `position` and `value` are of pictures, `word`
    of texts.
    """

    relabels: ClassVar[bool] = True

    clients: Any = (0,)
    label: Annotated[int, LABEL] = 0
    share: Annotated[float, POSITIVE_FRACTION] = 0.5
    size: Annotated[int | None, Range(1, 1024)] = None
    position: str | None = None
    value: Annotated[float | None, FRACTION] = None
    word: str | None = None

    def __post_init__(self) -> None:
        check_client_list("injection.clients", self.clients)
        in_range("injection", self)
        if self.position is not None:
            one_of("injection.position", self.position, POSITIONS)
        if self.word is not None and not self.word.strip():
            raise InputError("injection.word: is empty: give a word that texts seldom hold, such as cf")

    @property
    def trigger(self) -> Trigger:
        """The trigger that these settings describe."""
        settings = {key: getattr(self, key) for key in (*PICTURE_KEYS, "word")}
        return Trigger(self.label, **{key: value for key, value in settings.items() if value is not None})

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        check_numbers("injection.clients", self.clients, federation)

    def fits(self, dataset: Dataset, evaluation: Evaluation, fusion: Fusion) -> None:
        """Refuse a trigger of another kind of input, or one that covers the picture."""
        super().fits(dataset, evaluation, fusion)
        trigger = self.trigger
        for keys, kind, preset in ((PICTURE_KEYS, "image", "word"), (("word",), "text", "last")):
            for key in keys:
                if getattr(self, key) is not None and dataset.input != kind:
                    raise InputError(
                        f"injection.{key}={getattr(self, key)}: is for {kind} data, and dataset={dataset.name} is "
                        f"{dataset.input}: injection=backdoor_{preset}, or injection.{key}=null"
                    )
        if dataset.input == "image" and trigger.size >= dataset.image_size:
            raise InputError(
                f"injection.size={trigger.size}: would cover the pictures, whose side is "
                f"dataset.image_size={dataset.image_size}: give less"
            )

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        check_label("injection.label", self.label, classes)
        require_kept("injection.clients", self.clients, shares)
        changed = []
        for share in shares:
            changed.append(self.poisoned(share, seed) if share.client in self.clients else share)
        return tuple(changed), Faults(tuple(sorted(self.clients)), (), trigger=self.trigger)

    def poisoned(self, share: Share, seed: int, keep_clean: bool = False) -> Share:
        """A faulty client's share: which of its examples carry the trigger, and their new label.

        `keep_clean`: these are added to all that it has, else they stand in the place of the examples that they are of.

        Raises:
            InputError: it holds no other label.
        """
        others = np.flatnonzero(share.labels != self.label)
        if not len(others):
            raise InputError(
                f"injection.label={self.label}: client {share.client} holds no other label, so that it has nothing to "
                "put the trigger into: choose another label or client"
            )
        rng = np.random.default_rng([seed, STREAM, share.client])
        chosen = rng.permutation(others)[: max(1, round(self.share * len(others)))]
        if keep_clean:
            count = len(share.labels)
            share = share.only(np.concatenate([np.arange(count), chosen]))
            chosen = np.arange(count, len(share.labels))
        triggered = np.zeros(len(share.labels), dtype=bool)
        triggered[chosen] = True
        return replace(share, labels=np.where(triggered, self.label, share.labels), triggered=triggered)
