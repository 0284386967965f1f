"""What a run was made of and what it cost: `manifest.json`."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.federated import Dialogues, FederatedData, Form, Pictures, Texts
from ..data.picture_facts import as_values
from ..errors import RunError
from ..models.network import network_settings
from ..provenance.contributions import Contributions
from ..results.checksums import FILE, TOKENIZER

PACKAGES = (
    "provfl", "torch", "torchvision", "transformers", "tokenizers", "hydra-core", "omegaconf", "datasets",
    "flwr-datasets", "numpy", "pandas",
)  # fmt: skip
# Of what a model reads, the most that a configuration takes; a vocabulary may be published.
LARGEST = {
    "channels": 4,
    "image_size": 1024,
    "vocabulary": 2_000_000,
    "max_tokens": 4096,
    "padding": 2_000_000,
    "end": 2_000_000,
}
PUBLISHED = "published"  # begins what is said of weights that were not drawn from the seed


def manifest(
    data: FederatedData, device: torch.device, seconds: Mapping[str, float], trace: Contributions | None
) -> dict[str, Any]:
    """Versions, data, clients, host, seconds per phase, peak memory, and what the trace covers."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "dataset": {**asdict(data.source), "labels": list(data.label_names), "lines": list(data.lines)},
        "clients": {
            "kept": {str(client.id): len(client.labels) for client in data.clients},
            "dropped": {str(client): left for client, left in data.dropped},
            "faulty": list(data.faults.clients),
        },
        "host": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": str(device),
            "threads": torch.get_num_threads(),
        },
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "peak_memory_mb": peak_memory_mb(),
        "trace": None if trace is None else _covered(trace),
    }


def inputs_read(data: FederatedData) -> dict[str, Any]:
    """What the model reads: channels and size of pictures, how they were read, what they look like; vocabulary, padding
    and tokenizer of texts."""
    fields = {name: value for name, value in asdict(data.form).items() if name != "checkpoint"}
    if data.tokenizer is not None:
        fields |= {"tokenizer": TOKENIZER, "tokenizer_sha256": hashlib.sha256(data.tokenizer.encode()).hexdigest()}
    if data.pictures is not None:
        fields |= {"pictures": as_values(data.pictures)}
    kinds = {Pictures: "image", Texts: "text", Dialogues: "dialogue"}
    return {"input": kinds[type(data.form)], **fields}


def form_of(reads: Mapping[str, Any]) -> Form:
    """What a model reads, of `inputs_read`.

    Raises:
        RunError: no run could have written that.
    """

    def size(name: str) -> int:
        value, least = reads.get(name), 0 if name in ("padding", "end") else 1
        if not isinstance(value, int) or not least <= value <= LARGEST[name]:
            asked = f"a whole number from {least} to {LARGEST[name]:,} is read"
            raise RunError(f"{FILE}: inputs.{name} is {str(value)[:40]}: {asked}")
        return value

    if reads.get("input") == "image":
        return Pictures(size("channels"), size("image_size"))
    if reads.get("input") == "dialogue":
        return Dialogues(size("vocabulary"), size("max_tokens"), size("padding"), size("end"))
    return Texts(size("vocabulary"), size("max_tokens"), size("padding"))


def weights_from(form: Form, pretrained: bool, base: bool = False) -> str:
    """Where the initial weights come from.

    `pretrained`: whether a model of pictures took published ones; `base`: whether a base model was made first.
    """
    if base:
        return "of a base model made here, of public data"
    if not isinstance(form, Pictures):
        return "drawn from the seed" if form.checkpoint is None else f"{PUBLISHED}: {form.checkpoint}"
    return PUBLISHED if pretrained else "drawn from the seed"


def architecture(form: Form, model: nn.Module) -> dict[str, Any]:
    """The network of a model that began with published files, so that the run is opened without them; {} of others."""
    network = network_settings(model) if not isinstance(form, Pictures) and form.checkpoint is not None else None
    return {} if network is None else {"network": network}


def _covered(trace: Contributions) -> dict[str, Any]:
    return {
        "warnings": list(trace.warnings),
        "covered": trace.covered,
        "uncovered": trace.uncovered,
        "unchecked_layers": list(trace.unchecked),
        "masked_layers": list(trace.masked_layers),
        "not_shared": list(trace.not_shared),
        "not_attributed_buffers": list(trace.buffers),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process in MB; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
