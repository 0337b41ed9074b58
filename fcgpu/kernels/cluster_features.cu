// Layer 1 of a cluster, which does nearly all of the arithmetic. Its inputs are features as stored, four to a word.

// The features, in shared or global memory, and the index of a row's first word. 32 bits are enough, which `fitting`
// ensures; 64-bit indices would need more registers than there are.
__device__ __forceinline__ const Word *features(const U *X) {
  return reinterpret_cast<const Word *>(BUFFERS ? reinterpret_cast<const U *>(shared_memory() + FEATURES) : X);
}
__device__ __forceinline__ unsigned int row_at(const long long *source, int buffer, int row) {
  return BUFFERS ? (buffer * BATCH + row) * (ROW / 4) : (unsigned int)(source[row] * (size(0) / 4));
}

// scratch [part][row][unit] = X W for this block's units, summed over a part of the features. Returns how many parts.
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

// Update W1 with the gradient scale X^T dZ1. Eight lanes take eight words of four features. Four such groups of lanes
// share the rows, and fold their sums so that each keeps one of the four features; in a small batch (BATCH <= FEW) each
// group takes all rows, but only its own feature.
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
