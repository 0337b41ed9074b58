// The steps of a cluster, and the transfers between global memory and its shared memory.

// Call visit(index, place, span) for each parameter in this block's shared memory. `index` is into the flat vectors,
// which hold padded [W; b] of each layer, or -1 for padding; `span` is the distance between a parameter and its state.
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

// Copy a row to shared memory by a warp: by the widest asynchronous copies that its size allows, else number by number.
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
  const bool keeps = rank == 0 && me >= THREADS - 32;  // the warp that sums losses for the history
  const long long done = at[0], start = done % every * stride;
  const T *rates_now = rates + (done - first[0]);
  const double steps_before = t_done[0];
  double seen[3] = {0, 0, 0}, sums[3] = {0, 0, 0};
  if (keeps) for (int j = 0; j < 3; ++j) sums[j] = history[3 * (done / every) + j];

  for (int i = me; i < BUFFERS * BATCH * ROW * (int)sizeof(U); i += THREADS) memory[FEATURES + i] = 0;
  for (int i = me; i < BATCH * units(1); i += THREADS) shared_at(DZ1)[i] = 0;  // stays 0 for units that no block owns
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

  // Add up a step's loss and the penalties that all blocks have sent; to be called after the next cluster barrier.
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
#if ONCE
    if (me >= THREADS - 32) {
      double t[1] = {steps_before + step + 1};
      SET_ETA_T
      *shared_at(ETA_T) = rule.eta_t;
    }
#endif

    int parts = features_forward(m, X, source, now);
    if (step + 1 < times && me < m) sources[next * BATCH + me] = next_source;
    __syncthreads();
#if ONCE
    rule.eta_t = *shared_at(ETA_T);
#endif
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
      // A group of lanes works on a row, and each lane on one output.
      const I *y = reinterpret_cast<const I *>(memory + TARGETS) + now * BATCH * Y;
      constexpr int k = size(L), GROUP = k <= 4 ? 4 : k <= 8 ? 8 : k <= 16 ? 16 : 32;
      constexpr bool dense = DENSE;
      const int j = lane % GROUP;
      typedef T H;
      for (int at = me / GROUP; at < (m + WARPS * 32 / GROUP - 1) / (WARPS * 32 / GROUP) * (WARPS * 32 / GROUP);
           at += WARPS * 32 / GROUP) {
        const int sample = at < m ? at : m - 1, row = sample * ld(L);
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
          losses[sample] = double(sum * weight);
          rights[sample] = COUNT && (k == 1 ? logit > T(0) : best) == y[sample];
        }
      }
    }
    __syncthreads();

    double penalty = backward<H>(rule, m);
#if !L2
    finish(step);
#endif
    penalty += features_descend(rule, m, X, source, now, T(scale));
    descend(rule, m, (WORDS + 7) / 8 * PASSES, 0, 0, 0, true, DZ1, units(1), own<1>() / 4, column_slice(1), width(1),
            width(1));
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
