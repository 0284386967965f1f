"""Clients that do not return what they trained: free riders, and updates scaled to replace the model.

What such a client returns it decides itself, after any clipping and noise that `privacy` asks of a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..checks import COUNT, FRACTION, LABEL, POSITIVE_FRACTION, RATE, ROUNDS, Range, excerpt, in_range, one_of
from ..config.blocks import Dataset, Evaluation
from ..config.faults import Faults
from ..config.share import Share
from ..config.trigger import Trigger
from ..errors import InputError, TrainingFailed
from ..fusion.conditions import fusion_name
from ..fusion.federation import Federation
from ..fusion.fuse import Fusion
from ..fusion.submission import Submission
from ..imports import later
from ..seeds import generator
from .backdoor import Backdoor
from .injection import LabelFlip, NoInjection, NoisyLabels, check_client_list, check_numbers, require_kept

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")

POISONS: dict[str, tuple[str, ...]] = {  # and the settings of each
    "label_flip": ("mapping",),
    "noisy_labels": ("rate",),
    "backdoor": ("label", "share", "size", "position", "value", "word", "keep_clean"),
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
    """Some clients attack: they return `V + factor (W - V)`, model replacement (Bagdasaryan et al. 2020, eq. 3).

    `poison` says what they train on: `label_flip`, `noisy_labels` or `backdoor` (see `LabelFlip`, `NoisyLabels`,
    `Backdoor`), and they are responsible for what these say; or `none`, their own examples: then for every
    misprediction as a label that they hold. Buffers, and control variates where the fusion has any, are returned as
    they were trained.

    They attack in `rounds` (from the end where negative, -1 the last; None: in all, or from round `since` on), with
    `epochs` passes over their data (None: as many as everybody), and in the other rounds train on their own examples
    and return what they trained. With `keep_clean` triggered copies are added to their examples, which then all stay
    what they are. With `rounds`, `since` or `keep_clean` their label counts are those of their own examples. Whatever
    they do, they tell the server the number of these, and the steps of honest work. `rounds` in which none of them is
    chosen pass without an attack.

    A `factor` of `auto` replaces the global model by theirs under FedAvg: `1 / p`, `p` the part that the attackers of
    a round have together of the examples behind its fusion, which they are assumed to know. Several share the work: the
    model becomes the mean of theirs, weighted by examples (Sun et al. 2019, "Can You Really Backdoor Federated
    Learning?"; for one attacker it is `1 / p_k` of Bagdasaryan et al.).

    The other settings are those of the poison, which are its defaults where they are None.
    """

    clients: Any = (0,)
    factor: Annotated[float | Literal["auto"], RATE] = 10.0
    poison: str = "label_flip"
    mapping: Any = None
    rate: Annotated[float | None, POSITIVE_FRACTION] = None
    label: Annotated[int | None, LABEL] = None
    share: Annotated[float | None, POSITIVE_FRACTION] = None
    size: Annotated[int | None, Range(1, 1024)] = None
    position: str | None = None
    value: Annotated[float | None, FRACTION] = None
    word: str | None = None
    rounds: Annotated[list[int] | None, Range(-ROUNDS.most, ROUNDS.most)] = None
    since: Annotated[int | None, COUNT] = None
    epochs: Annotated[int | None, COUNT] = None
    keep_clean: bool = False

    def __post_init__(self) -> None:
        check_client_list("injection.clients", self.clients)
        one_of("injection.poison", self.poison, tuple(POISONS))
        if self.factor != "auto" and (isinstance(self.factor, bool) or not isinstance(self.factor, int | float)):
            raise InputError(f"injection.factor={excerpt(self.factor)}: auto, or a number {RATE}")
        in_range("injection", self)
        if self.rounds is not None and (not all(self.rounds) or not 0 < len(set(self.rounds)) == len(self.rounds)):
            raise InputError(
                f"injection.rounds={excerpt(self.rounds)}: give a list of different rounds such as [13,15], -1 for the "
                "last, or null for all"
            )
        if self.rounds is not None and self.since is not None:
            raise InputError(
                f"injection.since={self.since}: injection.rounds says already when they attack: one of them"
            )
        if self.factor == 1 and self.epochs is None and not self.turns:
            raise InputError(f"injection.factor={self.factor}: changes nothing, give another number than 1")
        for poison, keys in POISONS.items():
            for key in keys:
                if poison != self.poison and getattr(self, key) not in (None, False):
                    raise InputError(
                        f"injection.{key}={getattr(self, key)}: is of injection.poison={poison}, not {self.poison}"
                    )
        self.planted()

    def planted(self) -> NoInjection:
        """The poison as an injection of its own.

        Raises:
            InputError: one of its settings is out of range.
        """
        keys = [key for key in POISONS[self.poison] if key != "keep_clean"]
        settings = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        if self.poison == "none":
            return NoInjection()
        made: dict[str, type[LabelFlip | NoisyLabels | Backdoor]] = {
            "label_flip": LabelFlip, "noisy_labels": NoisyLabels, "backdoor": Backdoor,
        }  # fmt: skip
        return made[self.poison](self.clients, **settings)

    def check(self, federation: Federation) -> None:
        """Refuse clients and rounds that there are not, and a factor that no attacker could know."""
        check_numbers("injection.clients", self.clients, federation)
        if self.since is not None and self.since > federation.rounds:
            raise InputError(f"injection.since={self.since}: there are federation.rounds={federation.rounds}")
        numbers = self._numbers(federation.rounds) or [1]
        if not 1 <= min(numbers) <= max(numbers) <= federation.rounds or len(set(numbers)) < len(numbers):
            needed = max(abs(number) for number in self.rounds or (0,))
            more = f"; or federation.rounds={needed} or more" if needed > federation.rounds else ""
            raise InputError(
                f"injection.rounds={self.rounds}: of federation.rounds={federation.rounds} give different ones, by "
                f"number or from the end, -1 to -{federation.rounds}{more}"
            )
        late = federation.stragglers and federation.straggler_work == "late"
        if self.factor == "auto" and (federation.mode != "sync" or late):
            raise InputError(
                "injection.factor=auto: what part of a round's examples attackers have is not known where work is late "
                "(federation.mode=fedbuff, federation.straggler_work=late): give a number"
            )

    def fits(self, dataset: Dataset, evaluation: Evaluation, fusion: Fusion) -> None:
        """Refuse what the poison refuses."""
        self.planted().fits(dataset, evaluation, fusion)

    @property
    def trigger(self) -> Trigger | None:
        """The trigger of a backdoor; None where the poison is none."""
        poison = self.planted()
        return poison.trigger if isinstance(poison, Backdoor) else None

    @property
    def turns(self) -> bool:
        """Whether what attackers train on is not all that they have."""
        return self.poison != "none" and (self.rounds is not None or self.since is not None or self.keep_clean)

    def apply(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[tuple[Share, ...], Faults]:
        """See `config.parts.Injection`."""
        require_kept("injection.clients", self.clients, shares)
        if self.poison != "none":
            changed, faults = self.planted().apply(shares, classes, seed)
            return tuple(shares) if self.turns else changed, faults
        held = sorted({label for share in shares if share.client in self.clients for label in share.labels.tolist()})
        pairs = tuple((truth, label) for truth in range(classes) for label in held if truth != label)
        return tuple(shares), Faults(tuple(sorted(self.clients)), pairs)

    def attacking(self, shares: Sequence[Share], classes: int, seed: int) -> tuple[Share, ...]:
        """See `config.parts.Injection`."""
        if not self.turns:
            return ()
        poison, attackers = self.planted(), [share for share in shares if share.client in self.clients]
        if isinstance(poison, Backdoor):
            return tuple(poison.poisoned(share, seed, self.keep_clean) for share in attackers)
        changed, _ = poison.apply(shares, classes, seed)
        return tuple(share for share in changed if share.client in self.clients)

    def attacks(self, client: int, number: int) -> bool:
        """See `config.parts.Injection`."""
        if self.since is not None and number < self.since:
            return False
        return client in self.clients and (self.rounds is None or number in self.rounds)

    def until(self, rounds: int) -> NoInjection:
        """See `config.parts.Injection`."""
        if self.since is not None and self.since > rounds:
            return NoInjection()
        if self.rounds is None:
            return self
        left = [number for number in self._numbers(rounds) if number <= rounds]
        return replace(self, rounds=left) if left else NoInjection()

    def _numbers(self, rounds: int) -> list[int]:
        """The rounds of the attack by their numbers, in a federation of so many; [] where it is all."""
        return [number if number > 0 else rounds + 1 + number for number in self.rounds or ()]

    @property
    def attack_epochs(self) -> int | None:
        """See `config.parts.Injection`."""
        return self.epochs

    def acts(self) -> dict[str, object]:
        """See `config.parts.Injection`."""
        rounds = None if self.rounds is None else sorted(self.rounds)
        more = {"rounds": rounds, "since": self.since, "epochs": self.epochs}
        return {
            "scaled_update": sorted(self.clients),
            "factor": self.factor,
            **{name: value for name, value in more.items() if value is not None},
        }

    def returned(self, submission: Submission) -> None:
        """See `config.parts.Injection`: `W <- V + factor (W - V)`, in float64.

        Raises:
            TrainingFailed: the scaled model is no longer finite.
        """
        if not self.attacks(submission.client, submission.round):
            return
        factor = self.factor
        if factor == "auto":
            assert submission.attack_share
            factor = 1 / submission.attack_share
        weights = submission.weights
        with torch.no_grad():
            sent = {}  # all before any is written: a tied weight has several names
            for name, weight in weights.items():
                if name not in submission.buffers:
                    base = submission.start[name].cpu().double()
                    sent[name] = base + factor * (weight.cpu().double() - base)
            for name, scaled in sent.items():
                weights[name].copy_(scaled)
        if not all(torch.isfinite(weights[name]).all() for name in sent):
            raise TrainingFailed(
                f"client {submission.client}'s scaled update is no longer finite in round {submission.round}: "
                f"try injection.factor={factor / 10:g}"
            )
