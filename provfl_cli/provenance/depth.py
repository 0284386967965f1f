"""The weight of each layer in the sum (design section 2.4): `beta_l = layer_decay^(L-1-l)`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..errors import InputError, did_you_mean

# Types that a user may name although no class is called so; `Conv` is every convolution of torch.
_FAMILIES = {"Conv": "_ConvNd"}


def _type_names(module: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(module).__mro__}


def is_type(module: nn.Module, name: str) -> bool:
    """Whether `module` is of the type `name`, or of one derived from it; `Conv` stands for all convolutions."""
    return _FAMILIES.get(name, name) in _type_names(module)


def is_named(name: str, wanted: str) -> bool:
    """Whether a module is called so, or lies in one that is: `layers.2.mlp` in `model.layers.2.mlp.up_proj`."""
    return f".{wanted}." in f".{name}."


def is_counted(module: nn.Module) -> bool:
    """Layers that the published artifact counts: Linear, Conv, transformers' Conv1D, LayerNorm."""
    return any(is_type(module, name) for name in ("Linear", "Conv", "Conv1D", "LayerNorm"))


def layer_weights(modules: Mapping[str, nn.Module], decay: float) -> dict[str, float]:
    """`beta` of every one of a model's `modules` by name, in the order in which they were registered.

    `L` counts the layers of `is_counted`; any other module takes the beta of the counted layer before it (of the first
    layer, where none is before it).
    """
    names = [(name, is_counted(module)) for name, module in modules.items()]
    total = sum(counted for _, counted in names)
    weights: dict[str, float] = {}
    seen = 0
    for name, counted in names:
        seen += counted
        weights[name] = decay ** max(0, total - max(1, seen))
    return weights


def chosen_layers(modules: Mapping[str, nn.Module], layers: str | list[str]) -> set[str]:
    """Names of the modules whose parameters are contracted: `all`, the `last` that counts, or those of types or names.

    Raises:
        InputError: what is no type that torch knows or the model has, nor a name in it; or no module of any of them.
    """
    if layers == "all":
        return set(modules)
    if layers == "last":
        counted = [name for name, module in modules.items() if is_counted(module)]
        if not counted:
            raise InputError("provenance.layers=last: the model has no Linear, Conv, Conv1D or LayerNorm")
        return {counted[-1]}
    here = {type(module).__name__ for module in modules.values() if any(True for _ in module.parameters(recurse=False))}
    for kind in layers:
        known = hasattr(nn, kind) or kind in (*_FAMILIES, "Conv1D")
        if not known and not any(is_type(module, kind) or is_named(name, kind) for name, module in modules.items()):
            raise InputError(f"provenance.layers: {kind} is no layer type, {did_you_mean(kind, {*here, *_FAMILIES})}")
    chosen = {
        name
        for name, module in modules.items()
        if any(is_type(module, kind) or is_named(name, kind) for kind in layers)
    }
    if not chosen & {name for name, module in modules.items() if type(module).__name__ in here}:
        raise InputError(f"provenance.layers={layers}: the model has none of these, only {', '.join(sorted(here))}")
    return chosen
