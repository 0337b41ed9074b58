// Runs the threads of cuda_double.h.
//
// Every thread is a fiber. A warp runs, its lanes in an order drawn from the seed, until its lanes wait or synchronise.
// Then a ready warp is drawn, preferably from a block that the seed lets run ahead. A missing barrier therefore shows
// as other bits for another seed, or as NaN: shared memory begins as 0xff, and so does the target of an asynchronous
// copy until the copy is waited for.
// Compile without -D_FORTIFY_SOURCE, whose longjmp refuses to change stacks.
#include "cuda_double.h"
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <algorithm>
#include <random>
#include <vector>

Dim threadIdx, blockIdx, blockDim, gridDim;

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

static const size_t STACK = 64 << 10, GUARD = 4096;
static std::vector<Fiber> fibers;
static std::vector<char *> memory;            // one for each block
static std::vector<std::vector<Slot>> slots;  // [2 warp + parity][lane]
static std::vector<int> at_block_barrier, at_warp_barrier;
static std::vector<bool> listed;
static std::vector<int> ready;                // warps with a lane that can run
static int n_threads, at_cluster_barrier, current;
static long cluster_phase;
static jmp_buf scheduler;
static ucontext_t context;
static void (*body)(void *);
static void *of_body;
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
  body(of_body);
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

int launch(int blocks, int threads, size_t bytes, unsigned int seed, void (*kernel)(void *), void *with) {
  int n = blocks * threads, fault = 0;
  if (threads % 32) return 1;
  n_threads = threads, body = kernel, of_body = with;
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

int lane() { return current % 32; }
char *memory_of(int block) { return memory[block]; }
const Slot *shuffled(const void *value, size_t bytes) {
  int warp = current / 32;
  auto &slot = slots[2 * warp + fibers[current].shuffles++ % 2];
  memcpy(slot[lane()].bytes, value, bytes);
  __syncwarp();
  return slot.data();
}
void copy_async(void *to, const void *from, int bytes) {
  memset(to, 0xff, bytes);
  fibers[current].open.push_back({(char *)to, (const char *)from, bytes});
}
void copy_wait(int left) {
  auto &groups = fibers[current].groups;
  while ((int)groups.size() > left) {
    for (auto &copy : groups.front()) memcpy(copy.to, copy.from, copy.bytes);
    groups.erase(groups.begin());
  }
}
}  // namespace twin
using namespace twin;

int cluster_rank() { return current / n_threads; }
void __syncthreads() {
  int block = cluster_rank();
  meet(BLOCK, at_block_barrier[block], block * n_threads, n_threads);
}
void __syncwarp(unsigned int) {
  int warp = current / 32;
  meet(WARP, at_warp_barrier[warp], 32 * warp, 32);
}
void cluster_arrive() {
  fibers[current].phase = cluster_phase;
  if (++at_cluster_barrier == (int)fibers.size()) {
    at_cluster_barrier = 0;
    ++cluster_phase;
    for (size_t f = 0; f < fibers.size(); ++f) if (fibers[f].wait == CLUSTER) wake(f);
  }
  twin::pause(READY);  // other threads may run here
}
void cluster_wait() {
  if (fibers[current].phase == cluster_phase) twin::pause(CLUSTER);
}
void copy_commit() {
  Fiber &fiber = fibers[current];
  fiber.groups.push_back(fiber.open);
  fiber.open.clear();
}

unsigned int __byte_perm(unsigned int x, unsigned int y, unsigned int s) {
  uint64_t both = (uint64_t)y << 32 | x;
  unsigned int made = 0;
  for (int i = 0; i < 4; ++i) made |= (unsigned int)(both >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
  return made;
}
unsigned int rounded(float left, float right) {
  unsigned int halves[2];
  for (int i = 0; i < 2; ++i) {
    float x = i ? right : left;
    unsigned int u = __float_as_uint(x);
    halves[i] = x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
  }
  return halves[1] << 16 | halves[0];
}
void multiply(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1) {
  unsigned int A[4][4], b[4] = {b0, b1, 0, 0};
  int group = lane() / 4, column_pair = lane() % 4 * 2;
  memcpy(A, shuffled(a, 16)[4 * group].bytes, sizeof A);  // the four lanes that hold rows `group` and group + 8
  const Slot *all = shuffled(b, 16);
  double sum[4] = {c[0], c[1], c[2], c[3]};
  for (int column = 0; column < 2; ++column)
    for (int t = 0; t < 4; ++t) {
      unsigned int pairs[2];
      memcpy(pairs, all[4 * (column_pair + column) + t].bytes, 8);
      for (int behind = 0; behind < 2; ++behind)
        for (int down = 0; down < 2; ++down) {
          unsigned int pair = A[t][2 * behind + down];
          sum[2 * down + column] += (double)left_of(pair) * left_of(pairs[behind]);
          sum[2 * down + column] += (double)right_of(pair) * right_of(pairs[behind]);
        }
    }
  for (int i = 0; i < 4; ++i) c[i] = (float)sum[i];
}
