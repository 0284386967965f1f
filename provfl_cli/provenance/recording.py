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
from .axes import output_axis, repeated_axis
from .call_reading import arguments_of, not_followed
from .calls import Call, Entangled, TooLarge, Weight
from .marks import (
    ACTIVATIONS,
    ELEMENTWISE,
    NUMBERS,
    RESHAPES,
    SILENT,
    VIEWS,
    Mark,
    is_activation,
    is_in_place,
    mark_of,
    set_mark,
    tensors_in,
)
from .nested_calls import apart, floating, in_one, joined, replaced
from .rules.recurrent import RECURRENT, layout, without_cudnn
from .rules.registry import RULES
from .rules.rewrites import REWRITES
from .structure import Structure
from .torch_modes import eager, hooks, plain_attention

CUT = "no gradient of the prediction reaches it"


class Recorder(TorchFunctionMode):
    """Collects the calls of one forward pass.

    Args:
        structure: of the module that will run; its parameters are found by identity.
        batch: number of inputs.
        record: called with each call as soon as its output exists, and with the output that the model goes on with.
        activated: called with a call and the output of its activation function.
        limit: bytes that the outputs of all functions may take together; None: any.

    Raises:
        TooLarge: from within the forward pass, when they take more.
        Entangled: from within the forward pass, when it cannot be told which input of the batch is where.
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
        self.shown: set[str] = set()  # functions called with data or parameters, and what was done with parameters
        self.lost = False  # whether some tensor of data has no axis of inputs any more, or became a Python number
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
        if name == "__get__":  # an attribute, such as .T
            name = func.__self__.__name__
        if depends or weights:
            self.shown.add(name)
            self.lost = self.lost or name in NUMBERS
        plain = name.strip("_")  # add, add_ and __add__ alike
        in_place = is_in_place(name, kwargs)
        before = None
        if in_place and tensors:
            self._keep_before_change(tensors[0])
            before = tensors[0].detach().clone() if weights else None
        pending: tuple[Call, ...] = ()
        if not self.inside and (plain in ELEMENTWISE or plain in RESHAPES or plain in ACTIVATIONS):
            pending = tuple(dict.fromkeys(call for mark in marks for call in mark.pending))
        output = (without_cudnn(func) if func in RECURRENT else func)(*args, **kwargs)
        if self.left is not None and (depends or weights) and not in_place:
            self._count(output)
        repeated = repeated_axis(plain, output, weights, self.batch) if weights and not depends else None
        if weights and (depends or repeated is not None):
            why = not_followed(tensors, output)
            if why is not None:
                return self._left_alone(func, args, kwargs, output, weights, why)
            return self._use(func, plain, args, kwargs, output, weights, pending, before, repeated)
        if weights:
            why = not_followed(tensors, output)
            if why is None:
                self._derive(func, plain, args, kwargs, output, weights)
            else:
                self._note(weights, why)
            return output
        if depends:
            if plain in ACTIVATIONS and not self.inside:
                self._activate(pending, output)
            going_on = () if plain in ACTIVATIONS else pending
            for tensor in tensors_in(output if isinstance(output, (tuple, list)) else (output,)):
                same = mark_of(tensor)  # dropout in evaluation mode returns its argument itself, which calls still hold
                holders = same.holders if same is not None else ()
                axis = output_axis(plain, args, kwargs, tensors, tensor, self.batch)
                self.lost = self.lost or axis is None
                set_mark(tensor, Mark(True, axis, going_on, holders=holders))
        return output

    def _use(
        self,
        func: Any,
        plain: str,
        args: Any,
        kwargs: Any,
        output: Any,
        parameters: list[Tensor],
        pending: tuple[Call, ...],
        before: Tensor | None,
        repeated: int | None,
    ) -> Any:
        """Record a call that took `parameters`.

        Args:
            before: what an in-place function has overwritten.
            repeated: along which axis parameters were repeated for every input.
        """
        function, arguments, positional = arguments_of(func, args, kwargs)
        weights, axes = dict[str, Weight](), dict[str, int | None]()
        places = layout(func, args)
        states = {id(state) for state in args[1]} if places is not None and isinstance(args[1], tuple) else set()
        states |= {id(args[1])} if places is not None and isinstance(args[1], Tensor) else set()
        for key, value in arguments.items():
            if isinstance(value, Tensor):
                mark = mark_of(value)
                weight = self._weight(value)
                if weight is not None:
                    weights[key] = weight
                elif places is not None:  # states that are not of the data are still one for every input
                    axes[key] = places.states if id(value) in states else places.input
                elif mark is not None and mark.data:
                    axes[key] = mark.axis
        if len(weights) < len({id(parameter) for parameter in parameters}):
            return self._left_alone(func, args, kwargs, output, parameters, f"{plain} takes it in a list of lists")
        held = {k: arguments[k] for k in axes}
        sources = list(held.values())
        if not axes:  # constants that were repeated for every input, such as BERT's token types
            axes = {k: 0 for k, v in arguments.items() if isinstance(v, Tensor) and k not in weights}
        if before is not None:
            first = next(iter(arguments))
            held.pop(first, None)
            arguments[first] = before
        outputs = floating(output)
        if places is not None:
            out_axes: list[int | None] = list(places.outputs)
        elif sources:
            out_axes = [output_axis(plain, args, kwargs, sources, tensor, self.batch) for tensor in outputs]
        else:
            out_axes = [repeated or 0]
        layer = self._layer(weights)
        if isinstance(output, Tensor):
            result, axis = self._differentiable(output, before), out_axes[0]
            outputs = [result]
        else:
            if self.batch > 1 and None in out_axes:
                raise Entangled(f"layer {layer!r} ({func.__name__})")
            rows = [tensor.shape[a] if a is not None else 1 for tensor, a in zip(outputs, out_axes, strict=True)]
            function = joined(function, out_axes, self.batch, rows)
            result, axis = self._differentiable(in_one(outputs, out_axes, self.batch, rows), before), 0
            outputs = apart(result, outputs, out_axes, self.batch)
            output = replaced(output, outputs)
        call = Call(
            function=function,
            arguments={k: v.detach() if isinstance(v, Tensor) else v for k, v in arguments.items()},
            positional=positional,
            weights=weights,
            axes=axes,
            output=result.detach(),
            axis=axis,
            batch=self.batch,
            layer=layer,
        )
        if self.left is not None and func not in RULES:  # each input has a gradient of its own, as large as the weights
            self._spend(self.batch * sum(arguments[k].nbytes for k in weights))
        for key, tensor in held.items():
            mark = mark_of(tensor)
            if mark is not None:
                mark.holders += ((call, key),)
                call.versions[key] = tensor._version
        kept = (*pending, call) if plain in ELEMENTWISE else (call,)
        single = isinstance(output, Tensor)
        for tensor, out_axis in zip(outputs, out_axes, strict=True):
            set_mark(
                tensor, Mark(True, out_axis, kept, holders=((call, "output"),)) if single else Mark(True, out_axis)
            )
        call.versions["output"] = result._version
        self.shown.update(f"{plain} of {name}" for weight in weights.values() for name in weight.names)
        self.record(call, result)
        if plain in ACTIVATIONS and not self.inside:  # an activation with parameters of its own
            self._activate((*pending, call), result)
        return result if single else output

    @staticmethod
    def _differentiable(output: Tensor, before: Tensor | None) -> Tensor:
        """What the model goes on with in place of an output: a tensor whose gradient is told."""
        if not output.requires_grad:
            # The first layers: from here on the graph is needed. A copy, because a leaf may not be changed in place.
            return output.detach().requires_grad_().clone()
        if before is None and output._base is not None:
            # Were a view changed in place later, autograd would go round it to its base, and the hook see nothing.
            return output.clone()
        return output

    def _derive(self, func: Any, plain: str, args: Any, kwargs: Any, output: Any, weights: list[Tensor]) -> None:
        """Remember of which parameters a function of parameters alone is made, and how."""
        sources = {id(tensor): weight for tensor in weights if (weight := self._weight(tensor)) is not None}
        names = tuple(dict.fromkeys(name for weight in sources.values() for name in weight.names))
        self.shown.update(f"{plain} of {name}" for name in names)
        linear = len(sources) == 1 and plain in VIEWS and all(weight.linear for weight in sources.values())
        outputs = [output] if isinstance(output, Tensor) else list(output) if isinstance(output, (tuple, list)) else []

        def view(*parameters: Tensor, which: int | None) -> Tensor:
            by_name = dict(zip(names, parameters, strict=True))

            def seen(argument: Any) -> Any:
                if isinstance(argument, (list, tuple)):
                    return type(argument)(map(seen, argument))
                weight = sources.get(id(argument))
                if weight is None:
                    return argument
                own = [by_name[name] for name in weight.names]
                return weight.view(*own) if weight.view else own[0]

            result = func(*map(seen, args), **{key: seen(value) for key, value in kwargs.items()})
            chosen: Tensor = result if which is None else result[which]
            return chosen

        for position, tensor in enumerate(outputs):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                which = None if tensor is output else position
                set_mark(tensor, Mark(weight=Weight(names, partial(view, which=which), linear)))

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
        for tensor in tensors_in(output if isinstance(output, (tuple, list)) else (output,)):
            if tensor._base is None:
                self._spend(tensor.nbytes)

    def _spend(self, numbers: int) -> None:
        assert self.left is not None
        self.left -= numbers
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

    # -- modules -----------------------------------------------------------------------------------------------------

    def _layer(self, weights: dict[str, Weight]) -> str:
        """The module running now if one of the parameters is its own, else the module that owns the first."""
        names = [name for weight in weights.values() for name in weight.names]
        if self.modules:
            layer, own = self.modules[-1]
            if any(n in own for n in names):
                return layer
        return names[0].rpartition(".")[0]

    def _note(self, weights: list[Tensor], why: str) -> None:
        """Remember why parameters are not followed."""
        for tensor in weights:
            weight = self._weight(tensor)
            for name in weight.names if weight else ():
                self.unruled.setdefault(name, why)
                self.shown.add(f"{name}: {why}")

    def _left_alone(self, func: Any, args: Any, kwargs: Any, output: Any, weights: list[Tensor], why: str) -> Any:
        """Go on without recording a call: what it does with its parameters is left to `alone`."""
        self._note(weights, why)
        tensors = list(tensors_in((*args, *kwargs.values())))
        for tensor in tensors_in(output if isinstance(output, (tuple, list)) else (output,)):
            set_mark(tensor, Mark(True, output_axis(func.__name__, args, kwargs, tensors, tensor, self.batch)))
        return output

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Follow which modules run, treat activation modules as one activation each, and record what is called."""
        with ExitStack() as stack:
            stack.enter_context(plain_attention())
            stack.enter_context(eager())
            for name, module in self.structure.modules.items():
                if is_activation(module):
                    stack.enter_context(hooks(module, self._enter_activation, self._leave_activation))
                own = self.structure.own.get(name)
                if own:
                    stack.enter_context(hooks(module, self._enter_module(name, own), self._leave_module))
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


def check_unchanged(call: Call) -> None:
    """Raise RunError when a tensor that a call still has to read was overwritten in a way that went unseen."""
    for name, version in call.versions.items():
        tensor = call.output if name == "output" else call.arguments[name]
        if tensor._version != version:
            raise RunError(
                f"layer {call.layer!r}: its {name} was changed in place through another view before it could be read; "
                "use the out-of-place form of that operation"
            )
