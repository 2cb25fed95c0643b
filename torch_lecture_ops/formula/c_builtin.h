// A kernel as a built-in function of Python: a call through ctypes would take twice the time.
//
// These names of the stable ABI are all it takes; Python.h may not be installed.

typedef struct PyObject PyObject;
extern PyObject *PyExc_TypeError, *PyExc_MemoryError, *PyErr_Occurred(void);
extern PyObject *PyErr_Format(PyObject *exception, const char *text, ...);
extern PyObject *PyFloat_FromDouble(double number), *PyTuple_New(int64_t size);
extern int PyTuple_SetItem(PyObject *tuple, int64_t place, PyObject *item);
extern long long PyLong_AsLongLong(PyObject *integer);
extern double PyFloat_AsDouble(PyObject *number);
extern char *PyBytes_AsString(PyObject *bytes);
extern void *PyEval_SaveThread(void), PyEval_RestoreThread(void *state);

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
    for (int64_t k = 0; k < integers; k++) words[k] = PyLong_AsLongLong(arguments[k]);
    for (int64_t k = 0; k < n; k++) numbers[k] = PyFloat_AsDouble(arguments[integers + k]);
    return !PyErr_Occurred();
}

static PyObject *tuple_of(int64_t n, const double *numbers) {
    PyObject *tuple = PyTuple_New(n);
    for (int64_t k = 0; tuple && k < n; k++) PyTuple_SetItem(tuple, k, PyFloat_FromDouble(numbers[k]));
    return tuple;
}
