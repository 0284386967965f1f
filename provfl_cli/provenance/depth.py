"""The weight of each layer in the sum (design section 2.4): `beta_l = layer_decay^(L-1-l)`."""

from __future__ import annotations

from torch import nn

from ..errors import InputError

# Types that a user may name although no class is called so; `Conv` is every convolution of torch.
_FAMILIES = {"Conv": "_ConvNd"}


def _type_names(module: nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(module).__mro__}


def is_type(module: nn.Module, name: str) -> bool:
    """Whether `module` is of the type `name`, or of one derived from it; `Conv` stands for all convolutions."""
    return _FAMILIES.get(name, name) in _type_names(module)


def is_counted(module: nn.Module) -> bool:
    """Layers that the published artifact counts: Linear, Conv, transformers' Conv1D, LayerNorm."""
    return any(is_type(module, name) for name in ("Linear", "Conv", "Conv1D", "LayerNorm"))


def layer_weights(model: nn.Module, decay: float) -> dict[str, float]:
    """`beta` of every module by name, in the order in which they were registered.

    `L` counts the layers of `is_counted`; any other module takes the beta of the counted layer before it (of the first
    layer, where none is before it).
    """
    names = [(name, is_counted(module)) for name, module in model.named_modules()]
    total = sum(counted for _, counted in names)
    weights: dict[str, float] = {}
    seen = 0
    for name, counted in names:
        seen += counted
        weights[name] = decay ** max(0, total - max(1, seen))
    return weights


def chosen_layers(model: nn.Module, layers: str | list[str]) -> set[str]:
    """Names of the modules whose parameters are contracted: `all`, or those of the named types.

    Raises:
        InputError: no module of the model is of any of the types.
    """
    modules = dict(model.named_modules())
    if layers == "all":
        return set(modules)
    chosen = {name for name, module in modules.items() if any(is_type(module, kind) for kind in layers)}
    if not chosen:
        kinds = sorted({type(m).__name__ for m in modules.values() if any(True for _ in m.parameters(recurse=False))})
        raise InputError(f"provenance.layers={layers}: the model has none of these; its layers are {', '.join(kinds)}")
    return chosen
