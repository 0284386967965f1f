"""Whether what a command names can be opened at all, told from names alone: before torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..bounded import read_json
from ..config.stored_yaml import read_block
from ..config.tree import options
from ..errors import InputError, did_you_mean
from ..fusion.decomposition import DIFFERENCE, ROUNDING
from ..results.links import refuse_links_of_recording
from ..store.recorded import RecordedFederation, is_recorded, read_whole, why_nothing
from ..store.rounds import stored_rounds

GENERATE = "generate"
HYDRA = ".hydra"
MISMATCH = ("refuse", "fusion", "row")
ROWS = (  # beside those of clients
    "previous", "momentum", "noise", "stale", "control", "forgotten", "cross", DIFFERENCE, ROUNDING,
)  # fmt: skip
STATELESS = (  # fusions that need nothing from the server or the clients but the models and numbers of examples
    "fedavg", "fedprox", "median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median", "norm_clipping",
)  # fmt: skip


def require_place(folder: Path) -> None:
    """Raise InputError unless the folder is that of a run or of a recorded federation that leads nowhere else."""
    if is_recorded(folder):
        refuse_links_of_recording(folder)
    elif not (folder / ".hydra" / "config.yaml").is_file():
        raise InputError(no_run(folder))


def require_recorded(folder: Path) -> RecordedFederation:
    """What a recorded federation says of itself, of which there is at least one round.

    Raises:
        InputError: it is none, holds no round, or links to other places.
        RunError: a file of it is damaged.
    """
    refuse_links_of_recording(folder)
    recorded = read_whole(folder)
    if recorded is None or not stored_rounds(folder / "rounds"):
        if not is_recorded(folder):
            raise InputError(no_run(folder))
        reason = why_nothing(folder)
        raise InputError(f"{folder}: no round of it could be recorded" + (f" ({reason})" if reason else ""))
    return recorded


def no_run(folder: Path) -> str:
    """What is wrong with a folder that holds nothing to open."""
    if not folder.exists():
        beside = folder.absolute().parent
        answer = did_you_mean(folder.name, [path.name for path in beside.iterdir()] if beside.is_dir() else [])
        return f"{folder}: no such folder" + (f", {answer}" if answer.endswith("?") else "")
    if not folder.is_dir():
        return f"{folder}: is a file, give the folder of a run or of a recorded federation"
    below = sorted(folder.glob("*/.hydra/config.yaml"))
    if below:
        return f"{folder}: several runs in it: give one, such as {below[0].parent.parent}"
    return f"{folder}: neither a run (provfl run) nor a recorded federation (provfl import)"


def task_of(folder: Path) -> str:
    """What the model of a run does, as its configuration says: `classify` or `generate`.

    Raises:
        InputError: the configuration cannot be read.
    """
    try:
        task = read_block(folder / HYDRA / "config.yaml").get("task")
    except FileNotFoundError:
        raise InputError(no_run(folder)) from None
    return GENERATE if task == GENERATE else "classify"  # runs of former versions have none


def require_language_model(folder: Path, model: str | None) -> None:
    """Raise InputError unless a model is given for a recorded federation that may answer prompts."""
    if model is None:
        raise InputError(
            f"{folder}: of a recorded federation the model has to be given: --model hf:FOLDER_OR_ID (or peft:FOLDER, "
            "where adapters were trained), whose tokenizer lies in the same folder"
        )
    if not model.startswith(("hf:", "peft:")):
        raise InputError(f"--model {model}: a model that answers prompts is --model hf:FOLDER_OR_ID or peft:FOLDER")


def refuse_language_model(folder: Path, model: str | None, data: str | None) -> None:
    """InputError where a recorded federation's model answers prompts, as its files say: this is about predictions.

    What a base model of language was made a classifier of comes with data.
    """
    kind, _, where = (model or "").partition(":")
    place = Path(where).expanduser()
    if kind == "peft":
        answers = _field(place / "adapter_config.json", "task_type") == "CAUSAL_LM"
    else:
        made = _field(place / "config.json", "architectures") if kind == "hf" and data is None else None
        answers = isinstance(made, list) and any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in made)
    if answers:
        raise InputError(
            f"--model {model}: answers prompts, and pages and figures of recorded federations are of predictions: "
            f"provfl trace {folder} --model {model} --prompt TEXT (--out FILE.json or FILE.parquet keeps it)"
        )


def _field(path: Path, name: str) -> Any:
    """A field of a JSON object; None where there is none, or no such file."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content.get(name)


def require_model_and_data(folder: Path, model: str | None, data: str | None) -> None:
    """Raise InputError unless both are given for a recorded federation, in a form that may name something."""
    if model is None:
        raise InputError(
            f"{folder}: of a recorded federation the model has to be given: --model lenet (provfl ls model), or "
            "--model module:function, which returns it"
        )
    if ":" not in model and model not in options("model"):
        raise InputError(f"--model {model}: {did_you_mean(model, options('model'))} (or MODULE:FUNCTION, hf:FOLDER)")
    if data is None:
        raise InputError(
            f"{folder}: of a recorded federation the inputs have to be given as the model reads them: "
            "--data FILE.safetensors (inputs, labels), or --data module:function"
        )
    if Path(data).is_dir():
        raise InputError(f"--data {data}: is a folder, give FILE.safetensors, FILE.parquet or MODULE:FUNCTION")
    if not Path(data).is_file() and (":" not in data or Path(data).suffix in (".safetensors", ".parquet")):
        raise InputError(f"--data {data}: no such file; give FILE.safetensors, FILE.parquet or MODULE:FUNCTION")


def require_file(flag: str, path: Path, folder_too: bool = False) -> None:
    """Raise InputError unless there is such a file (or a folder, where that will do as well) that can be read."""
    if not path.exists():
        beside = path.absolute().parent
        answer = did_you_mean(path.name, [neighbour.name for neighbour in beside.iterdir()] if beside.is_dir() else [])
        kind = "file or folder" if folder_too else "file"
        raise InputError(f"{flag} {path}: no such {kind}" + (f", {answer}" if answer.endswith("?") else ""))
    if path.is_dir() and not folder_too:
        raise InputError(f"{flag} {path}: is a folder, give a file")


def client_number(word: str, names: Mapping[int, str], known: Collection[int], flag: str = "--without") -> int:
    """The number of the client of that name or number, of those `known`; InputError where there is none."""
    for number, name in names.items():
        if word == name:
            return number
    if word.isdecimal() and int(word) in known:
        return int(word)
    raise InputError(
        f"{flag} {word}: no such client, {did_you_mean(word, [names.get(own, str(own)) for own in sorted(known)], 20)}"
    )
