/* Steps layer by layer, for wide layers: the threads share the units of a layer, so that each weight is read twice a
   step, once on the way forward and once, with its gradient and its update, on the way back. By samples.h every task
   reads all of them, and their transpose.

   Included once for float and once for double, after rows.h. */

/* Units whose A is a task: whole vectors, as many as `multiply` computes at once, and some tasks for each thread. */
static ptrdiff_t N(units_at_once)(const Steps* it, ptrdiff_t n) {
    return tiles_for(tiles_for(n, 4 * it->threads), 4 * VECTOR) * 4 * VECTOR;
}

/* A task's samples to where the first layer's products find them; on the tile unit they are computed at once. */
static void N(take_samples)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, const Batch* now) {
    N(forward)(it, room, my, task, N(find)(it, my, task, now), it->tiles, now->keys);
}

/* Layer i forward, for some of its units. */
static void N(units)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t i, ptrdiff_t task,
                     const Batch* now) {
    const ptrdiff_t n = it->sizes[i + 1], some = N(units_at_once)(it, n), from = task * some;
    const ptrdiff_t to = n - from < some ? n : from + some;
    N(layer)(it, room, my, 0, now->n, i, from, to);
    for (ptrdiff_t s = 0; now->keys && i + 1 < it->layers && s < now->n; s++)
        N(drop)(room->A[i + 1] + s * ROW(n + 1) + from, from, to - from, it->ids[named(it, now->start + s)],
                now->keys + 2 * i, it->drops[i]);
}

/* From a task's logits to dZ of the last layer, and its transpose. */
static void N(compare_samples)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, const Batch* now) {
    const ptrdiff_t k = it->sizes[it->layers], first = task * it->some, n = N(find)(it, my, task, now);
    T* dZ = room->dZ[it->layers] + first * ROW(k);
    room->correct[task] = N(compare)(it, my, my->rows, n, now->share, room->losses + first, dZ);
    for (ptrdiff_t s = first; s < first + n; s++, dZ += ROW(k)) {
        T* dZT = room->dZT[it->layers] + s / VECTOR * WHOLE_VECTORS(k) * VECTOR + s % VECTOR;
        for (ptrdiff_t j = 0; j < k; j++) dZT[j * VECTOR] = dZ[j];
    }
}

/* Back through some rows of a layer's W, to dZ of the units that they are of: g'(A) (dZ Wᵀ), computed as its transpose,
   which the next layer back reads as well. */
static void N(propagate)(const Steps* it, const N(Room) * room, N(Desk) * my, N(Rows) of, const Batch* now) {
    const ptrdiff_t i = of.layer, row = ROW(it->sizes[i]), row_of_A = ROW(it->sizes[i] + 1);
    const ptrdiff_t n = WHOLE_VECTORS(now->n), apart = WHOLE_VECTORS(of.n) * VECTOR;
    const T* W = (const T*)it->params + of.at;
    for (ptrdiff_t k = 0; k < of.n; k++) my->a_at[k] = k, my->b_at[k] = k * VECTOR;
    for (ptrdiff_t u = 0; u < of.weights; u++) my->a[u] = W + u * of.n, my->c[u] = my->gradient + u * n;
    N(multiply)((N(Product)){my->a, my->a_at, room->dZT[i + 1], my->b_at, apart, of.n, my->c, of.weights, 0, 0}, n, n,
                it->many_registers, NULL, NULL);
    for (ptrdiff_t u = 0; u < of.weights; u += VECTOR) { /* a vector of units at a time, of all samples */
        const ptrdiff_t some = of.weights - u < VECTOR ? of.weights - u : VECTOR, unit = of.top + u;
        T *dZ = my->block, *A = dZ + n * VECTOR;
        N(transpose)(my->gradient + u * n, some, n, dZ);
        for (ptrdiff_t s = 0; s < now->n; s++) {
            const T* its = room->A[i] + s * row_of_A + unit;
            if (!now->keys) memcpy(A + s * VECTOR, its, 64);
            else
                N(drop_back)(it, now->keys, i, it->ids[named(it, now->start + s)], unit, VECTOR, its, dZ + s * VECTOR,
                             A + s * VECTOR);
        }
        N(derive)(it->activation, A, dZ, now->n * VECTOR);
        for (ptrdiff_t s = 0; s < now->n; s++) memcpy(room->dZ[i] + s * row + unit, dZ + s * VECTOR, 64);
        for (ptrdiff_t s = 0; i > 1 && s < n; s += VECTOR)
            N(transpose)(dZ + s * VECTOR, VECTOR, VECTOR,
                         room->dZT[i] + s * WHOLE_VECTORS(it->sizes[i]) + unit * VECTOR);
    }
}
