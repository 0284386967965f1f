"""The picture sets of the `medmnist` package, an extra: `dataset.source=medmnist`."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

from ..config.schema import Dataset
from ..errors import InputError, did_you_mean
from . import npz
from .network import reachable
from .split import Split


def read(dataset: Dataset) -> tuple[dict[str, Split], str]:
    """Read the splits of the package's set `dataset.medmnist`, class names included; return them and where from.

    The file is the one in `~/.medmnist`, where the package puts it; one that is missing or cut short is fetched.

    Raises:
        InputError: no such package, no such set in it, or a file that is neither there nor to be fetched (within
            seconds).
    """
    try:
        from medmnist.info import DEFAULT_ROOT, INFO
        from medmnist.info import __version__ as version
    except ImportError:
        raise InputError(
            "dataset.source=medmnist needs the package medmnist: pip install 'provfl[medmnist]' "
            "(scripts/provfl: PROVFL_EXTRAS=medmnist), or dataset.path=FILE.npz"
        ) from None
    flag = str(dataset.medmnist)
    if flag not in INFO:
        raise InputError(f"dataset.medmnist={flag}: no such set, {did_you_mean(flag, INFO)}")
    info = INFO[flag]
    if DEFAULT_ROOT is None:
        raise InputError("dataset.source=medmnist: ~/.medmnist cannot be made: dataset.path=FILE.npz")
    file = Path(DEFAULT_ROOT) / f"{flag}.npz"
    if not _intact(file, info["MD5"]):
        _fetch(file, info)
    names = tuple(info["label"][str(number)] for number in range(len(info["label"])))
    return npz.read(file, names), f"medmnist {version} {flag}"


def _intact(file: Path, md5: str) -> bool:
    """Whether the file is there as it was published."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def _fetch(file: Path, info: dict[str, str]) -> None:
    """Let the package download its file."""
    reason = "cannot be reached"
    if reachable(info["url"]):
        import medmnist

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                getattr(medmnist, info["python_class"])(split="train", download=True, root=str(file.parent))
            return
        except Exception as error:  # of the download, of its checksum; the package wraps them in a page of text
            reason = f"cannot be fetched ({type(error).__name__})"
    raise InputError(
        f"{info['url']} {reason} and {file} is not there: put the file there, or anywhere with dataset.path=FILE.npz, "
        "or choose an embedded dataset: dataset=mnist or dataset=digits"
    )
