// Device functions for kernels that include no header: PTX instructions. The tests' GPU emulator replaces this file.

// Shared memory of this block, and of the other blocks of its cluster.

__device__ __forceinline__ char *shared_memory() {
  extern __shared__ __align__(1024) char memory[];
  return memory;
}
__device__ __forceinline__ int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// The address in another block's shared memory that corresponds to p in this block's.
template <typename V> __device__ __forceinline__ V *in_block(V *p, int rank) {
  V *there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
  return there;
}
__device__ __forceinline__ void cluster_arrive() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
template <int N> __device__ __forceinline__ void copy_async(void *to, const void *from) {
  unsigned int target;
  asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(target) : "l"(to));
  if constexpr (N == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(from) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(from), "n"(N) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
__device__ __forceinline__ void prefetch_l2(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Tensor cores. Of a 16 x 16 matrix lane l holds four pairs of neighbours: in rows l / 4 and l / 4 + 8, from columns
// 2 (l % 4) and 2 (l % 4) + 8 on. A pair is two bfloat16 in 32 bits, the left one in the lower half.

__device__ inline unsigned rounded(float left, float right) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(right), "f"(left));
  return pair;
}

__device__ inline float left_of(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float right_of(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// tanh to 11 bits, in one instruction.
__device__ inline float near_tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A 32-bit address in shared memory, as the instructions below take it.
typedef unsigned Place;
__device__ inline Place place_of(const void *p) {
  Place at;
  asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(at) : "l"(p));
  return at;
}

// Load four 8 x 8 matrices from shared memory, each row 16 bytes; lane 8 i + r passes the address of row r of matrix i.
template <bool TRANSPOSED> __device__ inline void load_matrices(unsigned (&f)[4], Place row) {
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(row) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]) : "r"(row) : "memory");
}

// c (16, 8) += a (16, 16) b (16, 8). In lane l c[0], c[1] are neighbours in row l / 4, and c[2], c[3] in row l / 4 + 8.
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
