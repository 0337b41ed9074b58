// One cluster of thread blocks on the CPU, so that a CUDA kernel's source can be compiled by a C++20 compiler and run.
//
//   int fault = twin::launch(blocks, threads, shared_bytes, seed, [&] { kernel(arguments...); });
//
// returns 0; 1 if threads wait for ever (a deadlock, or lanes that do not synchronise); 2 if a block wrote outside its
// shared memory. There are no static __shared__ variables: a kernel uses shared_memory(). A kernel may call the
// functions under "Device functions"; on a GPU the same names are CUDA's, or inline PTX of the kernel.
// Compile with -std=c++20 -w, and link with cuda_double.cpp, which runs the threads: what no kernel
// changes is compiled once, and every kernel's compilation is spared the headers of the C++ library.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct Dim { unsigned int x = 0, y = 0, z = 0; };
extern Dim threadIdx, blockIdx, blockDim, gridDim;

namespace twin {
struct Slot { alignas(16) char bytes[16]; };

int launch(int blocks, int threads, size_t shared_bytes, unsigned int seed, void (*kernel)(void *), void *with);
template <typename K> int launch(int blocks, int threads, size_t shared_bytes, unsigned int seed, K kernel) {
  return launch(blocks, threads, shared_bytes, seed, [](void *k) { (*(K *)k)(); }, &kernel);
}
int lane();
char *memory_of(int block);
const Slot *shuffled(const void *value, size_t bytes);  // [lane]: the values that the lanes of this warp came with
void copy_async(void *to, const void *from, int bytes);
void copy_wait(int left);
}  // namespace twin

// Device functions

#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)

void __syncthreads();
void __syncwarp(unsigned int mask = ~0u);
template <typename V> V __shfl_sync(unsigned int, V value, int source) {  // whole warps only
  V found;
  memcpy(&found, twin::shuffled(&value, sizeof value)[source & 31].bytes, sizeof value);
  return found;
}
template <typename V> V __shfl_xor_sync(unsigned int mask, V value, int bits) {
  return __shfl_sync(mask, value, twin::lane() ^ bits);
}
template <typename V> V __shfl_down_sync(unsigned int mask, V value, int by) {
  int lane = twin::lane();
  return __shfl_sync(mask, value, lane + by < 32 ? lane + by : lane);
}
unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int s);
static float __uint_as_float(unsigned int u) { float f; memcpy(&f, &u, 4); return f; }
static unsigned int __float_as_uint(float f) { unsigned int u; memcpy(&u, &f, 4); return u; }

// shared memory of this block, and the address in another block's shared memory that corresponds to `p`
int cluster_rank();
static char *shared_memory() { return twin::memory_of(cluster_rank()); }
template <typename V> V *in_block(V *p, int rank) { return (V *)(twin::memory_of(rank) + ((char *)p - shared_memory())); }

// barrier.cluster.arrive.release and .wait.acquire
void cluster_arrive();
void cluster_wait();

// cp.async, .commit_group and .wait_group; the caller must synchronise with the other threads afterwards
template <int N> void copy_async(void *to, const void *from) { twin::copy_async(to, from, N); }
void copy_commit();
template <int LEFT> void copy_wait() { twin::copy_wait(LEFT); }
static void prefetch_l2(const void *) {}

#define __expf expf
#define __logf logf
static float __fdividef(float x, float y) { return x / y; }

// tensor cores: ldmatrix, mma.m16n8k16, and conversion to pairs of bfloat16, to the nearest, ties to even
static float left_of(unsigned int pair) { return __uint_as_float(pair << 16); }
static float right_of(unsigned int pair) { return __uint_as_float(pair & 0xffff0000u); }
unsigned int rounded(float left, float right);
static float near_tanh(float x) { return tanhf(x); }
typedef const char *Place;
static Place place_of(const void *p) { return (Place)p; }
template <bool TRANSPOSED> void load_matrices(unsigned int (&f)[4], Place row) {
  twin::Slot mine;  // read before the lanes synchronise, so that another lane's write without a barrier may be missed
  memcpy(mine.bytes, row, 16);
  const twin::Slot *rows = twin::shuffled(mine.bytes, 16);
  int lane = twin::lane();
  for (int i = 0; i < 4; ++i) {
    unsigned short pair[2];
    for (int j = 0; j < 2; ++j) {
      int at = lane % 4 * 2 + j, r = TRANSPOSED ? at : lane / 4, c = TRANSPOSED ? lane / 4 : at;
      memcpy(&pair[j], rows[8 * i + r].bytes + 2 * c, 2);
    }
    f[i] = (unsigned int)pair[1] << 16 | pair[0];
  }
}
void multiply(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1);
