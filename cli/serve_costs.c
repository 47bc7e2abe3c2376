/*
 * serve_costs.c - what work costs on a running pool, as its daemon has measured it
 *
 * The daemon measures a model's steps, prompts and loads off traffic when it is loaded by command,
 * and corrects them by what requests take; `status` has them.  Here models that were not measured
 * are loaded, and the rows are put into the form of a file of costs.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/serve.h"

#define LOADS_MOST  12u  /* models that are loaded to see what that takes */
#define LINK_UNSEEN 1e12 /* bytes/s: no load was measured */

/* Files of one size and form are taken for the same shape. */
static int alike(const struct serve_model *a, const struct serve_model *b)
{
    return a->weight_bytes == b->weight_bytes && a->kv_token_bytes == b->kv_token_bytes &&
           a->context == b->context;
}

/* --- measuring ----------------------------------------------------------------------------------
 */

/* Root and the daemon's user may; the answer comes when it is measured. */
static int load(const struct cli *cli, const char *model)
{
    struct wire *w = malloc(sizeof *w);
    int fd, code = w != NULL ? cli_connect(cli, &fd) : cli_fail(EXIT_REFUSED, "out of memory");

    if (code != EXIT_OK) {
        free(w);
        return code;
    }
    wire_start(w, "load");
    wire_put(w, "model", model);
    code = cli_send(fd, w);
    if (code == EXIT_OK) {
        int more = cli_receive(fd, w);

        code = more < 0 ? -more : EXIT_OK;
    }
    close(fd);
    free(w);
    return code;
}

static int is_measured(const struct serve_model *m)
{
    return m->measured && m->loads > 0;
}

/* Load what has not been measured: each kind, and then others like it, since what a load takes
 * differs from file to file. */
static int measure(const struct cli *cli, const struct serve_pool *pool, const char *const *names,
                   size_t count)
{
    uint32_t loads = 0;
    int code = EXIT_OK;

    for (size_t i = 0; i < count && code == EXIT_OK; i++) {
        if (!is_measured(serve_pool_find(pool, names[i]))) {
            code = load(cli, names[i]);
            loads++;
        }
    }
    for (uint32_t i = 0; i < pool->model_count && loads > 0 && code == EXIT_OK; i++) {
        const struct serve_model *m = &pool->models[i];
        size_t kind = 0;

        while (kind < count && !alike(m, serve_pool_find(pool, names[kind])))
            kind++;
        if (kind < count && !is_measured(m) && loads++ < LOADS_MOST)
            code = load(cli, m->name);
    }
    return code;
}

/* --- the file -----------------------------------------------------------------------------------
 */

/* The mean over models of the shape; 0: none was loaded. */
static double load_seconds(const struct serve_pool *pool, const struct serve_model *like)
{
    double sum = 0;
    uint32_t n = 0;

    for (uint32_t i = 0; i < pool->model_count; i++) {
        const struct serve_model *m = &pool->models[i];

        if (alike(m, like) && m->loads > 0 && m->cost.load > 0) {
            sum += m->cost.load;
            n++;
        }
    }
    return n > 0 ? sum / n : 0;
}

static double link_speed(const struct serve_pool *pool, const char *const *names, size_t count)
{
    double bytes = 0, seconds = 0;

    for (size_t i = 0; i < count; i++) {
        const struct serve_model *m = serve_pool_find(pool, names[i]);
        double takes = load_seconds(pool, m);

        bytes += takes > 0 ? (double)m->weight_bytes : 0;
        seconds += takes;
    }
    return seconds > 0 ? bytes / seconds : LINK_UNSEEN;
}

static void write_model(FILE *to, const struct serve_pool *pool, const char *kind,
                        const struct serve_model *m, double share)
{
    const struct cost *c = &m->cost;
    double takes = load_seconds(pool, m);

    fprintf(to,
            "Model=%s Weights=%llu KvToken=%llu Context=%u Prefill=%.4g,%.4g,%.4g "
            "Decode=%.4g,%.4g,%.4g",
            kind, (unsigned long long)m->weight_bytes, (unsigned long long)m->kv_token_bytes,
            m->context, c->prefill, c->prefill_token > 0 ? c->prefill_token : 1e-9,
            c->prefill_square, c->decode > 0 ? c->decode : 1e-9, c->decode_context, c->decode_row);
    if (takes > 0)
        fprintf(to, " Switch=%.4g", takes);
    fprintf(to, " Mix=%g\n", share);
}

static char *write_costs(const struct serve_pool *pool, const char *const *kinds,
                         const char *const *names, const double *shares, size_t count, int measured)
{
    char *text = NULL;
    size_t len;
    FILE *to = open_memstream(&text, &len);

    if (to == NULL)
        return NULL;
    fprintf(to, measured ? "# measured by modelpoold, read by modelpool bench serve\n"
                         : "# what modelpoold knows or guesses: nothing was measured for it\n");
    fprintf(to, "Device=%s Memory=%llu Link=%.4g\n", pool->device,
            (unsigned long long)pool->memory_bytes, link_speed(pool, names, count));
    for (size_t i = 0; i < count; i++)
        write_model(to, pool, kinds[i], serve_pool_find(pool, names[i]),
                    shares != NULL ? shares[i] : 1.0);
    return fclose(to) == 0 ? text : NULL;
}

char *serve_costs(const struct cli *cli, const struct serve_pool *pool, const char *const *kinds,
                  const char *const *names, const double *shares, size_t count, int measured,
                  int *code)
{
    struct serve_pool now = {.instances = 0};
    char *text = NULL;

    *code = EXIT_OK;
    for (size_t i = 0; i < count && *code == EXIT_OK; i++)
        if (serve_pool_find(pool, names[i]) == NULL)
            *code = cli_fail(EXIT_REFUSED, "the pool has no model %s; `modelpool list` shows them",
                             names[i]);
    if (measured && *code == EXIT_OK)
        *code = measure(cli, pool, names, count);
    if (*code == EXIT_OK)
        *code = serve_pool_read(cli, &now);
    if (*code == EXIT_OK) {
        text = write_costs(&now, kinds, names, shares, count, measured);
        if (text == NULL)
            *code = cli_fail(EXIT_REFUSED, "out of memory");
    }
    serve_pool_clear(&now);
    return text;
}
