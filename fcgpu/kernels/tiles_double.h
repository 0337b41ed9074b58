/* Doubles for tiles.h. The unit multiplies bytes and sums in 32-bit integers, without rounding. So each column of B is
   written as integers of 7 bytes times a power of two. The power is chosen such that the column's largest number keeps
   all its bits; the others are rounded to multiples of 1/4 of its last place (Ootomo, Ozaki and Yokota 2024,
   arXiv:2306.11975). The products with bytes are summed exactly, byte by byte, and rounded once. */

#define DOUBLE_DEPTH 64
#define DOUBLE_PIECES 7
#define WHOLE 55          /* bits of the integers, without their sign */
#define LEAST_POWER -1014 /* least exponent of the power of two that integers are multiplied by */

/* powers (n): column j of B is integers times 2 to the powers[j], which is NaN or infinite if a number in it is. */
ON_TILES static void powers_of(Matrix B, ptrdiff_t k, ptrdiff_t n, double* powers) {
    for (ptrdiff_t j = 0; j < tiles_for(n, SIDE) * SIDE; j += 8) {
        __m512d greatest = _mm512_setzero_pd();
        for (ptrdiff_t d = 0; d < k; d++) { /* max_pd returns its second operand if either is NaN */
            const char* b = B.at + d * B.row + j * (ptrdiff_t)sizeof(double);
            __m512d x = _mm512_abs_pd(_mm512_maskz_loadu_pd((__mmask8)first(n - j), b));
            greatest = _mm512_mask_mov_pd(_mm512_max_pd(x, greatest), _mm512_cmp_pd_mask(x, x, _CMP_UNORD_Q), x);
        }
        __m512d power = _mm512_sub_pd(_mm512_getexp_pd(greatest), _mm512_set1_pd(WHOLE - 1));
        _mm512_store_pd(powers + j, _mm512_max_pd(_mm512_set1_pd(LEAST_POWER), power));
    }
}

TILE_ALWAYS __m512i whole_numbers(const char* b, __mmask8 columns, __m512d power) {
    __m512d x = _mm512_scalef_pd(_mm512_maskz_loadu_pd(columns, b), _mm512_sub_pd(_mm512_setzero_pd(), power));
    return _mm512_cvtpd_epi64(x);
}

/* From the integers of 4 rows and 8 columns: pair[i] holds byte 2i of each, and in its upper half byte 2i + 1. The
   bytes of the 4 rows lie side by side. */
TILE_ALWAYS void digits(const __m512i* rows, __m512i* pair) {
    const __m512i first_two = _mm512_set_epi32(29, 13, 25, 9, 21, 5, 17, 1, 28, 12, 24, 8, 20, 4, 16, 0);
    const __m512i next_two = _mm512_add_epi32(first_two, _mm512_set1_epi32(2));
    __m512i even = _mm512_unpacklo_epi8(rows[0], rows[1]), even_below = _mm512_unpacklo_epi8(rows[2], rows[3]);
    __m512i odd = _mm512_unpackhi_epi8(rows[0], rows[1]), odd_below = _mm512_unpackhi_epi8(rows[2], rows[3]);
    __m512i low_even = _mm512_unpacklo_epi16(even, even_below), low_odd = _mm512_unpacklo_epi16(odd, odd_below);
    __m512i high_even = _mm512_unpackhi_epi16(even, even_below), high_odd = _mm512_unpackhi_epi16(odd, odd_below);
    pair[0] = _mm512_permutex2var_epi32(low_even, first_two, low_odd);
    pair[1] = _mm512_permutex2var_epi32(low_even, next_two, low_odd);
    pair[2] = _mm512_permutex2var_epi32(high_even, first_two, high_odd);
    pair[3] = _mm512_permutex2var_epi32(high_even, next_two, high_odd);
}

ON_TILES static void pack_doubles(Matrix B, ptrdiff_t k, ptrdiff_t n, double alpha, char* tiles, double* scales) {
    const ptrdiff_t strip = tiles_for(k, DOUBLE_DEPTH) * DOUBLE_PIECES * TILE_BYTES;
    powers_of(B, k, n, scales);
    for (ptrdiff_t d = 0; d < tiles_for(k, DOUBLE_DEPTH) * DOUBLE_DEPTH; d += 4) {
        const char* b = B.at + d * B.row;
        char* to = tiles + d / DOUBLE_DEPTH * DOUBLE_PIECES * TILE_BYTES + d % DOUBLE_DEPTH / 4 * 64;
        for (ptrdiff_t j = 0; j < n; j += SIDE, b += SIDE * sizeof(double), to += strip) {
            __m512i rows[4], left[4], right[4];
            for (int side = 0; side < 2; side++) {
                const __m512d power = _mm512_load_pd(scales + j + 8 * side);
                for (int i = 0; i < 4; i++) {
                    __mmask8 columns = d + i < k ? (__mmask8)first(n - j - 8 * side) : 0;
                    rows[i] = whole_numbers(b + i * B.row + 64 * side, columns, power);
                }
                digits(rows, side ? right : left);
            }
            for (int i = 0; i < DOUBLE_PIECES; i++) /* 0x44: lower halves of a pair, 0xee: upper ones */
                _mm512_store_si512(to + i * TILE_BYTES, i % 2 ? _mm512_shuffle_i64x2(left[i / 2], right[i / 2], 0xee)
                                                              : _mm512_shuffle_i64x2(left[i / 2], right[i / 2], 0x44));
        }
    }
    for (ptrdiff_t j = 0; j < tiles_for(n, SIDE) * SIDE; j += 8)
        _mm512_store_pd(scales + j, _mm512_scalef_pd(_mm512_set1_pd(alpha), _mm512_load_pd(scales + j)));
}

ON_TILES static ptrdiff_t pack_rows_for_doubles(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles) {
    ptrdiff_t deep = 0;
    for (ptrdiff_t d = 0; d < k; d += DOUBLE_DEPTH, tiles += TILE_BYTES) {
        const __mmask64 there = k - d < DOUBLE_DEPTH ? (1ull << (k - d)) - 1 : ~0ull;
        __m512i seen = _mm512_setzero_si512();
        for (ptrdiff_t i = 0; i < SIDE; i++) {
            __m512i row = _mm512_maskz_loadu_epi8(i < m ? there : 0, A.at + i * A.row + d);
            _mm512_store_si512(tiles + i * 64, row);
            seen = _mm512_or_si512(seen, row);
        }
        if (is_any(seen)) deep = d / DOUBLE_DEPTH + 1;
    }
    return deep;
}

ON_TILES static ptrdiff_t pack_columns_for_doubles(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles) {
    ptrdiff_t deep = 0;
    for (ptrdiff_t d = 0; d < k; d += DOUBLE_DEPTH, tiles += TILE_BYTES) {
        __m512i t[SIDE], seen = _mm512_setzero_si512();
        for (ptrdiff_t i = 0; i < SIDE; i++) {
            t[i] = _mm512_setzero_si512();
            for (int j = 3; j >= 0; j--) {
                ptrdiff_t at = d + 4 * i + j;
                __m128i row = _mm_maskz_loadu_epi8(at < k ? first(m) : 0, A.at + at * A.column);
                t[i] = _mm512_or_si512(_mm512_slli_epi32(t[i], 8), _mm512_cvtepu8_epi32(row));
            }
            seen = _mm512_or_si512(seen, t[i]);
        }
        if (is_any(seen)) deep = d / DOUBLE_DEPTH + 1;
        transpose(t);
        for (ptrdiff_t i = 0; i < SIDE; i++) _mm512_store_si512(tiles + i * 64, t[i]);
    }
    return deep;
}

typedef int32_t Sums[DOUBLE_PIECES][2 * SIDE][2 * SIDE];

/* The sums of products with one byte of the integers; the last byte is signed. */
TILE_ALWAYS void sum_bytes(const Corner* it, int piece, Sums sums, const int is_last, const int down, const int right) {
    const char *a = it->a, *a_below = a + it->strip * TILE_BYTES;
    const char *b = it->b + piece * TILE_BYTES, *b_right = b + it->strip * DOUBLE_PIECES * TILE_BYTES;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (ptrdiff_t d = 0; d < it->deep; d++, a += TILE_BYTES, a_below += TILE_BYTES) {
        _tile_loadd(4, a, 64);
        if (down) _tile_loadd(5, a_below, 64);
        _tile_loadd(6, b, 64);
        if (right) _tile_loadd(7, b_right, 64);
        if (is_last) {
            _tile_dpbusd(0, 4, 6);
            if (down) _tile_dpbusd(2, 5, 6);
            if (right) _tile_dpbusd(1, 4, 7);
            if (down && right) _tile_dpbusd(3, 5, 7);
        } else {
            _tile_dpbuud(0, 4, 6);
            if (down) _tile_dpbuud(2, 5, 6);
            if (right) _tile_dpbuud(1, 4, 7);
            if (down && right) _tile_dpbuud(3, 5, 7);
        }
        b += DOUBLE_PIECES * TILE_BYTES, b_right += DOUBLE_PIECES * TILE_BYTES;
    }
    const int row = sizeof sums[0][0];
    _tile_stored(0, sums[piece][0], row);
    if (right) _tile_stored(1, sums[piece][0] + SIDE, row);
    if (down) _tile_stored(2, sums[piece][SIDE], row);
    if (down && right) _tile_stored(3, sums[piece][SIDE] + SIDE, row);
}

TILE_ALWAYS void sum_all(const Corner* it, Sums sums, const int down, const int right) {
    for (int i = 0; i < DOUBLE_PIECES - 1; i++) sum_bytes(it, i, sums, 0, down, right);
    sum_bytes(it, DOUBLE_PIECES - 1, sums, 1, down, right);
}

TILE_ALWAYS __m512d times_256_and(__m512d high, const int32_t* low) {
    return _mm512_fmadd_pd(high, _mm512_set1_pd(256), _mm512_cvtepi32_pd(_mm256_load_si256((const __m256i*)low)));
}

/* `low` and `high` are integers below 2⁵³, hence exact: only the sum of both is rounded. */
ON_TILES static void multiply_doubles(const Corner* it) {
    Sums sums __attribute__((aligned(64)));
    const int down = it->rows > SIDE, right = it->columns > SIDE;
    if (down && right) sum_all(it, sums, 1, 1);
    else if (down) sum_all(it, sums, 1, 0);
    else if (right) sum_all(it, sums, 0, 1);
    else sum_all(it, sums, 0, 0);
    for (ptrdiff_t i = 0; i < it->rows; i++)
        for (ptrdiff_t j = 0; j < it->columns; j += 8) {
            const __mmask8 there = (__mmask8)first(it->columns - j);
            char* C = it->C.at + i * it->C.row + j * (ptrdiff_t)sizeof(double);
            __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
            for (int p = 3; p >= 0; p--) low = times_256_and(low, &sums[p][i][j]);
            for (int p = DOUBLE_PIECES - 1; p >= 4; p--) high = times_256_and(high, &sums[p][i][j]);
            __m512d sum = _mm512_fmadd_pd(high, _mm512_set1_pd(4294967296.0), low);
            sum = _mm512_mul_pd(sum, _mm512_load_pd(it->scales + j));
            if (it->add) sum = _mm512_add_pd(sum, _mm512_maskz_loadu_pd(there, C));
            _mm512_mask_storeu_pd(C, there, sum);
        }
}

static const Cut double_cut = {
    .size = sizeof(double),
    .pieces = DOUBLE_PIECES,
    .depth = DOUBLE_DEPTH,
    .pack_numbers = pack_doubles,
    .pack_rows = pack_rows_for_doubles,
    .pack_columns = pack_columns_for_doubles,
    .multiply = multiply_doubles,
};
