"""Low-rank adapters of text classifiers and language models, by PEFT: few weights to train beside a frozen network."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ..config.lora import ALL_LINEAR, Lora
from ..errors import InputError, did_you_mean
from ..imports import later
from .causal import ResponseModel

if TYPE_CHECKING:
    import torch
    from torch import nn
else:
    torch = later("torch")

peft: Any = later("peft")


def adapted(model: nn.Module, settings: Lora, name: str) -> nn.Module:
    """The model with adapters in its linear layers: they and the head are trained, the rest is frozen.

    A classifier's head is PEFT's `modules_to_save`: a copy that is trained, beside the one that the network came with.
    A language model's head is a layer as others and gets adapters too (PEFT's `all-linear` leaves it out, and then
    hardly anything is learnt), unless `targets` is a list without it. Weights are drawn from torch's random state: `A`
    as PEFT does, `B` is 0, so that the first model is the network's own.

    Args:
        model: a text classifier or a causal language model.
        settings: of the adapters.
        name: of the model, for errors.

    Raises:
        InputError: it is no text model of transformers, or has none of the layers that are named.
    """
    network: Any = getattr(model, "network", None)
    if not hasattr(network, "base_model_prefix"):
        raise InputError(f"model.adapter=lora: is for the text models of transformers, not model={name}: leave it out")
    speaks = isinstance(model, ResponseModel)
    head = [part for part in head_modules(network) if any(True for _ in getattr(network, part).parameters())]
    head = [] if speaks else head
    targets: str | list[str] = settings.targets
    if targets == ALL_LINEAR and speaks:
        targets = [called for called, module in network.named_modules() if _linear(module)]
    elif targets != ALL_LINEAR:
        targets = [targets] if isinstance(targets, str) else list(targets)
        layers = [called for called, module in network.named_modules() if _linear(module)]
        for wanted in targets:
            if not any(called == wanted or called.endswith(f".{wanted}") for called in layers):
                known = sorted({called.rpartition(".")[2] for called in layers if called not in head})
                raise InputError(
                    f"lora.targets: {wanted} is no linear layer of model={name}, {did_you_mean(wanted, known)}"
                )
    config = peft.LoraConfig(
        task_type="CAUSAL_LM" if speaks else "SEQ_CLS",
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=targets,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        lora_dropout=settings.dropout,
        modules_to_save=head or None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT finds out about transposed layers, it also puts right
        setattr(model, "network", peft.get_peft_model(network, config))  # noqa: B010
    if settings.freeze_a:
        for called, weight in model.named_parameters():
            if ".lora_A." in called:
                weight.requires_grad_(False)
    return model


def head_modules(network: Any) -> list[str]:
    """The parts of a network of transformers beside its body: what turns that one's output into logits."""
    return [called for called, _ in network.named_children() if called != network.base_model_prefix]


def _linear(module: nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
