"""NVFlare's own controllers at work in this process: their code and their events, with clients that are functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="the extra nvflare is not installed")

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.apis.utils.event import fire_event_to_components
from nvflare.app_common.abstract.model import ModelLearnable, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import (
    InTimeAccumulateWeightedAggregator,
)
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import (
    FullModelShareableGenerator,
)
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_common.workflows.scaffold import Scaffold
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather

Answer = Callable[[str, int, dict[str, Any]], Shareable]
"""What a client returns: of its name, NVFlare's number of the round, and the model that it was sent."""


class Memory(ModelPersistor):
    """A model that is kept in memory."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        super().__init__()
        self.arrays = arrays

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        return make_model_learnable(dict(self.arrays), {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        self.arrays = dict(model["weights"])


class Engine:
    """The part of a server's engine that controllers ask."""

    def __init__(self, folder: Path, names: Sequence[str], answer: Answer, components: dict[str, Any]) -> None:
        self.folder, self.answer, self.components = folder, answer, components
        self.clients = [Client(name, name) for name in names]
        self.events: list[str] = []

    def fire_event(self, event: str, fl_ctx: FLContext) -> None:
        self.events.append(event)
        fire_event_to_components(event, list(self.components.values()), fl_ctx)

    def get_component(self, name: str) -> Any:
        return self.components.get(name)

    def get_clients(self) -> list[Client]:
        return self.clients

    def get_workspace(self) -> Any:
        return SimpleNamespace(get_run_dir=lambda job: str(self.folder / job))

    def persist_components(self, fl_ctx: FLContext, completed: bool) -> None:
        pass


class Direct:
    """A controller whose tasks are done at once, by one client after the other."""

    def broadcast(self, task: Task, fl_ctx: FLContext, **_: Any) -> None:
        engine = fl_ctx.get_engine()
        for client in engine.clients:
            peer = FLContext()
            peer.set_prop(ReservedKey.IDENTITY_NAME, client.name, private=False)
            fl_ctx.set_peer_context(peer)
            sent = ClientTask(client, task)
            task.before_task_sent_cb(sent, fl_ctx)
            number = task.data.get_header(AppConstants.CURRENT_ROUND)
            arrays = {name: np.array(np.asarray(value)) for name, value in from_shareable(task.data).data.items()}
            result = engine.answer(client.name, number, arrays)
            result.set_peer_props({ReservedKey.IDENTITY_NAME: client.name})
            result.add_cookie(AppConstants.CONTRIBUTION_ROUND, number)
            sent.result = result
            task.result_received_cb(sent, fl_ctx)

    def broadcast_and_wait(self, task: Task, fl_ctx: FLContext, **settings: Any) -> None:
        self.broadcast(task, fl_ctx, **settings)

    def get_num_standing_tasks(self) -> int:
        return 0


class DirectFedAvg(Direct, FedAvg):
    """NVFlare's FedAvg."""


class DirectScaffold(Direct, Scaffold):
    """NVFlare's SCAFFOLD."""


class DirectGather(Direct, ScatterAndGather):
    """NVFlare's ScatterAndGather."""


def context(engine: Engine) -> FLContext:
    """What events carry at the start of a job."""
    made = FLContext()
    made.set_prop(ReservedKey.ENGINE, engine, private=True, sticky=False)
    made.set_prop(ReservedKey.RUN_NUM, "job", private=False, sticky=True)
    return made


def run(
    controller: Any,
    recorder: Any,
    folder: Path,
    answer: Answer,
    arrays: dict[str, Any],
    names: Sequence[str] = ("site-1", "site-2", "site-3"),
    kind: str = DataKind.WEIGHTS,
    **settings: Any,
) -> tuple[dict[str, Any], Engine]:
    """Run a workflow; returns the model that the server ends with, and its engine.

    `kind` is what InTimeAccumulateWeightedAggregator expects, `settings` its others.
    """
    persistor = Memory(arrays)
    components: dict[str, Any] = {"persistor": persistor}
    if isinstance(controller, ScatterAndGather):
        components["aggregator"] = InTimeAccumulateWeightedAggregator(expected_data_kind=kind, **settings)
        components["shareable_generator"] = FullModelShareableGenerator()
    if recorder is not None:
        components["provenance"] = recorder
    engine = Engine(folder, names, answer, components)
    fl_ctx = context(engine)
    engine.fire_event(EventType.START_RUN, fl_ctx)
    controller.initialize(fl_ctx)
    controller.control_flow(Signal(), fl_ctx)
    fl_ctx.set_peer_context(None)
    engine.fire_event(EventType.END_RUN, fl_ctx)
    return persistor.arrays, engine


def result(arrays: dict[str, Any], steps: Any = None, kind: str = DataKind.WEIGHTS) -> Shareable:
    """A client's result."""
    meta = {} if steps is None else {MetaKey.NUM_STEPS_CURRENT_ROUND: steps}
    return DXO(kind, data=arrays, meta=meta).to_shareable()


def failed() -> Shareable:
    """The reply of a client that could not do its task."""
    return make_reply(ReturnCode.EXECUTION_EXCEPTION)
