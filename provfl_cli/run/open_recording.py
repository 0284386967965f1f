"""A federation that others trained, opened to ask about its predictions: its rounds, with a model and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..bounded import check_safetensors
from ..checks import excerpt
from ..config.chosen_fusion import LONGEST, chosen_fusion
from ..config.validate import model_option, provenance_preset
from ..data.federated import Form, Pictures
from ..errors import InputError, RunError, brief, did_you_mean
from ..fusion.fuse import Fusion
from ..fusion.privacy import NoPrivacy
from ..models.build import build
from ..provenance.checks import check_finite_inputs
from ..provenance.outputs import logits_of_classes, tensor_of
from ..provenance.shared_part import fitted, load_part
from ..results.links import refuse_links_of_recording
from ..store.matching_tensors import check_tensors
from ..store.recorded import RECORDED, RecordedFederation, is_recorded, read_whole, why_nothing
from ..store.rounds import Round, read_round, stored_rounds
from .called import called, called_model
from .device import device_like
from .inputs import UNKNOWN, TensorInputs
from .open_run import OpenFederation
from .place import STATELESS, no_run, require_model_and_data


def open_recorded(folder: Path, model: str | None, data: str | None) -> OpenFederation:
    """Open a recorded federation.

    Args:
        folder: with `rounds/` and `recorded.json`.
        model: an option of `conf/model`, or `module:callable` that returns an `nn.Module`.
        data: a safetensors file with `inputs` and, where known, `labels`; or `module:callable` that returns inputs, a
            pair, or a mapping with these names.

    Raises:
        InputError: what was given does not fit, or is missing; or the folder holds links to other places.
        RunError: a file of it is damaged.
    """
    refuse_links_of_recording(folder)
    recorded = read_whole(folder)
    if recorded is None or not stored_rounds(folder / "rounds"):
        if not is_recorded(folder):
            raise InputError(no_run(folder))
        reason = why_nothing(folder)
        raise InputError(f"{folder}: no round of it could be recorded" + (f" ({reason})" if reason else ""))
    require_model_and_data(folder, model, data)
    assert model is not None and data is not None  # noqa: PT018
    inputs, labels = _data(data)
    last = read_round(folder / "rounds", stored_rounds(folder / "rounds")[-1])
    check_tensors(last)
    weights = last.weights()
    module, form = _model(model, inputs, weights, recorded)
    classes = _check_fits(module, last, inputs, model)
    if labels.max() >= classes or labels.min() < UNKNOWN:
        wrong = labels.max() if labels.max() >= classes else labels.min()
        raise InputError(
            f"--data {data}: holds label {wrong}, the model tells {classes} classes apart ({UNKNOWN}: not known)"
        )
    if recorded.labels and len(recorded.labels) != classes:
        raise InputError(f"{folder}: {len(recorded.labels)} labels are recorded, the model has {classes} classes")
    return OpenFederation(
        folder=folder,
        model=module,
        form=form,
        inputs=TensorInputs(inputs, labels),
        label_names=recorded.labels or tuple(map(str, range(classes))),
        client_names=recorded.clients,
        examples=recorded.examples,
        label_counts={},
        faulty=(),
        provenance=provenance_preset("provfl"),
        rivals=(),
        rounds_traced=(),
        fusion=_fusion(folder, recorded),
        privacy=NoPrivacy(),
        seed=0,
        device=device_like("auto"),
    )


def _fusion(folder: Path, recorded: RecordedFederation) -> Fusion | None:
    """How the rounds are fused again; RunError where that is written down as no import writes it."""
    if not recorded.fusion:
        return None
    try:
        if recorded.fusion[0] not in STATELESS:
            raise InputError(f"{excerpt(recorded.fusion[0])}: {did_you_mean(recorded.fusion[0][:LONGEST], STATELESS)}")
        return chosen_fusion(recorded.fusion)
    except InputError as error:
        raise RunError(f"{folder / RECORDED} cannot be read (fusion: {error}): record the federation again") from None


def _data(spec: str) -> tuple[Tensor, np.ndarray]:
    """Inputs and labels (`UNKNOWN` where there are none)."""
    path = Path(spec)
    if path.suffix == ".safetensors" or path.is_file():
        if not path.is_file():
            raise InputError(f"--data {spec}: no such file")
        try:
            check_safetensors(path)
            loaded: Any = load_file(path)
        except Exception as error:  # of the library, one of several
            raise InputError(f"--data {spec}: is no safetensors file ({error})") from error
    elif ":" in spec:
        loaded = called(spec, "--data")
    else:
        raise InputError(f"--data {spec}: no such file; give FILE.safetensors or MODULE:FUNCTION")
    if isinstance(loaded, Mapping):
        inputs, labels = loaded.get("inputs"), loaded.get("labels")
    elif isinstance(loaded, tuple | list) and len(loaded) == 2:
        inputs, labels = loaded
    else:
        inputs, labels = loaded, None
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or not len(inputs):
        raise InputError(f"--data {spec}: holds no tensor `inputs` [n, …]")
    check_finite_inputs(inputs, f"--data {spec}: inputs")
    if labels is None:
        return inputs, np.full(len(inputs), UNKNOWN, dtype=np.int64)
    try:
        numbers = torch.as_tensor(labels).cpu().numpy()
    except (TypeError, ValueError, RuntimeError):
        numbers = np.empty(0)  # no numbers at all
    if numbers.shape != (len(inputs),) or numbers.dtype.kind not in "iu":
        raise InputError(f"--data {spec}: `labels` must be whole numbers, one for each of {len(inputs)} inputs")
    return inputs, numbers.astype(np.int64)


def _model(
    spec: str, inputs: Tensor, weights: Mapping[str, Tensor], recorded: RecordedFederation
) -> tuple[nn.Module, Form | None]:
    """The module that `spec` names, and what it reads where that is known."""
    if ":" in spec:
        return called_model(spec), None
    option = model_option(spec)
    if option.input != "image" or inputs.dim() != 4:
        raise InputError(
            f"--model {spec}: models by name are for pictures [n, channels, height, width], --data holds "
            f"{list(inputs.shape)}: --model MODULE:FUNCTION"
        )
    form = Pictures(inputs.shape[1], inputs.shape[2])
    # The last tensor whose size follows from the number of classes is the logits' bias.
    two, three = (build(option, form, classes, 0).state_dict() for classes in (2, 3))
    last = [name for name in two if two[name].shape != three[name].shape]
    there = [weights[name].shape[0] for name in last if name in weights and weights[name].dim()]
    classes = len(recorded.labels) or (there[-1] if there else 2)
    return build(option, form, classes, 0), form


def _check_fits(module: nn.Module, last: Round, inputs: Tensor, spec: str) -> int:
    """Raise InputError unless the model takes the recorded weights and the inputs; returns its number of classes."""
    fitted(module, last, f"--model {spec}", "the rounds")
    load_part(module, last.weights())
    module.eval()
    try:
        with torch.inference_mode():
            output = module(inputs[:1].clone())
    except (Exception, SystemExit) as error:
        raise InputError(
            f"--data: the model does not read inputs {list(inputs.shape)} of type {inputs.dtype} ({brief(error)})"
        ) from error
    try:
        logits = logits_of_classes(tensor_of(output), 1)
    except RunError as error:
        raise InputError(f"--model {spec}: {error}") from error
    return int(logits.shape[1])
