// Device functions of the kernel that `middle.py` generates. P is the number of pieces, R the rows of a tile, B the
// blocks of columns of Z1 and dZ1: P, or 1 if these are float32 and not in pieces; `g` and `derivative` are the
// activation's formulas.

constexpr int WARPS = THREADS / 32;
constexpr int UNROLL = P == 1 ? 2 : 1;  // of the loop of a product; with more pieces there are not enough registers

// Call store(row, column, Two) for each pair of neighbours of op(A) op(B). Its sizes must be multiples of 16; a warp
// computes 16 rows and 16 or 32 columns at a time.
template <bool TRANSPOSED_A, bool TRANSPOSED_B, class A, class B, class Store>
__device__ inline void product(A a, B b, Store store) {
  constexpr int m = TRANSPOSED_A ? A::columns : A::rows, inner = TRANSPOSED_A ? A::rows : A::columns;
  constexpr int n = TRANSPOSED_B ? B::rows : B::columns;
  constexpr int WIDE = n % 32 == 0 && m / 16 * (n / 32) >= WARPS ? 2 : 1, across = n / (16 * WIDE);
  static_assert(inner == (TRANSPOSED_B ? B::columns : B::rows) && m % 16 == 0 && n % 16 == 0 && inner % 16 == 0, "");
  const int lane = threadIdx.x % 32;
  for (int unit = threadIdx.x / 32; unit < m / 16 * across; unit += WARPS) {
    const int row = unit / across * 16, column = unit % across * 16 * WIDE;
    const Place of_a = lanes_place<TRANSPOSED_A>(a, 0, TRANSPOSED_A ? 0 : row, TRANSPOSED_A ? row : 0);
    const Place of_b = lanes_place<TRANSPOSED_B>(b, 0, TRANSPOSED_B ? column : 0, TRANSPOSED_B ? 0 : column);
    constexpr int step_a = 32 * (TRANSPOSED_A ? A::stride : 1), step_b = 32 * (TRANSPOSED_B ? 1 : B::stride);
    constexpr int wide_b = 32 * (TRANSPOSED_B ? B::stride : 1);  // strides in bytes, of 16 numbers; below, of a piece
    constexpr int piece_a = 2 * A::rows * A::stride, piece_b = 2 * B::rows * B::stride;
    float sum[2 * WIDE][4] = {}, small[2 * WIDE][4] = {};
#pragma unroll UNROLL
    for (int k = 0; k < inner / 16; ++k) {
      unsigned f[P][4];
#pragma unroll
      for (int i = 0; i < P; ++i) load_matrices<TRANSPOSED_A>(f[i], of_a + (i * piece_a + k * step_a));
#pragma unroll
      for (int w = 0; w < WIDE; ++w) {
        unsigned h[P][4];
#pragma unroll
        for (int j = 0; j < P; ++j) load_matrices<!TRANSPOSED_B>(h[j], of_b + (j * piece_b + w * wide_b + k * step_b));
        multiply_pieces(sum + 2 * w, small + 2 * w, f, h);
      }
    }
#pragma unroll
    for (int tile = 0; tile < 2 * WIDE; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float x = sum[tile][2 * half] + small[tile][2 * half];
        const float y = sum[tile][2 * half + 1] + small[tile][2 * half + 1];
        store(row + lane / 4 + 8 * half, column + 8 * tile + lane % 4 * 2, Two{x, y});
      }
  }
}

// Load [W; b] from the flat vector, whose rows have `wide` numbers, 0 after the outputs: W in pieces, padded, and b.
template <int UNITS, int OUTPUTS, class Weights>
__device__ inline void load_layer(const float *flat, int wide, Weights W, float *b) {
#pragma unroll 8
  for (int i = threadIdx.x; i < W.rows * W.columns / 2; i += THREADS) {
    const int row = i / (W.columns / 2), column = i % (W.columns / 2) * 2;
    const bool there = row < UNITS && column < wide;
    W.put(row, column, there ? *reinterpret_cast<const Two *>(flat + row * wide + column) : Two{0, 0});
  }
  for (int j = threadIdx.x; j < W.columns; j += THREADS) b[j] = j < OUTPUTS ? flat[UNITS * wide + j] : 0;
}

// out = g(A W + b). Padding becomes g(0), which is harmless: the next layer's W is 0 in the padded rows, and so is dZ.
template <class A, class Weights, class B>
__device__ inline void forward(A a, Weights W, const float *b, B out) {
  product<false, false>(a, W, [=](int row, int column, Two z) {
    out.put(row, column, Two{g(z.x + b[column]), g(z.y + b[column + 1])});
  });
}

// Z = A W + b. Rows of Z have an odd number of floats, so that threads that each read a row use different banks.
template <class A, class Weights> __device__ inline void logits(A a, Weights W, const float *b, float *Z) {
  product<false, false>(a, W, [=](int row, int column, Two z) {
    float *at = Z + row * (Weights::columns + 1) + column;
    at[0] = z.x + b[column], at[1] = z.y + b[column + 1];
  });
}

// dW += A^T dZ; rows of dW are D::columns + 8 floats apart.
template <class A, class D> __device__ inline void gradient(A a, D dZ, float *dW) {
  product<true, false>(a, dZ, [=](int row, int column, Two v) {
    Two *at = reinterpret_cast<Two *>(dW + row * (D::columns + 8) + column);
    *at = Two{at->x + v.x, at->y + v.y};
  });
}

// A = (dZ W^T) g'(Z), from A = g(Z)
template <class D, class Weights, class A> __device__ inline void backward(D dZ, Weights W, A a) {
  product<false, true>(dZ, W, [=](int row, int column, Two d) {
    const Two out = a.get(row, column);
    a.put(row, column, Two{derivative(out.x, d.x), derivative(out.y, d.y)});
  });
}

// db += 1^T dZ, as partial sums (groups, columns), which write_layer adds up. A thread sums two columns over every
// groups-th row.
template <int COLUMNS> constexpr int groups = 2 * THREADS / COLUMNS;

template <class D> __device__ inline void bias_gradient(D dZ, float *db) {
  constexpr int pairs = D::columns / 2;
  if (threadIdx.x >= pairs * groups<D::columns>) return;
  Two sum = reinterpret_cast<Two *>(db)[threadIdx.x];
  for (int row = threadIdx.x / pairs; row < R; row += groups<D::columns>) {
    const Two v = dZ.get(row, threadIdx.x % pairs * 2);
    sum.x += v.x, sum.y += v.y;
  }
  reinterpret_cast<Two *>(db)[threadIdx.x] = sum;
}

// Write [dW; db] to the flat vector: HIGH rows of WIDE numbers, padded with 0.
template <int UNITS, int OUTPUTS, int HIGH, int WIDE, class Weights>
__device__ inline void write_layer(Weights, const float *dW, const float *db, float *flat) {
  for (int i = threadIdx.x; i < HIGH * WIDE; i += THREADS) {
    const int row = i / WIDE, column = i % WIDE;
    float x = row < UNITS && column < OUTPUTS ? dW[row * (Weights::columns + 8) + column] : 0;
    if (row == UNITS && column < OUTPUTS)
      for (int group = 0; group < groups<Weights::columns>; ++group) x += db[group * Weights::columns + column];
    flat[i] = x;
  }
}

// Loads the next tile's Z1 (rows, B blocks of WIDE columns) while this tile is computed: `announce` prefetches it into
// the L2 cache, `ask` starts loading a block of columns into registers, and `take` adds it to the sum some time later.
template <int WIDE> struct Ahead {
  static constexpr int fours = R * WIDE / 4, each = (fours + THREADS - 1) / THREADS;
  struct alignas(4 * sizeof(stored)) Four { unsigned words[sizeof(stored)]; };
  Four coming[each];
  float sum[each][4];  // not used if B is 1; then the compiler gives it no registers

  __device__ void announce(const stored *Z1, int tile, int n) const {
    const char *at = reinterpret_cast<const char *>(Z1 + (long long)tile * (R * B * WIDE)) + threadIdx.x * 128;
    const int bytes = (n - tile * R < R ? n - tile * R : R) * int(B * WIDE * sizeof(stored));
    for (int i = threadIdx.x * 128; i < bytes; i += THREADS * 128, at += THREADS * 128) prefetch_l2(at);
  }
  __device__ static Four at(const stored *Z1, int tile, int n, int block, int j) {
    const int i = threadIdx.x + j * THREADS, row = tile * R + i / (WIDE / 4);
    if (i >= fours || row >= n) return Four{};
    return *reinterpret_cast<const Four *>(Z1 + ((long long)row * B + block) * WIDE + i % (WIDE / 4) * 4);
  }
  __device__ void ask(const stored *Z1, int tile, int n, int block) {
#pragma unroll
    for (int j = 0; j < each; ++j) coming[j] = at(Z1, tile, n, block, j);
  }
  // The first tile, for which there is nothing to do meanwhile: all blocks at once.
  __device__ void ask_all(const stored *Z1, int tile, int n) {
    if (B == 1) return ask(Z1, tile, n, 0);
#pragma unroll
    for (int j = 0; j < each; ++j) {
      Four its[B];
#pragma unroll
      for (int block = 0; block < B; ++block) its[block] = at(Z1, tile, n, block, j);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        sum[j][c] = 0;
#pragma unroll
        for (int block = 0; block < B; ++block) sum[j][c] += number(its[block], c);
      }
    }
  }
  __device__ static float number(const Four &four, int c) {
    if (sizeof(stored) == 4) return __uint_as_float(four.words[c % sizeof(stored)]);
    return c % 2 ? right_of(four.words[c / 2]) : left_of(four.words[c / 2]);
  }
  __device__ void take(int block) {
    if (B == 1) return;
#pragma unroll
    for (int j = 0; j < each; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[j][c] = (block ? sum[j][c] : 0) + number(coming[j], c);
  }
  __device__ float whole(int j, int c) const { return B == 1 ? number(coming[j], c) : sum[j][c]; }
  // A = g(Z1)
  template <class A> __device__ void arrive(A a) const {
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const int i = threadIdx.x + j * THREADS, row = i / (WIDE / 4), column = i % (WIDE / 4) * 4;
      if (i < fours)
#pragma unroll
        for (int c = 0; c < 4; c += 2) a.put(row, column + c, Two{g(whole(j, c)), g(whole(j, c + 1))});
    }
  }
};

// Write the first `rows` rows of dZ, 16 bytes at a time: its pieces side by side, WIDE columns each, or its numbers.
template <int WIDE, class D> __device__ inline void write_rows(D dZ, int rows, bf16 *to) {
  struct alignas(16) Eight { bf16 v[8]; };
  for (int i = threadIdx.x; i < rows * (P * WIDE / 8); i += THREADS) {
    const int row = i / (P * WIDE / 8), piece = i / (WIDE / 8) % P, column = i % (WIDE / 8) * 8;
    reinterpret_cast<Eight *>(to)[i] = *reinterpret_cast<const Eight *>(dZ.place(piece, row, column));
  }
}
template <int WIDE, class D> __device__ inline void write_rows(D dZ, int rows, float *to) {
  struct alignas(16) Four { Two v[2]; };
  for (int i = threadIdx.x; i < rows * (WIDE / 4); i += THREADS) {
    const int row = i / (WIDE / 4), column = i % (WIDE / 4) * 4;
    reinterpret_cast<Four *>(to)[i] = Four{{dZ.get(row, column), dZ.get(row, column + 2)}};
  }
}

// Sum `mine` over the threads of the block in a fixed order, with scratch all (THREADS, 2).
__device__ inline void write_sums(const double (&mine)[2], double *all, double *losses, double *rights) {
  const int t = threadIdx.x;
  all[2 * t] = mine[0], all[2 * t + 1] = mine[1];
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (t < half) all[2 * t] += all[2 * (t + half)], all[2 * t + 1] += all[2 * (t + half) + 1];
    __syncthreads();
  }
  if (t == 0) losses[blockIdx.x] = all[0], rights[blockIdx.x] = all[1];
}

// out (SIZE) = the sum of the rows of partial (blocks, SIZE), each column by eight threads in a fixed order.
extern "C" __global__ void add_up(const float *partial, int blocks, float *out) {
  float *all = reinterpret_cast<float *>(shared_memory());  // (8, 32)
  const int column = blockIdx.x * 32 + threadIdx.x % 32, group = threadIdx.x / 32;
  float sum = 0;
  if (column < SIZE)
#pragma unroll 8
    for (int block = group; block < blocks; block += 8) sum += partial[(long long)block * SIZE + column];
  all[threadIdx.x] = sum;
  __syncthreads();
  if (group == 0 && column < SIZE) {
    for (int other = 1; other < 8; ++other) sum += all[other * 32 + threadIdx.x];
    out[column] = sum;
  }
}
