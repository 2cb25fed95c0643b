"""Write every kernel of the C engine that the package launches; see test_vectorization.py.

Run as a script. The whole package is called on CPU tensors, with kernels that are written and not built, and run over
nothing. Prints, as JSON, what is to be known of each.
"""

import json
import sys

from everything import functions, rules

from torch_lecture_ops.formula import MEMORY, c_engine, c_rows, trace
from torch_lecture_ops.formula.c_source import CWriter

found = []


def note(writer, interleaved=range(0)):
    dtypes = [str(dtype).removeprefix("torch.") for dtype in writer.dtypes]
    operations = sorted({node.operation for node in writer.nodes})
    name, has_gaps = writer.formula.name, len(interleaved) > 0
    found.append(dict(name=name, dtypes=dtypes, operations=operations, has_gaps=has_gaps, source=writer.source()))


class Kernel(c_engine.Kernel):
    def __init__(self, formula, dtypes):
        note(CWriter(trace(formula), dtypes))
        self.one = self._many = lambda *arguments: ()


class RowKernel(c_rows.RowKernel):
    def __init__(self, formula, dtypes, interleaved=range(0)):
        writer = c_rows._RowWriter(formula, dtypes, interleaved)
        note(writer, interleaved)
        self._totals = (0.0,) * writer.totals

    def prepare(self, shape, steps, device):
        return lambda addresses, hypers: self._totals


if __name__ == "__main__":
    c_engine.Kernel, c_rows.RowKernel = Kernel, RowKernel
    for dtype in MEMORY:
        rules(dtype)
        functions(dtype)
    json.dump(found, sys.stdout)
