"""The model that a federation starts from; where its data have a public part, a base model that is made of that first.

A base model is made once and kept in the training cache, `bases/KEY.safetensors`, named by all that determines it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import schema
from ..config.warm_start import WarmStart
from ..data.federated import ClientData, FederatedData
from ..errors import RunError
from ..models.build import build
from ..processes import one_thread
from ..seeds import derived_seed, generator
from ..store.locks import LEASE, lock
from ..store.tensorfile import open_tensors, write_tensors
from .client import batches
from .key import digest
from .loss import batch_loss
from .optimizers import clip, make_step

BASE = 1  # counts up whenever the same inputs would make another base
RISE = 0.1  # of the steps, over which the learning rate rises
CLIP_NORM, WEIGHT_DECAY = 1.0, 0.01
Say = Callable[[str], None]


def initial_model(
    config: schema.Config, data: FederatedData, seed: int | None = None, say: Say | None = None
) -> nn.Module:
    """The first global model (round 0) of a federation; `seed`: of what is drawn, None: the run's own.

    Its base, where there is one (`has_base`), follows from the run's own seed. `say` is told before one is made.

    Raises:
        InputError: as of `models.build.build`.
        RunError: the training cache cannot be used.
    """
    base = base_weights(config, data, say) if has_base(config, data) else None
    seed = config.seed if seed is None else seed
    return build(config.model, data.form, len(data.label_names), seed, config.lora, base)


def has_base(config: schema.Config, data: FederatedData) -> bool:
    """Whether the federation starts from a base model that is made here."""
    published = getattr(data.form, "checkpoint", None) is not None
    return data.public is not None and config.warm_start.steps > 0 and not published


def base_weights(config: schema.Config, data: FederatedData, say: Say | None = None) -> Mapping[str, Tensor]:
    """The weights of the base model, by their names in a model without adapters: from the cache, else made now."""
    public = data.public
    assert public is not None
    plain = replace(config.model, adapter=None)
    model = build(plain, data.form, len(data.label_names), config.seed)
    file = Path(config.store.cache) / "bases" / f"{_key(config, public, model)}.safetensors"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with lock(file.with_suffix(".lock"), config.store.lock, LEASE):
            if not file.is_file():
                if say is not None:
                    said = f"{config.warm_start.steps} steps on {len(public.labels):,} public examples, no client's"
                    say(f"base model: made here first, {said}; it is kept for later runs")
                train_base(model, public, config.warm_start, config.federation, config.seed)
                temporary = file.with_suffix(".part")
                write_tensors(temporary, dict(model.state_dict()))
                temporary.replace(file)
            return {name: tensor.clone() for name, tensor in open_tensors(file).items()}
    except OSError as error:
        raise RunError(f"the training cache {file.parent} cannot be used ({error}): store.cache=DIR") from error


def train_base(
    model: nn.Module, public: ClientData, settings: WarmStart, federation: schema.Federation, seed: int
) -> None:
    """Train `model` in place on public examples, with AdamW and one cycle of the learning rate, on one thread.

    None of the settings of the `federation` matter.
    """
    weights = list(model.parameters())
    step = make_step(
        [weight.detach() for weight in weights],
        replace(federation, optimizer="adamw", weight_decay=WEIGHT_DECAY),
        partial(one_cycle, settings),
    )
    order, indices = generator(seed, "base order"), list[Tensor]()
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "base"))
        model.train()
        for _ in range(settings.steps):
            if not indices:
                indices = batches(len(public.labels), settings.batch_size, order)
            batch = indices.pop()
            batch_loss(model, public.inputs[batch], public.labels[batch]).backward()
            with torch.no_grad():
                reached = [position for position, weight in enumerate(weights) if weight.grad is not None]
                gradients = [gradient for weight in weights if (gradient := weight.grad) is not None]
                clip(gradients, CLIP_NORM)
                step(reached, gradients)
            for weight in weights:
                weight.grad = None


def one_cycle(settings: WarmStart, turn: int) -> float:
    """The learning rate of step number `turn`, from 1: a line up, then half a cosine down to 0."""
    up = max(round(RISE * settings.steps), 1)
    if turn <= up:
        return settings.learning_rate * turn / up
    return settings.learning_rate * (1 + math.cos(math.pi * (turn - up) / max(settings.steps - up, 1))) / 2


def _key(config: schema.Config, public: ClientData, model: nn.Module) -> str:
    """Of all that determines a base model, 20 hexadecimal digits."""
    determines = {
        "base": BASE,
        "torch": torch.__version__,
        "seed": config.seed,
        "settings": asdict(config.warm_start),
        "model": {"target": config.model.target, "options": config.model.options},
        "initial": digest(model.state_dict().items()),
        "public": digest((("inputs", public.inputs),)),
    }
    return hashlib.sha256(json.dumps(determines, sort_keys=True, default=str).encode()).hexdigest()[:20]
