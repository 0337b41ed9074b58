/* C = alpha A B (+ C) for bytes A, most of which may be zero, where there is no tile unit. A few samples at a time are
   converted, and features that are zero in all of them are skipped.

   Included once for float and once for double, after panels.h. */

#define AT_ONCE 32 /* samples */

typedef struct {
    T *block, *sums, *edge; /* (samples, features) converted; of C, in whole vectors */
    const T** a;
    T** c;
    ptrdiff_t *a_at, *b_at, *edge_at;
    uint8_t* seen;
} N(Bench);

/* Convert samples; name the features that some of them has. */
CLONES static ptrdiff_t N(convert)(const uint8_t* X, ptrdiff_t row, ptrdiff_t n, ptrdiff_t features, T* block,
                                   uint8_t* seen, ptrdiff_t* place) {
    memset(seen, 0, (size_t)features);
    for (ptrdiff_t s = 0; s < n; s++)
        for (ptrdiff_t j = 0; j < features; j++) {
            block[s * features + j] = (T)X[s * row + j];
            seen[j] |= X[s * row + j];
        }
    ptrdiff_t count = 0;
    for (ptrdiff_t j = 0; j < features; j++) {
        place[count] = j;
        count += seen[j] != 0;
    }
    return count;
}

static void N(hand_over)(const T* sums, T* C, ptrdiff_t n, T alpha, int add) {
    for (ptrdiff_t j = 0; j < n; j++) C[j] = add ? C[j] + alpha * sums[j] : alpha * sums[j];
}

/* A (m, k) is samples (m, features), or if its columns are contiguous the transpose of samples (k, features). False if
   scratch memory cannot be allocated. */
static int N(multiply_pixels)(Bytes A, Matrix B, Matrix C, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, double alpha, int add,
                              int many_registers) {
    const int across = A.column != 1;
    const ptrdiff_t x_row = across ? A.column : A.row, features = across ? m : k, samples = across ? k : m,
                    wide = WHOLE_VECTORS(n);
    const ptrdiff_t rows = across ? features : AT_ONCE, b_row = B.row / (ptrdiff_t)sizeof(T),
                    deep = features > AT_ONCE ? features : AT_ONCE;
    Memory memory = {NULL, 0};
    N(Bench) my;
    for (int twice = 0; twice < 2; twice++) {
        my.block = take_memory(&memory, AT_ONCE * features * sizeof(T));
        my.sums = take_memory(&memory, rows * wide * sizeof(T));
        my.edge = take_memory(&memory, deep * VECTOR * sizeof(T));
        my.a = take_memory(&memory, deep * sizeof(T*));
        my.c = take_memory(&memory, deep * sizeof(T*));
        my.a_at = take_memory(&memory, deep * sizeof(ptrdiff_t));
        my.b_at = take_memory(&memory, deep * sizeof(ptrdiff_t));
        my.edge_at = take_memory(&memory, deep * sizeof(ptrdiff_t));
        my.seen = take_memory(&memory, features);
        if (!twice && !(memory = (Memory){aligned_alloc(64, (size_t)memory.used), 0}).at) return 0;
    }
    if (across) memset(my.sums, 0, (size_t)(features * wide) * sizeof(T));
    for (ptrdiff_t first = 0; first < samples; first += AT_ONCE) {
        const ptrdiff_t some = samples - first < AT_ONCE ? samples - first : AT_ONCE;
        const ptrdiff_t count = N(convert)(A.at + first * x_row, x_row, some, features, my.block, my.seen, my.a_at);
        N(Product) it = {my.a, my.a_at, (const T*)B.at, my.b_at, VECTOR, 0, my.c, 0, 0, across};
        if (across) {
            for (ptrdiff_t f = 0; f < count; f++)
                my.a[f] = my.block + my.a_at[f], my.c[f] = my.sums + my.a_at[f] * wide;
            for (ptrdiff_t s = 0; s < some; s++) my.a_at[s] = s * features, my.b_at[s] = (first + s) * b_row;
            it.depth = some, it.rows = count;
        } else {
            for (ptrdiff_t s = 0; s < some; s++) my.a[s] = my.block + s * features, my.c[s] = my.sums + s * wide;
            for (ptrdiff_t f = 0; f < count; f++) my.b_at[f] = my.a_at[f] * b_row;
            it.depth = count, it.rows = some;
        }
        N(multiply)(it, n, n, many_registers, my.edge, my.edge_at);
        for (ptrdiff_t s = 0; !across && s < some; s++)
            N(hand_over)(my.c[s], (T*)(C.at + (first + s) * C.row), n, (T)alpha, add);
    }
    for (ptrdiff_t f = 0; across && f < features; f++)
        N(hand_over)(my.sums + f * wide, (T*)(C.at + f * C.row), n, (T)alpha, add);
    free(memory.at);
    return 1;
}
