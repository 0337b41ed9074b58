/* Threads that share the tasks of a phase, and wait for each other at its end. A thread begins with its own share,
   which is the same in every phase of so many tasks, so that its memory is in the caches of its processor, and then
   helps the others. So any thread may do any task, and what one computes must not depend on the others of its phase. */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#define MOST_THREADS 64
#define PATIENCE 2000 /* how often to look whether a phase has ended, before letting other programs run */

typedef struct Team {
    int threads, arrived, phase, leave;
    struct {
        ptrdiff_t taken; /* tasks of this thread's share */
        char apart[56];  /* a cache line of its own */
    } shares[MOST_THREADS];
    void (*work)(void* job, struct Team* team, int thread);
    void* job;
} Team;

typedef struct {
    Team* team;
    int number;
} Member;

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
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

/* Wait until all threads have called this. */
static void end_phase(Team* team) {
    const int phase = __atomic_load_n(&team->phase, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->threads) {
        team->arrived = 0;
        for (int i = 0; i < team->threads; i++) team->shares[i].taken = 0;
        __atomic_store_n(&team->phase, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int looks = 0; __atomic_load_n(&team->phase, __ATOMIC_ACQUIRE) == phase; looks++)
        if (looks < PATIENCE) pause_briefly();
        else sched_yield();
}

static void* join_team(void* argument) {
    const Member* me = argument;
    while (!__atomic_load_n(&me->team->threads, __ATOMIC_ACQUIRE)) sched_yield();
    me->team->work(me->team->job, me->team, me->number);
    return NULL;
}

/* Call work(job, team, i) on up to `threads` threads, this one among them; on fewer if no more can be started. */
static void work_as_team(void (*work)(void*, Team*, int), void* job, int threads) {
    Team team = {.work = work, .job = job};
    pthread_t others[MOST_THREADS];
    Member members[MOST_THREADS];
    sigset_t all, before;
    int n = 1;
    sigfillset(&all); /* signals are for Python's threads, but for those of a crash */
    sigdelset(&all, SIGSEGV), sigdelset(&all, SIGBUS), sigdelset(&all, SIGFPE), sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; n < threads && n < MOST_THREADS; n++) {
        members[n] = (Member){&team, n};
        if (pthread_create(&others[n], NULL, join_team, &members[n])) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    __atomic_store_n(&team.threads, n, __ATOMIC_RELEASE);
    work(job, &team, 0);
    for (int i = 1; i < n; i++) pthread_join(others[i], NULL);
}
