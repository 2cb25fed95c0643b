"""The shell around every elementwise function: all that is not its formula."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, empty_like
from torch.autograd import Function, forward_ad
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from ..checks import wrong_type
from ..formula import COMPILED, PLAIN, EngineUnavailable, Formula, Latex, note_fallback, operand, threads_for
from .notation import of_chain, of_slope, of_value
from .operation import (
    STRIDED,
    dispatch_modes,
    early_modes,
    has_memory,
    is_beyond_functions,
    is_compiling,
    is_exporting,
    is_grad_enabled,
    is_profiling,
    jit_traces,
    lying_as,
    nobody_watches,
    shortened,
    traced_output,
    transforms_active,
    twin,
    written_to,
)
from .operator import as_operator


class Elementwise(Function):
    """An activation made of two formulas: its value and its slope, the local gradient of the slides.

        y = value(x)          dL/dx = dL/dy · slope          (backward: [upstream] × [local])

    The argument of `slope` is named x or y: the function's input or its output, whichever is to be saved (without an
    argument, nothing is). The Jacobian is diagonal, so the same slope gives backward and the forward-mode derivative.
    Where a product would be wrong, because a slope of zero must stop even an infinite gradient, write `chain(g, y)`
    instead: the gradient that comes out when g comes in.

    Keyword-only arguments of `value` are numbers, the same for all elements; `slope` names those that it needs.

    Formulas are written with + - * / **, comparisons and the functions of `torch_lecture_ops.formula`. From them come
    the compiled kernels for CPU tensors, and everything that a built-in function can do: double backward, forward
    mode, torch.func transforms, torch.compile, half types with one rounding (computed in float32), any memory layout,
    which the result keeps.

    Call the function as `Sigmoid.call(x)`, or `ReLU.call(x, inplace=True)` to store the result in x; numbers follow in
    their order: `ELU.call(x, False, 1.0)`.
    """

    value: Any  # static methods of the subclass
    slope: Any
    chain: Any
    call: Any  # made for it
    integers: ClassVar[Literal["convert", "keep", "refuse"]] = "convert"  # as the built-in treats them
    generate_vmap_rule = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        numbers_of_value = numbers_of(cls.value)
        if "slope" in cls.__dict__:
            slope = cls.slope
            cls.chain = staticmethod(lambda g, *saved, **numbers: g * slope(*saved, **numbers))
            kept, numbers_of_slope = tensors_of(slope), numbers_of(slope)
        else:
            (_, *kept), numbers_of_slope = tensors_of(cls.chain), numbers_of(cls.chain)
        if kept not in ([], ["x"], ["y"]):
            raise TypeError(
                f"{cls.__name__}: the slope takes x (the input) or y (the output), got {', '.join(map(repr, kept))}"
            )
        if unknown := set(numbers_of_slope).difference(numbers_of_value):
            raise TypeError(f"{cls.__name__}: the slope asks for {unknown.pop()!r}, which the value does not have")
        saves_input, saves_nothing = kept == ["x"], not kept
        value = _Evaluator(Formula(cls.value, ("array",), (1,), numbers_of_value, cls.__name__), cls.integers)
        chain = _Evaluator(
            Formula(
                cls.chain, ("array",) * (1 + len(kept)), (1 + len(kept),), numbers_of_slope, f"{cls.__name__}'s slope"
            ),
            numbers=None if numbers_of_slope == numbers_of_value else [*map(numbers_of_value.index, numbers_of_slope)],
        )
        nothing = (None,) * len(numbers_of_value)  # the gradients of the numbers

        def operands(ctx: Any, g: Tensor) -> tuple[Any, ...]:
            """What chain is evaluated with."""
            numbers = ctx.numbers if nothing else ()
            return (g, numbers) if saves_nothing else (*ctx.saved_tensors, numbers, g)

        keeps = f"its {'input' if saves_input else 'output'}, which it keeps for its gradient, was written to"

        def forward(x: Tensor, *numbers: float) -> Tensor:
            if transforms_active() or forward_ad._current_level >= 0:
                return value.on_tensors(x, numbers)
            return value.by_kernel(x, numbers)

        def backward(ctx: Any, g: Tensor) -> Any:
            if is_grad_enabled() or transforms_active() or forward_ad._current_level >= 0:
                dx = chain.backward_on_tensors(*operands(ctx, g))
            elif saves_nothing:
                dx = chain.run(g, ctx.numbers if nothing else ())
            else:
                try:
                    (saved,) = ctx.saved_tensors
                except RuntimeError as error:
                    raise written_to(cls.__name__, keeps, error) from None
                dx = chain.run_pair(g, saved, ctx.numbers) if nothing else chain.run_pair(g, saved)
            return (dx, *nothing) if nothing else dx

        def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
            return chain.on_tensors(*operands(ctx, tangent))

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            saved = () if saves_nothing else (inputs[0] if saves_input else output,)
            ctx.numbers = inputs[1:]
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        # Two twins without a jvp, whose one forward costs less than two methods: for torch.export, which refuses a
        # function with a jvp and cannot follow the way to a kernel, and for the plain call.
        def traced_forward(ctx: Any, x: Tensor, *numbers: float) -> Tensor:
            y = traced_output(value.on_tensors(x, numbers))
            ctx.numbers = numbers
            if not saves_nothing:
                ctx.save_for_backward(x if saves_input else y)
            return y

        def traced_backward(ctx: Any, g: Tensor) -> Any:
            dx = chain.backward_on_tensors(*operands(ctx, g))
            return (dx, *nothing) if nothing else dx

        def plain_forward(ctx: Any, x: Tensor, *numbers: float) -> Tensor:
            y = value.run(x, numbers)
            if nothing:
                ctx.numbers = numbers
            if not saves_nothing:
                ctx.save_for_backward(x if saves_input else y)
            return y

        def inplace_forward(ctx: Any, x: Tensor, *numbers: float) -> Tensor:
            ctx.numbers = numbers
            value.in_place(x, numbers)
            ctx.mark_dirty(x)
            if not saves_nothing:
                ctx.save_for_backward(x)
            return x

        traced, plain = twin(cls, traced_forward, traced_backward), twin(cls, plain_forward, backward)
        plain_apply, inplace_apply = shortened(plain), shortened(twin(cls, inplace_forward, backward))

        def calling(outside: bool) -> Callable[..., Tensor]:
            """`call`; or the same from inside of the operator that compilers see in its place."""

            def call(x: Tensor, inplace: bool = False, *numbers: float) -> Tensor:
                if not isinstance(x, Tensor):
                    raise wrong_type(cls.__name__, "x", 1, "Tensor", x)
                if inplace:
                    return call_in_place(x, *numbers)
                if outside and is_compiling():
                    return traced.apply(x, *numbers) if is_exporting() else compiled([x], *numbers)
                if jit_traces() or early_modes():  # which follow operators and differentiate them, no Functions
                    return value.on_tensors(x, numbers)
                if transforms_active() or forward_ad._current_level >= 0:
                    return value.on_tensors(x, numbers) if is_beyond_functions() else cls.apply(x, *numbers)
                # A profiler learns the name of a function that is applied.
                if (x.requires_grad and is_grad_enabled()) or is_profiling():
                    return plain_apply(x, *numbers) if numbers else plain_apply(x)
                return value.run(x, numbers)

            return call

        def call_in_place(x: Tensor, *numbers: float) -> Tensor:
            wanted = x.requires_grad and is_grad_enabled()
            # An input that is to be saved is copied, in the graph: gradients of gradients go through it. (Inside a
            # transform it may be saved by a gradient outside, of which x does not know.)
            followed = is_compiling() or early_modes() or not nobody_watches()
            if followed or (wanted and saves_input):
                may_be_saved = saves_input and (x.requires_grad or transforms_active())
                return x.copy_(call(x.clone() if may_be_saved else x, False, *numbers))
            if not wanted:
                return value.in_place(x, numbers)
            if x.is_leaf:  # said before anything is written
                raise RuntimeError(
                    "a leaf Variable that requires grad is being used in an in-place operation, "
                    f"{cls.__name__} with inplace=True"
                )
            return inplace_apply(x, *numbers)

        call, inside = calling(True), calling(False)
        compiled = as_operator(
            cls, lambda x, *numbers: inside(x, False, *numbers), value.formula, chain.formula, cls.integers
        )
        for method in (forward, setup_context, backward, jvp, call):
            setattr(cls, method.__name__, staticmethod(method))

    @classmethod
    def latex(cls) -> Latex:
        r"""Value and slope in LaTeX, written from the formulas themselves.

        >>> from torch_lecture_ops.functions import Sigmoid
        >>> print(Sigmoid.latex())
        \begin{aligned}
        y &= \frac{1}{1 + \mathrm{e}^{-x}} \\
        \frac{\mathrm{d} y}{\mathrm{d} x} &= y\, \left(1 - y\right)
        \end{aligned}
        """
        tensors = tensors_of(cls.value)
        slope = of_slope(cls.slope, *tensors) if hasattr(cls, "slope") else of_chain(cls.chain, "y", tensors)
        return of_value(cls.value, "y") + slope


def tensors_of(function: Callable[..., Any]) -> list[str]:
    """The names of the tensors that a formula takes."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def numbers_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the numbers that a formula takes: its keyword-only arguments."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


class _Evaluator:
    """An elementwise formula of one tensor, or of one and a gradient: by its kernel, or by torch's operators.

    `numbers` tells which of the function's numbers the formula takes, by their places; None: all.
    """

    def __init__(self, formula: Formula, integers: str = "refuse", numbers: Sequence[int] | None = None) -> None:
        self.formula, self._integers, self._places = formula, integers, numbers
        self._kernels: dict[tuple[str, torch.dtype], Any] = {}  # by the type of the device; None: there is none
        self._fast: dict[torch.dtype, Any] = {}  # the built-in function of a kernel

    def _chosen(self, numbers: tuple[float, ...]) -> tuple[float, ...]:
        return numbers if self._places is None else tuple([numbers[place] for place in self._places])

    def in_place(self, x: Tensor, numbers: tuple[float, ...]) -> Tensor:
        """x, overwritten with the result: by the kernel itself where x lies well, else by a copy."""
        y = self.by_kernel(x, numbers, y=x if x.is_contiguous() else None)
        if y is not x:
            return x.copy_(y)
        increment_version(x)  # the kernel wrote behind autograd's back
        return x

    def run(self, x: Tensor, numbers: tuple[float, ...] = ()) -> Tensor:
        """As `by_kernel`, in few steps where x is contiguous: for small tensors they cost more than the kernel."""
        run_one = self._fast.get(x.dtype)
        try:
            if (
                run_one is not None
                and (type(x) is Tensor or type(x) is Parameter)
                and x.is_cpu
                and x.is_contiguous()
                and not x.is_neg()
                and not dispatch_modes()
            ):
                y, elements = empty_like(x), x.numel()
                own = self._chosen(numbers) if numbers else numbers
                run_one(elements, threads_for(elements), x.data_ptr(), y.data_ptr(), *own)
                return y
        except RuntimeError:  # it has no memory
            pass
        return self.by_kernel(x, numbers)

    def run_pair(self, g: Tensor, x: Tensor, numbers: tuple[float, ...] = ()) -> Tensor:
        """The same for a gradient and what was saved."""
        run_one = self._fast.get(x.dtype)
        try:
            if (
                run_one is not None
                and (type(x) is Tensor or type(x) is Parameter)
                and type(g) is Tensor
                and x.is_cpu
                and x.is_contiguous()
                and g.is_contiguous()
                and not (x.is_neg() or g.is_neg() or dispatch_modes())
            ):
                dx, elements = empty_like(x), x.numel()
                own = self._chosen(numbers) if numbers else numbers
                run_one(elements, threads_for(elements), g.data_ptr(), x.data_ptr(), dx.data_ptr(), *own)
                return dx
        except RuntimeError:
            pass
        return self.by_kernel(x, numbers, g)

    def by_kernel(
        self, x: Tensor, numbers: tuple[float, ...], g: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """The result by a kernel if it can take these tensors. No autograd, transform or compiler may be watching.

        It lies in memory as x does (in backward: as what was saved), like a built-in function's.
        """
        what = x.device.type, x.dtype
        if what not in self._kernels:
            self._kernels[what] = self._build(*what)
        kernel = self._kernels[what]
        if (
            kernel is None
            or type(x) not in PLAIN
            or x.layout is not STRIDED
            or x.is_neg()
            or (g is not None and type(g) not in PLAIN)
            or dispatch_modes()
        ):
            return self.backward_on_tensors(x, numbers, g)
        if y is None:
            y = empty_like(x)
        if not x.is_contiguous() or (g is not None and (not g.is_contiguous() or g.is_neg())):
            if not has_memory(x) or (g is not None and not has_memory(g)):
                return self.backward_on_tensors(x, numbers, g)
            x, g = lying_as(y, x), g if g is None else lying_as(y, g)
        elements, columns = y.numel(), (x, y) if g is None else (g, x, y)
        try:
            addresses = list(map(Tensor.data_ptr, columns))
        except RuntimeError:  # no memory of its own, as above
            return self.backward_on_tensors(x, numbers, g)
        try:
            kernel.run_arrays(x.device, elements, addresses, self._chosen(numbers))
        except EngineUnavailable as reason:
            note_fallback(str(reason), "torch's operators")
            return self.backward_on_tensors(x, numbers, g)
        return y

    def _build(self, device: str, dtype: torch.dtype) -> Any:
        if device not in COMPILED or dtype not in COMPILED[device].dtypes:
            return None
        try:
            kernel = COMPILED[device].arrays(self.formula, (dtype,) * (len(self.formula.columns) + 1))
        except EngineUnavailable as reason:
            note_fallback(str(reason), "torch's operators")
            return None
        if kernel.one is not None:
            self._fast[dtype] = kernel.one
        return kernel

    def backward_on_tensors(self, x: Tensor, numbers: tuple[float, ...], g: Tensor | None = None) -> Tensor:
        """As `on_tensors`; where complex numbers meet, backward takes the conjugate of the slope."""
        return self.on_tensors(x, numbers) if g is None else self.on_tensors(x, numbers, g.conj()).conj()

    def on_tensors(self, x: Tensor, numbers: tuple[float, ...], g: Tensor | None = None) -> Tensor:
        """The formula on torch's operators; half types in float32, rounded once."""
        if not (x.is_floating_point() or x.is_complex()):
            x = self._accept_integers(x)
        operands = (x,) if g is None else (g, x)
        (y,) = self.formula(tuple(operand(tensor, "array") for tensor in operands), self._chosen(numbers))
        return y.to(x.dtype)

    def _accept_integers(self, x: Tensor) -> Tensor:
        if self._integers == "convert":
            return x.to(torch.get_default_dtype())
        if self._integers == "keep" and x.dtype is not torch.bool:
            return x
        raise NotImplementedError(f"{self.formula.name}: the input must be a floating-point tensor, got {x.dtype}")
