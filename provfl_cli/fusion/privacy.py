"""Differential privacy of whole clients: what is clipped, where noise is added, and what that promises.

Central (McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", algorithm 1): the server
clips each client's update, averages without weights and adds Gaussian noise to the average, before its own optimizer,
which thereby only processes what is private already. Local (Kasiviswanathan et al. 2011, "What Can We Learn
Privately?"): each client clips its update and adds the noise itself, since the server is not trusted.

What is promised is about the models. Numbers of examples, numbers of steps and who took part when count as public, the
training losses that clients report are not protected. Noise is drawn from the run's seed, so that a run can be
repeated: the promise is against those who do not know the seed. Attacks on floating-point noise (Mironov 2012) are left
aside.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from ..checks import BETWEEN_0_AND_1, FRACTION, RATE, Range, in_range
from ..errors import InputError
from ..imports import later
from ..seeds import generator
from .accounting import Ledger, PrivacySpent, central, local, require_accountant
from .conditions import fusion_name
from .federation import Federation
from .fuse import Fusion, Noise
from .norm_clipping import NormClipping
from .plain import ByExamples
from .submission import Submission
from .updates import ReturnedModels, Updates, norms, unclipped

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = later("torch")

CLIP_NORM = "privacy:clip_norm"
COUNT_NOISE_SHARE = 20  # clients for each unit of noise on the count, as Andrew et al. 2021 recommend


class Privacy(Protocol):
    """What keeps clients private, beside being a frozen dataclass of its settings."""

    @property
    def private(self) -> bool:
        """Whether anything is clipped or noised."""

    def check(self, federation: Federation, fusion: Fusion) -> None:
        """Raise InputError where epsilon could not be computed or the settings do not go together."""

    def clipped(self, returned: ReturnedModels, state: Mapping[str, Tensor]) -> tuple[ReturnedModels, Updates]:
        """What clients returned, with the numbers of examples that fusion shall count, and their updates as clipped.

        `state` is the server's before the round.
        """

    def noise(self, returned: ReturnedModels, state: Mapping[str, Tensor], seed: int, number: int) -> Noise | None:
        """What is added to the combined update of each parameter in round `number`; None for nothing.

        The same draw for the same arguments, whatever the clients returned: a counterfactual fusion meets it again.
        """

    def next_state(self, updates: Updates, state: Mapping[str, Tensor], seed: int, number: int) -> dict[str, Tensor]:
        """What the server keeps for the next round, beside the fusion's own state; keys begin with `privacy:`."""

    def privatise(self, submission: Submission) -> None:
        """Change a client's trained weights in place before it returns them."""

    def spent(self, ledger: Ledger) -> PrivacySpent | None:
        """What all that gave away; None where nothing was to be kept private."""


@dataclass(frozen=True)
class NoPrivacy:
    """Clients return their models as they are."""

    private: ClassVar[bool] = False

    def check(self, federation: Federation, fusion: Fusion) -> None:
        """Nothing to check."""

    def clipped(self, returned: ReturnedModels, state: Mapping[str, Tensor]) -> tuple[ReturnedModels, Updates]:
        """As they are."""
        return returned, unclipped(returned)

    def noise(self, returned: ReturnedModels, state: Mapping[str, Tensor], seed: int, number: int) -> Noise | None:
        """None."""
        return None

    def next_state(self, updates: Updates, state: Mapping[str, Tensor], seed: int, number: int) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def privatise(self, submission: Submission) -> None:
        """Leave them."""

    def spent(self, ledger: Ledger) -> PrivacySpent | None:
        """Nothing was promised."""
        return None


@dataclass(frozen=True)
class CentralDP(NoPrivacy):
    """DP-FedAvg with fixed or adaptive clipping; the server sees each update and is trusted with it.

    Every update `D_k` counts as `c_k D_k`, `c_k = min(1, C / |D_k|)` over all parameters, and with weight `1 / n`. The
    average then changes by at most `C / n` when a client's part is replaced by zeros, `n` fixed, and Gaussian noise of
    deviation `z C / n` is added to every number of it.

    Other fusions than averages get the same clipping and noise, but their combined update may change by more: then no
    epsilon is given.

    Attributes:
        clip_norm: `C`; where it is adaptive, that of the first round.
        noise_multiplier: `z`; 0: no noise, and no promise.
        delta: at which epsilon is given; None: n^-1.1, n all clients' training examples (or the clients, if more).
        adaptive: `C` follows the norms of the updates (Andrew et al. 2021, "Differentially Private Learning with
            Adaptive Clipping", algorithm 1): `C <- C exp(-eta (b - gamma))`, `b` the noised share of updates not above
            `C`. Of the noise that `z` allows, the count takes its part and the updates get more:
            `z_update = (z^-2 - (2 sigma_b)^-2)^(-1/2)`, so that both together are as private as `z` alone.
        target_quantile: `gamma`.
        clip_learning_rate: `eta`.
        count_noise: `sigma_b`, deviation of the noise on the count, above `z / 2`. None: a twentieth of the clients, as
            in the paper, but not below `z`, which few clients could not pay.
    """

    private: ClassVar[bool] = True

    clip_norm: Annotated[float, RATE] = 1.0
    noise_multiplier: Annotated[float, Range(0, 1e6)] = 0.1
    delta: Annotated[float | None, BETWEEN_0_AND_1] = None
    adaptive: bool = False
    target_quantile: Annotated[float, FRACTION] = 0.5
    clip_learning_rate: Annotated[float, Range(0, 100, open_least=True)] = 0.2
    count_noise: Annotated[float | None, RATE] = None

    def __post_init__(self) -> None:
        in_range("privacy", self)
        if self.count_noise is not None and self.count_noise <= self.noise_multiplier / 2:
            raise InputError(
                f"privacy.count_noise={self.count_noise}: must be above {self.noise_multiplier / 2}, half of "
                "privacy.noise_multiplier"
            )

    def check(self, federation: Federation, fusion: Fusion) -> None:
        """The accountant must be there."""
        require_accountant()

    def clipped(self, returned: ReturnedModels, state: Mapping[str, Tensor]) -> tuple[ReturnedModels, Updates]:
        """Every client counts as one example, its update clipped to the norm in force."""
        equal = replace(returned, examples=[1] * len(returned.examples))
        factors = (self._norm(state) / norms(unclipped(equal))).clamp(max=1)  # an update of zeros: infinity, clamped
        return equal, Updates(equal, factors)

    def noise(self, returned: ReturnedModels, state: Mapping[str, Tensor], seed: int, number: int) -> Noise | None:
        """Normal numbers of deviation `z_update C / n`."""
        count = len(returned.examples)
        deviation = self.split(count)[0] * self._norm(state) / count
        if deviation == 0:
            return None

        def drawn(name: str, delta: Tensor) -> Tensor:
            source = generator(seed, "noise", number, name)
            return torch.randn(delta.shape, generator=source, dtype=torch.float64).mul_(deviation)

        return drawn

    def next_state(self, updates: Updates, state: Mapping[str, Tensor], seed: int, number: int) -> dict[str, Tensor]:
        """The next round's clip norm, where it is adaptive."""
        if not self.adaptive:
            return {}
        # An update is not above the norm just where clipping leaves it. The count is taken of b_k - 1/2, which one
        # client changes by half only, as the split of the noise supposes.
        within = (updates.factors == 1).double() - 0.5
        source = generator(seed, "count noise", number)
        noise = self.split(updates.count)[1] * torch.randn((), generator=source, dtype=torch.float64)
        share = float((within.sum() + noise) / updates.count + 0.5)
        moved = self._norm(state) * math.exp(-self.clip_learning_rate * (share - self.target_quantile))
        return {CLIP_NORM: torch.tensor(moved, dtype=torch.float64)}

    def spent(self, ledger: Ledger) -> PrivacySpent:
        """Epsilon where the fusion is an average of clipped updates with equal weights."""
        return central(self.noise_multiplier, self.delta, ledger, beyond_average(ledger.fusion))

    def split(self, count: int) -> tuple[float, float]:
        """Noise multiplier of the updates, and deviation of the noise on the count, for so many clients.

        Andrew et al. 2021, theorem 1; without adaptive clipping all of the noise is for the updates.
        """
        z = self.noise_multiplier
        if not self.adaptive:
            return z, 0.0
        if z == 0:
            return 0.0, self.count_noise or 0.0
        counted = max(count / COUNT_NOISE_SHARE, z) if self.count_noise is None else self.count_noise
        return (z**-2 - (2 * counted) ** -2) ** -0.5, counted

    def _norm(self, state: Mapping[str, Tensor]) -> float:
        return float(state[CLIP_NORM]) if self.adaptive and CLIP_NORM in state else self.clip_norm


@dataclass(frozen=True)
class LocalDP(NoPrivacy):
    """Every client clips its own update to `clip_norm` and adds noise of deviation `noise_multiplier * clip_norm`.

    The server never sees what was noise: in every contribution it is the client's own. Fusion counts examples as ever.

    Attributes:
        clip_norm: over all parameters.
        noise_multiplier: 0: no noise, and no promise.
        delta: at which epsilon is given; None: n^-1.1, n all clients' training examples (or the clients, if more).
    """

    private: ClassVar[bool] = True

    clip_norm: Annotated[float, RATE] = 1.0
    noise_multiplier: Annotated[float, Range(0, 1e6)] = 0.01
    delta: Annotated[float | None, BETWEEN_0_AND_1] = None

    def __post_init__(self) -> None:
        in_range("privacy", self)

    def check(self, federation: Federation, fusion: Fusion) -> None:
        """The accountant must be there."""
        require_accountant()

    def privatise(self, submission: Submission) -> None:
        """`W <- V + min(1, C / |W - V|) (W - V) + z C N(0, 1)`, in float64 on the CPU whatever the device."""
        names = [name for name in submission.weights if name not in submission.buffers]
        with torch.no_grad():
            squares = sum(float(_moved(submission, name).square().sum()) for name in names)
            factor = min(1.0, self.clip_norm / squares**0.5) if squares else 1.0
            for name in names:
                sent = submission.start[name].cpu().double() + factor * _moved(submission, name)
                if self.noise_multiplier:
                    source = generator(submission.seed, "local noise", submission.round, submission.client, name)
                    drawn = torch.randn(sent.shape, generator=source, dtype=torch.float64)
                    sent.add_(drawn, alpha=self.noise_multiplier * self.clip_norm)
                submission.weights[name].copy_(sent)

    def spent(self, ledger: Ledger) -> PrivacySpent:
        """Epsilon of a client's messages, under any fusion that asks for nothing beside them."""
        return local(self.noise_multiplier, self.delta, ledger, beyond_updates(ledger.fusion))


@dataclass(frozen=True)
class SecureAggregation(NoPrivacy):
    """Refused: the server learns the sum of the clients' models and nothing of any one of them."""

    private: ClassVar[bool] = True

    def check(self, federation: Federation, fusion: Fusion) -> None:
        """Raise InputError, always: provenance splits the fused model into the clients' parts."""
        raise InputError(
            "privacy=secure_aggregation: the server would see only the sum of the clients' updates, and could not tell "
            "whose a prediction is: privacy=central_dp and privacy=local_dp can be traced, or privacy=none"
        )


def beyond_average(fusion: Fusion) -> str | None:
    """Why a client can change this fusion's combined update by more than its own clipped one over `n`; None: it cannot.

    It cannot where the combined update is `sum_k p_k E_k` with `p_k` from the numbers of examples alone, which are all
    one here: FedAvg, FedProx, and the server optimizers on top of that average. Nor where each `E_k` is first brought
    into a ball (norm clipping): that moves no two points apart. Coordinate-wise and distance-based choices depend on
    the other clients, and FedNova scales by steps.
    """
    more = beyond_updates(fusion)
    if more is not None or getattr(type(fusion), "shares", None) in (ByExamples.shares, NormClipping.shares):
        return more
    return f"no guarantee is known for fusion={fusion_name(fusion)}, which is no plain average"


def beyond_updates(fusion: Fusion) -> str | None:
    """Why the model depends on clients' data in other ways than by their updates; None: it does not."""
    if fusion.client_state is not None:
        return f"no guarantee is known for fusion={fusion_name(fusion)}, whose control variates are sent without noise"
    return None


def check_model(privacy: Privacy, model: nn.Module, shared: Collection[str] | None = None) -> None:
    """Raise InputError for a model that noise on its parameters would not keep private, or not leave consistent.

    `shared`: the names of the tensors that clients send; None: all.
    """
    if not privacy.private:
        return
    sent = model.state_dict(keep_vars=True)
    if shared is not None:
        sent = {name: sent[name] for name in shared}
    parameters = {id(parameter) for parameter in model.parameters()}
    names = [name for name, tensor in sent.items() if id(tensor) in parameters]
    kept = [name for name in sent if name not in set(names)]
    if kept:
        raise InputError(
            f"privacy: {type(model).__name__} sends statistics of clients' data without noise ({kept[0]}, {len(kept)} "
            "such buffers): model.norm=group for model=resnet18 or densenet121, or a model without them, model=lenet"
        )
    if len(names) > len({id(sent[name]) for name in names}):
        raise InputError(
            f"privacy: {type(model).__name__} has one weight under several names, each of which would get noise of its "
            "own: choose a model without tied weights, such as model=lenet or model=gpt_mini"
        )


def _moved(submission: Submission, name: str) -> Tensor:
    return submission.weights[name].cpu().double() - submission.start[name].cpu().double()
