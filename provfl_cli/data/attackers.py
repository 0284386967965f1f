"""Clients that do not return what they trained: free riders, and updates scaled to replace the model.

What such a client returns it decides itself, after any clipping and noise that `privacy` asks of a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import lazy_loader as lazy

from ..checks import FRACTION, LABEL, POSITIVE_FRACTION, RATE, Range, in_range, one_of
from ..config.blocks import Dataset, Evaluation
from ..config.faults import Faults
from ..config.share import Share
from ..errors import InputError, TrainingFailed
from ..fusion.conditions import fusion_name
from ..fusion.federation import Federation
from ..fusion.fuse import Fusion
from ..fusion.submission import Submission
from ..seeds import generator
from .backdoor import Backdoor
from .injection import LabelFlip, NoInjection, check_client_list, check_numbers, require_kept

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.load("torch")

POISONS: dict[str, tuple[str, ...]] = {  # and the settings of each
    "label_flip": ("mapping",),
    "backdoor": ("label", "share", "size", "position", "value", "word"),
    "none": (),
}


@dataclass(frozen=True)
class FreeRider(NoInjection):
    """Some clients return the global model that they received, with Gaussian noise of deviation `noise` (0: as it is).

    Plain and disguised free riders (Lin et al. 2019, "Free-riders in Federated Learning"; Fraboni et al. 2021). They
    claim their number of examples, but have trained on none: their label counts are 0, so that they hold no label and
    are responsible for no prediction. Buffers are returned as received.
    """

    clients: Any = (0,)
    noise: Annotated[float, Range(0, 1e6)] = 0.0

    def __post_init__(self) -> None:
        check_client_list("injection.clients", self.clients)
        in_range("injection", self)

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        check_numbers("injection.clients", self.clients, federation)

    def fits(self, dataset: Dataset, evaluation: Evaluation, fusion: Fusion) -> None:
        """Refuse fusions whose clients keep a state: what they send of it cannot be had without training."""
        super().fits(dataset, evaluation, fusion)
        if fusion.client_state is not None:
            raise InputError(
                f"injection=free_rider: under fusion={fusion_name(fusion)} a client also sends a control "
                "variate, which it has none of without training: fusion=fedavg or another one"
            )

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        require_kept("injection.clients", self.clients, shares)
        clients = tuple(sorted(self.clients))
        return tuple(shares), Faults(clients, (), free_riders=clients)

    def acts(self) -> dict[str, object]:
        """See `config.parts.Injection`."""
        return {"free_rider": sorted(self.clients), "noise": self.noise}

    def returned(self, submission: Submission) -> None:
        """See `config.parts.Injection`: `W <- V + noise N(0, 1)`."""
        if submission.client not in self.clients:
            return
        with torch.no_grad():
            for name, weight in submission.weights.items():
                sent = submission.start[name].cpu()
                if self.noise and name not in submission.buffers:
                    source = generator(submission.seed, "free rider", submission.round, submission.client, name)
                    drawn = torch.randn(sent.shape, generator=source, dtype=torch.float64)
                    sent = sent.double() + self.noise * drawn
                weight.copy_(sent)


@dataclass(frozen=True)
class ScaledUpdate(NoInjection):
    """Some clients return `V + factor (W - V)`: model replacement (Bagdasaryan et al. 2020, eq. 3).

    `poison` says what they train on: `label_flip` (see `LabelFlip`) or `backdoor` (see `Backdoor`), and they are
    responsible for what these say; or `none`, their own examples: then for every misprediction as a label that they
    hold. Buffers, and control variates where the fusion has any, are returned as they were trained.

    The other settings are those of the poison, which are its defaults where they are None.
    """

    clients: Any = (0,)
    factor: Annotated[float, RATE] = 10.0
    poison: str = "label_flip"
    mapping: Any = None
    label: Annotated[int | None, LABEL] = None
    share: Annotated[float | None, POSITIVE_FRACTION] = None
    size: Annotated[int | None, Range(1, 1024)] = None
    position: str | None = None
    value: Annotated[float | None, FRACTION] = None
    word: str | None = None

    def __post_init__(self) -> None:
        check_client_list("injection.clients", self.clients)
        one_of("injection.poison", self.poison, tuple(POISONS))
        in_range("injection", self)
        if self.factor == 1:
            raise InputError(f"injection.factor={self.factor}: changes nothing, give another number than 1")
        for poison, keys in POISONS.items():
            for key in keys:
                if poison != self.poison and getattr(self, key) is not None:
                    raise InputError(
                        f"injection.{key}={getattr(self, key)}: is of injection.poison={poison}, not {self.poison}"
                    )
        self.planted()

    def planted(self) -> NoInjection:
        """The poison as an injection of its own.

        Raises:
            InputError: one of its settings is out of range.
        """
        settings = {key: getattr(self, key) for key in POISONS[self.poison] if getattr(self, key) is not None}
        if self.poison == "none":
            return NoInjection()
        return (
            LabelFlip(self.clients, **settings) if self.poison == "label_flip" else Backdoor(self.clients, **settings)
        )

    def check(self, federation: Federation) -> None:
        """Refuse client numbers that no client has."""
        check_numbers("injection.clients", self.clients, federation)

    def fits(self, dataset: Dataset, evaluation: Evaluation, fusion: Fusion) -> None:
        """Refuse what the poison refuses."""
        self.planted().fits(dataset, evaluation, fusion)

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        require_kept("injection.clients", self.clients, shares)
        if self.poison != "none":
            return self.planted().apply(shares, classes, seed)
        held = sorted({label for share in shares if share.client in self.clients for label in share.labels.tolist()})
        pairs = tuple((truth, label) for truth in range(classes) for label in held if truth != label)
        return tuple(shares), Faults(tuple(sorted(self.clients)), pairs)

    def acts(self) -> dict[str, object]:
        """See `config.parts.Injection`."""
        return {"scaled_update": sorted(self.clients), "factor": self.factor}

    def returned(self, submission: Submission) -> None:
        """See `config.parts.Injection`: `W <- V + factor (W - V)`, in float64.

        Raises:
            TrainingFailed: the scaled model is no longer finite.
        """
        if submission.client not in self.clients:
            return
        weights = submission.weights
        with torch.no_grad():
            sent = {}  # all before any is written: a tied weight has several names
            for name, weight in weights.items():
                if name not in submission.buffers:
                    base = submission.start[name].cpu().double()
                    sent[name] = base + self.factor * (weight.cpu().double() - base)
            for name, scaled in sent.items():
                weights[name].copy_(scaled)
        if not all(torch.isfinite(weights[name]).all() for name in sent):
            raise TrainingFailed(
                f"client {submission.client}'s scaled update is no longer finite in round {submission.round}: "
                f"try injection.factor={self.factor / 10:g}"
            )
