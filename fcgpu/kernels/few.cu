// Products of matrices so small that a GPU is mostly waiting: C = op(A) op(B) in float32, with what follows a product
// in a training step done before C is written. `few.py` generates `g`, `derivative` and `loss`.
//
// A thread block computes a tile of C. Its warps share the sum over k, and their sums are added up in order, so the
// same inputs give the same bits. While they multiply one part of A and B, in pieces, the next part is on its way.

constexpr int WARPS = THREADS / 32;
constexpr int PART = 16 * WARPS;  // of k, in shared memory at once: each warp multiplies 16
constexpr int STRIDE = COLUMNS + 8;  // of the warps' sums

struct alignas(16) Four { float v[4]; };

// A part of a matrix, (M, N), on its way from global memory.
template <int M, int N> struct Coming {
  static constexpr int each = M * N / 4 / THREADS;
  Four fours[each];

  __device__ static int row(int i) { return (threadIdx.x + i * THREADS) / (N / 4); }
  __device__ static int column(int i) { return threadIdx.x % (N / 4) * 4; }
  // Start to load the first `rows` rows and `columns` columns from `at` on; 0 after them.
  __device__ void ask(const float *at, int ld, int rows, int columns) {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const bool there = row(i) < rows && column(i) < columns;
      fours[i] = there ? *reinterpret_cast<const Four *>(at + (long long)row(i) * ld + column(i)) : Four{};
    }
  }
  __device__ void put(Matrix<M, N> to) const {
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const float (&v)[4] = fours[i].v;
      to.put(row(i), column(i), Two{v[0], v[1]}, Two{v[2], v[3]});
    }
  }
};

// Call store(row, column, Two) once in each thread, for two neighbours of this block's tile of op(A) op(B), (m, n) with
// inner size k; `store` must ignore rows from m on. Columns from n on are 0; tiles go to column `wide`. n and leading
// dimensions must be multiples of 4, and so must k, unless only A is transposed, and then m; all must be aligned to 16
// bytes.
template <bool TRANSPOSED_A, bool TRANSPOSED_B, class Store>
__device__ inline void product(const float *A, int lda, const float *B, int ldb, int m, int n, int wide, int k,
                               Store store) {
  constexpr int high_a = TRANSPOSED_A ? PART : R, wide_a = TRANSPOSED_A ? R : PART;
  constexpr int high_b = TRANSPOSED_B ? COLUMNS : PART, wide_b = TRANSPOSED_B ? PART : COLUMNS;
  typedef Matrix<high_a, wide_a> Left;
  typedef Matrix<high_b, wide_b> Right;
  constexpr int size_a = P * Left::rows * Left::stride, size = size_a + P * Right::rows * Right::stride;
  bf16 *const memory = reinterpret_cast<bf16 *>(shared_memory());
  const int across = (wide + COLUMNS - 1) / COLUMNS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = blockIdx.x / across * R, column = blockIdx.x % across * COLUMNS;
  A += TRANSPOSED_A ? row : (long long)row * lda;
  B += TRANSPOSED_B ? (long long)column * ldb : column;
  Coming<high_a, wide_a> a;
  Coming<high_b, wide_b> b;
  auto ask = [&](int from) {
    const int left = k - from, rows = m - row, columns = n - column;
    const long long in_a = TRANSPOSED_A ? (long long)from * lda : from;
    const long long in_b = TRANSPOSED_B ? from : (long long)from * ldb;
    a.ask(A + in_a, lda, TRANSPOSED_A ? left : rows, TRANSPOSED_A ? rows : left);
    b.ask(B + in_b, ldb, TRANSPOSED_B ? columns : left, TRANSPOSED_B ? left : columns);
  };
  auto buffer = [&](int from) { return memory + from / PART % 2 * size; };
  auto put = [&](int from) {
    a.put(Left{buffer(from)});
    b.put(Right{buffer(from) + size_a});
    if (from + PART < k) ask(from + PART);
  };
  ask(0);
  put(0);
  float sum[COLUMNS / 8][4] = {}, small[COLUMNS / 8][4] = {};
  for (int from = 0; from < k; from += PART) {
    __syncthreads();
    if (from + PART < k) put(from + PART);
    const Left x{buffer(from)};
    const Right y{buffer(from) + size_a};
    const int mine = 16 * warp;
    if (from + mine >= k) continue;
    unsigned f[P][4];
#pragma unroll
    for (int i = 0; i < P; ++i)
      load_matrices<TRANSPOSED_A>(
          f[i], lanes_place<TRANSPOSED_A>(x, i, TRANSPOSED_A ? mine : 0, TRANSPOSED_A ? 0 : mine));
#pragma unroll
    for (int w = 0; w < COLUMNS; w += 16) {
      unsigned h[P][4];
#pragma unroll
      for (int j = 0; j < P; ++j)
        load_matrices<!TRANSPOSED_B>(
            h[j], lanes_place<TRANSPOSED_B>(y, j, TRANSPOSED_B ? w : mine, TRANSPOSED_B ? mine : w));
      multiply_pieces(sum + w / 8, small + w / 8, f, h);
    }
  }
  __syncthreads();
  float *const all = reinterpret_cast<float *>(shared_memory());
#pragma unroll
  for (int tile = 0; tile < COLUMNS / 8; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float (&s)[4] = sum[tile], (&t)[4] = small[tile];
      *reinterpret_cast<Two *>(all + (warp * R + lane / 4 + 8 * half) * STRIDE + 8 * tile + lane % 4 * 2) =
          Two{s[2 * half] + t[2 * half], s[2 * half + 1] + t[2 * half + 1]};
    }
  __syncthreads();
  const int r = threadIdx.x / 16, c = threadIdx.x % 16 * 2;
  Two total = {0, 0};
#pragma unroll
  for (int w = 0; w < WARPS; ++w) {
    const Two its = *reinterpret_cast<const Two *>(all + (w * R + r) * STRIDE + c);
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

#define PLAIN(NAME, A_TURNED, B_TURNED)                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) NAME(                                          \
      const float *A, int lda, const float *B, int ldb, float *C, int ldc, int m, int n, int k,           \
      float alpha, float beta) {                                                                          \
    product<A_TURNED, B_TURNED>(A, lda, B, ldb, m, n, n, k, Plain{C, ldc, m, n, alpha, beta});            \
  }
PLAIN(as_they_are, false, false)
PLAIN(transposed_a, true, false)
PLAIN(transposed_b, false, true)

// out = [g(alpha A M) 1 0], whose first `units` columns are the layer's units; `wide` columns in all.
extern "C" __global__ void __launch_bounds__(THREADS, 2) forward(
    const float *A, int lda, const float *M, int ldm, float *out, int wide, int m, int n, int k, int units,
    float alpha) {
  product<false, false>(A, lda, M, ldm, m, n, wide, k, [=](int row, int column, Two z) {
    if (row >= m || column >= wide) return;
    const float x = column < units ? g(alpha * z.x) : column == units;
    const float y = column + 1 < units ? g(alpha * z.y) : column + 1 == units;
    *reinterpret_cast<Two *>(out + (long long)row * wide + column) = Two{x, y};
  });
}

// dA = (dZ M^T) g'(Z) in the first `units` columns, 0 in the others.
extern "C" __global__ void __launch_bounds__(THREADS, 2) backward(
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
extern "C" __global__ void __launch_bounds__(THREADS, 2) last(
    const float *A, int lda, const float *M, int ldm, const I *y, const float *weights, const float *share, float *dZ,
    int wide, int m, int k, float alpha, double *losses, double *rights) {
  float *const Z = reinterpret_cast<float *>(shared_memory()) + WARPS * R * STRIDE;
  const int start = blockIdx.x * R;
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
  const int here = m - start < R ? m - start : R;
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
