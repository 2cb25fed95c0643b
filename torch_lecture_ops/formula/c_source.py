"""Write a program as C: one loop, all reads, the arithmetic in registers, all writes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import torch

from .math import FormulaError
from .trace import COMPARISONS, Node, Program

# How a dtype lies in memory: C type, load and store. Half types are computed with in float.
MEMORY = {
    torch.float32: ("float", "{}", "{}"),
    torch.float64: ("double", "{}", "{}"),
    torch.float16: ("uint16_t", "load_float16({})", "store_float16({})"),
    torch.bfloat16: ("uint16_t", "load_bfloat16({})", "store_bfloat16({})"),
}

_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_OPERATORS |= {"eq": "==", "ne": "!="}
_TEMPLATES = {operation: f"{{0}} {symbol} {{1}}" for operation, symbol in _OPERATORS.items()} | {
    "neg": "-{0}",
    "where": "{0} ? {1} : {2}",
    "maximum": "{0} < {1} || {1} != {1} ? {1} : {0}",
    "minimum": "{0} > {1} || {1} != {1} ? {1} : {0}",
}
_DOUBLE = {name: f"{name}({{0}})" for name in ("exp", "expm1", "log", "log1p", "softplus", "sqrt", "tanh")}
_DOUBLE |= _TEMPLATES | {"abs": "fabs({0})", "pow": "pow({0}, {1})"}
_FLOAT = {name: f"{name}_float({{0}})" for name in ("exp", "expm1", "log", "log1p", "softplus", "tanh")}
_FLOAT |= _TEMPLATES | {"abs": "fabsf({0})", "sqrt": "sqrtf({0})", "pow": "powf({0}, {1})"}

# Tensors that do not fit into the caches are fetched ahead: the processor's own prefetching stops at the end of each
# page of 4 KB, and a loop without ours gets three quarters of a free memory's bandwidth.
_FETCH = """
enum { BLOCK = 64, AHEAD = 2048, FAR = 32 << 20 };  // elements, bytes, bytes
#define fetch_ahead(column, is_written) \\
    for (unsigned byte = 0; byte < BLOCK * sizeof *(column); byte += 64) \\
        __builtin_prefetch((const char *)(column) + AHEAD + byte, is_written)
"""

_RUN = """
// Items i = 0..count-1; column k of item i begins at columns[k * count + i], its elements are start[i]..start[i+1]
// of the flat numbering. Threads divide the flat numbering evenly, whatever the sizes of the items.
static void part(int64_t count, const int64_t *start, void *const *columns, const double *table, int64_t k, int64_t n) {
    int64_t total = start[count];
    int64_t from = (total * k / n) & ~63LL, to = k + 1 == n ? total : (total * (k + 1) / n) & ~63LL;
    int64_t i = 0, above = count;  // the last item that begins at or before `from`
    while (above - i > 1) {
        int64_t middle = (i + above) / 2;
        if (start[middle] <= from) i = middle; else above = middle;
    }
    void (*elements)(void *const *, int64_t, const double *, int64_t, int64_t) = total > FAR / BYTES ? far : near;
    for (; i < count && start[i] < to; i++)
        elements(columns + i, count, table + i * ROW, from > start[i] ? from - start[i] : 0,
                 (to < start[i + 1] ? to : start[i + 1]) - start[i]);
}

int run(int64_t count, const int64_t *start, void *const *columns, const double *hyper, int threads) {
    double small[SMALL], *table = small;
    if (count * ROW > SMALL && !(table = malloc(count * ROW * sizeof(double)))) return 1;
    for (int64_t i = 0; i < count; i++) uniforms(columns + i, count, hyper, table + i * ROW, i);
    if (threads <= 1) part(count, start, columns, table, 0, 1);
    else {
        #pragma omp parallel num_threads(threads)
        part(count, start, columns, table, omp_get_thread_num(), omp_get_num_threads());
    }
    if (table != small) free(table);
    return 0;
}

// The same for a single item. The call is one block of words: the elements, the threads, the addresses, the hypers.
int run_one(const int64_t *call) {
    int64_t start[] = {0, call[0]};
    return run(1, start, (void *const *)(call + 2), (const double *)(call + 2 + COLUMNS), call[1]);
}
"""


@cache
def prelude() -> str:
    return files(__package__).joinpath("c_math.h").read_text()


def c_source(program: Program, dtypes: tuple[torch.dtype, ...]) -> str:
    """The C text of a program for columns of these dtypes. Computes in double if a column is double, else in float."""
    return Writer(program, dtypes).source()


class Writer:
    """Writes the text line by line; `memory` tells which dtypes its columns may have."""

    memory = MEMORY

    def __init__(self, program: Program, dtypes: tuple[torch.dtype, ...]) -> None:
        self.program, self.dtypes = program, dtypes
        self.formula, self.nodes = program.formula, program.nodes
        arrays = [dtype for column, dtype in enumerate(dtypes) if self.formula.kind(column) == "array"]
        self.real = "double" if torch.float64 in arrays else "float"
        self.table: list[str] = []  # what `uniforms` hands to `elements`, as expressions of the former

    def source(self) -> str:
        elements, uniforms = self._elements(), self._uniforms()  # both add to the table
        sizes = f"ROW = {max(len(self.table), 1)}, SMALL = 64, COLUMNS = {len(self.dtypes)}, BYTES = {self._bytes()}"
        enum = f"enum {{ {sizes} }};{_FETCH}"
        return "\n".join([prelude(), "#include <omp.h>", enum, uniforms, elements, _RUN])

    def _uniforms(self) -> str:
        """Once an item, in double: what is the same for all its elements, as a row of the table.

        The scalars of an item are read first and stored last, so that a result may overwrite its own argument. Items
        with the same scalars as the item before (most often all: the step t) copy its row.
        """
        loads, stores, same = [], [], ["i"]
        for column, kind in enumerate(self.formula.columns):
            if kind == "scalar":
                loads.append(f"const double s{column} = {self._scalar(column)};")
                same.append(f"(u - ROW)[{self._place(f's{column}')}] == s{column}")
        for column, result in zip(self.formula.stores, self.program.results, strict=True):
            if self.formula.kind(column) == "scalar":
                stores.append(f"{self._scalar(column)} = u[{self._place(f'n{result}')}];")
        lines = [f"if ({' && '.join(same)}) memcpy(u, u - ROW, ROW * sizeof(double));", "else {"]
        for number, node in enumerate(self.nodes):
            if node.uniform:
                lines.append(f"    const double n{number} = {self._uniform(node)};")
        lines += [f"    u[{place}] = {expression};" for place, expression in enumerate(self.table)]
        head = "static void uniforms(void *const *column, int64_t count, const double *hyper, double *u, int64_t i) {"
        return _function(head, [*loads, *lines, "}", *stores])

    def _scalar(self, column: int) -> str:
        return f"*({self.memory[self.dtypes[column]][0]} *)column[{column} * count]"

    def _arrays(self) -> list[int]:
        """The array columns that the loop touches."""
        read = {node.operands[0] for node in self.nodes if node.operation == "array"}
        return [column for column in sorted(read | self.formula.written) if self.formula.kind(column) == "array"]

    def _bytes(self) -> int:
        return sum(self.dtypes[column].itemsize for column in self._arrays())

    def _elements(self) -> str:
        loads, lines, stores = [], [], []
        for number, node in enumerate(self.nodes):
            if not node.uniform:
                lines.append(f"const {self._c_type(node)} n{number} = {self._elementwise(node)};")
        for column in self._arrays():
            c_type = self.memory[self.dtypes[column]][0]
            loads.append(f"{c_type} *restrict c{column} = ({c_type} *)column[{column} * count];")
        for column, result in zip(self.formula.stores, self.program.results, strict=True):
            if self.formula.kind(column) == "array":
                stores += self._store(column, self._operand(result))
        loads += [f"const {self.real} u{place} = ({self.real})u[{place}];" for place in range(len(self.table))]
        head = "static void {}(void *const *column, int64_t count, const double *u, int64_t from, int64_t to) {{"
        body = ["    " + line for line in lines + stores]
        near = ["for (int64_t j = from; j < to; j++) {", *body, "}"]
        far = [
            "for (int64_t k = from; k < to; k += BLOCK) {",
            *(f"    fetch_ahead(c{column} + k, {int(column in self.formula.written)});" for column in self._arrays()),
            "    const int64_t end = k + BLOCK < to ? k + BLOCK : to;",
            "    for (int64_t j = k; j < end; j++) {",
            *("    " + line for line in body),
            "    }",
            "}",
        ]
        return _function(head.format("near"), loads + near) + "\n" + _function(head.format("far"), loads + far)

    def _uniform(self, node: Node) -> str:
        kind, operands = node.operation, node.operands
        if kind == "scalar":
            return f"s{operands[0]}"
        if kind == "hyper":
            return f"hyper[{operands[0]}]"
        if kind == "number":
            return _literal(operands[0])
        return self._template(_DOUBLE, kind).format(*(f"n{operand}" for operand in operands))

    def _elementwise(self, node: Node) -> str:
        kind, operands = node.operation, node.operands
        if kind == "array":
            column, remainder = operands[0], self.formula.remainder
            return self._load(0) + " + " + self._load(remainder) if remainder and column == 0 else self._load(column)
        if kind == "div" and self.nodes[operands[1]].uniform:  # one division an item, not one an element
            return f"{self._operand(operands[0])} * u{self._place(f'1.0 / n{operands[1]}')}"
        if kind == "pow" and self.nodes[operands[1]] == Node("number", ((2.0).hex(),), True):
            kind, operands = "mul", (operands[0], operands[0])
        templates = _DOUBLE if self.real == "double" else _FLOAT
        return self._template(templates, kind).format(*map(self._operand, operands))

    def _at(self, column: int, index: str) -> str:
        return f"c{column}[{index}]"

    def _load(self, column: int, index: str = "j") -> str:
        return self.memory[self.dtypes[column]][1].format(self._at(column, index))

    def _store(self, column: int, value: str, index: str = "j") -> list[str]:
        store = f"{self._at(column, index)} = {self.memory[self.dtypes[column]][2]};".format
        remainder = self.formula.remainder
        if column or remainder is None:
            return [store(value)]
        left = f"const {self.real} left = {value} - {self._load(0)};"  # infinite or NaN with the value: nothing is left
        return [store(value), left, *self._store(remainder, "(left - left == 0 ? left : 0)")]

    def _template(self, templates: dict[str, str], operation: str) -> str:
        if operation not in templates:
            raise FormulaError(f"{self.formula.name}: the C engine does not know {operation!r}")
        return templates[operation]

    def _operand(self, number: int) -> str:
        return f"u{self._place(f'n{number}')}" if self.nodes[number].uniform else f"n{number}"

    def _place(self, expression: str) -> int:
        if expression not in self.table:
            self.table.append(expression)
        return self.table.index(expression)

    def _c_type(self, node: Node) -> str:
        return "int" if node.operation in COMPARISONS else self.real


def _literal(number: str) -> str:
    return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(number, number)


def _function(head: str, lines: list[str]) -> str:
    return "\n".join([head, *("    " + line for line in lines), "}\n"])
