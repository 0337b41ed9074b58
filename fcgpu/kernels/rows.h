/* The second phase of a step: some rows of the gradient Aᵀ dZ of a layer, and the update of these rows while their
   gradient is in the cache. It is stored as a whole only where its norm is clipped.

   Included once for float and once for double, after samples.h. */

/* w (n) and the rule's vectors, updated by the gradient g as in updates.py; `rate` is η, `decay` is η λ. */
CLONES static void N(update)(const Steps* it, T* restrict w, const T* restrict g, T* restrict m, T* restrict v,
                             ptrdiff_t n, double rate, double eta_t, double decay) {
    const T eta = (T)rate, mu = (T)it->beta_1, rho = mu, rest = (T)(1 - it->beta_1), e = (T)it->epsilon;
    switch (it->rule) {
        case GRADIENT_DESCENT:
            for (ptrdiff_t i = 0; i < n; i++) w[i] -= eta * g[i];
            break;
        case MOMENTUM:
            for (ptrdiff_t i = 0; i < n; i++) v[i] = mu * v[i] - eta * g[i], w[i] += v[i];
            break;
        case NESTEROV:
            for (ptrdiff_t i = 0; i < n; i++) v[i] = mu * v[i] - eta * g[i], w[i] += mu * v[i] - eta * g[i];
            break;
        case RMSPROP:
            for (ptrdiff_t i = 0; i < n; i++)
                v[i] = rho * v[i] + rest * (g[i] * g[i]), w[i] -= eta * (g[i] / (SQRT(v[i]) + e));
            break;
        case ADAMW:
            for (ptrdiff_t i = 0; i < n; i++) w[i] -= (T)decay * w[i];
            /* fall through */
        default: N(adam)(w, g, m, v, n, it->beta_1, it->beta_2, it->epsilon, eta_t);
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

/* WT (rows / VECTOR, n, VECTOR) = Wᵀ, vector by vector, for W (rows, n): so it is written, and read, in order. */
CLONES static void N(transpose)(const T* restrict W, ptrdiff_t rows, ptrdiff_t n, T* restrict WT) {
    T square[VECTOR][VECTOR];
    for (ptrdiff_t r = 0; r < rows; r += VECTOR, W += VECTOR * n) {
        const ptrdiff_t height = rows - r < VECTOR ? rows - r : VECTOR;
        for (ptrdiff_t j = 0; j < n; j += VECTOR) {
            const ptrdiff_t width = n - j < VECTOR ? n - j : VECTOR;
            if (height < VECTOR || width < VECTOR) {
                for (ptrdiff_t i = 0; i < width; i++, WT += VECTOR)
                    for (ptrdiff_t l = 0; l < height; l++) WT[l] = W[l * n + j + i];
                continue;
            }
            for (ptrdiff_t l = 0; l < VECTOR; l++) memcpy(square[l], W + l * n + j, sizeof square[l]);
            for (ptrdiff_t i = 0; i < VECTOR; i++, WT += VECTOR)
                for (ptrdiff_t l = 0; l < VECTOR; l++) WT[l] = square[l][i];
        }
    }
}

/* The gradient of those rows that are not zero: they follow each other, as whole vectors, and my->rows names them.
   Returns how many there are. Only SUMMED samples are added up at a time: a sum of many more floats loses digits. */
static ptrdiff_t N(gradient)(const Steps* it, const N(Room) * room, N(Desk) * my, N(Rows) of, ptrdiff_t batch) {
    const ptrdiff_t i = of.layer, width = it->sizes[i] + 1, row = WHOLE_VECTORS(of.n);
    ptrdiff_t rows = 0;
    uint8_t seen[SOME_ROWS];
    memset(seen, i > 0, sizeof seen);
    for (ptrdiff_t first = 0; !i && first < batch; first += it->some) {
        const uint8_t* here = room->seen + first / it->some * width + of.top;
        for (ptrdiff_t r = 0; r < of.count; r++) seen[r] |= here[r];
    }
    for (ptrdiff_t r = 0; r < of.count; r++)
        if (seen[r]) my->a[rows] = room->A[i] + of.top + r, my->rows[rows++] = r;
    for (ptrdiff_t s = 0, end; rows && s < batch; s = end) {
        ptrdiff_t depth = 0;
        T* sum = s ? my->sum : my->gradient;
        end = batch - s < SUMMED ? batch : s + SUMMED;
        for (ptrdiff_t at = s, next; at < end; at = next) { /* the samples of a task */
            const uint8_t* here = room->seen + at / it->some * width + of.top;
            uint8_t any = i > 0;
            next = (at / it->some + 1) * it->some;
            if (next > end) next = end;
            for (ptrdiff_t r = 0; !i && r < of.count; r++) any |= here[r];
            for (ptrdiff_t l = at; any && l < next; l++, depth++)
                my->a_at[depth] = l * ROW(width), my->b_at[depth] = l * ROW(of.n);
        }
        for (ptrdiff_t r = 0; r < rows; r++) my->c[r] = sum + r * row;
        N(multiply)((N(Product)){my->a, my->a_at, room->dZ[i + 1], my->b_at, VECTOR, depth, my->c, rows, 0, 0}, row,
                    row, it->many_registers, NULL, NULL);
        for (ptrdiff_t l = 0; s && l < rows * row; l++) my->gradient[l] += sum[l];
    }
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

static void N(update_rows)(const Steps* it, const N(Room) * room, N(Rows) of, const T* g, const Batch* now) {
    T *w = (T*)it->params + of.at, *m = it->m ? (T*)it->m + of.at : NULL, *v = it->v ? (T*)it->v + of.at : NULL;
    const ptrdiff_t done = of.weights * of.n;
    if (it->rule == NONE) {
        memcpy(m, g, (size_t)(of.count * of.n) * sizeof(T));
        return;
    }
    N(update)(it, w, g, m, v, done, now->rate, now->eta_t, now->rate * it->weight_decay);
    if (of.weights < of.count)
        N(update)(it, w + done, g + done, m ? m + done : m, v ? v + done : v, of.n, now->rate, now->eta_t, 0);
    if (of.layer && !it->by_layer) N(transpose)(w, of.weights, of.n, room->WT[of.layer] + of.top * of.n);
    if (!of.layer && it->tiles) N(pack_weights)(it, room, of.top);
}

/* The gradient of a task's rows, and their update unless the gradient is clipped first. */
static void N(rows)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, const Batch* now) {
    const N(Rows) of = N(rows_of)(it, room, task);
    const int tiles = it->tiles && !of.layer;
    const ptrdiff_t rows = (tiles ? N(gradient_on_tiles) : N(gradient))(it, room, my, of, now->n);
    const ptrdiff_t size = of.count * of.n;
    T *g = my->gradient, *w = (T*)it->params + of.at;
    if (!of.layer && it->rule == GRADIENT_DESCENT && it->alpha == 0 && !(it->clip > 0)) {
        for (ptrdiff_t r = 0; r < rows; r++) /* weights without a gradient stay as they are */
            N(update)(it, w + my->rows[r] * of.n, g + r * WHOLE_VECTORS(of.n), NULL, NULL, of.n, now->rate, 0, 0);
        if (tiles && rows) N(pack_weights)(it, room, of.top);
        return;
    }
    N(spread)(my, of, rows);
    if (it->alpha != 0) room->w_squares[task] = N(add_l2)(w, g, of.weights * of.n, it->alpha * now->share);
    if (!(it->clip > 0)) {
        N(update_rows)(it, room, of, g, now);
        return;
    }
    memcpy(room->gradient + of.at, g, (size_t)size * sizeof(T));
    room->g_squares[task] = N(sum_of_squares)(g, size);
}

/* The update of a task's rows by their gradient, whose norm becomes at most `clip`. */
static void N(clipped_rows)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, const Batch* now) {
    const N(Rows) of = N(rows_of)(it, room, task);
    double squares = 0;
    for (ptrdiff_t i = 0; i < room->first_task[it->layers]; i++) squares += room->g_squares[i];
    const double norm = sqrt(squares);
    const T factor = (T)(norm > it->clip ? it->clip / norm : norm >= 0 ? 1 : norm); /* NaN stays NaN */
    const T* g = room->gradient + of.at;
    for (ptrdiff_t i = 0; i < of.count * of.n; i++) my->gradient[i] = g[i] * factor;
    N(update_rows)(it, room, of, my->gradient, now);
}
