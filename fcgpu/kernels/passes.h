/* The forward and backward pass over a small batch in one call: from samples to logits, and back to the gradient.

   Included once for float and once for double, after elementwise.h; T is the type of numbers. Rows of activations are
   padded to whole vectors. Features that are zero in every sample of the batch are skipped in both products of the
   first layer. */

#ifdef PASSES
#define VECTOR ((ptrdiff_t)(64 / sizeof(T)))
#define ROW(n) (((n) + VECTOR - 1) / VECTOR * VECTOR)
typedef T N(vector) __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));

#define AT(x) (*(N(vector)*)(x))

#pragma GCC push_options
#pragma GCC optimize("O2") /* the code uses vector types already, and -O3 takes three times as long to compile */

/* Z (samples, vectors) += a W, from the columns place[i] of a and the same rows of W; if packed, from rows i of W. */
static ALWAYS void N(tile)(const T* a, ptrdiff_t a_row, const ptrdiff_t* place, ptrdiff_t n, const T* W,
                           ptrdiff_t w_row, int packed, T* Z, ptrdiff_t z_row, const int samples, const int vectors) {
    N(vector) sum[5][4];
#pragma GCC unroll 5
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[s][v] = AT(Z + s * z_row + v * VECTOR);
    for (ptrdiff_t i = 0; i < n; i++) {
        const T* w = W + (packed ? i : place[i]) * w_row;
        N(vector) its[4];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) its[v] = AT(w + v * VECTOR);
#pragma GCC unroll 5
        for (int s = 0; s < samples; s++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[s][v] += a[s * a_row + place[i]] * its[v];
    }
#pragma GCC unroll 5
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) AT(Z + s * z_row + v * VECTOR) = sum[s][v];
}

/* The same for all samples, a few at a time, and for 64 rows of W at a time, which stay in the L1 cache. */
static ALWAYS void N(tiles)(const T* a, ptrdiff_t a_row, const ptrdiff_t* place, ptrdiff_t n, const T* W,
                            ptrdiff_t w_row, int packed, T* Z, ptrdiff_t z_row, ptrdiff_t samples, const int vectors) {
    for (ptrdiff_t i = 0; i < n; i += 64) {
        ptrdiff_t some = n - i < 64 ? n - i : 64;
        const T* w = packed ? W + i * w_row : W;
        for (ptrdiff_t s = 0, at_once; s < samples; s += at_once) {
            ptrdiff_t left = samples - s;
            const T* its = a + s * a_row;
            T* z = Z + s * z_row;
            if (vectors == 1) at_once = left < 4 ? 1 : 4; /* few variants, because each takes long to compile */
            else at_once = left <= 5 ? left : left == 6 ? 3 : left <= 8 ? 4 : 5;
            if (at_once == 1) N(tile)(its, a_row, place + i, some, w, w_row, packed, z, z_row, 1, vectors);
            else if (at_once == 4) N(tile)(its, a_row, place + i, some, w, w_row, packed, z, z_row, 4, vectors);
            else if (vectors == 1) return;
            else if (at_once == 2) N(tile)(its, a_row, place + i, some, w, w_row, packed, z, z_row, 2, vectors);
            else if (at_once == 3) N(tile)(its, a_row, place + i, some, w, w_row, packed, z, z_row, 3, vectors);
            else N(tile)(its, a_row, place + i, some, w, w_row, packed, z, z_row, 5, vectors);
        }
    }
}

#define TILES(vectors)                                                                                                 \
    CLONES static void N(tiles_##vectors)(const T* a, ptrdiff_t a_row, const ptrdiff_t* place, ptrdiff_t n,            \
                                          const T* W, ptrdiff_t w_row, int packed, T* Z, ptrdiff_t z_row,              \
                                          ptrdiff_t samples) {                                                         \
        N(tiles)(a, a_row, place, n, W, w_row, packed, Z, z_row, samples, vectors);                                    \
    }
TILES(1)
TILES(4)

/* Z (samples, n) = a W + b, from the columns place[i] of a and the same rows of W, i < n_in. */
static void N(forward)(const T* a, ptrdiff_t a_row, const ptrdiff_t* place, ptrdiff_t n_in, const T* W, const T* b,
                       ptrdiff_t n, T* Z, ptrdiff_t samples, T* packed) {
    const ptrdiff_t row = ROW(n);
    for (ptrdiff_t s = 0; s < samples; s++) {
        memcpy(Z + s * row, b, (size_t)n * sizeof(T));
        memset(Z + s * row + n, 0, (size_t)(row - n) * sizeof(T));
    }
    ptrdiff_t j = 0;
    for (; j + 4 * VECTOR <= n; j += 4 * VECTOR) N(tiles_4)(a, a_row, place, n_in, W + j, n, 0, Z + j, row, samples);
    for (; j + VECTOR <= n; j += VECTOR) N(tiles_1)(a, a_row, place, n_in, W + j, n, 0, Z + j, row, samples);
    if (j == n) return;
    for (ptrdiff_t i = 0; i < n_in; i++)
        for (ptrdiff_t l = 0; l < VECTOR; l++) packed[i * VECTOR + l] = l < n - j ? W[place[i] * n + j + l] : 0;
    N(tiles_1)(a, a_row, place, n_in, packed, VECTOR, 1, Z + j, row, samples);
}

/* to[r] (vectors) = Σ over samples s of a[r][s] dZ[s], or is reduced by it; at most n numbers are written. */
static ALWAYS void N(some_gradients)(const T* const* a, ptrdiff_t a_row, const T* dZ, ptrdiff_t row, ptrdiff_t samples,
                                     T* const* to, ptrdiff_t n, int subtract, const int rows, const int vectors) {
    N(vector) sum[2][8] = {0};
    for (ptrdiff_t s = 0; s < samples; s++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
#pragma GCC unroll 2
            for (int r = 0; r < rows; r++) sum[r][v] += a[r][s * a_row] * AT(dZ + s * row + v * VECTOR);
#pragma GCC unroll 2
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            T* its = to[r] + v * VECTOR;
            if (n < VECTOR) {
                T some[64 / sizeof(T)];
                AT(some) = sum[r][v];
                for (ptrdiff_t j = 0; j < n; j++) its[j] = subtract ? its[j] - some[j] : some[j];
            } else if (subtract) AT(its) -= sum[r][v];
            else AT(its) = sum[r][v];
        }
}

static ALWAYS void N(gradient_rows)(const T* a, ptrdiff_t a_row, const ptrdiff_t* place, const T* dZ, ptrdiff_t row,
                                    ptrdiff_t samples, T* dW, ptrdiff_t n, int subtract, const int rows) {
    ptrdiff_t j = 0;
    const T* from[2] = {a + place[0], a + place[rows - 1]};
    T* to[2] = {dW + place[0] * n, dW + place[rows - 1] * n};
    for (; j + 8 * VECTOR <= n; j += 8 * VECTOR, to[0] += 8 * VECTOR, to[1] += 8 * VECTOR)
        N(some_gradients)(from, a_row, dZ + j, row, samples, to, n - j, subtract, rows, 8);
    for (; j + 4 * VECTOR <= n; j += 4 * VECTOR, to[0] += 4 * VECTOR, to[1] += 4 * VECTOR)
        N(some_gradients)(from, a_row, dZ + j, row, samples, to, n - j, subtract, rows, 4);
    for (; j < n; j += VECTOR, to[0] += VECTOR, to[1] += VECTOR)
        N(some_gradients)(from, a_row, dZ + j, row, samples, to, n - j, subtract, rows, 1);
}

/* Rows place[i] of dW, i < n_in, = aᵀ dZ, or are reduced by it if subtract. */
CLONES static void N(gradient_of)(const T* a, ptrdiff_t a_row, const ptrdiff_t* place, ptrdiff_t n_in, const T* dZ,
                                  ptrdiff_t samples, T* dW, ptrdiff_t n, int subtract) {
    ptrdiff_t i = 0;
    for (; i + 2 <= n_in; i += 2) N(gradient_rows)(a, a_row, place + i, dZ, ROW(n), samples, dW, n, subtract, 2);
    if (i < n_in) N(gradient_rows)(a, a_row, place + i, dZ, ROW(n), samples, dW, n, subtract, 1);
}

/* side (inputs, VECTOR) = W dZᵀ for a few inputs, with one sample per vector lane; across (n, VECTOR) is dZᵀ. */
static ALWAYS void N(some_inputs)(const T* W, ptrdiff_t n, const T* across, T* side, const int inputs) {
    N(vector) sum[16] = {0};
    for (ptrdiff_t j = 0; j < n; j++) {
        N(vector) dz = AT(across + j * VECTOR);
#pragma GCC unroll 16
        for (int i = 0; i < inputs; i++) sum[i] += W[i * n + j] * dz;
    }
#pragma GCC unroll 16
    for (int i = 0; i < inputs; i++) AT(side + i * VECTOR) = sum[i];
}

/* dA (samples, n_in) = dZ Wᵀ; across is scratch for n vectors, side for 16. */
CLONES static void N(backward)(const T* dZ, const T* W, ptrdiff_t n_in, ptrdiff_t n, T* dA, ptrdiff_t samples,
                               T* across, T* side) {
    for (ptrdiff_t first = 0; first < samples; first += VECTOR) {
        const ptrdiff_t some = samples - first < VECTOR ? samples - first : VECTOR;
        for (ptrdiff_t j = 0; j < n; j++)
            for (ptrdiff_t s = 0; s < VECTOR; s++) across[j * VECTOR + s] = s < some ? dZ[(first + s) * ROW(n) + j] : 0;
        for (ptrdiff_t i = 0; i < n_in; i += 16) {
            ptrdiff_t inputs = n_in - i < 16 ? n_in - i : 16;
            if (inputs == 16) N(some_inputs)(W + i * n, n, across, side, 16);
            else
                for (ptrdiff_t l = 0; l < inputs; l++) N(some_inputs)(W + (i + l) * n, n, across, side + l * VECTOR, 1);
            for (ptrdiff_t s = 0; s < some; s++)
                for (ptrdiff_t l = 0; l < inputs; l++) dA[(first + s) * ROW(n_in) + i + l] = side[l * VECTOR + s];
        }
    }
    for (ptrdiff_t s = 0; s < samples; s++)
        memset(dA + s * ROW(n_in) + n_in, 0, (size_t)(ROW(n_in) - n_in) * sizeof(T));
}

static void N(activate)(int activation, T* Z, ptrdiff_t samples, ptrdiff_t row) {
    switch (activation) {
        case 0: N(sigmoid_all)(Z, NULL, samples, row); break;
        case 1: N(tanh_all)(Z, NULL, samples, row); break;
        case 2: N(relu_all)(Z, NULL, samples, row); break;
        case 3: N(leaky_relu_all)(Z, NULL, samples, row); break;
    }
}

static void N(derive)(int activation, const T* A, T* dA, ptrdiff_t n) {
    switch (activation) {
        case 0: N(sigmoid_backward)(A, dA, n); break;
        case 1: N(tanh_backward)(A, dA, n); break;
        case 2: N(relu_backward)(A, dA, n); break;
        case 3: N(leaky_relu_backward)(A, dA, n); break;
    }
}

#pragma GCC pop_options

/* A (samples, features) = scale X. Writes to place the features that some sample has not zero; returns their number. */
CLONES static ptrdiff_t N(take)(const Batch* it, T* A, ptrdiff_t* place) {
    const ptrdiff_t n = it->sizes[0];
    const T scale = (T)it->scale;
    ptrdiff_t count = 0;
    memset(it->seen, 0, (size_t)n);
    for (ptrdiff_t s = 0; s < it->samples; s++, A += ROW(n)) {
        const char* x = it->X + it->row * (it->rows ? it->rows[s] : s);
        if (it->bytes) {
            for (ptrdiff_t j = 0; j < n; j++) A[j] = scale * (T)((const uint8_t*)x)[j];
            for (ptrdiff_t j = 0; j < n; j++) it->seen[j] |= ((const uint8_t*)x)[j];
        } else {
            for (ptrdiff_t j = 0; j < n; j++) A[j] = scale * ((const T*)x)[j];
            for (ptrdiff_t j = 0; j < n; j++) it->seen[j] |= ((const T*)x)[j] != 0;
        }
    }
    for (ptrdiff_t j = 0; j < n; j++) {
        place[count] = j;
        count += it->seen[j] != 0;
    }
    return count;
}

/* Overwrites gradient and logits (samples, n_outputs). Unless `first` is NULL, the gradient of the first layer's W is
   subtracted from it instead of stored in gradient. */
static void N(passes)(const Batch* it, const T* params, T* gradient, T* first, T* logits) {
    const ptrdiff_t samples = it->samples, last = it->layers, *sizes = it->sizes, k = sizes[last];
    ptrdiff_t *places = it->places, *every = places + sizes[0] + 1, at = 0;
    T *A[MOST_LAYERS], *room = it->room;
    for (ptrdiff_t i = 0; i <= last; i++) A[i] = room, room += samples * ROW(sizes[i]);
    T *dA = room, *across = dA + samples * ROW(it->widest), *side = across + it->widest * VECTOR,
      *packed = side + 16 * VECTOR;
    const ptrdiff_t count = N(take)(it, A[0], places);
    for (ptrdiff_t i = 0; i < it->widest; i++) every[i] = i;
    for (ptrdiff_t i = 0; i < last; i++) {
        const ptrdiff_t n_in = sizes[i], n = sizes[i + 1];
        N(forward)(A[i], ROW(n_in), i ? every : places, i ? n_in : count, params + at, params + at + n_in * n, n,
                   A[i + 1], samples, packed);
        if (i + 1 < last) N(activate)(it->activation, A[i + 1], samples, ROW(n));
        at += (n_in + 1) * n;
    }
    for (ptrdiff_t s = 0; s < samples; s++) memcpy(logits + s * k, A[last] + s * ROW(k), (size_t)k * sizeof(T));
    memcpy(across, logits, (size_t)(samples * k) * sizeof(T));
    if (it->softmax) N(softmax_all)(across, NULL, samples, k);
    else N(sigmoid_all)(across, NULL, samples, k);
    N(minus_target)(across, it->y, it->targets, it->weights, it->step, samples, k);
    for (ptrdiff_t s = 0; s < samples; s++) memcpy(A[last] + s * ROW(k), across + s * k, (size_t)k * sizeof(T));
    for (ptrdiff_t i = last - 1; i >= 0; i--) { /* dZ has overwritten A[i + 1] */
        const ptrdiff_t n_in = sizes[i], n = sizes[i + 1];
        const T* dZ = A[i + 1];
        at -= (n_in + 1) * n;
        T *dW = gradient + at, *db = dW + n_in * n;
        memset(db, 0, (size_t)n * sizeof(T));
        for (ptrdiff_t s = 0; s < samples; s++)
            for (ptrdiff_t j = 0; j < n; j++) db[j] += dZ[s * ROW(n) + j];
        if (i) {
            N(gradient_of)(A[i], ROW(n_in), every, n_in, dZ, samples, dW, n, 0);
            N(backward)(dZ, params + at, n_in, n, dA, samples, across, side);
            N(derive)(it->activation, A[i], dA, samples * ROW(n_in));
            memcpy(A[i], dA, (size_t)(samples * ROW(n_in)) * sizeof(T));
            continue;
        }
        if (first) {
            N(gradient_of)(A[0], ROW(n_in), places, count, dZ, samples, first, n, 1);
            return;
        }
        N(gradient_of)(A[0], ROW(n_in), places, count, dZ, samples, dW, n, 0);
        for (ptrdiff_t f = 0; f < n_in; f++)
            if (!it->seen[f]) memset(dW + f * n, 0, (size_t)n * sizeof(T));
    }
}

/* Bytes of scratch memory for numbers. */
static ptrdiff_t N(room)(const Batch* it) {
    ptrdiff_t units = ROW(it->widest), deepest = it->sizes[0] > it->widest ? it->sizes[0] : it->widest;
    for (int i = 0; i <= it->layers; i++) units += ROW(it->sizes[i]);
    ptrdiff_t numbers =
        it->samples * units + (it->widest + 16 + deepest) * VECTOR + it->samples * it->sizes[it->layers];
    return numbers * (ptrdiff_t)sizeof(T);
}

#undef VECTOR
#undef ROW
#undef AT
#undef TILES
#endif
