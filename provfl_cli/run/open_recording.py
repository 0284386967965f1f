"""A federation that others trained, opened to ask about its predictions: its rounds, with a model and inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import excerpt
from ..config.chosen_fusion import LONGEST, chosen_fusion
from ..config.validate import provenance_preset
from ..errors import InputError, RunError, brief, did_you_mean
from ..fusion.fuse import Fusion
from ..fusion.privacy import NoPrivacy
from ..models.network import most_positions
from ..provenance.outputs import Inputs, by_argument, count_of, logits_of_classes, rows_of, tensor_of
from ..provenance.shared_part import fitted, load_part
from ..store.matching_tensors import check_tensors
from ..store.recorded import RECORDED, RecordedFederation
from ..store.rounds import Round, read_round, stored_rounds
from .device import device_like
from .inputs import UNKNOWN
from .meaning import MSE, Meaning, meaning, wanted_numbers
from .open_run import OpenFederation
from .place import STATELESS, require_model_and_data, require_recorded
from .recorded_data import RecordedData, arguments, read_data
from .recorded_inputs import TensorInputs
from .recorded_model import built, named
from .tokens import opened_tokenizer


def open_recorded(
    folder: Path, model: str | None, data: str | None, target: str | None = None, tokenizer: str | None = None
) -> OpenFederation:
    """Open a recorded federation.

    Args:
        folder: with `rounds/` and `recorded.json`.
        model: an option of `conf/model`, or what `recorded_model.built` takes.
        data: what `recorded_data.read_data` takes.
        target: what is to be explained, where that is no class: `output`, `output:J`, `mse`, or one of several labels.
        tokenizer: a folder or a file, of texts in the data.

    Raises:
        InputError: what was given does not fit, or is missing; or the folder holds links to other places.
        RunError: a file of it is damaged.
    """
    recorded = require_recorded(folder)
    require_model_and_data(folder, model, data)
    assert model is not None and data is not None  # noqa: PT018
    last = read_round(folder / "rounds", stored_rounds(folder / "rounds")[-1])
    check_tensors(last)
    weights = last.weights()
    module, form = built(model, weights, recorded.labels), None
    positions = None if module is None or not hasattr(module, "config") else most_positions(module)
    tokens = None if tokenizer is None else opened_tokenizer(tokenizer, positions)
    held = read_data(data, module, tokens, recorded.labels)
    if module is None:
        module, form = named(model, held.inputs, weights, recorded.labels)
    output = _output(module, last, held.inputs, model)
    names = recorded.labels or (held.label_names if len(held.label_names) == _width(output) else ())
    problem = getattr(getattr(module, "config", None), "problem_type", None)
    read_as = meaning(output, held.labels, target, names, problem, data)
    labels = np.full(count_of(held.inputs), UNKNOWN, dtype=np.int64)
    wanted = None
    if read_as.target is None:
        read_as = replace(read_as, names=_class_names(output, recorded, names, folder, model))
        if held.labels is not None:
            labels = _class_labels(held.labels, len(read_as.names), data)
    else:
        numbers = wanted_numbers(held.labels, held.inputs, output[0].numel(), read_as.target == MSE, data)
        wanted = None if numbers is None else numbers.numpy()
    preset = provenance_preset("provfl")
    return OpenFederation(
        folder=folder,
        model=module,
        form=form,
        inputs=_inputs(held, labels, wanted, read_as, module, tokens),
        label_names=read_as.names,
        client_names=recorded.clients,
        examples=recorded.examples,
        label_counts={},
        faulty=(),
        provenance=preset if read_as.target is None else replace(preset, target=read_as.target),
        rivals=(),
        rounds_traced=(),
        fusion=recorded_fusion(folder, recorded),
        privacy=NoPrivacy(),
        seed=0,
        device=device_like("auto"),
        meaning=read_as,
    )


def _inputs(
    data: RecordedData, labels: np.ndarray, wanted: np.ndarray | None, read_as: Meaning, model: nn.Module, tokens: Any
) -> TensorInputs:
    def encoded(text: str) -> Inputs:
        return arguments(model, tokens.encode([text]), "--text")[0]

    return TensorInputs(
        inputs=data.inputs,
        labels=labels,
        wanted=wanted,
        texts=data.texts,
        notes=(*data.notes, *([read_as.note] if read_as.note else [])),
        encode=encoded if tokens is not None else None,
    )


def _width(output: Tensor) -> int:
    return output.shape[1] if output.dim() == 2 and output.shape[1] > 1 else 2


def _class_names(
    output: Tensor, recorded: RecordedFederation, names: tuple[str, ...], folder: Path, spec: str
) -> tuple[str, ...]:
    """Names of the classes that the model tells apart; InputError where they are not as many as are recorded."""
    try:
        classes = logits_of_classes(output, 1).shape[1]
    except RunError as error:
        raise InputError(f"--model {spec}: {error}") from error
    if recorded.labels and len(recorded.labels) != classes:
        raise InputError(f"{folder}: {len(recorded.labels)} labels are recorded, the model has {classes} classes")
    return names or tuple(map(str, range(classes)))


def _class_labels(labels: Tensor, classes: int, data: str) -> np.ndarray:
    """Whole numbers of classes, int64 `[n]`."""
    numbers: np.ndarray = labels.reshape(-1).to(torch.int64).numpy()
    if numbers.max() >= classes or numbers.min() < UNKNOWN:
        wrong = numbers.max() if numbers.max() >= classes else numbers.min()
        raise InputError(
            f"--data {data}: holds label {wrong}, the model tells {classes} classes apart ({UNKNOWN}: not known)"
        )
    return numbers


def recorded_fusion(folder: Path, recorded: RecordedFederation) -> Fusion | None:
    """How the rounds are fused again; RunError where that is written down as no import writes it."""
    if not recorded.fusion:
        return None
    try:
        if recorded.fusion[0] not in STATELESS:
            raise InputError(f"{excerpt(recorded.fusion[0])}: {did_you_mean(recorded.fusion[0][:LONGEST], STATELESS)}")
        return chosen_fusion(recorded.fusion)
    except InputError as error:
        raise RunError(f"{folder / RECORDED} cannot be read (fusion: {error}): record the federation again") from None


def _output(module: nn.Module, last: Round, inputs: Inputs, spec: str) -> Tensor:
    """What the model puts out for the first input; InputError unless it takes the recorded weights and the inputs."""
    fitted(module, last, f"--model {spec}", "the rounds")
    load_part(module, last.weights())
    module.eval()
    batch = {name: tensor.clone() for name, tensor in by_argument(rows_of(inputs, slice(0, 1))).items()}
    device = next(iter(module.parameters())).device
    try:
        with torch.inference_mode():
            output: Any = (
                module(batch[""].to(device))
                if "" in batch
                else module(**{name: tensor.to(device) for name, tensor in batch.items()})
            )
    except (Exception, SystemExit) as error:
        shapes = ", ".join(
            f"{f'{name} ' if name else ''}{list(tensor.shape)} of type {tensor.dtype}"
            for name, tensor in by_argument(inputs).items()
        )
        raise InputError(f"--data: the model does not read inputs {shapes} ({brief(error)})") from error
    try:
        numbers = tensor_of(output).detach().cpu()
        if numbers.shape[:1] != (1,):
            raise RunError(f"the model gave {tuple(numbers.shape)} for 1 input: an output [inputs, …] is needed")
    except RunError as error:
        raise InputError(f"--model {spec}: {error}") from error
    return numbers
