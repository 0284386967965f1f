"""Dataclasses that a composed configuration must fit, and the rules between their fields.

Nothing here imports torch: a wrong configuration is refused before anything heavy is loaded. `Partition`, `Injection`
and `Fusion` settings have their dataclass beside the code that uses them, named by `_target_` in their config file;
those modules are light as well.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError
from .checks import above, at_least, between, one_of, require_flower, require_ray
from .tree import models_for
from .written import Taken

DEVICES = ("auto", "cpu", "cuda", "mps")
SOURCES = ("embedded", "hub", "path", "medmnist")
INPUTS = ("image", "text")
OPTIMIZERS = ("sgd", "adam", "adamw")
SAMPLINGS = ("uniform", "weighted", "round_robin", "markov")
PRECISIONS = ("float32", "bfloat16")  # float16 would need its loss scaled
TARGETS = ("logit", "centred", "margin")
NEURONS = ("all", "gradient", "random")


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
    input_column: Any = "image"  # a column; for text also a list of columns, joined
    label_column: str = "label"
    image_size: int = 28
    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [0.5])
    max_test_examples: int = 2048
    test_fraction: float = 0.2
    full_size: str | None = None
    input: str = "image"
    max_tokens: int = 64  # of a text; what is longer is cut
    vocabulary: int = 2000  # of a tokenizer trained here
    public_examples: int = 1000  # training texts that no client gets: such a tokenizer is trained on them

    def __post_init__(self) -> None:
        one_of("dataset.source", self.source, SOURCES)
        one_of("dataset.input", self.input, INPUTS)
        between("dataset.max_tokens", self.max_tokens, 2, 4096)
        between("dataset.vocabulary", self.vocabulary, 300, 100_000)
        at_least("dataset.public_examples", self.public_examples, 1)
        columns = self.input_column if isinstance(self.input_column, list) else [self.input_column]
        if not columns or not all(isinstance(column, str) for column in columns):
            raise InputError(f"dataset.input_column={self.input_column}: a column, or a list such as [title,content]")
        if self.input == "image" and len(columns) > 1:
            raise InputError(f"dataset.input_column={self.input_column}: only texts are joined from several columns")
        between("dataset.image_size", self.image_size, 8, 1024)
        at_least("dataset.max_test_examples", self.max_test_examples, 1)
        if not 0 < self.test_fraction < 1:
            raise InputError(f"dataset.test_fraction={self.test_fraction}: must lie between 0 and 1")
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError("dataset.mean and dataset.std: give as many values in the one as in the other")
        for value in self.std:
            above("dataset.std", value, 0)
        if self.path is not None:
            object.__setattr__(self, "source", "path")
        if self.source == "path" and self.path is None:
            raise InputError("dataset.source=path needs a folder: dataset.path=DIR")
        if self.source == "medmnist" and self.medmnist is None:
            raise InputError(f"dataset={self.name} is none of the medmnist package: dataset.medmnist=pathmnist")
        if self.source == "embedded" and self.embedded is None:
            other = "languages" if self.input == "text" else "mnist"
            raise InputError(
                f"dataset={self.name} has no embedded form: dataset.source=hub, dataset.path=DIR, or dataset={other}"
            )
        if self.source == "hub" and self.hub_id is None:
            raise InputError(f"dataset={self.name} needs dataset.hub_id=OWNER/NAME or dataset.path=DIR")


@dataclass(frozen=True)
class Model:
    """Which function builds the module, and what it reads. `options` go to that function as they are.

    `checkpoint` is a hub id or a local folder that weights and tokenizer can come from; `pretrained` true: they must;
    auto: they do where they can be had; false: weights are drawn from the seed. `tokenizer` own: the checkpoint's;
    trained: one trained here; auto: own unless `pretrained` is false.
    """

    target: str
    name: str
    input: str = "image"
    min_image_size: int = 1
    checkpoint: str | None = None
    revision: str | None = None
    pretrained: Any = False
    tokenizer: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("model.input", self.input, INPUTS)
        one_of("model.tokenizer", self.tokenizer, ("auto", "own", "trained"))
        if self.pretrained not in (True, False, "auto"):
            raise InputError(f"model.pretrained={self.pretrained}: auto, true or false")
        if self.input == "image" and self.pretrained == "auto":
            raise InputError(f"model.pretrained=auto: for model={self.name} it is true or false")
        if self.input == "text" and self.checkpoint is None and (self.pretrained is True or self.tokenizer == "own"):
            raise InputError(
                f"model={self.name} has no checkpoint to take weights or a tokenizer from: model.checkpoint=HUB_ID or "
                "a folder, or model.pretrained=false model.tokenizer=trained"
            )


@dataclass(frozen=True)
class Engine:
    """Where clients train. All but `name` and `workers` belong to the engine `flower`."""

    name: str
    workers: int | None = None
    address: str | None = None
    cpus_per_client: int = 1
    gpus_per_client: float = 0.0
    on_failure: str = "retry"
    retries: int = 2
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        one_of("engine.name", self.name, ("local", "flower"))
        at_least("engine.workers", self.workers, 1)
        at_least("engine.cpus_per_client", self.cpus_per_client, 1)
        at_least("engine.gpus_per_client", self.gpus_per_client, 0)
        if self.gpus_per_client > 1 and self.gpus_per_client % 1:
            raise InputError(f"engine.gpus_per_client={self.gpus_per_client}: above 1 only whole GPUs")
        one_of("engine.on_failure", self.on_failure, ("retry", "dropout"))
        at_least("engine.retries", self.retries, 0)
        above("engine.timeout", self.timeout, 0)
        if self.address is not None and self.workers is not None:
            raise InputError(
                f"engine.workers={self.workers}: in the cluster at engine.address={self.address} its own CPUs and "
                "engine.cpus_per_client decide how many clients train at the same time: leave engine.workers out"
            )


@dataclass(frozen=True)
class Federation:
    """Clients, rounds, and what a client does in a round."""

    clients: int
    clients_per_round: int | None
    rounds: int
    local_epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    warmup_steps: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    precision: str = "float32"
    sampling: str = "uniform"
    go_offline: float = 0.2
    come_online: float = 0.4
    dropout: float = 0.0
    stragglers: float = 0.0
    straggler_work: str = "late"
    straggler_delay: int = 1
    joins: dict[int, int] | None = None  # client: its first round
    leaves: dict[int, int] | None = None  # client: its last round

    def __post_init__(self) -> None:
        for key in ("clients", "rounds", "local_epochs", "batch_size"):
            at_least(f"federation.{key}", getattr(self, key), 1)
        at_least("federation.clients_per_round", self.clients_per_round, 1)
        one_of("federation.optimizer", self.optimizer, OPTIMIZERS)
        one_of("federation.precision", self.precision, PRECISIONS)
        at_least("federation.warmup_steps", self.warmup_steps, 0)
        at_least("federation.accumulate", self.accumulate, 1)
        if self.clip_norm is not None:
            above("federation.clip_norm", self.clip_norm, 0)
        above("federation.learning_rate", self.learning_rate, 0)
        if not 0 <= self.momentum < 1:
            raise InputError(f"federation.momentum={self.momentum}: must be 0 or more and below 1")
        at_least("federation.weight_decay", self.weight_decay, 0)
        if self.clients_per_round is not None and self.clients_per_round > self.clients:
            raise InputError(
                f"federation.clients_per_round={self.clients_per_round}: more than federation.clients={self.clients}"
            )
        self._check_participation()

    def _check_participation(self) -> None:
        one_of("federation.sampling", self.sampling, SAMPLINGS)
        between("federation.go_offline", self.go_offline, 0, 1)
        if not 0 < self.come_online <= 1:
            raise InputError(f"federation.come_online={self.come_online}: must be above 0 and at most 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"federation.dropout={self.dropout}: must be 0 or more and below 1")
        between("federation.stragglers", self.stragglers, 0, 1)
        one_of("federation.straggler_work", self.straggler_work, ("late", "partial"))
        at_least("federation.straggler_delay", self.straggler_delay, 1)
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
class Provenance:
    """One way of tracing: the settings of a preset (design section 2).

    `neurons`, `neuron_fraction` and `neuron_seed` are for the paper's ablation, see `attribution.provenance`.
    """

    name: str
    of: str
    client_weighting: str
    target: str
    threshold: float | None
    threshold_scale: str
    layer_decay: float
    layers: Any
    rounds: Any
    batch_size: int | None
    memory_mb: int
    scope: str = "round"
    lineage_decay: float = 1.0
    shards: int | None = None
    shard_on: str | None = None
    neurons: str = "all"
    neuron_fraction: float = 1.0
    neuron_seed: int = 0

    def __post_init__(self) -> None:
        one_of("provenance.of", self.of, ("updates", "weights", "gradients"))
        one_of("provenance.client_weighting", self.client_weighting, ("none", "fusion"))
        one_of("provenance.target", self.target, TARGETS)
        one_of("provenance.threshold_scale", self.threshold_scale, ("absolute", "minmax"))
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"provenance.layer_decay={self.layer_decay}: must be above 0 and at most 1")
        if self.threshold is not None and self.threshold != self.threshold:
            raise InputError("threshold=nan: give a number, or null for no threshold")
        if self.layers not in ("all", "last") and not (
            isinstance(self.layers, list) and self.layers and all(isinstance(x, str) for x in self.layers)
        ):
            raise InputError(
                f"provenance.layers={self.layers}: all, last, or a list of layer types such as [Linear,Conv]"
            )
        if self.rounds not in ("last", "all") and not (
            isinstance(self.rounds, list)
            and self.rounds
            and all(isinstance(x, int) and not isinstance(x, bool) and x >= 1 for x in self.rounds)
        ):
            raise InputError(f"provenance.rounds={self.rounds}: last, all, or a list of round numbers such as [1,5]")
        at_least("provenance.batch_size", self.batch_size, 1)
        at_least("provenance.memory_mb", self.memory_mb, 1)
        at_least("provenance.shards", self.shards, 1)
        if self.shards and self.shard_on is not None:
            require_ray()
        one_of("provenance.scope", self.scope, ("round", "lineage"))
        if self.of == "gradients" and self.scope == "lineage":
            raise InputError(
                "provenance.of=gradients: over all rounds (provenance.scope=lineage) only what clients sent is kept: "
                "provenance.of=updates, or provenance.scope=round"
            )
        if not 0 < self.lineage_decay <= 1:
            raise InputError(f"provenance.lineage_decay={self.lineage_decay}: must be above 0 and at most 1")
        one_of("provenance.neurons", self.neurons, NEURONS)
        if not 0 < self.neuron_fraction <= 1:
            raise InputError(f"provenance.neuron_fraction={self.neuron_fraction}: must be above 0 and at most 1")


@dataclass(frozen=True)
class Store:
    """Where trained rounds are kept, which, how much space they may take (GB), and how processes lock them."""

    cache: str
    keep: Any
    max_gb: float
    lock: str = "flock"

    def __post_init__(self) -> None:
        number = isinstance(self.keep, int) and not isinstance(self.keep, bool) and self.keep >= 1
        if self.keep not in ("all", "last") and not number:
            raise InputError(f"store.keep={self.keep}: all, last, or the number of last rounds to keep, 1 or more")
        above("store.max_gb", self.max_gb, 0)
        one_of("store.lock", self.lock, ("flock", "lease"))


@dataclass(frozen=True)
class Evaluation:
    """Which predictions are traced, how often for the clock, and from how many examples on a client holds a label."""

    inputs: str
    max_inputs: int
    min_examples: int
    repeats: int = 1

    def __post_init__(self) -> None:
        one_of("evaluation.inputs", self.inputs, ("correct", "wrong", "all", "triggered", "faults"))
        at_least("evaluation.max_inputs", self.max_inputs, 1)
        at_least("evaluation.min_examples", self.min_examples, 1)
        at_least("evaluation.repeats", self.repeats, 1)


@dataclass(frozen=True)
class Experiment:
    """What a sweep is made to show: its tables and figure. No run depends on it.

    Attributes:
        name: of its files.
        shows: the question that it answers, one sentence.
        minutes: what the sweep takes on two cores, about.
        by: settings that name a row, as keys or config groups.
        methods: the columns, in their order; []: all that there are.
        metrics: one table each; the first is drawn.
        rounds: last | each | pooled, see `reporting.joined`.
        x: what the figure has on its horizontal axis, one of `by` or `round`; null: bars, one group a row.
        facet: one of `by` that the figure has a panel for; null: one panel.
        published: figures that others reported: `source`, `columns` and `rows`. Columns of `by` say which row of ours
            stands beside, the others are shown under their own names.
        note: what a reader has to know, one sentence.
    """

    name: str
    shows: str
    minutes: float
    by: list[str]
    methods: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=lambda: ["localization_accuracy"])
    rounds: str = "last"
    x: str | None = None
    facet: str | None = None
    published: Any = None
    note: str = ""

    def __post_init__(self) -> None:
        one_of("experiment.rounds", self.rounds, ("last", "each", "pooled"))
        at_least("experiment.minutes", self.minutes, 0)
        for key in ("by", "metrics"):
            if not getattr(self, key):
                raise InputError(f"experiment.{key}: name at least one")
        for key in ("x", "facet"):
            if (value := getattr(self, key)) is not None:
                one_of(f"experiment.{key}", value, (*self.by, "round"))
        self._check_published()

    def _check_published(self) -> None:
        if self.published is None:
            return
        given = self.published
        if not isinstance(given, dict) or set(given) != {"source", "columns", "rows"}:
            raise InputError("experiment.published: needs source, columns and rows")
        for row in given["rows"]:
            if len(row) != len(given["columns"]):
                raise InputError(f"experiment.published: {row} has not one value for each of {given['columns']}")


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on, validated. Partition, injection, fusion, privacy are their own dataclasses.

    `attribution` are the methods that the run's own provenance is compared with (`attribution.method.Attribution`),
    `tracker` is where else it is logged (`reporting.trackers.tracker.Tracker`; None: nowhere). `environment` are the
    values that came from environment variables: they are written nowhere.
    """

    dataset: Dataset
    model: Model
    partition: Any
    injection: Any
    fusion: Any
    privacy: Any
    engine: Engine
    federation: Federation
    provenance: Provenance
    store: Store
    evaluation: Evaluation
    seed: int
    device: str
    threshold: float | None
    tracefl_beside: bool
    attribution: tuple[Any, ...] = ()
    tracker: Any = None
    experiment: Experiment | None = None
    environment: tuple[Taken, ...] = ()

    def __post_init__(self) -> None:
        between("seed", self.seed, 0, 2**31 - 1)
        one_of("device", self.device, DEVICES)
        if isinstance(self.provenance.rounds, list) and max(self.provenance.rounds) > self.federation.rounds:
            raise InputError(
                f"provenance.rounds={self.provenance.rounds}: "
                f"the federation has only federation.rounds={self.federation.rounds}"
            )
        if self.engine.name == "flower":
            require_flower()
        if self.model.input != self.dataset.input:
            raise InputError(
                f"model={self.model.name} reads {self.model.input}, dataset={self.dataset.name} is "
                f"{self.dataset.input}: models for {self.dataset.input}: {', '.join(models_for(self.dataset.input))}"
            )
        for part in (self.partition, self.injection, self.fusion):
            check = getattr(part, "check", None)
            if check is not None:
                check(self.federation)
        if self.evaluation.inputs == "faults":  # only here: everybody else is told what it stands for
            seen_in = getattr(self.injection, "seen_in", None)
            if seen_in is None:
                raise InputError(
                    "evaluation.inputs=faults: injection=none plants nothing to look for: choose an injection such as "
                    "injection=label_flip, or evaluation.inputs=wrong"
                )
            object.__setattr__(self, "evaluation", replace(self.evaluation, inputs=seen_in))
        fits = getattr(self.injection, "fits", None)
        if fits is not None:
            fits(self)
        check = getattr(self.privacy, "check", None)
        if check is not None:
            check(self.federation, self.fusion)
        names = [method.name for method in self.attribution]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"attribution: {name} is there twice: leave one out, or give it other settings")
        for method in self.attribution:
            method.check(self)
