"""Settings of a trace, and the presets that have names. Plain values: nothing here needs a configuration, or torch."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from ..checks import POSITIVE_FRACTION, ROUNDS, SEEDS, Range, in_range, one_of, require_ray
from ..errors import InputError, did_you_mean

CLASS_TARGETS = ("logit", "centred", "margin")
TARGETS = (*CLASS_TARGETS, "output", "mse")
SCOPES = ("auto", "round", "lineage")
TOKEN_TARGETS = (*CLASS_TARGETS, "log_probability")  # of each token of a response (`responses.py`)
NEURONS = ("all", "gradient", "random")
PAPER_LAYERS = ("Linear", "Conv", "Conv1D", "LayerNorm")


@dataclass(frozen=True)
class Provenance:
    """One way of tracing (design section 2); `preset` makes those that have names.

        >>> from dataclasses import replace
        >>> replace(preset("faithful"), target="logit").target
        'logit'

    Attributes:
        name: of the preset, or any other.
        of: what is contracted: `updates` (`W_k - V_k`, what a client changed), `weights` (`W_k`), or `gradients`
            (updates without what control variates added).
        client_weighting: `fusion`: with the share `p_k` that fusion gave the client; `none`: without.
        target: of classes `logit`, `centred` (minus the mean of the others) or `margin` (minus their logsumexp); of
            models without classes `output`, one of the numbers that they put out, or `mse`, their mean squared error.
        threshold: above which output a neuron is active; None: all are.
        threshold_scale: `absolute`, or `minmax`: a layer's outputs for one input scaled to 0..1 first.
        layer_decay: weight of a layer: this to the power of its distance from the last.
        layers: `all`, `last`, or a list of layer types or of modules' names, such as `layers.2.mlp`.
        rounds: which rounds a run traces: `last`, `all` or a list of numbers; a trace of one round does not ask.
        batch_size: inputs traced together; None: as many as `memory_mb` allows, 64 at most (on a GPU 512).
        memory_mb: MB for the activations of the inputs traced together; on a GPU also for blocks of clients.
            None: 2048, and of a GPU what it has free.
        scope: `round`: this round's clients; `lineage`: also all that ever took part, over all rounds; `auto`: a run
            decides (`run.scope`).
        lineage_decay: of lineage: what is kept of a contribution from round to round.
        shards: batches traced at the same time, one thread each; None: one after the other, with all threads.
        shard_on: None: processes of this machine; else a Ray cluster.
        neurons, neuron_fraction, neuron_seed: of the paper's ablation, see `attribution.provenance`.
        adapters: `factors`: the A and B of LoRA layers are traced as any weight; `product`: in terms of `B A`, in which
            they act (`products.py`).

    Raises:
        InputError: a setting is out of its range, or is none of those accepted.
    """

    name: str
    of: str
    client_weighting: str
    target: str
    threshold: Annotated[float | None, Range(-1e6, 1e6)]
    threshold_scale: str
    layer_decay: Annotated[float, POSITIVE_FRACTION]
    layers: Any
    rounds: Annotated[Any, ROUNDS]
    batch_size: Annotated[int | None, Range(1, 100_000)]
    memory_mb: Annotated[int | None, Range(1, 10_000_000)]
    scope: str = "round"
    lineage_decay: Annotated[float, POSITIVE_FRACTION] = 1.0
    shards: Annotated[int | None, Range(1, 1024)] = None
    shard_on: str | None = None
    neurons: str = "all"
    neuron_fraction: Annotated[float, POSITIVE_FRACTION] = 1.0
    neuron_seed: Annotated[int, SEEDS] = 0
    adapters: str = "factors"

    def __post_init__(self) -> None:
        one_of("provenance.of", self.of, ("updates", "weights", "gradients"))
        one_of("provenance.client_weighting", self.client_weighting, ("none", "fusion"))
        one_of("provenance.target", self.target, TARGETS)
        one_of("provenance.threshold_scale", self.threshold_scale, ("absolute", "minmax"))
        in_range("provenance", self)
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
        if self.shards and self.shard_on is not None:
            require_ray()
        one_of("provenance.scope", self.scope, SCOPES)
        if self.of == "gradients" and self.scope == "lineage":
            raise InputError(
                "provenance.of=gradients: over all rounds (provenance.scope=lineage) only what clients sent is kept: "
                "provenance.of=updates, or provenance.scope=round"
            )
        one_of("provenance.neurons", self.neurons, NEURONS)
        one_of("provenance.adapters", self.adapters, ("factors", "product"))
        if self.adapters == "product" and self.scope == "lineage":
            raise InputError(
                "provenance.adapters=product: over all rounds (provenance.scope=lineage) only sums of A and of B are "
                "kept, not of their products: provenance.adapters=factors, or provenance.scope=round"
            )


_PROVFL = Provenance(
    name="provfl",
    of="updates",
    client_weighting="none",
    target="centred",
    threshold=0.0,
    threshold_scale="absolute",
    layer_decay=0.9,
    layers="all",
    rounds="last",
    batch_size=None,
    memory_mb=None,
)
# A run's are those of conf/provenance, which a test keeps the same.
PRESETS: dict[str, dict[str, Any]] = {
    "provfl": {},
    "gradients": {"of": "gradients"},
    "faithful": {"client_weighting": "fusion", "target": "margin", "threshold": None, "layer_decay": 1.0},
    "tracefl": {"of": "weights", "target": "logit", "threshold": None, "layers": PAPER_LAYERS},
    "equations": {"of": "weights", "client_weighting": "fusion", "target": "logit", "layers": PAPER_LAYERS},
}


def preset(name: str) -> Provenance:
    """The settings that have a name: `provfl` (the default), `tracefl`, `equations`, `faithful`, `gradients`.

        >>> preset("faithful").target
        'margin'

    Raises:
        InputError: there are none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"provenance={name}: {did_you_mean(name, PRESETS)}")
    changed = PRESETS[name]
    if "layers" in changed:  # a list of its own each time, as a configuration has it
        changed = {**changed, "layers": list(changed["layers"])}
    return replace(_PROVFL, name=name, **changed)
