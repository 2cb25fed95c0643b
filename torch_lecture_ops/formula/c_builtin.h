// Kernels as built-in functions of Python: a call through ctypes would take twice the time.
//
// These names of the stable ABI are all it takes; Python.h may not be installed.

#include <stdint.h>

typedef struct PyObject PyObject;
extern PyObject *PyExc_TypeError;
extern PyObject *PyExc_MemoryError;
extern PyObject *PyErr_Occurred(void);
extern PyObject *PyErr_Format(PyObject *exception, const char *text, ...);
extern PyObject *PyFloat_FromDouble(double number);
extern PyObject *PyTuple_New(int64_t size);
extern int PyTuple_SetItem(PyObject *tuple, int64_t place, PyObject *item);
extern void Py_DecRef(PyObject *object);
extern long long PyLong_AsLongLong(PyObject *integer);
extern double PyFloat_AsDouble(PyObject *number);
extern char *PyBytes_AsString(PyObject *bytes);
extern void *PyEval_SaveThread(void);
extern void PyEval_RestoreThread(void *state);

enum { FASTCALL = 0x80 };  // METH_FASTCALL
struct method {  // PyMethodDef
    const char *name;
    PyObject *(*function)(PyObject *self, PyObject *const *arguments, int64_t count);
    int flags;
    const char *doc;
};

// The arguments of a call: so many integers, then n numbers. 0: an exception is set.
static int read_call(PyObject *const *arguments, int64_t count, int64_t integers, int64_t *words, int64_t n,
                     double *numbers) {
    if (count != integers + n) {
        PyErr_Format(PyExc_TypeError, "a kernel takes %zd arguments, got %zd", integers + n, count);
        return 0;
    }
    for (int64_t k = 0; k < integers; k++)
        if ((words[k] = PyLong_AsLongLong(arguments[k])) == -1 && PyErr_Occurred()) return 0;
    for (int64_t k = 0; k < n; k++)
        if ((numbers[k] = PyFloat_AsDouble(arguments[integers + k])) == -1 && PyErr_Occurred()) return 0;
    return 1;
}

// What a call returns that ran without the interpreter's lock: n numbers.
static PyObject *end_call(void *state, int failed, int64_t n, const double *numbers) {
    PyEval_RestoreThread(state);
    if (failed) return PyErr_Format(PyExc_MemoryError, "no memory for what a kernel keeps for a while");
    PyObject *tuple = PyTuple_New(n);
    for (int64_t k = 0; tuple && k < n; k++) {
        PyObject *number = PyFloat_FromDouble(numbers[k]);
        if (number) PyTuple_SetItem(tuple, k, number);
        else {
            Py_DecRef(tuple);
            return NULL;
        }
    }
    return tuple;
}
