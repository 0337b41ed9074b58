/* epoch.h's steps as Python functions. */

#define LARGEST ((ptrdiff_t)1 << 24) /* layer or batch; the bytes for them, a product of two, do not overflow */

/* Read the layers' sizes from a contiguous array; False if they are not valid. */
static int take_sizes(Steps* it, const Array* sizes) {
    if (!(sizes->whole && sizes->type == 'b' && sizes->view.itemsize == sizeof(ptrdiff_t) && sizes->size >= 2 &&
          sizes->size <= MOST_LAYERS))
        return 0;
    it->sizes = sizes->view.buf, it->layers = (int)sizes->size - 1;
    for (int i = 0; i <= it->layers; i++)
        if (it->sizes[i] < 1 || it->sizes[i] > LARGEST) return 0;
    return it->sizes[it->layers] <= BLOCK;
}

static int has_sane_cut(const Steps* it) {
    return it->batch > 0 && it->batch <= LARGEST && it->some > 0 && it->some <= LARGEST && it->threads > 0 &&
           it->threads <= MOST_THREADS;
}

/* (sizes, batch, samples of a task, threads, doubles, clipped) -> bytes of scratch memory that `steps` needs. */
FUNCTION(steps_room) {
    TAKES(6);
    Steps it = {0};
    Array sizes = {0};
    it.batch = whole_number(args[1]), it.some = whole_number(args[2]), it.threads = (int)whole_number(args[3]);
    int doubles = is_true(args[4]);
    it.clip = is_true(args[5]);
    int done = !PyErr_Occurred() && open_array(args[0], &sizes, 0) && take_sizes(&it, &sizes) && has_sane_cut(&it);
    ptrdiff_t bytes = done ? doubles ? room_double(&it) : room_float(&it) : 0;
    close_arrays(&sizes, 1);
    if (!done && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "expected the sizes of a few layers");
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(bytes);
}

static int open_indices(PyObject* object, Array* a, ptrdiff_t below) {
    int good = open_array(object, a, 0) && a->whole && a->type == 'b' && a->view.itemsize == sizeof(ptrdiff_t);
    const ptrdiff_t* index = a->view.buf;
    for (ptrdiff_t i = 0; good && i < a->size; i++) good = index[i] >= 0 && index[i] < below;
    return good;
}

static int is_words(const Array* a, ptrdiff_t size) {
    return a->view.obj && a->type == 'u' && a->view.itemsize == 4 && a->size == size;
}

/* (X, order or None, y, weights or None, params, m or None, v or None, rates, sums, sizes, room, whole numbers, real
   numbers, ids, keys, drops): the next len(rates) steps. Overwrites params, m and v, and adds to sums. Returns how many
   steps are done: at least one, but no more are begun after so many seconds.

   whole numbers: batch, samples of a task, threads, activation, output, counts, rule, samples of an epoch.
   real numbers: scale, alpha, the rule's first and second factor, epsilon, weight decay, clip or 0, steps of the rule
   before, seconds.
   For dropout: ids (n) and keys (steps, hidden layers, 2), uint32, and drops (hidden layers); else None. */
FUNCTION(steps) {
    TAKES(16);
    enum { X, ORDER, Y, WEIGHTS, PARAMS, M, V, RATES, SUMS, SIZES, ROOM, WHOLES, REALS, IDS, KEYS, DROPS, ALL };
    Array a[ALL] = {0};
    Steps it = {0};
    int done = 1;
    for (int i = 0; i < ALL; i++) {
        const int optional = i == ORDER || i == WEIGHTS || i == M || i == V || i >= IDS;
        const int writable = i == PARAMS || i == M || i == V || i == SUMS || i == ROOM;
        if (i == ORDER || (optional && args[i] == Py_None)) continue;
        done = done && open_array(args[i], &a[i], writable) && (i == X || a[i].whole);
    }
    done = done && take_sizes(&it, &a[SIZES]) && a[X].view.ndim == 2 && a[X].view.strides[1] == a[X].view.itemsize &&
           a[X].view.shape[1] == it.sizes[0] && a[WHOLES].type == 'b' && a[WHOLES].view.itemsize == 8 &&
           a[WHOLES].size == 8 && a[REALS].type == 'd' && a[REALS].size == 9 && a[RATES].type == 'd' &&
           a[SUMS].type == 'd' && a[SUMS].size == 3 && a[ROOM].view.itemsize == 1 &&
           (uintptr_t)a[ROOM].view.buf % 64 == 0;
    if (done) {
        const int64_t* n = a[WHOLES].view.buf;
        const double* x = a[REALS].view.buf;
        const ptrdiff_t k = it.sizes[it.layers], rows = a[X].view.shape[0];
        ptrdiff_t size = 0;
        it.batch = n[0], it.some = n[1], it.threads = (int)n[2], it.activation = (int)n[3], it.output = (int)n[4];
        it.counts = (int)n[5], it.rule = (int)n[6], it.whole = n[7];
        it.scale = x[0], it.alpha = x[1], it.first = x[2], it.second = x[3], it.epsilon = x[4], it.weight_decay = x[5];
        it.clip = x[6], it.t = x[7], it.longest = x[8], it.X = a[X].view.buf, it.row = a[X].view.strides[0];
        it.bytes = a[X].type == 'u' && a[X].view.itemsize == 1;
        it.samples = rows, it.steps = a[RATES].size, it.rates = a[RATES].view.buf, it.sums = a[SUMS].view.buf;
        for (int i = 0; i < it.layers; i++) size += (it.sizes[i] + 1) * it.sizes[i + 1];
        const char type = a[PARAMS].type;
        done = (type == 'f' || type == 'd') && a[PARAMS].size == size && (it.bytes || a[X].type == type) &&
               has_sane_cut(&it) && it.whole > 0 && it.rule >= GRADIENT_DESCENT && it.rule <= ADAMW && a[Y].view.ndim &&
               a[Y].view.shape[0] == rows;
        if (done && args[ORDER] != Py_None) {
            done = open_indices(args[ORDER], &a[ORDER], rows);
            it.order = a[ORDER].view.buf, it.samples = a[ORDER].size;
        }
        done = done && it.steps > 0 && it.samples > (it.steps - 1) * it.batch;
        for (int i = M; done && i <= V; i++) {
            const int needed = i == M ? it.rule >= ADAM : it.rule > GRADIENT_DESCENT;
            done = needed ? a[i].view.obj && is_like(&a[i], &a[PARAMS]) : 1;
        }
        if (done && a[WEIGHTS].view.obj) done = a[WEIGHTS].type == type && a[WEIGHTS].size == rows;
        if (done && a[Y].type == type && a[Y].size == rows * k) it.targets = a[Y].view.buf;
        else if (done) {
            done = a[Y].view.ndim == 1 && (a[Y].type == 'b' || a[Y].type == 'u');
            it.y = (Labels){a[Y].view.buf, (int)a[Y].view.itemsize, a[Y].type == 'b'};
            for (ptrdiff_t i = 0; done && k > 1 && i < it.samples; i++) {
                const ptrdiff_t class = label(it.y, it.order ? it.order[i] : i);
                done = class >= 0 && class < k;
            }
        }
        for (int i = PARAMS; done && i <= ROOM; i++) /* what is written must not change what has been checked */
            for (int j = X + 1; (i <= V || i == SUMS || i == ROOM) && j < ALL; j++)
                done = done && (i == j || are_apart(&a[i], &a[j]));
        if (done && args[IDS] != Py_None) {
            const ptrdiff_t hidden = it.layers - 1;
            done = hidden && is_words(&a[IDS], rows) && is_words(&a[KEYS], 2 * hidden * it.steps) &&
                   a[DROPS].type == 'd' && a[DROPS].size == hidden;
            it.ids = a[IDS].view.buf, it.keys = a[KEYS].view.buf, it.drops = a[DROPS].view.buf;
            for (ptrdiff_t i = 0; done && i < hidden; i++) done = it.drops[i] >= 0 && it.drops[i] < 1;
        }
        it.weights = a[WEIGHTS].view.buf, it.params = a[PARAMS].view.buf;
        it.m = a[M].view.buf, it.v = a[V].view.buf;
        it.many_registers = has_many_registers();
        if (done) done = a[ROOM].size >= (type == 'd' ? room_double(&it) : room_float(&it));
        it.room = a[ROOM].view.buf;
        if (done) {
            PyThreadState* saved = PyEval_SaveThread();
            if (type == 'd') run_double(&it);
            else run_float(&it);
            PyEval_RestoreThread(saved);
        }
    }
    close_arrays(a, ALL);
    if (!done) PyErr_SetString(PyExc_TypeError, "expected contiguous arrays of one float type, and indices in range");
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(it.done);
}
