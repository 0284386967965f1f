"""What Flower's workers do: a `ClientApp`, and the messages that it takes and gives.

    message    config   text of the configuration, and the federation's key
               task     round, position, epochs, attack_share; private: the folder on the machine of the clients for
                        what they keep for themselves, none of which is in a message
               weights  the global model; control, own: c and c_k, if there are any; merged: factors that former
                        rounds put into the base of adapted layers
    reply      done     loss; weights: the client's model; control: its new c_k
               or failed: why, in one line

A worker makes the site (data, model) once, from the configuration alone, so it needs no memory and no folder of the one
who sends; the key tells whether it has come to the same federation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from ...config.plain import from_text
from ...data.load import federated_data
from ...errors import RunError
from ..controls import Controls
from ..key import training_key
from ..site import Site, TrainedClient, TrainTask, make_site
from ..warm_start import initial_model

ALL_EPOCHS, NO_ATTACK = -1, -1.0  # a record has no null

app = ClientApp()


def preparation(text: str, key: str) -> RecordDict:
    """The content of a message that asks a worker to make ready for the federation with this configuration and key."""
    return RecordDict({"config": ConfigRecord({"text": text, "key": key})})


def with_task(
    content: RecordDict,
    task: TrainTask,
    weights: ArrayRecord,
    controls: Controls | None,
    merged: Mapping[str, Tensor] | None = None,
) -> RecordDict:
    """The content of a message that asks to train a client from these global weights."""
    epochs = ALL_EPOCHS if task.epochs is None else task.epochs
    numbers = ConfigRecord({"round": task.round, "position": task.position, "epochs": epochs})
    numbers["private"] = task.private or ""
    numbers["attack_share"] = NO_ATTACK if task.attack_share is None else task.attack_share
    records = {"task": numbers}
    variates = {} if controls is None else {"control": arrays(controls[0]), "own": arrays(controls[1])}
    base = {} if merged is None else {"merged": arrays(merged)}
    return RecordDict({**content, **records, "weights": weights, **variates, **base})


def not_begun(reply: Message) -> bool:
    """Whether the message reached no worker: the one it was meant for had died before, and was being started again."""
    return reply.has_error() and "The actor is restarting" in str(reply.error.reason)


def failure(reply: Message) -> str | None:
    """Why a client has returned nothing, in one line; None where it has returned something."""
    if not reply.has_error():
        return str(_fields(reply.content, "failed")["reason"]) if "failed" in reply.content else None
    reason = " ".join(str(reply.error.reason).split())
    return "its worker process died" if "ray.exceptions." in reason else reason[:300]


def trained(content: RecordDict) -> TrainedClient:
    """What a client has returned."""
    control = tensors(content, "control") if "control" in content else None
    return TrainedClient(_fields(content, "done")["loss"], tensors(content, "weights"), control)


def arrays(values: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors as Flower sends them."""
    return ArrayRecord({name: value.detach().cpu() for name, value in values.items()})


def tensors(content: RecordDict, record: str) -> dict[str, Tensor]:
    """Tensors as Flower has brought them in a record."""
    return {name: torch.from_numpy(array.numpy()) for name, array in content.array_records[record].items()}


def _fields(content: RecordDict, record: str) -> Mapping[str, Any]:
    return content.config_records[record]


@lru_cache(maxsize=1)
def site_of(text: str, key: str) -> Site:
    """The site of a federation in this process, made on first use.

    Raises:
        InputError: the configuration does not fit this machine.
        RunError: data, model or torch are not those that the federation was started with.
    """
    torch.set_num_threads(1)  # sums depend on it
    config = from_text(text)
    device = torch.device(config.device)
    data = federated_data(config)
    model = initial_model(config, data)
    if training_key(config, data, model, device)[0] != key:
        raise RunError(
            f"a worker with torch {torch.__version__} loads other data or another model than the run itself: "
            "all machines of engine.address need the same packages, files and configuration"
        )
    return make_site(config, data, model.to(device), {})


@app.query()
def ready(message: Message, context: Context) -> Message:
    """Make the site, so that no round waits for it."""
    return _answer(message, lambda site: RecordDict())


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client of the federation."""
    return _answer(message, lambda site: _train(site, message.content))


def _answer(message: Message, work: Callable[[Site], RecordDict]) -> Message:
    """The reply with what `work` returns, or with why it failed."""
    try:
        config = _fields(message.content, "config")
        content = work(site_of(config["text"], config["key"]))
    except Exception as error:
        # As the local engine says it: of these errors the text alone is meant for people.
        named = type(error).__module__.startswith("provfl_cli.")
        reason = str(error) if named else f"{type(error).__name__}: {error}"
        content = RecordDict({"failed": ConfigRecord({"reason": " ".join(reason.split())})})
    return Message(content, reply_to=message)


def _train(site: Site, content: RecordDict) -> RecordDict:
    task, weights = _fields(content, "task"), tensors(content, "weights")
    epochs = None if task["epochs"] == ALL_EPOCHS else task["epochs"]
    controls = (tensors(content, "control"), tensors(content, "own")) if "own" in content else None
    attack = None if task["attack_share"] == NO_ATTACK else task["attack_share"]
    work = TrainTask(
        task["round"], task["position"], "", 0, epochs, private=task["private"] or None, attack_share=attack
    )
    merged = tensors(content, "merged") if "merged" in content else None
    result = replace(site, published=weights).train(work, controls, merged)
    variate = {} if result.control is None else {"control": arrays(result.control)}
    return RecordDict({"done": ConfigRecord({"loss": result.loss}), "weights": arrays(result.weights), **variate})
