"""`ProvenanceRecorder`: a component of an NVFlare server that records every round for `provfl trace`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReturnCode, Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from torch import Tensor

from ..errors import InputError, RunError, brief
from ..harmless import harmless
from ..processes import one_thread
from ..recording.rounds import NotRecorded, require_keep, require_labels
from ..recording.session import Recording
from .results import as_tensors, content_of, is_model
from .round import STEPS, Finished, PendingRound, begin, clear, finish, journal_line, take_in

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
NAME = "ProvenanceRecorder"
REFUSED = "its result was not accepted"
EVALUATIONS = (AppConstants.TASK_VALIDATION, AppConstants.TASK_SUBMIT_MODEL)  # tasks of CrossSiteEval
SENT = "the global model before the round"


class ProvenanceRecorder(FLComponent):  # type: ignore[misc]  # NVFlare has no types
    """Listens to the events of a training workflow, and records each of its rounds into a folder.

    The folder is what `provfl trace FOLDER --model module:callable --data module:callable` works on: rounds in ProvFL's
    store, `recorded.json` with the clients' names, and `nvflare.jsonl` with a line a round: who was asked, who is in
    it, who dropped out and why. It goes on the server of a job, beside a controller that averages what clients return,
    by their NUM_STEPS_CURRENT_ROUND: FedAvg, and ScatterAndGather with InTimeAccumulateWeightedAggregator. The average
    is compared with the global model that the server then has; where these differ by more than rounding the round is
    not recorded. NVFlare counts its rounds from 0; here they are counted from 1.

    Recording never stops the job unless `strict` is set: a round that cannot be recorded is left out, and the log says
    so and why. While it records nobody else writes into the folder: a second job with the same one records into one
    beside it, with -2, -3, … behind its name, which the log says.

    Args:
        folder: where to record; made where it is missing. Relative to the folder of the job's run on the server, from
            where it is downloaded with the job's results.
        parameters: which arrays are parameters: their names, or the model. None: all but whole numbers and running
            statistics (`running_mean`, `running_var`, `num_batches_tracked`).
        labels: the names of the classes, in the order of the model's outputs.
        keep: how many of the last rounds stay on disk: `all`, `last`, or a number. A round takes as much as all its
            clients' models.
        first_round: the number of the first round to record, where a folder is continued; None: NVFlare's plus 1.
        strict: end the job where a round cannot be recorded.
        aggregator_id: the id of the aggregator, whose weights of clients count, where the controller has one.

    Raises:
        InputError: `keep` or `labels` is wrong.
    """

    def __init__(
        self,
        folder: str,
        parameters: Collection[str] | nn.Module | None = None,
        labels: Sequence[str] = (),
        keep: str | int = "all",
        first_round: int | None = None,
        strict: bool = False,
        aggregator_id: str = AppConstants.DEFAULT_AGGREGATOR_ID,
    ) -> None:
        super().__init__()
        require_keep(NAME, keep)
        # NVFlare reads these back, to write the definition of the job, and knows lists.
        self.folder = str(folder)
        self.parameters = parameters if parameters is None or isinstance(parameters, torch.nn.Module) else [*parameters]
        self.labels = list(require_labels(NAME, labels))
        self.keep, self.first_round, self.strict = keep, first_round, strict
        self.aggregator_id = aggregator_id
        self.recording: Recording | None = None
        self._refused = False  # the folder: then nothing is recorded
        self._pending: PendingRound | None = None
        self._counted: int | None = None  # NVFlare's number of the round that has begun last
        self._offset: int | None = None
        self._latest: dict[str, Tensor] | None = None
        self._said: set[str] = set()
        self._lock = RLock()  # tasks are sent, results come, and the workflow works in threads of their own

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Record what an event tells; never raises."""
        handler = HANDLERS.get(event_type)
        if handler is None or self._refused:
            return
        with self._lock:
            try:
                handler(self, fl_ctx)
            except Exception as error:
                self._fail(fl_ctx, error)

    def _training_started(self, fl_ctx: FLContext) -> None:
        """A workflow starts: take the folder. One after another in the same job goes on counting."""
        self._open(fl_ctx)
        self._counted, self._offset = None, None

    def _task_sent(self, fl_ctx: FLContext) -> None:
        """A client is sent a model: the first one begins a round."""
        task = fl_ctx.get_prop(AppConstants.TRAIN_SHAREABLE)
        counted = task.get_header(AppConstants.CURRENT_ROUND) if isinstance(task, Shareable) else None
        if counted is None:
            counted = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
        if counted is None or counted != self._counted:
            self._begin(fl_ctx, task, counted)
        client = _client(fl_ctx)
        if self._pending is not None and client not in self._pending.asked:
            self._pending.asked.append(client)

    def _begin(self, fl_ctx: FLContext, task: Any, counted: int | None) -> None:
        """Begin a round, and end the one before it if that has not been seen to end."""
        if counted is None and self._pending is not None and not self._pending.aggregated:
            return  # a workflow that counts no rounds: it is still the same
        self._open(fl_ctx)
        recording = self._at()
        sent, wrong = None, ""
        try:
            arrays = content_of(task, SENT).data
            sent = as_tensors(arrays, SENT) if arrays else {}
        except NotRecorded as error:
            wrong = str(error)
        if self._pending is not None:
            self._end(fl_ctx, self._pending, sent or None)
        done = {*recording.recorded, *recording.missed}
        self._counted = len(done) if counted is None else int(counted)
        if self._offset is None:
            self._offset = (max(done) + 1 if done else self.first_round or self._counted + 1) - self._counted
        number = self._counted + self._offset
        if sent is None:
            self._miss(fl_ctx, number, wrong, None)
            return
        model = sent
        self._pending = self._guarded(fl_ctx, number, lambda: begin(recording, number, model), None)

    def _result_accepted(self, fl_ctx: FLContext) -> None:
        """A client's result has been accepted, or refused."""
        pending = self._pending
        if pending is None or pending.aggregated:
            return
        client = _client(fl_ctx)
        result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
        if not fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED):
            code = result.get_return_code() if isinstance(result, Shareable) else None
            pending.refused[client] = REFUSED if code in (None, ReturnCode.OK) else f"{REFUSED} ({code})"
            return
        content = content_of(result, client)
        if is_model(content) and fl_ctx.get_prop(FLContextKey.TASK_NAME) not in EVALUATIONS:
            self._guarded(fl_ctx, pending.number, lambda: take_in(self._at(), pending, client, content), pending)
        else:
            pending.evaluated = True

    def _aggregated(self, fl_ctx: FLContext) -> None:
        """The server has made its new model: what comes now is too late for it."""
        pending = self._pending
        if pending is None:
            return
        pending.aggregated = True
        result = fl_ctx.get_prop(AppConstants.AGGREGATION_RESULT)
        if isinstance(result, FLModel):
            pending.lenient = True
            pending.weights = _site_weights(result)
            pending.train_loss = _train_loss(result.metrics)
        else:
            aggregator = fl_ctx.get_engine().get_component(self.aggregator_id)
            factors = getattr(aggregator, "aggregation_weights", None) or {}
            inner = factors.get("", factors)  # InTimeAccumulateWeightedAggregator: of results that are no collection
            pending.factors = inner if isinstance(inner, Mapping) else {}

    def _model_updated(self, fl_ctx: FLContext) -> None:
        """The server has its new global model."""
        pending, model = self._pending, fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        if pending is None or not isinstance(model, Mapping):
            return
        arrays = model.get(ModelLearnableKey.WEIGHTS)
        made = as_tensors(arrays, "the new global model") if pending.arrivals else None
        self._end(fl_ctx, pending, made)

    def _run_ended(self, fl_ctx: FLContext) -> None:
        """The job ends: let go of the folder, and say what there is."""
        if self._pending is not None:
            self._end(fl_ctx, self._pending, None)
        if self.recording is None or not self.recording.is_open:
            return
        self.recording.close()
        self._say(fl_ctx, self.log_info, f"{len(self.recording.recorded)} rounds recorded in {self.recording.folder}")
        if self.recording.missed:
            missed = ", ".join(map(str, sorted(self.recording.missed)))
            self._say(fl_ctx, self.log_error, f"rounds NOT RECORDED: {missed} (the reasons stand above)")

    def _end(self, fl_ctx: FLContext, pending: PendingRound, made: dict[str, Tensor] | None) -> None:
        """End a round; `made` is the model that the server made of it, None where none was seen."""
        if pending.arrivals or not pending.evaluated:  # otherwise clients were asked to evaluate, not to train
            self._guarded(fl_ctx, pending.number, lambda: self._commit(fl_ctx, pending, made), pending)
        self._pending = None

    def _commit(self, fl_ctx: FLContext, pending: PendingRound, made: dict[str, Tensor] | None) -> None:
        recording = self._at()
        if made is None and pending.arrivals:
            raise RunError("the workflow ended before the new global model was seen")
        pending.chained = recording.recorded[-1:] == [pending.number - 1] and self._follows(fl_ctx, pending)
        with one_thread():  # blocks are small, and on a busy machine threads wait for each other
            finished = finish(recording, pending, made or {}, self.parameters)
        self._latest = made
        self._close_round(fl_ctx, pending, None)
        self._say_once(fl_ctx, finished, len(pending.arrivals))
        if pending.dropped:
            names = ", ".join(f"{name} ({why})" for name, why in pending.dropped.items())
            self._say(fl_ctx, self.log_warning, f"round {pending.number} is recorded without {names}")

    def _say_once(self, fl_ctx: FLContext, finished: Finished, clients: int) -> None:
        """What is the same in every round is said in the first."""
        if new := [name for name in finished.without_steps if name not in self._said]:
            same = len(finished.without_steps) == clients
            count = "they count the same" if same else "they count as 1 step each"
            self._say(fl_ctx, self.log_warning, f"no {STEPS} from {', '.join(new)}: {count}, as in NVFlare's average")
        if finished.not_shared and finished.not_shared[0] not in self._said:
            self._say(
                fl_ctx, self.log_warning,
                f"clients do not share {', '.join(finished.not_shared)}: a trace takes them from its --model",
            )  # fmt: skip
        self._said |= {*finished.without_steps, *finished.not_shared}

    def _follows(self, fl_ctx: FLContext, pending: PendingRound) -> bool:
        """Whether a round began with the model with which the one before ended; where it did not, say so."""
        latest, sent = self._latest, pending.previous
        if latest is None:
            return False
        if latest.keys() == sent.keys() and all(_same(latest[name], tensor) for name, tensor in sent.items()):
            return True
        self._say(
            fl_ctx, self.log_warning,
            f"the global model was changed between round {pending.number - 1} and {pending.number}; what changed it is "
            "in neither of their records",
        )  # fmt: skip
        return False

    def _at(self) -> Recording:
        assert self.recording is not None
        return self.recording

    def _open(self, fl_ctx: FLContext) -> None:
        """Take the folder, once; InputError where that cannot be."""
        if self.recording is not None and self.recording.is_open:
            return
        folder = Path(self.folder)
        if not folder.is_absolute():
            workspace = fl_ctx.get_engine().get_workspace()
            folder = Path(workspace.get_run_dir(fl_ctx.get_job_id())).resolve() / folder
        recording = Recording(
            NAME, "nvflare", folder, keep=self.keep, labels=self.labels, first_round=self.first_round, must=self.strict
        )  # fmt: skip
        recording.open()
        self.recording = recording
        if recording.folder != folder:
            self._say(
                fl_ctx, self.log_warning,
                f"another server records into {folder}: this one is recorded in {recording.folder}",
            )  # fmt: skip

    def _guarded(self, fl_ctx: FLContext, number: int, work: Callable[[], T], pending: PendingRound | None) -> T | None:
        """Do some of the recording of a round; where it fails say so, and let the job go on, unless `strict`."""
        try:
            return work()
        except Exception as error:
            self._miss(fl_ctx, number, _reason(error), pending)
            return None

    def _miss(self, fl_ctx: FLContext, number: int, reason: str, pending: PendingRound | None) -> None:
        """A round is not recorded: say so, in the journal too; nothing more of it is looked at."""
        recording = self._at()
        recording.missed[number] = reason
        self._say(fl_ctx, self.log_error, f"round {number} is NOT RECORDED: {reason}")
        if pending is not None:
            self._close_round(fl_ctx, pending, reason)
        if self._pending is pending:
            self._pending = None
        if self.strict:
            self.system_panic(harmless(f"ProvFL: round {number} cannot be recorded: {reason}"), fl_ctx)

    def _close_round(self, fl_ctx: FLContext, pending: PendingRound, reason: str | None) -> None:
        """Write a round's line of the journal, and delete what waited for it."""
        recording = self._at()
        try:
            recording.note(journal_line(recording, pending, reason))
            clear(recording, pending)
        except OSError as error:  # what is recorded is on disk all the same
            self._say(fl_ctx, self.log_error, f"the journal in {recording.folder} cannot be written to: {brief(error)}")

    def _fail(self, fl_ctx: FLContext, error: Exception) -> None:
        """An event could not be dealt with: of a round this misses it, before any it ends the recording."""
        reason = _reason(error)
        if self._pending is not None:
            self._miss(fl_ctx, self._pending.number, reason, self._pending)
            return
        self._refused = True
        self._say(fl_ctx, self.log_error, f"this job is NOT RECORDED: {reason}")
        if self.recording is not None:
            self.recording.close()
        if self.strict:
            self.system_panic(harmless(f"ProvFL: {reason}"), fl_ctx)

    def _say(self, fl_ctx: FLContext, log: Callable[..., None], text: str) -> None:
        log(fl_ctx, harmless(f"ProvFL: {text}"), fire_event=False)


HANDLERS: dict[str, Callable[[ProvenanceRecorder, FLContext], None]] = {
    AppEventType.TRAINING_STARTED: ProvenanceRecorder._training_started,
    AppEventType.BEFORE_TRAIN_TASK: ProvenanceRecorder._task_sent,
    AppEventType.AFTER_CONTRIBUTION_ACCEPT: ProvenanceRecorder._result_accepted,
    AppEventType.AFTER_AGGREGATION: ProvenanceRecorder._aggregated,
    AppEventType.AFTER_SHAREABLE_TO_LEARNABLE: ProvenanceRecorder._model_updated,
    EventType.END_RUN: ProvenanceRecorder._run_ended,
}


def _reason(error: Exception) -> str:
    """What an error says to a person."""
    return str(error) if isinstance(error, RunError | InputError) else brief(error)


def _client(fl_ctx: FLContext) -> str:
    """The name of the client that an event is about."""
    peer = fl_ctx.get_peer_context()
    name = peer.get_identity_name() if peer is not None else None
    if not name:
        result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
        name = result.get_peer_prop(ReservedKey.IDENTITY_NAME, None) if isinstance(result, Shareable) else None
    if not name:
        raise RunError("NVFlare does not say from which client a result is")
    return str(name)


def _site_weights(result: FLModel) -> dict[str, float] | None:
    """The weights that FedAvg says it gave its clients, steps and aggregation weights multiplied."""
    information = (result.meta or {}).get(AppConstants.METRICS_AGGREGATION_INFO)
    rows = information.get("site_weights") if isinstance(information, Mapping) else None
    return {str(row["name"]): float(row["weight"]) for row in rows} if rows else None


def _train_loss(metrics: Mapping[str, Any] | None) -> float:
    for name in ("train_loss", "train-loss", "loss"):
        if metrics and isinstance(value := metrics.get(name), int | float):
            return float(value)
    return math.nan


def _same(before: Tensor, now: Tensor) -> bool:
    """Whether two tensors hold the same numbers in the same type."""
    return before.dtype == now.dtype and before.shape == now.shape and torch.equal(before, now)
