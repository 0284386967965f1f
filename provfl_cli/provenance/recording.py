"""Record every use of a parameter while a model runs, and the activation that each layer's output goes through.

The recorder is a `TorchFunctionMode`: it sees each torch function that the model calls, whichever module calls it. So a
tied weight has a use for each call, a module called twice has two, parameters used outside any module's own forward
are found, and functional or in-place activations are activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import RunError
from .calls import RULES, Call, Weight
from .marks import (
    ACTIVATIONS,
    ELEMENTWISE,
    RESHAPES,
    SILENT,
    VIEWS,
    Mark,
    is_activation,
    is_in_place,
    mark_of,
    moved_axis,
    set_mark,
    tensors_in,
)
from .rules.rewrites import REWRITES
from .structure import Structure


class TooLarge(Exception):
    """The activations of a batch take more memory than they may."""


class Recorder(TorchFunctionMode):
    """Collects the calls of one forward pass.

    Args:
        structure: of the module that will run; its parameters are found by identity.
        batch: number of inputs.
        record: called with each call as soon as its output exists; returns what the model goes on with.
        activated: called with a call and the output of its activation function.
        limit: bytes that the outputs of all functions may take together; None: any.

    Raises:
        TooLarge: from within the forward pass, when they take more.
    """

    def __init__(
        self,
        structure: Structure,
        batch: int,
        record: Callable[[Call, Tensor], None],
        activated: Callable[[Call, Tensor], None],
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.structure = structure
        self.batch = batch
        self.record = record
        self.activated = activated
        self.names = structure.names
        self.modules: list[tuple[str, frozenset[str]]] = []  # modules with parameters that are running, innermost last
        self.inside = 0  # depth inside activation modules
        self.unruled: dict[str, str] = {}
        self.left = limit

    # -- what the mode sees ------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name in SILENT:
            return func(*args, **kwargs)
        if func in REWRITES:
            try:
                with self:
                    return REWRITES[func](*args, **kwargs)
            except NotImplementedError:
                pass
        tensors = list(tensors_in((*args, *kwargs.values())))
        marks, weights, depends = [], [], False
        for tensor in tensors:
            mark = mark_of(tensor)
            if mark is not None:
                marks.append(mark)
                depends = depends or mark.data
            if (mark is not None and mark.weight is not None) or id(tensor) in self.names:
                weights.append(tensor)
        plain = name.strip("_")  # add, add_ and __add__ alike
        in_place = is_in_place(name, kwargs)
        before = None
        if in_place and tensors:
            self._keep_before_change(tensors[0])
            before = tensors[0].detach().clone() if weights else None
        pending: tuple[Call, ...] = ()
        if not self.inside and (plain in ELEMENTWISE or plain in RESHAPES or plain in ACTIVATIONS):
            pending = tuple(dict.fromkeys(call for mark in marks for call in mark.pending))
        output = func(*args, **kwargs)
        if self.left is not None and (depends or weights) and not in_place:
            self._count(output)
        if weights and (depends or self._repeats_over_batch(plain, output, weights)):
            return self._use(func, plain, args, kwargs, output, weights, pending, before)
        if weights:
            self._derive(func, plain, args, kwargs, output, weights)
            return output
        if depends:
            if plain in ACTIVATIONS and not self.inside:
                self._activate(pending, output)
            going_on = () if plain in ACTIVATIONS else pending
            for each in tensors_in(output if isinstance(output, (tuple, list)) else (output,)):
                same = mark_of(each)  # dropout in evaluation mode returns its argument itself, which calls still hold
                holders = same.holders if same is not None else ()
                set_mark(each, Mark(True, self._axis(plain, args, kwargs, tensors, each), going_on, holders=holders))
        return output

    def _use(
        self,
        func: Any,
        plain: str,
        args: Any,
        kwargs: Any,
        output: Any,
        found: list[Tensor],
        pending: tuple[Call, ...],
        before: Tensor | None,
    ) -> Any:
        """Record a call that took the parameters `found`; `before` is what an in-place function has overwritten."""
        if not isinstance(output, Tensor):
            return self._uncovered(func, args, kwargs, output, "returns several tensors")
        registered = RULES.get(func)
        names = registered.arguments if registered else ()
        arguments = {names[i] if i < len(names) else str(i): a for i, a in enumerate(args)} | dict(kwargs)
        weights, axes = dict[str, Weight](), dict[str, int | None]()
        for key, value in arguments.items():
            if isinstance(value, Tensor):
                mark = mark_of(value)
                weight = self._weight(value)
                if weight is not None:
                    weights[key] = weight
                elif mark is not None and mark.data:
                    axes[key] = mark.axis
        if len(weights) < len(found):
            return self._uncovered(func, args, kwargs, output, "takes its parameters in a list")
        axis = self._axis(plain, args, kwargs, [arguments[k] for k in axes], output) if axes else 0
        held = {k: arguments[k] for k in axes}
        if not axes:  # constants that were repeated for every input, such as BERT's token types
            axes = {k: 0 for k, v in arguments.items() if isinstance(v, Tensor) and k not in weights}
        if before is not None:
            first = next(iter(arguments))
            held.pop(first, None)
            arguments[first] = before
        if not output.requires_grad:
            # The first layers: from here on the graph is needed. A copy, because a leaf may not be changed in place.
            output = output.detach().requires_grad_().clone()
        elif before is None and output._base is not None:
            # Were a view changed in place later, autograd would go round it to its base, and the hook see nothing.
            output = output.clone()
        call = Call(
            function=func,
            arguments={k: v.detach() if isinstance(v, Tensor) else v for k, v in arguments.items()},
            positional=len(args),
            weights=weights,
            axes=axes,
            output=output.detach(),
            axis=axis,
            batch=self.batch,
            layer=self._layer(weights),
        )
        for key, tensor in held.items():
            mark = mark_of(tensor)
            assert mark is not None
            mark.holders += ((call, key),)
            call.versions[key] = tensor._version
        kept = pending if plain in ELEMENTWISE else ()
        set_mark(output, Mark(True, axis, (*kept, call), holders=((call, "output"),)))
        call.versions["output"] = output._version
        self.record(call, output)
        if plain in ACTIVATIONS and not self.inside:  # an activation with parameters of its own
            self._activate((*pending, call), output)
        return output

    def _derive(self, func: Any, plain: str, args: Any, kwargs: Any, output: Any, weights: list[Tensor]) -> None:
        """Remember of which parameters a function of parameters alone is made, and how."""
        sources = {id(tensor): weight for tensor in weights if (weight := self._weight(tensor)) is not None}
        names = tuple(dict.fromkeys(name for weight in sources.values() for name in weight.names))
        linear = len(sources) == 1 and plain in VIEWS and all(weight.linear for weight in sources.values())
        outputs = [output] if isinstance(output, Tensor) else list(output) if isinstance(output, (tuple, list)) else []

        def view(*parameters: Tensor, which: int | None) -> Tensor:
            given = dict(zip(names, parameters, strict=True))

            def seen(argument: Any) -> Any:
                if isinstance(argument, (list, tuple)):
                    return type(argument)(map(seen, argument))
                weight = sources.get(id(argument))
                if weight is None:
                    return argument
                own = [given[name] for name in weight.names]
                return weight.view(*own) if weight.view else own[0]

            result = func(*map(seen, args), **{key: seen(value) for key, value in kwargs.items()})
            return result if which is None else result[which]

        for position, each in enumerate(outputs):
            if isinstance(each, Tensor) and each.is_floating_point():
                which = None if each is output else position
                set_mark(each, Mark(weight=Weight(names, partial(view, which=which), linear)))

    # -- marks -------------------------------------------------------------------------------------------------------

    def _weight(self, tensor: Tensor) -> Weight | None:
        name = self.names.get(id(tensor))
        if name is not None:
            return Weight((name,))
        mark = mark_of(tensor)
        return mark.weight if mark is not None else None

    def _activate(self, pending: tuple[Call, ...], output: Tensor) -> None:
        with torch._C.DisableTorchFunction():  # what is computed for a mask is no part of the model
            for call in pending:
                if not call.masked and call.output.numel() == output.numel():
                    self.activated(call, output.detach().reshape(call.output.shape))

    def _count(self, output: Any) -> None:
        if isinstance(output, Tensor) and output._base is None:
            assert self.left is not None
            self.left -= output.nbytes
            if self.left < 0:
                raise TooLarge

    def _keep_before_change(self, tensor: Tensor) -> None:
        """Copy what recorded calls still have to read, before an in-place function overwrites it."""
        mark = mark_of(tensor)
        if mark is None or not mark.holders:
            return
        copy = tensor.detach().clone()
        for call, name in mark.holders:
            if name == "output":
                call.output = copy
            else:
                call.arguments[name] = copy
            call.versions.pop(name, None)
        mark.holders = ()

    def _repeats_over_batch(self, plain: str, output: Any, weights: list[Tensor]) -> bool:
        """Whether a parameter is repeated for every input of the batch: a class token, or BERT's token types."""
        if plain == "embedding":
            return output.dim() > 2 and output.shape[0] == self.batch
        if plain == "repeat" and output.dim() == weights[0].dim() and weights[0].dim() > 0:
            return output.shape[0] == self.batch * weights[0].shape[0]  # heads of DeBERTa's positions, input by input
        return (
            plain in ("expand", "repeat", "broadcast_to")
            and output.shape[0] == self.batch
            and (output.dim() > weights[0].dim() or weights[0].shape[0] == 1)
        )

    def _axis(self, plain: str, args: Any, kwargs: Any, tensors: list[Tensor], output: Tensor) -> int | None:
        """Along which axis of the output the inputs of the batch lie; None when that cannot be told."""
        source = next((t for t in tensors if (m := mark_of(t)) is not None and m.data), None)
        if source is None:
            return 0
        mark = mark_of(source)
        assert mark is not None
        axis = mark.axis
        if axis is None:
            return None
        moved = moved_axis(plain, args, kwargs, axis, source.dim())
        if moved is not None:
            return moved
        if plain not in ("reshape", "view", "flatten", "unflatten"):
            axis += max(0, output.dim() - source.dim()) if plain in ELEMENTWISE else 0
            if output.dim() > axis and output.shape[axis] == self.batch:
                return axis
        if axis == 0 and output.dim() and output.shape[0] % self.batch == 0:
            return 0
        candidates = [i for i, size in enumerate(output.shape) if size == self.batch]
        return candidates[0] if len(candidates) == 1 else None

    # -- modules -----------------------------------------------------------------------------------------------------

    def _layer(self, weights: dict[str, Weight]) -> str:
        """The module running now if one of the parameters is its own, else the module that owns the first."""
        names = [name for weight in weights.values() for name in weight.names]
        if self.modules:
            layer, own = self.modules[-1]
            if any(n in own for n in names):
                return layer
        return names[0].rpartition(".")[0]

    def _uncovered(self, func: Any, args: Any, kwargs: Any, output: Any, why: str) -> Any:
        """Remember that these parameters are not accounted for, and go on."""
        for tensor in tensors_in((*args, *kwargs.values())):
            weight = self._weight(tensor)
            for name in weight.names if weight else ():
                self.unruled[name] = f"{func.__name__} {why}"
        tensors = list(tensors_in((*args, *kwargs.values())))
        for each in tensors_in(output if isinstance(output, (tuple, list)) else (output,)):
            set_mark(each, Mark(True, self._axis(func.__name__, args, kwargs, tensors, each)))
        return output

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Follow which modules run, treat activation modules as one activation each, and record what is called."""
        with ExitStack() as stack:
            stack.enter_context(_plain_attention())
            for name, module in self.structure.modules.items():
                if is_activation(module):
                    stack.enter_context(_hooks(module, self._enter_activation, self._leave_activation))
                own = self.structure.own.get(name)
                if own:
                    stack.enter_context(_hooks(module, self._enter_module(name, own), self._leave_module))
            stack.enter_context(self)
            yield

    def _enter_module(self, name: str, own: frozenset[str]) -> Callable[[nn.Module, Any], None]:
        return lambda module, args: self.modules.append((name, own))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self.modules.pop()

    def _enter_activation(self, module: nn.Module, args: Any) -> None:
        mark = mark_of(args[0]) if args and isinstance(args[0], Tensor) else None
        module.__dict__.setdefault("_provfl_pending", []).append(mark.pending if mark and not self.inside else ())
        self.inside += 1

    def _leave_activation(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside -= 1
        stack = module.__dict__["_provfl_pending"]
        pending = stack.pop()
        if not stack:
            del module.__dict__["_provfl_pending"]
        if isinstance(output, Tensor) and not self.inside:
            own = tuple(c for c in getattr(mark_of(output), "pending", ()) if c.layer and c not in pending)
            self._activate((*pending, *own), output)
            mark = mark_of(output)
            if mark is not None:
                mark.pending = ()


@contextmanager
def _hooks(module: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> Iterator[None]:
    handles = (module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep transformer layers off their fused path, which hides its parameters and has no gradient."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def check_unchanged(call: Call) -> None:
    """Raise RunError when a tensor that a call still has to read was overwritten in a way that went unseen."""
    for name, version in call.versions.items():
        tensor = call.output if name == "output" else call.arguments[name]
        if tensor._version != version:
            raise RunError(
                f"layer {call.layer!r}: its {name} was changed in place through another view before it could be read; "
                "use the out-of-place form of that operation"
            )
