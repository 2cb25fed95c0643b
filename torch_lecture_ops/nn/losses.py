"""The losses of the notes as functions and as modules, with the names and signatures of torch's."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import _reduction
from torch.overrides import handle_torch_function, has_torch_function

from ..checks import check_choice, check_integer, check_number
from ..formula import HALF, Alike
from ..functions import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, CrossEntropy, SquaredError
from ..functions.binary_cross_entropy import WeightedBinaryCrossEntropy, WeightedBinaryCrossEntropyWithLogits
from ..functions.cross_entropy import out_of_bounds
from ..functions.operation import has_values, is_compiling, nobody_watches
from ..functions.squared_error import WeightedSquare
from .special import any_special, check_strided, elsewhere

_is_any_autocast_enabled = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)  # ten times as fast

Reduction = Literal["none", "mean", "sum"]
Scaling = Literal["notes", "sum", "mean"]
SCALINGS = get_args(Scaling)

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "MSELoss", "QuadraticCost"]


def quadratic_cost(input: Tensor, target: Tensor, reduction: Scaling = "notes") -> Tensor:
    """Σ (y - a)² in the three scalings of the notes; see `torch_lecture_ops.functions.SquaredError`.

    Arguments:
        input: a, the outputs of the last layer, of shape (n_L) or (examples, ..., n_L).
        target: y, of the same shape.
        reduction: "notes": 1/n_L Σ of each example, the cost C of the slides, added up over the examples; "sum": over
            everything; "mean": over everything, as `mse_loss`. They differ by factors, which act like other learning
            rates.

    >>> quadratic_cost(torch.tensor([[0.5, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    tensor(2.1250)
    """
    if has_torch_function((input, target)):
        return handle_torch_function(quadratic_cost, (input, target), input, target, reduction=reduction)
    check_strided("quadratic_cost", input=input, target=target)
    check_choice("quadratic_cost", "reduction", reduction, SCALINGS)
    if input.shape != target.shape:
        raise ValueError(
            f"quadratic_cost: input and target must have the same shape, got {tuple(input.shape)} and "
            f"{tuple(target.shape)}"
        )
    input, target = _floats("quadratic_cost", *_in_float32(input, target))
    n = float(input.shape[-1] if input.dim() and reduction == "notes" else 1) or 1.0
    reduction = "sum" if reduction == "notes" else reduction
    if any_special(input, target):
        return elsewhere(mse_loss, {"input": input, "target": target}, dict(reduction=reduction)) / n
    return SquaredError.call(input, target, n, reduction)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(y - a)², its mean or sum over all elements; see `torch_lecture_ops.functions.SquaredError`.

    Arguments:
        input: a, a floating-point tensor of any shape.
        target: y, of the same shape (others are broadcast, with a warning).
        size_average, reduce: the old names of reduction.
        reduction: "none", "mean" or "sum".
        weight: a weight for each element; "mean" then divides by the sum of the weights.

    >>> mse_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor(2.)
    """
    if any_special(input, target, weight):
        options = dict(size_average=size_average, reduce=reduce, reduction=reduction, weight=weight)
        return elsewhere(mse_loss, {"input": input, "target": target}, options)
    reduction = _checked(reduction, size_average, reduce)
    if target.shape != input.shape:
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). This will "
            "likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=2,
        )
        torch.broadcast_tensors(input, target)  # says what is wrong if they cannot be
    if weight is None:
        input, target = _floats("mse_loss", *_in_float32(input, target))
        return SquaredError.call(input, target, 1.0, reduction)
    if weight.shape != input.shape:
        raise ValueError("Weights and input must have the same size.")
    if reduction != "mean":
        return WeightedSquare.call(input - target, weight, reduction)
    loss = WeightedSquare.call(input - target, weight, "sum")
    return loss / weight.sum(dtype=torch.promote_types(weight.dtype, torch.float64)).to(loss.dtype)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """-(y ln a + (1 - y) ln(1 - a)), its mean or sum; see `torch_lecture_ops.functions.BinaryCrossEntropy`.

    Arguments:
        input: a, probabilities in [0, 1], a tensor of any shape.
        target: y, in [0, 1], of the same shape and dtype.
        weight: weights of the elements, of a shape that broadcasts to that of the target.
        size_average, reduce: the old names of reduction.
        reduction: "none", "mean" or "sum".

    >>> binary_cross_entropy(torch.tensor([0.5, 0.75]), torch.tensor([0.0, 1.0]))
    tensor(0.4904)
    """
    if any_special(input, target, weight):
        options = dict(weight=weight, size_average=size_average, reduce=reduce, reduction=reduction)
        return elsewhere(binary_cross_entropy, {"input": input, "target": target}, options)
    reduction = _checked(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is "
            "deprecated. Please ensure they have the same size."
        )
    if input.is_cuda and is_autocast_on(input):
        raise RuntimeError(
            "binary_cross_entropy is unsafe under autocast: a probability of float16 has lost what its logarithm "
            "needs; use binary_cross_entropy_with_logits"
        )
    input, target, weight = _in_float32(input, target, weight)
    if not input.is_floating_point():
        raise NotImplementedError(f"binary_cross_entropy: floating-point tensors are needed, got {input.dtype}")
    if target.dtype is not input.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}")
    if weight is None:
        loss = BinaryCrossEntropy.call(input, target, reduction)
    else:
        _check_broadcast(weight, target)
        loss = WeightedBinaryCrossEntropy.call(input, target, weight.to(input.dtype), reduction)
    _check_probabilities(loss, input, target)
    return loss


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`binary_cross_entropy` of σ(input), which does not saturate; see
    `torch_lecture_ops.functions.BinaryCrossEntropyWithLogits`.

    Arguments:
        input: z, logits, a floating-point tensor of any shape.
        target: y, in [0, 1], of the same shape.
        weight: weights of the elements, of a shape that broadcasts to that of the input.
        size_average, reduce: the old names of reduction.
        reduction: "none", "mean" or "sum".
        pos_weight: how often a positive element counts, of a shape that broadcasts to that of the input.

    >>> binary_cross_entropy_with_logits(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 1.0]))
    tensor(0.4100)
    """
    if any_special(input, target, weight, pos_weight):
        options: dict[str, Any] = dict(weight=weight, pos_weight=pos_weight)
        options |= dict(size_average=size_average, reduce=reduce, reduction=reduction)
        return elsewhere(binary_cross_entropy_with_logits, {"input": input, "target": target}, options)
    input, target, weight, pos_weight = _in_float32(input, target, weight, pos_weight)
    reduction = _checked(reduction, size_average, reduce)
    if target.shape != input.shape:
        raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    if not input.is_floating_point():
        raise NotImplementedError(f"binary_cross_entropy_with_logits: logits must be floats, got {input.dtype}")
    if not target.is_floating_point():
        raise RuntimeError(f"result type {input.dtype} can't be cast to the desired output type {target.dtype}")
    if weight is None and pos_weight is None:
        loss = BinaryCrossEntropyWithLogits.call(input, target, reduction)
    else:
        for tensor in (weight, pos_weight):
            if tensor is not None:
                _check_broadcast(tensor, input)
        one = input.new_ones(())
        weights = [one if tensor is None else tensor for tensor in (weight, pos_weight)]
        loss = WeightedBinaryCrossEntropyWithLogits.call(input, target, *weights, reduction)
    return loss if loss.dtype is target.dtype else loss.to(target.dtype)  # as torch, which takes the target's


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-ln softmax(input) at the target, its mean or sum; see `torch_lecture_ops.functions.CrossEntropy`.

    Arguments:
        input: x, logits of shape (C), (N, C) or (N, C, d₁, ...).
        target: labels in [0, C), int64 or uint8, of shape (), (N) or (N, d₁, ...); or probabilities, of the shape of
            the input.
        weight: of shape (C), a weight for each class.
        size_average, reduce: the old names of reduction.
        ignore_index: the label of rows that do not count.
        reduction: "none", "mean" (weighted, of rows that count) or "sum".
        label_smoothing: ε in [0, 1], the part of the target that is spread over all classes.

    >>> cross_entropy(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 2]))
    tensor(0.7531)
    """
    if any_special(input, target, weight):
        options: dict[str, Any] = dict(weight=weight, size_average=size_average, ignore_index=ignore_index)
        options |= dict(reduce=reduce, reduction=reduction, label_smoothing=label_smoothing)
        return elsewhere(cross_entropy, {"input": input, "target": target}, options)
    told = reduction, ignore_index, label_smoothing
    is_told = size_average is None and reduce is None and not is_compiling()
    if is_told and _last_call.are_alike(input, target, weight, told):
        return CrossEntropy.call(input, target, weight, *told)
    input, target, weight = _in_float32(input, target, weight)
    reduction = _checked(reduction, size_average, reduce)
    if type(ignore_index) is not int:
        check_integer("cross_entropy", "ignore_index", 5, ignore_index)
    if type(label_smoothing) is not float:
        check_number("cross_entropy", "label_smoothing", 8, label_smoothing)
    _check_cross_entropy(input, target, weight, ignore_index, label_smoothing)
    dim = 1 if input.dim() > 1 else 0
    classes = input.shape[dim]
    if not target.is_floating_point():
        _check_labels(input, target, classes, ignore_index)
        if not classes:
            return _of_no_classes(input.sum(dim), reduction)
        if input.dim() == 1:
            target = target.reshape(())
        elif is_told:
            _last_call.remember(input, target, weight, (reduction, ignore_index, label_smoothing))
        return CrossEntropy.call(input, target, weight, reduction, ignore_index, label_smoothing)
    input, target = _floats("cross_entropy", input, target)
    if not classes:
        return _of_no_classes(-(input * target).sum(dim), reduction)
    dtype = torch.promote_types(input.dtype, target.dtype)
    if (label_smoothing or weight is not None) and dtype in HALF:
        target = target.float()  # the weighted target is not rounded
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        target = target * weight.view(-1, *[1] * (input.dim() - 2))
        dtype = torch.promote_types(dtype, weight.dtype)
    if dtype not in HALF:
        target = target.to(dtype)
    return CrossEntropy.call(input.to(dtype), target, None, reduction, ignore_index, 0.0)


class _LastCall:
    """What passed all checks of cross_entropy last: plain tensors that look the same need none with the same options.

    (No others may come here: torch's guards crash where they look at a strided nested tensor.)
    """

    def __init__(self) -> None:
        self._last: tuple[Any, ...] = (None, 0, None)

    def remember(self, input: Tensor, target: Tensor, weight: Tensor | None, options: tuple[Any, ...]) -> None:
        if weight is None:
            self._last = options, 2, Alike((input, target)).check
        elif not weight.requires_grad:  # which is an error only where gradients are recorded
            self._last = options, 3, Alike((input, target, weight)).check

    def are_alike(self, input: Any, target: Any, weight: Any, options: tuple[Any, ...]) -> bool:
        tensors = (input, target) if weight is None else (input, target, weight)
        known, count, check = self._last
        try:
            are_so = options == known and len(tensors) == count and check(*tensors)
        except (TypeError, ValueError):  # something is no tensor, or an array where a number should be
            return False
        return are_so and nobody_watches()


_last_call = _LastCall()


def _checked(reduction: str, size_average: bool | None, reduce: bool | None) -> Reduction:
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction == "elementwise_mean":
        warnings.warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.", stacklevel=3)
        reduction = "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction  # type: ignore[return-value]


def _of_no_classes(rows: Tensor, reduction: str) -> Tensor:
    """Rows without entries: their sum is 0, their mean NaN, as torch has it."""
    return rows if reduction == "none" else rows.sum() * (math.nan if reduction == "mean" else 1.0)


def _floats(who: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, all of them floating-point."""
    if not all(map(Tensor.is_floating_point, tensors)):
        floating = [t.dtype for t in tensors if t.is_floating_point()]
        if not floating or any(t.is_complex() for t in tensors):
            raise NotImplementedError(
                f"{who}: floating-point tensors are needed, got {', '.join(str(t.dtype) for t in tensors)}"
            )
        tensors = tuple([t if t.is_floating_point() else t.to(floating[0]) for t in tensors])
    return tensors


def _in_float32(*tensors: Any) -> tuple[Any, ...]:
    """The tensors, or None, none of them in a half type where autocast is on: before anything is checked."""
    if is_autocast_on(tensors[0]):
        return tuple([t.float() if t is not None and t.dtype in HALF else t for t in tensors])
    return tensors


def is_autocast_on(tensor: Tensor) -> bool:
    """For the device of this tensor, if that knows autocast."""
    if not _is_any_autocast_enabled():
        return False
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the lower precision that autocast asks for, if it is on."""
    if not is_autocast_on(tensors[0]):
        return tensors
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return tuple([t.to(dtype) if t.is_floating_point() and t.dtype is not torch.float64 else t for t in tensors])


def _check_broadcast(weight: Tensor, target: Tensor) -> None:
    if weight.is_complex():
        raise RuntimeError(f"result type {weight.dtype} can't be cast to the desired output type {target.dtype}")
    shape = torch.broadcast_shapes(weight.shape, target.shape)
    if shape != target.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(shape)} of weight"
        )


def _check_probabilities(loss: Tensor, input: Tensor, target: Tensor) -> None:
    """A loss that is NaN tells that a probability may be none: only then they are looked at.

    Not where there are no values to look at, nor where looking would wait for a device.
    """
    if has_values(loss) and _inside(loss).isnan().any():
        for name, tensor in (("input", input), ("target", target)):
            values = _inside(tensor)
            if not ((values >= 0) & (values <= 1)).all():
                raise RuntimeError(f"all elements of {name} should be between 0 and 1")


def _check_labels(input: Tensor, target: Tensor, classes: int, ignore_index: int) -> None:
    """Where a kernel does not look at the labels: under transforms, and if there are no classes."""
    if has_values(target) and not (classes and nobody_watches()):
        values = _inside(target).long()
        if ((values != ignore_index) & ((values < 0) | (values >= classes))).any():
            raise out_of_bounds(input, values, ignore_index)


def _inside(tensor: Tensor) -> Tensor:
    """What torch.func's transforms have wrapped."""
    while _is_wrapped(tensor):
        tensor = _unwrapped(tensor)
    return tensor.detach()


_is_wrapped = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", lambda tensor: False)
_unwrapped = getattr(torch._C._functorch, "get_unwrapped", lambda tensor: tensor)


def _check_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> None:
    """The errors of torch, with its types and, where they say what is wrong, its texts."""
    if not input.is_floating_point():
        raise NotImplementedError(f"cross_entropy: the input must be a floating-point tensor, got {input.dtype}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    classes = input.shape[1 if input.dim() > 1 else 0] if input.dim() else 0
    if weight is not None and weight.shape != (classes,):
        raise RuntimeError(
            f"cross_entropy: weight tensor should be defined either for all {classes} classes or no classes but got "
            f"weight tensor of shape: {list(weight.shape)}"
        )
    if input.dim() == 1 and target.dim() == 1 and len(target) != 1 and input.shape != target.shape:
        raise ValueError(f"For 1D input, 1D target must have size 1, but got target size: {len(target)}")
    rows = target.shape[0] if target.dim() else 0
    if input.dim() > 1 and input.shape[0] != rows:
        raise ValueError(f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({rows}).")
    if weight is not None and weight.is_complex():
        raise RuntimeError(f"cross_entropy: the weights of the classes must be real, got {weight.dtype}")
    if target.is_floating_point():
        if input.shape != target.shape or not input.dim():
            raise RuntimeError(
                f"expected target dtype to be Long or Byte, but got {target.dtype}; probabilities must have the shape "
                f"of the input, {list(input.shape)}, got {list(target.shape)}"
            )
        if ignore_index >= 0:
            raise RuntimeError("ignore_index is not supported for floating point target")
        return
    if input.shape == target.shape:
        raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
    if input.dim() == 0:
        raise RuntimeError("cross_entropy: the input must have a dimension of classes, got a tensor of shape []")
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")
    if weight is not None and weight.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("the derivative for 'weight' is not implemented; only probabilities as the target have one")
    if weight is not None and weight.dtype is not input.dtype:
        raise RuntimeError(f"expected scalar type {input.dtype} but found {weight.dtype}")
    if input.dim() == 1:
        if target.shape not in ((), (1,)):
            raise RuntimeError(f"size mismatch (got input: {list(input.shape)}, target: {list(target.shape)})")
    elif target.shape != (size := (input.shape[0], *input.shape[2:])):
        raise RuntimeError(f"Expected target size {list(size)}, got {list(target.shape)}")


class MSELoss(nn.MSELoss):
    """(y - a)², its mean or sum; arguments as `torch.nn.MSELoss`, see `torch_lecture_ops.functions.SquaredError`."""

    reduction: Reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, reduction=self.reduction)


class QuadraticCost(nn.Module):
    """Σ (y - a)² in the three scalings of the notes; see `torch_lecture_ops.nn.functional.quadratic_cost`.

    Arguments:
        reduction: "notes" (1/n_L Σ of each example, added up over the examples), "sum" or "mean".
    """

    def __init__(self, reduction: Scaling = "notes") -> None:
        super().__init__()
        check_choice("QuadraticCost", "reduction", reduction, SCALINGS)
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return quadratic_cost(input, target, self.reduction)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class BCELoss(nn.BCELoss):
    """-(y ln a + (1 - y) ln(1 - a)), its mean or sum; arguments as `torch.nn.BCELoss`, see
    `torch_lecture_ops.functions.BinaryCrossEntropy`.
    """

    reduction: Reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """`BCELoss` of σ(z); arguments as `torch.nn.BCEWithLogitsLoss`, see
    `torch_lecture_ops.functions.BinaryCrossEntropyWithLogits`.
    """

    reduction: Reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """-ln softmax(x) at the target, its mean or sum; arguments as `torch.nn.CrossEntropyLoss`, see
    `torch_lecture_ops.functions.CrossEntropy`.
    """

    reduction: Reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
