"""Rounds of NVFlare's workflows as `ProvenanceRecorder` records them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("nvflare", reason="the extra nvflare is not installed")

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AlgorithmConstants, AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.job_config.api import FedJob

from provfl_cli.errors import InputError
from provfl_cli.nvflare import ProvenanceRecorder, record
from provfl_cli.nvflare import round as nvflare_round
from provfl_cli.store.recorded import is_recorded, read_recorded, why_nothing
from provfl_cli.store.rounds import Round, read_round, stored_rounds

from .nvflare_jobs import DirectFedAvg, DirectGather, DirectScaffold, Engine, context, failed, result, run

SHAPES = {"w": (5, 7), "kernel": (2, 3, 2), "b": (9,), "temperature": (), "norm.running_mean": (3,)}
STEPS = {"site-1": 10, "site-2": 35, "site-10": 5}
CONTROLLERS: dict[str, Callable[..., Any]] = {
    "FedAvg": lambda rounds=3, **settings: DirectFedAvg(num_clients=3, num_rounds=rounds, **settings),
    "ScatterAndGather": lambda rounds=3, **settings: DirectGather(
        min_clients=1,
        num_rounds=rounds,
        persistor_id="persistor",
        wait_time_after_min_received=0,
        memory_gc_rounds=0,
        **settings,
    ),
}
both = pytest.mark.parametrize("workflow", CONTROLLERS)


def initial() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: np.asarray(draw.normal(size=shape), dtype=np.float32) for name, shape in SHAPES.items()}


def trained(name: str, number: int, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """A client's work: the same for the same client, round and model."""
    draw = np.random.default_rng([int(name[5:]), number])
    return {
        key: np.asarray(value + draw.normal(size=np.shape(value)) * 0.1, dtype=np.float32)
        for key, value in arrays.items()
    }


def answer(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
    return result(trained(name, number, arrays), STEPS[name])


def recorded(workflow: str, folder: Path, answer: Any = answer, rounds: int = 3, **settings: Any) -> Any:
    """A recorder after a workflow, the model that the server ends with, and the events that were fired."""
    own = {key: settings.pop(key) for key in ("ignore_result_error", "aggregation_weights") if key in settings}
    inside: dict[str, Any] = {}
    if workflow == "ScatterAndGather" and "aggregation_weights" in own:
        inside["aggregation_weights"] = own.pop("aggregation_weights")
    if "kind" in settings:
        inside["kind"] = settings.pop("kind")
    recorder = ProvenanceRecorder(str(folder), **settings)
    arrays, engine = run(
        CONTROLLERS[workflow](rounds, **own), recorder, folder, answer, initial(), list(STEPS), **inside
    )
    return recorder.recording, arrays, engine.events


def average(stored: Round, weights: list[float]) -> dict[str, np.ndarray]:
    """The average of the clients' stored models, written out."""
    stack = stored.client_stack()
    return {name: np.average(stack[name].double().numpy(), axis=0, weights=weights) for name in stack}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "nvflare.jsonl").read_text().splitlines()]


def sent_as(form: str, kind: str) -> Callable[[str, int, dict[str, Any]], Shareable]:
    """A client that returns arrays of NumPy or PyTorch, the whole model or what it changed, as FLModel or DXO."""

    def returned(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        made = trained(name, number, arrays)
        if kind == DataKind.WEIGHT_DIFF:
            made = {key: np.asarray(value - arrays[key]) for key, value in made.items()}
        values = {key: torch.from_numpy(value) for key, value in made.items()} if form == "torch" else made
        if form == "numpy":
            return result(values, STEPS[name], kind)
        model = FLModel(
            params=values,
            params_type=ParamsType.DIFF if kind == DataKind.WEIGHT_DIFF else ParamsType.FULL,
            meta={"NUM_STEPS_CURRENT_ROUND": STEPS[name]},
        )
        return FLModelUtils.to_shareable(model)

    return returned


@both
@pytest.mark.parametrize("form", ["numpy", "torch"])
@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF])
def test_rounds_are_recorded_and_the_job_trains_as_without(workflow: str, form: str, kind: str, tmp_path: Path) -> None:
    client = sent_as(form, kind)
    arrays = {name: torch.from_numpy(value) for name, value in initial().items()} if form == "torch" else initial()
    plain, _ = run(CONTROLLERS[workflow](), None, tmp_path, client, arrays, list(STEPS), kind)
    recorder = ProvenanceRecorder(str(tmp_path / "a"), labels=["x", "y"], strict=True)
    made, _ = run(CONTROLLERS[workflow](), recorder, tmp_path, client, arrays, list(STEPS), kind)
    assert plain.keys() == made.keys() == SHAPES.keys()
    assert all(np.array_equal(np.asarray(plain[name]), np.asarray(made[name])) for name in SHAPES)
    assert recorder.recording.recorded == stored_rounds(tmp_path / "a" / "rounds") == [1, 2, 3]
    before = initial()
    for number in (1, 2, 3):
        stored = read_round(tmp_path / "a" / "rounds", number)
        assert stored.names == ("site-1", "site-2", "site-10")
        assert stored.clients == (0, 1, 2)
        assert stored.examples == (10, 35, 5)
        assert np.allclose(stored.decomposition.example_weights, np.array([10, 35, 5]) / 50)
        assert stored.buffers == {"norm.running_mean"}
        assert stored.source == "nvflare"
        for position, name in enumerate(STEPS):
            for key, value in trained(name, number - 1, before).items():
                assert np.allclose(stored.client_stack()[key][position].numpy(), value, atol=1e-6)
        assert all(np.array_equal(stored.previous()[key].numpy(), before[key]) for key in SHAPES)
        assert all(
            np.allclose(stored.weights()[key].numpy(), value, atol=1e-6)
            for key, value in average(stored, [10, 35, 5]).items()
        )
        before = {key: stored.weights()[key].numpy() for key in SHAPES}
    assert all(np.array_equal(before[key], np.asarray(made[key])) for key in SHAPES)
    assert [entry.round for entry in stored.history] == [1, 2, 3]
    federation = read_recorded(tmp_path / "a")
    assert federation is not None
    assert federation.source == "nvflare"
    assert federation.clients == {0: "site-1", 1: "site-2", 2: "site-10"}
    assert federation.examples == {0: 10, 1: 35, 2: 5}
    assert federation.labels == ("x", "y")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["nvflare.jsonl", "recorded.json", "rounds"]


@both
def test_weights_of_clients_count_beside_their_steps(workflow: str, tmp_path: Path) -> None:
    recording, _, _ = recorded(workflow, tmp_path, rounds=1, aggregation_weights={"site-1": 3.0, "site-10": 0.5})
    assert recording.missed == {}
    stored = read_round(tmp_path / "rounds", 1)
    expected = np.array([30, 35, 2.5])
    assert np.allclose(stored.decomposition.example_weights, expected / expected.sum())
    assert stored.examples == (10, 35, 5)
    assert np.allclose(stored.weights()["w"].numpy(), average(stored, list(expected))["w"], atol=1e-6)


@both
def test_what_is_refused_is_not_recorded(workflow: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def partly(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        if (name, number) == ("site-2", 1):
            return failed()
        if (name, number) == ("site-1", 2):  # FedAvg skips what is empty, the aggregator what is of another kind
            return result({}, 5) if workflow == "FedAvg" else result(arrays, 5, DataKind.WEIGHT_DIFF)
        return answer(name, number, arrays)

    recording, _, _ = recorded(workflow, tmp_path, partly, ignore_result_error=True)
    assert recording.recorded == [1, 2, 3]
    assert [read_round(tmp_path / "rounds", number).names for number in (1, 2, 3)] == [
        ("site-1", "site-2", "site-10"),
        ("site-1", "site-10"),
        ("site-2", "site-10"),
    ]
    assert read_round(tmp_path / "rounds", 2).metrics.failed == (1,)
    journal = lines(tmp_path)
    assert [line["fused"] for line in journal] == [[0, 1, 2], [0, 2], [1, 2]]
    assert journal[1]["asked"] == ["site-1", "site-10", "site-2"]
    assert journal[1]["dropped"].keys() == {"site-2"}
    assert journal[2]["dropped"] == {"site-1": "its result was not accepted"}
    assert "ProvFL: round 2 is recorded without site-2" in caplog.text


@both
def test_a_round_of_which_nothing_was_accepted_is_said(
    workflow: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recording, _, _ = recorded(workflow, tmp_path, lambda *_: failed(), rounds=1, ignore_result_error=True)
    assert recording.recorded == []
    assert recording.missed == {1: "no client's result was accepted"}
    assert "ProvFL: round 1 is NOT RECORDED: no client's result was accepted" in caplog.text
    assert "ProvFL: rounds NOT RECORDED: 1" in caplog.text
    assert is_recorded(tmp_path)
    assert why_nothing(tmp_path) == "round 1: no client's result was accepted"


@both
def test_clients_that_say_no_steps_count_the_same(
    workflow: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        return result(trained(name, number, arrays))

    recording, _, _ = recorded(workflow, tmp_path / "a", silent)
    assert recording.missed == {}
    stored = read_round(tmp_path / "a" / "rounds", 3)
    assert np.allclose(stored.decomposition.example_weights, 1 / 3)
    assert stored.examples == (0, 0, 0)
    assert np.allclose(stored.weights()["w"].numpy(), average(stored, [1, 1, 1])["w"], atol=1e-6)
    said = "ProvFL: no NUM_STEPS_CURRENT_ROUND from site-1, site-2, site-10: they count the same"
    assert sum(said in message for message in caplog.messages) == 1  # not every round

    def partly(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        return result(trained(name, number, arrays), None if name == "site-1" else STEPS[name])

    recording, _, _ = recorded(workflow, tmp_path / "b", partly, rounds=1)
    expected = np.array([1, 35, 5])
    stored = read_round(tmp_path / "b" / "rounds", 1)
    assert np.allclose(stored.decomposition.example_weights, expected / expected.sum())
    assert "no NUM_STEPS_CURRENT_ROUND from site-1: they count as 1 step each" in caplog.text


@pytest.mark.parametrize("steps", [0, -3, float("nan"), float("inf"), "many", True])
def test_fedavg_counts_odd_steps_as_one(steps: Any, tmp_path: Path) -> None:
    def odd(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        return result(trained(name, number, arrays), steps if name == "site-1" else STEPS[name])

    recording, _, _ = recorded("FedAvg", tmp_path, odd, rounds=1)
    assert recording.recorded == [1]
    stored = read_round(tmp_path / "rounds", 1)
    assert np.allclose(stored.decomposition.example_weights, np.array([1, 35, 5]) / 41)
    assert stored.examples == (0, 35, 5)


@pytest.mark.parametrize("steps", [-3, float("nan"), 1e30])
def test_steps_that_no_client_can_make_are_not_recorded_and_train_as_without_us(steps: float, tmp_path: Path) -> None:
    def odd(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        return result(trained(name, number, arrays), steps if name == "site-1" else STEPS[name])

    plain, _ = run(CONTROLLERS["ScatterAndGather"](1), None, tmp_path, odd, initial(), list(STEPS))
    recording, made, _ = recorded("ScatterAndGather", tmp_path / "a", odd, rounds=1)
    assert "site-1 counts by" in recording.missed[1]
    assert all(np.array_equal(plain[name], made[name], equal_nan=True) for name in SHAPES)


class Doubled(DirectFedAvg):
    """Makes of the average what is none."""

    def update_model(self, model: FLModel, aggr_result: FLModel) -> FLModel:
        if self.current_round == 1:
            aggr_result.params = {name: 2 * value for name, value in aggr_result.params.items()}
        return super().update_model(model, aggr_result)


def test_a_round_whose_shares_do_not_add_up_is_left_out_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = ProvenanceRecorder(str(tmp_path / "a"))
    made, engine = run(Doubled(num_clients=3, num_rounds=3), recorder, tmp_path, answer, initial(), list(STEPS))
    assert made.keys() == SHAPES.keys()
    assert recorder.recording.recorded == [1, 3]
    assert "ProvFL: round 2 is NOT RECORDED: what the server made of the clients differs from their average" in (
        caplog.text
    )
    assert [line["recorded"] for line in lines(tmp_path / "a")] == [True, False, True]
    assert stored_rounds(tmp_path / "a" / "rounds") == [1, 3]
    assert sorted(path.name for path in (tmp_path / "a" / "rounds").iterdir()) == ["0001", "0003"]
    third = read_round(tmp_path / "a" / "rounds", 3)
    assert (
        np.abs(third.previous()["w"].numpy()).max()
        > 1.2 * np.abs(read_round(tmp_path / "a" / "rounds", 1).weights()["w"].numpy()).max()
    )
    assert EventType.FATAL_SYSTEM_ERROR not in engine.events
    strict = ProvenanceRecorder(str(tmp_path / "b"), strict=True)
    _, engine = run(Doubled(num_clients=3, num_rounds=3), strict, tmp_path, answer, initial(), list(STEPS))
    assert EventType.FATAL_SYSTEM_ERROR in engine.events


def test_a_small_difference_is_seen(tmp_path: Path) -> None:
    class Nudged(DirectFedAvg):
        def update_model(self, model: FLModel, aggr_result: FLModel) -> FLModel:
            aggr_result.params["w"] = aggr_result.params["w"] * np.float32(1 + 1e-4)
            return super().update_model(model, aggr_result)

    recorder = ProvenanceRecorder(str(tmp_path / "a"))
    run(Nudged(num_clients=3, num_rounds=1), recorder, tmp_path, answer, initial(), list(STEPS))
    assert "(most in w)" in recorder.recording.missed[1]


class Events:
    """Events made by hand, as a workflow of somebody's own fires them."""

    def __init__(self, recorder: ProvenanceRecorder, folder: Path) -> None:
        self.recorder = recorder
        self.fl_ctx = context(Engine(folder, [], answer, {}))

    def fire(self, event: str, client: str | None = None, **values: Any) -> None:
        if client is not None:
            peer = FLContext()
            peer.set_prop(ReservedKey.IDENTITY_NAME, client, private=False)
            self.fl_ctx.set_peer_context(peer)
        for key, value in values.items():
            self.fl_ctx.set_prop(getattr(AppConstants, key), value, private=True, sticky=False)
        self.recorder.handle_event(event, self.fl_ctx)

    def send(self, client: str, arrays: dict[str, Any], number: int | None) -> None:
        task = result(arrays)
        if number is not None:
            task.set_header(AppConstants.CURRENT_ROUND, number)
        self.fire(AppEventType.BEFORE_TRAIN_TASK, client, TRAIN_SHAREABLE=task)

    def receive(self, client: str, content: Shareable, accepted: bool = True) -> None:
        self.fire(
            AppEventType.AFTER_CONTRIBUTION_ACCEPT, client, TRAINING_RESULT=content, AGGREGATION_ACCEPTED=accepted
        )


def mean(arrays: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([entry[name] for entry in arrays], axis=0, dtype=np.float32) for name in arrays[0]}


@pytest.mark.parametrize("counts", [True, False])
def test_a_workflow_that_says_nothing_of_its_new_model_is_seen_by_the_next_task(counts: bool, tmp_path: Path) -> None:
    events = Events(ProvenanceRecorder("records"), tmp_path)
    model = initial()
    for number in range(3):
        returned = []
        for client in ("a", "b"):
            events.send(client, model, number if counts else None)
        for index, client in enumerate(("b", "a")):
            returned.append(trained(f"site-{index}", number, model))
            events.receive(client, result(returned[-1], 4))
        events.fire(AppEventType.AFTER_AGGREGATION, AGGREGATION_RESULT=result({}))
        events.receive("a", result(returned[0], 4))  # too late: of no model
        model = mean(returned)
    events.fire(EventType.END_RUN)
    recording = events.recorder.recording
    assert recording is not None
    assert recording.folder == tmp_path / "job" / "records"
    assert recording.recorded == [1, 2]
    assert recording.missed == {3: "the workflow ended before the new global model was seen"}
    stored = read_round(recording.rounds, 2)
    assert stored.names == ("a", "b")
    assert np.array_equal(stored.client_stack()["w"][1].numpy(), trained("site-0", 1, {
        name: read_round(recording.rounds, 1).weights()[name].numpy() for name in SHAPES})["w"])  # fmt: skip


def test_tasks_that_only_evaluate_are_no_rounds(tmp_path: Path) -> None:
    events = Events(ProvenanceRecorder("records"), tmp_path)
    events.send("a", initial(), 0)
    events.receive("a", DXO(DataKind.METRICS, data={"accuracy": 0.5}).to_shareable())
    events.fire(EventType.END_RUN)
    assert events.recorder.recording is not None
    assert events.recorder.recording.missed == {}
    assert not (tmp_path / "job" / "records" / "nvflare.jsonl").exists()


def test_an_evaluation_after_the_training_is_no_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As CrossSiteEval does it: clients submit models of their own, which others are sent."""
    events = Events(ProvenanceRecorder("records"), tmp_path)
    events.send("a", initial(), 0)
    model = trained("site-1", 0, initial())
    events.receive("a", result(model))
    events.fire(AppEventType.AFTER_SHAREABLE_TO_LEARNABLE, GLOBAL_MODEL=make_model_learnable(model, {}))
    events.fire(AppEventType.TRAINING_STARTED)
    events.send("a", {}, None)
    events.fl_ctx.set_prop(FLContextKey.TASK_NAME, AppConstants.TASK_SUBMIT_MODEL, private=True, sticky=False)
    events.receive("a", result(initial()))
    events.send("a", initial(), None)
    events.fl_ctx.set_prop(FLContextKey.TASK_NAME, AppConstants.TASK_VALIDATION, private=True, sticky=False)
    events.receive("a", DXO(DataKind.METRICS, data={"accuracy": 0.5}).to_shareable())
    events.fire(EventType.END_RUN)
    assert events.recorder.recording is not None
    assert (events.recorder.recording.recorded, events.recorder.recording.missed) == ([1], {})
    assert "changed" not in caplog.text


def test_clients_that_start_from_nothing_are_not_recorded(tmp_path: Path) -> None:
    events = Events(ProvenanceRecorder("records"), tmp_path)
    events.send("a", {}, 0)
    events.receive("a", result(initial()))
    events.fire(EventType.END_RUN)
    assert events.recorder.recording is not None
    assert events.recorder.recording.missed == {
        1: "clients were sent no model, so that it is not known what they changed"
    }


def one_round(tmp_path: Path, content: Shareable, name: str = "a", **settings: Any) -> str:
    """Why a round of one client, whose result this is, is missed; empty where it is recorded."""
    events = Events(ProvenanceRecorder(str(tmp_path / name), **settings), tmp_path)
    events.send("site-1", initial(), 0)
    events.receive("site-1", content)
    events.fire(AppEventType.AFTER_AGGREGATION, AGGREGATION_RESULT=result({}))
    made = make_model_learnable(trained("site-1", 0, initial()), {})
    events.fire(AppEventType.AFTER_SHAREABLE_TO_LEARNABLE, GLOBAL_MODEL=made)
    events.fire(EventType.END_RUN)
    assert events.recorder.recording is not None
    return events.recorder.recording.missed.get(1, "")


def test_results_that_cannot_be_recorded_are_named(tmp_path: Path) -> None:
    good = trained("site-1", 0, initial())
    broken = {**good, "w": np.full_like(good["w"], np.nan)}
    cases: list[tuple[Shareable, str]] = [
        (result(broken), "site-1: w holds NaN (35 of 35 numbers are not finite)"),
        (result({**good, "w": np.array([object()])}), "site-1: w is of the type object: not numbers"),
        (result({**good, "w": "text"}), "site-1: w is of the type str: not numbers"),
        (result({"other": good["w"]}), "site-1 returned 'other', which is not among the global model's arrays"),
        (result({**good, "w": good["w"][:2]}), "clients return other arrays, or other shapes, than the global model's"),
        (result({"other": good["w"]}, kind=DataKind.WEIGHT_DIFF), "a difference of other, which does not fit"),
        (
            DXO(DataKind.COLLECTION, data={"model": DXO(DataKind.WEIGHTS, data=good)}).to_shareable(),
            "site-1 returned a result of kind COLLECTION: WEIGHTS and WEIGHT_DIFF are recorded",
        ),
        (Shareable(), "site-1: there is no model in it"),
        (result({}), "site-1 holds no arrays"),
    ]
    for number, (content, words) in enumerate(cases):
        assert words in one_round(tmp_path, content, f"folder {number}")
    assert one_round(tmp_path, result(good), "good") == ""


def test_parameters_are_those_that_are_named(tmp_path: Path) -> None:
    good = result(trained("site-1", 0, initial()))
    assert one_round(tmp_path, good, "a", parameters=["w", "b"]) == ""
    assert read_round(tmp_path / "a" / "rounds", 1).buffers == SHAPES.keys() - {"w", "b"}
    assert "parameters= names 'bias', which is not among" in one_round(tmp_path, good, "b", parameters=["w", "bias"])


def test_whole_numbers_that_the_server_averages_are_followed(tmp_path: Path) -> None:
    """Their average comes back as a fraction, and differences are taken from that."""

    def counting(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        made = trained(name, number, {"w": arrays["w"]})
        difference = {"w": made["w"] - arrays["w"], "count": np.asarray(int(name[5:]))}
        return result(difference, STEPS[name], DataKind.WEIGHT_DIFF)

    recorder = ProvenanceRecorder(str(tmp_path / "a"), strict=True)
    arrays = {"w": initial()["w"], "count": np.asarray(0)}
    run(CONTROLLERS["FedAvg"](), recorder, tmp_path, counting, arrays, list(STEPS))
    assert recorder.recording.recorded == [1, 2, 3]
    stored = read_round(tmp_path / "a" / "rounds", 2)
    assert stored.buffers == {"count"}
    assert stored.client_stack()["count"].dtype == torch.int64
    before = (10 * 1 + 35 * 2 + 5 * 10) / 50
    assert stored.client_stack()["count"].tolist() == [round(before + own) for own in (1, 2, 10)]


def test_arrays_that_no_client_changes_stay(tmp_path: Path) -> None:
    def part(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        made = trained(name, number, arrays)
        return result({"w": made["w"] - arrays["w"]}, STEPS[name], DataKind.WEIGHT_DIFF)

    recorder = ProvenanceRecorder(str(tmp_path / "a"), strict=True)
    run(CONTROLLERS["FedAvg"](), recorder, tmp_path, part, initial(), list(STEPS))
    stored = read_round(tmp_path / "a" / "rounds", 3)
    assert all(np.array_equal(stored.client_stack()["kernel"][k].numpy(), initial()["kernel"]) for k in range(3))


def test_a_part_of_the_model_is_recorded_where_clients_share_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def part(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        made = trained(name, number, arrays)
        return result({key: made[key] for key in ("w", "b")}, STEPS[name])

    recorder = ProvenanceRecorder(str(tmp_path / "a"), strict=True)
    run(CONTROLLERS["FedAvg"](), recorder, tmp_path, part, initial(), list(STEPS))
    assert recorder.recording.recorded == [1, 2, 3]
    assert all(
        read_round(tmp_path / "a" / "rounds", number).client_stack().keys() == {"w", "b"} for number in (1, 2, 3)
    )
    assert sum("clients do not share kernel" in message for message in caplog.messages) == 1

    def uneven(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        made = trained(name, number, arrays)
        return result({key: made[key] for key in made if (name, key) != ("site-2", "b")}, STEPS[name])

    recorder = ProvenanceRecorder(str(tmp_path / "b"))
    run(CONTROLLERS["FedAvg"](1), recorder, tmp_path, uneven, initial(), list(STEPS))
    assert recorder.recording.missed == {1: "site-2 returned other arrays than site-1"}


@both
@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF])
def test_half_precision_is_compared_with_the_rounding_that_it_has(workflow: str, kind: str, tmp_path: Path) -> None:
    def half(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        made = {key: np.asarray(value, dtype=np.float16) for key, value in trained(name, number, arrays).items()}
        if kind == DataKind.WEIGHT_DIFF:
            made = {key: np.asarray(value - arrays[key], dtype=np.float16) for key, value in made.items()}
        return result(made, STEPS[name], kind)

    arrays = {name: value.astype(np.float16) for name, value in initial().items()}
    recorder = ProvenanceRecorder(str(tmp_path / "a"), strict=True)
    run(CONTROLLERS[workflow](), recorder, tmp_path, half, arrays, list(STEPS), kind)
    assert recorder.recording.recorded == [1, 2, 3]


def test_scaffold_averages_models_as_fedavg_does(tmp_path: Path) -> None:
    """It has its clients' results all at once, and averages their control variates beside."""

    def varied(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        made = trained(name, number, arrays)
        change = {key: np.zeros_like(value) for key, value in made.items()}
        difference = {key: np.asarray(value - arrays[key]) for key, value in made.items()}
        meta = {AlgorithmConstants.SCAFFOLD_CTRL_DIFF: change, "NUM_STEPS_CURRENT_ROUND": STEPS[name]}
        return DXO(DataKind.WEIGHT_DIFF, data=difference, meta=meta).to_shareable()

    recorder = ProvenanceRecorder(str(tmp_path / "a"), strict=True)
    run(DirectScaffold(num_clients=3, num_rounds=3), recorder, tmp_path, varied, initial(), list(STEPS))
    assert recorder.recording.recorded == [1, 2, 3]
    stored = read_round(tmp_path / "a" / "rounds", 3)
    assert np.allclose(stored.decomposition.example_weights, np.array([10, 35, 5]) / 50)


def test_changes_between_rounds_are_said_and_recorded_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Changing(DirectFedAvg):
        def send_model(self, data: FLModel, **settings: Any) -> None:
            data.params = {name: value + self.current_round for name, value in data.params.items()}
            super().send_model(data=data, **settings)

    recorder = ProvenanceRecorder(str(tmp_path / "a"), strict=True)
    run(Changing(num_clients=3, num_rounds=2), recorder, tmp_path, answer, initial(), list(STEPS))
    assert "ProvFL: the global model was changed between round 1 and 2" in caplog.text
    first, second = (read_round(tmp_path / "a" / "rounds", number) for number in (1, 2))
    assert np.allclose(first.weights()["w"].numpy() + 1, second.previous()["w"].numpy())


def test_a_folder_that_holds_rounds_is_left_alone_and_the_job_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded("FedAvg", tmp_path / "a", rounds=2, keep=1)
    assert stored_rounds(tmp_path / "a" / "rounds") == [2]
    plain, _ = run(CONTROLLERS["FedAvg"](), None, tmp_path, answer, initial(), list(STEPS))
    recording, made, _ = recorded("FedAvg", tmp_path / "a")
    assert recording is None
    assert all(np.array_equal(plain[name], made[name]) for name in SHAPES)
    said = [message for message in caplog.messages if "this job is NOT RECORDED" in message]
    assert len(said) == 1
    assert "holds rounds up to 2: give another folder, or first_round=3 to continue it" in said[0]
    recording, _, _ = recorded("FedAvg", tmp_path / "a", rounds=2, first_round=3, strict=True)
    assert recording.recorded == [3, 4]
    assert [entry.round for entry in read_round(tmp_path / "a" / "rounds", 4).history] == [1, 2, 3, 4]


def test_a_second_job_records_beside_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner: list[Any] = []

    def client(name: str, number: int, arrays: dict[str, Any]) -> Shareable:
        if not inner:
            inner.append(None)
            inner.append(recorded("ScatterAndGather", tmp_path / "records")[0])
        return answer(name, number, arrays)

    first, _, _ = recorded("FedAvg", tmp_path / "records", client)
    assert first.recorded == inner[1].recorded == [1, 2, 3]
    assert (first.folder, inner[1].folder) == (tmp_path / "records", tmp_path / "records-2")
    assert f"another server records into {first.folder}: this one is recorded in {inner[1].folder}" in caplog.text


def test_workflows_of_one_job_are_counted_on(tmp_path: Path) -> None:
    recorder = ProvenanceRecorder(str(tmp_path / "a"), strict=True)
    events = Events(recorder, tmp_path)
    for _ in range(2):
        events.fire(AppEventType.TRAINING_STARTED)
        for number in range(2):
            events.send("site-1", initial(), number)
            events.receive("site-1", result(trained("site-1", number, initial())))
            events.fire(AppEventType.AFTER_AGGREGATION, AGGREGATION_RESULT=result({}))
            made = make_model_learnable(trained("site-1", number, initial()), {})
            events.fire(AppEventType.AFTER_SHAREABLE_TO_LEARNABLE, GLOBAL_MODEL=made)
    events.fire(EventType.END_RUN)
    assert recorder.recording is not None
    assert recorder.recording.recorded == [1, 2, 3, 4]


@both
@pytest.mark.parametrize("call", ["begin", "take_in", "finish"])
def test_an_error_of_ours_harms_no_training(
    workflow: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, _ = run(CONTROLLERS[workflow](), None, tmp_path, answer, initial(), list(STEPS))

    def broken(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"provfl_cli.nvflare.recorder.{call}", broken)
    recording, made, events = recorded(workflow, tmp_path / "a")
    assert all(np.array_equal(plain[name], made[name]) for name in SHAPES)
    assert recording.missed.keys() == {1, 2, 3}
    for number in (1, 2, 3):
        said = [message for message in caplog.messages if f"round {number} is NOT RECORDED" in message]
        assert len(said) == 1
        assert "No space left on device" in said[0]
    assert EventType.FATAL_SYSTEM_ERROR not in events


def test_a_journal_that_cannot_be_written_loses_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("provfl_cli.recording.session.note", full)
    recording, _, _ = recorded("FedAvg", tmp_path)
    assert (recording.recorded, recording.missed) == ([1, 2, 3], {})
    assert "cannot be written to: OSError: [Errno 28] No space left on device" in caplog.text


def test_nothing_is_read_of_other_events(tmp_path: Path) -> None:
    events = Events(ProvenanceRecorder("records"), tmp_path)
    for event in (EventType.START_RUN, AppEventType.ROUND_STARTED, AppEventType.AFTER_AGGREGATION, EventType.END_RUN):
        events.fire(event)
    assert events.recorder.recording is None
    assert not (tmp_path / "job").exists()


def test_wrong_settings_are_refused_where_the_job_is_defined() -> None:
    with pytest.raises(InputError, match="ProvenanceRecorder: keep=0: all, last, or the number"):
        ProvenanceRecorder("a", keep=0)
    with pytest.raises(InputError, match="labels: 'a' is there twice"):
        ProvenanceRecorder("a", labels=["a", "b", "a"])
    with pytest.raises(InputError, match="record: is a str: give a FedJob, or a recipe"):
        record("a job", "records")


def test_a_job_carries_the_settings_and_none_of_our_files(tmp_path: Path) -> None:
    job = FedJob(name="job")
    job.to_server(CONTROLLERS["FedAvg"]())
    record(job, "records", labels=("a", "b"), parameters={"w"}, keep="last")
    job.export_job(str(tmp_path))
    (written,) = tmp_path.rglob("config_fed_server.json")
    (component,) = [entry for entry in json.loads(written.read_text())["components"] if entry["id"] == "provenance"]
    assert component["path"] == "provfl_cli.nvflare.recorder.ProvenanceRecorder"
    assert component["args"] == {"folder": "records", "labels": ["a", "b"], "parameters": ["w"], "keep": "last"}
    assert ProvenanceRecorder(**component["args"]).labels == ["a", "b"]
    assert not [path for path in tmp_path.rglob("*.py") if "provfl_cli" in path.parts]


@pytest.mark.slow
def test_without_nvflare_the_extra_is_named() -> None:
    code = "import sys; sys.modules['nvflare'] = None; import provfl_cli.nvflare"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: provfl_cli.nvflare needs the package nvflare: pip install 'provfl[nvflare]'" in done.stderr


def test_the_arrivals_are_on_disk_until_the_round_is_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A federation of large models is not held in memory a second time."""
    seen: list[int] = []
    finish = nvflare_round.finish

    def watched(recording: Any, pending: Any, *others: Any) -> list[str]:
        seen.append(len(list(recording.arrivals.iterdir())))
        return finish(recording, pending, *others)

    monkeypatch.setattr("provfl_cli.nvflare.recorder.finish", watched)
    recorded("FedAvg", tmp_path, rounds=2)
    assert seen == [3, 3]
    assert not (tmp_path / ".arrivals").exists()
