"""The whole of a composed configuration, and the rules between its blocks and parts.

Blocks are plain dataclasses (`blocks.py`). A part, such as a partition, is a dataclass beside the code that uses it,
named by `_target_` in its config file; what every part of a kind provides is in `parts.py`.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

from ..checks import SEEDS, Range, excerpt, in_range, one_of, require_flower
from ..errors import InputError, did_you_mean
from ..fusion.conditions import check_mode
from ..fusion.fuse import Fusion
from ..fusion.privacy import Privacy
from ..provenance.settings import Provenance
from .adapters import check_adapters
from .blocks import Dataset, Engine, Evaluation, Experiment, Federation, Model, Store
from .environment import EnvironmentValue
from .lora import Lora
from .parts import Injection, Method, Partition, RunSettings, Tracker
from .retrain import LINEAGE, Retrain
from .tree import models_for
from .warm_start import WarmStart

__all__ = [
    "Config",
    "Dataset",
    "Engine",
    "Evaluation",
    "Experiment",
    "Federation",
    "Model",
    "Provenance",
    "Retrain",
    "Store",
]

TASKS = ("classify", "generate")
DEVICES = ("auto", "cpu", "cuda", "mps")
OTHER_WORDS = ("gpu", "gpus", "nvidia", "amd", "rocm", "hip", "metal", "cuda")  # for a GPU; cuda with a number


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on, validated.

    `attribution` are the methods that the run's own provenance is compared with, `tracker` is where else it is logged
    (None: nowhere). `lora` are the settings of `model.adapter=lora`, `retrain` those of
    `evaluation.counterfactual=retrain`, `warm_start` those of a base model that is made here. `environment` are the
    values that came from environment variables: they are written nowhere.
    """

    dataset: Dataset
    model: Model
    partition: Partition
    injection: Injection
    fusion: Fusion
    privacy: Privacy
    engine: Engine
    federation: Federation
    provenance: Provenance
    store: Store
    evaluation: Evaluation
    seed: Annotated[int, SEEDS]
    device: str
    threshold: Annotated[float | None, Range(-1e6, 1e6)]
    tracefl_beside: bool
    lora: Lora
    retrain: Retrain = field(default_factory=Retrain)
    warm_start: WarmStart = field(default_factory=WarmStart)
    task: str = "classify"
    attribution: tuple[Method, ...] = ()
    tracker: Tracker | None = None
    experiment: Experiment | None = None
    environment: tuple[EnvironmentValue, ...] = ()

    def __post_init__(self) -> None:
        in_range("", self)
        one_of("task", self.task, TASKS)
        if self.device not in DEVICES and self.device.partition(":")[0].lower() in OTHER_WORDS:
            raise InputError(
                f"device={excerpt(self.device)}: did you mean cuda (NVIDIA, AMD) or mps (Apple)? accepted: "
                f"{', '.join(DEVICES)}; which GPU of several: CUDA_VISIBLE_DEVICES=0 in front of the command"
            )
        one_of("device", self.device, DEVICES)
        if isinstance(self.provenance.rounds, list) and max(self.provenance.rounds) > self.federation.rounds:
            raise InputError(
                f"provenance.rounds={self.provenance.rounds}: "
                f"the federation has only federation.rounds={self.federation.rounds}"
            )
        if self.engine.name == "flower":
            require_flower()
        if (self.task == "generate") != (self.dataset.input == "dialogue"):
            kind = {"dialogue": "prompts with responses: task=generate, or"}.get(self.dataset.input, "no responses:")
            other = "phrases" if self.task == "generate" else "mnist"
            raise InputError(f"task={self.task}: dataset={self.dataset.name} has {kind} dataset={other}")
        if self.model.input != self.dataset.input:
            raise InputError(
                f"model={self.model.name} reads {self.model.input}, dataset={self.dataset.name} is "
                f"{self.dataset.input}: models for {self.dataset.input}: {', '.join(models_for(self.dataset.input))}"
            )
        check_adapters(self.model, self.lora, self.federation, self.fusion, self.privacy, self.provenance)
        if self.evaluation.client is not None and self.evaluation.client >= self.federation.clients:
            raise InputError(
                f"evaluation.client={self.evaluation.client}: clients are numbered 0 to {self.federation.clients - 1}"
            )
        self.partition.check(self.federation)
        self.injection.check(self.federation)
        object.__setattr__(self, "injection", self.injection.until(self.federation.rounds))
        self.fusion.check(self.federation)
        check_mode(self.fusion, self.federation)
        if self.evaluation.inputs == "faults":  # only here: everybody else is told what it stands for
            seen_in = self.injection.seen_in
            if seen_in is None:
                raise InputError(
                    "evaluation.inputs=faults: injection=none plants nothing to look for: choose an injection such as "
                    "injection=label_flip, or evaluation.inputs=wrong"
                )
            object.__setattr__(self, "evaluation", replace(self.evaluation, inputs=seen_in))
        self.injection.fits(self.dataset, self.evaluation, self.fusion)
        self.privacy.check(self.federation, self.fusion)
        names = [method.name for method in self.attribution]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"attribution: {name} is there twice: leave one out, or give it other settings")
        for method in self.attribution:
            method.check(self.run_settings)
        self._check_retraining()

    @property
    def run_settings(self) -> RunSettings:
        """What attribution methods may look at."""
        return RunSettings(
            self.federation,
            self.fusion,
            self.provenance,
            self.tracefl_beside,
            self.seed,
            self.store.keep,
            self.task,
        )

    def _check_retraining(self) -> None:
        """Raise InputError where what is to be trained again does not go with the rest."""
        retrain = self.retrain
        if self.task == "generate" and self.evaluation.counterfactual == "retrain":
            raise InputError(
                "evaluation.counterfactual=retrain: measures classes that are predicted, and task=generate has "
                "responses: evaluation.counterfactual=fusion, and provfl trace RUN --verify retrain for single ones"
            )
        if self.evaluation.counterfactual != "retrain":
            if retrain.designs:
                raise InputError(
                    f"retrain.designs=[{','.join(retrain.designs)}]: evaluation.counterfactual=fusion trains nothing "
                    "again: evaluation.counterfactual=retrain, or retrain.designs=[]"
                )
            return
        if "clean_twin" in retrain.chosen and self.injection.twin() is None:
            raise InputError(
                "retrain.designs: clean_twin: injection=none plants nothing that a twin would be without: choose an "
                "injection such as injection=label_flip, or leave clean_twin out"
            )
        if "removal" not in retrain.chosen:
            return
        if retrain.top >= self.federation.clients:
            raise InputError(
                f"retrain.top={retrain.top}: of federation.clients={self.federation.clients} somebody has to be left: "
                f"at most {self.federation.clients - 1}"
            )
        traced = [self.provenance.name, *(["tracefl"] if self.tracefl_beside else [])]
        traced += [method.name for method in self.attribution]
        if self.provenance.scope == "lineage":
            traced.append(f"{self.provenance.name}{LINEAGE}")
        if not retrain.methods:
            raise InputError("retrain.methods=[]: name at least one whose top clients are removed")
        for name in retrain.methods:
            if name not in traced:
                raise InputError(f"retrain.methods: {name} is none that this run has, {did_you_mean(name, traced)}")
