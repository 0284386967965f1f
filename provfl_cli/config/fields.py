"""From plain values to a dataclass: unknown keys, missing keys and wrong types, each answered in one line."""

from dataclasses import MISSING, field, fields, make_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checks import excerpt
from ..errors import InputError, did_you_mean

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


def fitted(kind: type[T], values: Any, prefix: str) -> T:
    """The dataclass `kind` made from `values`, a mapping of resolved plain values found at the key `prefix`.

    Raises InputError for a value that is no mapping, and what `converted` and the dataclass itself raise.
    """
    if not isinstance(values, dict):
        raise InputError(f"{prefix}={excerpt(shown(values))}: {prefix} is a block of keys: {prefix}.KEY=VALUE")
    return kind(**converted(kind, values, f"{prefix}."))


def converted(
    kind: type, values: dict[Any, Any], prefix: str = "", names: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """`values` with every value in the type that the dataclass `kind` declares for it ("3" becomes 3).

    Keys are named in full by `prefix` ("federation."); `names` are the fields in question, all when None. Raises
    InputError for a key that is none of them, for one that is needed and not given, and for a value of a wrong type.
    """
    known = {entry.name: entry for entry in fields(kind) if names is None or entry.name in names}
    for key in values:
        if key not in known:
            raise InputError(f"{prefix}{excerpt(key)}: no such key, {did_you_mean(str(key), known)}")
    for name, entry in known.items():
        needed = entry.default is MISSING and entry.default_factory is MISSING
        if (needed and name not in values) or values.get(name) == "???":
            raise InputError(f"{prefix}{name} is missing: give {prefix}{name}=VALUE, {wording(hint_of(kind, name))}")
    # Most values are what they shall be already, and merging takes a millisecond a block.
    others = {key: value for key, value in values.items() if not _is_already(hint_of(kind, key), value)}
    try:
        return {**values, **_merged(kind, others)} if others else dict(values)
    except (OmegaConfBaseException, OverflowError):  # one by one, to tell which it was: slower
        for key, value in others.items():
            try:
                _merged(kind, {key: value})
            except (OmegaConfBaseException, OverflowError):
                raise InputError(
                    f"{prefix}{key}={excerpt(shown(value))}: must be {wording(hint_of(kind, key))}"
                ) from None
        raise


@cache
def _schema(kind: type, names: tuple[str, ...]) -> Any:
    """What OmegaConf makes of these fields of a dataclass, of which merging makes a copy.

    It knows no protocols and no literals: what such a field holds, the dataclass checks itself.
    """
    known = []
    for entry in (entry for entry in fields(kind) if entry.name in names):
        hint = hint_of(kind, entry.name)
        default: Any = field(default=entry.default, default_factory=entry.default_factory)
        known.append((entry.name, hint if _converts(hint) else Any, default))
    return OmegaConf.structured(make_dataclass(kind.__name__, known, kw_only=True))


@cache
def _converts(hint: Any) -> bool:
    """Whether OmegaConf can bring values to a type."""
    try:
        OmegaConf.structured(make_dataclass("Probe", [("value", hint)]))
    except OmegaConfBaseException:
        return False
    return True


def _is_already(hint: Any, value: Any) -> bool:
    """Whether OmegaConf would leave a plain value of a field as it is; False where only OmegaConf can tell."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    simple = type(value) in (int, float, bool, NoneType) or (type(value) is str and "${" not in value)
    return simple and type(value) in kinds


def _merged(kind: type, values: dict[Any, Any]) -> dict[Any, Any]:
    merged = OmegaConf.to_container(OmegaConf.merge(_schema(kind, tuple(values)), values))
    assert isinstance(merged, dict)
    return {key: merged[key] for key in values}


def hint_of(kind: type, name: str) -> Any:
    """The type that the dataclass `kind` declares for its field `name`."""
    return _hints(kind)[name]


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def wording(hint: Any) -> str:
    """A type in words: `int | None` is "a whole number or null"."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(wording(alternative) for alternative in get_args(hint))
    if is_typeddict(hint):
        return f"a block of {', '.join(get_type_hints(hint))}"
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (list, tuple):
        return {int: "a list of whole numbers such as [0,1]", float: "a list of numbers such as [0.5]"}.get(
            get_args(hint)[0], "a list such as [a,b]"
        )
    if hint is dict or get_origin(hint) is dict:
        return "a mapping such as {3: 5}" if get_args(hint)[:1] == (int,) else "a mapping such as {a: 1}"
    return WORDS.get(hint, "a value")


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
