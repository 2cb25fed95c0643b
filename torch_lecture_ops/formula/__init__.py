"""Formulas and the engines that run them.

A formula is a pure Python function of its arguments, written as on the slide: + - * / **, comparisons and the
functions of this module; on numbers they mean what IEEE 754 says, as on tensors. Engines execute it: those that compile
it (`COMPILED`, by device), `foreach` and `loop`. None of them knows any formula.
"""

from .alike import Alike as Alike
from .c_engine import CLaunch as CLaunch
from .c_engine import kernel as kernel
from .c_engine import threads_for as threads_for
from .c_rows import ROW_MEMORY as ROW_MEMORY
from .c_rows import RowKernel as RowKernel
from .c_rows import row_kernel as row_kernel
from .c_source import MEMORY as MEMORY
from .compiled import COMPILED as COMPILED
from .engine import EngineUnavailable as EngineUnavailable
from .engine import note_fallback as note_fallback
from .foreach import TensorList as TensorList
from .foreach import foreach as foreach
from .javascript import javascript as javascript
from .latex import Latex as Latex
from .latex import latex as latex
from .launch import PLAIN as PLAIN
from .loop import HALF as HALF
from .loop import loop as loop
from .loop import operand as operand
from .math import EXACT as EXACT
from .math import FormulaError as FormulaError
from .math import abs as abs
from .math import entry as entry
from .math import exp as exp
from .math import expm1 as expm1
from .math import log as log
from .math import log1p as log1p
from .math import maximum as maximum
from .math import minimum as minimum
from .math import place as place
from .math import row_max as row_max
from .math import row_sum as row_sum
from .math import softplus as softplus
from .math import sqrt as sqrt
from .math import tanh as tanh
from .math import where as where
from .trace import Formula as Formula
from .trace import Program as Program
from .trace import Untraceable as Untraceable
from .trace import trace as trace

__all__ = ["abs", "entry", "exp", "expm1", "log", "log1p", "maximum", "minimum", "place", "row_max", "row_sum"]
__all__ += ["softplus", "sqrt", "tanh", "where", "FormulaError"]
__all__ += ["Formula", "trace", "loop", "foreach", "COMPILED", "EngineUnavailable", "Latex", "latex", "javascript"]


def __dir__() -> list[str]:
    return __all__
