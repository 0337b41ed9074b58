/* Matrix products of rows that lie where they are named: c[i] = Σ over k of a[i][a_at[k]] (row of b at b_at[k]). Each
   number is summed in the order of k, whatever the sizes.

   Included once for float and once for double; T is the type of numbers. */

#define VECTOR ((ptrdiff_t)(64 / sizeof(T)))
#define WHOLE_VECTORS(n) (((n) + VECTOR - 1) / VECTOR * VECTOR)
#define DEEP 64        /* rows of b that stay in the L1 cache */
#define SIDE_BY_SIDE 4 /* vectors of each of them, before other rows of c are computed */
/* By the rows of c: from how many bytes on b is read as it lies, and how many of its rows side by side. What the
   product waits for is then b's memory, the sooner the fewer rows share it. On a Zen 4 with 1 MB of L2 cache a core. */
#define FAR(rows) ((rows) <= 2 ? 6 << 20 : 12 << 20)
#define FAR_DEPTH(rows) ((rows) <= 6 ? 16 : DEEP)
/* Vectors of a row of c that are computed before the others if b is packed: they stay in the L2 cache. */
#define ACROSS 32
#if defined(__x86_64__)
#define PART 32
#else
#define PART 16 /* bytes of a register: GCC keeps larger vectors in memory */
#endif

typedef T N(whole) __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
typedef T N(part) __attribute__((vector_size(PART), aligned(sizeof(T)), may_alias));

typedef struct {
    const T* const* a;     /* rows */
    const ptrdiff_t* a_at; /* (depth) */
    const T* b;
    const ptrdiff_t* b_at; /* (depth) */
    ptrdiff_t apart;       /* from one vector of a row of b to the next: VECTOR, if rows are contiguous */
    ptrdiff_t depth;
    T* const* c;       /* rows */
    ptrdiff_t rows, j; /* rows of c; the column that `tile` begins with */
    int add;           /* whether the product is added to c */
    int far;           /* whether to fetch what of b comes next, while a few rows are computed */
} N(Product);

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 6")
#endif

/* The code uses vector types already, and -O3 takes three times as long to compile. Loads that are scheduled early, as
   -O2 does for ARM, take registers from the sums. */
#pragma GCC push_options
#pragma GCC optimize("O2", "no-schedule-insns")

/* A few rows of c, `most` vectors of a type in each; k runs from `from` to `to`. */
#define TILE(name, vector, most)                                                                                       \
    static ALWAYS void N(name)(const N(Product) * it, ptrdiff_t j, ptrdiff_t first, ptrdiff_t from, ptrdiff_t to,      \
                               const int rows, const int far) {                                                        \
        const ptrdiff_t each = sizeof(vector) / sizeof(T);                                                             \
        vector sum[6][most] = {0};                                                                                     \
        const T *const *a = it->a + first, *b = it->b + j / VECTOR * it->apart;                                        \
        T* const* c = it->c + first;                                                                                   \
        if (from || it->add) {                                                                                         \
            UNROLL for (int i = 0; i < rows; i++) UNROLL for (int v = 0; v < most; v++) sum[i][v] =                    \
                *(const vector*)(c[i] + j + v * each);                                                                 \
        }                                                                                                              \
        for (ptrdiff_t k = from; k < to; k++) {                                                                        \
            vector its[most];                                                                                          \
            const ptrdiff_t at = it->a_at[k];                                                                          \
            const T* row = b + it->b_at[k];                                                                            \
            UNROLL for (int v = 0; v < most; v++) its[v] =                                                             \
                *(const vector*)(row + v * each / VECTOR * it->apart + v * each % VECTOR);                             \
            if (far && !first)                                                                                         \
                UNROLL for (int v = 0; v < most * each / VECTOR; v++) PREFETCH(row + (SIDE_BY_SIDE + v) * it->apart);  \
            UNROLL for (int i = 0; i < rows; i++) UNROLL for (int v = 0; v < most; v++) sum[i][v] +=                   \
                a[i][at] * its[v];                                                                                     \
        }                                                                                                              \
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int v = 0; v < most; v++) * (vector*)(c[i] + j + v * each) = \
            sum[i][v];                                                                                                 \
    }                                                                                                                  \
                                                                                                                       \
    /* All rows of c, a few at a time, for columns `begin` to `stop`. */                                               \
    static ALWAYS void N(name##s)(const N(Product) * it, ptrdiff_t begin, ptrdiff_t stop, ptrdiff_t from,              \
                                  const ptrdiff_t end, const int far) {                                                \
        const ptrdiff_t each = most * (ptrdiff_t)sizeof(vector) / (ptrdiff_t)sizeof(T);                                \
        do {                                                                                                           \
            const ptrdiff_t to = end - from < DEEP ? end : from + DEEP;                                                \
            for (ptrdiff_t i = 0, left; (left = it->rows - i) > 0;) {                                                  \
                const int some = left >= 12 || left == 6 ? 6 : left > 6 ? (int)(left + 1) / 2 : (int)left;             \
                for (ptrdiff_t j = begin; j < stop; j += each) switch (some) {                                         \
                        case 6: N(name)(it, j, i, from, to, 6, far); break;                                            \
                        case 5: N(name)(it, j, i, from, to, 5, far); break;                                            \
                        case 4: N(name)(it, j, i, from, to, 4, far); break;                                            \
                        case 3: N(name)(it, j, i, from, to, 3, far); break;                                            \
                        case 2: N(name)(it, j, i, from, to, 2, far); break;                                            \
                        default: N(name)(it, j, i, from, to, 1, far);                                                  \
                    }                                                                                                  \
                i += some;                                                                                             \
            }                                                                                                          \
            from = to;                                                                                                 \
        } while (from < end);                                                                                          \
    }
TILE(narrow_tile, N(part), 64 / PART)
CLONES static void N(narrow)(const N(Product) * it, ptrdiff_t stop, ptrdiff_t from, ptrdiff_t to) {
    if (it->far) N(narrow_tiles)(it, it->j, stop, from, to, 1);
    else N(narrow_tiles)(it, it->j, stop, from, to, 0);
}

#ifdef MANY_REGISTERS
TILE(wide_tile, N(whole), SIDE_BY_SIDE)
MANY_REGISTERS static void N(wide)(const N(Product) * it, ptrdiff_t from, ptrdiff_t to) {
    const ptrdiff_t j = it->j, stop = j + SIDE_BY_SIDE * VECTOR; /* one tile across */
    if (it->far) N(wide_tiles)(it, j, stop, from, to, 1);
    else N(wide_tiles)(it, j, stop, from, to, 0);
}
#endif
#undef TILE

/* The product, for columns it.j to `end` of b, which has n. `edge` is scratch memory for `depth` vectors and their
   places; it is not used for whole vectors. Rows of c must have room for whole vectors, and so have those of b if its
   vectors are apart. That does not change which columns are by `wide`: of two kinds of code that a compiler makes, one
   may fuse multiplications and additions. */
static void N(multiply)(N(Product) it, ptrdiff_t end, ptrdiff_t n, int many_registers, T* edge, ptrdiff_t* edge_at) {
    it.far = it.depth * n * (ptrdiff_t)sizeof(T) > FAR(it.rows);
    const ptrdiff_t step = it.far ? FAR_DEPTH(it.rows) : it.depth, full = it.j + (end - it.j) / VECTOR * VECTOR;
    const int packed = it.apart > VECTOR;
    const ptrdiff_t whole = packed ? WHOLE_VECTORS(end) : full, block = packed ? ACROSS * VECTOR : whole;
    for (ptrdiff_t begin = it.j, stop; begin < whole; begin = stop) {
        ptrdiff_t from = 0, to;
        stop = whole - begin < block ? whole : begin + block;
        do { /* once also without depth, where c is 0 */
            to = it.depth - from < step ? it.depth : from + step;
            it.j = begin;
#ifdef MANY_REGISTERS
            const ptrdiff_t most = (stop < full ? stop : full) - SIDE_BY_SIDE * VECTOR;
            for (; many_registers && it.j <= most; it.j += SIDE_BY_SIDE * VECTOR) N(wide)(&it, from, to);
#endif
            for (ptrdiff_t next; it.j < stop; it.j = next) {
                next = stop - it.j < SIDE_BY_SIDE * VECTOR ? stop : it.j + SIDE_BY_SIDE * VECTOR;
                N(narrow)(&it, next, from, to);
            }
            from = to;
        } while (from < it.depth);
    }
    it.j = whole;
    if (it.j >= end) return;
    for (ptrdiff_t k = 0; k < it.depth; k++) { /* copy what is left, padded to a vector */
        memset(edge + k * VECTOR, 0, 64);
        memcpy(edge + k * VECTOR, it.b + it.b_at[k] + it.j, (size_t)(end - it.j) * sizeof(T));
        edge_at[k] = k * VECTOR - it.j;
    }
    it.b = edge, it.b_at = edge_at;
    N(narrow)(&it, it.j + VECTOR, 0, it.depth);
}

#pragma GCC pop_options
