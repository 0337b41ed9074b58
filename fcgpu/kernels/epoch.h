/* Steps of gradient descent and its relatives on batches of samples: passes and update, for many batches in one call.

   A layer's W and b are one matrix (n_in + 1, n), b its last row, for inputs whose last column is 1. The threads of a
   team share the tasks of samples.h, wait for each other, share those of rows.h, and wait again.

   Included once for float and once for double, after rows.h. */

/* 1 / Σ weights of the batch, or 0 if all are 0. */
static double N(share_of)(const Steps* it, ptrdiff_t start, ptrdiff_t batch) {
    const T* weights = it->weights;
    double total = 0;
    if (!weights) return 1.0 / (double)batch;
    for (ptrdiff_t s = start; s < start + batch; s++) total += weights[it->order ? it->order[s] : s];
    return total > 0 ? 1 / (total > TINY ? total : TINY) : 0;
}

/* What each thread does from some phase on. A step has two, or three with a clipped gradient. */
static void N(steps)(void* job, Team* team, int thread, ptrdiff_t phase) {
    Steps* it = job;
    N(Room)* room = it->divided;
    N(Desk)* my = &room->desks[thread];
    const ptrdiff_t tasks = room->first_task[it->layers], phases = it->clip > 0 ? 3 : 2;
    const double began = thread ? 0 : seconds();
    if (it->tiles) open_tiles();
    for (; phase < it->steps * phases; phase++) {
        const ptrdiff_t step = phase / phases, which = phase % phases, start = step * it->batch;
        const ptrdiff_t n = it->samples - start < it->batch ? it->samples - start : it->batch;
        const ptrdiff_t parts = (n + it->some - 1) / it->some;
        const int last = which == phases - 1;
        const double share = N(share_of)(it, start, n), portion = (double)n / (double)it->epoch_samples;
        const double rate = it->rates[step], t = it->t + (double)step + 1;
        const uint32_t* keys = it->keys ? it->keys + 2 * step * (it->layers - 1) : NULL;
        const double eta_t = rate * sqrt(-expm1(t * log(it->beta_2))) / -expm1(t * log(it->beta_1));
        if (!which && __atomic_load_n(&team->leave, __ATOMIC_RELAXED)) break;
        for (ptrdiff_t task; (task = next_task(team, thread, which ? tasks : parts)) >= 0;) {
            if (!which) N(samples)(it, room, my, task, n, start, share, keys);
            else if (which == 1) N(rows)(it, room, my, task, n, share, rate, eta_t);
            else N(clipped_rows)(it, room, my, task, tasks, rate, eta_t);
        }
        if (!thread && last) {
            it->done = step + 1;
            if (seconds() - began > it->longest) __atomic_store_n(&team->leave, 1, __ATOMIC_RELAXED);
        }
        end_phase(team);
        if (thread) continue;
        for (ptrdiff_t i = 0; !which && i < parts; i++) it->sums[2] += (double)room->correct[i];
        for (ptrdiff_t s = 0; !which && s < n; s++) it->sums[0] += portion * (double)room->losses[s];
        for (ptrdiff_t i = 0; last && it->alpha != 0 && i < tasks; i++)
            it->sums[1] += portion * 0.5 * it->alpha * share * room->w_squares[i];
    }
    if (it->tiles) close_tiles();
}

/* Bytes of scratch memory needed. */
static ptrdiff_t N(room)(Steps* it) {
    N(Room) room;
    it->room = NULL;
    return N(divide)(it, &room);
}

static void N(run)(Steps* it) {
    N(Room) room;
    const T* W = it->params;
    N(divide)(it, &room);
    for (ptrdiff_t i = 0; i < it->layers; i++) {
        const ptrdiff_t n_in = it->sizes[i], n = it->sizes[i + 1];
        for (ptrdiff_t top = 0; !i && it->tiles && top < n_in; top += FLOAT_DEPTH) N(pack_weights)(it, &room, top);
        if (i) {
            memset(room.WT[i], 0, (size_t)(n * WHOLE_VECTORS(n_in)) * sizeof(T));
            N(transpose)(W, n_in, n, room.WT[i]);
        }
        W += (n_in + 1) * n;
    }
    it->divided = &room;
    work_as_team(N(steps), it, it->threads);
}
