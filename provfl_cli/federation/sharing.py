"""Which of a model's tensors clients share: the others are frozen, or private to each client.

What is shared is trained by everybody, sent, fused and stored. With `federation.share` `adapters` or `head` the rest is
frozen at its first values. Otherwise the rest is private: every client trains tensors of its own, which never leave it
(FedPer, FedRep, FedBN). What the model itself does not train, such as the network under adapters, is frozen always.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..config.schema import Federation
from ..errors import InputError, did_you_mean
from ..fusion.adapters import adapter_pairs
from ..fusion.conditions import fusion_name
from ..fusion.fuse import Fusion

FREEZING = ("adapters", "head")
WORDS = ("all", "adapters", "head", "body", "norms")
NOT = "!"


@dataclass(frozen=True)
class Sharing:
    """The names of a model's state dict, apart, each part in the order of the model.

    Attributes:
        shared: trained by everybody and fused.
        private: trained by every client for itself.
        frozen: as they were at the beginning, in every client.
        share: the setting that it follows from, with what stands for null put in.
        head_epochs: passes in which only the private tensors are trained, before those of the shared ones; 0: both
            are trained together.
    """

    shared: tuple[str, ...]
    private: tuple[str, ...]
    frozen: tuple[str, ...]
    share: str | tuple[str, ...]
    head_epochs: int = 0

    @property
    def whole(self) -> bool:
        """Whether all of the model is shared."""
        return not self.private and not self.frozen


def sharing_of(model: nn.Module, settings: Federation, adapter: str | None) -> Sharing:
    """The tensors of a model, told apart as `federation.share` says.

    Null stands for `adapters` where the model has an `adapter` (`model.adapter`), else for `all`.

    Raises:
        InputError: a pattern fits no tensor, nothing that is trained is shared, one of two names of the same tensor is
            shared and the other is not, or nothing is private though the private tensors should be trained first.
    """
    words = settings.share or ("adapters" if adapter else "all")
    share = words if isinstance(words, str) else tuple(words)
    tensors = model.state_dict(keep_vars=True)
    chosen = _chosen(model, [share] if isinstance(share, str) else list(share))
    trained = {name for name, tensor in tensors.items() if tensor.requires_grad}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if len(chosen) < len(tensors):
        # Nobody changes them: nothing is lost.
        chosen -= {name for name in chosen if name in parameters - trained or _of_frozen(model, name)}
    rest = [name for name in tensors if name not in chosen]
    freezing = share in FREEZING or (isinstance(share, tuple) and len(share) == 1 and share[0] in FREEZING)
    still = {name for name in rest if freezing or name in parameters - trained or _of_frozen(model, name)}
    sharing = Sharing(
        tuple(name for name in tensors if name in chosen),
        tuple(name for name in rest if name not in still),
        tuple(name for name in rest if name in still),
        share,
        settings.head_epochs,
    )
    key = f"federation.share={settings.share if isinstance(share, str) else list(share)}"
    if not trained & chosen:
        raise InputError(f"{key}: shares no tensor that is trained, of this model there are {', '.join(WORDS[2:])}")
    ids = {id(tensors[name]) for name in sharing.shared}
    for name in rest:
        if id(tensors[name]) in ids:
            raise InputError(f"{key}: {name} is tied to a tensor that is shared: share both or none")
    if settings.head_epochs and not sharing.private:
        raise InputError(
            f"federation.head_epochs={settings.head_epochs}: nothing is private to a client with {key}: "
            "federation.share=body, or federation.head_epochs=0"
        )
    return sharing


def check_products(fusion: Fusion, sharing: Sharing, model: nn.Module) -> None:
    """Raise InputError where the fusion sums products of adapters and clients do not share both factors of each."""
    if not fusion.sums_products:
        return
    named = f"fusion={fusion_name(fusion)}"
    pairs = adapter_pairs(model.state_dict())
    apart = sorted({name for pair in pairs.items() for name in pair} - set(sharing.shared))
    if not pairs or apart:
        which = f": {apart[0]} is not shared" if apart else ""
        raise InputError(f"{named}: needs adapters of which A and B are shared{which}: federation.share=adapters")
    if sharing.whole:
        raise InputError(f"{named}: moves the base of adapters itself, all is shared: federation.share=adapters")


def freeze(model: nn.Module, sharing: Sharing) -> None:
    """Let nothing train a model's frozen tensors."""
    tensors = model.state_dict(keep_vars=True)
    for name in sharing.frozen:
        tensors[name].requires_grad_(False)


@contextmanager
def only(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Within the context no other parameters of the model are trained than these."""
    others = [weight for name, weight in model.named_parameters() if weight.requires_grad and name not in names]
    for weight in others:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in others:
            weight.requires_grad_(True)


def stand_still(model: nn.Module, frozen: Collection[str]) -> None:
    """Let modules whose buffers are frozen neither renew these nor use others: as when the model is evaluated."""
    for name, module in model.named_modules():
        buffers = [f"{name}.{buffer}" if name else buffer for buffer, _ in module.named_buffers(recurse=False)]
        if any(buffer in frozen for buffer in buffers):
            module.eval()


def _chosen(model: nn.Module, words: list[str]) -> set[str]:
    """The names that the words stand for, in their order; after `!` they are taken away."""
    everything = set(model.state_dict())
    chosen = set(everything) if words[0].startswith(NOT) else set()
    for word in words:
        names = _meant(model, word.removeprefix(NOT), everything)
        chosen = chosen - names if word.startswith(NOT) else chosen | names
    return chosen


def _meant(model: nn.Module, word: str, everything: set[str]) -> set[str]:
    if word == "all":
        names = everything
    elif word == "adapters":
        names = adapter_names(everything)
    elif word == "head":
        names = head_names(model)
    elif word == "body":
        names = everything - head_names(model)
    elif word == "norms":
        names = norm_names(model)
    else:
        names = {name for name in everything if fnmatchcase(name, word)}
    if not names:
        known = [*WORDS, *sorted(everything)]
        raise InputError(f"federation.share: {word} fits no tensor of the model, {did_you_mean(word, known)}")
    return names


def adapter_names(names: Collection[str]) -> set[str]:
    """Of these names those of PEFT's adapters, and of the modules that are trained in full beside them."""
    return {
        name for name in names if any(part.startswith("lora_") or part == "modules_to_save" for part in name.split("."))
    }


def head_names(model: nn.Module) -> set[str]:
    """The tensors that turn features into logits.

    Of networks of transformers all that is not their body (`base_model_prefix`), of other models those of the module
    that was registered last, of those that have parameters.
    """
    tensors = model.state_dict(keep_vars=True)
    network: Any = getattr(model, "network", model)
    network = network.get_base_model() if hasattr(network, "get_base_model") else network  # without PEFT's wrapper
    body = getattr(network, getattr(network, "base_model_prefix", None) or "", None)
    if isinstance(body, nn.Module):
        inside = {id(tensor) for tensor in body.state_dict(keep_vars=True).values()}
        return {name for name, tensor in tensors.items() if id(tensor) not in inside}
    last = ""
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            last = name
    return {name for name in tensors if name.rpartition(".")[0] == last}


def norm_names(model: nn.Module) -> set[str]:
    """The tensors of normalisations, running statistics included."""
    norms = {name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    return {name for name in model.state_dict() if name.rpartition(".")[0] in norms}


def _of_frozen(model: nn.Module, name: str) -> bool:
    """Whether a tensor is a buffer of a module whose parameters nobody trains."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if name.rpartition(".")[2] not in dict(owner.named_buffers(recurse=False)):
        return False
    weights = list(owner.parameters(recurse=False))
    return bool(weights) and not any(weight.requires_grad for weight in weights)
