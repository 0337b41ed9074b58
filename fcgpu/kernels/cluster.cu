// `times` steps of training by one cluster of blocks. Names in capitals and functions of a layer's number are defined
// by cluster.py, which explains what each block holds and why the barriers suffice. Layers are numbered from 0 (the
// features) to L (the output); H = L - 1.

constexpr int WARPS = THREADS / 32, FEW = 16, MANY = 64;
constexpr int QUADS = units(1) / 4, WORDS = (size(0) + 3) / 4, CHUNKS = (WORDS + 31) / 32, SPREAD = 128 * CHUNKS;
constexpr int UP = units(1) % 8 == 0 ? 8 : 4, PASSES = units(1) / UP;  // UP units of layer 1 per thread and pass

template <typename V> struct alignas(sizeof(V) < 4 ? 4 * sizeof(V) : 16) Four { V v[4]; };
template <typename V> __device__ __forceinline__ Four<V> four(const V *p) {
  return *reinterpret_cast<const Four<V> *>(p);
}
template <typename V> __device__ __forceinline__ void put(V *p, const Four<V> &x) {
  *reinterpret_cast<Four<V> *>(p) = x;
}

// A word is four features as stored; number(x, e) is feature e of them.
#if BYTES
typedef unsigned int Word;
// Put the byte x into the mantissa of 2^23 and subtract 2^23: four times as fast as a conversion.
__device__ __forceinline__ T number(Word x, int e) {
  return __uint_as_float(__byte_perm(x, 0x4b000000u, 0x7540u + e)) - 8388608.0f;
}
#else
typedef Four<U> Word;
__device__ __forceinline__ T number(const Word &x, int e) { return T(x.v[e]); }
#endif

__device__ __forceinline__ T activated(T z) { T g = ACTIVATION; return g; }
__device__ __forceinline__ T derived(T a, T dz) { return DERIVATIVE; }

// What an update needs besides state and gradient: the learning rate of this step and the rule's numbers.
struct Rule {
  T rate[1], share[1], alpha, eta_t HYPER_FIELDS;
};
__device__ __forceinline__ double change(const Rule &rule, T g, bool weight, T &w STATE_PARAMETERS) {
  double sum[1] = {0};
  const T *rate = rule.rate, *share = rule.share, alpha = weight ? rule.alpha : T(0), eta_t = rule.eta_t;
  HYPER_NAMES
#if L2
  ADD_L2;
#endif
  UPDATE;
  return sum[0];
}

// Sum each of the N entries of x over the lanes that differ in the bits BIT, BIT / 2, ... LAST. A lane ends up with
// KEPT of the sums, in x[0] to x[KEPT - 1]; `run` returns the index of the first.
template <int N, int BIT, int LAST> struct Fold {
  static constexpr bool halves = N % 2 == 0;
  typedef Fold<halves ? N / 2 : N, BIT / 2, LAST> Next;
  static constexpr int KEPT = Next::KEPT;
  static __device__ __forceinline__ int run(T *x, int lane) {
    bool upper = (lane & BIT) != 0;
    if constexpr (halves) {
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        T low = x[i], high = x[i + N / 2];
        x[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, BIT);
      }
      return (upper ? N / 2 : 0) + Next::run(x, lane);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] += __shfl_xor_sync(0xffffffffu, x[i], BIT);
      return Next::run(x, lane);
    }
  }
};
template <int N, int LAST> struct Fold<N, LAST / 2, LAST> {
  static constexpr int KEPT = N;
  static __device__ __forceinline__ int run(T *, int) { return 0; }
};
template <int N> struct Fold<N, 0, 1> {
  static constexpr int KEPT = N;
  static __device__ __forceinline__ int run(T *, int) { return 0; }
};

__device__ __forceinline__ T *shared_at(int offset) { return reinterpret_cast<T *>(shared_memory() + offset); }
__device__ __forceinline__ void meet_cluster() { cluster_arrive(); cluster_wait(); }

// The first of this block's own units of layer l, and how many it has, padded to a multiple of 4.
template <int l> __device__ __forceinline__ int first_own() { return cluster_rank() * units(l); }
template <int l> __device__ __forceinline__ int own() {
  int left = padded(l) - first_own<l>();
  return left < 0 ? 0 : left < units(l) ? left : units(l);
}
// The first column of W that this block holds: of its own units; for the output layer, which it holds whole, 0.
template <int l> __device__ __forceinline__ int first_column() { return l == L ? 0 : first_own<l>(); }

// Call done(row, quad, sums, part), with the sums of A[row] W over the inputs, for 4 outputs (a quad) at a time. W is
// [input][stride] or, with ROWS, [output][stride]. Eight lanes take eight rows, in large batches sixteen; four such
// groups of lanes, the parts, share the inputs.
template <bool ROWS, typename F>
__device__ __forceinline__ void product(
    int m, const T *A, int lda, int inputs, const T *W, int stride, int quads, const F &done) {
  constexpr int EACH = BATCH < MANY ? 1 : 2;
  int lane = threadIdx.x % 32, part = lane / 8, groups = (m + 8 * EACH - 1) / (8 * EACH);
  for (int tile = threadIdx.x / 32; tile < groups * quads; tile += WARPS) {
    int quad = tile / groups, first = 8 * EACH * (tile % groups) + lane % 8;
    T sum[EACH][4] = {};
#pragma unroll 4
    for (int i = 4 * part; i < inputs; i += 16) {
      Four<T> a[EACH];
#pragma unroll
      for (int r = 0; r < EACH; ++r) a[r] = four(A + (first + 8 * r < m ? first + 8 * r : m - 1) * lda + i);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        Four<T> w = four(W + (ROWS ? (4 * quad + e) * stride + i : (i + e) * stride + 4 * quad));
#pragma unroll
        for (int r = 0; r < EACH; ++r)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[r][ROWS ? e : j] += a[r].v[ROWS ? j : e] * w.v[j];
      }
    }
#pragma unroll
    for (int r = 0; r < EACH; ++r) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum[r][j] += __shfl_xor_sync(0xffffffffu, sum[r][j], 16);
        sum[r][j] += __shfl_xor_sync(0xffffffffu, sum[r][j], 8);
      }
      if (first + 8 * r < m) done(first + 8 * r, quad, sum[r], part);
    }
  }
}

// Update `inputs` rows of W with the gradient A^T dZ and, with `bias`, one more row, whose input is always 1. Never
// inlined, so that both copies of a weight get the same bits. `before` tiles have been dealt to the warps already; this
// deals on from there. Returns the thread's part of the penalty.
__device__ constexpr int tiles(int rows, int quads) { return (rows + 7) / 8 * quads; }
__device__ __noinline__ double descend(
    Rule rule, int m, int before, int A_at, int lda, int inputs, bool bias, int dZ_at, int ldz, int quads, int W_at,
    int stride, int span) {
  const T *A = shared_at(A_at), *dZ = shared_at(dZ_at);
  T *W = shared_at(W_at);
  int lane = threadIdx.x % 32, part = lane / 8, groups = (inputs + bias + 7) / 8;
  double penalty = 0;
  for (int tile = (threadIdx.x / 32 + WARPS - before % WARPS) % WARPS; tile < groups * quads; tile += WARPS) {
    int quad = tile / groups, i = 8 * (tile % groups) + lane % 8;
    T sum[4] = {};
#pragma unroll 4
    for (int r = part; r < m; r += 4) {
      T a = i < inputs ? A[r * lda + i] : T(1);
      Four<T> dz = four(dZ + r * ldz + 4 * quad);
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[j] += a * dz.v[j];
    }
    Fold<4, 16, 8>::run(sum, lane);
    if (i < inputs + bias) {
      T *w = W + i * stride + 4 * quad + part;
      penalty += change(rule, sum[0], i < inputs, w[0] STATE_AT(w, span));
    }
  }
  return penalty;
}

// Write four units of a row to `place` in every block; each of four lanes (`part`) writes to a quarter of the blocks.
__device__ __forceinline__ void publish(T *place, const Four<T> &x, int part) {
#pragma unroll
  for (int c = 0; c < BLOCKS; c += 4)
    if (c + part < BLOCKS) put(in_block(place, c + part), x);
}

template <int l> __device__ __forceinline__ void forward(int m) {
  if constexpr (l <= H) {
    const T *W = shared_at(column_slice(l));
    product<false>(m, shared_at(outputs(l - 1)), ld(l - 1), inputs(l), W, width(l), own<l>() / 4,
      [&](int r, int quad, const T *sum, int part) {
        Four<T> a;
        int unit = first_own<l>() + 4 * quad;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          T g = activated(sum[j] + W[inputs(l) * width(l) + 4 * quad + j]);
          a.v[j] = unit + j < size(l) ? g : T(0);
        }
        publish(shared_at(outputs(l)) + r * ld(l) + unit, a, part);
      });
    meet_cluster();
    forward<l + 1>(m);
  }
}

// From all of dZ of layer l + 1 to this block's part of dZ of layer l, with every weight update that is possible then.
template <int l> __device__ __forceinline__ double backward(const Rule &rule, int m) {
  double penalty = 0;
  int before = 0;
  const T *A = shared_at(outputs(l)), *dZ = shared_at(errors(l + 1));
  const T *W = l + 1 == L ? shared_at(column_slice(L)) + first_own<l>() * width(L) : shared_at(row_slice(l + 1));
  product<true>(m, dZ, ld(l + 1), padded(l + 1), W, padded(l + 1), own<l>() / 4,
    [&](int r, int quad, const T *sum, int part) {
      Four<T> dz;
      int unit = first_own<l>() + 4 * quad;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        T d = derived(A[r * ld(l) + unit + j], sum[j]);
        dz.v[j] = unit + j < size(l) ? d : T(0);
      }
      if constexpr (l > 1) publish(shared_at(errors(l)) + r * ld(l) + unit, dz, part);
      else if (part == 0) put(shared_at(DZ1) + r * units(1) + 4 * quad, dz);
    });
  __syncthreads();
  if constexpr (l == H) {
    double mine = descend(rule, m, before, outputs(l), ld(l), inputs(L), true, errors(L), ld(L), padded(L) / 4,
                          column_slice(L), width(L), (inputs(L) + 1) * width(L));
    before += tiles(inputs(L) + 1, padded(L) / 4);
    if (cluster_rank() == 0) penalty += mine;
    if constexpr (H == 1) cluster_arrive();  // from now on other blocks may overwrite this block's A
  }
  if constexpr (l > 1) {
    penalty += descend(rule, m, before, outputs(l - 1), ld(l - 1), inputs(l), true,
                       errors(l) + first_own<l>() * (int)sizeof(T), ld(l), own<l>() / 4, column_slice(l), width(l),
                       (inputs(l) + 1) * width(l));
    before += tiles(inputs(l) + 1, own<l>() / 4);
    cluster_arrive();
  }
  if constexpr (l < H)
    descend(rule, m, before, outputs(l) + first_own<l>() * (int)sizeof(T), ld(l), own<l>(), false, errors(l + 1),
            ld(l + 1), padded(l + 1) / 4, row_slice(l + 1), padded(l + 1), units(l) * padded(l + 1));
  if constexpr (l > 1) {
    cluster_wait();
    penalty += backward<l - 1>(rule, m);
  }
  return penalty;
}
