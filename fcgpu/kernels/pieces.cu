// Matrices in shared memory for products on tensor cores, in P pieces.

struct Two { float x, y; };
struct alignas(16) Sixteen { unsigned words[4]; };

// (M, N) float32 numbers in shared memory, stored as P bfloat16 matrices, the pieces, whose sum they are. Each piece is
// the remainder of those before it, rounded to bfloat16; three pieces are exact. Rows are 16 bytes longer than a
// multiple of 32, so that the eight rows that tensor cores read at once are in different banks.
template <int M, int N> struct Matrix {
  static constexpr int rows = M, columns = N, stride = N + 8;
  bf16 *at;

  __device__ bf16 *place(int piece, int row, int column) const { return at + (piece * M + row) * stride + column; }

  // Store v in columns `column`, which must be even, and column + 1.
  __device__ void put(int row, int column, Two v) const {
#pragma unroll
    for (int piece = 0; piece < P; ++piece) {
      unsigned pair = rounded(v.x, v.y);
      *reinterpret_cast<unsigned *>(place(piece, row, column)) = pair;
      v.x -= left_of(pair), v.y -= right_of(pair);
    }
  }
  // The same for four columns, the first of which must be a multiple of 4.
  __device__ void put(int row, int column, Two v, Two w) const {
    struct alignas(8) Pairs { unsigned left, right; };
#pragma unroll
    for (int piece = 0; piece < P; ++piece) {
      const Pairs pairs = {rounded(v.x, v.y), rounded(w.x, w.y)};
      *reinterpret_cast<Pairs *>(place(piece, row, column)) = pairs;
      v.x -= left_of(pairs.left), v.y -= right_of(pairs.left);
      w.x -= left_of(pairs.right), w.y -= right_of(pairs.right);
    }
  }
  __device__ Two get(int row, int column) const {
    Two v = {0, 0};
#pragma unroll
    for (int piece = P - 1; piece >= 0; --piece) {
      unsigned pair = *reinterpret_cast<const unsigned *>(place(piece, row, column));
      v.x += left_of(pair), v.y += right_of(pair);
    }
    return v;
  }
};

// Where this lane loads a row of four 8 x 8 matrices from, of the 16 x 16 numbers at (row, column) of a piece. The four
// are ordered down first or, SIDEWAYS, across first.
template <bool SIDEWAYS, class Numbers> __device__ inline Place lanes_place(Numbers m, int piece, int row, int column) {
  const int lane = threadIdx.x % 32;
  return place_of(SIDEWAYS ? m.place(piece, row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8)
                           : m.place(piece, row + lane % 16, column + lane / 16 * 8));
}

// Add the product of a and b, 16 x 16 numbers each, to the tiles sum[0] and sum[1]. Products of pieces i and j with
// i + j >= P are too small and left out. All but that of the two first pieces are summed in `small`, to be added last.
__device__ inline void multiply_pieces(float (*sum)[4], float (*small)[4], const unsigned (&a)[P][4],
                                       const unsigned (&b)[P][4]) {
#pragma unroll
  for (int order = P - 1; order >= 0; --order)
#pragma unroll
    for (int i = 0; i <= order; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        multiply((order ? small : sum)[half], a[i], b[order - i][2 * half], b[order - i][2 * half + 1]);
}
