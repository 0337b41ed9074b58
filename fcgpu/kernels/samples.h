/* The first phase of a step: some samples through the network and back. This leaves the input A and the gradient dZ of
   every layer. Features that are zero in all samples of a task are skipped. Predictions are its first half.

   Included once for float and once for double, after room.h. */

#define FEW 32 /* features: with fewer, looking for zeros takes longer than it saves */

/* A (n, features + 1) = scale X and a column of ones, for the samples of `rows`. seen (features + 1): what is not zero
   in every sample. */
CLONES static void N(take)(const Steps* it, const ptrdiff_t* rows, ptrdiff_t n, T* A, uint8_t* seen) {
    const ptrdiff_t features = it->sizes[0];
    const T scale = (T)it->scale;
    const int looks = features >= FEW;
    memset(seen, !looks, (size_t)features);
    seen[features] = 1;
    for (ptrdiff_t s = 0; s < n; s++, A += ROW(features + 1)) {
        const char* x = it->X + it->row * rows[s];
        if (it->bytes) {
            for (ptrdiff_t j = 0; j < features; j++) A[j] = scale * (T)((const uint8_t*)x)[j];
            for (ptrdiff_t j = 0; looks && j < features; j++) seen[j] |= ((const uint8_t*)x)[j];
        } else {
            for (ptrdiff_t j = 0; j < features; j++) A[j] = scale * ((const T*)x)[j];
            for (ptrdiff_t j = 0; looks && j < features; j++) seen[j] |= ((const T*)x)[j] != 0;
        }
        A[features] = 1;
    }
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

/* Inverted dropout of n of a sample's units in a layer, from `first` on: x = x keep / (1 - rate), as in dropout.py. */
CLONES static void N(drop)(T* x, ptrdiff_t first, ptrdiff_t n, uint32_t id, const uint32_t* key, double rate) {
    const double below = rint(rate * 4294967296.0);
    const uint32_t least = below < 4294967295.0 ? (uint32_t)below : 4294967295u, factor = key[0], offset = key[1];
    const T kept = (T)(1 / (1 - rate));
    for (ptrdiff_t j = 0; j < n; j++) {
        uint32_t hash = (id + (uint32_t)(first + j) * 0x9e3779b9u) * factor + offset;
        hash ^= hash >> 16, hash *= 0x7feb352du;
        hash ^= hash >> 15, hash *= 0x846ca68bu;
        hash ^= hash >> 16;
        x[j] = hash >= least ? x[j] * kept : 0;
    }
}

/* Back through dropout, for n of a sample's units of layer i, from `first` on: dA of what it put out becomes that of
   what came in, and `before` is A as it came in, at which the slope is. */
static void N(drop_back)(const Steps* it, const uint32_t* keys, ptrdiff_t i, uint32_t id, ptrdiff_t first, ptrdiff_t n,
                         const T* A, T* dA, T* before) {
    const double rate = it->drops[i - 1];
    N(drop)(dA, first, n, id, keys + 2 * (i - 1), rate);
    for (ptrdiff_t j = 0; j < n; j++) before[j] = A[j] * (T)(1 - rate);
}

/* From the logits of n samples to their losses and dZ of the last layer. Returns how many are predicted correctly. */
static ptrdiff_t N(compare)(const Steps* it, N(Desk) * my, const ptrdiff_t* rows, ptrdiff_t n, double share, T* losses,
                            T* dZ) {
    const ptrdiff_t k = it->sizes[it->layers];
    const T *targets = it->targets, *weights = it->weights;
    const Integers y = {(const char*)my->labels, sizeof(ptrdiff_t), 1};
    for (ptrdiff_t s = 0; s < n; s++) {
        memcpy(my->logits + s * k, dZ + s * ROW(k), (size_t)k * sizeof(T));
        if (targets) memcpy(my->targets + s * k, targets + rows[s] * k, (size_t)k * sizeof(T));
        else my->labels[s] = integer(it->y, rows[s]);
        my->weights[s] = (T)(weights ? weights[rows[s]] * share : share);
    }
    targets = targets ? my->targets : NULL;
    const size_t bytes = (size_t)(n * k) * sizeof(T);
    memcpy(my->outputs, my->logits, bytes);
    switch (it->output) {
        case 0:
            N(sigmoid_loss)(my->logits, y, targets, my->weights, 1, losses, n, k);
            N(sigmoid_all)(my->outputs, NULL, n, k);
            break;
        case 1:
            N(softmax_loss)(my->logits, y, targets, my->weights, 1, losses, n, k);
            N(softmax_all)(my->outputs, NULL, n, k);
            break;
        default: N(squared_loss)(my->logits, y, targets, my->weights, 1, losses, n, k);
    }
    N(minus_target)(my->outputs, y, targets, my->weights, 1, n, k);
    for (ptrdiff_t s = 0; s < n; s++) memcpy(dZ + s * ROW(k), my->outputs + s * k, (size_t)k * sizeof(T));
    ptrdiff_t correct = 0;
    if (it->counts) {
        N(count_correct)(my->logits, y, my->correct, n, k);
        for (ptrdiff_t s = 0; s < n; s++) correct += my->correct[s];
    }
    return correct;
}

/* Some rows of W (count, n) to panels (n / VECTOR, rows, VECTOR) of all rows: there a product reads whole cache lines,
   one after the other. What is behind the last column stays as it is: it reaches only what is behind that of the
   product. */
CLONES static void N(pack_rows)(const T* restrict W, ptrdiff_t count, ptrdiff_t n, ptrdiff_t rows, T* restrict panels) {
    for (ptrdiff_t j = 0; j < n; j += VECTOR, panels += rows * VECTOR) {
        const ptrdiff_t width = n - j < VECTOR ? n - j : VECTOR;
        for (ptrdiff_t r = 0; r < count; r++) memcpy(panels + r * VECTOR, W + r * n + j, (size_t)width * sizeof(T));
    }
}

/* Bring some rows of the parameters into the form in which predictions read them. */
static void N(pack)(const Steps* it, const N(Room) * room, N(Rows) of) {
    T* panels = room->panels[of.layer];
    const T* W = (const T*)it->params + of.at;
    if (panels) N(pack_rows)(W, of.count, of.n, it->sizes[of.layer] + 1, panels + of.top * VECTOR);
    else if (!of.layer) N(pack_weights)(it, room, of.top);
}

/* Layer i of the n samples of task number `place`, or from it on, columns `from` to `to`: A of the next or, after the
 * last, dZ. */
static void N(layer)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t place, ptrdiff_t n, ptrdiff_t i,
                     ptrdiff_t from, ptrdiff_t to) {
    const ptrdiff_t n_in = it->sizes[i], n_out = it->sizes[i + 1], first = place * it->some;
    const ptrdiff_t hidden = i + 1 < it->layers, row = ROW(n_out + hidden), parts = tiles_for(n, it->some);
    const uint8_t* seen = room->seen + place * (n_in + 1);
    const T *W = it->params, *panels = room->panels[i];
    T* Z = (hidden ? room->A : room->dZ)[i + 1] + first * row;
    if (it->tiles && !i) {
        N(multiply_samples)(it, room, my, Z, row, n);
    } else {
        ptrdiff_t depth = 0;
        for (ptrdiff_t l = 0; l < i; l++) W += (it->sizes[l] + 1) * it->sizes[l + 1];
        for (ptrdiff_t k = 0; k <= n_in; k++) {
            int any = i || seen[k];
            for (ptrdiff_t p = 1; !any && p < parts; p++) any = seen[p * (n_in + 1) + k] != 0;
            my->a_at[depth] = k, my->b_at[depth] = k * (panels ? VECTOR : n_out);
            depth += any;
        }
        for (ptrdiff_t s = 0; s < n; s++) my->a[s] = room->A[i] + (first + s) * ROW(n_in + 1), my->c[s] = Z + s * row;
        N(Product) product = {my->a, my->a_at, W, my->b_at, VECTOR, depth, my->c, n, from, 0};
        if (panels) product.b = panels, product.apart = (n_in + 1) * VECTOR;
        N(multiply)(product, to, n_out, it->many_registers, my->edge, my->edge_at);
    }
    const int whole = !from && to == n_out; /* then one call for all rows, and what is between them */
    if (hidden && whole) N(activate)(it->activation, Z, n * row);
    for (ptrdiff_t s = 0; hidden && s < n; s++, Z += row) {
        if (!whole) N(activate)(it->activation, Z + from, to - from);
        if (to == n_out) Z[n_out] = 1;
    }
}

/* The samples of my->rows through the first layers: A of each and, in dZ of the last, the logits, at the place in
   `room` of task number `place`. */
static void N(forward)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t place, ptrdiff_t n,
                       ptrdiff_t layers, const uint32_t* keys) {
    const ptrdiff_t *sizes = it->sizes, first = place * it->some;
    if (it->tiles) N(pack_samples)(it, room, my, place, n);
    else N(take)(it, my->rows, n, room->A[0] + first * ROW(sizes[0] + 1), room->seen + place * (sizes[0] + 1));
    for (ptrdiff_t i = 0; i < layers; i++) {
        const ptrdiff_t n_out = sizes[i + 1], row = ROW(n_out + 1);
        N(layer)(it, room, my, place, n, i, 0, n_out);
        for (ptrdiff_t s = 0; keys && i + 1 < it->layers && s < n; s++)
            N(drop)(room->A[i + 1] + (first + s) * row, 0, n_out, it->ids[my->rows[s]], keys + 2 * i, it->drops[i]);
    }
}

/* Put the samples of a task into my->rows; returns how many there are. */
static ptrdiff_t N(find)(const Steps* it, N(Desk) * my, ptrdiff_t task, const Batch* now) {
    const ptrdiff_t first = task * it->some, n = now->n - first < it->some ? now->n - first : it->some;
    for (ptrdiff_t s = 0; s < n; s++) my->rows[s] = named(it, now->start + first + s);
    return n;
}

/* Some samples through the network and back: A and dZ of every layer, for rows first to first + n of the batch. */
static void N(samples)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, const Batch* now) {
    const ptrdiff_t *sizes = it->sizes, last = it->layers, first = task * it->some, n = N(find)(it, my, task, now);
    const uint32_t* keys = now->keys;
    N(forward)(it, room, my, task, n, last, keys);
    room->correct[task] =
        N(compare)(it, my, my->rows, n, now->share, room->losses + first, room->dZ[last] + first * ROW(sizes[last]));
    for (ptrdiff_t i = last - 1; i > 0; i--) {
        const ptrdiff_t n_in = sizes[i], n_out = sizes[i + 1];
        T* dA = room->dZ[i] + first * ROW(n_in); /* overwritten with dZ */
        for (ptrdiff_t k = 0; k < n_out; k++) my->a_at[k] = k, my->b_at[k] = k * VECTOR;
        for (ptrdiff_t s = 0; s < n; s++)
            my->a[s] = room->dZ[i + 1] + (first + s) * ROW(n_out), my->c[s] = dA + s * ROW(n_in);
        N(multiply)((N(Product)){my->a, my->a_at, room->WT[i], my->b_at, n_out * VECTOR, n_out, my->c, n, 0, 0},
                    WHOLE_VECTORS(n_in), WHOLE_VECTORS(n_in), it->many_registers, NULL, NULL);
        const T* A = room->A[i] + first * ROW(n_in + 1);
        if (!keys && ROW(n_in) == ROW(n_in + 1)) {
            N(derive)(it->activation, A, dA, n * ROW(n_in));
            continue;
        }
        for (ptrdiff_t s = 0; s < n; s++, A += ROW(n_in + 1), dA += ROW(n_in)) {
            if (keys) N(drop_back)(it, keys, i, it->ids[my->rows[s]], 0, n_in, A, dA, my->unit);
            N(derive)(it->activation, keys ? my->unit : A, dA, n_in);
        }
    }
    if (it->tiles) N(pack_delta)(it, room, task, now->n);
}

/* What each thread does to predict: the logits of the samples, which are in it->logits (samples, outputs). W is packed
   first, if it is at all. */
static void N(predict)(void* job, Team* team, int thread, ptrdiff_t phase) {
    const Steps* it = job;
    N(Room)* room = it->divided;
    N(Desk)* my = &room->desks[thread];
    const ptrdiff_t k = it->sizes[it->layers], packing = it->tiles || it->packed ? room->first_task[it->layers] : 0;
    if (it->tiles) open_tiles();
    for (const ptrdiff_t last = packing > 0; phase <= last; phase++) {
        const ptrdiff_t tasks = phase < last ? packing : tiles_for(it->samples, it->some);
        for (ptrdiff_t task; (task = next_task(team, thread, tasks)) >= 0;) {
            if (phase < last) {
                N(pack)(it, room, N(rows_of)(it, room, task));
                continue;
            }
            const ptrdiff_t first = task * it->some, left = it->samples - first, n = left < it->some ? left : it->some;
            for (ptrdiff_t s = 0; s < n; s++) my->rows[s] = first + s;
            N(forward)(it, room, my, thread, n, it->layers, NULL);
            const T* Z = room->dZ[it->layers] + thread * it->some * ROW(k);
            for (ptrdiff_t s = 0; s < n; s++)
                memcpy((T*)it->logits + (first + s) * k, Z + s * ROW(k), (size_t)k * sizeof(T));
        }
        end_phase(team);
    }
    if (it->tiles) close_tiles();
}

/* The same where all samples are one task: the threads share the columns of each layer, a phase a layer. */
static void N(predict_together)(void* job, Team* team, int thread, ptrdiff_t phase) {
    const Steps* it = job;
    N(Room)* room = it->divided;
    N(Desk)* my = &room->desks[thread];
    const ptrdiff_t *sizes = it->sizes, k = sizes[it->layers];
    for (; phase <= it->layers; phase++) {
        const ptrdiff_t n = it->samples, n_out = sizes[phase], panels = (n_out + 4 * VECTOR - 1) / (4 * VECTOR);
        const ptrdiff_t share = (panels + it->threads - 1) / it->threads * 4 * VECTOR;
        for (ptrdiff_t task; (task = next_task(team, thread, phase ? (n_out + share - 1) / share : 1)) >= 0;) {
            const ptrdiff_t from = task * share, to = n_out - from < share ? n_out : from + share;
            if (phase) N(layer)(it, room, my, 0, n, phase - 1, from, to);
            for (ptrdiff_t s = 0; !phase && s < n; s++) my->rows[s] = s;
            if (!phase) N(take)(it, my->rows, n, room->A[0], room->seen);
        }
        end_phase(team);
    }
    for (ptrdiff_t s = 0; !thread && s < it->samples; s++)
        memcpy((T*)it->logits + s * k, room->dZ[it->layers] + s * ROW(k), (size_t)k * sizeof(T));
}

static void N(run_predict)(Steps* it) {
    N(Room) room;
    const int together = it->samples <= it->some && it->threads > 1;
    if (together) it->packed = 0;
    N(divide)(it, &room);
    it->divided = &room;
    work_as_team(together ? N(predict_together) : N(predict), it, it->threads);
}
