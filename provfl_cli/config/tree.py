"""Where the Hydra tree lies on disk, and what there is in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Option:
    """One choice of a config group."""

    group: str
    name: str
    summary: str  # the comment on top of its file
    default: bool  # what is taken when nothing is said


def conf_dir() -> Path:
    """The folder of the Hydra tree: `conf/` of a checkout, or the copy inside an installed package."""
    checkout = PACKAGE.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else PACKAGE / "conf"


def groups() -> list[str]:
    """The names of all config groups. A folder beside an option of its name holds variants of it, and is none."""
    folders = {path.parent for path in conf_dir().glob("*/**/*.yaml")}
    return sorted(path.relative_to(conf_dir()).as_posix() for path in folders if not path.with_suffix(".yaml").exists())


def options(group: str) -> list[str]:
    """The names of the options of `group`; none for what is no group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def variants(group: str, name: str) -> list[str]:
    """The names of the variants of an option, such as the scales of an experiment; none for most."""
    return options(f"{group}/{name}")


def described(group: str) -> list[Option]:
    """The options of `group`, each with its one line."""
    default = default_options().get(group)
    return [Option(group, name, summary(option_file(group, name)), name == default) for name in options(group)]


def models_for(kind: str) -> list[str]:
    """The names of the models that read inputs of that kind, image or text."""
    names = []
    for name in options("model"):
        file: Any = OmegaConf.load(option_file("model", name))
        if file.get("model", file).get("input") == kind:  # a model that brings other settings stands in a block
            names.append(name)
    return names


def option_file(group: str, name: str) -> Path:
    """The file of one option."""
    return conf_dir() / group / f"{name}.yaml"


def summary(path: Path) -> str:
    """The comment on top of a config file, the `@package` line left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if text and not text.startswith("@package"):
            return text
    return ""


def block(name: str) -> str:
    """The lines of the plain block `name` of `config.yaml` (such as `federation`), comments included; "" if none."""
    lines = (conf_dir() / "config.yaml").read_text(encoding="utf-8").splitlines()
    if f"{name}:" not in lines or name in ("defaults", "hydra"):
        return ""
    start = lines.index(f"{name}:")
    inside = lines[start + 1 :]
    length = next((i for i, line in enumerate(inside) if line and not line.startswith(" ")), len(inside))
    return "\n".join(lines[start : start + 1 + length]).rstrip()


def blocks() -> list[str]:
    """The names of the plain blocks of `config.yaml`."""
    lines = (conf_dir() / "config.yaml").read_text(encoding="utf-8").splitlines()
    names = [line[:-1] for line in lines if line.endswith(":") and not line.startswith((" ", "#"))]
    return [name for name in names if name not in ("defaults", "hydra")]


def default_options() -> dict[str, str | None]:
    """What the defaults list of `config.yaml` chooses in each group."""
    entries = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))["defaults"]  # type: ignore[index, call-overload]
    chosen: dict[str, str | None] = {}
    for entry in entries:
        if isinstance(entry, dict):
            chosen.update(entry)
    return chosen
