// `times` steps of training by one cluster of blocks. Names in capitals, and functions of a layer, come from cluster.py,
// which says who holds what and why the barriers suffice. Layers are 0 (the features) to L (the output), H = L - 1.

constexpr int WARPS = THREADS / 32, FEW = 16, MANY = 64;
constexpr int QUADS = units(1) / 4, WORDS = (size(0) + 3) / 4, CHUNKS = (WORDS + 31) / 32, SPREAD = 128 * CHUNKS;
constexpr int UP = units(1) % 8 == 0 ? 8 : 4, PASSES = units(1) / UP;  // units of layer 1 that a thread takes at once

template <typename V> struct alignas(sizeof(V) < 4 ? 4 * sizeof(V) : 16) Four { V v[4]; };
template <typename V> __device__ __forceinline__ Four<V> four(const V *p) { return *reinterpret_cast<const Four<V> *>(p); }
template <typename V> __device__ __forceinline__ void put(V *p, const Four<V> &x) { *reinterpret_cast<Four<V> *>(p) = x; }

// Four features, as they are read; number(x, e) is one of them.
#if BYTES
typedef unsigned int Word;
// 2^23 + x, made of bytes, less 2^23: a conversion is four times slower.
__device__ __forceinline__ T number(Word x, int e) {
  return __uint_as_float(__byte_perm(x, 0x4b000000u, 0x7540u + e)) - 8388608.0f;
}
#else
typedef Four<U> Word;
__device__ __forceinline__ T number(const Word &x, int e) { return T(x.v[e]); }
#endif

__device__ __forceinline__ T activated(T z) { T g = ACTIVATION; return g; }
__device__ __forceinline__ T derived(T a, T dz) { return DERIVATIVE; }

// What changes a parameter: today's learning rate and the rule's numbers.
struct Rule {
  T rate[1], share[1], alpha, step HYPER_FIELDS;
};
__device__ __forceinline__ double change(const Rule &rule, T g, bool weight, T &w STATE_PARAMETERS) {
  double sum[1] = {0};
  const T *rate = rule.rate, *share = rule.share, alpha = weight ? rule.alpha : T(0), step = rule.step;
  HYPER_NAMES
#if L2
  ADD_L2;
#endif
  UPDATE;
  return sum[0];
}

// Sums x over the lanes that differ in BIT, BIT / 2, ... LAST. A lane keeps KEPT of them, from the index on that it returns.
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

// Of layer l, how many units are this block's own, and the first of them; padded to a multiple of 4.
template <int l> __device__ __forceinline__ int first_own() { return cluster_rank() * units(l); }
template <int l> __device__ __forceinline__ int own() {
  int left = padded(l) - first_own<l>();
  return left < 0 ? 0 : left < units(l) ? left : units(l);
}
// The columns of W that this block holds: its own, of the output all.
template <int l> __device__ __forceinline__ int first_column() { return l == L ? 0 : first_own<l>(); }

// done(row, quad, sums of A[row] W over the inputs), for 4 outputs at a time: W is [input][stride] or, by ROWS,
// [output][stride]. Eight lanes take eight rows, or of many sixteen, and four such groups share the inputs among them.
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

// W -= rule(Aᵀ dZ) for `inputs` rows of W and, with a bias, one more, of inputs that are always 1. Never inlined, so
// that two copies of a weight get equal bits. Returns the thread's part of the penalty.
__device__ __noinline__ double descend(
    Rule rule, int m, int A_at, int lda, int inputs, bool bias, int dZ_at, int ldz, int quads, int W_at, int stride,
    int span) {
  const T *A = shared_at(A_at), *dZ = shared_at(dZ_at);
  T *W = shared_at(W_at);
  int lane = threadIdx.x % 32, part = lane / 8, groups = (inputs + bias + 7) / 8;
  double penalty = 0;
  for (int tile = threadIdx.x / 32; tile < groups * quads; tile += WARPS) {
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

// Between the flat vectors, [W; b] padded, and this block's copies: visit(flat index or -1 for what is padded, place).
template <typename F> __device__ __forceinline__ void visit_features(const F &visit) {
  T *W = shared_at(W1);
  for (int i = threadIdx.x; i < QUADS * SPREAD * 4; i += THREADS) {
    int at = i / 4 % SPREAD, f = at / 128 * 128 + at % 32 * 4 + at % 128 / 32;
    int unit = i / 4 / SPREAD * 4 + i % 4, column = first_own<1>() + unit;
    visit(f < size(0) && column < size(1) ? flat(1) + f * columns(1) + column : -1, W + i, QUADS * SPREAD * 4);
  }
}
template <int l, typename F> __device__ __forceinline__ void visit_columns(const F &visit) {
  T *W = shared_at(column_slice(l));
  constexpr int rows = inputs(l);
  for (int i = threadIdx.x; i < (rows + 1) * width(l); i += THREADS) {
    int row = i / width(l), column = first_column<l>() + i % width(l), source = row == rows ? size(l - 1) : row;
    bool there = (row == rows || row < size(l - 1)) && column < size(l);
    visit(there ? flat(l) + source * columns(l) + column : -1, W + i, (rows + 1) * width(l));
  }
}
template <int l, typename F> __device__ __forceinline__ void visit_rows(const F &visit) {
  T *W = shared_at(row_slice(l));
  constexpr int n = units(l - 1) * padded(l);
  for (int i = threadIdx.x; i < n; i += THREADS) {
    int row = first_own<l - 1>() + i / padded(l), column = i % padded(l);
    visit(row < size(l - 1) && column < size(l) ? flat(l) + row * columns(l) + column : -1, W + i, n);
  }
}
template <int l, typename F> __device__ __forceinline__ void visit_all(bool copies, const F &visit) {
  if constexpr (l == 1) visit_features(visit);
  if (copies || l < L || cluster_rank() == 0) visit_columns<l>(visit);
  if constexpr (l > 1 && l < L) if (copies) visit_rows<l>(visit);
  if constexpr (l < L) visit_all<l + 1>(copies, visit);
}

// Features lie in shared memory, or where they are stored: all of them, and the place of a row, in words.
__device__ __forceinline__ const Word *features(const U *X) {
  return reinterpret_cast<const Word *>(BUFFERS ? reinterpret_cast<const U *>(shared_memory() + FEATURES) : X);
}
__device__ __forceinline__ unsigned int row_at(const long long *source, int buffer, int row) {
  return BUFFERS ? (buffer * BATCH + row) * (ROW / 4) : (unsigned int)(source[row] * (size(0) / 4));
}

// Sums of X W for this block's units, in parts of the features: scratch [part][row][unit]. Returns the parts.
__device__ __forceinline__ int features_forward(int m, const U *X, const long long *source, int buffer) {
  int lane = threadIdx.x % 32, groups = (m + R - 1) / R, parts = WARPS / groups;
  parts = parts < 1 ? 1 : parts < CHUNKS ? parts : CHUNKS;
  const T *W = shared_at(W1);
  T *scratch = shared_at(SCRATCH);
  for (int tile = threadIdx.x / 32; tile < groups * parts * PASSES; tile += WARPS) {
    int group = tile % groups, part = tile / groups % parts, pass = tile / groups / parts;
    T sum[R * UP] = {};
    unsigned int row[R];
#pragma unroll
    for (int r = 0; r < R; ++r) row[r] = row_at(source, buffer, R * group + r < m ? R * group + r : m - 1);
    for (int chunk = part; chunk < CHUNKS; chunk += parts) {
      int word = 32 * chunk + lane;
      if (word < WORDS) {
        Word x[R];
#pragma unroll
        for (int r = 0; r < R; ++r) x[r] = features(X)[row[r] + word];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          Four<T> w[UP / 4];
#pragma unroll
          for (int g = 0; g < UP / 4; ++g)
            w[g] = four(W + ((pass * (UP / 4) + g) * SPREAD + 128 * chunk + 32 * e + lane) * 4);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            T a = number(x[r], e);
#pragma unroll
            for (int u = 0; u < UP; ++u) sum[r * UP + u] += a * w[u / 4].v[u % 4];
          }
        }
      }
    }
    typedef Fold<R * UP, 16, 1> Sum;
    int first = Sum::run(sum, lane);
#pragma unroll
    for (int i = 0; i < Sum::KEPT; ++i) {
      int r = (first + i) / UP, u = (first + i) % UP;
      scratch[((part * groups + group) * R + r) * units(1) + pass * UP + u] = sum[i];
    }
  }
  return parts;
}

// W1 -= rule(scale Xᵀ dZ1). Eight lanes take eight words of four features. Four such groups share the rows, and then
// each has one of the four features; of few rows each takes all, and its feature from the first.
__device__ __forceinline__ double features_descend(
    const Rule &rule, int m, const U *X, const long long *source, int buffer, T scale) {
  constexpr int span = QUADS * SPREAD * 4, groups = (WORDS + 7) / 8;
  int lane = threadIdx.x % 32, part = lane / 8;
  const T *dZ = shared_at(DZ1);
  double penalty = 0;
  for (int tile = threadIdx.x / 32; tile < groups * PASSES; tile += WARPS) {
    int word = 8 * (tile % groups) + lane % 8, pass = tile / groups, from = word < WORDS ? word : 0;
    T sum[4 * UP] = {};
    if constexpr (BATCH <= FEW) {
#pragma unroll 2
      for (int r = 0; r < m; ++r) {
        const Word *x = features(X) + row_at(source, buffer, r) + from;
#if BYTES
        T a = number(*x, part);
#else
        T a = x->v[part];
#endif
#pragma unroll
        for (int g = 0; g < UP / 4; ++g) {
          Four<T> dz = four(dZ + r * units(1) + pass * UP + 4 * g);
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[4 * g + j] += a * dz.v[j];
        }
      }
    } else {
#pragma unroll 2
      for (int r = part; r < m; r += 4) {
        Word x = features(X)[row_at(source, buffer, r) + from];
        Four<T> dz[UP / 4];
#pragma unroll
        for (int g = 0; g < UP / 4; ++g) dz[g] = four(dZ + r * units(1) + pass * UP + 4 * g);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          T a = number(x, e);
#pragma unroll
          for (int u = 0; u < UP; ++u) sum[e * UP + u] += a * dz[u / 4].v[u % 4];
        }
      }
      Fold<4 * UP, 16, 8>::run(sum, lane);
    }
    if (word < WORDS) {
      int at = word / 32 * 128 + 32 * part + word % 32;
#pragma unroll
      for (int g = 0; g < UP / 4; ++g) {
        T *place = shared_at(W1) + ((pass * (UP / 4) + g) * SPREAD + at) * 4;
        Four<T> w = four(place) STATE_FOUR(place, span);
#pragma unroll
        for (int j = 0; j < 4; ++j) penalty += change(rule, scale * sum[4 * g + j], true, w.v[j] STATE_OF_FOUR(j));
        put(place, w);
        STATE_PUT(place, span)
      }
    }
  }
  return penalty;
}

// Four units of layer l in row r, into every block, a quarter of them by each of four lanes.
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

// From dZ of layer l + 1, whole, to that of layer l; every change of weights that it allows.
template <int l> __device__ __forceinline__ double backward(const Rule &rule, int m) {
  double penalty = 0;
  const T *A = shared_at(outputs(l)), *dZ = shared_at(errors(l + 1));
  const T *W = l + 1 == L ? shared_at(column_slice(L)) + first_own<l>() * width(L) : shared_at(row_slice(l + 1 < L ? l + 1 : L));
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
    double mine = descend(rule, m, outputs(l), ld(l), inputs(L), true, errors(L), ld(L), padded(L) / 4,
                          column_slice(L), width(L), (inputs(L) + 1) * width(L));
    if (cluster_rank() == 0) penalty += mine;
    if constexpr (H == 1) cluster_arrive();  // the others' next outputs may come
  }
  if constexpr (l > 1) {
    penalty += descend(rule, m, outputs(l - 1), ld(l - 1), inputs(l), true,
                       errors(l) + first_own<l>() * (int)sizeof(T), ld(l), own<l>() / 4, column_slice(l), width(l),
                       (inputs(l) + 1) * width(l));
    cluster_arrive();
  }
  if constexpr (l < H)
    descend(rule, m, outputs(l) + first_own<l>() * (int)sizeof(T), ld(l), own<l>(), false, errors(l + 1), ld(l + 1),
            padded(l + 1) / 4, row_slice(l + 1), padded(l + 1), units(l) * padded(l + 1));
  if constexpr (l > 1) {
    cluster_wait();
    penalty += backward<l - 1>(rule, m);
  }
  return penalty;
}

// Bytes that come by asynchronous copies of the widest kind that rows allow, else one number at a time.
template <typename V, int N> __device__ __forceinline__ void bring(V *to, const V *from) {
  constexpr int bytes = N * sizeof(V), wide = bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 0;
  int lane = threadIdx.x % 32;
  if constexpr (wide > 0)
    for (int i = lane; i < bytes / wide; i += 32)
      copy_async<wide>(reinterpret_cast<char *>(to) + i * wide, reinterpret_cast<const char *>(from) + i * wide);
  else
    for (int i = lane; i < N; i += 32) to[i] = from[i];
}
__device__ __forceinline__ void bring_all(int m, const U *X, const I *y, const long long *source, int buffer) {
  U *into = reinterpret_cast<U *>(shared_memory() + FEATURES) + buffer * BATCH * ROW;
  I *targets = reinterpret_cast<I *>(shared_memory() + TARGETS) + buffer * BATCH * Y;
  for (int r = threadIdx.x / 32; r < m; r += WARPS) {
    const U *row = X + source[r] * size(0);
#if BUFFERS
    bring<U, size(0)>(into + r * ROW, row);
#else
    for (int i = 128 * (threadIdx.x % 32); i < size(0) * (int)sizeof(U); i += 4096)
      if (r % BLOCKS == cluster_rank()) prefetch_l2(reinterpret_cast<const char *>(row) + i);
#endif
    bring<I, Y>(targets + r * Y, y + source[r] * Y);
  }
  copy_commit();
}

extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1) steps_of_a_cluster(
    const U *X, const I *y, const long long *order, T *params, T *state_1, T *state_2, const T *rates,
    const long long *first, double *totals, double *history, long long *at, double *t_done, T *rate_now,
    long long every, long long stride, int ordered, int m, int times, double scale, double portion, double alpha
    HYPER_PARAMETERS) {
  char *memory = shared_memory();
  const int me = threadIdx.x, lane = me % 32, rank = cluster_rank();
  long long *sources = reinterpret_cast<long long *>(memory + SOURCES);
  double *losses = reinterpret_cast<double *>(memory + LOSSES), *rights = losses + BATCH;
  double *penalties = reinterpret_cast<double *>(memory + PENALTIES), *partial = penalties + 2 * BLOCKS;
  const bool keeps = rank == 0 && me >= THREADS - 32;  // the warp that adds up
  const long long done = at[0], start = done % every * stride;
  const T *rates_now = rates + (done - first[0]);
  const double steps_before = t_done[0];
  double seen[3] = {0, 0, 0}, sums[3] = {0, 0, 0};
  if (keeps) for (int j = 0; j < 3; ++j) sums[j] = history[3 * (done / every) + j];

  for (int i = me; i < BUFFERS * BATCH * ROW * (int)sizeof(U); i += THREADS) memory[FEATURES + i] = 0;
  for (int i = me; i < BATCH * units(1); i += THREADS) shared_at(DZ1)[i] = 0;  // of units that are nobody's it stays 0
  T *vectors[3] = {params, state_1, state_2};
  visit_all<1>(true, [&](int from, T *to, int span) {
    for (int j = 0; j <= STATES; ++j) to[j * span] = from < 0 ? T(0) : vectors[j][from];
  });
  auto source_of = [&](int step) {
    long long row = start + step * stride + me;
    return ordered ? order[row] : row;
  };
  if (me < m) sources[me] = source_of(0);
  T rate = rates_now[0], next_rate = rate;
  __syncthreads();
  bring_all(m, X, y, sources, 0);
  meet_cluster();

  // Of a step: its loss, with the penalties that every block has sent, which have come by the next barrier.
  auto finish = [&](int step) {
    if (!keeps) return;
    double loss = 0, right = 0, penalty = 0;
    for (int r = lane; r < m; r += 32) loss += losses[r], right += rights[r];
    for (int bit = 16; bit > 0; bit /= 2) {
      loss += __shfl_xor_sync(0xffffffffu, loss, bit);
      right += __shfl_xor_sync(0xffffffffu, right, bit);
    }
#if L2
    for (int c = 0; c < BLOCKS; ++c) penalty += penalties[step % 2 * BLOCKS + c];
#endif
    seen[0] = loss + penalty, seen[1] = penalty, seen[2] = right;
    sums[0] += (loss + penalty) * portion;
    sums[1] += penalty * portion;
    sums[2] += right;
  };
  auto send_penalty = [&](int step) {
#if L2
    if (me != 0) return;
    double sum = 0;
    for (int w = 0; w < WARPS; ++w) sum += partial[w];
    *in_block(penalties + step % 2 * BLOCKS + rank, 0) = sum;
#endif
  };

  for (int step = 0; step < times; ++step) {
    const int now = step % 2, next = 1 - now;
    const long long *source = sources + now * BATCH;
    copy_wait<0>();
    __syncthreads();
    if (step > 0) send_penalty(step - 1);
    long long next_source = 0;
    if (step + 1 < times) {
      if (me < m) next_source = source_of(step + 1);
      next_rate = rates_now[step + 1];
    }
    Rule rule = {{rate}, {T(1.0 / m)}, T(alpha), T(0) HYPER_VALUES};
    {
      double t[1] = {steps_before + step + 1};
      RULE_STEP
    }

    int parts = features_forward(m, X, source, now);
    if (step + 1 < times && me < m) sources[next * BATCH + me] = next_source;
    __syncthreads();
    if (step + 1 < times) bring_all(m, X, y, sources + next * BATCH, next);
    if (H == 1 && step > 0) cluster_wait();
    {
      const T *scratch = shared_at(SCRATCH), *b = shared_at(column_slice(1));
      const int quads = own<1>() / 4, rows = (m + R - 1) / R * R;
      for (int item = me; item < 4 * m * quads; item += THREADS) {
        int part = item % 4, quad = item / 4 % quads, r = item / 4 / quads, unit = first_own<1>() + 4 * quad;
        T sum[4] = {};
        for (int p = 0; p < parts; ++p) {
          Four<T> x = four(scratch + (p * rows + r) * units(1) + 4 * quad);
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[j] += x.v[j];
        }
        Four<T> a;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          T g = activated(T(scale) * sum[j] + b[4 * quad + j]);
          a.v[j] = unit + j < size(1) ? g : T(0);
        }
        publish(shared_at(outputs(1)) + r * ld(1) + unit, a, part);
      }
    }
    meet_cluster();
#if L2
    if (step > 0) finish(step - 1);
#endif
    forward<2>(m);

    T *Z = shared_at(errors(L)), *dZ = Z;
    {
      const T *W = shared_at(column_slice(L));
      product<false>(m, shared_at(outputs(H)), ld(H), inputs(L), W, width(L), padded(L) / 4,
        [&](int r, int quad, const T *sum, int part) {
          Four<T> z;
#pragma unroll
          for (int j = 0; j < 4; ++j) z.v[j] = sum[j] + W[inputs(L) * width(L) + 4 * quad + j];
          if (part == 0) put(Z + r * ld(L) + 4 * quad, z);
        });
    }
    __syncthreads();
    {
      // A row to a group of lanes, an output to each.
      const I *y = reinterpret_cast<const I *>(memory + TARGETS) + now * BATCH * Y;
      constexpr int k = size(L), GROUP = k <= 4 ? 4 : k <= 8 ? 8 : k <= 16 ? 16 : 32, n = 1 << 30;  // no row repeats
      constexpr bool dense = DENSE;
      const int j = lane % GROUP;
      typedef T H;
      for (int at = me / GROUP; at < (m + WARPS * 32 / GROUP - 1) / (WARPS * 32 / GROUP) * (WARPS * 32 / GROUP);
           at += WARPS * 32 / GROUP) {
        const int i = at < m ? at : m - 1, row = i * ld(L);
        const T logit = Z[row + (j < k ? j : 0)], weight = rule.share[0], up = weight;
        T top = logit, sum = 0;
        int best = j;
        for (int bit = GROUP / 2; bit > 0; bit /= 2) {
          T other = __shfl_xor_sync(0xffffffffu, top, bit);
          int its = __shfl_xor_sync(0xffffffffu, best, bit);
          if (other > top || (other == top && its < best)) top = other, best = its;
        }
        auto over_outputs = [](T x) {
          for (int bit = GROUP / 2; bit > 0; bit /= 2) x += __shfl_xor_sync(0xffffffffu, x, bit);
          return x;
        };
#if SOFTMAX
        const T z = logit - top, target = j < k ? TARGET : T(0), e = j < k ? exp(z) : T(0);
        const T total = over_outputs(e), picked = over_outputs(target != T(0) ? target * z : T(0));
        if (at < m && j < k) dZ[row + j] = (e / total - target) * up;
        if (j == 0) sum = log(total) - picked;
#else
        if (at < m) {
          LOSS
        }
#endif
        sum = over_outputs(sum);
        if (at < m && j >= k && j < padded(L)) dZ[row + j] = 0;
        if (at < m && j == 0) {
          losses[i] = double(sum * weight);
          rights[i] = COUNT && (k == 1 ? logit > T(0) : best) == y[i];
        }
      }
    }
    __syncthreads();

    double penalty = backward<H>(rule, m);
#if !L2
    finish(step);
#endif
    penalty += features_descend(rule, m, X, source, now, T(scale));
    descend(rule, m, 0, 0, 0, true, DZ1, units(1), own<1>() / 4, column_slice(1), width(1), width(1));
#if L2
    for (int bit = 16; bit > 0; bit /= 2) penalty += __shfl_xor_sync(0xffffffffu, penalty, bit);
    if (lane == 0) partial[me / 32] = penalty;
#endif
    if (step + 1 < times) rate = next_rate;
  }
  __syncthreads();
  send_penalty(times - 1);
  if (H == 1) cluster_wait();
  meet_cluster();
#if L2
  finish(times - 1);
#endif
  visit_all<1>(false, [&](int to, const T *from, int span) {
    if (to >= 0) for (int j = 0; j <= STATES; ++j) vectors[j][to] = from[j * span];
  });
  if (keeps && lane == 0) {
    for (int j = 0; j < 3; ++j) totals[j] = seen[j], history[3 * (done / every) + j] = sums[j];
    at[0] = done + times;
    t_done[0] = steps_before + times;
    rate_now[0] = rate;
  }
}
