/* Steps on pixels with the tile unit, in float: Z = scale X W + b of the first layer, and the gradient of its W. What
   the unit reads is packed where it is made: X by the task that takes its samples, which are one tile deep; dZ by the
   task that has computed it; W by the task that has updated its rows.

   Included once for float and once for double, for which it is not called, after room.h. */

/* Gather the n samples of my->rows, and pack their rows. */
static void N(pack_samples)(const Steps* it, const N(Room) * room, N(Desk) * my, ptrdiff_t task, ptrdiff_t n) {
    const ptrdiff_t features = it->sizes[0], strip = tiles_for(features, FLOAT_DEPTH);
    uint8_t* X = room->X + task * FLOAT_DEPTH * features;
    for (ptrdiff_t s = 0; s < n; s++) memcpy(X + s * features, it->X + it->row * my->rows[s], (size_t)features);
    my->deep = 0;
    for (ptrdiff_t s = 0; s < FLOAT_DEPTH; s += SIDE) {
        const Bytes rows = {X + s * features, features, 1};
        const ptrdiff_t deep = pack_rows_for_floats(rows, n - s, features, my->tiles + s / SIDE * strip * TILE_BYTES);
        if (deep > my->deep) my->deep = deep;
    }
}

/* Z (n, n_out) of the samples that were packed last; `row` is its numbers from row to row. */
CLONES static void N(multiply_samples)(const Steps* it, const N(Room) * room, const N(Desk) * my, T* Z, ptrdiff_t row,
                                       ptrdiff_t n) {
    const ptrdiff_t n_out = it->sizes[1], strip = tiles_for(it->sizes[0], FLOAT_DEPTH);
    const T* b = (const T*)it->params + it->sizes[0] * n_out;
    const Matrix C = {(char*)Z, row * (ptrdiff_t)sizeof(T)};
    multiply_packed(my->tiles, room->W_tiles, strip, my->deep, C, n, WHOLE_VECTORS(n_out));
    for (ptrdiff_t s = 0; s < n; s++, Z += row)
        for (ptrdiff_t j = 0; j < n_out; j++) Z[j] += b[j];
}

/* Pack dZ of the first layer, of the samples of a task. */
static void N(pack_delta)(const Steps* it, const N(Room) * room, ptrdiff_t task, ptrdiff_t batch) {
    const ptrdiff_t n_out = it->sizes[1], strip = tiles_for(it->batch, FLOAT_DEPTH);
    const Matrix dZ = {(char*)(room->dZ[1] + task * FLOAT_DEPTH * ROW(n_out)), ROW(n_out) * (ptrdiff_t)sizeof(T)};
    pack_depth(dZ, batch - task * FLOAT_DEPTH, n_out, it->scale, room->dZ_tiles, task, strip);
}

/* Pack up to FLOAT_DEPTH rows of W, from row `top`. */
static void N(pack_weights)(const Steps* it, const N(Room) * room, ptrdiff_t top) {
    const ptrdiff_t features = it->sizes[0], n_out = it->sizes[1], strip = tiles_for(features, FLOAT_DEPTH);
    const Matrix W = {(char*)((const T*)it->params + top * n_out), n_out * (ptrdiff_t)sizeof(T)};
    if (top < features) pack_depth(W, features - top, n_out, it->scale, room->W_tiles, top / FLOAT_DEPTH, strip);
}

/* As `gradient` in rows.h, but in one sum: for at most SUMMED samples. */
CLONES static ptrdiff_t N(gradient_on_tiles)(const Steps* it, const N(Room) * room, N(Desk) * my, N(Rows) of,
                                             ptrdiff_t batch) {
    const ptrdiff_t features = it->sizes[0], row = WHOLE_VECTORS(of.n), strip = tiles_for(it->batch, FLOAT_DEPTH);
    ptrdiff_t deep = 0, rows = 0;
    for (ptrdiff_t f = 0; f < of.weights; f += SIDE) {
        const Bytes columns = {room->X + of.top + f, 1, features};
        char* to = my->tiles + f / SIDE * strip * TILE_BYTES;
        const ptrdiff_t found = pack_columns_for_floats(columns, of.weights - f, batch, to);
        if (found > deep) deep = found;
    }
    if (deep) {
        const Matrix C = {(char*)my->gradient, row * (ptrdiff_t)sizeof(T)};
        multiply_packed(my->tiles, room->dZ_tiles, strip, deep, C, tiles_for(of.weights, SIDE) * SIDE, row);
        for (; rows < of.weights; rows++) my->rows[rows] = rows;
    }
    if (of.weights == of.count) return rows;
    T* db = my->gradient + rows * row;
    memset(db, 0, (size_t)row * sizeof(T));
    for (ptrdiff_t s = 0; s < batch; s++)
        for (ptrdiff_t j = 0; j < of.n; j++) db[j] += room->dZ[1][s * ROW(of.n) + j];
    my->rows[rows] = of.weights;
    return rows + 1;
}
