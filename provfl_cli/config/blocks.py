"""The blocks of a configuration, a dataclass each, and the rules between the fields of a block.

Nothing here imports torch: a wrong configuration is refused before anything heavy is loaded.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

from ..checks import (
    BELOW_ONE,
    BETWEEN_0_AND_1,
    CLIENT,
    CLIENTS,
    COUNT,
    FRACTION,
    POSITIVE_FRACTION,
    RATE,
    ROUNDS,
    Range,
    check_option,
    in_range,
    one_of,
    require_peft,
)
from ..errors import InputError
from .asynchronous import Asynchronous
from .network import check_size

SOURCES = ("embedded", "hub", "path", "medmnist")
INPUTS = ("image", "text", "dialogue")
OPTIMIZERS = ("sgd", "adam", "adamw")
SAMPLINGS = ("uniform", "weighted", "round_robin", "markov")
SHARES = ("all", "adapters", "head", "body", "norms")
PRECISIONS = ("float32", "bfloat16")  # float16 would need its loss scaled
MOST_CHANNELS = 4
MOST_TURNS = 100_000_000  # of clients in rounds: who takes part is planned for all rounds


@dataclass(frozen=True)
class Dataset:
    """Where examples come from, and how a picture or a text becomes a tensor."""

    name: str
    source: str
    path: str | None = None
    embedded: str | None = None  # dotted name of the function that loads the embedded form
    hub_id: str | None = None
    revision: str = "main"
    medmnist: str | None = None  # the name of one of the sets of the medmnist package
    input_column: str | list[str] = "image"  # a column; for text also a list of columns, joined
    label_column: str = "label"
    image_size: Annotated[int, Range(8, 1024)] = 28
    mean: Annotated[list[float], Range(-1000, 1000)] = field(default_factory=lambda: [0.5])
    std: Annotated[list[float], Range(0.001, 1000)] = field(default_factory=lambda: [0.5])
    max_test_examples: Annotated[int, COUNT] = 2048
    test_fraction: Annotated[float, BETWEEN_0_AND_1] = 0.2
    full_size: str | None = None
    input: str = "image"
    max_tokens: Annotated[int, Range(2, 4096)] = 64  # of a text; what is longer is cut
    vocabulary: Annotated[int, Range(300, 100_000)] = 2000  # of a tokenizer trained here
    public_examples: Annotated[int, COUNT] = 1000  # training texts that no client gets, for such a tokenizer
    replay: Annotated[float, BELOW_ONE] = 0.0  # share of public examples among those that a client trains on
    response_column: str | None = None  # of prompts and responses; None: `input_column` holds messages
    topics: str = "prompt"  # what a response is about tells its prompt | the response itself
    domains: dict[str, dict[str, Any]] | None = None  # each a dataset of the hub: `data/domains.py`
    per_domain: Annotated[int | None, COUNT] = None
    subset: str | None = None  # of a dataset of the hub that has several

    def __post_init__(self) -> None:
        one_of("dataset.source", self.source, SOURCES)
        one_of("dataset.input", self.input, INPUTS)
        one_of("dataset.topics", self.topics, ("prompt", "response"))
        in_range("dataset", self)
        columns = self.input_column if isinstance(self.input_column, list) else [self.input_column]
        if not columns or not all(isinstance(column, str) for column in columns):
            raise InputError(f"dataset.input_column={self.input_column}: a column, or a list such as [title,content]")
        if self.input == "image" and len(columns) > 1:
            raise InputError(f"dataset.input_column={self.input_column}: only texts are joined from several columns")
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError("dataset.mean and dataset.std: give as many values in the one as in the other")
        if len(self.mean) > MOST_CHANNELS:
            raise InputError(f"dataset.mean: {len(self.mean)} values, give one a channel: 1, or 3 for colours")
        if self.path is not None:
            object.__setattr__(self, "source", "path")
        if self.source == "path" and self.path is None:
            raise InputError("dataset.source=path needs a folder: dataset.path=DIR")
        if self.source == "medmnist" and self.medmnist is None:
            raise InputError(f"dataset={self.name} is none of the medmnist package: dataset.medmnist=pathmnist")
        if self.source == "embedded" and self.embedded is None:
            other = {"text": "languages", "dialogue": "phrases"}.get(self.input, "mnist")
            raise InputError(
                f"dataset={self.name} has no embedded form: dataset.source=hub, dataset.path=DIR, or dataset={other}"
            )
        if self.source != "hub" and self.domains is not None:
            object.__setattr__(self, "domains", None)
        for name, settings in (self.domains or {}).items():
            fields = ("hub_id", "revision", "subset", "input_column", "response_column")
            for key in settings:
                one_of(f"dataset.domains.{name}", str(key), fields)
            if "hub_id" not in settings:
                raise InputError(f"dataset.domains.{name}: needs a hub_id")
        if self.input != "dialogue" and (self.domains or self.response_column):
            raise InputError(f"dataset.domains, dataset.response_column: {self.input} has no responses: leave them out")
        if self.source == "hub" and self.hub_id is None and not self.domains:
            raise InputError(f"dataset={self.name} needs dataset.hub_id=OWNER/NAME or dataset.path=DIR")


@dataclass(frozen=True)
class Model:
    """Which function builds the module, and what it reads. `options` go to that function as they are.

    `checkpoint` is a hub id or a local folder that weights and tokenizer can come from; `pretrained` true: they must;
    auto: they do where they can be had; false: weights are drawn from the seed. `tokenizer` own: the checkpoint's;
    trained: one trained here; auto: own unless `pretrained` is false. `adapter` lora: adapters are trained
    instead of all weights.
    """

    target: str
    name: str
    input: str = "image"
    min_image_size: Annotated[int, Range(1, 1024)] = 1
    checkpoint: str | None = None
    revision: str | None = None
    pretrained: bool | Literal["auto"] = False
    tokenizer: str = "auto"
    adapter: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        in_range("model", self)
        for name, value in self.options.items():
            check_option(f"model.{name}", value)
        if isinstance(self.options.get("config"), dict):
            check_size(self.options["config"])
        one_of("model.input", self.input, INPUTS)
        one_of("model.tokenizer", self.tokenizer, ("auto", "own", "trained"))
        if self.adapter is not None:
            one_of("model.adapter", self.adapter, ("lora",))
            require_peft()
        if self.pretrained not in (True, False, "auto"):
            raise InputError(f"model.pretrained={self.pretrained}: auto, true or false")
        if self.input == "image" and self.pretrained == "auto":
            raise InputError(f"model.pretrained=auto: for model={self.name} it is true or false")
        if self.input != "image" and self.checkpoint is None and (self.pretrained is True or self.tokenizer == "own"):
            raise InputError(
                f"model={self.name} has no checkpoint to take weights or a tokenizer from: model.checkpoint=HUB_ID or "
                "a folder, or model.pretrained=false model.tokenizer=trained"
            )


@dataclass(frozen=True)
class Engine:
    """Where clients train. All but `name` and `workers` belong to the engine `flower`."""

    name: str
    workers: Annotated[int | None, Range(1, 1024)] = None
    address: str | None = None
    cpus_per_client: Annotated[int, Range(1, 1024)] = 1
    gpus_per_client: Annotated[float, Range(0, 64)] = 0.0
    on_failure: str = "retry"
    retries: Annotated[int, Range(0, 1000)] = 2
    timeout: Annotated[float, Range(0, 31_536_000, open_least=True)] = 3600.0  # a year at most

    def __post_init__(self) -> None:
        one_of("engine.name", self.name, ("local", "flower"))
        in_range("engine", self)
        if self.gpus_per_client > 1 and self.gpus_per_client % 1:
            raise InputError(f"engine.gpus_per_client={self.gpus_per_client}: above 1 only whole GPUs")
        one_of("engine.on_failure", self.on_failure, ("retry", "dropout"))
        if self.address is not None and self.workers is not None:
            raise InputError(
                f"engine.workers={self.workers}: in the cluster at engine.address={self.address} its own CPUs and "
                "engine.cpus_per_client decide how many clients train at the same time: leave engine.workers out"
            )


@dataclass(frozen=True)
class Federation(Asynchronous):
    """Clients, rounds, and what a client does in a round."""

    clients: Annotated[int, CLIENTS]
    clients_per_round: Annotated[int | None, CLIENTS]
    rounds: Annotated[int, ROUNDS]
    local_epochs: Annotated[int, Range(1, 100_000)]
    batch_size: Annotated[int, Range(1, 100_000)]
    optimizer: str
    learning_rate: Annotated[float, RATE]
    momentum: Annotated[float, BELOW_ONE]
    weight_decay: Annotated[float, Range(0, 1000)]
    warmup_steps: Annotated[int, Range(0, 10_000_000)] = 0
    final_rate: Annotated[float, POSITIVE_FRACTION] = 1.0
    rate_until: Annotated[int | None, ROUNDS] = None
    accumulate: Annotated[int, Range(1, 100_000)] = 1
    clip_norm: Annotated[float | None, RATE] = None
    precision: str = "float32"
    sampling: str = "uniform"
    go_offline: Annotated[float, FRACTION] = 0.2
    come_online: Annotated[float, POSITIVE_FRACTION] = 0.4
    dropout: Annotated[float, BELOW_ONE] = 0.0
    stragglers: Annotated[float, FRACTION] = 0.0
    straggler_work: str = "late"
    straggler_delay: Annotated[int, Range(1, 1000)] = 1
    joins: Annotated[dict[int, int] | None, ROUNDS] = None  # client: its first round
    leaves: Annotated[dict[int, int] | None, ROUNDS] = None  # client: its last round
    share: str | list[str] | None = None  # what of the model is shared; see `federation/sharing.py`
    head_epochs: Annotated[int, Range(0, 100_000)] = 0

    def __post_init__(self) -> None:
        in_range("federation", self)
        one_of("federation.optimizer", self.optimizer, OPTIMIZERS)
        one_of("federation.precision", self.precision, PRECISIONS)
        words: Any = [self.share] if isinstance(self.share, str) else self.share
        listed = isinstance(words, list | tuple) and bool(words)
        if words is not None and not (listed and all(isinstance(word, str) and word.strip("!") for word in words)):
            raise InputError(
                f"federation.share={self.share}: null, {', '.join(SHARES)}, or a list of such words and of patterns of "
                "names, each taken away again behind !, such as '[\"!norms\"]'"
            )
        if self.clients_per_round is not None and self.clients_per_round > self.clients:
            raise InputError(
                f"federation.clients_per_round={self.clients_per_round}: more than federation.clients={self.clients}"
            )
        a_round = self.clients_per_round or self.clients
        if a_round * self.rounds > MOST_TURNS:
            raise InputError(
                f"federation.rounds={self.rounds}: with {a_round} clients a round, clients would train "
                f"{a_round * self.rounds:,} times, at most {MOST_TURNS:,} fit into memory: fewer rounds, or a smaller "
                "federation.clients_per_round"
            )
        self._check_participation()

    def _check_participation(self) -> None:
        one_of("federation.sampling", self.sampling, SAMPLINGS)
        self.check_mode(self.clients)
        one_of("federation.straggler_work", self.straggler_work, ("late", "partial"))
        if self.stragglers and self.straggler_work == "partial" and self.local_epochs == 1:
            raise InputError(
                "federation.straggler_work=partial: of federation.local_epochs=1 nothing can be left out: "
                "federation.local_epochs=2 or more, or federation.straggler_work=late"
            )
        joins, leaves = self.joins or {}, self.leaves or {}
        for key, rounds in (("joins", joins), ("leaves", leaves)):
            for client, number in rounds.items():
                if not 0 <= client < self.clients:
                    raise InputError(f"federation.{key}: client {client}: clients are numbered 0 to {self.clients - 1}")
                if number < 1:
                    raise InputError(f"federation.{key}: client {client}: {number} is no round, they count from 1")
        for client, number in joins.items():
            if number > self.rounds:
                raise InputError(
                    f"federation.joins: client {client} would join in round {number}: "
                    f"the federation has only federation.rounds={self.rounds}"
                )
            if client in leaves and leaves[client] < number:
                raise InputError(
                    f"federation.leaves: client {client} would leave after round {leaves[client]}, "
                    f"before it joins in round {number}"
                )


@dataclass(frozen=True)
class Store:
    """Where trained rounds are kept, which, how much space they may take (GB), and how processes lock them."""

    cache: str
    keep: Annotated[int | Literal["all", "last"], ROUNDS]
    max_gb: Annotated[float, RATE]
    lock: str = "flock"

    def __post_init__(self) -> None:
        number = isinstance(self.keep, int) and not isinstance(self.keep, bool) and self.keep >= 1
        if self.keep not in ("all", "last") and not number:
            raise InputError(f"store.keep={self.keep}: all, last, or the number of last rounds to keep, 1 or more")
        in_range("store", self)
        one_of("store.lock", self.lock, ("flock", "lease"))


@dataclass(frozen=True)
class Evaluation:
    """Which predictions are traced, how often for the clock, and from how many examples on a client holds a label.

    `counterfactual`: what without a client means where methods are measured: `fusion` alone, or trained again.
    """

    inputs: str
    max_inputs: Annotated[int, COUNT]
    min_examples: Annotated[int, COUNT]
    repeats: Annotated[int, Range(1, 1000)] = 1
    client: Annotated[int | None, CLIENT] = None
    counterfactual: str = "fusion"
    diagnose: bool = True

    def __post_init__(self) -> None:
        one_of("evaluation.counterfactual", self.counterfactual, ("fusion", "retrain"))
        one_of("evaluation.inputs", self.inputs, ("correct", "wrong", "all", "triggered", "faults"))
        in_range("evaluation", self)


class Published(TypedDict):
    """Figures that others reported: the column `metric` and those of `Experiment.by`, one value each in a row."""

    source: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Experiment:
    """What a sweep is made to show: its tables and figure. No run depends on it.

    Attributes:
        name: of its files.
        shows: the question that it answers, one sentence.
        minutes: what the sweep takes on two cores, about.
        by: settings that name a row, as keys or config groups.
        methods: the columns, in their order; []: all that there are.
        metrics: one table each; the first two are drawn, and global_accuracy where it is named.
        rounds: of the traced rounds, last | each (one by one) | pooled (all together).
        x: what the figure has on its horizontal axis, one of `by` or `round`; null: a row for each method.
        facet: one of `by` that the figure has a panel for; null: one panel.
        published: figures that others reported: `source`, `columns` and `rows`. Columns of `by` say which row of ours
            stands beside, the others are shown under their own names.
        note: what a reader has to know, one sentence.
        tasks: sweeps that are put side by side, each a list: its name, then what it sets beside the experiment's own
            settings; []: the experiment is one sweep.
        page: of several tasks, what is written of them: benchmark (methods beside each other) | diagnosis (who is
            named).
    """

    name: str
    shows: str
    minutes: Annotated[float, Range(0, 1e6)]
    by: list[str]
    methods: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=lambda: ["localization_accuracy"])
    rounds: str = "last"
    x: str | None = None
    facet: str | None = None
    published: Published | None = None
    note: str = ""
    tasks: list[list[str]] = field(default_factory=list)
    page: str = "benchmark"

    def __post_init__(self) -> None:
        one_of("experiment.rounds", self.rounds, ("last", "each", "pooled"))
        one_of("experiment.page", self.page, ("benchmark", "diagnosis"))
        in_range("experiment", self)
        for key in ("by", "metrics"):
            if not getattr(self, key):
                raise InputError(f"experiment.{key}: name at least one")
        for key in ("x", "facet"):
            if (value := getattr(self, key)) is not None:
                one_of(f"experiment.{key}", value, (*self.by, "round"))
        names = [task[0] if task else "" for task in self.tasks]
        if not all(re.fullmatch(r"\w+", name) for name in names) or len(set(names)) < len(names):
            raise InputError("experiment.tasks: each begins with a name of its own, of letters, digits and _")
        self._check_published()

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in their order."""
        return tuple(name for name, *_ in self.tasks)

    def _check_published(self) -> None:
        if self.published is None:
            return
        published = self.published
        if not isinstance(published, dict) or set(published) != {"source", "columns", "rows"}:
            raise InputError("experiment.published: needs source, columns and rows")
        for row in published["rows"]:
            if len(row) != len(published["columns"]):
                raise InputError(f"experiment.published: {row} has not one value for each of {published['columns']}")
