"""Formulas with reductions over rows, on the C engine: a loop over each row for every reduction and one for the rest.

A row of a matrix plays the part of an item: `scalar` columns hold one number a row, and what is reduced over a row is
`uniform` afterwards, the same for all its elements. Softmax becomes three loops: the maximum; the exponentials, which
are kept, and their sum; the quotients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from struct import Struct

import torch

from .c_compiler import load
from .c_engine import GRAIN, builtin, method, threads_for
from .c_source import MEMORY, CWriter, prelude
from .engine import built_once
from .math import EXACT
from .trace import LEAVES, Formula, Node, trace
from .writer import Loops, at, bases, indented, small_power

# A column may also hold integers: labels, and the byte that tells which piece of a maxout won.
ROW_MEMORY = MEMORY | {torch.int64: ("int64_t", "{}", "{}"), torch.uint8: ("uint8_t", "{}", "{}")}

# Dearer than storing a value and loading it again
COSTLY = frozenset(("exp", "expm1", "log", "log1p", "softplus", "tanh", "pow"))

_RUN = """
// Row i = 0..rows-1 of a column begins `stride` elements after row i - 1; the last row may be shorter. The table has
// their number, their length, that of the last one; for each column its stride and how many bytes after its address
// it begins. Totals, and sums over the rows for each place, are added up block by block, so that they do not depend on
// the number of threads.
static int blocks(const int64_t *table, const int64_t *address, const double *hyper, double *totals, double *sums,
                  int64_t size, int64_t from, int64_t to) {{
    const int64_t rows = table[0], length = table[1], last = table[2];
    {real} small[KEPT * SMALL + 1], *kept = small;
    if (KEPT && length > SMALL && !(kept = malloc(KEPT * length * sizeof({real})))) return 1;
    for (int64_t b = from; b < to; b++) {{
        double total[TOTALS + 1] = {{0}};
        double *own = SUMS ? sums + b * SUMS * length : NULL;
        int64_t end = (b + 1) * size < rows ? (b + 1) * size : rows;
        for (int64_t i = b * size; i < end; i++)
            row(table + 3, address, hyper, i, i + 1 == rows ? last : length, length, kept, own, total);
        memcpy(totals + b * TOTALS, total, TOTALS * sizeof(double));
    }}
    if (kept != small) free(kept);
    return 0;
}}

static int run(const int64_t *table, const int64_t *address, const double *hyper, int64_t threads, double *totals) {{
    int64_t rows = table[0], length = table[1];
    int64_t size = length < GRAIN ? GRAIN / (length + 1) : 1, count = (rows + size - 1) / size;
    double few[SMALL], *parts = few, *sums = NULL;
    if (count * TOTALS > SMALL && !(parts = malloc(count * TOTALS * sizeof(double)))) return 1;
    int failed = SUMS && !(sums = calloc(count * SUMS * length + 1, sizeof(double)));
    if (!failed && threads <= 1) failed = blocks(table, address, hyper, parts, sums, size, 0, count);
    else if (!failed) {{
        #pragma omp parallel num_threads(threads) reduction(|:failed)
        {{
            int64_t k = omp_get_thread_num(), n = omp_get_num_threads();
            failed = blocks(table, address, hyper, parts, sums, size, count * k / n, count * (k + 1) / n);
        }}
    }}
    if (SUMS && !failed) add_up(table + 3, address, sums, count, length);
    free(sums);
    for (int64_t k = 0; k < TOTALS; k++) totals[k] = 0;
    for (int64_t b = 0; b < count; b++)
        for (int64_t k = 0; k < TOTALS; k++) totals[k] += parts[b * TOTALS + k];
    if (parts != few) free(parts);
    return failed;
}}

// Python's call (threads, address, ..., hyper, ...) of a function whose self is the table.
static PyObject *rows(PyObject *self, PyObject *const *arguments, int64_t count) {{
    int64_t words[1 + BASES];
    double hyper[HYPERS + 1], totals[TOTALS + 1];
    if (!read_call(arguments, count, 1 + BASES, words, HYPERS, hyper)) return NULL;
    const int64_t *table = (const int64_t *)PyBytes_AsString(self);
    void *state = PyEval_SaveThread();
    int failed = run(table, words + 1, hyper, words[0], totals);
    return end_call(state, failed, TOTALS, totals);
}}

struct method run_rows = {{"run_rows", rows, FASTCALL, NULL}};
"""


class RowKernel:
    """A formula compiled for rows with columns of certain dtypes. Knows addresses, no tensors.

    Arguments:
        formula: what to compute, with a column for each argument and after them one for each fresh output.
        dtypes: of the columns in memory; totals are double and have none.
        interleaved: the numbers of columns whose elements lie in one memory by turns: a, b, a, b, ...
    """

    def __init__(self, formula: Formula, dtypes: tuple[torch.dtype, ...], interleaved: range = range(0)) -> None:
        writer = _RowWriter(formula, dtypes, interleaved)
        self._method = method(load(writer.source()), "run_rows")
        self._pack = Struct(f"{3 + 2 * len(writer.bases)}q").pack

    def prepare(
        self, shape: tuple[int, int, int], steps: Iterable[tuple[int, int]], device: torch.device
    ) -> Callable[..., tuple[float, ...]]:
        """What runs over rows of this shape: called with addresses and hypers, it returns the totals.

        Arguments:
            shape: the number of rows, the length of all but the last, the length of the last.
            steps: for each column in memory the distance of its rows in elements, and of its first row from its
                address in bytes.
            device: where the columns lie: the CPU.
        """
        run, elements = builtin(self._method, self._pack(*shape, *chain.from_iterable(steps))), shape[0] * shape[1]
        return lambda addresses, hypers: run(threads_for(elements), *addresses, *hypers)


def row_kernel(formula: Formula, dtypes: tuple[torch.dtype, ...], interleaved: range = range(0)) -> RowKernel:
    """The kernel of a formula, see `built_once`."""
    return built_once(RowKernel, formula, dtypes, interleaved)


class _RowWriter(CWriter):
    memory = ROW_MEMORY

    def __init__(self, formula: Formula, dtypes: tuple[torch.dtype, ...], interleaved: range) -> None:
        super().__init__(trace(formula), dtypes)
        self.interleaved = interleaved
        self.totals = sum(kind == "total" for kind in formula.outputs)
        self.sums = [column for column, _ in self.stored("sum")]
        self.bases = bases(len(dtypes), interleaved)
        self.loops = Loops(self.program)
        self.kept: dict[int, str] = {}  # where lines are that one loop stores and a later one loads

    def source(self) -> str:
        row = self._row()
        run = _RUN.format(real=self.real)
        sizes = f"enum {{ SMALL = 64, GRAIN = {GRAIN}, LANES = 16, COUNTED = {EXACT}, BASES = {len(self.bases)}, "
        sizes += f"HYPERS = {len(self.formula.hypers)}, TOTALS = {self.totals}, KEPT = {self._count_kept()}, "
        sizes += f"SUMS = {len(self.sums)} }};"
        return "\n".join([prelude(), sizes, row, self._add_up(), run])

    def _add_up(self) -> str:
        """What adds up the sums of the blocks."""
        lines = []
        for number, column in enumerate(self.sums):
            lines += ["for (int64_t j = 0; j < length; j++) {", "    double total = 0;"]
            lines += [f"    for (int64_t b = 0; b < count; b++) total += sums[(b * SUMS + {number}) * length + j];"]
            lines += [*indented(self._store(column, "total")), "}"]
        head = (
            "static void add_up(const int64_t *column, const int64_t *address, const double *sums, int64_t count, "
            "int64_t length) {"
        )
        return "\n".join([head, *indented([*map(self._pointer, self.sums), *lines]), "}\n"])

    def _pointer(self, column: int, row: str = "0") -> str:
        """Where the row of a column begins."""
        place, c_type = self.bases.index(column), self.memory[self.dtypes[column]][0]
        return (
            f"{c_type} *restrict c{column} = ({c_type} *)(address[{place}] + column[{2 * place + 1}]) + "
            f"{row} * column[{2 * place}];"
        )

    def _row(self) -> str:
        lines = []
        for column in self.bases:
            if column in self.sums:
                lines.append(f"double *restrict c{column} = sums + {self.sums.index(column)} * length;")
            else:
                lines.append(self._pointer(column, "i"))
            if self.formula.kind(column) == "scalar" and column < len(self.formula.columns):
                lines.append(f"const double s{column} = {self.load(column, '0')};")
        lines.append("const int64_t whole = n < LANES ? 0 : n;")
        lines.append("const int32_t few = n < LANES ? n : 0;")
        for loop in range(self.loops.last + 1):
            for number in self.loops.uniforms(loop):
                lines.append(f"const double n{number} = {self.uniform(self.nodes[number])};")
            lines += self._loop(loop)
        total = 0
        for column, result in zip(self.formula.stores, self.program.results, strict=True):
            if self.formula.kind(column) == "scalar":
                lines.append(self._store(column, f"n{result}", "0")[0])
            elif self.formula.kind(column) == "total":
                lines.append(f"total[{total}] += n{result};")
                total += 1
        head = (
            "static void row(const int64_t *column, const int64_t *address, const double *hyper, int64_t i, int64_t n, "
            f"int64_t length, {self.real} *restrict kept, double *restrict sums, double *restrict total) {{"
        )
        return "\n".join([head, *("    " + line for line in lines), "}\n"])

    def _loop(self, loop: int) -> list[str]:
        """The loop in which reductions and results are computed that cannot come earlier."""
        reductions, stored = self.loops.reductions(loop), self.loops.stored(loop)
        roots = [self.nodes[number].operands[0] for number in reductions] + [result for _, result in stored]
        if not roots:
            return []
        seen = len(self.table)
        body = [*self._lines(roots, loop)]
        before, clauses, after = [], "", []
        for number in reductions:
            x = self.operand(self.nodes[number].operands[0])
            if self.nodes[number].operation == "row_sum":
                before.append(f"double r{number} = 0;")
                clauses += f" reduction(+:r{number})"
                body.append(f"r{number} += {x};")
                after.append(f"const double n{number} = r{number};")
            else:
                before.append(f"{self.real} r{number} = -INFINITY; int bad{number} = 0;")
                clauses += f" reduction(max:r{number}) reduction(|:bad{number})"
                body.append(f"r{number} = {x} > r{number} ? {x} : r{number}; bad{number} |= {x} != {x};")
                after.append(f"const double n{number} = bad{number} ? NAN : r{number};")
        for column, result in stored:
            value = self.operand(result)
            body += [f"c{column}[j] += {value};"] if column in self.sums else self._store(column, value)
        uniforms = [f"const {self.real} u{place} = {self.table[place]};" for place in range(seen, len(self.table))]
        # A short row is one vector with some lanes switched off; element by element it would take twice the time.
        simd = f"#pragma omp simd{clauses}"
        lines = [simd, "for (int64_t j = 0; j < whole; j++) {", *indented(body), "}"]
        if any(self.nodes[number].operation == "place" for number in self.loops.needed(roots)):
            lines = _counted(simd, body)
        lines += ["if (few)", simd, "for (int32_t k = 0; k < LANES; k++) {"]
        lines += ["    const int64_t first = 0, j = k;", "    if (k < few) {", *indented(indented(body)), "    }", "}"]
        return [*uniforms, *before, *lines, *after]

    def _lines(self, roots: Sequence[int], loop: int) -> list[str]:
        """What this loop computes for the roots, in the order of the program."""
        lines = []
        for number in self.loops.needed(roots, lambda line: self._is_kept(line, loop)):
            node, kept = self.nodes[number], self._is_kept(number, loop)
            value = self.kept[number] if kept else self.elementwise(node)
            lines.append(f"const {self._c_type(node)} n{number} = {value};")
            if not kept and self._is_needed_later(number, loop):
                self.kept[number] = self._place_to_keep(loop)
                lines.append(f"{self.kept[number]} = n{number};")
        return lines

    def _place_to_keep(self, loop: int) -> str:
        """In a result that the last loop will write, which saves memory and the way to it; else in a row of its own."""
        for column, result in zip(self.formula.stores, self.program.results, strict=True):
            place = self._at(column, "j")
            is_free = column >= len(self.formula.columns) and place not in self.kept.values()
            is_fit = self.formula.kind(column) == "array" and self.memory[self.dtypes[column]][0] == self.real
            if is_free and is_fit and loop < self.loops.stored_in(column, result) == self.loops.last:
                return place
        return f"kept[{self._count_kept()} * length + j]"

    def _count_kept(self) -> int:
        return sum(place.startswith("kept") for place in self.kept.values())

    def _is_kept(self, number: int, loop: int) -> bool:
        return number in self.kept and self.loops.available[number] < loop

    def _is_needed_later(self, number: int, loop: int) -> bool:
        """A costly value of this loop on which a value that comes later depends, other than through a reduction."""
        node = self.nodes[number]
        is_product = node.operation == "pow" and small_power(self.nodes, node)
        if node.operation not in COSTLY or is_product or number in self.kept:
            return False
        reached = {number}
        for later in range(number + 1, len(self.nodes)):
            node = self.nodes[later]
            if node.operation not in LEAVES and not node.uniform and reached.intersection(node.operands):
                reached.add(later)
        return any(self.loops.available[later] > loop for later in reached)

    def uniform(self, node: Node) -> str:
        if node.operation != "entry":
            return super().uniform(node)
        (column,), place = self.nodes[node.operands[0]].operands, f"n{node.operands[1]}"
        return f"{place} >= 0 && {place} < n ? {self.load(column, f'(int64_t){place}')} : NAN"

    def elementwise(self, node: Node) -> str:
        if node.operation == "place":
            return f"({self.real})first + ({self.real})k"
        return super().elementwise(node)

    def _at(self, column: int, index: str) -> str:
        base, index = at(column, index, self.interleaved)
        return f"c{base}[{index}]"


def _counted(simd: str, body: Sequence[str]) -> list[str]:
    """The loop over a row whose body asks for places.

    AVX2 has no instruction that makes a float of an integer of 64 bits: a loop with one would go element by element. So
    j is `first`, which is the same for many elements, plus k, an integer of 32 bits. Both are exact as floats.
    """
    return [
        "for (int64_t first = 0; first < whole; first += COUNTED) {",
        "    const int32_t end = whole - first < COUNTED ? whole - first : COUNTED;",
        f"    {simd}",
        "    for (int32_t k = 0; k < end; k++) {",
        "        const int64_t j = first + k;",
        *indented(indented(body)),
        "    }",
        "}",
    ]
