/* C = alpha A B (+ C) for bytes A and float or double B, on the tile unit of Intel's server processors (AMX, since
   2023).

   The unit multiplies short numbers, so each number of B is cut into several pieces: see tiles_float.h and
   tiles_double.h. "Depth" is the inner dimension k of the product.

   A tile register holds 16 rows of 64 bytes. Of A: 16 rows, with 64 bytes along the depth. Of B: 16 columns of 32 bits;
   one register row holds the successive depths that fit into 32 bits. */

#define TILE_BYTES 1024
#define SIDE 16        /* rows of a tile of A, columns of a tile of B */
#define FLOAT_DEPTH 32 /* of a tile of A, in tiles_float.h */
#define FLOAT_PIECES 3 /* of a number of B there */

static ptrdiff_t tiles_for(ptrdiff_t n, ptrdiff_t each) { return (n + each - 1) / each; }

#if defined(__clang__)
#define KNOWS_TILES (__clang_major__ >= 12)
#else
#define KNOWS_TILES (__GNUC__ >= 11)
#endif
#if defined(__GNUC__) && defined(__x86_64__) && defined(__linux__) && KNOWS_TILES
#include <cpuid.h>
#include <immintrin.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STRIP 8    /* A is packed in blocks of this many tiles of rows and */
#define DEEPEST 16 /* this many tiles of depth, which stay in the L2 cache */
#define ON_TILES __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16,amx-int8")))
#define TILE_ALWAYS static inline __attribute__((always_inline)) ON_TILES

static int ask_for_tiles(void) {
    enum { ASK_FOR = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILES = 1 << 24, INT8 = 1 << 25 };
    const unsigned all = BF16 | TILES | INT8;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & all) != all) return 0;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq")) return 0;
    return __builtin_cpu_supports("avx512vl") && syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
}

/* Whether this processor has the tile unit, and the system lets this process use it. */
static int has_tiles(void) {
    static int known = -1;
    if (known < 0) known = ask_for_tiles();
    return known;
}

TILE_ALWAYS __mmask16 first(ptrdiff_t n) { return n <= 0 ? 0 : n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }
TILE_ALWAYS int is_any(__m512i x) { return _mm512_test_epi32_mask(x, x) != 0; }

TILE_ALWAYS void transpose(__m512i* r) { /* 16 x 16 */
    __m512i t[16];
    for (int i = 0; i < 16; i += 2)
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++)
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]),
                      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 16; j += 8)
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88),
                  t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
    for (int i = 0; i < 8; i++)
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88), r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
}

/* 2 x 2 tiles of C, from two strips of A and two of B; at the edges of C fewer. */
typedef struct {
    const char *a, *b;
    ptrdiff_t strip, deep;   /* tiles in a strip of A; how many of them must be read, the rest being zero */
    const double* scales;    /* of the columns */
    Matrix C;                /* overwritten, or */
    int add;                 /* added to if this is true */
    ptrdiff_t rows, columns; /* of C here, up to 32 each */
} Corner;

typedef struct { /* how numbers of a type are cut */
    size_t size; /* bytes of a number */
    int pieces;  /* pieces of a number */
    int depth;   /* numbers of A in a row of a tile */
    /* Pack B (k, n) into tiles: for each strip of 16 columns, for each `depth` rows, one tile per piece. */
    void (*pack_numbers)(Matrix B, ptrdiff_t k, ptrdiff_t n, double alpha, char* tiles, double* scales);
    /* Pack up to 16 rows of A; m may be more. Returns how many tiles must be read, the rest being zero. */
    ptrdiff_t (*pack_rows)(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles);
    ptrdiff_t (*pack_columns)(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles);
    void (*multiply)(const Corner* corner);
} Cut;

#include "tiles_float.h"
#include "tiles_double.h"

typedef struct { /* scratch memory */
    char *a, *b;
    double* scales;
} Tiles;

/* C (m, n) = alpha A (m, k) B (k, n), added to C if `add`, for k up to DEEPEST tiles. */
ON_TILES static void multiply_slice(const Cut* cut, Tiles tiles, Bytes A, Matrix B, Matrix C, ptrdiff_t m, ptrdiff_t n,
                                    ptrdiff_t k, double alpha, int add) {
    ptrdiff_t strip = tiles_for(k, cut->depth), high = tiles_for(m, SIDE), wide = tiles_for(n, SIDE);
    cut->pack_numbers(B, k, n, alpha, tiles.b, tiles.scales);
    for (ptrdiff_t start = 0; start < high; start += STRIP) {
        ptrdiff_t end = start + STRIP < high ? start + STRIP : high, deep[STRIP + 1] = {0};
        for (ptrdiff_t i = start; i < end; i++) {
            Bytes rows = {A.at + i * SIDE * A.row, A.row, A.column};
            char* to = tiles.a + (i - start) * strip * TILE_BYTES;
            deep[i - start] = (A.column == 1 ? cut->pack_rows : cut->pack_columns)(rows, m - i * SIDE, k, to);
        }
        for (ptrdiff_t j = 0; j < wide; j += 2)
            for (ptrdiff_t i = start; i < end; i += 2) {
                ptrdiff_t above = deep[i - start], below = deep[i - start + 1];
                ptrdiff_t rows = (end - i) * SIDE, columns = n - j * SIDE;
                if (rows > m - i * SIDE) rows = m - i * SIDE;
                Corner corner = {tiles.a + (i - start) * strip * TILE_BYTES,
                                 tiles.b + j * strip * cut->pieces * TILE_BYTES,
                                 strip,
                                 above > below ? above : below,
                                 tiles.scales + j * SIDE,
                                 {C.at + i * SIDE * C.row + j * SIDE * (ptrdiff_t)cut->size, C.row},
                                 add,
                                 rows < 2 * SIDE ? rows : 2 * SIDE,
                                 columns < 2 * SIDE ? columns : 2 * SIDE};
                cut->multiply(&corner);
            }
    }
}

/* What a thread calls before it uses tile registers, and afterwards. */
ON_TILES static void open_tiles(void) {
    static const struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } whole = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&whole);
}
ON_TILES static void close_tiles(void) { _tile_release(); }

/* C (m, n) = alpha A (m, k) B (k, n), added to C if `add`. False if memory for the tiles cannot be allocated. */
ON_TILES static int multiply_bytes(int doubles, Bytes A, Matrix B, Matrix C, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                                   double alpha, int add) {
    const Cut* cut = doubles ? &double_cut : &float_cut;
    const ptrdiff_t deepest = DEEPEST * cut->depth, strip = tiles_for(k < deepest ? k : deepest, cut->depth);
    const size_t of_a = (size_t)(STRIP * strip * TILE_BYTES),
                 of_b = (size_t)(tiles_for(n, SIDE) * cut->pieces * strip * TILE_BYTES);
    char* room = aligned_alloc(64, of_a + of_b + (size_t)tiles_for(n, SIDE) * SIDE * sizeof(double));
    if (!room) return 0;
    Tiles tiles = {room, room + of_a, (double*)(room + of_a + of_b)};
    open_tiles();
    for (ptrdiff_t d = 0; d < k; d += deepest, add = 1) {
        Bytes a = {A.at + d * A.column, A.row, A.column};
        Matrix b = {B.at + d * B.row, B.row};
        multiply_slice(cut, tiles, a, b, C, m, n, k - d < deepest ? k - d : deepest, alpha, add);
    }
    close_tiles();
    free(room);
    return 1;
}
#else
static int has_tiles(void) { return 0; }
static void open_tiles(void) {}
static void close_tiles(void) {}
static void pack_depth(Matrix B, ptrdiff_t k, ptrdiff_t n, double alpha, char* tiles, ptrdiff_t at, ptrdiff_t strip) {}
static ptrdiff_t pack_rows_for_floats(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles) { return 0; }
static ptrdiff_t pack_columns_for_floats(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles) { return 0; }
static void multiply_packed(const char* A, const char* B, ptrdiff_t strip, ptrdiff_t deep, Matrix C, ptrdiff_t rows,
                            ptrdiff_t columns) {}
static int multiply_bytes(int doubles, Bytes A, Matrix B, Matrix C, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, double alpha,
                          int add) {
    return 0;
}
#endif
