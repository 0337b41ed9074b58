/* The CPU's fused kernels as Python functions. Each takes the arguments of the reference of its name, or those that its
   comment names, and returns True. It returns False, and changes nothing, for arrays that it does not support: as a
   rule they must be contiguous, and all float or all double. Types, shapes and indices are checked here and in
   call_steps.h, and not again in the other headers. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LEAK 0.01  /* as in activations.py */
#define LARGE 4096 /* release Python's lock (GIL) for more numbers than this */

#if defined(__GNUC__)
#define ALWAYS inline __attribute__((always_inline))
#define PREFETCH __builtin_prefetch
#else
#define ALWAYS inline
#define PREFETCH(address) (void)(address)
#endif
#if defined(CLONES) /* build.py defines it empty for compilers without target_clones */
#elif defined(__GNUC__) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

typedef struct { /* an array of any type of integers: the class of each sample, or indices */
    const char* at;
    int bytes, is_signed;
} Integers;

static ALWAYS ptrdiff_t integer(Integers y, ptrdiff_t i) {
    switch (y.bytes) {
        case 1: return y.is_signed ? ((const int8_t*)y.at)[i] : ((const uint8_t*)y.at)[i];
        case 2: return y.is_signed ? ((const int16_t*)y.at)[i] : ((const uint16_t*)y.at)[i];
        case 4: return y.is_signed ? ((const int32_t*)y.at)[i] : (ptrdiff_t)((const uint32_t*)y.at)[i];
        default: return (ptrdiff_t)((const int64_t*)y.at)[i];
    }
}

typedef struct {
    const uint8_t* at;
    ptrdiff_t row, column;
} Bytes;
typedef struct { /* with contiguous rows; row is their stride in bytes */
    char* at;
    ptrdiff_t row;
} Matrix;

#include "tiles.h"

#if defined(__GNUC__) && !defined(_WIN32) /* vector types and POSIX threads */
#define STEPS
#include "steps.h"
#endif

#define T float
#define BITS uint32_t
#define N(name) name##_float
#define ROUND 12582912.0f /* 1.5 2²³: adding and subtracting it rounds to whole numbers */
#define MANTISSA 23
#define ONE 0x3f800000u
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f
#define TERMS 7
#define LOG_TERMS 7
#define LOWEST -87.0f /* eˣ is a normal number from here on */
#define HIGHEST 88.0f
#define ONES 20.0f /* tanh z rounds to 1 for 2z above this */
#define EPS 1.1920929e-7f
#define TINY FLT_MIN
#define LOG logf
#define SQRT sqrtf
#include "elementwise.h"
#include "sparse.h"
#ifdef STEPS
#include "panels.h"
#include "pixels.h"
#include "room.h"
#include "pixel_steps.h"
#include "samples.h"
#include "rows.h"
#include "by_layer.h"
#include "epoch.h"
#endif
#undef T
#undef BITS
#undef N
#undef ROUND
#undef MANTISSA
#undef ONE
#undef LN2_HIGH
#undef LN2_LOW
#undef TERMS
#undef LOG_TERMS
#undef LOWEST
#undef HIGHEST
#undef ONES
#undef EPS
#undef TINY
#undef LOG
#undef SQRT

#define T double
#define BITS uint64_t
#define N(name) name##_double
#define ROUND 6755399441055744.0 /* 1.5 2⁵² */
#define MANTISSA 52
#define ONE 0x3ff0000000000000u
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define TERMS 13
#define LOG_TERMS 15
#define LOWEST -708.0
#define HIGHEST 709.0
#define ONES 40.0
#define EPS 2.220446049250313e-16
#define TINY DBL_MIN
#define LOG log
#define SQRT sqrt
#include "elementwise.h"
#include "sparse.h"
#ifdef STEPS
#include "panels.h"
#include "pixels.h"
#include "room.h"
#include "pixel_steps.h"
#include "samples.h"
#include "rows.h"
#include "by_layer.h"
#include "epoch.h"
#endif
#include "arrays.h"

/* (Z, b): Z (n, k) is overwritten; b is (1, k), or the integer 0. */
#define FORWARD_FUNCTION(python, f)                                                                                    \
    FUNCTION(python) {                                                                                                 \
        TAKES(2);                                                                                                      \
        Array a[2] = {0};                                                                                              \
        int done = open_array(args[0], &a[0], 1) && is_matrix(&a[0]) && a[0].size && open_bias(args[1], &a[1], &a[0]); \
        if (done) {                                                                                                    \
            ptrdiff_t k = a[0].view.shape[1];                                                                          \
            CALL(a[0], f, a[0].view.buf, a[1].view.buf, a[0].size / k, k);                                             \
        }                                                                                                              \
        close_arrays(a, 2);                                                                                            \
        DONE(done);                                                                                                    \
    }

static int open_bias(PyObject* object, Array* b, const Array* Z) {
    if (PyLong_CheckExact(object)) return PyLong_AsLong(object) == 0;
    return open_array(object, b, 0) && b->type == Z->type && b->whole && b->size == Z->view.shape[1];
}

FORWARD_FUNCTION(sigmoid, sigmoid_all)
FORWARD_FUNCTION(tanh_, tanh_all)
FORWARD_FUNCTION(relu, relu_all)
FORWARD_FUNCTION(leaky_relu, leaky_relu_all)
FORWARD_FUNCTION(softmax, softmax_all)

/* (A, dA): dA is overwritten. */
#define BACKWARD_FUNCTION(name)                                                                                        \
    FUNCTION(name) {                                                                                                   \
        TAKES(2);                                                                                                      \
        Array a[2] = {0};                                                                                              \
        int done = open_array(args[0], &a[0], 0) && open_array(args[1], &a[1], 1) && is_matrix(&a[0]) &&               \
                   is_like(&a[1], &a[0]);                                                                              \
        if (done) CALL(a[0], name, a[0].view.buf, a[1].view.buf, a[0].size);                                           \
        close_arrays(a, 2);                                                                                            \
        DONE(done);                                                                                                    \
    }

BACKWARD_FUNCTION(sigmoid_backward)
BACKWARD_FUNCTION(tanh_backward)
BACKWARD_FUNCTION(relu_backward)
BACKWARD_FUNCTION(leaky_relu_backward)

typedef struct { /* logits Z (n, k) with targets, weights and losses */
    Array Z, bias, y, weight, losses;
    Integers labels;
    const void* targets; /* (n, k), or NULL if there are labels */
    union {
        float f;
        double d;
    } number; /* the weight, if it is a Python float */
    const void* weights;
    ptrdiff_t n, k, step;
} Compared;

static int open_compared(Compared* c, PyObject* Z, PyObject* bias, PyObject* y, PyObject* weight, PyObject* losses) {
    memset(c, 0, sizeof *c);
    if (!open_array(Z, &c->Z, 1) || !is_matrix(&c->Z) || !c->Z.size) return 0;
    c->n = c->Z.view.shape[0], c->k = c->Z.view.shape[1];
    if (c->k > BLOCK) return 0;
    if (bias && !open_bias(bias, &c->bias, &c->Z)) return 0;
    if (!open_array(y, &c->y, 0) || !c->y.whole || !c->y.view.ndim || c->y.view.shape[0] != c->n) return 0;
    if (c->y.type == c->Z.type && c->y.size == c->Z.size) {
        c->targets = c->y.view.buf;
    } else if (c->y.view.ndim == 1 && (c->y.type == 'b' || c->y.type == 'u')) {
        c->labels = integers_of(&c->y);
        for (ptrdiff_t i = 0; c->k > 1 && i < c->n; i++)
            if (integer(c->labels, i) < 0 || integer(c->labels, i) >= c->k) return 0;
    } else {
        return 0;
    }
    if (!weight) {
        c->weights = NULL;
    } else if (PyFloat_Check(weight)) {
        double number = PyFloat_AsDouble(weight);
        if (c->Z.type == 'f') c->number.f = (float)number;
        else c->number.d = number;
        c->weights = &c->number;
    } else {
        if (!open_array(weight, &c->weight, 0) || c->weight.type != c->Z.type || !c->weight.whole) return 0;
        if (c->weight.size != 1 && c->weight.size != c->n) return 0;
        c->step = c->weight.size > 1;
        c->weights = c->weight.view.buf;
    }
    return !losses || (open_array(losses, &c->losses, 1) && c->losses.type == c->Z.type && c->losses.whole &&
                       c->losses.size == c->n);
}

static void close_compared(Compared* c) {
    Array* all[] = {&c->Z, &c->bias, &c->y, &c->weight, &c->losses};
    for (int i = 0; i < 5; i++) close_arrays(all[i], 1);
}

/* loss_delta (Z, b, y, weight) overwrites Z; loss (Z, y, weight, losses) overwrites losses. */
#define OUTPUT_FUNCTIONS(loss, mean)                                                                                   \
    FUNCTION(loss##_delta) {                                                                                           \
        TAKES(4);                                                                                                      \
        Compared c;                                                                                                    \
        int done = open_compared(&c, args[0], args[1], args[2], args[3], NULL);                                        \
        if (done) {                                                                                                    \
            CALL(c.Z, mean##_all, c.Z.view.buf, c.bias.view.buf, c.n, c.k);                                            \
            CALL(c.Z, minus_target, c.Z.view.buf, c.labels, c.targets, c.weights, c.step, c.n, c.k);                   \
        }                                                                                                              \
        close_compared(&c);                                                                                            \
        DONE(done);                                                                                                    \
    }                                                                                                                  \
    FUNCTION(loss) {                                                                                                   \
        TAKES(4);                                                                                                      \
        Compared c;                                                                                                    \
        int done = open_compared(&c, args[0], NULL, args[1], args[2], args[3]);                                        \
        if (done)                                                                                                      \
            CALL(c.Z, mean##_loss, c.Z.view.buf, c.labels, c.targets, c.weights, c.step, c.losses.view.buf, c.n, c.k); \
        close_compared(&c);                                                                                            \
        DONE(done);                                                                                                    \
    }

OUTPUT_FUNCTIONS(binary_cross_entropy, sigmoid)
OUTPUT_FUNCTIONS(cross_entropy, softmax)

/* (Z, y, correct): correct (n), NumPy bools, is overwritten. */
FUNCTION(count_correct) {
    TAKES(3);
    Compared c;
    Array correct = {0};
    int done = open_compared(&c, args[0], NULL, args[1], NULL, NULL) && c.labels.at &&
               open_array(args[2], &correct, 1) && correct.whole && correct.type == 'u' && correct.view.itemsize == 1 &&
               correct.size == c.n;
    if (done) CALL(c.Z, count_correct, c.Z.view.buf, c.labels, correct.view.buf, c.n, c.k);
    close_compared(&c);
    close_arrays(&correct, 1);
    DONE(done);
}

/* (w, g, m, v, beta_1, beta_2, epsilon, eta_t): w, m and v are updated. */
FUNCTION(adam) {
    TAKES(8);
    Array a[4] = {0};
    int done = 1;
    double number[4];
    for (int i = 0; i < 4; i++) {
        done = done && open_array(args[i], &a[i], i != 1) && is_like(&a[i], &a[0]) && a[0].view.ndim == 1;
        number[i] = real_number(args[4 + i]);
    }
    done = done && (a[0].type == 'f' || a[0].type == 'd');
    if (done && !PyErr_Occurred())
        CALL(a[0], adam, a[0].view.buf, a[1].view.buf, a[2].view.buf, a[3].view.buf, a[0].size, number[0], number[1],
             number[2], number[3]);
    close_arrays(a, 4);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(done);
}

/* (W, dW, pull): dW += pull W. Returns Σ W², or None if the arrays are not supported. */
FUNCTION(add_l2) {
    TAKES(3);
    Array a[2] = {0};
    double pull = PyFloat_AsDouble(args[2]), squares = 0;
    int done = !PyErr_Occurred() && open_array(args[0], &a[0], 0) && open_array(args[1], &a[1], 1) &&
               is_matrix(&a[0]) && is_like(&a[1], &a[0]);
    if (done) {
        PyThreadState* saved = a[0].size > LARGE ? PyEval_SaveThread() : NULL;
        squares = a[0].type == 'f' ? add_l2_float(a[0].view.buf, a[1].view.buf, a[0].size, pull)
                                   : add_l2_double(a[0].view.buf, a[1].view.buf, a[0].size, pull);
        if (saved) PyEval_RestoreThread(saved);
    }
    close_arrays(a, 2);
    if (PyErr_Occurred()) return NULL;
    return done ? PyFloat_FromDouble(squares) : Py_NewRef(Py_None);
}

/* (X, indices or None, A): A (n, width) is overwritten with rows of X, which is uint8 or of A's type. */
FUNCTION(load_tile) {
    TAKES(3);
    Array a[3] = {0};
    Array *X = &a[0], *rows = &a[1], *A = &a[2];
    int done = open_array(args[0], X, 0) && open_array(args[2], A, 1) && X->view.ndim == 2 && A->view.ndim == 2 &&
               (A->type == 'f' || A->type == 'd') && A->view.shape[1] <= X->view.shape[1] &&
               A->view.strides[1] == A->view.itemsize && X->view.strides[1] == X->view.itemsize &&
               (X->type == A->type || (X->type == 'u' && X->view.itemsize == 1));
    const ptrdiff_t* index = NULL;
    if (done && args[1] == Py_None) {
        done = A->view.shape[0] <= X->view.shape[0];
    } else if (done) {
        done = open_array(args[1], rows, 0) && rows->whole && rows->type == 'b' &&
               rows->view.itemsize == sizeof(ptrdiff_t) && rows->size == A->view.shape[0];
        index = rows->view.buf;
        for (ptrdiff_t i = 0; done && i < rows->size; i++) done = index[i] >= 0 && index[i] < X->view.shape[0];
    }
    if (done)
        CALL(*A, load, X->view.buf, X->view.strides[0], X->type == 'u', index, A->view.buf,
             A->view.strides[0] / A->view.itemsize, A->view.shape[0], A->view.shape[1]);
    close_arrays(a, 3);
    DONE(done);
}

#ifdef STEPS
#include "call_steps.h"
#endif

/* (X, times, made): made (n, k) uint8 is overwritten with times X (n, k), rounded. Returns whether all numbers were
   whole ones from 0 to 255 up to rounding errors, or None if the arrays are not supported. */
FUNCTION(to_bytes) {
    TAKES(3);
    Array a[2] = {0};
    Array *X = &a[0], *made = &a[1];
    int good = 0, times = (int)PyLong_AsLong(args[1]);
    int done = !PyErr_Occurred() && open_array(args[0], X, 0) && open_array(args[2], made, 1) && is_matrix(X) &&
               made->whole && made->type == 'u' && made->view.itemsize == 1 && made->size == X->size;
    if (done) {
        PyThreadState* saved = PyEval_SaveThread();
        good = X->type == 'f' ? to_bytes_float(X->view.buf, X->size, (float)times, made->view.buf)
                              : to_bytes_double(X->view.buf, X->size, times, made->view.buf);
        PyEval_RestoreThread(saved);
    }
    close_arrays(a, 2);
    if (PyErr_Occurred()) return NULL;
    return done ? PyBool_FromLong(good) : Py_NewRef(Py_None);
}

/* (A, B, C, alpha, add, tiles): C (m, n) = alpha A B, or C + alpha A B with `add`. A is uint8 with contiguous rows or
   columns; B and C are of one type, float or double, with contiguous rows. tiles: whether to use the tile unit. */
FUNCTION(multiply_bytes_) {
    TAKES(6);
    Array a[3] = {0};
    Array *A = &a[0], *B = &a[1], *C = &a[2];
    double alpha = real_number(args[3]);
    int add = is_true(args[4]), tiles = is_true(args[5]);
    if (PyErr_Occurred()) return NULL;
#ifdef STEPS
    const int can = !tiles || has_tiles();
#else
    const int can = tiles && has_tiles();
#endif
    if (!can) return PyErr_Format(PyExc_RuntimeError, "this processor does not multiply bytes");
    int fit = open_array(args[0], A, 0) && open_array(args[1], B, 0) && open_array(args[2], C, 1) && A->type == 'u' &&
              A->view.itemsize == 1 && (B->type == 'f' || B->type == 'd') && C->type == B->type && A->view.ndim == 2 &&
              B->view.ndim == 2 && C->view.ndim == 2;
    if (fit) {
        const Py_ssize_t *m = C->view.shape, *k = B->view.shape, *by = A->view.strides;
        fit = A->view.shape[0] == m[0] && A->view.shape[1] == k[0] && k[1] == m[1] && (by[0] == 1 || by[1] == 1) &&
              B->view.strides[1] == B->view.itemsize && C->view.strides[1] == C->view.itemsize;
        const Bytes bytes = {A->view.buf, by[0], by[1]};
        const Matrix from = {B->view.buf, B->view.strides[0]}, to = {C->view.buf, C->view.strides[0]};
        const int doubles = B->type == 'd';
        PyThreadState* saved = fit ? PyEval_SaveThread() : NULL;
        int done = 1;
        if (fit && tiles) done = multiply_bytes(doubles, bytes, from, to, m[0], m[1], k[0], alpha, add);
#ifdef STEPS
        else if (fit)
            done = (doubles ? multiply_pixels_double : multiply_pixels_float)(bytes, from, to, m[0], m[1], k[0], alpha,
                                                                              add, has_many_registers());
#endif
        if (saved) PyEval_RestoreThread(saved);
        if (!done) PyErr_NoMemory();
    }
    if (!fit)
        PyErr_SetString(PyExc_TypeError,
                        "expected uint8 A (m, k), and B (k, n) and C (m, n) of one float type with contiguous rows");
    close_arrays(a, 3);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* Whether the first n of int32 or int64 indices are from 0 to most - 1. Branches would take as long as the product with
   one column. */
CLONES static int are_below(Integers of, ptrdiff_t n, ptrdiff_t most) {
    int wrong = 0;
    if (of.bytes == 4)
        for (ptrdiff_t k = 0; k < n; k++) wrong |= (uint64_t)((const int32_t*)of.at)[k] >= (uint64_t)most;
    else
        for (ptrdiff_t k = 0; k < n; k++) wrong |= (uint64_t)((const int64_t*)of.at)[k] >= (uint64_t)most;
    return !wrong;
}

/* (values, columns, ends, B, C, alpha, across): C = alpha A B, or with `across` alpha Aᵀ B, for A as in sparse.h. */
FUNCTION(multiply_sparse) {
    TAKES(7);
    Array a[5] = {0};
    Array *values = &a[0], *columns = &a[1], *ends = &a[2], *B = &a[3], *C = &a[4];
    const double alpha = real_number(args[5]);
    const int across = is_true(args[6]);
    if (PyErr_Occurred()) return NULL;
    int done = 1;
    for (int i = 0; i < 5; i++) done = done && open_array(args[i], &a[i], i == 4) && a[i].whole;
    done = done && is_matrix(B) && is_matrix(C) && values->type == B->type && C->type == B->type &&
           columns->type == 'b' && columns->view.itemsize >= 4 && ends->type == 'b' && columns->size == values->size &&
           ends->size > 0 && are_apart(B, C) && B->view.shape[1] == C->view.shape[1];
    if (done) {
        const ptrdiff_t rows = ends->size - 1, n = B->view.shape[1], width = (across ? C : B)->view.shape[0];
        const Integers of = integers_of(columns), to = integers_of(ends);
        done = (across ? B : C)->view.shape[0] == rows && integer(to, 0) == 0 && integer(to, rows) <= values->size;
        for (ptrdiff_t i = 0; done && i < rows; i++) done = integer(to, i) <= integer(to, i + 1);
        done = done && are_below(of, integer(to, rows), width);
        PyThreadState* saved = PyEval_SaveThread();
        if (done && across) memset(C->view.buf, 0, (size_t)C->view.len);
        if (done && B->type == 'f')
            (across ? sparse_columns_float : sparse_rows_float)((Sparse_float){values->view.buf, of, to, rows, width},
                                                                B->view.buf, C->view.buf, n, (float)alpha);
        else if (done)
            (across ? sparse_columns_double : sparse_rows_double)(
                (Sparse_double){values->view.buf, of, to, rows, width}, B->view.buf, C->view.buf, n, alpha);
        PyEval_RestoreThread(saved);
    }
    close_arrays(a, 5);
    DONE(done);
}

FUNCTION(has_tiles_) {
    TAKES(0);
    DONE(has_tiles());
}

#define METHOD(python, function) {python, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    METHOD("sigmoid", sigmoid),
    METHOD("logistic", sigmoid),
    METHOD("tanh", tanh_),
    METHOD("relu", relu),
    METHOD("leaky_relu", leaky_relu),
    METHOD("softmax", softmax),
    METHOD("sigmoid_backward", sigmoid_backward),
    METHOD("tanh_backward", tanh_backward),
    METHOD("relu_backward", relu_backward),
    METHOD("leaky_relu_backward", leaky_relu_backward),
    METHOD("binary_cross_entropy", binary_cross_entropy),
    METHOD("binary_cross_entropy_delta", binary_cross_entropy_delta),
    METHOD("cross_entropy", cross_entropy),
    METHOD("cross_entropy_delta", cross_entropy_delta),
    METHOD("count_correct", count_correct),
    METHOD("adam", adam),
    METHOD("add_l2", add_l2),
    METHOD("load_tile", load_tile),
#ifdef STEPS
    METHOD("logits", logits),
    METHOD("steps", steps),
    METHOD("steps_room", steps_room),
#endif
    METHOD("to_bytes", to_bytes),
    METHOD("multiply_bytes", multiply_bytes_),
    METHOD("multiply_sparse", multiply_sparse),
    METHOD("has_tiles", has_tiles_),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
    PyObject* module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED /* no state here is shared between threads, so nothing needs the lock */
    if (module) PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
