/* The formulas of activations.py, losses.py and updates.py for one type of numbers, T, each in one pass through memory.

   native.c includes this file once for float and once for double, after defining T, N(name) and the constants. The
   compiler vectorizes the innermost loops, so they contain no branch, no call and no table. */

#define BLOCK 2048 /* numbers that stay in the L1 cache between the loops over them */

typedef union {
    T real;
    BITS bits;
} N(word);

/* Returns p and sets s, with eˣ = s (1 + p): x = n ln 2 + r, s = 2ⁿ, p = eʳ - 1 by its series, |r| <= ln 2 / 2. n must
   be in the range of exponents. */
static ALWAYS T N(split)(T x, T* s) {
    N(word) t = {x * (T)1.4426950408889634 + ROUND}; /* rounds to a whole number, which is in the last bits */
    T n = t.real - ROUND, r = x - n * LN2_HIGH - n * LN2_LOW, p = 0;
    t.bits = (t.bits << MANTISSA) + ONE;
    *s = t.real;
    for (int i = TERMS; i > 1; i--) p = (p + 1) * r * (T)(1.0 / i);
    return (p + 1) * r;
}

static ALWAYS T N(exp)(T x) { /* 0 if eˣ is below the normal numbers; x must not be positive */
    T s, p = N(split)(x < LOWEST ? LOWEST : x, &s);
    return x < LOWEST ? 0 : s * p + s;
}

static ALWAYS T N(sigmoid)(T z) {
    T s, x = z < -HIGHEST ? HIGHEST : -z, p = N(split)(x < LOWEST ? LOWEST : x, &s);
    return 1 / (1 + (s * p + s));
}

static ALWAYS T N(tanh)(T z) { /* (e²ᶻ - 1) / (e²ᶻ + 1), accurate also near 0 */
    T s, x = z + z, p = N(split)(x > ONES ? ONES : x < -ONES ? -ONES : x, &s), e = s * p + (s - 1);
    return e / (e + 2);
}

static ALWAYS T N(log1p)(T u) { /* 2 artanh(u / (2 + u)), for u from 0 to 1 */
    T t = u / (2 + u), square = t * t, sum = 0;
    for (int i = LOG_TERMS; i >= 0; i--) sum = sum * square + (T)(2.0 / (2 * i + 1));
    return sum * t;
}

static ALWAYS T N(relu)(T z) { return z < 0 ? 0 : z; } /* NaN stays NaN */
static ALWAYS T N(leaky_relu)(T z) { return z < 0 ? (T)LEAK * z : z; }

static ALWAYS T N(sigmoid_slope)(T a) { return a * (1 - a); }
static ALWAYS T N(tanh_slope)(T a) { return 1 - a * a; }
static ALWAYS T N(relu_slope)(T a) { return a > 0 ? 1 : 0; }
static ALWAYS T N(leaky_relu_slope)(T a) { return a > 0 ? 1 : (T)LEAK; }

/* Z (n, k) += b (k), unless b is NULL. */
static ALWAYS void N(add_bias)(T* restrict Z, const T* restrict b, ptrdiff_t n, ptrdiff_t k) {
    if (b)
        for (ptrdiff_t i = 0; i < n; i++)
            for (ptrdiff_t j = 0; j < k; j++) Z[i * k + j] += b[j];
}

#define FORWARD(name)                                                                                                  \
    CLONES static void N(name##_all)(T* restrict Z, const T* restrict b, ptrdiff_t n, ptrdiff_t k) {                   \
        ptrdiff_t rows = 1 + BLOCK / k;                                                                                \
        for (ptrdiff_t i = 0; i < n; i += rows) {                                                                      \
            ptrdiff_t some = n - i < rows ? n - i : rows;                                                              \
            T* z = Z + i * k;                                                                                          \
            N(add_bias)(z, b, some, k);                                                                                \
            for (ptrdiff_t j = 0; j < some * k; j++) z[j] = N(name)(z[j]);                                             \
        }                                                                                                              \
    }
FORWARD(sigmoid)
FORWARD(tanh)
FORWARD(relu)
FORWARD(leaky_relu)

#define BACKWARD(name)                                                                                                 \
    CLONES static void N(name##_backward)(const T* restrict A, T* restrict dA, ptrdiff_t n) {                          \
        for (ptrdiff_t i = 0; i < n; i++) dA[i] *= N(name##_slope)(A[i]);                                              \
    }
BACKWARD(sigmoid)
BACKWARD(tanh)
BACKWARD(relu)
BACKWARD(leaky_relu)

static ALWAYS T N(greatest)(const T* z, ptrdiff_t k) {
    T greatest = z[0];
    for (ptrdiff_t j = 1; j < k; j++) greatest = z[j] > greatest ? z[j] : greatest;
    return greatest;
}

/* Z (n, k) = softmax(Z + b): one loop computes the exponentials of many rows, then each row is divided by its sum. */
CLONES static void N(softmax_all)(T* restrict Z, const T* restrict b, ptrdiff_t n, ptrdiff_t k) {
    ptrdiff_t rows = 1 + BLOCK / k;
    for (ptrdiff_t i = 0; i < n; i += rows) {
        ptrdiff_t some = n - i < rows ? n - i : rows;
        T* z = Z + i * k;
        N(add_bias)(z, b, some, k);
        for (ptrdiff_t r = 0; r < some; r++) {
            T greatest = N(greatest)(z + r * k, k);
            for (ptrdiff_t j = 0; j < k; j++) z[r * k + j] -= greatest;
        }
        for (ptrdiff_t j = 0; j < some * k; j++) z[j] = N(exp)(z[j]);
        for (ptrdiff_t r = 0; r < some; r++) {
            T sum = 0;
            for (ptrdiff_t j = 0; j < k; j++) sum += z[r * k + j];
            for (ptrdiff_t j = 0; j < k; j++) z[r * k + j] /= sum;
        }
    }
}

/* Z (n, k) = (Z - target) weight, with targets t (n, k) or, if t is NULL, classes y (n). */
CLONES static void N(minus_target)(T* restrict Z, Integers y, const T* t, const T* weight, ptrdiff_t step, ptrdiff_t n,
                                   ptrdiff_t k) {
    for (ptrdiff_t i = 0; i < n; i++, Z += k, weight += step) {
        if (t)
            for (ptrdiff_t j = 0; j < k; j++) Z[j] -= t[i * k + j];
        else if (k == 1) Z[0] -= (T)integer(y, i);
        else Z[integer(y, i)] -= 1;
        for (ptrdiff_t j = 0; j < k; j++) Z[j] *= *weight;
    }
}

/* losses (n) = weight Σ over outputs of softplus(z) - t z, softplus(z) = max(z, 0) + log1p(e^-|z|). The sum is a loop
   of its own: in one, GCC rounded log1p's last product before it in the numbers after the last vector, and not in
   others. */
CLONES static void N(sigmoid_loss)(const T* Z, Integers y, const T* t, const T* weight, ptrdiff_t step, T* losses,
                                   ptrdiff_t n, ptrdiff_t k) {
    T softplus[BLOCK];
    ptrdiff_t rows = BLOCK / k;
    for (ptrdiff_t i = 0; i < n; i += rows) {
        ptrdiff_t some = n - i < rows ? n - i : rows;
        const T* z = Z + i * k;
        for (ptrdiff_t j = 0; j < some * k; j++) softplus[j] = N(log1p)(N(exp)(z[j] < 0 ? z[j] : -z[j]));
        for (ptrdiff_t j = 0; j < some * k; j++) softplus[j] += N(relu)(z[j]);
        for (ptrdiff_t r = 0; r < some; r++) {
            T sum = 0, at = 0;
            for (ptrdiff_t j = 0; j < k; j++) sum += softplus[r * k + j];
            if (t)
                for (ptrdiff_t j = 0; j < k; j++) at += z[r * k + j] * t[(i + r) * k + j];
            else at = k == 1 ? z[r] * (T)integer(y, i + r) : z[r * k + integer(y, i + r)];
            losses[i + r] = (sum - at) * weight[(i + r) * step];
        }
    }
}

/* losses (n) = weight (logsumexp(z) - Σ t z), with every z reduced by the largest of its row. */
CLONES static void N(softmax_loss)(const T* Z, Integers y, const T* t, const T* weight, ptrdiff_t step, T* losses,
                                   ptrdiff_t n, ptrdiff_t k) {
    T shifted[BLOCK], e[BLOCK];
    ptrdiff_t rows = BLOCK / k;
    for (ptrdiff_t i = 0; i < n; i += rows) {
        ptrdiff_t some = n - i < rows ? n - i : rows;
        for (ptrdiff_t r = 0; r < some; r++) {
            const T* z = Z + (i + r) * k;
            T greatest = N(greatest)(z, k);
            for (ptrdiff_t j = 0; j < k; j++) shifted[r * k + j] = z[j] - greatest;
        }
        for (ptrdiff_t j = 0; j < some * k; j++) e[j] = N(exp)(shifted[j]);
        for (ptrdiff_t r = 0; r < some; r++) {
            T sum = 0, at = 0;
            for (ptrdiff_t j = 0; j < k; j++) sum += e[r * k + j];
            if (t)
                for (ptrdiff_t j = 0; j < k; j++) at += shifted[r * k + j] * t[(i + r) * k + j];
            else at = shifted[r * k + (k == 1 ? 0 : integer(y, i + r))];
            losses[i + r] = ((T)LOG(sum) - at) * weight[(i + r) * step];
        }
    }
}

/* losses (n) = weight ½ Σ over outputs of (z - t)². */
CLONES static void N(squared_loss)(const T* Z, Integers y, const T* t, const T* weight, ptrdiff_t step, T* losses,
                                   ptrdiff_t n, ptrdiff_t k) {
    for (ptrdiff_t i = 0; i < n; i++, Z += k) {
        T sum = 0;
        for (ptrdiff_t j = 0; j < k; j++) {
            T error = Z[j] - (t ? t[i * k + j] : k == 1 ? (T)integer(y, i) : j == integer(y, i));
            sum += error * error;
        }
        losses[i] = sum / 2 * weight[i * step];
    }
}

/* correct (n) = whether the largest of each row of Z (n, k) is that of class y; for k = 1, whether (z > 0) == y. */
CLONES static void N(count_correct)(const T* Z, Integers y, unsigned char* correct, ptrdiff_t n, ptrdiff_t k) {
    for (ptrdiff_t i = 0; i < n; i++, Z += k) {
        ptrdiff_t answer = k == 1 && Z[0] > 0;
        for (ptrdiff_t j = 1; j < k; j++) answer = Z[j] > Z[answer] ? j : answer;
        correct[i] = answer == integer(y, i);
    }
}

/* One step of Adam for n parameters. */
CLONES static void N(adam)(T* restrict w, const T* restrict g, T* restrict m, T* restrict v, ptrdiff_t n, double beta_1,
                           double beta_2, double epsilon, double eta_t) {
    const T b1 = (T)beta_1, rest_1 = (T)(1 - beta_1), b2 = (T)beta_2, rest_2 = (T)(1 - beta_2), e = (T)epsilon,
            rate = (T)eta_t;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = b1 * m[i] + rest_1 * g[i];
        v[i] = b2 * v[i] + rest_2 * (g[i] * g[i]);
        w[i] -= rate * m[i] / (SQRT(v[i]) + e);
    }
}

/* dW += pull W; returns Σ W², in 16 partial sums so that the compiler can vectorize it. */
CLONES static double N(add_l2)(const T* restrict W, T* restrict dW, ptrdiff_t n, double factor) {
    const T pull = (T)factor;
    double squares = 0;
    for (ptrdiff_t i = 0; i < n; i += BLOCK) {
        ptrdiff_t end = n - i < BLOCK ? n : i + BLOCK;
        T some[16] = {0};
        ptrdiff_t j = i;
        for (; j + 16 <= end; j += 16)
            for (int l = 0; l < 16; l++) {
                dW[j + l] += pull * W[j + l];
                some[l] += W[j + l] * W[j + l];
            }
        for (; j < end; j++) {
            dW[j] += pull * W[j];
            some[0] += W[j] * W[j];
        }
        for (int l = 0; l < 16; l++) squares += some[l];
    }
    return squares;
}

/* A (n, width) = rows of X, bytes or T: those of the indices, or the first n if indices is NULL. */
CLONES static void N(load)(const char* X, ptrdiff_t row, int bytes, const ptrdiff_t* indices, T* restrict A,
                           ptrdiff_t to, ptrdiff_t n, ptrdiff_t width) {
    for (ptrdiff_t i = 0; i < n; i++, A += to) {
        const char* x = X + row * (indices ? indices[i] : i);
        if (bytes)
            for (ptrdiff_t j = 0; j < width; j++) A[j] = (T)((const unsigned char*)x)[j];
        else memcpy(A, x, (size_t)width * sizeof(T));
    }
}

/* made (n) = times x rounded to bytes. Returns whether they all equal times x, up to two rounding errors. */
CLONES static int N(to_bytes)(const T* restrict x, ptrdiff_t n, T times, uint8_t* restrict made) {
    int others = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        T exact = x[i] * times, near = exact + ROUND - ROUND, off = exact < near ? near - exact : exact - near;
        int good = (near >= 0) & (near <= 255) & (off <= 2 * EPS * near);
        others |= !good;
        made[i] = (uint8_t)(int)(good ? near : 0);
    }
    return !others;
}
