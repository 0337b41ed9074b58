/* Products of bytes and floats on the tile unit of Intel's server processors (AMX, since 2023): C = alpha A B + C.

   The unit multiplies bfloat16, of 8 bits, and adds up in float. A byte is one such number exactly, and a float of 24
   bits is the sum of three (Henry, Tang and Heinecke 2019, arXiv:1904.06376). So three passes give each product
   exactly, and the sums of float32, several times as fast as the processor multiplies floats.

   A tile register holds 16 rows of 64 bytes: 16 vectors of A, 32 deep; or of B, 16 pairs of depths and 16 columns. */

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

#define SIDE 16              /* rows of a tile of A, columns of one of B */
#define DEPTH 32             /* of both */
#define TILE (SIDE * DEPTH)  /* words */
#define PIECES 3             /* of a float */
#define STRIP 8              /* tiles of A's rows that are packed together, and */
#define DEEPEST (16 * DEPTH) /* how deep: they stay in the second cache */
#define ON_TILES __attribute__((target("avx512f,avx512bw,avx512vl,amx-tile,amx-bf16")))
#define TILE_ALWAYS static inline __attribute__((always_inline)) ON_TILES

/* Does this processor have it, and does the system let this process use it? */
static int has_tiles(void) {
    enum { ASK_FOR = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILES = 1 << 24 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (BF16 | TILES)) != (BF16 | TILES)) return 0;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return 0;
    return syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
}

TILE_ALWAYS __m512i high_half(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)); }

/* The high halves of two vectors of floats, each beside the other's. */
TILE_ALWAYS __m512i pairs(__m512i even, __m512i odd) {
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), high_half(odd));
}

/* p[0] + p[1] + p[2] = x, each with no more than the high half of a float: cut off, not rounded, so nothing is lost. */
TILE_ALWAYS void cut(__m512 x, __m512i* p) {
    for (int i = 0; i < PIECES; i++) {
        p[i] = i < PIECES - 1 ? high_half(_mm512_castps_si512(x)) : _mm512_castps_si512(x);
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(p[i]));
    }
}

TILE_ALWAYS __mmask16 first(ptrdiff_t n) { return n <= 0 ? 0 : n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }

TILE_ALWAYS __m512i bytes(const uint8_t* x, __mmask16 mask) { /* as floats */
    return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, x))));
}

/* B (k, n) times alpha as tiles: strips of 16 columns, in each for every 32 of k the three pieces. */
ON_TILES static void pack_floats(const char* B, ptrdiff_t row, ptrdiff_t k, ptrdiff_t n, float alpha, uint16_t* tiles) {
    ptrdiff_t deep = (k + DEPTH - 1) / DEPTH;
    for (ptrdiff_t pair = 0; pair < deep * SIDE; pair++) {
        const char* b = B + 2 * pair * row;
        for (ptrdiff_t j = 0; j * SIDE < n; j++, b += SIDE * sizeof(float)) {
            uint16_t* to = tiles + (j * deep + pair / SIDE) * PIECES * TILE + pair % SIDE * DEPTH;
            __mmask16 columns = first(n - j * SIDE);
            __m512i even[PIECES], odd[PIECES];
            cut(_mm512_mul_ps(_mm512_maskz_loadu_ps(2 * pair < k ? columns : 0, b), _mm512_set1_ps(alpha)), even);
            cut(_mm512_mul_ps(_mm512_maskz_loadu_ps(2 * pair + 1 < k ? columns : 0, b + row), _mm512_set1_ps(alpha)),
                odd);
            for (int i = 0; i < PIECES; i++) _mm512_store_si512(to + i * TILE, pairs(even[i], odd[i]));
        }
    }
}

TILE_ALWAYS int is_any(__m512i x) { return _mm512_test_epi32_mask(x, x) != 0; }

/* 16 rows of A (fewer: m), whose numbers lie side by side. Returns how many tiles there are before the rest is zero. */
ON_TILES static ptrdiff_t pack_rows(const uint8_t* A, ptrdiff_t row, ptrdiff_t m, ptrdiff_t k, uint16_t* tiles) {
    const __m512i odd_words = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
                                               27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    ptrdiff_t deep = 0;
    for (ptrdiff_t d = 0; d < k; d += DEPTH, tiles += TILE) {
        __m512i seen = _mm512_setzero_si512();
        for (ptrdiff_t i = 0; i < SIDE; i++) {
            __mmask16 low = i < m ? first(k - d) : 0, high = i < m ? first(k - d - 16) : 0;
            const uint8_t* a = A + i * row + d;
            __m512i words = _mm512_permutex2var_epi16(bytes(a, low), odd_words, bytes(a + 16, high));
            _mm512_store_si512(tiles + i * DEPTH, words);
            seen = _mm512_or_si512(seen, words);
        }
        if (is_any(seen)) deep = d / DEPTH + 1;
    }
    return deep;
}

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

/* The same of a transpose: the numbers of a column lie side by side. */
ON_TILES static ptrdiff_t pack_columns(const uint8_t* A, ptrdiff_t column, ptrdiff_t m, ptrdiff_t k, uint16_t* tiles) {
    __mmask16 rows = first(m);
    ptrdiff_t deep = 0;
    for (ptrdiff_t d = 0; d < k; d += DEPTH, tiles += TILE) {
        __m512i t[SIDE], seen = _mm512_setzero_si512();
        for (ptrdiff_t i = 0; i < SIDE; i++) {
            ptrdiff_t at = d + 2 * i;
            const uint8_t* a = A + at * column;
            t[i] = pairs(bytes(a, at < k ? rows : 0), bytes(a + column, at + 1 < k ? rows : 0));
            seen = _mm512_or_si512(seen, t[i]);
        }
        if (is_any(seen)) deep = d / DEPTH + 1;
        transpose(t);
        for (ptrdiff_t i = 0; i < SIDE; i++) _mm512_store_si512(tiles + i * DEPTH, t[i]);
    }
    return deep;
}

/* 2 x 2 tiles of C, fewer at the ends, from as many strips of A and B; added to what is there, or not. A strip of A is
   `strip` tiles, of which those behind `deep` are zero. */
TILE_ALWAYS void corner(const uint16_t* a, const uint16_t* b, ptrdiff_t strip, ptrdiff_t deep, char* C, ptrdiff_t row,
                        int add, const int down, const int right) {
    char* below = C + SIDE * row;
    const uint16_t *a_below = a + strip * TILE, *b_right = b + strip * PIECES * TILE;
    if (add) {
        _tile_loadd(0, C, row);
        if (right) _tile_loadd(1, C + 64, row);
        if (down) _tile_loadd(2, below, row);
        if (down && right) _tile_loadd(3, below + 64, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (ptrdiff_t d = 0; d < deep; d++, a += TILE, a_below += TILE) {
        _tile_loadd(4, a, 64);
        if (down) _tile_loadd(5, a_below, 64);
#pragma GCC unroll 3
        for (int i = 0; i < PIECES; i++, b += TILE, b_right += TILE) {
            _tile_loadd(6, b, 64);
            if (right) _tile_loadd(7, b_right, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (down) _tile_dpbf16ps(2, 5, 6);
            if (right) _tile_dpbf16ps(1, 4, 7);
            if (down && right) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, C, row);
    if (right) _tile_stored(1, C + 64, row);
    if (down) _tile_stored(2, below, row);
    if (down && right) _tile_stored(3, below + 64, row);
}

ON_TILES static void one_corner(const uint16_t* a, const uint16_t* b, ptrdiff_t strip, ptrdiff_t deep, char* C,
                                ptrdiff_t row, int add, int down, int right) {
    if (down && right) corner(a, b, strip, deep, C, row, add, 1, 1);
    else if (down) corner(a, b, strip, deep, C, row, add, 1, 0);
    else if (right) corner(a, b, strip, deep, C, row, add, 0, 1);
    else corner(a, b, strip, deep, C, row, add, 0, 0);
}

static void copy(char* to, ptrdiff_t to_row, const char* from, ptrdiff_t from_row, ptrdiff_t rows, size_t bytes) {
    for (ptrdiff_t i = 0; i < rows; i++) memcpy(to + i * to_row, from + i * from_row, bytes);
}

/* C (m, n) = alpha A (m, k) B (k, n), or added to it, for k up to DEEPEST: tiles_b has room for those of B, and of
 * STRIP rows of A. */
ON_TILES static void multiply_slice(uint16_t* tiles_b, const uint8_t* A, ptrdiff_t a_row, ptrdiff_t a_column,
                                    const char* B, ptrdiff_t b_row, char* C, ptrdiff_t c_row, ptrdiff_t m, ptrdiff_t n,
                                    ptrdiff_t k, float alpha, int add) {
    ptrdiff_t deep = (k + DEPTH - 1) / DEPTH, wide = (n + SIDE - 1) / SIDE, high = (m + SIDE - 1) / SIDE;
    uint16_t* tiles_a = tiles_b + wide * PIECES * deep * TILE;
    char edge[4 * SIDE * SIDE * sizeof(float)] __attribute__((aligned(64)));
    const ptrdiff_t edge_row = 2 * SIDE * sizeof(float);
    pack_floats(B, b_row, k, n, alpha, tiles_b);
    for (ptrdiff_t strip = 0; strip < high; strip += STRIP) {
        ptrdiff_t end = strip + STRIP < high ? strip + STRIP : high, depths[STRIP + 1] = {0};
        for (ptrdiff_t i = strip; i < end; i++) {
            uint16_t* to = tiles_a + (i - strip) * deep * TILE;
            depths[i - strip] = a_column == 1 ? pack_rows(A + i * SIDE * a_row, a_row, m - i * SIDE, k, to)
                                              : pack_columns(A + i * SIDE, a_column, m - i * SIDE, k, to);
        }
        for (ptrdiff_t j = 0; j < wide; j += 2)
            for (ptrdiff_t i = strip; i < end; i += 2) {
                const uint16_t *a = tiles_a + (i - strip) * deep * TILE, *b = tiles_b + j * PIECES * deep * TILE;
                int down = i + 1 < end, right = j + 1 < wide;
                ptrdiff_t above = depths[i - strip], below = depths[i - strip + 1],
                          depth = above > below ? above : below;
                char* to = C + i * SIDE * c_row + j * SIDE * (ptrdiff_t)sizeof(float);
                ptrdiff_t rows = m - i * SIDE, columns = n - j * SIDE;
                if (rows >= SIDE * (1 + down) && columns >= SIDE * (1 + right)) {
                    one_corner(a, b, deep, depth, to, c_row, add, down, right);
                    continue;
                }
                rows = rows < 2 * SIDE ? rows : 2 * SIDE;
                size_t width = (size_t)(columns < 2 * SIDE ? columns : 2 * SIDE) * sizeof(float);
                if (add) copy(edge, edge_row, to, c_row, rows, width);
                one_corner(a, b, deep, depth, edge, edge_row, add, down, right);
                copy(to, c_row, edge, edge_row, rows, width);
            }
    }
}

/* C (m, n) = alpha A (m, k) B (k, n), or added to it. Rows are so many bytes apart, and A's columns: one or the other
   of A's lies in one piece. False where there is no memory for the tiles. */
ON_TILES static int multiply_bytes(const uint8_t* A, ptrdiff_t a_row, ptrdiff_t a_column, const char* B,
                                   ptrdiff_t b_row, char* C, ptrdiff_t c_row, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                                   float alpha, int add) {
    static const struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } whole = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    ptrdiff_t wide = (n + SIDE - 1) / SIDE, deep = (k < DEEPEST ? k + DEPTH - 1 : DEEPEST) / DEPTH;
    uint16_t* tiles = aligned_alloc(64, (size_t)(wide * PIECES + STRIP) * (size_t)deep * TILE * sizeof(uint16_t));
    if (!tiles) return 0;
    _tile_loadconfig(&whole);
    for (ptrdiff_t d = 0; d < k; d += DEEPEST, add = 1)
        multiply_slice(tiles, A + d * a_column, a_row, a_column, B + d * b_row, b_row, C, c_row, m, n,
                       k - d < DEEPEST ? k - d : DEEPEST, alpha, add);
    _tile_release();
    free(tiles);
    return 1;
}
#else
static int has_tiles(void) { return 0; }
static int multiply_bytes(const uint8_t* A, ptrdiff_t a_row, ptrdiff_t a_column, const char* B, ptrdiff_t b_row,
                          char* C, ptrdiff_t c_row, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, float alpha, int add) {
    return 0;
}
#endif
