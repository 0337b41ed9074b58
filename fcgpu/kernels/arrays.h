/* Arrays and scalars from Python, by the buffer protocol. */

typedef struct {
    Py_buffer view;
    char type;      /* f or d; b for signed and u for unsigned integers; 0 for anything else */
    ptrdiff_t size; /* in elements */
    int whole;      /* whether it is C-contiguous */
} Array;

/* Open the buffer of an array. False if it is none of a known type. The caller must close it in either case. */
static int open_array(PyObject* object, Array* a, int writable) {
    memset(a, 0, sizeof *a);
    if (PyObject_GetBuffer(object, &a->view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0))) {
        PyErr_Clear();
        return 0;
    }
    const char* format = a->view.format ? a->view.format : "B";
    if (!format[1])
        a->type = strchr("fd", *format)       ? *format
                  : strchr("bhilq", *format)  ? 'b'
                  : strchr("BHILQ?", *format) ? 'u'
                                              : 0;
    a->size = 1;
    a->whole = 1;
    for (int i = a->view.ndim - 1; i >= 0; i--) {
        if (a->view.shape[i] > 1 && a->view.strides[i] != a->size * a->view.itemsize) a->whole = 0;
        a->size *= a->view.shape[i];
    }
    return a->type != 0;
}

static void close_arrays(Array* a, int n) {
    for (int i = 0; i < n; i++)
        if (a[i].view.obj) PyBuffer_Release(&a[i].view);
}

static int is_matrix(const Array* a) { return (a->type == 'f' || a->type == 'd') && a->whole && a->view.ndim == 2; }
static int is_like(const Array* a, const Array* b) { return a->type == b->type && a->whole && a->size == b->size; }

/* Call f_float or f_double, by the type of `a`; for large arrays without Python's lock (GIL). */
#define CALL(a, f, ...)                                                                                                \
    do {                                                                                                               \
        PyThreadState* saved = (a).size > LARGE ? PyEval_SaveThread() : NULL;                                          \
        if ((a).type == 'f') f##_float(__VA_ARGS__);                                                                   \
        else f##_double(__VA_ARGS__);                                                                                  \
        if (saved) PyEval_RestoreThread(saved);                                                                        \
    } while (0)

#define FUNCTION(name) static PyObject* name(PyObject* self, PyObject* const* args, Py_ssize_t n)
#define TAKES(count)                                                                                                   \
    if (n != count) return PyErr_Format(PyExc_TypeError, "expected %d arguments", count)
#define DONE(done) return PyBool_FromLong(done)
