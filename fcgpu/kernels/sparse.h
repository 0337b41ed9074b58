/* Products of a sparse matrix by its rows, as SciPy stores them: the numbers of row i that are not 0 are `values` from
   ends[i] to ends[i + 1], in the columns that `columns` names. The others are not multiplied.

   Included once for float and once for double. */

/* The rows that a product needs lie anywhere in memory: those for so many numbers ahead are fetched. */
#define AHEAD 2
#define FAR_AWAY (12 << 20) /* bytes of a matrix that no cache near a core holds */

typedef struct {
    const T* values;
    Integers columns, ends;
    ptrdiff_t rows, width; /* of the matrix */
} N(Sparse);

/* Row `columns[k]` of a dense matrix with n columns; that of a number ahead is on its way. */
static ALWAYS T* N(row_of)(const N(Sparse) * A, ptrdiff_t k, ptrdiff_t end, const T* dense, ptrdiff_t n) {
    const T* next = dense + integer(A->columns, k + AHEAD < end ? k + AHEAD : k) * n;
    for (ptrdiff_t j = 0; j < n; j += 64 / (ptrdiff_t)sizeof(T)) PREFETCH(next + j);
    return (T*)dense + integer(A->columns, k) * n;
}

/* c (width) = alpha times row i of A times B, whose rows have n columns. Sums in registers do not wait for memory: with
   up to 32 columns the product takes 0.2 to 0.8 of the time on an AMD EPYC. */
static ALWAYS void N(sums)(const N(Sparse) * A, ptrdiff_t i, const T* B, T* c, ptrdiff_t n, T alpha, const int width) {
    T sum[16] = {0};
    for (ptrdiff_t k = integer(A->ends, i), end = integer(A->ends, i + 1); k < end; k++) {
        const T value = alpha * A->values[k], *row = B + integer(A->columns, k) * n;
        PREFETCH(B + integer(A->columns, k + AHEAD < end ? k + AHEAD : k) * n);
        for (int j = 0; j < width; j++) sum[j] += value * row[j];
    }
    for (int j = 0; j < width; j++) c[j] = sum[j];
}

/* c (n) = alpha times row i of A times B: each row of B is read whole, and once. */
static ALWAYS void N(far_sums)(const N(Sparse) * A, ptrdiff_t i, const T* restrict B, T* restrict c, ptrdiff_t n,
                               T alpha) {
    memset(c, 0, (size_t)n * sizeof(T));
    for (ptrdiff_t k = integer(A->ends, i), end = integer(A->ends, i + 1); k < end; k++) {
        const T value = alpha * A->values[k], *row = N(row_of)(A, k, end, B, n);
        for (ptrdiff_t j = 0; j < n; j++) c[j] += value * row[j];
    }
}

/* C (rows, n) = alpha A B, for B (columns of A, n). */
CLONES static void N(sparse_rows)(N(Sparse) A, const T* restrict B, T* restrict C, ptrdiff_t n, T alpha) {
    const int far = A.width * n * (ptrdiff_t)sizeof(T) > FAR_AWAY;
    for (ptrdiff_t i = 0; i < A.rows; i++, C += n) {
        ptrdiff_t j = far ? n : 0;
        if (far) N(far_sums)(&A, i, B, C, n, alpha);
        for (; j + 16 <= n; j += 16) N(sums)(&A, i, B + j, C + j, n, alpha, 16);
        for (; j + 4 <= n; j += 4) N(sums)(&A, i, B + j, C + j, n, alpha, 4);
        for (; j < n; j++) N(sums)(&A, i, B + j, C + j, n, alpha, 1);
    }
}

/* C (columns of A, n) = alpha Aᵀ B, for B (rows, n). */
CLONES static void N(sparse_columns)(N(Sparse) A, const T* restrict B, T* restrict C, ptrdiff_t n, T alpha) {
    for (ptrdiff_t i = 0; i < A.rows; i++, B += n)
        for (ptrdiff_t k = integer(A.ends, i), end = integer(A.ends, i + 1); k < end; k++) {
            const T value = alpha * A.values[k];
            T* row = N(row_of)(&A, k, end, C, n);
            for (ptrdiff_t j = 0; j < n; j++) row[j] += value * B[j];
        }
}
