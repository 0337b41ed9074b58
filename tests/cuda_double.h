// One cluster of thread blocks on the CPU, so that a CUDA kernel's source can be compiled by a C++20 compiler and run.
//
// Every thread is a fiber. A warp runs, its lanes in an order drawn from the seed, until its lanes wait or synchronise.
// Then a ready warp is drawn, preferably from a block that the seed lets run ahead. A missing barrier therefore shows
// as other bits for another seed, or as NaN: shared memory begins as 0xff, and so does the target of an asynchronous
// copy until the copy is waited for.
//
//   int fault = twin::launch(blocks, threads, shared_bytes, seed, [&] { kernel(arguments...); });
//
// returns 0; 1 if threads wait for ever (a deadlock, or lanes that do not synchronise); 2 if a block wrote outside its
// shared memory. There are no static __shared__ variables: a kernel uses shared_memory(). A kernel may call the
// functions under "Device functions"; on a GPU the same names are CUDA's, or inline PTX of the kernel.
// Compile with -std=c++20 -w -fvisibility=hidden, without -D_FORTIFY_SOURCE, whose longjmp refuses to change stacks.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <algorithm>
#include <functional>
#include <random>
#include <vector>

struct Dim { unsigned int x = 0, y = 0, z = 0; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

namespace twin {
enum Wait { READY, WARP, BLOCK, CLUSTER, ENDED };
struct Copy { char *to; const char *from; int bytes; };
struct Fiber {
  jmp_buf at;
  bool started = false;
  Wait wait = READY;
  long phase = 0, shuffles = 0;  // phase of the cluster barrier at the last arrival; number of shuffles so far
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};
struct Slot { alignas(16) char bytes[16]; };

static const size_t STACK = 64 << 10, GUARD = 4096;
static std::vector<Fiber> fibers;
static std::vector<char *> memory;          // one for each block
static std::vector<std::vector<Slot>> slots;  // [2 warp + parity][lane]
static std::vector<int> at_block_barrier, at_warp_barrier;
static std::vector<bool> listed;
static std::vector<int> ready;              // warps with a lane that can run
static int n_blocks, n_threads, at_cluster_barrier, current;
static size_t shared_bytes;
static long cluster_phase;
static jmp_buf scheduler;
static ucontext_t context, outside;
static std::function<void()> body;
static char *stacks;
static std::mt19937 dice;

static int warps() { return n_threads / 32; }
static void wake(int fiber) {
  fibers[fiber].wait = READY;
  int warp = fiber / 32;
  if (!listed[warp]) listed[warp] = true, ready.push_back(warp);
}
static __attribute__((noinline)) void pause(Wait wait) {
  fibers[current].wait = wait;
  if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1);
}
static void meet(Wait wait, int &arrived, int first, int n) {
  if (++arrived < n) return pause(wait);
  arrived = 0;
  for (int f = first; f < first + n; ++f) if (f != current) wake(f);
}
static void run() {
  body();
  pause(ENDED);
}
static __attribute__((noinline)) void resume(int fiber) {
  current = fiber;
  threadIdx.x = fiber % n_threads;
  blockIdx.x = fiber / n_threads;
  if (_setjmp(scheduler)) return;
  if (fibers[fiber].started) _longjmp(fibers[fiber].at, 1);
  fibers[fiber].started = true;
  getcontext(&context);
  context.uc_stack.ss_sp = stacks + fiber * STACK;
  context.uc_stack.ss_size = STACK;
  context.uc_link = nullptr;
  makecontext(&context, run, 0);
  setcontext(&context);
}

static int launch(int blocks, int threads, size_t bytes, unsigned int seed, std::function<void()> kernel) {
  int n = blocks * threads, fault = 0;
  if (threads % 32) return 1;
  n_blocks = blocks, n_threads = threads, shared_bytes = bytes, body = kernel;
  blockDim.x = threads, gridDim.x = blocks, blockDim.y = blockDim.z = gridDim.y = gridDim.z = 1;
  dice.seed(seed);
  fibers.assign(n, Fiber());
  slots.assign(2 * n / 32, std::vector<Slot>(32));
  at_block_barrier.assign(blocks, 0), at_warp_barrier.assign(n / 32, 0), listed.assign(n / 32, false);
  at_cluster_barrier = cluster_phase = 0;
  ready.clear();
  memory.clear();
  std::vector<std::vector<char>> held(blocks);
  for (auto &block : held) {
    block.assign(bytes + 2 * GUARD, (char)0xff);
    memory.push_back((char *)(((uintptr_t)block.data() + 1023) / 1024 * 1024));
  }
  stacks = (char *)mmap(nullptr, n * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  for (int f = 0; f < n; ++f) wake(f);
  std::vector<int> haste(blocks);
  for (int b = 0; b < blocks; ++b) haste[b] = b;
  std::shuffle(haste.begin(), haste.end(), dice);
  while (!ready.empty()) {
    size_t drawn = dice() % ready.size();
    if (dice() % (16 * n) == 0) std::shuffle(haste.begin(), haste.end(), dice);
    for (int other = 0; other < 6; ++other) {  // some blocks run ahead as far as barriers allow
      size_t rival = dice() % ready.size();
      if (haste[ready[rival] / warps()] > haste[ready[drawn] / warps()]) drawn = rival;
    }
    int warp = ready[drawn], lanes[32];
    std::swap(ready[drawn], ready.back());
    ready.pop_back();
    for (int l = 0; l < 32; ++l) lanes[l] = l;
    std::shuffle(lanes, lanes + 32, dice);
    listed[warp] = false;
    for (bool more = true; more;) {
      more = false;
      for (int l : lanes)
        if (fibers[32 * warp + l].wait == READY) more = true, resume(32 * warp + l);
      if (more && dice() % 4 == 0) {  // interrupt the warp where its lanes synchronise
        listed[warp] = true;
        ready.push_back(warp);
        break;
      }
    }
  }
  for (auto &fiber : fibers) if (fiber.wait != ENDED) fault = 1;
  for (int b = 0; b < blocks; ++b) {
    const char *end = memory[b] + bytes, *last = held[b].data() + held[b].size();
    for (const char *c = held[b].data(); c < memory[b]; ++c) if (*c != (char)0xff) fault = 2;
    for (; end < last; ++end) if (*end != (char)0xff) fault = 2;
  }
  munmap(stacks, n * STACK);
  return fault;
}
static void finish(std::vector<Copy> &group) {
  for (auto &copy : group) memcpy(copy.to, copy.from, copy.bytes);
}
static char *shuffled(const void *value, size_t bytes, int source) {
  Fiber &fiber = fibers[current];
  int warp = current / 32, lane = current % 32;
  auto &slot = slots[2 * warp + fiber.shuffles++ % 2];
  memcpy(slot[lane].bytes, value, bytes);
  meet(WARP, at_warp_barrier[warp], 32 * warp, 32);
  return slot[source].bytes;
}
}  // namespace twin

// Device functions

#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)

static void __syncthreads() {
  int block = twin::current / twin::n_threads;
  twin::meet(twin::BLOCK, twin::at_block_barrier[block], block * twin::n_threads, twin::n_threads);
}
static void __syncwarp(unsigned int mask = ~0u) {
  int warp = twin::current / 32;
  twin::meet(twin::WARP, twin::at_warp_barrier[warp], 32 * warp, 32);
}
template <typename V> V __shfl_sync(unsigned int, V value, int source) {  // whole warps only
  V found;
  memcpy(&found, twin::shuffled(&value, sizeof value, source & 31), sizeof value);
  return found;
}
template <typename V> V __shfl_xor_sync(unsigned int mask, V value, int bits) {
  return __shfl_sync(mask, value, twin::current % 32 ^ bits);
}
template <typename V> V __shfl_down_sync(unsigned int mask, V value, int by) {
  int lane = twin::current % 32;
  return __shfl_sync(mask, value, lane + by < 32 ? lane + by : lane);
}
static unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int s) {
  uint64_t both = (uint64_t)y << 32 | x;
  unsigned int made = 0;
  for (int i = 0; i < 4; ++i) made |= (unsigned int)(both >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
  return made;
}
static float __uint_as_float(unsigned int u) { float f; memcpy(&f, &u, 4); return f; }
static unsigned int __float_as_uint(float f) { unsigned int u; memcpy(&u, &f, 4); return u; }

// shared memory of this block, and the address in another block's shared memory that corresponds to `p`
static char *shared_memory() { return twin::memory[twin::current / twin::n_threads]; }
static int cluster_rank() { return twin::current / twin::n_threads; }
template <typename V> V *in_block(V *p, int rank) { return (V *)(twin::memory[rank] + ((char *)p - shared_memory())); }

// barrier.cluster.arrive.release and .wait.acquire
static void cluster_arrive() {
  twin::fibers[twin::current].phase = twin::cluster_phase;
  if (++twin::at_cluster_barrier == (int)twin::fibers.size()) {
    twin::at_cluster_barrier = 0;
    ++twin::cluster_phase;
    for (size_t f = 0; f < twin::fibers.size(); ++f) if (twin::fibers[f].wait == twin::CLUSTER) twin::wake(f);
  }
  twin::pause(twin::READY);  // other threads may run here
}
static void cluster_wait() {
  if (twin::fibers[twin::current].phase == twin::cluster_phase) twin::pause(twin::CLUSTER);
}

// cp.async, .commit_group and .wait_group; the caller must synchronise with the other threads afterwards
template <int N> void copy_async(void *to, const void *from) {
  memset(to, 0xff, N);
  twin::fibers[twin::current].open.push_back({(char *)to, (const char *)from, N});
}
static void copy_commit() {
  auto &fiber = twin::fibers[twin::current];
  fiber.groups.push_back(fiber.open);
  fiber.open.clear();
}
template <int LEFT> void copy_wait() {
  auto &groups = twin::fibers[twin::current].groups;
  while ((int)groups.size() > LEFT) {
    twin::finish(groups.front());
    groups.erase(groups.begin());
  }
}
static void prefetch_l2(const void *) {}

#define __expf expf
#define __logf logf
static float __fdividef(float x, float y) { return x / y; }

// tensor cores: ldmatrix, mma.m16n8k16, and conversion to pairs of bfloat16, to the nearest, ties to even
static float left_of(unsigned int pair) { return __uint_as_float(pair << 16); }
static float right_of(unsigned int pair) { return __uint_as_float(pair & 0xffff0000u); }
static unsigned int rounded(float left, float right) {
  unsigned int halves[2];
  for (int i = 0; i < 2; ++i) {
    float x = i ? right : left;
    unsigned int u = __float_as_uint(x);
    halves[i] = x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
  }
  return halves[1] << 16 | halves[0];
}
static float near_tanh(float x) { return tanhf(x); }
typedef const char *Place;
static Place place_of(const void *p) { return (Place)p; }
template <bool TRANSPOSED> void load_matrices(unsigned int (&f)[4], Place row) {
  twin::Slot mine;  // read before the lanes synchronise, so that another lane's write without a barrier may be missed
  memcpy(mine.bytes, row, 16);
  int lane = twin::current % 32;
  const twin::Slot *rows = (const twin::Slot *)twin::shuffled(mine.bytes, 16, 0);
  for (int i = 0; i < 4; ++i) {
    unsigned short pair[2];
    for (int j = 0; j < 2; ++j) {
      int at = lane % 4 * 2 + j, r = TRANSPOSED ? at : lane / 4, c = TRANSPOSED ? lane / 4 : at;
      memcpy(&pair[j], rows[8 * i + r].bytes + 2 * c, 2);
    }
    f[i] = (unsigned int)pair[1] << 16 | pair[0];
  }
}
static void multiply(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1) {
  unsigned int A[4][4], b[4] = {b0, b1, 0, 0};
  int lane = twin::current % 32, group = lane / 4;
  const twin::Slot *all = (const twin::Slot *)twin::shuffled(a, 16, 0);
  memcpy(A, all[4 * group].bytes, sizeof A);  // the four lanes that hold rows `group` and group + 8
  all = (const twin::Slot *)twin::shuffled(b, 16, 0);
  double sum[4] = {c[0], c[1], c[2], c[3]};
  for (int column = 0; column < 2; ++column)
    for (int t = 0; t < 4; ++t) {
      unsigned int pairs[2];
      memcpy(pairs, all[4 * (lane % 4 * 2 + column) + t].bytes, 8);
      for (int behind = 0; behind < 2; ++behind)
        for (int down = 0; down < 2; ++down) {
          unsigned int pair = A[t][2 * behind + down];
          sum[2 * down + column] += (double)left_of(pair) * left_of(pairs[behind]);
          sum[2 * down + column] += (double)right_of(pair) * right_of(pairs[behind]);
        }
    }
  for (int i = 0; i < 4; ++i) c[i] = (float)sum[i];
}
