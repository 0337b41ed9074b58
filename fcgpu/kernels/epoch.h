/* Steps of gradient descent and its relatives on batches of samples: passes and update, for many batches in one call.

   A layer's W and b are one matrix (n_in + 1, n), b its last row, for inputs whose last column is 1. Each step has two
   phases. In the first, each task takes some samples through the network and back; this leaves the inputs A and the
   gradients D of every layer. In the second, each task computes some rows of a matrix's gradient, Aᵀ D, and updates
   these rows while their gradient is in the cache; it is never stored as a whole.

   Features that are zero in all samples of a task are skipped, in both products with them.

   Included once for float and once for double, after elementwise.h and panels.h. */

#ifdef STEPS
/* Numbers in a row, an odd number of vectors: such rows do not compete for the same places of a cache. */
#define ROW(n) (WHOLE_VECTORS(n) + (WHOLE_VECTORS(n) / VECTOR % 2 ? 0 : VECTOR))

typedef struct { /* of one thread */
    ptrdiff_t *a_at, *b_at, *edge_at, *labels, *rows;
    const T** a;
    T** c;
    T *gradient, *edge, *unit, *logits, *outputs, *targets, *weights, *losses;
    uint8_t* correct;
} N(Desk);

typedef struct {                                              /* of all threads; layer i is from A[i] to A[i + 1] */
    T *A[MOST_LAYERS], *D[MOST_LAYERS], *across[MOST_LAYERS]; /* across[i] (n, n_in) is Wᵀ of layer i */
    uint8_t* seen;                                            /* (tasks, n_features + 1) */
    double *losses, *penalties, *squares;                     /* of each task */
    T* gradient;                                              /* (n_params), if it is clipped */
    ptrdiff_t* correct;
    ptrdiff_t first_task[MOST_LAYERS];
    N(Desk) desks[MOST_THREADS];
} N(Room);

/* Divide the scratch memory; returns the bytes needed. Nothing is written to it. */
static ptrdiff_t N(divide)(const Steps* it, N(Room) * room) {
    Memory memory = {it->room, 0};
    const ptrdiff_t *sizes = it->sizes, last = it->layers, some = it->some, tasks = (it->batch + some - 1) / some;
    ptrdiff_t widest = 0, rows = 0, params = 0;
    for (ptrdiff_t i = 0; i <= last; i++) {
        if (sizes[i] + 1 > widest) widest = sizes[i] + 1;
        if (i < last) room->A[i] = take_memory(&memory, it->batch * ROW(sizes[i] + 1) * sizeof(T));
        if (i) room->D[i] = take_memory(&memory, it->batch * ROW(sizes[i]) * sizeof(T));
        if (i && i < last) room->across[i] = take_memory(&memory, sizes[i + 1] * ROW(sizes[i]) * sizeof(T));
        if (i) params += (sizes[i - 1] + 1) * sizes[i];
        room->first_task[i] = rows;
        rows += (sizes[i] + SOME_ROWS) / SOME_ROWS; /* of sizes[i] + 1 */
    }
    room->seen = take_memory(&memory, tasks * (sizes[0] + 1));
    room->losses = take_memory(&memory, tasks * sizeof(double));
    room->correct = take_memory(&memory, tasks * sizeof(ptrdiff_t));
    room->penalties = take_memory(&memory, rows * sizeof(double));
    room->squares = take_memory(&memory, rows * sizeof(double));
    room->gradient = take_memory(&memory, it->clip > 0 ? params * sizeof(T) : 0);
    const ptrdiff_t deep = widest > it->batch ? widest : it->batch, k = sizes[last];
    for (int i = 0; i < it->threads; i++) {
        N(Desk)* my = &room->desks[i];
        ptrdiff_t** places[] = {&my->a_at, &my->b_at, &my->edge_at, &my->rows};
        for (int j = 0; j < 4; j++) *places[j] = take_memory(&memory, deep * sizeof(ptrdiff_t));
        my->labels = take_memory(&memory, some * sizeof(ptrdiff_t));
        my->a = take_memory(&memory, (some > SOME_ROWS ? some : SOME_ROWS) * sizeof(T*));
        my->c = take_memory(&memory, (some > SOME_ROWS ? some : SOME_ROWS) * sizeof(T*));
        my->gradient = take_memory(&memory, SOME_ROWS * WHOLE_VECTORS(widest) * sizeof(T));
        my->edge = take_memory(&memory, deep * VECTOR * sizeof(T));
        my->unit = take_memory(&memory, widest * sizeof(T));
        T** numbers[] = {&my->logits, &my->outputs, &my->targets};
        for (int j = 0; j < 3; j++) *numbers[j] = take_memory(&memory, some * k * sizeof(T));
        my->weights = take_memory(&memory, some * sizeof(T));
        my->losses = take_memory(&memory, some * sizeof(T));
        my->correct = take_memory(&memory, some);
    }
    return memory.used;
}

/* A (n, features + 1) = scale X and a column of ones, for the samples of `rows`. seen (features + 1): what is not zero
   in every sample; place: where that is. Returns how many there are. */
CLONES static ptrdiff_t N(take)(const Steps* it, const ptrdiff_t* rows, ptrdiff_t n, T* A, uint8_t* seen,
                                ptrdiff_t* place) {
    const ptrdiff_t features = it->sizes[0];
    const T scale = (T)it->scale;
    ptrdiff_t count = 0;
    memset(seen, 0, (size_t)features);
    seen[features] = 1;
    for (ptrdiff_t s = 0; s < n; s++, A += ROW(features + 1)) {
        const char* x = it->X + it->row * rows[s];
        if (it->bytes) {
            for (ptrdiff_t j = 0; j < features; j++) A[j] = scale * (T)((const uint8_t*)x)[j];
            for (ptrdiff_t j = 0; j < features; j++) seen[j] |= ((const uint8_t*)x)[j];
        } else {
            for (ptrdiff_t j = 0; j < features; j++) A[j] = scale * ((const T*)x)[j];
            for (ptrdiff_t j = 0; j < features; j++) seen[j] |= ((const T*)x)[j] != 0;
        }
        A[features] = 1;
    }
    for (ptrdiff_t j = 0; j <= features; j++) {
        place[count] = j;
        count += seen[j] != 0;
    }
    return count;
}

static void N(activate)(int activation, T* Z, ptrdiff_t n) {
    switch (activation) {
        case 0: N(sigmoid_all)(Z, NULL, 1, n); break;
        case 1: N(tanh_all)(Z, NULL, 1, n); break;
        case 2: N(relu_all)(Z, NULL, 1, n); break;
        case 3: N(leaky_relu_all)(Z, NULL, 1, n); break;
    }
}

static void N(derive)(int activation, const T* A, T* dA, ptrdiff_t n) {
    switch (activation) {
        case 0: N(sigmoid_backward)(A, dA, n); break;
        case 1: N(tanh_backward)(A, dA, n); break;
        case 2: N(relu_backward)(A, dA, n); break;
        case 3: N(leaky_relu_backward)(A, dA, n); break;
    }
}

/* Inverted dropout of a sample's units in a layer: x = x keep / (1 - rate), as in dropout.py. */
CLONES static void N(drop)(T* x, ptrdiff_t n, uint32_t id, const uint32_t* key, double rate) {
    const double below = rint(rate * 4294967296.0);
    const uint32_t least = below < 4294967295.0 ? (uint32_t)below : 4294967295u, factor = key[0], offset = key[1];
    const T kept = (T)(1 / (1 - rate));
    for (ptrdiff_t j = 0; j < n; j++) {
        uint32_t hash = (id + (uint32_t)j * 0x9e3779b9u) * factor + offset;
        hash ^= hash >> 16, hash *= 0x7feb352du;
        hash ^= hash >> 15, hash *= 0x846ca68bu;
        hash ^= hash >> 16;
        x[j] = hash >= least ? x[j] * kept : 0;
    }
}

/* From the logits of n samples to their losses, whose sum is returned, and to D of the last layer. */
static double N(compare)(const Steps* it, N(Desk) * my, const ptrdiff_t* rows, ptrdiff_t n, double share, T* D,
                         ptrdiff_t* correct) {
    const ptrdiff_t k = it->sizes[it->layers];
    const T *targets = it->targets, *weights = it->weights;
    const Labels y = {(const char*)my->labels, sizeof(ptrdiff_t), 1};
    for (ptrdiff_t s = 0; s < n; s++) {
        memcpy(my->logits + s * k, D + s * ROW(k), (size_t)k * sizeof(T));
        if (targets) memcpy(my->targets + s * k, targets + rows[s] * k, (size_t)k * sizeof(T));
        else my->labels[s] = label(it->y, rows[s]);
        my->weights[s] = (T)(weights ? weights[rows[s]] * share : share);
    }
    targets = targets ? my->targets : NULL;
    const size_t bytes = (size_t)(n * k) * sizeof(T);
    memcpy(my->outputs, my->logits, bytes);
    switch (it->output) {
        case 0:
            N(sigmoid_loss)(my->logits, y, targets, my->weights, 1, my->losses, n, k);
            N(sigmoid_all)(my->outputs, NULL, n, k);
            break;
        case 1:
            N(softmax_loss)(my->logits, y, targets, my->weights, 1, my->losses, n, k);
            N(softmax_all)(my->outputs, NULL, n, k);
            break;
        default: N(squared_loss)(my->logits, y, targets, my->weights, 1, my->losses, n, k);
    }
    N(minus_target)(my->outputs, y, targets, my->weights, 1, n, k);
    for (ptrdiff_t s = 0; s < n; s++) memcpy(D + s * ROW(k), my->outputs + s * k, (size_t)k * sizeof(T));
    double sum = 0;
    for (ptrdiff_t s = 0; s < n; s++) sum += my->losses[s];
    *correct = 0;
    if (it->counts) {
        N(count_correct)(my->logits, y, my->correct, n, k);
        for (ptrdiff_t s = 0; s < n; s++) *correct += my->correct[s];
    }
    return sum;
}

/* Some samples through the network and back: A and D of every layer, for rows first to first + n of the batch. */
static void N(samples)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, ptrdiff_t batch,
                       ptrdiff_t start, double share, const uint32_t* keys) {
    const ptrdiff_t *sizes = it->sizes, last = it->layers, first = task * it->some;
    const ptrdiff_t n = batch - first < it->some ? batch - first : it->some;
    const T* layer = it->params;
    for (ptrdiff_t s = 0; s < n; s++) my->rows[s] = it->order ? it->order[start + first + s] : start + first + s;
    ptrdiff_t depth =
        N(take)(it, my->rows, n, room->A[0] + first * ROW(sizes[0] + 1), room->seen + task * (sizes[0] + 1), my->a_at);
    for (ptrdiff_t i = 0; i < last; i++) {
        const ptrdiff_t n_in = sizes[i], n_out = sizes[i + 1], row = i + 1 < last ? ROW(n_out + 1) : ROW(n_out);
        T* Z = (i + 1 < last ? room->A : room->D)[i + 1] + first * row;
        if (i) depth = n_in + 1;
        for (ptrdiff_t k = 0; k < depth; k++) {
            if (i) my->a_at[k] = k;
            my->b_at[k] = my->a_at[k] * n_out;
        }
        for (ptrdiff_t s = 0; s < n; s++) my->a[s] = room->A[i] + (first + s) * ROW(n_in + 1), my->c[s] = Z + s * row;
        N(multiply)((N(Product)){my->a, my->a_at, layer, my->b_at, depth, my->c, n, 0, 0}, n_out, it->many_registers,
                    my->edge, my->edge_at);
        layer += (n_in + 1) * n_out;
        for (ptrdiff_t s = 0; i + 1 < last && s < n; s++, Z += row) {
            N(activate)(it->activation, Z, n_out);
            if (keys) N(drop)(Z, n_out, it->ids[my->rows[s]], keys + 2 * i, it->drops[i]);
            Z[n_out] = 1;
        }
    }
    room->losses[task] =
        N(compare)(it, my, my->rows, n, share, room->D[last] + first * ROW(sizes[last]), room->correct + task);
    for (ptrdiff_t i = last - 1; i > 0; i--) {
        const ptrdiff_t n_in = sizes[i], n_out = sizes[i + 1];
        T* D = room->D[i] + first * ROW(n_in);
        for (ptrdiff_t k = 0; k < n_out; k++) my->a_at[k] = k, my->b_at[k] = k * ROW(n_in);
        for (ptrdiff_t s = 0; s < n; s++)
            my->a[s] = room->D[i + 1] + (first + s) * ROW(n_out), my->c[s] = D + s * ROW(n_in);
        N(multiply)((N(Product)){my->a, my->a_at, room->across[i], my->b_at, n_out, my->c, n, 0, 0},
                    WHOLE_VECTORS(n_in), it->many_registers, NULL, NULL);
        for (ptrdiff_t s = 0; s < n; s++, D += ROW(n_in)) {
            const T* A = room->A[i] + (first + s) * ROW(n_in + 1);
            if (keys) { /* the slope is that at A before dropout */
                const double rate = it->drops[i - 1];
                N(drop)(D, n_in, it->ids[my->rows[s]], keys + 2 * (i - 1), rate);
                for (ptrdiff_t j = 0; j < n_in; j++) my->unit[j] = A[j] * (T)(1 - rate);
                A = my->unit;
            }
            N(derive)(it->activation, A, D, n_in);
        }
    }
}

/* w (n) and the rule's vectors, updated by the gradient g. `rate` is η, `step` that of Adam with its corrections. */
CLONES static void N(update)(const Steps* it, T* restrict w, const T* restrict g, T* restrict m, T* restrict v,
                             ptrdiff_t n, double rate, double step, double decay) {
    const T eta = (T)rate, first = (T)it->first, rest = (T)(1 - it->first), e = (T)it->epsilon, lambda = (T)decay;
    switch (it->rule) {
        case GRADIENT_DESCENT:
            for (ptrdiff_t i = 0; i < n; i++) w[i] -= eta * g[i];
            break;
        case MOMENTUM:
            for (ptrdiff_t i = 0; i < n; i++) v[i] = first * v[i] - eta * g[i], w[i] += v[i];
            break;
        case NESTEROV:
            for (ptrdiff_t i = 0; i < n; i++) v[i] = first * v[i] - eta * g[i], w[i] += first * v[i] - eta * g[i];
            break;
        case RMSPROP:
            for (ptrdiff_t i = 0; i < n; i++)
                v[i] = first * v[i] + rest * (g[i] * g[i]), w[i] -= eta * (g[i] / (SQRT(v[i]) + e));
            break;
        case ADAMW:
            for (ptrdiff_t i = 0; i < n; i++) w[i] -= lambda * w[i];
            /* fall through */
        default: N(adam)(w, g, m, v, n, it->first, it->second, it->epsilon, step);
    }
}

CLONES static double N(sum_of_squares)(const T* g, ptrdiff_t n) {
    double sums[8] = {0}, sum = 0;
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; l++) sums[l] += (double)g[i + l] * (double)g[i + l];
    for (; i < n; i++) sum += (double)g[i] * (double)g[i];
    for (int l = 0; l < 8; l++) sum += sums[l];
    return sum;
}

/* across (n, rows) = Wᵀ, for W (rows, n). */
CLONES static void N(turn)(const T* restrict W, ptrdiff_t rows, ptrdiff_t n, T* restrict across, ptrdiff_t row) {
    for (ptrdiff_t r = 0; r < rows; r += VECTOR)
        for (ptrdiff_t j = 0; j < n; j++) {
            if (rows - r < VECTOR)
                for (ptrdiff_t l = r; l < rows; l++) across[j * row + l] = W[l * n + j];
            else
                for (ptrdiff_t l = r; l < r + VECTOR; l++) across[j * row + l] = W[l * n + j];
        }
}

/* Rows of a layer's matrix, whose gradient is a task: its place in the parameters, and how many rows are weights. */
typedef struct {
    ptrdiff_t layer, top, count, weights, n, at;
} N(Rows);

static N(Rows) N(rows_of)(const Steps* it, const N(Room) * room, ptrdiff_t task) {
    N(Rows) rows = {0};
    ptrdiff_t i = 0;
    for (; room->first_task[i + 1] <= task; i++) rows.at += (it->sizes[i] + 1) * it->sizes[i + 1];
    rows.layer = i, rows.n = it->sizes[i + 1], rows.top = (task - room->first_task[i]) * SOME_ROWS;
    const ptrdiff_t left = it->sizes[i] + 1 - rows.top;
    rows.count = left < SOME_ROWS ? left : SOME_ROWS;
    rows.weights = left <= SOME_ROWS ? left - 1 : SOME_ROWS;
    rows.at += rows.top * rows.n;
    return rows;
}

/* The gradient of those rows that are not zero: they follow each other, as whole vectors, and my->rows names them.
   Returns how many there are. */
static ptrdiff_t N(gradient)(const Steps* it, const N(Room) * room, N(Desk) * my, N(Rows) of, ptrdiff_t batch) {
    const ptrdiff_t i = of.layer, width = it->sizes[i] + 1, row = WHOLE_VECTORS(of.n);
    ptrdiff_t depth = 0, rows = 0;
    uint8_t seen[SOME_ROWS];
    memset(seen, i > 0, sizeof seen);
    for (ptrdiff_t first = 0; first < batch; first += it->some) {
        uint8_t any = i > 0;
        const uint8_t* here = room->seen + first / it->some * width + of.top;
        for (ptrdiff_t r = 0; !i && r < of.count; r++) seen[r] |= here[r], any |= here[r];
        for (ptrdiff_t s = first; any && s < first + it->some && s < batch; s++, depth++)
            my->a_at[depth] = s * ROW(width), my->b_at[depth] = s * ROW(of.n);
    }
    for (ptrdiff_t r = 0; r < of.count; r++)
        if (seen[r])
            my->a[rows] = room->A[i] + of.top + r, my->c[rows] = my->gradient + rows * row, my->rows[rows++] = r;
    if (rows)
        N(multiply)((N(Product)){my->a, my->a_at, room->D[i + 1], my->b_at, depth, my->c, rows, 0, 0}, row,
                    it->many_registers, NULL, NULL);
    return rows;
}

/* Put rows from `gradient` to their places among all rows, of which the others are zero. */
static void N(spread)(N(Desk) * my, N(Rows) of, ptrdiff_t rows) {
    const ptrdiff_t row = WHOLE_VECTORS(of.n);
    const size_t bytes = (size_t)of.n * sizeof(T);
    T* g = my->gradient;
    for (ptrdiff_t r = 0; r < rows && row != of.n; r++) memmove(g + r * of.n, g + r * row, bytes);
    for (ptrdiff_t r = of.count - 1; r >= 0 && rows < of.count; r--) {
        const int there = rows && my->rows[rows - 1] == r;
        if (there) memmove(g + r * of.n, g + --rows * of.n, bytes);
        else memset(g + r * of.n, 0, bytes);
    }
}

static void N(update_rows)(const Steps* it, const N(Room) * room, N(Rows) of, const T* g, double rate, double step) {
    T *w = (T*)it->params + of.at, *m = it->m ? (T*)it->m + of.at : NULL, *v = it->v ? (T*)it->v + of.at : NULL;
    const ptrdiff_t done = of.weights * of.n;
    N(update)(it, w, g, m, v, done, rate, step, rate * it->weight_decay);
    if (of.weights < of.count)
        N(update)(it, w + done, g + done, m ? m + done : m, v ? v + done : v, of.n, rate, step, 0);
    if (of.layer) N(turn)(w, of.weights, of.n, room->across[of.layer] + of.top, ROW(it->sizes[of.layer]));
}

/* The gradient of a task's rows, and their update unless the gradient is clipped first. */
static void N(rows)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, ptrdiff_t batch, double share,
                    double rate, double step) {
    const N(Rows) of = N(rows_of)(it, room, task);
    const ptrdiff_t rows = N(gradient)(it, room, my, of, batch), size = of.count * of.n;
    T *g = my->gradient, *w = (T*)it->params + of.at;
    if (!of.layer && it->rule == GRADIENT_DESCENT && it->alpha == 0 && it->clip == 0) {
        for (ptrdiff_t r = 0; r < rows; r++) /* weights without a gradient stay as they are */
            N(update)(it, w + my->rows[r] * of.n, g + r * WHOLE_VECTORS(of.n), NULL, NULL, of.n, rate, 0, 0);
        return;
    }
    N(spread)(my, of, rows);
    if (it->alpha != 0) room->penalties[task] = N(add_l2)(w, g, of.weights * of.n, it->alpha * share);
    if (it->clip == 0) {
        N(update_rows)(it, room, of, g, rate, step);
        return;
    }
    memcpy(room->gradient + of.at, g, (size_t)size * sizeof(T));
    room->squares[task] = N(sum_of_squares)(g, size);
}

/* The update of a task's rows by their gradient, whose norm becomes at most `clip`. */
static void N(clipped_rows)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, ptrdiff_t tasks,
                            double rate, double step) {
    const N(Rows) of = N(rows_of)(it, room, task);
    double squares = 0;
    for (ptrdiff_t i = 0; i < tasks; i++) squares += room->squares[i];
    const double norm = sqrt(squares);
    const T factor = (T)(norm > it->clip ? it->clip / norm : norm >= 0 ? 1 : norm); /* NaN stays NaN */
    const T* g = room->gradient + of.at;
    for (ptrdiff_t i = 0; i < of.count * of.n; i++) my->gradient[i] = g[i] * factor;
    N(update_rows)(it, room, of, my->gradient, rate, step);
}

/* 1 / Σ weights of the batch, or 0 if all are 0. */
static double N(share_of)(const Steps* it, ptrdiff_t start, ptrdiff_t batch) {
    const T* weights = it->weights;
    double total = 0;
    if (!weights) return 1.0 / (double)batch;
    for (ptrdiff_t s = start; s < start + batch; s++) total += weights[it->order ? it->order[s] : s];
    return total > 0 ? 1 / (total > TINY ? total : TINY) : 0;
}

/* What each thread does. */
static void N(steps)(void* job, Team* team, int thread) {
    Steps* it = job;
    N(Room)* room = it->divided;
    N(Desk)* my = &room->desks[thread];
    const ptrdiff_t tasks = room->first_task[it->layers];
    const double began = thread ? 0 : seconds();
    for (ptrdiff_t step = 0, start = 0; step < it->steps; step++, start += it->batch) {
        const ptrdiff_t n = it->samples - start < it->batch ? it->samples - start : it->batch;
        const ptrdiff_t parts = (n + it->some - 1) / it->some;
        const double share = N(share_of)(it, start, n), part = (double)n / (double)it->whole, rate = it->rates[step];
        const double t = it->t + (double)step + 1;
        const uint32_t* keys = it->keys ? it->keys + 2 * step * (it->layers - 1) : NULL;
        const double adam = rate * sqrt(-expm1(t * log(it->second))) / -expm1(t * log(it->first));
        for (ptrdiff_t task; (task = next_task(team, thread, parts)) >= 0;)
            N(samples)(it, room, my, task, n, start, share, keys);
        end_phase(team);
        for (ptrdiff_t i = 0; !thread && i < parts; i++)
            it->sums[0] += part * room->losses[i], it->sums[2] += (double)room->correct[i];
        for (ptrdiff_t task; (task = next_task(team, thread, tasks)) >= 0;)
            N(rows)(it, room, my, task, n, share, rate, adam);
        if (it->clip > 0) {
            end_phase(team);
            for (ptrdiff_t task; (task = next_task(team, thread, tasks)) >= 0;)
                N(clipped_rows)(it, room, my, task, tasks, rate, adam);
        }
        if (!thread) {
            it->done = step + 1;
            if (seconds() - began > it->longest) __atomic_store_n(&team->leave, 1, __ATOMIC_RELAXED);
        }
        end_phase(team);
        for (ptrdiff_t i = 0; !thread && it->alpha != 0 && i < tasks; i++)
            it->sums[1] += part * 0.5 * it->alpha * share * room->penalties[i];
        if (__atomic_load_n(&team->leave, __ATOMIC_RELAXED)) return;
    }
}

/* Bytes of scratch memory needed. */
static ptrdiff_t N(room)(Steps* it) {
    N(Room) room;
    it->room = NULL;
    return N(divide)(it, &room);
}

static void N(run)(Steps* it) {
    N(Room) room;
    const T* W = it->params;
    N(divide)(it, &room);
    for (ptrdiff_t i = 0; i < it->layers; i++) {
        const ptrdiff_t n_in = it->sizes[i], n = it->sizes[i + 1];
        if (i) {
            memset(room.across[i], 0, (size_t)(n * ROW(n_in)) * sizeof(T));
            N(turn)(W, n_in, n, room.across[i], ROW(n_in));
        }
        W += (n_in + 1) * n;
    }
    it->divided = &room;
    work_as_team(N(steps), it, it->threads);
}

#undef ROW
#endif
#undef VECTOR
#undef WHOLE_VECTORS
#undef TILE
