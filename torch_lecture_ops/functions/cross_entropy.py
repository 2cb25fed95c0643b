"""The cross-entropy of softmax, with a label or with probabilities as the target: formulas of a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, scalar_tensor

from ..formula import EXACT, HALF, Formula, Latex, entry, exp, latex, log, place, row_max, row_sum, where
from .notation import LETTERS
from .operation import CPU, Column, Number, Operation, RowFormula, as_number, upcast

# A row has logits x and a target distribution q. With m = max x and s = ln Σ eˣ⁻ᵐ, softmax is e^(x - m - s).


def _loss(x: Any, q: Any, sum_of_q: Any) -> tuple[Any, Any, Any]:
    """-Σ q ln softmax(x), with m and s. Where q = 0 nothing is added, not even for x = -∞."""
    m = row_max(x)
    s = log(row_sum(exp(x - m)))
    return sum_of_q * s - row_sum(where(q == 0, 0.0, q * (x - m))), m, s


def _loss_of_label(x: Any, t: Any) -> tuple[Any, Any, Any]:
    """The same for q = onehot(t): -ln softmax(x)ₜ."""
    m = row_max(x)
    s = log(row_sum(exp(x - m)))
    return s - (entry(x, t) - m), m, s


def _slope(x: Any, q: Any, sum_of_q: Any, m: Any, s: Any) -> Any:
    """softmax(x) Σ q - q"""
    return sum_of_q * exp(x - m - s) - q


def _slope_of_label(x: Any, t: Any, m: Any, s: Any) -> Any:
    """The same for q = onehot(t)."""
    return _slope(x, _onehot(x, t, 1.0), 1.0, m, s)


def _onehot(x: Any, t: Any, one: Any) -> Any:
    """A row of zeros, but for one at the place t."""
    return where(place(x) == t, one, 0.0)


def _formulas(
    of_labels: bool, weighted: bool, smooth: bool, reduced: bool, both: bool
) -> tuple[RowFormula, RowFormula]:
    """Value and slope. The columns: x; the label or the row q; the weights of the classes, if labels have them.

    Arguments:
        of_labels: whether the target is a label, else a row of probabilities.
        weighted: whether the classes have weights.
        smooth: whether every class has a part of a label's probability.
        reduced: whether the losses of the rows are added up, so that there is one upstream gradient for all.
        both: whether the gradient of the target is wanted.
    """

    def distribution(x: Any, target: Any, w: Sequence[Any], classes: Any, smoothing: Any) -> tuple[Any, Any]:
        if not of_labels:
            return target, row_sum(target)
        q = _onehot(x, target, 1 - smoothing) + (smoothing / classes if smooth else 0.0)
        return (q * w[0], row_sum(q * w[0])) if weighted else (q, 1.0)

    def value(x: Any, target: Any, *w: Any, ignore: Any, classes: Any, smoothing: Any) -> Any:
        if not of_labels or smooth:
            loss, m, s = _loss(x, *distribution(x, target, w, classes, smoothing))
        else:
            loss, m, s = _loss_of_label(x, target)
        if not of_labels:
            return m, s, loss, 1.0, 0.0
        weight = entry(w[0], target) if weighted else 1.0
        if weighted and not smooth:
            loss = where(weight == 0, 0.0, weight * loss)
        is_no_class = where(target < 0, 1.0, where(target >= classes, 1.0, 0.0))
        loss = where(is_no_class > 0, math.nan, loss)  # where nobody can say so otherwise
        return m, s, *(where(target == ignore, 0.0, result) for result in (loss, weight, is_no_class))

    def slope(*columns: Any, ignore: Any, classes: Any, smoothing: Any, **upstream: Any) -> Any:
        g, x, target, *w, m, s = (upstream["g"] / upstream["divisor"], *columns) if reduced else columns
        dx = g * _slope(x, *distribution(x, target, w, classes, smoothing), m, s)
        if of_labels:
            return where(target == ignore, 0.0, dx)
        return (dx, g * (s - (x - m))) if both else dx

    numbers: tuple[str, ...] = ("ignore", "classes", "smoothing")
    columns: Any = ("array", "scalar" if of_labels else "array") + ("array",) * weighted
    outputs: Any = ("scalar", "scalar", "total" if reduced else "scalar", "total", "total")
    stores = tuple(range(len(columns), len(columns) + len(outputs)))
    values = Formula(value, columns, stores, numbers, "CrossEntropy", outputs=outputs)
    columns = ("scalar",) * (not reduced) + columns + ("scalar", "scalar")
    stores = tuple(range(len(columns), len(columns) + 1 + both))
    numbers += ("g", "divisor") * reduced
    return RowFormula(values), RowFormula(Formula(slope, columns, stores, numbers, "CrossEntropy's slope"))


_FORMULAS = {flags: _formulas(*flags) for flags in product((False, True), repeat=5)}


class CrossEntropy(Operation):
    """-ln softmax(x)ₜ for logits x and a label t, or -Σ q ln softmax(x) for probabilities q.

        ∂/∂x = softmax(x) - onehot(t), softmax(x) Σ q - q          ∂/∂q = -ln softmax(x)

    Called with x (N, C, ...), labels (N, ...) or probabilities (N, C, ...), weights of the classes (C) or None; then
    reduction, ignore_index and label_smoothing. Weights and these two are for labels: with w and ε the target is
    w ((1 - ε) onehot + ε / C), and "mean" divides by the sum of the labels' weights. A row with the label ignore_index
    counts nowhere.

    Saves x, the target and, for each row, m and ln Σ eˣ⁻ᵐ. As in torch, the mean over nothing is NaN, its gradient 0. A
    label that is no class raises an IndexError; on a device, which nobody waits for, it makes the loss NaN.

    Source: Larson, 'Neural Network Optimization and Activation', slide 'Practical Implementation of Architectures',
    whose a - y is the slope through softmax, too.
    Difference from torch: an ignored row has a gradient of 0 also if it holds NaN, and a class with q = 0 may have
    x = -∞. torch saves a second matrix, so there the logits may be written to between the loss and backward; here that
    is an error.
    """

    tensors = 3
    keeps = "the logits, which cross_entropy keeps in place of a second matrix, were written to"
    spares = ((), (1,), ())  # the gradient of probabilities does not need them

    @staticmethod
    def evaluate(inputs: tuple[Any, ...], by_kernel: bool) -> tuple[Tensor, tuple[Any, ...]]:
        x, target, weight, reduction, *options = inputs
        done = _value_by_kernel(x, target, weight, reduction, options) if by_kernel else None
        if done is not None:
            return done
        _, _, loss, count, is_no_class = _value_on_tensors(x, target, weight, options)
        if by_kernel and type(loss) is Tensor and loss.is_cpu and torch.any(is_no_class):
            raise out_of_bounds(x, target, options[0])
        if reduction == "none":
            return loss.squeeze(-1).to(x.dtype).contiguous(), ()
        return (loss.sum() if reduction == "sum" else loss.sum() / count.sum()).to(x.dtype), ()

    @staticmethod
    def latex(labels: bool = True) -> Latex:
        """The loss of a row of logits x and its gradient in LaTeX: for a label t, or for probabilities q.

        Sums and maxima are over the row.
        """
        value, slope = (_loss_of_label, _slope_of_label) if labels else (_loss, _slope)
        of_x = {"slope": r"\frac{\partial \ell}{\partial x}", "sum_of_q": r"\sum\left(q\right)"}
        return latex(value, ("loss", "m", "s"), of_x | LETTERS) + latex(slope, ("slope",), of_x)

    @staticmethod
    def keep(inputs: tuple[Any, ...], y: Tensor, kept: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*inputs[:3], *(kept or (None, None)))

    @staticmethod
    def pullback(
        g: Tensor, saved: tuple[Any, ...], options: tuple[Any, ...], needed: Sequence[bool], by_kernel: bool
    ) -> tuple[Tensor | None, ...]:
        *inputs, statistics, divisor = saved
        reduction, *numbers = options
        gradients = None
        if by_kernel and statistics is not None:
            gradients = _slope_by_kernel(g, inputs, statistics, divisor, reduction, numbers, needed[1])
        if gradients is None:
            gradients = _slope_on_tensors(g, inputs, reduction, numbers, needed[1])
        return gradients if needed[0] else (None, *gradients[1:])

    @staticmethod
    def pushforward(tangents: tuple[Any, ...], saved: tuple[Any, ...], options: tuple[Any, ...]) -> Tensor:
        x, (reduction, *numbers) = saved[0], options
        of_rows = _classes_last(x).select(-1, 0)
        one = torch.ones_like(of_rows if reduction == "none" else x.new_empty(()))
        slopes = _slope_on_tensors(one, saved[:3], reduction, numbers, tangents[1] is not None)
        products = [slope * v for slope, v in zip(slopes, tangents, strict=True) if slope is not None and v is not None]
        tangent = sum(products[1:], products[0])
        return tangent.sum(1 if x.dim() > 1 else 0) if reduction == "none" else tangent.sum()


def _classes_last(x: Tensor) -> Tensor:
    return x if x.dim() <= 2 else x.movedim(1, -1)


def _classes_second(x: Tensor) -> Tensor:
    return x if x.dim() <= 2 else x.movedim(-1, 1)


def _columns(x: Tensor, target: Tensor, weight: Tensor | None) -> list[Column] | None:
    """The inputs as kernels take them: rows one after the other. None if they cannot."""
    rows, of_labels = _classes_last(x).contiguous(), not target.is_floating_point()
    classes = rows.shape[-1]
    target = target.contiguous() if of_labels else _classes_last(target).contiguous()
    columns = [(rows, classes, 0), (target, 1 if of_labels else classes, 0)]
    columns += [] if weight is None else [(weight.contiguous(), 0, 0)]
    others = columns[1 + of_labels :]
    wide = torch.float32 if x.dtype in HALF else x.dtype  # that of a target made of several factors
    return None if classes > EXACT or any(column.dtype not in (x.dtype, wide) for column, _, _ in others) else columns


def _value_by_kernel(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: str, options: Sequence[float]
) -> tuple[Tensor, tuple[Tensor, Tensor | None]] | None:
    """The loss; m and s of each row and what it was divided by, or None for the number of rows ("mean") or 1."""
    of_labels, is_reduced = not target.is_floating_point(), reduction != "none"
    formula, _ = _FORMULAS[of_labels, weight is not None, options[1] != 0, is_reduced, False]
    inputs = (x, target) if weight is None else (x, target, weight)
    seen, columns = formula.seen_like(inputs), None
    if seen is None:
        columns = _columns(x, target, weight)
        if columns is None:
            return None
        classes = columns[0][1]
        shape = (x.numel() // max(classes, 1), classes, classes)
    else:
        shape = seen.shape
    count, classes, _ = shape
    wide = x.dtype if x.dtype is torch.float64 else torch.float32
    statistics = x.new_empty(count, 2) if x.dtype is wide else x.new_empty(count, 2, dtype=wide)  # the first is faster
    rows = None if is_reduced else torch.empty(_classes_last(x).shape[:-1], dtype=x.dtype, device=x.device)
    numbers = (options[0], classes, options[1])
    if seen is not None:
        outputs = (statistics, statistics) if rows is None else (statistics, statistics, rows)
        totals: Any = seen.run((*inputs, *outputs), numbers)
    else:
        assert columns is not None
        columns += [(statistics, 2, 0), (statistics, 2, 1)] + ([] if rows is None else [(rows, 1, 0)])
        totals = formula.run(shape, columns, numbers, watched=inputs)
    if totals is None:
        return None
    *sums, sum_of_weights, no_classes = totals
    if not isinstance(no_classes, float):  # nobody waits for a device to say: the loss is NaN
        divisor = sum_of_weights if reduction == "mean" else torch.ones_like(sum_of_weights)
        return (sums[0] / divisor).to(x.dtype) if rows is None else rows, (statistics, divisor)
    if no_classes:
        raise out_of_bounds(x, target, options[0])
    divisor = sum_of_weights if reduction == "mean" else 1.0
    loss = scalar_tensor(_quotient(sums[0], divisor), dtype=x.dtype, device=CPU) if rows is None else rows
    is_usual = divisor == (count if reduction == "mean" else 1)
    return loss, (statistics, None if is_usual else scalar_tensor(divisor, dtype=torch.float64, device=CPU))


def _slope_by_kernel(
    g: Tensor,
    inputs: Sequence[Any],
    statistics: Tensor,
    divisor: Tensor | None,
    reduction: str,
    options: Sequence[float],
    both: bool,
) -> tuple[Tensor | None, ...] | None:
    x, target, weight = inputs
    flags = not target.is_floating_point(), weight is not None, options[1] != 0, reduction != "none", both
    _, formula = _FORMULAS[flags]
    given = (x, target, statistics) if weight is None else (x, target, weight, statistics)
    if reduction == "none":
        given, upstream = (g.contiguous(), *given), list[Number]()
    else:
        usual = len(statistics) if reduction == "mean" else 1
        upstream = [as_number(g), usual if divisor is None else as_number(divisor)]
    seen = formula.seen_like(given)
    if seen is not None:
        results = [torch.empty_like(tensor) for tensor in inputs[: 1 + both]]
        done = seen.run((*given, statistics, *results), (options[0], seen.shape[1], options[1], *upstream))
        return None if done is None else (*results, *[None] * (3 - len(results)))
    columns = _columns(*inputs)
    if columns is None:
        return None
    rows, classes, _ = columns[0]
    columns = [(given[0], 1, 0)] * (reduction == "none") + columns + [(statistics, 2, 0), (statistics, 2, 1)]
    results = [torch.empty_like(rows, dtype=tensor.dtype) for tensor in inputs[: 1 + both]]
    columns += [(result, classes, 0) for result in results]
    shape, numbers = (len(statistics), classes, classes), (options[0], classes, options[1], *upstream)
    if formula.run(shape, columns, numbers, watched=given if x.dim() <= 2 else ()) is None:
        return None
    gradients = list(map(_classes_second, results))
    if x.dim() > 2 or not x.is_contiguous():
        gradients = [torch.empty_like(x, dtype=gradient.dtype).copy_(gradient) for gradient in gradients]
    return (*gradients, *[None] * (3 - len(gradients)))


def _columns_on_tensors(x: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
    """The inputs as torch's operators take them: the classes last, and labels beside them."""
    rows = _classes_last(target) if target.is_floating_point() else target.long().unsqueeze(-1)
    return (_classes_last(x), rows) if weight is None else (_classes_last(x), rows, weight)


def _value_on_tensors(x: Tensor, target: Tensor, weight: Tensor | None, options: Sequence[Any]) -> tuple[Any, ...]:
    """m, s, the loss, the weight of the label, whether it is no class: of each row."""
    of_labels, (ignore, smoothing) = not target.is_floating_point(), options
    formula, _ = _FORMULAS[of_labels, weight is not None, smoothing != 0, True, False]
    columns = _columns_on_tensors(x, target, weight)
    results = formula.on_tensors(*columns, numbers=(ignore, columns[0].shape[-1], smoothing))
    return tuple([r if isinstance(r, Tensor) else torch.full_like(results[2], r) for r in results])


def _slope_on_tensors(
    g: Tensor, inputs: Sequence[Any], reduction: str, options: Sequence[Any], both: bool
) -> tuple[Tensor | None, ...]:
    x, target, weight = inputs
    m, s, _, count, _ = _value_on_tensors(x, target, weight, options)
    g = upcast(g)
    if reduction == "mean":
        g = g / count.sum()
    of_labels, (ignore, smoothing) = not target.is_floating_point(), options
    _, formula = _FORMULAS[of_labels, weight is not None, smoothing != 0, False, both]
    columns = (g.unsqueeze(-1), *_columns_on_tensors(x, target, weight), m, s)
    slopes = formula.on_tensors(*columns, numbers=(ignore, columns[1].shape[-1], smoothing))
    gradients = [_classes_second(slope).to(like.dtype) for slope, like in zip(slopes, inputs, strict=False)]
    return (*gradients, *[None] * (3 - len(gradients)))


def _quotient(a: float, b: float) -> float:
    return a / b if b else math.nan if a == 0 else a * math.inf


def out_of_bounds(x: Tensor, target: Tensor, ignore: float) -> IndexError:
    """The error for labels that are no class."""
    wrong = target[(target != ignore) & ((target < 0) | (target >= _classes_last(x).shape[-1]))]
    return IndexError(f"Target {wrong[0].item()} is out of bounds.")
