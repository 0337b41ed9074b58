/* What steps on batches are given, and what pixels.h, panels.h and epoch.h share whatever the type of numbers. */

#define MOST_LAYERS 64
#define SOME_ROWS 16 /* of a layer's matrix, whose gradient is computed at once; in pixel_steps.h a tile's depth */
#define ROWS_AT_ONCE(it, layer) ((it)->tiles && !(layer) ? FLOAT_DEPTH : SOME_ROWS)
#define SUMMED 2048 /* samples whose gradients are added up before the sums of others are */
enum Rule { GRADIENT_DESCENT, MOMENTUM, NESTEROV, RMSPROP, ADAM, ADAMW, NONE }; /* NONE: m becomes the gradient */

typedef struct { /* batches of samples, a network, and the rule that updates it */
    const char* X;
    ptrdiff_t row, samples, batch, some, steps, epoch_samples; /* some: samples of a task */
    const ptrdiff_t *order, *sizes; /* order: indices into the samples, or NULL for the first ones */
    int bytes, layers, activation, output, counts, threads, many_registers, rule;
    int tiles;    /* whether the first layer's products are by pixel_steps.h */
    int by_layer; /* whether the steps are those of by_layer.h */
    int packed;   /* whether predictions pack W first; on tiles they do in any case */
    double scale, alpha, beta_1, beta_2, epsilon, weight_decay, clip, t, longest; /* beta_1: also momentum's μ, or ρ */
    Integers y;
    const void *targets, *weights;
    const uint32_t *ids, *keys; /* for dropout, or NULL: of each sample; (steps, hidden layers, 2) */
    const double* drops;        /* rates of the hidden layers */
    void *params, *m, *v, *room, *divided, *logits;
    const double* rates;
    double* sums; /* loss without penalty, penalty, correct predictions */
    ptrdiff_t done;
} Steps;

typedef struct {               /* a step: its batch and its learning rates */
    ptrdiff_t start, n;        /* of the samples */
    double share, rate, eta_t; /* share: 1 / Σ weights */
    const uint32_t* keys;      /* (hidden layers, 2) */
} Batch;

enum Work { SAMPLES, TAKE, UNITS, COMPARE, PACK, ROWS, CLIPPED };
typedef struct { /* what the threads do at one time in a step, as tasks of samples, of a layer, or of all layers */
    enum Work work;
    ptrdiff_t layer, first, tasks; /* first: the number of the first task; tasks: how many, or 0 for those of samples */
} Phase;
#define MOST_PHASES (2 * MOST_LAYERS + 4)

/* Which of the data is number `s` of the samples. */
static ptrdiff_t named(const Steps* it, ptrdiff_t s) { return it->order ? it->order[s] : s; }

typedef struct { /* scratch memory, or NULL to count what is needed */
    char* at;
    ptrdiff_t used;
} Memory;

static void* take_memory(Memory* memory, ptrdiff_t bytes) {
    void* taken = memory->at ? memory->at + memory->used : NULL;
    memory->used += (bytes + 63) / 64 * 64;
    return taken;
}

#include "team.h"

/* Functions for processors with 32 vector registers of 64 bytes; whether this is one. */
#if defined(__x86_64__) && defined(__linux__)
#define MANY_REGISTERS __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma")))
static int has_many_registers(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
}
#else
static int has_many_registers(void) { return 0; }
#endif

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
