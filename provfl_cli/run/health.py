"""What `provfl doctor` looks at: whether this installation, this machine and this cache can do what a run needs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..bounded import read_json
from ..data.network import hub_endpoint, reachable
from ..errors import InputError, RunError, brief
from ..imports import later
from ..processes import available_cores
from ..store.locks import claimed

if TYPE_CHECKING:
    import torch

    from ..config import compose
    from ..store import held_federations
    from . import job
else:
    torch, compose = later("torch"), later("provfl_cli.config.compose")
    held_federations, job = later("provfl_cli.store.held_federations"), later("provfl_cli.run.job")

LIBRARIES = ("torch", "torchvision", "transformers", "datasets", "hydra-core", "safetensors", "numpy", "pandas")
EXTRA = re.compile(r"""^([A-Za-z0-9._-]+).*;.*extra\s*==\s*['"]([A-Za-z0-9._-]+)['"]""")
FOR_DEVELOPERS = "test"
HUB_SECONDS = 2.0
LITTLE_SPACE = 1e9  # bytes
SELF_TEST = (
    "dataset=digits", "model=lenet", "partition=iid", "federation.clients=3", "federation.rounds=1",
    "federation.local_epochs=1", "partition.max_examples_per_client=60", "partition.min_examples_per_label=1",
    "partition.min_examples_per_client=1", "dataset.max_test_examples=40", "evaluation.max_inputs=8",
    "evaluation.inputs=all", "device=cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what.
        ok: whether it is as a run needs it; None: it is as it is, and a run works all the same.
        said: how it is, in words.
        details: the same for scripts.
    """

    name: str
    ok: bool | None
    said: str
    details: dict[str, Any]


def findings(cache: Path, network: bool = True) -> Iterator[Finding]:
    """Look at everything, the slowest last; each finding as soon as it is there.

    Args:
        cache: the training cache.
        network: whether to ask the hub.
    """
    looks: list[Callable[[], Finding]] = [_versions, _machine, _gpu, _extras, lambda: _cache(cache)]
    looks += [_hub] if network else []
    for look in [*looks, _self_test]:
        try:
            yield look()
        except Exception as error:  # that is what was to be found out
            name = look.__name__.strip("_<>").replace("_", "-").replace("lambda", "cache")
            yield Finding(name, False, brief(error), {"error": brief(error)})


def _versions() -> Finding:
    found = {name: _version(name) for name in LIBRARIES}
    missing = [name for name, there in found.items() if there is None]
    said = f"provfl {__version__}, Python {platform.python_version()}, "
    said += ", ".join(f"{name} {there}" for name, there in found.items() if there)
    said += f"; missing: {', '.join(missing)}: pip install provfl" if missing else ""
    return Finding("versions", not missing, said, {"provfl": __version__, "python": platform.python_version(), **found})


def _machine() -> Finding:
    cores, threads = available_cores(), torch.get_num_threads()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else None
    said = f"{platform.system()} {platform.machine()}, {cores} core{'s' * (cores > 1)} to use"
    said += "" if memory is None else f", {memory:,.0f} GB of memory"
    return Finding("machine", True, said, {"cores": cores, "threads": threads, "memory_gb": memory})


def _gpu() -> Finding:
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    names += ["Apple GPU (mps)"] if torch.backends.mps.is_available() else []
    if not names:
        return Finding("gpu", None, "none that torch can use: runs train on the CPU (device=cpu)", {"names": []})
    return Finding("gpu", True, f"{', '.join(names)} (device=auto takes it)", {"names": names})


def _extras() -> Finding:
    """Which optional parts are installed, by the package's own metadata."""
    try:
        needed = requires("provfl") or []
    except PackageNotFoundError:
        return Finding("extras", None, "not known: provfl runs from its sources, without being installed", {})
    packages = dict[str, list[str]]()
    for line in needed:
        match = EXTRA.match(line)
        if match and match[2] != FOR_DEVELOPERS:
            packages.setdefault(match[2], []).append(match[1])
    there = {extra: all(_version(name) for name in names) for extra, names in sorted(packages.items())}
    installed = ", ".join(extra for extra, has in there.items() if has) or "none"
    missing = ",".join(extra for extra, has in there.items() if not has)
    more = f"; not installed: {missing} (pip install 'provfl[{missing}]')" if missing else ""
    return Finding("extras", None, f"{installed}{more}", there)


def _cache(cache: Path) -> Finding:
    """Size, locks and space of the training cache; whether this process may write and lock there."""
    above = next(place for place in (cache, *cache.absolute().parents) if place.exists())
    free = shutil.disk_usage(above).free
    if not os.access(above, os.W_OK):
        return Finding(
            "cache", False, f"{cache}: {above} cannot be written to: store.cache=DIR", {"folder": str(cache)}
        )
    held = held_federations.held_federations(cache)
    size, used = sum(each.size for each in held), sum(each.in_use for each in held)
    kind = held_federations.kind_of(cache)
    with tempfile.TemporaryDirectory(dir=above, prefix=".provfl-doctor-") as probe, claimed(Path(probe), kind):
        pass
    said = f"{cache}: {len(held):,} federation{'s' * (len(held) != 1)}, {size / 1e9:.2f} GB, {used} in use, "
    said += f"locks by {kind}; {free / 1e9:,.0f} GB free on its disk"
    details = {
        "folder": str(cache),
        "federations": len(held),
        "bytes": size,
        "in_use": used,
        "locks": kind,
        "free_bytes": free,
    }
    return Finding("cache", free > LITTLE_SPACE, said, details)


def _hub() -> Finding:
    address = hub_endpoint()
    answers = reachable(address, HUB_SECONDS)
    said = (
        f"{address} answers"
        if answers
        else (
            f"{address} does not answer within {HUB_SECONDS:g} s: only data sets that are embedded or in folders work"
        )
    )
    return Finding("hub", True if answers else None, said, {"address": address, "answers": answers})


def _self_test() -> Finding:
    """Train and trace a tiny federation in a folder of its own; conservation is checked by the trace itself."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="provfl-doctor-") as place:
        folder = Path(place) / "run"
        folder.mkdir()
        ((_, cfg),) = compose.compose_jobs([*SELF_TEST, f"store.cache={place}/cache", f"hydra.run.dir={folder}"])
        try:
            with redirect_stdout(StringIO()):  # so small a model is warned of
                job.run(compose.validated(cfg), folder, quiet=True)
        except (InputError, RunError) as error:
            return Finding("self-test", False, f"a tiny federation cannot be traced: {error}", {"error": str(error)})
        figures = read_json(folder / "summary.json")
    seconds, residual = time.monotonic() - began, figures.get("conservation_residual")
    details = {"seconds": seconds, "residual": residual}
    if not isinstance(residual, float) or not residual < 1e-3:
        return Finding("self-test", False, f"contributions do not add up: residual {residual}", details)
    said = f"3 clients trained and traced in {seconds:.1f} s; what they contributed adds up (residual {residual:.1e})"
    return Finding("self-test", True, said, details)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
