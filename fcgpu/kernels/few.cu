// Products of matrices so small that a GPU is mostly waiting: C = op(A) op(B) in float32, with what follows a product in
// a training step done before C is written. `few.py` generates `g`, `derivative` and `loss`.
//
// A thread block computes a tile of C. Its warps share the sum over k, and their sums are added up in order, so the same
// inputs give the same bits. While they multiply one part of A and B from shared memory, the next part is on its way.

constexpr int ROWS = R, COLUMNS = 32, WARPS = 8, THREADS = 32 * WARPS;
constexpr int PART = 128;  // most k in shared memory at once

struct alignas(16) Four { float v[4]; };

// A part of A or B: `length` values of k for each of LINES rows or columns of the tile. ALONG_K: neighbours in memory
// are neighbours in k, not in lines. In shared memory a value of k is STRIDE numbers from the next.
template <int LINES, bool ALONG_K> struct Part {
  static constexpr int STRIDE = LINES + 4, EACH = LINES * PART / 4 / THREADS;
  Four coming[EACH];

  __device__ static int line(int i) { return ALONG_K ? threadIdx.x % 16 + i % (LINES / 16) * 16 : threadIdx.x % (LINES / 4) * 4; }
  __device__ static int at(int i) {
    return ALONG_K ? threadIdx.x / 16 * 4 + i / (LINES / 16) * 64 : threadIdx.x / (LINES / 4) + i * (4 * THREADS / LINES);
  }
  // Start to load `length` values of k from `from` on, of lines `first` to `lines`; 0 where there are none.
  __device__ void ask(const float *M, int ld, int first, int lines, int from, int length, int k) {
    M += ALONG_K ? (long long)first * ld + from : (long long)from * ld + first;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const bool there = at(i) < length && from + at(i) < k && first + line(i) < lines;
      coming[i] = there ? *reinterpret_cast<const Four *>(M + (ALONG_K ? (long long)line(i) * ld + at(i) : (long long)at(i) * ld + line(i)))
                        : Four{};
    }
  }
  __device__ void put(float *to, int length) const {
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      if (at(i) >= length) continue;
      if (ALONG_K)
#pragma unroll
        for (int j = 0; j < 4; ++j) to[(at(i) + j) * STRIDE + line(i)] = coming[i].v[j];
      else
        *reinterpret_cast<Four *>(to + at(i) * STRIDE + line(i)) = coming[i];
    }
  }
};

// Call store(row, column, Two) once in each thread, for two neighbours of this block's tile of op(A) op(B), (m, n) with
// inner size k; `store` must ignore rows from m on. Columns from n on are 0; tiles go to column `wide`. n and leading
// dimensions must be multiples of 4, and k, too, unless only A is transposed; matrices must be aligned to 16 bytes.
template <bool TRANSPOSED_A, bool TRANSPOSED_B, class Store>
__device__ inline void product(const float *A, int lda, const float *B, int ldb, int m, int n, int wide, int k, Store store) {
  typedef Part<ROWS, !TRANSPOSED_A> Left;
  typedef Part<COLUMNS, TRANSPOSED_B> Right;
  constexpr int size = PART * (Left::STRIDE + Right::STRIDE);
  float *const memory = reinterpret_cast<float *>(shared_memory());
  const int across = (wide + COLUMNS - 1) / COLUMNS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = blockIdx.x / across * ROWS, column = blockIdx.x % across * COLUMNS;
  const int parts = (k + PART - 1) / PART, each = ((k + parts - 1) / parts + WARPS - 1) / WARPS, length = each * WARPS;
  Left a;
  Right b;
  a.ask(A, lda, row, m, 0, length, k);
  b.ask(B, ldb, column, n, 0, length, k);
  float sum[ROWS / 4][4] = {};
  for (int part = 0; part < parts; ++part) {
    float *const left = memory + part % 2 * size, *const right = left + PART * Left::STRIDE;
    a.put(left, length);
    b.put(right, length);
    __syncthreads();
    if (part + 1 < parts) {
      a.ask(A, lda, row, m, (part + 1) * length, length, k);
      b.ask(B, ldb, column, n, (part + 1) * length, length, k);
    }
    const float *x = left + warp * each * Left::STRIDE + lane / 8 * (ROWS / 4);
    const float *y = right + warp * each * Right::STRIDE + lane % 8 * 4;
#pragma unroll 4
    for (int i = 0; i < each; ++i, x += Left::STRIDE, y += Right::STRIDE) {
      const Four u = *reinterpret_cast<const Four *>(x), v = *reinterpret_cast<const Four *>(y);
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[r][c] += u.v[r] * v.v[c];
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 4; ++r)
    *reinterpret_cast<Four *>(memory + (warp * ROWS + lane / 8 * 4 + r) * COLUMNS + lane % 8 * 4) =
        Four{{sum[r][0], sum[r][1], sum[r][2], sum[r][3]}};
  __syncthreads();
  const int r = threadIdx.x / 16, c = threadIdx.x % 16 * 2;
  Two total = {0, 0};
  for (int w = 0; w < WARPS; ++w) {
    const Two its = *reinterpret_cast<const Two *>(memory + (w * ROWS + r) * COLUMNS + c);
    total.x += its.x, total.y += its.y;
  }
  store(row + r, column + c, total);
}

struct Plain {
  float *C;
  int ld, m, n;
  float alpha, beta;
  __device__ void operator()(int row, int column, Two v) const {
    if (row >= m || column >= n) return;
    Two *to = reinterpret_cast<Two *>(C + (long long)row * ld + column);
    const Two old = beta ? *to : Two{0, 0};
    *to = Two{alpha * v.x + beta * old.x, alpha * v.y + beta * old.y};
  }
};

#define PLAIN(NAME, A_TURNED, B_TURNED)                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                                        \
      const float *A, int lda, const float *B, int ldb, float *C, int ldc, int m, int n, int k, float alpha, float beta) { \
    product<A_TURNED, B_TURNED>(A, lda, B, ldb, m, n, n, k, Plain{C, ldc, m, n, alpha, beta});                       \
  }
PLAIN(as_they_are, false, false)
PLAIN(transposed_a, true, false)
PLAIN(transposed_b, false, true)

// out = [g(alpha A M) 1 0], whose first `units` columns are the layer's units; `wide` columns in all.
extern "C" __global__ void __launch_bounds__(THREADS) forward(
    const float *A, int lda, const float *M, int ldm, float *out, int wide, int m, int n, int k, int units, float alpha) {
  product<false, false>(A, lda, M, ldm, m, n, wide, k, [=](int row, int column, Two z) {
    if (row >= m || column >= wide) return;
    const float x = column < units ? g(alpha * z.x) : column == units;
    const float y = column + 1 < units ? g(alpha * z.y) : column + 1 == units;
    *reinterpret_cast<Two *>(out + (long long)row * wide + column) = Two{x, y};
  });
}

// dA = (dZ M^T) g'(A) in the first `units` columns, 0 in the others.
extern "C" __global__ void __launch_bounds__(THREADS) backward(
    const float *dZ, int ldz, const float *M, int ldm, const float *A, float *dA, int wide, int m, int k, int units) {
  product<false, true>(dZ, ldz, M, ldm, m, wide, wide, k, [=](int row, int column, Two d) {
    if (row >= m || column >= wide) return;
    const long long at = (long long)row * wide + column;
    const Two a = *reinterpret_cast<const Two *>(A + at);
    const float x = column < units ? derivative(a.x, d.x) : 0, y = column + 1 < units ? derivative(a.y, d.y) : 0;
    *reinterpret_cast<Two *>(dA + at) = Two{x, y};
  });
}

// The last layer: dZ of the logits alpha A M, and the sums of loss and correct predictions over the rows of each block.
extern "C" __global__ void __launch_bounds__(THREADS) last(
    const float *A, int lda, const float *M, int ldm, const I *y, const float *weights, const float *share, float *dZ,
    int wide, int m, int k, float alpha, double *losses, double *rights) {
  float *const Z = reinterpret_cast<float *>(shared_memory()) + WARPS * ROWS * COLUMNS;
  const int start = blockIdx.x * ROWS;
  product<false, false>(A, lda, M, ldm, m, wide, wide, k, [=](int row, int column, Two z) {
    float *to = Z + (row - start) * LOGITS + column;
    if (column < LOGITS) to[0] = alpha * z.x;
    if (column + 1 < LOGITS) to[1] = alpha * z.y;
  });
  __syncthreads();
  struct Out {
    float *to;
    int wide, rows;
    __device__ void put(int row, int column, Two v) const {
      if (row < rows) *reinterpret_cast<Two *>(to + row * wide + column) = v;
    }
  };
  double sums[2] = {0, 0};
  const int here = m - start < ROWS ? m - start : ROWS;
  loss(y + (long long)start * PER_ROW, weights + (WEIGHTED ? start : 0), share, here, Z,
       Out{dZ + (long long)start * wide, wide, here}, sums);
  double *const all = reinterpret_cast<double *>(shared_memory());  // (WARPS, 2)
  for (int bits = 1; bits < 32; bits *= 2)
    for (double &sum : sums) sum += __shfl_xor_sync(~0u, sum, bits);
  if (threadIdx.x % 32 == 0)
    for (int j = 0; j < 2; ++j) all[threadIdx.x / 32 * 2 + j] = sums[j];
  __syncthreads();
  if (threadIdx.x < 2) {
    double total = 0;
    for (int w = 0; w < WARPS; ++w) total += all[2 * w + threadIdx.x];
    (threadIdx.x ? rights : losses)[blockIdx.x] = total;
  }
}
