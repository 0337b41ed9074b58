/* Steps of gradient descent and its relatives on batches of samples: passes and update, for many batches in one call.

   A layer's W and b are one matrix (n_in + 1, n), b its last row, for inputs whose last column is 1. The threads of a
   team share the tasks of a phase and wait for each other: those of samples.h, then those of rows.h or, by by_layer.h,
   those of each layer forward and back.

   Included once for float and once for double, after by_layer.h. */

/* 1 / Σ weights of the batch, or 0 if all are 0. */
static double N(share_of)(const Steps* it, ptrdiff_t start, ptrdiff_t batch) {
    const T* weights = it->weights;
    double total = 0;
    if (!weights) return 1.0 / (double)batch;
    for (ptrdiff_t s = start; s < start + batch; s++) total += weights[named(it, s)];
    return total > 0 ? 1 / (total > TINY ? total : TINY) : 0;
}

/* The phases of a step, in their order. Returns how many there are. */
static int N(list_phases)(const Steps* it, const N(Room) * room, Phase* list) {
    const ptrdiff_t layers = it->layers, *first = room->first_task;
    int n = 0;
    if (it->by_layer) {
        list[n++] = (Phase){TAKE};
        for (ptrdiff_t i = it->tiles; i < layers; i++)
            list[n++] = (Phase){UNITS, i, 0, tiles_for(it->sizes[i + 1], N(units_at_once)(it, it->sizes[i + 1]))};
        list[n++] = (Phase){COMPARE};
        for (ptrdiff_t i = layers - 1; i >= 0; i--) {
            if (!i && it->tiles) list[n++] = (Phase){PACK};
            list[n++] = (Phase){ROWS, i, first[i], first[i + 1] - first[i]};
        }
    } else {
        list[n++] = (Phase){SAMPLES};
        list[n++] = (Phase){ROWS, 0, 0, first[layers]};
    }
    if (it->clip > 0) list[n++] = (Phase){CLIPPED, 0, 0, first[layers]};
    return n;
}

/* What each thread does from some phase on. */
static void N(steps)(void* job, Team* team, int thread, ptrdiff_t phase) {
    Steps* it = job;
    N(Room)* room = it->divided;
    N(Desk)* my = &room->desks[thread];
    Phase list[MOST_PHASES];
    const int phases = N(list_phases)(it, room, list);
    const double began = thread ? 0 : seconds();
    if (it->tiles) open_tiles();
    for (; phase < it->steps * phases; phase++) {
        const ptrdiff_t step = phase / phases, which = phase % phases, start = step * it->batch;
        const ptrdiff_t n = it->samples - start < it->batch ? it->samples - start : it->batch;
        const double rate = it->rates[step], t = it->t + (double)step + 1;
        const double eta_t = rate * sqrt(-expm1(t * log(it->beta_2))) / -expm1(t * log(it->beta_1));
        const double share = N(share_of)(it, start, n), portion = (double)n / (double)it->epoch_samples;
        const uint32_t* keys = it->keys ? it->keys + 2 * step * (it->layers - 1) : NULL;
        const Batch now = {start, n, share, rate, eta_t, keys};
        const Phase its = list[which];
        const ptrdiff_t tasks = its.tasks ? its.tasks : tiles_for(n, it->some);
        const int compares = its.work == SAMPLES || its.work == COMPARE, last = which == phases - 1;
        if (!which && __atomic_load_n(&team->leave, __ATOMIC_RELAXED)) break;
        for (ptrdiff_t task; (task = next_task(team, thread, tasks)) >= 0;) {
            switch (its.work) {
                case SAMPLES: N(samples)(it, room, my, task, &now); break;
                case TAKE: N(take_samples)(it, room, my, task, &now); break;
                case UNITS: N(units)(it, room, my, its.layer, task, &now); break;
                case COMPARE: N(compare_samples)(it, room, my, task, &now); break;
                case PACK: N(pack_delta)(it, room, task, n); break;
                case CLIPPED: N(clipped_rows)(it, room, my, task, &now); break;
                case ROWS:
                    if (its.layer) N(propagate)(it, room, my, N(rows_of)(it, room, its.first + task), &now);
                    N(rows)(it, room, my, its.first + task, &now);
            }
        }
        if (!thread && last) {
            it->done = step + 1;
            if (seconds() - began > it->longest) __atomic_store_n(&team->leave, 1, __ATOMIC_RELAXED);
        }
        end_phase(team);
        if (thread) continue;
        for (ptrdiff_t i = 0; compares && i < tasks; i++) it->sums[2] += (double)room->correct[i];
        for (ptrdiff_t s = 0; compares && s < n; s++) it->sums[0] += portion * (double)room->losses[s];
        for (ptrdiff_t i = 0; last && it->alpha != 0 && i < room->first_task[it->layers]; i++)
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
        if (i && !it->by_layer) {
            memset(room.WT[i], 0, (size_t)(n * WHOLE_VECTORS(n_in)) * sizeof(T));
            N(transpose)(W, n_in, n, room.WT[i]);
        }
        W += (n_in + 1) * n;
    }
    it->divided = &room;
    work_as_team(N(steps), it, it->threads);
}
