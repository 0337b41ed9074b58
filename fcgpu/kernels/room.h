/* The scratch memory of epoch.h's steps. Included once for float and once for double, after panels.h. */

/* Numbers in a row, an odd number of vectors: such rows do not compete for the same places of a cache. */
#define ROW(n) (WHOLE_VECTORS(n) + (WHOLE_VECTORS(n) / VECTOR % 2 ? 0 : VECTOR))

typedef struct { /* of one thread */
    ptrdiff_t *a_at, *b_at, *edge_at, *labels, *rows;
    const T** a;
    T** c;
    T *gradient, *sum, *edge, *unit, *logits, *outputs, *targets, *weights;
    T* block; /* two matrices (batch, VECTOR), for by_layer.h */
    uint8_t* correct;
    char* tiles;    /* of A, for pixel_steps.h: a task's samples, or columns of X */
    ptrdiff_t deep; /* how many tiles of these samples' depth must be read, the rest being zero */
} N(Desk);

/* Rows of a layer's matrix, whose gradient is a task: its place in the parameters, and how many rows are weights. */
typedef struct {
    ptrdiff_t layer, top, count, weights, n, at;
} N(Rows);

typedef struct {                                           /* of all threads; layer i is from A[i] to A[i + 1] */
    T *A[MOST_LAYERS], *dZ[MOST_LAYERS], *WT[MOST_LAYERS]; /* WT[i]: Wᵀ of layer i, as `transpose` has it */
    T* dZT[MOST_LAYERS];                                   /* dZᵀ, likewise, for by_layer.h */
    T* panels[MOST_LAYERS];                                /* [W; b] of layer i, as `pack_rows` has it, or NULL */
    uint8_t* seen;                                         /* (tasks, n_features + 1) */
    uint8_t* X;                                            /* (batch, n_features), gathered by pixel_steps.h */
    char *dZ_tiles, *W_tiles;                              /* of B: what it has packed, of the first layer */
    T* losses;                                             /* of each sample */
    double *w_squares, *g_squares;                         /* Σ W² and Σ gradient² of each task */
    T* gradient;                                           /* (n_params), if it is clipped */
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
        if (i < last)
            room->A[i] = take_memory(&memory, i || !it->tiles ? it->batch * ROW(sizes[i] + 1) * sizeof(T) : 0);
        if (i) room->dZ[i] = take_memory(&memory, it->batch * ROW(sizes[i]) * sizeof(T));
        const ptrdiff_t tall = WHOLE_VECTORS(sizes[i]) * (ptrdiff_t)sizeof(T);
        if (i && i < last) room->WT[i] = take_memory(&memory, it->by_layer ? 0 : sizes[i + 1] * tall);
        if (i) room->dZT[i] = take_memory(&memory, it->by_layer ? WHOLE_VECTORS(it->batch) * tall : 0);
        if (i) params += (sizes[i - 1] + 1) * sizes[i];
        if (i < last) {
            const ptrdiff_t packed = it->packed && (i || !it->tiles);
            T* panels = take_memory(&memory, packed * (sizes[i] + 1) * WHOLE_VECTORS(sizes[i + 1]) * sizeof(T));
            room->panels[i] = packed ? panels : NULL;
        }
        room->first_task[i] = rows;
        rows += (sizes[i] + ROWS_AT_ONCE(it, i)) / ROWS_AT_ONCE(it, i); /* of sizes[i] + 1 */
    }
    room->seen = take_memory(&memory, tasks * (sizes[0] + 1));
    const ptrdiff_t on = it->tiles * TILE_BYTES, wide = tiles_for(sizes[1], SIDE) * FLOAT_PIECES;
    const ptrdiff_t strip = tiles_for(sizes[0], FLOAT_DEPTH);
    room->X = take_memory(&memory, it->tiles * it->batch * sizes[0]);
    room->dZ_tiles = take_memory(&memory, on * wide * tasks);
    room->W_tiles = take_memory(&memory, on * wide * strip);
    room->losses = take_memory(&memory, it->batch * sizeof(T));
    room->correct = take_memory(&memory, tasks * sizeof(ptrdiff_t));
    room->w_squares = take_memory(&memory, rows * sizeof(double));
    room->g_squares = take_memory(&memory, rows * sizeof(double));
    room->gradient = take_memory(&memory, it->clip > 0 ? params * sizeof(T) : 0);
    const ptrdiff_t deep = widest > it->batch ? widest : it->batch, k = sizes[last];
    const ptrdiff_t at_once = ROWS_AT_ONCE(it, 0), long_row = WHOLE_VECTORS(it->by_layer ? deep : widest);
    const ptrdiff_t size = at_once * long_row * (ptrdiff_t)sizeof(T);
    const ptrdiff_t samples = it->by_layer ? it->batch : some, rows_at_once = samples > at_once ? samples : at_once;
    for (int i = 0; i < it->threads; i++) {
        N(Desk)* my = &room->desks[i];
        ptrdiff_t** places[] = {&my->a_at, &my->b_at, &my->edge_at, &my->rows};
        for (int j = 0; j < 4; j++) *places[j] = take_memory(&memory, deep * sizeof(ptrdiff_t));
        my->labels = take_memory(&memory, some * sizeof(ptrdiff_t));
        my->a = take_memory(&memory, rows_at_once * sizeof(T*));
        my->c = take_memory(&memory, rows_at_once * sizeof(T*));
        my->gradient = take_memory(&memory, size);
        my->sum = take_memory(&memory, it->batch > SUMMED ? size : 0);
        my->edge = take_memory(&memory, deep * VECTOR * sizeof(T));
        my->block = take_memory(&memory, it->by_layer * 2 * WHOLE_VECTORS(it->batch) * 64);
        my->unit = take_memory(&memory, widest * sizeof(T));
        T** numbers[] = {&my->logits, &my->outputs, &my->targets};
        for (int j = 0; j < 3; j++) *numbers[j] = take_memory(&memory, some * k * sizeof(T));
        my->weights = take_memory(&memory, some * sizeof(T));
        my->correct = take_memory(&memory, some);
        my->tiles = take_memory(&memory, on * 2 * (strip > tasks ? strip : tasks));
    }
    return memory.used;
}

/* The rows of a task, number `task` of those of all layers. */
static N(Rows) N(rows_of)(const Steps* it, const N(Room) * room, ptrdiff_t task) {
    N(Rows) rows = {0};
    ptrdiff_t i = 0;
    for (; room->first_task[i + 1] <= task; i++) rows.at += (it->sizes[i] + 1) * it->sizes[i + 1];
    const ptrdiff_t some = ROWS_AT_ONCE(it, i), top = (task - room->first_task[i]) * some,
                    left = it->sizes[i] + 1 - top;
    rows.layer = i, rows.n = it->sizes[i + 1], rows.top = top;
    rows.count = left < some ? left : some;
    rows.weights = left <= some ? left - 1 : some;
    rows.at += rows.top * rows.n;
    return rows;
}
