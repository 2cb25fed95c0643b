"""Write a program as C: one loop, all reads, the arithmetic in registers, all writes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import torch

from .trace import Node, Program
from .writer import TEMPLATES, VOCABULARY, Writer, is_comparison

# How a dtype lies in memory: C type, load and store. Half types are computed with in float.
MEMORY = {
    torch.float32: ("float", "{}", "{}"),
    torch.float64: ("double", "{}", "{}"),
    torch.float16: ("uint16_t", "load_float16({})", "store_float16({})"),
    torch.bfloat16: ("uint16_t", "load_bfloat16({})", "store_bfloat16({})"),
}

_TEMPLATES = TEMPLATES | {
    "neg": "-{0}",
    "where": "{0} ? {1} : {2}",
    "maximum": "{0} < {1} || {1} != {1} ? {1} : {0}",
    "minimum": "{0} > {1} || {1} != {1} ? {1} : {0}",
}
_LIBRARY = {name: f"{name}({{0}})" for name in (*VOCABULARY, "sqrt")}
_LIBRARY |= _TEMPLATES | {"abs": "fabs({0})", "pow": "pow({0}, {1})"}
_DOUBLE = _LIBRARY | {name: f"{name}_double({{0}})" for name in VOCABULARY}
_FLOAT = {name: f"{name}_float({{0}})" for name in VOCABULARY}
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

static int run(int64_t count, const int64_t *start, void *const *columns, const double *hyper, int threads) {
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

// Python's call (count, start, columns, threads, hyper, ...), the second and third as addresses.
static PyObject *many(PyObject *self, PyObject *const *arguments, int64_t count) {
    int64_t words[4];
    double hyper[HYPERS + 1];
    if (!read_call(arguments, count, 4, words, HYPERS, hyper)) return NULL;
    void *state = PyEval_SaveThread();
    int failed = run(words[0], (const int64_t *)words[1], (void *const *)words[2], hyper, words[3]);
    return end_call(state, failed, 0, NULL);
}

// The same for a single item: (elements, threads, address, ..., hyper, ...).
static PyObject *one(PyObject *self, PyObject *const *arguments, int64_t count) {
    int64_t words[2 + COLUMNS];
    double hyper[HYPERS + 1];
    if (!read_call(arguments, count, 2 + COLUMNS, words, HYPERS, hyper)) return NULL;
    void *state = PyEval_SaveThread();
    int64_t start[] = {0, words[0]};
    int failed = run(1, start, (void *const *)(words + 2), hyper, words[1]);
    return end_call(state, failed, 0, NULL);
}

struct method run_many = {"run_many", many, FASTCALL, NULL}, run_one = {"run_one", one, FASTCALL, NULL};
"""


@cache
def prelude() -> str:
    headers = [files(__package__).joinpath(name).read_text() for name in ("c_math.h", "c_builtin.h")]
    return "\n".join(["#include <omp.h>", *headers])


def c_source(program: Program, dtypes: tuple[torch.dtype, ...]) -> str:
    """The C text of a program for columns of these dtypes. Computes in double if a column is double, else in float."""
    return CWriter(program, dtypes).source()


class CWriter(Writer):
    """Writes C; `memory` tells which dtypes its columns may have."""

    engine, once, double, single = "C", _LIBRARY, _DOUBLE, _FLOAT
    memory = MEMORY

    def __init__(self, program: Program, dtypes: tuple[torch.dtype, ...]) -> None:
        super().__init__(program, dtypes)
        self.real = "double" if self.is_double else "float"

    def source(self) -> str:
        elements, uniforms = self._elements(), self._uniforms()  # both add to the table
        sizes = f"ROW = {max(len(self.table), 1)}, SMALL = 64, COLUMNS = {len(self.dtypes)}"
        sizes += f", HYPERS = {len(self.formula.hypers)}, BYTES = {self._bytes()}"
        return "\n".join([prelude(), f"enum {{ {sizes} }};{_FETCH}", uniforms, elements, _RUN])

    def _uniforms(self) -> str:
        """Once an item, in double: what is the same for all its elements, as a row of the table.

        The scalars of an item are read first and stored last, so that a result may overwrite its own argument. Items
        with the same scalars as the item before (most often all: the step t) copy its row.
        """
        loads, stores, same = [], [], ["i"]
        for column in self.scalars():
            loads.append(f"const double s{column} = {self._scalar(column)};")
            same.append(f"bits_double((u - ROW)[{self._place(f's{column}')}]) == bits_double(s{column})")  # 0 is not -0
        for column, result in self.stored("scalar"):
            stores.append(f"{self._scalar(column)} = u[{self._place(f'n{result}')}];")
        lines = [f"if ({' && '.join(same)}) memcpy(u, u - ROW, ROW * sizeof(double));", "else {"]
        for number, node in enumerate(self.nodes):
            if node.uniform:
                lines.append(f"    const double n{number} = {self.uniform(node)};")
        lines += [f"    u[{place}] = {expression};" for place, expression in enumerate(self.table)]
        head = "static void uniforms(void *const *column, int64_t count, const double *hyper, double *u, int64_t i) {"
        return _function(head, [*loads, *lines, "}", *stores])

    def _scalar(self, column: int) -> str:
        return f"*({self.memory[self.dtypes[column]][0]} *)column[{column} * count]"

    def _bytes(self) -> int:
        return sum(self.dtypes[column].itemsize for column in self.arrays())

    def _elements(self) -> str:
        loads, lines, stores = [], [], []
        for number, node in enumerate(self.nodes):
            if not node.uniform:
                lines.append(f"const {self._c_type(node)} n{number} = {self.elementwise(node)};")
        for column in self.arrays():
            c_type = self.memory[self.dtypes[column]][0]
            loads.append(f"{c_type} *restrict c{column} = ({c_type} *)column[{column} * count];")
        for column, result in self.stored("array"):
            stores += self._store(column, self.operand(result))
        loads += [f"const {self.real} u{place} = ({self.real})u[{place}];" for place in range(len(self.table))]
        head = "static void {}(void *const *column, int64_t count, const double *u, int64_t from, int64_t to) {{"
        body = ["    " + line for line in lines + stores]
        near = ["for (int64_t j = from; j < to; j++) {", *body, "}"]
        far = [
            "for (int64_t k = from; k < to; k += BLOCK) {",
            *(f"    fetch_ahead(c{column} + k, {int(column in self.formula.written)});" for column in self.arrays()),
            "    const int64_t end = k + BLOCK < to ? k + BLOCK : to;",
            "    for (int64_t j = k; j < end; j++) {",
            *("    " + line for line in body),
            "    }",
            "}",
        ]
        return _function(head.format("near"), loads + near) + "\n" + _function(head.format("far"), loads + far)

    def elementwise(self, node: Node) -> str:
        if node.operation == "where" and self.nodes[node.operands[0]].uniform:
            return f"chosen_{self.real}({', '.join(map(self.operand, node.operands))})"
        return super().elementwise(node)

    def hyper(self, number: int) -> str:
        return f"hyper[{number}]"

    def literal(self, number: str) -> str:
        return {"inf": "INFINITY", "-inf": "-INFINITY", "nan": "NAN"}.get(number, number)

    def _at(self, column: int, index: str) -> str:
        return f"c{column}[{index}]"

    def load(self, column: int, index: str = "j") -> str:
        return self.memory[self.dtypes[column]][1].format(self._at(column, index))

    def _store(self, column: int, value: str, index: str = "j") -> list[str]:
        store = f"{self._at(column, index)} = {self.memory[self.dtypes[column]][2]};".format
        remainder = self.formula.remainder
        if column or remainder is None:
            return [store(value)]
        left = f"const {self.real} left = {value} - {self.load(0)};"  # infinite or NaN with the value: nothing is left
        return [store(value), left, *self._store(remainder, "(left - left == 0 ? left : 0)")]

    def _c_type(self, node: Node) -> str:
        return "int" if is_comparison(node) else self.real


def _function(head: str, lines: list[str]) -> str:
    return "\n".join([head, *("    " + line for line in lines), "}\n"])
