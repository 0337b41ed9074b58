/* epoch.h's steps, and samples.h's predictions, as Python functions. */

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

/* (sizes, batch, samples of a task, threads, doubles, clipped, tiles, by_layer, packed) -> bytes of scratch memory that
   `steps` needs or, with `packed` as in `logits`, that. */
FUNCTION(steps_room) {
    TAKES(9);
    Steps it = {0};
    Array sizes = {0};
    it.batch = whole_number(args[1]), it.some = whole_number(args[2]), it.threads = (int)whole_number(args[3]);
    int doubles = is_true(args[4]);
    it.clip = is_true(args[5]), it.tiles = is_true(args[6]), it.by_layer = is_true(args[7]),
    it.packed = is_true(args[8]);
    int done = !PyErr_Occurred() && open_array(args[0], &sizes, 0) && take_sizes(&it, &sizes) && has_sane_cut(&it);
    ptrdiff_t bytes = done ? doubles ? room_double(&it) : room_float(&it) : 0;
    close_arrays(&sizes, 1);
    if (!done && !PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "expected the sizes of a few layers");
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(bytes);
}

enum { X, ORDER, Y, WEIGHTS, PARAMS, M, V, RATES, SUMS, SIZES, ROOM, WHOLES, REALS, IDS, KEYS, DROPS, ARGUMENTS };

static int is_written(int i) { return i == PARAMS || i == M || i == V || i == SUMS || i == ROOM; }
static int is_there(const Array* a) { return a->view.obj != NULL; }
static int is(const Array* a, char type, ptrdiff_t bytes, ptrdiff_t size) {
    return a->type == type && a->view.itemsize == bytes && a->size == size;
}

/* Open the arguments of `steps`; each take_... below checks some of them and puts them into `it`. False if invalid. */
static int open_arguments(PyObject* const* args, Array* a) {
    for (int i = 0; i < ARGUMENTS; i++) {
        const int optional = i == ORDER || i == WEIGHTS || i == M || i == V || i >= IDS;
        if (optional && args[i] == Py_None) continue;
        if (!open_array(args[i], &a[i], is_written(i)) || !(i == X || a[i].whole)) return 0;
    }
    for (int i = 0; i < ARGUMENTS; i++) /* what is written must not change what has been checked */
        for (int j = X + 1; is_written(i) && j < ARGUMENTS; j++)
            if (i != j && !are_apart(&a[i], &a[j])) return 0;
    return 1;
}

static int take_numbers(Steps* it, const Array* a) {
    const int64_t* n = a[WHOLES].view.buf;
    const double* x = a[REALS].view.buf;
    if (!is(&a[WHOLES], 'b', 8, 10) || !is(&a[REALS], 'd', 8, 9) || !is(&a[SUMS], 'd', 8, 3)) return 0;
    it->batch = n[0], it->some = n[1], it->threads = (int)n[2], it->activation = (int)n[3], it->output = (int)n[4];
    it->counts = (int)n[5], it->rule = (int)n[6], it->epoch_samples = n[7], it->tiles = n[8] != 0,
    it->by_layer = n[9] != 0;
    it->scale = x[0], it->alpha = x[1], it->beta_1 = x[2], it->beta_2 = x[3], it->epsilon = x[4];
    it->weight_decay = x[5], it->clip = x[6], it->t = x[7], it->longest = x[8], it->sums = a[SUMS].view.buf;
    return has_sane_cut(it) && it->epoch_samples > 0 && it->rule >= GRADIENT_DESCENT && it->rule <= NONE;
}

static int take_params(Steps* it, const Array* params) {
    ptrdiff_t size = 0;
    for (int i = 0; i < it->layers; i++) size += (it->sizes[i] + 1) * it->sizes[i + 1];
    it->params = params->view.buf;
    return (params->type == 'f' || params->type == 'd') && params->size == size;
}

/* The rule's vectors. */
static int take_moments(Steps* it, const Array* a) {
    it->m = a[M].view.buf, it->v = a[V].view.buf;
    return (it->rule < ADAM || (is_there(&a[M]) && is_like(&a[M], &a[PARAMS]))) &&
           (it->rule == GRADIENT_DESCENT || it->rule == NONE || (is_there(&a[V]) && is_like(&a[V], &a[PARAMS])));
}

/* X (n, features), bytes or of the parameters' type. */
static int take_features(Steps* it, const Array* X, const Array* params) {
    const Py_buffer* x = &X->view;
    if (x->ndim != 2 || x->strides[1] != x->itemsize || x->shape[1] != it->sizes[0]) return 0;
    it->X = x->buf, it->row = x->strides[0], it->samples = x->shape[0];
    it->bytes = X->type == 'u' && x->itemsize == 1;
    const int fits = it->bytes && params->type == 'f' && it->some == FLOAT_DEPTH && it->batch <= SUMMED;
    if (it->tiles && !(fits && has_tiles())) return 0;
    return it->bytes || X->type == params->type;
}

static int take_samples(Steps* it, const Array* a) {
    const ptrdiff_t rows = a[X].view.shape[0];
    if (a[RATES].type != 'd') return 0;
    it->steps = a[RATES].size, it->rates = a[RATES].view.buf, it->weights = a[WEIGHTS].view.buf;
    if (is_there(&a[ORDER])) {
        it->samples = a[ORDER].size, it->order = a[ORDER].view.buf;
        if (!is(&a[ORDER], 'b', sizeof(ptrdiff_t), it->samples)) return 0;
        for (ptrdiff_t i = 0; i < it->samples; i++)
            if (it->order[i] < 0 || it->order[i] >= rows) return 0;
    }
    return it->steps > 0 && it->samples > (it->steps - 1) * it->batch &&
           (!is_there(&a[WEIGHTS]) || (a[WEIGHTS].type == a[PARAMS].type && a[WEIGHTS].size == rows));
}

/* Numbers (n, outputs), or the class of each sample. */
static int take_targets(Steps* it, const Array* a) {
    const Py_buffer* y = &a[Y].view;
    const ptrdiff_t k = it->sizes[it->layers], rows = a[X].view.shape[0];
    if (!y->ndim || y->shape[0] != rows) return 0;
    if (a[Y].type == a[PARAMS].type && a[Y].size == rows * k) {
        it->targets = y->buf;
        return 1;
    }
    if (y->ndim != 1 || !(a[Y].type == 'b' || a[Y].type == 'u')) return 0;
    it->y = integers_of(&a[Y]);
    for (ptrdiff_t i = 0; k > 1 && i < it->samples; i++) {
        const ptrdiff_t class = integer(it->y, it->order ? it->order[i] : i);
        if (class < 0 || class >= k) return 0;
    }
    return 1;
}

static int take_dropout(Steps* it, const Array* a) {
    const ptrdiff_t hidden = it->layers - 1;
    if (!is_there(&a[IDS])) return 1;
    if (!hidden || !is(&a[IDS], 'u', 4, a[X].view.shape[0]) || !is(&a[KEYS], 'u', 4, 2 * hidden * it->steps) ||
        !is(&a[DROPS], 'd', 8, hidden))
        return 0;
    it->ids = a[IDS].view.buf, it->keys = a[KEYS].view.buf, it->drops = a[DROPS].view.buf;
    for (ptrdiff_t i = 0; i < hidden; i++)
        if (!(it->drops[i] >= 0 && it->drops[i] < 1)) return 0;
    return 1;
}

static int take_room(Steps* it, const Array* room, const Array* params) {
    const ptrdiff_t bytes = params->type == 'd' ? room_double(it) : room_float(it);
    it->room = room->view.buf;
    return room->view.itemsize == 1 && (uintptr_t)it->room % 64 == 0 && room->size >= bytes;
}

/* (X, order or None, y, weights or None, params, m or None, v or None, rates, sums, sizes, room, whole numbers, real
   numbers, ids, keys, drops): the next len(rates) steps. Overwrites params, m and v, and adds to sums. Returns how many
   steps are done: at least one, but no more are begun after so many seconds.

   whole numbers: batch, samples of a task, threads, activation, output, counts, rule, samples of an epoch, tiles:
   whether the first layer's products are computed on the tile unit, for bytes and floats, in tasks of FLOAT_DEPTH
   and batches of at most SUMMED.
   real numbers: scale, alpha, beta_1 (or momentum, or rho), beta_2, epsilon, weight decay, clip or 0, steps of the rule
   before, seconds.
   For dropout: ids (n) and keys (steps, hidden layers, 2), uint32, and drops (hidden layers); else None. */
FUNCTION(steps) {
    TAKES(ARGUMENTS);
    Array a[ARGUMENTS] = {0};
    Steps it = {.many_registers = has_many_registers()};
    const int good = open_arguments(args, a) && take_sizes(&it, &a[SIZES]) && take_numbers(&it, a) &&
                     take_params(&it, &a[PARAMS]) && take_moments(&it, a) && take_features(&it, &a[X], &a[PARAMS]) &&
                     take_samples(&it, a) && take_targets(&it, a) && take_dropout(&it, a) &&
                     take_room(&it, &a[ROOM], &a[PARAMS]);
    if (good) {
        PyThreadState* saved = PyEval_SaveThread();
        if (a[PARAMS].type == 'd') run_double(&it);
        else run_float(&it);
        PyEval_RestoreThread(saved);
    }
    close_arrays(a, ARGUMENTS);
    if (good) return PyLong_FromSsize_t(it.done);
    PyErr_SetString(PyExc_TypeError, "expected contiguous arrays of one float type, and indices in range");
    return NULL;
}

/* (X, params, logits, sizes, room, samples of a task, threads, activation, scale, tiles, packed): logits (n, outputs)
   is overwritten with the network's for X (n, features). `room` is as for batches of one task a thread, or of one in
   all; `tiles` is as in `steps`; packed: whether to pack the other layers' weights first, for many samples. */
FUNCTION(logits) {
    TAKES(11);
    Array a[5] = {0};
    Array *X = &a[0], *params = &a[1], *Z = &a[2], *sizes = &a[3], *room = &a[4];
    Steps it = {.many_registers = has_many_registers()};
    it.some = whole_number(args[5]), it.threads = (int)whole_number(args[6]);
    it.activation = (int)whole_number(args[7]), it.scale = real_number(args[8]);
    it.tiles = is_true(args[9]), it.packed = is_true(args[10]);
    if (PyErr_Occurred()) return NULL;
    int good = it.some > 0 && it.some <= LARGEST / MOST_THREADS && it.threads > 0 && it.threads <= MOST_THREADS;
    for (int i = 0; i < 5; i++) good = good && open_array(args[i], &a[i], i == 2 || i == 4) && (i == 0 || a[i].whole);
    for (int i = 1; good && i < 5; i++) good = (i == 2 || are_apart(Z, &a[i])) && (i == 4 || are_apart(room, &a[i]));
    good = good && take_sizes(&it, sizes) && take_params(&it, params) && take_features(&it, X, params) &&
           Z->type == params->type && Z->size == it.samples * it.sizes[it.layers];
    if (good) it.batch = it.samples > it.some ? it.some * it.threads : it.some;
    good = good && take_room(&it, room, params);
    if (good) {
        it.logits = Z->view.buf;
        PyThreadState* saved = PyEval_SaveThread();
        if (params->type == 'd') run_predict_double(&it);
        else run_predict_float(&it);
        PyEval_RestoreThread(saved);
    }
    close_arrays(a, 5);
    if (good) Py_RETURN_NONE;
    PyErr_SetString(PyExc_TypeError, "expected contiguous arrays of one float type");
    return NULL;
}
