/* Floats for tiles.h. The unit multiplies bfloat16, with 8 significant bits, and sums in float. A byte is exactly one
   bfloat16, and a float with its 24 bits is exactly the sum of three (Henry, Tang and Heinecke 2019, arXiv:1904.06376).
   So three passes give each product exactly, summed in float32, several times as fast as float multiplications. */

TILE_ALWAYS __m512i high_half(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)); }

/* The high halves of two vectors of floats, interleaved. */
TILE_ALWAYS __m512i pairs(__m512i even, __m512i odd) {
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), high_half(odd));
}

/* p[0] + p[1] + p[2] = x, where each uses only the high half of a float: truncated, not rounded, so this is exact. */
TILE_ALWAYS void cut_float(__m512 x, __m512i* p) {
    for (int i = 0; i < FLOAT_PIECES; i++) {
        p[i] = i < FLOAT_PIECES - 1 ? high_half(_mm512_castps_si512(x)) : _mm512_castps_si512(x);
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(p[i]));
    }
}

TILE_ALWAYS __m512i as_floats(const uint8_t* x, __mmask16 mask) {
    return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, x))));
}

/* Pack up to FLOAT_DEPTH rows of alpha B (k, n), and zeros below them; k may be more. They become tile `at` of the
   `strip` tiles of depth that each strip of 16 columns has. */
ON_TILES static void pack_depth(Matrix B, ptrdiff_t k, ptrdiff_t n, double alpha, char* tiles, ptrdiff_t at,
                                ptrdiff_t strip) {
    const __m512 scale = _mm512_set1_ps((float)alpha);
    for (ptrdiff_t d = 0; d < FLOAT_DEPTH; d += 2) {
        const char* b = B.at + d * B.row;
        char* to = tiles + at * FLOAT_PIECES * TILE_BYTES + d / 2 * 64;
        for (ptrdiff_t j = 0; j < n; j += SIDE, b += SIDE * sizeof(float), to += strip * FLOAT_PIECES * TILE_BYTES) {
            __m512i even[FLOAT_PIECES], odd[FLOAT_PIECES];
            cut_float(_mm512_mul_ps(_mm512_maskz_loadu_ps(d < k ? first(n - j) : 0, b), scale), even);
            cut_float(_mm512_mul_ps(_mm512_maskz_loadu_ps(d + 1 < k ? first(n - j) : 0, b + B.row), scale), odd);
            for (int i = 0; i < FLOAT_PIECES; i++) _mm512_store_si512(to + i * TILE_BYTES, pairs(even[i], odd[i]));
        }
    }
}

ON_TILES static void pack_floats(Matrix B, ptrdiff_t k, ptrdiff_t n, double alpha, char* tiles, double* scales) {
    const ptrdiff_t strip = tiles_for(k, FLOAT_DEPTH);
    (void)scales; /* not used: the packed numbers are multiplied by alpha */
    for (ptrdiff_t i = 0, d = 0; i < strip; i++, d += FLOAT_DEPTH)
        pack_depth((Matrix){B.at + d * B.row, B.row}, k - d, n, alpha, tiles, i, strip);
}

ON_TILES static ptrdiff_t pack_rows_for_floats(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles) {
    const __m512i odd_words = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29,
                                               27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    ptrdiff_t deep = 0;
    for (ptrdiff_t d = 0; d < k; d += FLOAT_DEPTH, tiles += TILE_BYTES) {
        __m512i seen = _mm512_setzero_si512();
        for (ptrdiff_t i = 0; i < SIDE; i++) {
            __mmask16 low = i < m ? first(k - d) : 0, high = i < m ? first(k - d - 16) : 0;
            const uint8_t* a = A.at + i * A.row + d;
            __m512i words = _mm512_permutex2var_epi16(as_floats(a, low), odd_words, as_floats(a + 16, high));
            _mm512_store_si512(tiles + i * 64, words);
            seen = _mm512_or_si512(seen, words);
        }
        if (is_any(seen)) deep = d / FLOAT_DEPTH + 1;
    }
    return deep;
}

ON_TILES static ptrdiff_t pack_columns_for_floats(Bytes A, ptrdiff_t m, ptrdiff_t k, char* tiles) {
    __mmask16 rows = first(m);
    ptrdiff_t deep = 0;
    for (ptrdiff_t d = 0; d < k; d += FLOAT_DEPTH, tiles += TILE_BYTES) {
        __m512i t[SIDE], seen = _mm512_setzero_si512();
        for (ptrdiff_t i = 0; i < SIDE; i++) {
            ptrdiff_t at = d + 2 * i;
            const uint8_t* a = A.at + at * A.column;
            t[i] = pairs(as_floats(a, at < k ? rows : 0), as_floats(a + A.column, at + 1 < k ? rows : 0));
            seen = _mm512_or_si512(seen, t[i]);
        }
        if (is_any(seen)) deep = d / FLOAT_DEPTH + 1;
        transpose(t);
        for (ptrdiff_t i = 0; i < SIDE; i++) _mm512_store_si512(tiles + i * 64, t[i]);
    }
    return deep;
}

TILE_ALWAYS void float_corner(const Corner* it, char* C, ptrdiff_t row, const int down, const int right) {
    char* below = C + SIDE * row;
    const char *a = it->a, *b = it->b, *a_below = a + it->strip * TILE_BYTES,
               *b_right = b + it->strip * FLOAT_PIECES * TILE_BYTES;
    if (it->add) {
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
    for (ptrdiff_t d = 0; d < it->deep; d++, a += TILE_BYTES, a_below += TILE_BYTES) {
        _tile_loadd(4, a, 64);
        if (down) _tile_loadd(5, a_below, 64);
#pragma GCC unroll 3
        for (int i = 0; i < FLOAT_PIECES; i++, b += TILE_BYTES, b_right += TILE_BYTES) {
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

static void copy(Matrix to, Matrix from, ptrdiff_t rows, size_t bytes) {
    for (ptrdiff_t i = 0; i < rows; i++) memcpy(to.at + i * to.row, from.at + i * from.row, bytes);
}

ON_TILES static void multiply_floats(const Corner* it) {
    const int down = it->rows > SIDE, right = it->columns > SIDE;
    const int whole = it->rows % SIDE == 0 && it->columns % SIDE == 0;
    const size_t width = (size_t)it->columns * sizeof(float);
    char edge[4 * SIDE * SIDE * sizeof(float)] __attribute__((aligned(64)));
    Matrix C = whole ? it->C : (Matrix){edge, 2 * SIDE * sizeof(float)};
    if (!whole && it->add) copy(C, it->C, it->rows, width);
    if (down && right) float_corner(it, C.at, C.row, 1, 1);
    else if (down) float_corner(it, C.at, C.row, 1, 0);
    else if (right) float_corner(it, C.at, C.row, 0, 1);
    else float_corner(it, C.at, C.row, 0, 0);
    if (!whole) copy(it->C, C, it->rows, width);
}

/* C (rows, columns) = A B of packed tiles, for up to 32 rows. Strips of both have `strip` tiles of depth, of which
   `deep` must be read. */
ON_TILES static void multiply_packed(const char* A, const char* B, ptrdiff_t strip, ptrdiff_t deep, Matrix C,
                                     ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns; j += 2 * SIDE) {
        const ptrdiff_t left = columns - j < 2 * SIDE ? columns - j : 2 * SIDE;
        const Corner corner = {.a = A,
                               .b = B + j / SIDE * strip * FLOAT_PIECES * TILE_BYTES,
                               .strip = strip,
                               .deep = deep,
                               .C = {C.at + j * (ptrdiff_t)sizeof(float), C.row},
                               .rows = rows,
                               .columns = left};
        multiply_floats(&corner);
    }
}

static const Cut float_cut = {
    .size = sizeof(float),
    .pieces = FLOAT_PIECES,
    .depth = FLOAT_DEPTH,
    .pack_numbers = pack_floats,
    .pack_rows = pack_rows_for_floats,
    .pack_columns = pack_columns_for_floats,
    .multiply = multiply_floats,
};
