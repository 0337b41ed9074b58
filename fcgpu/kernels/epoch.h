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
    T *gradient, *edge, *logits, *outputs, *targets, *weights, *losses;
    uint8_t* correct;
} N(Desk);

typedef struct {                                              /* of all threads; layer i is from A[i] to A[i + 1] */
    T *A[MOST_LAYERS], *D[MOST_LAYERS], *across[MOST_LAYERS]; /* across[i] (n, n_in) is Wᵀ of layer i */
    uint8_t* seen;                                            /* (tasks, n_features + 1) */
    double *losses, *penalties;                               /* of each task */
    ptrdiff_t* correct;
    ptrdiff_t first_task[MOST_LAYERS];
    N(Desk) desks[MOST_THREADS];
} N(Room);

/* Divide the scratch memory; returns the bytes needed. Nothing is written to it. */
static ptrdiff_t N(divide)(const Steps* it, N(Room) * room) {
    Memory memory = {it->room, 0};
    const ptrdiff_t *sizes = it->sizes, last = it->layers, some = it->some, tasks = (it->batch + some - 1) / some;
    ptrdiff_t widest = 0, rows = 0;
    for (ptrdiff_t i = 0; i <= last; i++) {
        if (sizes[i] + 1 > widest) widest = sizes[i] + 1;
        if (i < last) room->A[i] = take_memory(&memory, it->batch * ROW(sizes[i] + 1) * sizeof(T));
        if (i) room->D[i] = take_memory(&memory, it->batch * ROW(sizes[i]) * sizeof(T));
        if (i && i < last) room->across[i] = take_memory(&memory, sizes[i + 1] * ROW(sizes[i]) * sizeof(T));
        room->first_task[i] = rows;
        rows += (sizes[i] + SOME_ROWS) / SOME_ROWS; /* of sizes[i] + 1 */
    }
    room->seen = take_memory(&memory, tasks * (sizes[0] + 1));
    room->losses = take_memory(&memory, tasks * sizeof(double));
    room->correct = take_memory(&memory, tasks * sizeof(ptrdiff_t));
    room->penalties = take_memory(&memory, rows * sizeof(double));
    const ptrdiff_t deep = widest > it->batch ? widest : it->batch, k = sizes[last];
    for (int i = 0; i < it->threads; i++) {
        N(Desk)* my = &room->desks[i];
        ptrdiff_t** places[] = {&my->a_at, &my->b_at, &my->edge_at, &my->rows};
        for (int j = 0; j < 4; j++) *places[j] = take_memory(&memory, deep * sizeof(ptrdiff_t));
        my->labels = take_memory(&memory, some * sizeof(ptrdiff_t));
        my->a = take_memory(&memory, (some > SOME_ROWS ? some : SOME_ROWS) * sizeof(T*));
        my->gradient = take_memory(&memory, SOME_ROWS * WHOLE_VECTORS(widest) * sizeof(T));
        my->edge = take_memory(&memory, deep * VECTOR * sizeof(T));
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
                       ptrdiff_t start, double share) {
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
        for (ptrdiff_t s = 0; s < n; s++) my->a[s] = room->A[i] + (first + s) * ROW(n_in + 1);
        N(multiply)((N(Product)){my->a, my->a_at, layer, my->b_at, depth, Z, row, n}, n_out, it->many_registers,
                    my->edge, my->edge_at);
        layer += (n_in + 1) * n_out;
        for (ptrdiff_t s = 0; i + 1 < last && s < n; s++, Z += row) {
            N(activate)(it->activation, Z, n_out);
            Z[n_out] = 1;
        }
    }
    room->losses[task] =
        N(compare)(it, my, my->rows, n, share, room->D[last] + first * ROW(sizes[last]), room->correct + task);
    for (ptrdiff_t i = last - 1; i > 0; i--) {
        const ptrdiff_t n_in = sizes[i], n_out = sizes[i + 1];
        T* D = room->D[i] + first * ROW(n_in);
        for (ptrdiff_t k = 0; k < n_out; k++) my->a_at[k] = k, my->b_at[k] = k * ROW(n_in);
        for (ptrdiff_t s = 0; s < n; s++) my->a[s] = room->D[i + 1] + (first + s) * ROW(n_out);
        N(multiply)((N(Product)){my->a, my->a_at, room->across[i], my->b_at, n_out, D, ROW(n_in), n},
                    WHOLE_VECTORS(n_in), it->many_registers, NULL, NULL);
        for (ptrdiff_t s = 0; s < n; s++)
            N(derive)(it->activation, room->A[i] + (first + s) * ROW(n_in + 1), D + s * ROW(n_in), n_in);
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

/* The gradient of some rows of a layer's matrix, and their update. */
static void N(rows)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, ptrdiff_t batch, double share,
                    double rate, double step) {
    ptrdiff_t i = 0, at = 0;
    for (; room->first_task[i + 1] <= task; i++) at += (it->sizes[i] + 1) * it->sizes[i + 1];
    const ptrdiff_t n_in = it->sizes[i], n = it->sizes[i + 1], top = (task - room->first_task[i]) * SOME_ROWS;
    const ptrdiff_t count = n_in + 1 - top < SOME_ROWS ? n_in + 1 - top : SOME_ROWS;
    const ptrdiff_t weights = top + count > n_in ? count - 1 : count, row = WHOLE_VECTORS(n);
    ptrdiff_t depth = 0, rows = 0;
    uint8_t seen[SOME_ROWS];
    memset(seen, i > 0, sizeof seen);
    for (ptrdiff_t first = 0; first < batch; first += it->some) {
        uint8_t any = i > 0;
        const uint8_t* here = room->seen + first / it->some * (n_in + 1) + top;
        for (ptrdiff_t r = 0; !i && r < count; r++) seen[r] |= here[r], any |= here[r];
        for (ptrdiff_t s = first; any && s < first + it->some && s < batch; s++, depth++)
            my->a_at[depth] = s * ROW(n_in + 1), my->b_at[depth] = s * ROW(n);
    }
    for (ptrdiff_t r = 0; r < count; r++)
        if (seen[r]) my->a[rows] = room->A[i] + top + r, my->rows[rows++] = r;
    T *g = my->gradient, *w = (T*)it->params + at + top * n;
    if (rows)
        N(multiply)((N(Product)){my->a, my->a_at, room->D[i + 1], my->b_at, depth, g, row, rows}, row,
                    it->many_registers, NULL, NULL);
    if (it->rule == GRADIENT_DESCENT && it->alpha == 0) { /* then nothing changes where there is no gradient */
        for (ptrdiff_t r = 0; r < rows; r++) N(update)(it, w + my->rows[r] * n, g + r * row, NULL, NULL, n, rate, 0, 0);
    } else {
        T *m = it->m, *v = it->v;
        for (ptrdiff_t r = 0; r < rows && row != n; r++) memmove(g + r * n, g + r * row, (size_t)n * sizeof(T));
        for (ptrdiff_t r = count - 1; r >= 0 && rows < count; r--) { /* rows without samples in between are 0 */
            const int there = rows && my->rows[rows - 1] == r;
            if (there) memmove(g + r * n, g + --rows * n, (size_t)n * sizeof(T));
            else memset(g + r * n, 0, (size_t)n * sizeof(T));
        }
        if (it->alpha != 0) room->penalties[task] = N(add_l2)(w, g, weights * n, it->alpha * share);
        m = m ? m + at + top * n : NULL, v = v ? v + at + top * n : NULL;
        N(update)(it, w, g, m, v, weights * n, rate, step, rate * it->weight_decay);
        const ptrdiff_t done = weights * n;
        if (weights < count) N(update)(it, w + done, g + done, m ? m + done : m, v ? v + done : v, n, rate, step, 0);
    }
    if (i) N(turn)(w, weights, n, room->across[i] + top, ROW(n_in));
}

/* 1 / Σ weights of the batch, or 0 if all are 0. */
static double N(share_of)(const Steps* it, ptrdiff_t start, ptrdiff_t batch) {
    const T* weights = it->weights;
    double total = 0;
    if (!weights) return 1.0 / (double)batch;
    for (ptrdiff_t s = start; s < start + batch; s++) total += weights[it->order ? it->order[s] : s];
    return total > 0 ? 1 / total : 0;
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
        double adam = rate * sqrt(-expm1(t * log(it->second))) / -expm1(t * log(it->first));
        for (ptrdiff_t task; (task = next_task(team, thread, parts)) >= 0;)
            N(samples)(it, room, my, task, n, start, share);
        end_phase(team);
        for (ptrdiff_t i = 0; !thread && i < parts; i++)
            it->sums[0] += part * room->losses[i], it->sums[2] += (double)room->correct[i];
        for (ptrdiff_t task; (task = next_task(team, thread, tasks)) >= 0;)
            N(rows)(it, room, my, task, n, share, rate, adam);
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
