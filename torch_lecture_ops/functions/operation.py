"""The shell around every function that is more than an activation of one tensor: all that is not its formula."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import compress
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch import pyfunctorch
from torch.autograd import Function, forward_ad

from ..checks import wrong_type
from ..formula import COMPILED, PLAIN, Alike, EngineUnavailable, Formula, note_fallback, operand
from .operator import as_operator

# Looked up once: a call with a small tensor is mostly lookups. Without torch's private ones the slower way is taken.
is_compiling = torch.compiler.is_compiling
is_grad_enabled = torch.is_grad_enabled
jit_traces = getattr(torch._C, "_get_tracing_state", torch.jit.is_tracing)  # both known to the compiler
transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
# Modes that see operations before autograd does are not counted there.
early_modes = partial(torch._C._dispatch_tls_is_dispatch_key_included, torch._C.DispatchKey.PreDispatch)
is_profiling = getattr(torch.autograd, "_profiler_enabled", lambda: False)
STRIDED = torch.strided
CPU = torch.device("cpu")
IS_TORCH_2_11 = torch.__version__.startswith("2.11.")


def is_exporting() -> bool:
    """Whether torch.export follows. (torch.compiler.is_exporting of torch 2.11 is True under torch.compile, too.)"""
    return getattr(torch.compiler, "_is_exporting_flag", False)


class Operation(Function):
    """A function of `tensors` tensors and then options, which computes by kernels where nobody watches.

    A subclass says how in four static methods, or in an object that has them, `rule`. What comes by kernels must also
    come by torch's operators (`by_kernel` is False): for transforms, compilers and gradients of gradients.

        evaluate(inputs, by_kernel) -> y, kept
            The output, and what kernels leave for backward besides it and the inputs.
        keep(inputs, y, kept) -> saved
            The tensors to save for backward; None for what there is not. `kept` may be ().
        pullback(g, saved, options, needed, by_kernel) -> gradients
            The gradients of the tensors from that of the output.
        pushforward(tangents, saved, options) -> tangent
            The tangent of the output from those of the tensors (None for none).

    `keeps` is how an error begins if what is saved was written to before backward.

    `spares` names, for each tensor, the places of those in `saved` that its gradient does not need. What none of the
    wanted gradients needs is not saved: `pullback` gets a tensor like it, with any values.

    Call it as `Softmax.call(x, -1)`, with all arguments in their order.
    """

    tensors: ClassVar[int] = 1
    rule: ClassVar[Any] = None
    keeps: ClassVar[str] = "what it keeps for its gradient was written to"
    spares: ClassVar[Sequence[Collection[int]]] = ()  # without an entry: none
    call: Any  # made for each subclass
    generate_vmap_rule = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        rule: Any = cls.rule or cls
        if not hasattr(rule, "evaluate"):  # a class to derive from
            return
        count, evaluate, keep = rule.tensors, rule.evaluate, rule.keep
        pullback, pushforward = rule.pullback, rule.pushforward
        spares = _Spares(rule.spares)
        never = spares[(True,) * count]

        def remember(ctx: Any, inputs: tuple[Any, ...], saved: Sequence[Any], spared: Collection[int]) -> Sequence[Any]:
            """What to save, without these."""
            if not spared:
                ctx.options = inputs[count:], ()
                return saved
            ctx.options = inputs[count:], [(k, saved[k].shape, saved[k].dtype) for k in spared]
            return [None if k in spared else t for k, t in enumerate(saved)]

        def forward(*inputs: Any) -> Tensor:
            return evaluate(inputs, nobody_watches())[0]

        def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
            needed, by_kernel = ctx.needs_input_grad, not is_grad_enabled() and nobody_watches() and has_memory(g)
            options, spared = ctx.options
            try:
                saved = ctx.saved_tensors
            except RuntimeError as error:
                raise written_to(cls.__name__, cls.keeps, error) from None
            saved = _recalled(saved, spared, g) if spared else saved
            gradients = pullback(g, saved, options, needed[:count], by_kernel)
            return gradients + (None,) * (len(needed) - count)

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.set_materialize_grads(False)  # no tangent is no zero, which infinities would turn into NaN
            saved = remember(ctx, inputs, keep(inputs, output, ()), never)  # a tangent may use what no gradient does
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        def jvp(ctx: Any, *tangents: Any) -> Tensor:
            like, (options, spared) = next(tangent for tangent in tangents if tangent is not None), ctx.options
            return pushforward(tangents[:count], _recalled(ctx.saved_tensors, spared, like), options)

        # Two twins without a jvp: for torch.export, which refuses a function with a jvp and cannot follow the way to a
        # kernel, and for the plain call, which alone can keep what kernels leave.
        def traced_forward(ctx: Any, *inputs: Any) -> Tensor:
            y = traced_output(evaluate(inputs, False)[0])
            ctx.save_for_backward(*remember(ctx, inputs, keep(inputs, y, ()), never))  # the compiler drops the rest
            return y

        def traced_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
            needed, (options, spared) = ctx.needs_input_grad, ctx.options
            gradients = pullback(g, _recalled(ctx.saved_tensors, spared, g), options, needed[:count], False)
            return gradients + (None,) * (len(needed) - count)

        def plain_forward(ctx: Any, *inputs: Any) -> Tensor:
            y, kept = evaluate(inputs, not dispatch_modes())
            ctx.save_for_backward(*remember(ctx, inputs, keep(inputs, y, kept), spares[ctx.needs_input_grad]))
            return y

        traced, plain = twin(cls, traced_forward, traced_backward), twin(cls, plain_forward, backward)
        plain_apply = shortened(plain)

        def calling(outside: bool) -> Callable[..., Tensor]:
            """`call`; or the same from inside of the operator that compilers see in its place."""

            def call(*inputs: Any) -> Tensor:
                try:
                    if outside and is_compiling():
                        if is_exporting():  # a program without our operator
                            return traced.apply(*_distinct(inputs, count))
                        return compiled([*inputs[:count]], *inputs[count:])
                    if jit_traces() or early_modes():  # which follow operators and differentiate them, no Functions
                        return evaluate(inputs, False)[0]
                    if transforms_active() or forward_ad._current_level >= 0:
                        return evaluate(inputs, False)[0] if is_beyond_functions() else cls.apply(*inputs)
                    if is_grad_enabled():
                        for tensor in inputs[:count]:
                            if tensor is not None and tensor.requires_grad:
                                return plain_apply(*inputs)
                    if is_profiling():  # which learns the name of a function that is applied
                        return plain_apply(*inputs)
                    return evaluate(inputs, not dispatch_modes())[0]
                except (AttributeError, TypeError):
                    _check_tensors(cls.__name__, inputs[:count])
                    raise

            return call

        call = calling(True)
        compiled = as_operator(cls, calling(False), *getattr(rule, "formulas", ()))
        for method in (forward, setup_context, backward, jvp, call):
            setattr(cls, method.__name__, staticmethod(method))


def _check_tensors(who: str, inputs: tuple[Any, ...]) -> None:
    """Raise TypeError for what is no tensor, nor None."""
    for position, tensor in enumerate(inputs, start=1):
        if tensor is not None and not isinstance(tensor, Tensor):
            raise wrong_type(who, "inputs", position, "Tensor", tensor) from None


def twin(cls: type[Function], forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """A Function of the same name with this forward(ctx, ...) and backward."""
    # Until torch 2.14 the compiler takes a forward with as many parameters as `apply` has arguments for one without
    # ctx, which forward(ctx, *inputs) with two inputs is not.
    forward.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(cls.__name__, (Function,), methods | {"__module__": cls.__module__})


def written_to(name: str, keeps: str, error: RuntimeError) -> RuntimeError:
    """The error of autograd for a saved tensor that was written to, with the function's name and a remedy."""
    if "modified by an inplace operation" not in str(error):
        return error
    return RuntimeError(
        f"{name}: {keeps}. Write to a clone (x = x.clone()), or only after backward. torch says: {error}"
    )


def traced_output(y: Tensor) -> Tensor:
    """y as an output of a forward that is compiled.

    torch 2.11 loses its gradient, without a word, if the last operation had nothing to do: x.to(x.dtype) is x itself.
    """
    return y.view_as(y) if IS_TORCH_2_11 else y


def shortened(function: Any) -> Any:
    """Its `apply`, on the shortest ways forward and back.

    Until torch 2.14 `apply` is a slow Python method that serves transforms; below it lies the real one. And a node of
    the graph looks for the backward of its function in Python; from now on those of this function call it at once.
    """
    if node := getattr(function, "_backward_cls", None):
        node.apply = function.backward
    return getattr(super(Function, function), "apply", function.apply)


def is_beyond_functions() -> bool:
    """Whether transforms are nested here that torch's Functions cannot do: then the operators of the value must do.

    Of forward mode in forward mode torch loses the outer derivative for every Function: it is silently 0. And
    `torch.func.functionalize` takes none.
    """
    keys = [interpreter.key() for interpreter in pyfunctorch.retrieve_all_functorch_interpreters()]
    return keys.count(TransformType.Jvp) > 1 or TransformType.Functionalize in keys


class _Spares(dict[tuple[bool, ...], tuple[int, ...]]):
    """The places of what is not saved, by which gradients are needed."""

    def __init__(self, of_each: Sequence[Collection[int]]) -> None:
        super().__init__()
        self.of_each = list(map(frozenset, of_each))

    def __missing__(self, needed: tuple[bool, ...]) -> tuple[int, ...]:
        spares = list(compress(self.of_each, needed))
        self[needed] = tuple(sorted(frozenset.intersection(*spares))) if spares else ()
        return self[needed]


def _recalled(saved: Sequence[Any], spared: Collection[tuple[int, torch.Size, torch.dtype]], g: Tensor) -> list[Any]:
    """What was saved, and stand-ins for the rest."""
    saved = list(saved)
    for k, shape, dtype in spared:
        saved[k] = _stand_in(shape, dtype, g)
    return saved


def _stand_in(shape: torch.Size, dtype: torch.dtype, g: Tensor) -> Tensor:
    """A tensor of this shape and dtype: g itself where it fits."""
    if g.shape != shape:
        return g.new_empty(shape, dtype=dtype)
    return g if g.dtype is dtype and g.is_contiguous() else torch.empty_like(g, dtype=dtype)


def lying_as(y: Tensor, x: Tensor) -> Tensor:
    """x, or a copy of it that lies in memory as y does, with all signs there."""
    return x if x.stride() == y.stride() and not x.is_neg() else torch.empty_like(y).copy_(x)


def nobody_watches() -> bool:
    """No transform, no forward mode, no tracer and no mode that sees operations: a kernel may run."""
    return not (transforms_active() or forward_ad._current_level >= 0 or dispatch_modes() or jit_traces())


def _distinct(inputs: tuple[Any, ...], count: int) -> list[Any]:
    """The compiler takes no tensor twice: the second time it gets a view."""
    distinct: list[Any] = []
    for value in inputs:
        is_again = len(distinct) < count and value is not None and any(value is other for other in distinct)
        distinct.append(value.view_as(value) if is_again else value)
    return distinct


def has_values(tensor: Tensor) -> bool:
    """That may be read: not while compiling or tracing, nor of a device, which would wait."""
    is_watched = is_compiling() or dispatch_modes() or early_modes() or jit_traces()
    return not is_watched and type(tensor) is Tensor and tensor.is_cpu


def has_memory(g: Tensor) -> bool:
    """Whether it holds values itself. Not if it is a wrapper around a tensor, such as that of is_grads_batched=True."""
    if type(g) not in PLAIN:
        return False
    try:
        g.data_ptr()
    except RuntimeError:
        return False
    return True


def as_number(tensor: Tensor) -> Number:
    """A tensor of one number, as a kernel takes it: one on a device stays there."""
    return tensor.item() if tensor.is_cpu else tensor.resolve_neg()


# A tensor, how many elements its rows are apart, and which element is the first.
Column = tuple[Tensor, int, int]
# What an engine on a device leaves there, and takes from there, for nobody to wait for it.
Total = float | Tensor
Number = float | Tensor
_NONE = range(0)


class RowFormula:
    """A formula over rows: by its kernel, or by torch's operators."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self._kernels: dict[Any, Any] = {}
        self._seen: Seen | None = None

    def run(
        self,
        shape: tuple[int, int, int],
        columns: Sequence[Column],
        numbers: Sequence[Number] = (),
        interleaved: range = _NONE,
        watched: Sequence[Tensor] = (),
        key: Any = None,
    ) -> Sequence[Total] | None:
        """The totals of the kernel, if it can take these tensors; else None.

        Arguments:
            shape: the number of rows, their length, the length of the last one.
            columns: those of the formula, outputs too.
            numbers: those of the formula; tensors of one number, too.
            interleaved: which columns lie in one, see `RowKernel`; it stands in `columns` once.
            watched, key: if given, what the rest follows from, for `seen_like`.
        """
        device = columns[0][0].device
        for tensor, _, _ in columns:
            if type(tensor) not in PLAIN or tensor.layout is not STRIDED or tensor.is_neg() or tensor.device != device:
                return None
        tensors = [tensor for tensor, _, _ in columns]
        dtypes = [tensor.dtype for tensor in tensors]
        kernel = self._kernels.get((device.type, *dtypes, interleaved)) or self._build(device.type, dtypes, interleaved)
        if kernel is None:
            return None
        steps = [(stride, first * tensor.itemsize) for tensor, stride, first in columns]
        call = kernel.prepare(shape, steps, device)
        addresses = [tensor.data_ptr() for tensor in tensors]
        totals = _totals(call, addresses, numbers)
        elements = (shape[0] - 1) * shape[1] + shape[2]
        was_copied = any(tensor.data_ptr() not in addresses for tensor in watched)
        if totals is not None and watched and elements and not was_copied:
            self._seen = Seen(Alike(watched).check, key, shape, elements, call)
        return totals

    def seen_like(self, watched: Sequence[Tensor], key: Any = None) -> Seen | None:
        """What the call before found out, if its tensors, of the same number, looked the same."""
        seen = self._seen
        return seen if seen is not None and seen.key == key and seen.alike(*watched) else None

    def _build(self, device: str, dtypes: list[torch.dtype], interleaved: range) -> Any:
        if device not in COMPILED or not all(dtype in COMPILED[device].row_dtypes for dtype in dtypes):
            return None
        key = (device, *dtypes, interleaved)
        if interleaved:
            dtypes[interleaved[0] : interleaved[0] + 1] = [dtypes[interleaved[0]]] * len(interleaved)
        try:
            self._kernels[key] = COMPILED[device].rows(self.formula, tuple(dtypes), interleaved)
        except EngineUnavailable as reason:
            note_fallback(str(reason), "torch's operators")
        return self._kernels.get(key)

    def on_tensors(self, *columns: Tensor, numbers: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The results by torch's operators, for rows in the last dimension; half types in float32."""
        return self.formula(tuple(map(upcast, columns)), tuple(numbers))


class Seen(NamedTuple):
    """What an earlier call found out: for tensors that look the same, only the addresses are new.

    Looking at them costs as much as all the rest of a call with small tensors.
    """

    alike: Callable[..., bool]  # see `Alike.check`
    key: Any
    shape: tuple[int, int, int]
    elements: int  # of such a shape; not 0
    call: Callable[..., Sequence[Total]]  # see `RowKernel.prepare`

    def run(self, tensors: Sequence[Tensor], numbers: Sequence[Number] = ()) -> Sequence[Total] | None:
        """As `RowFormula.run`, with the tensors of the columns."""
        return _totals(self.call, map(Tensor.data_ptr, tensors), numbers)


def _totals(call: Callable[..., Sequence[Total]], addresses: Iterable[int], numbers: Sequence[Number]) -> Any:
    """The totals of a kernel; None if it cannot be built. (One for unaligned tensors is built when such come.)"""
    try:
        return call(addresses, numbers)
    except EngineUnavailable as reason:
        note_fallback(str(reason), "torch's operators")
        return None


def upcast(tensor: Tensor) -> Tensor:
    """What a formula computes with: float32 for half types."""
    return operand(tensor, "array")
