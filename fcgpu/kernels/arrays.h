/* Arrays and scalars from Python, by the buffer protocol. */

typedef struct {
    Py_buffer view;
    char type;      /* f or d; b for signed and u for unsigned integers; 0 for anything else */
    ptrdiff_t size; /* in elements */
    int whole;      /* whether it is C-contiguous */
} Array;

/* Open the buffer of an array. False if it is none of a known type, or its numbers are not aligned. The caller must
   close it in either case. */
static int open_array(PyObject* object, Array* a, int writable) {
    memset(a, 0, sizeof *a);
    if (PyObject_GetBuffer(object, &a->view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0))) {
        PyErr_Clear();
        return 0;
    }
    if (a->view.ndim && !a->view.strides) return 0; /* ctypes leaves them out */
    const char* format = a->view.format ? a->view.format : "B";
    if (!format[1])
        a->type = strchr("fd", *format)       ? *format
                  : strchr("bhilq", *format)  ? 'b'
                  : strchr("BHILQ?", *format) ? 'u'
                                              : 0;
    if (!a->type) return 0;
    a->size = 1;
    a->whole = 1;
    int aligned = (uintptr_t)a->view.buf % (size_t)a->view.itemsize == 0;
    for (int i = a->view.ndim - 1; i >= 0; i--) {
        if (a->view.shape[i] > 1 && a->view.strides[i] != a->size * a->view.itemsize) a->whole = 0;
        if (a->view.shape[i] > 1 && a->view.strides[i] % a->view.itemsize) aligned = 0;
        a->size *= a->view.shape[i];
    }
    return aligned;
}

static void close_arrays(Array* a, int n) {
    for (int i = 0; i < n; i++)
        if (a[i].view.obj) PyBuffer_Release(&a[i].view);
}

/* Scalars; 0 after an error, with which no other may be asked for. */
static ptrdiff_t whole_number(PyObject* object) { return PyErr_Occurred() ? 0 : PyLong_AsSsize_t(object); }
static double real_number(PyObject* object) { return PyErr_Occurred() ? 0 : PyFloat_AsDouble(object); }
static int is_true(PyObject* object) { return PyErr_Occurred() ? 0 : PyObject_IsTrue(object); }

static int is_matrix(const Array* a) { return (a->type == 'f' || a->type == 'd') && a->whole && a->view.ndim == 2; }
static Integers integers_of(const Array* a) { return (Integers){a->view.buf, (int)a->view.itemsize, a->type == 'b'}; }
static int is_like(const Array* a, const Array* b) { return a->type == b->type && a->whole && a->size == b->size; }
static int are_apart(const Array* a, const Array* b) { /* for contiguous arrays */
    const char *at = a->view.buf, *other = b->view.buf;
    return at + a->view.len <= other || other + b->view.len <= at;
}

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
