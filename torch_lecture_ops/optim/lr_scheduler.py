"""Learning rates that cool down and momenta that grow: `torch_lecture_ops.optim.lr_scheduler` in place of torch's.

    StepDecay           η = η₀ d^⌊t/tᵈ⌋
    ExponentialDecay    η = η₀ e⁻ᵏᵗ
    InverseTimeDecay    η = η₀ / (1 + k t)
    PowerCooling        η = η₀^(1 + t ε)
    MomentumAnnealing   μ from 0.5 to 0.99

t counts the calls of `step()`: epochs or batches, whatever you call it after. All names of `torch.optim.lr_scheduler`
are here too, torch's own classes; both kinds go together.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from ..checks import check_choice
from ..formula import Latex, exp, latex, maximum, minimum
from ..formula.lines import Attributes
from .rule import Group

__all__ = ["ClosedFormLR", "StepDecay", "ExponentialDecay", "InverseTimeDecay", "PowerCooling", "MomentumAnnealing"]
# torch's
__all__ += ["LRScheduler", "LambdaLR", "MultiplicativeLR", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR"]
__all__ += ["ExponentialLR", "PolynomialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR"]
__all__ += ["OneCycleLR", "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"]


def __dir__() -> list[str]:
    return __all__


class ClosedFormLR(LRScheduler):
    """Learning rates by a formula, `eta`, of the first one and of the time: the base of the four below, and of yours.

        η(t) = eta(η₀, t),  in each group with its own η₀

    A learning rate that something else has changed (another scheduler of a `ChainedScheduler`, you) goes on from there,
    as with torch's chainable schedulers: it is multiplied by eta(η₀, t) / eta(η₀, t - 1). One that nothing else has
    changed is the formula, and no rounding errors add up: here is the difference from torch's StepLR and ExponentialLR.

    A group that is added in mid-run goes on from its own learning rate by the same factors (torch: ValueError). A
    learning rate that is a tensor is filled in place.

    To go on with a run, load the `state_dict`s of optimizer and scheduler; or, without that of the scheduler, give
    `last_epoch`, the number of the step before, and groups with "initial_lr", which is η₀: then η is set to eta(η₀, t).

    Arguments:
        optimizer: any optimizer of torch or of this library.
        last_epoch: -1 for a new run, else t - 1.

    Raises:
        ValueError: an argument is out of range; parameter groups were removed.
        TypeError: not an optimizer.
        KeyError: last_epoch is given, "initial_lr" is missing.

    Example:
        >>> class InverseRootDecay(ClosedFormLR):
        ...     def eta(self, eta0, t):
        ...         return eta0 / (1 + t) ** 0.5
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = InverseRootDecay(optimizer)
        >>> for _ in range(3):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        super().__init__(optimizer, _count(self, "last_epoch", last_epoch, least=-1))

    def eta(self, eta0: Any, t: int) -> Any:
        """The learning rate after t steps; eta0 is a number or a tensor."""
        raise NotImplementedError

    def check(self, eta0: float | Tensor) -> None:
        """Raise ValueError for a first learning rate that the formula is not made for."""

    @classmethod
    def latex(cls) -> Latex:
        r"""The formula in LaTeX, written from `eta` itself.

        >>> StepDecay.latex()[0]
        '\\eta = \\eta_{0}\\, d^{\\left\\lfloor \\frac{t}{t_{d}} \\right\\rfloor}'
        """
        return latex(cls.eta, ("eta",), self=Attributes())

    def get_lr(self) -> list[float | Tensor]:
        """The next learning rates. The present ones: `get_last_lr()`."""
        _warn_outside_of_step(self)
        t = self.last_epoch
        if self._is_initial and t > 0:
            return self._get_closed_form_lr()
        etas0 = self._etas0()
        before = [self.eta(eta0, t - 1) for eta0 in etas0] if t > 0 else etas0
        now = self._get_closed_form_lr()
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        return list(map(_go_on, lrs, before, now))

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        # torch's name: asked for by SequentialLR, whose schedulers begin anew, and by step(epoch)
        return [self.eta(eta0, self.last_epoch) for eta0 in self._etas0()]

    def _etas0(self) -> list[float | Tensor]:
        """η₀ of each group, of the same type as its learning rate."""
        groups = self.optimizer.param_groups
        known = len(self.base_lrs)
        if len(groups) < known:
            raise ValueError(
                f"{type(self).__name__}: the optimizer must keep its {known} parameter groups, got {len(groups)}"
            )
        for number, group in enumerate(groups[known:], known):
            if any(group["lr"] is other["lr"] for other in groups[:number] if isinstance(group["lr"], Tensor)):
                group["lr"] = group["lr"].clone()  # the optimizer's default, which the groups before go on with
            group.setdefault("initial_lr", _copy(group["lr"]))
            self.base_lrs = [*self.base_lrs, _copy(group["initial_lr"])]
        for eta0 in self.base_lrs if self._is_initial else self.base_lrs[known:]:
            self.check(eta0)
        return [_like(group["lr"], eta0) for group, eta0 in zip(groups, self.base_lrs, strict=True)]


class StepDecay(ClosedFormLR):
    """A learning rate that drops every few epochs, usually to its half.

        η = η₀ d^⌊t/tᵈ⌋

    Source: CS231n, slide 'Learning rate decay over time!', "e.g. decay learning rate by half every few epochs"; Larson,
    Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Review' (there e for t).

    Difference from torch: `torch.optim.lr_scheduler.StepLR(optimizer, every, drop)`, rounded once; see `ClosedFormLR`.

    Arguments:
        optimizer, last_epoch: see `ClosedFormLR`, errors too.
        drop: d in (0, 1].
        every: tᵈ >= 1, how many steps are made with the same learning rate.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.8)
        >>> scheduler = StepDecay(optimizer, drop=0.5, every=2)
        >>> for _ in range(5):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.2]
    """

    def __init__(self, optimizer: Optimizer, drop: float = 0.5, every: int = 10, last_epoch: int = -1) -> None:
        self.drop = _real(self, "drop", drop, "in (0, 1]", lambda d: 0 < d <= 1)
        self.every = _count(self, "every", every)
        super().__init__(optimizer, last_epoch)

    def eta(self, eta0: Any, t: int) -> Any:
        return eta0 * self.drop ** (t // self.every)


class ExponentialDecay(ClosedFormLR):
    """A learning rate that loses the same part at every step.

        η = η₀ e⁻ᵏᵗ

    Source: CS231n, slide 'Learning rate decay over time!' (there α for η).

    Difference from torch: `torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=e⁻ᵏ)`, rounded once; see
    `ClosedFormLR`.

    Arguments:
        optimizer, last_epoch: see `ClosedFormLR`, errors too.
        k: rate of decay, >= 0; after 0.7 / k steps half is left.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = ExponentialDecay(optimizer, k=0.5)
        >>> for _ in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> round(scheduler.get_last_lr()[0], 5)  # 0.1 / e
        0.03679
    """

    def __init__(self, optimizer: Optimizer, k: float, last_epoch: int = -1) -> None:
        self.k = _real(self, "k", k, "finite and not negative", _finite)
        super().__init__(optimizer, last_epoch)

    def eta(self, eta0: Any, t: int) -> Any:
        return eta0 * exp(-self.k * t)


class InverseTimeDecay(ClosedFormLR):
    """A learning rate that falls as one over time.

        η = η₀ / (1 + k t)

    Source: CS231n, slide 'Learning rate decay over time!', "1/t decay" (there α for η).
    Difference from torch: torch has none; `torch.optim.Adagrad(lr_decay=k)` does this by its own steps.

    Arguments:
        optimizer, last_epoch: see `ClosedFormLR`, errors too.
        k: rate of decay, >= 0; after 1 / k steps half is left.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> scheduler = InverseTimeDecay(optimizer, k=0.5)
        >>> for _ in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]
    """

    def __init__(self, optimizer: Optimizer, k: float, last_epoch: int = -1) -> None:
        self.k = _real(self, "k", k, "finite and not negative", _finite)
        super().__init__(optimizer, last_epoch)

    def eta(self, eta0: Any, t: int) -> Any:
        return eta0 / (1 + self.k * t)


class PowerCooling(ClosedFormLR):
    """A learning rate that cools by growing powers of itself: an exponential decay, the faster the smaller η₀ is.

        η = max(η₀^(1 + t ε), floor)

    Source: Larson, Machine Learning in Python, 'Neural Network Optimization and Activation', slide 'Review' (there e
    for t). It cools only if η₀ < 1, which the slide does not say. The notebook of the lecture has the floor η₀ / 1000.
    Difference from torch: torch has none.

    Arguments:
        optimizer, last_epoch: see `ClosedFormLR`, errors too; the learning rates must be in [floor, 1).
        epsilon: ε >= 0.
        floor: what η does not fall below, >= 0.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01)
        >>> scheduler = PowerCooling(optimizer, epsilon=0.25, floor=1e-5)
        >>> for _ in range(2):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> round(scheduler.get_last_lr()[0], 6)  # 0.01 to the power of 1.5
        0.001
    """

    def __init__(self, optimizer: Optimizer, epsilon: float, floor: float = 0, last_epoch: int = -1) -> None:
        self.epsilon = _real(self, "epsilon", epsilon, "finite and not negative", _finite)
        self.floor = _real(self, "floor", floor, "finite and not negative", _finite)
        super().__init__(optimizer, last_epoch)

    def eta(self, eta0: Any, t: int) -> Any:
        return maximum(eta0 ** (1 + t * self.epsilon), self.floor)

    def check(self, eta0: float | Tensor) -> None:
        if not self.floor <= eta0 < 1:
            raise ValueError(
                f"PowerCooling: the first learning rates must be below 1, or they do not cool, and at least floor = "
                f"{self.floor}, got {float(eta0)}"
            )


class MomentumAnnealing(LRScheduler):
    """A momentum that grows while the net learns: "sometimes annealed over time, e.g. from 0.5 -> 0.99".

        form="linear":     μ = start + (end - start) min(t / steps, 1)
        form="sutskever":  μ = min(1 - 2^(-1 - log₂(⌊t / steps⌋ + 1)), end), for start = 0.5;
                           in general min(1 - (1 - start) / (⌊t / steps⌋ + 1), end)

    Sets `momentum` in all groups, or β₁ where the optimizer has betas; learning rates are left alone, so that it goes
    together with any other scheduler. Groups that are added later take part from the next step on; a momentum or β₁
    that is a tensor is filled in place. Resumed like `ClosedFormLR`. To begin at 0 with RMSprop take ours: torch's has
    no buffer then (KeyError when the momentum grows).

    Source: CS231n, slide 'Momentum update'; Sutskever, Martens, Dahl and Hinton 2013 (steps = 250 updates; their last
    1000 updates have μ = 0.9).
    Difference from torch: torch has none; `OneCycleLR` moves the momentum together with the learning rate.

    Arguments:
        optimizer: one with `momentum` or `betas`.
        start, end: of μ, in [0, 1). In the form "sutskever" start <= end.
        steps: how many steps the way from start to end takes, or for how many the form "sutskever" keeps μ (250).
        form: "linear" or "sutskever".
        last_epoch: -1 for a new run, else t - 1.

    Raises:
        ValueError: an argument is out of range, or missing; the optimizer has neither momentum nor betas.
        TypeError, KeyError: as in `ClosedFormLR`.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
        >>> scheduler = MomentumAnnealing(optimizer, start=0.5, end=0.75, steps=2)
        >>> for _ in range(4):
        ...     print(optimizer.param_groups[0]["momentum"])
        ...     optimizer.step()
        ...     scheduler.step()
        0.5
        0.625
        0.75
        0.75
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start: float = 0.5,
        end: float = 0.99,
        steps: int | None = None,
        form: Literal["linear", "sutskever"] = "linear",
        last_epoch: int = -1,
    ) -> None:
        check_choice("MomentumAnnealing", "form", form, ("linear", "sutskever"))
        self.start = _real(self, "start", start, "in [0, 1)", lambda mu: 0 <= mu < 1)
        self.end = _real(self, "end", end, "in [0, 1)", lambda mu: 0 <= mu < 1)
        self.steps = _count(self, "steps", 250 if steps is None and form == "sutskever" else steps)
        self.form = form
        if form == "sutskever" and start > end:
            raise ValueError(f"MomentumAnnealing: start must be at most end = {end} for 'sutskever', got {start}")
        super().__init__(optimizer, _count(self, "last_epoch", last_epoch, least=-1))

    def mu(self, t: int) -> float:
        """The momentum after t steps."""
        if self.form == "sutskever":
            return minimum(1 - (1 - self.start) / (t // self.steps + 1), self.end)
        way = minimum(t / self.steps, 1)
        return (1 - way) * self.start + way * self.end  # both ends without rounding

    @classmethod
    def latex(cls, form: Literal["linear", "sutskever"] = "linear") -> Latex:
        """The formula of the momentum in LaTeX, written from `mu` itself."""
        check_choice("MomentumAnnealing", "form", form, ("linear", "sutskever"))
        return latex(cls.mu, ("mu",), self=Attributes(form=form))

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates as they are; sets the momentum."""
        _warn_outside_of_step(self)
        groups = self.optimizer.param_groups
        for group in groups:
            self._set_momentum(group, self.mu(self.last_epoch))
        return [_copy(group["lr"]) for group in groups]

    def _set_momentum(self, group: Group, mu: float) -> None:
        if "betas" in group:
            beta1, *others = group["betas"]
            if isinstance(beta1, Tensor):
                beta1.fill_(mu)
            else:
                group["betas"] = (mu, *others)
        elif "momentum" not in group:
            options = ", ".join(key for key in group if key not in ("params", "initial_lr"))
            raise ValueError(
                f"MomentumAnnealing: the optimizer must have momentum or betas, got {type(self.optimizer).__name__} "
                f"with {options}"
            )
        elif isinstance(group["momentum"], Tensor):
            group["momentum"].fill_(mu)
        else:
            group["momentum"] = mu


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _like(lr: float | Tensor, eta0: float | Tensor) -> float | Tensor:
    return torch.as_tensor(eta0, dtype=lr.dtype, device=lr.device) if isinstance(lr, Tensor) else float(eta0)


def _go_on(lr: Any, before: Any, now: Any) -> Any:
    """What follows lr if `now` follows `before`."""
    if isinstance(lr, Tensor):
        return torch.where((lr == before) | (before == 0), now, lr * (now / before))
    return now if lr == before or before == 0 else lr * (now / before)


def _warn_outside_of_step(scheduler: LRScheduler) -> None:
    if not scheduler._get_lr_called_within_step:
        message = "To get the last learning rate computed by the scheduler, please use `get_last_lr()`."  # torch's
        warnings.warn(message, UserWarning, stacklevel=3)


def _real(scheduler: LRScheduler, name: str, value: Any, must_be: str, holds: Callable[[Any], bool]) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not holds(value):
        raise ValueError(f"{type(scheduler).__name__}: {name} must be {must_be}, got {value!r}")
    return float(value)  # a number of NumPy would not be loaded with weights_only


def _finite(value: Any) -> bool:
    return 0 <= value < math.inf


def _count(scheduler: LRScheduler, name: str, value: Any, least: int = 1) -> int:
    integer = f"an integer of at least {least}"
    return int(_real(scheduler, name, value, integer, lambda n: isinstance(n, Integral) and int(n) >= least))
