/* crew.c - work in parallel; see crew.h */
#include "engine/crew.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define SCRATCH_ALIGN       4096u /* of direct reads */
#define COPY_THREADS_MOST   4u
#define URGENT_THREADS_MOST 12u
#define CALLED_OFF          "it was called off"

struct shift { /* of one crew_run() */
    const struct crew *crew;
    atomic_uint_fast64_t next, done;
    atomic_int stop;
    pthread_mutex_t lock; /* guards err */
    struct error err;
};

static void fail(struct shift *s, const struct error *err)
{
    pthread_mutex_lock(&s->lock);
    if (s->err.status == STATUS_OK)
        s->err = *err;
    pthread_mutex_unlock(&s->lock);
    atomic_store(&s->stop, 1);
}

static void *worker(void *arg)
{
    struct shift *s = arg;
    const struct crew *c = s->crew;
    void *scratch = NULL;
    struct error err = {0};

    if (c->scratch_bytes > 0) {
        scratch = aligned_alloc(SCRATCH_ALIGN, c->scratch_bytes);
        if (scratch == NULL)
            return NULL; /* the others do its part */
    }
    while (!atomic_load(&s->stop)) {
        uint64_t item = atomic_fetch_add(&s->next, 1);
        if (item >= c->items)
            break;
        if (c->cancel != NULL && atomic_load(c->cancel)) {
            error_set(&err, STATUS_UNAVAILABLE, CALLED_OFF);
            fail(s, &err);
        } else if (c->work(c->context, item, scratch, &err) != 0) {
            fail(s, &err);
        } else {
            atomic_fetch_add(&s->done, 1);
        }
    }
    free(scratch);
    return NULL;
}

int crew_run(const struct crew *c, struct error *err)
{
    struct shift s = {.crew = c, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[CREW_THREADS_MAX];
    uint32_t count = 0;

    while (count + 1 < c->threads && count + 1 < c->items && count < CREW_THREADS_MAX &&
           pthread_create(&threads[count], NULL, worker, &s) == 0)
        count++;
    worker(&s);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&s.lock);
    if (s.err.status != STATUS_OK)
        return error_set(err, s.err.status, "%s", s.err.text);
    if (s.done != c->items)
        return error_set(err, STATUS_NOMEM, "no memory for buffers of %zu bytes", c->scratch_bytes);
    return 0;
}

static uint32_t cores_up_to(uint32_t most)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (cores < 1)
        return 1;
    return cores < (long)most ? (uint32_t)cores : most;
}

uint32_t crew_copy_threads(void)
{
    return cores_up_to(COPY_THREADS_MOST);
}

uint32_t crew_urgent_threads(void)
{
    return cores_up_to(URGENT_THREADS_MOST);
}
