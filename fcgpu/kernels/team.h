/* Threads that share the tasks of a phase, and wait for each other at its end. A thread begins with its own share,
   which is the same in every phase of so many tasks, so that its memory is in the caches of its processor, and then
   helps the others. So any thread may do any task, and what one computes must not depend on the others of its phase.

   Nobody waits for a thread that has not started: it enters in whatever phase it finds, or goes if all is done. */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#define MOST_THREADS 64
#define PATIENCE 2000 /* how often to look whether a phase has ended, before letting other programs run */

typedef struct Team {
    uint64_t state; /* CLOSED, the phase, threads that have entered, and those of them that have finished the phase */
    int threads, leave, started, holders; /* started: beside the caller; holders: who may still look at this */
    struct {
        ptrdiff_t taken; /* tasks of this thread's share */
        char apart[56];  /* a cache line of its own */
    } shares[MOST_THREADS];
    void (*work)(void* job, struct Team* team, int thread, ptrdiff_t phase);
    void* job;
#if defined(__GLIBC__)
    cpu_set_t allowed;
#endif
} Team;

#define ENTERED ((uint64_t)1 << 16)
#define PHASE ((uint64_t)1 << 32)
#define CLOSED ((uint64_t)1 << 63)

static ptrdiff_t finished(uint64_t state) { return (ptrdiff_t)(state % ENTERED); }
static ptrdiff_t entered(uint64_t state) { return (ptrdiff_t)(state % PHASE / ENTERED); }
static ptrdiff_t phase_of(uint64_t state) { return (ptrdiff_t)(state % CLOSED / PHASE); }
static uint64_t state_of(Team* team) { return __atomic_load_n(&team->state, __ATOMIC_ACQUIRE); }

/* Called again and again while waiting: for the first looks briefly, then other programs may run. */
static inline void be_patient(int looks) {
    if (looks >= PATIENCE) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* most processors do not wait at the instruction `yield` */
#endif
}

/* The next of this phase's tasks, of which there are `count`; -1 if all are taken. */
static inline ptrdiff_t next_task(Team* team, int thread, ptrdiff_t count) {
    for (int i = 0; i < team->threads; i++) {
        const int whose = (thread + i) % team->threads;
        const ptrdiff_t first = count * whose / team->threads, end = count * (whose + 1) / team->threads;
        ptrdiff_t* taken = &team->shares[whose].taken;
        if (first + __atomic_load_n(taken, __ATOMIC_RELAXED) >= end) continue;
        const ptrdiff_t task = first + __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED);
        if (task < end) return task;
    }
    return -1;
}

/* Wait until all threads that have entered have called this. */
static void end_phase(Team* team) {
    const uint64_t now = __atomic_add_fetch(&team->state, 1, __ATOMIC_ACQ_REL);
    if (finished(now) == entered(now)) { /* nobody enters until the next phase begins */
        for (int i = 0; i < team->threads; i++) team->shares[i].taken = 0;
        __atomic_store_n(&team->state, now - now % ENTERED + PHASE, __ATOMIC_RELEASE);
        return;
    }
    for (int looks = 0; phase_of(state_of(team)) == phase_of(now); looks++) be_patient(looks);
}

static void let_go(Team* team) {
    if (!__atomic_sub_fetch(&team->holders, 1, __ATOMIC_ACQ_REL)) free(team);
}

static void* come(void* team);

/* Start one more thread, elsewhere than on this thread's processor: there it might wait until this thread sleeps,
   although other processors are idle, which those of virtual machines often do not seem to be. */
static void call_another(Team* team) {
    pthread_attr_t how;
    pthread_t another;
    sigset_t all, before;
    if (pthread_attr_init(&how)) return;
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
#if defined(__GLIBC__)
    cpu_set_t others = team->allowed;
    const int here = sched_getcpu();
    if (here >= 0 && here < CPU_SETSIZE) CPU_CLR(here, &others);
    if (CPU_COUNT(&others)) pthread_attr_setaffinity_np(&how, sizeof others, &others);
#endif
    sigfillset(&all); /* signals are for Python's threads, but for those of a crash */
    sigdelset(&all, SIGSEGV), sigdelset(&all, SIGBUS), sigdelset(&all, SIGFPE), sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    __atomic_fetch_add(&team->holders, 1, __ATOMIC_RELAXED);
    if (pthread_create(&another, &how, come, team)) __atomic_fetch_sub(&team->holders, 1, __ATOMIC_RELAXED);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
}

/* What a thread does that was started: it calls the next, so that none but this costs the caller's time. */
static void* come(void* argument) {
    Team* team = argument;
    const int number = __atomic_add_fetch(&team->started, 1, __ATOMIC_RELAXED);
#if defined(__GLIBC__)
    sched_setaffinity(0, sizeof team->allowed, &team->allowed);
#endif
    uint64_t now = state_of(team);
    if (number + 1 < team->threads && !(now & CLOSED)) call_another(team);
    for (int looks = 0; !(now & CLOSED); now = state_of(team), looks++) {
        if (finished(now) == entered(now)) be_patient(looks);
        else if (__atomic_compare_exchange_n(&team->state, &now, now + ENTERED, 0, __ATOMIC_ACQ_REL,
                                             __ATOMIC_RELAXED)) {
            team->work(team->job, team, number, phase_of(now));
            __atomic_fetch_sub(&team->state, ENTERED, __ATOMIC_RELEASE);
            break;
        }
    }
    let_go(team);
    return NULL;
}

/* Call work(job, team, number, phase) on up to `threads` threads, this one among them with number and phase 0; the
   others may come in a later phase, the one after the last included, or not at all. */
static void work_as_team(void (*work)(void*, Team*, int, ptrdiff_t), void* job, int threads) {
    Team alone, *team = threads > 1 ? malloc(sizeof *team) : NULL;
    if (!team) team = &alone, threads = 1;
    memset(team, 0, sizeof *team);
    team->state = ENTERED, team->threads = threads, team->holders = 1, team->work = work, team->job = job;
    if (threads > 1) {
#if defined(__GLIBC__)
        if (sched_getaffinity(0, sizeof team->allowed, &team->allowed)) CPU_ZERO(&team->allowed);
#endif
        call_another(team);
    }
    work(job, team, 0, 0);
    uint64_t now = __atomic_or_fetch(&team->state, CLOSED, __ATOMIC_ACQ_REL);
    for (int looks = 0; entered(now) > 1; now = state_of(team), looks++) be_patient(looks);
    if (team != &alone) let_go(team);
}
