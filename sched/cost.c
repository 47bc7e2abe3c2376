/* cost.c - predictions, and the file that their coefficients come from */
#include "sched/cost.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES 1024
#define MODELS_MAX     4096u

/* --- predictions ------------------------------------------------------------------------------ */

static double scaled(const struct cost *c, double seconds)
{
    return c->scale > 0 ? seconds * c->scale : seconds;
}

double cost_chunk(const struct cost *c, double from, double n)
{
    return scaled(c, c->prefill_token * n + c->prefill_square * (n * n + 2 * from * n));
}

double cost_prefill(const struct cost *c, double from, double n)
{
    return scaled(c, c->prefill) + cost_chunk(c, from, n);
}

double cost_decode(const struct cost *c, double rows, double context)
{
    return scaled(c, c->decode + c->decode_context * context + c->decode_row * rows);
}

/* --- values ----------------------------------------------------------------------------------- */

/* `count` numbers of at least 0, parted by commas; 0, or -1. */
static int numbers(const char *text, double *out, int count)
{
    char *end;

    for (int i = 0; i < count; i++) {
        out[i] = strtod(text, &end);
        if (end == text || !isfinite(out[i]) || out[i] < 0 || *end != (i + 1 < count ? ',' : '\0'))
            return -1;
        text = end + 1;
    }
    return 0;
}

struct line {
    const char *path;
    int number;
    struct cost_table *table;
    struct cost_entry *model; /* NULL: the device's line */
    struct error *err;
};

static int bad_value(const struct line *l, const char *key, const char *value, const char *want)
{
    return error_set(l->err, STATUS_INVALID, "%s:%d: %s=%s: %s", l->path, l->number, key, value,
                     want);
}

static int set_name(const struct line *l, char *out, const char *key, const char *value)
{
    if (*value == '\0' || strlen(value) >= COST_NAME_MAX)
        return bad_value(l, key, value, "a name of 1 to 63 bytes");
    snprintf(out, COST_NAME_MAX, "%s", value);
    return 0;
}

static int set_number(const struct line *l, double *out, const char *key, const char *value)
{
    if (numbers(value, out, 1) != 0 || !(*out > 0))
        return bad_value(l, key, value, "a number above 0, as 1.5 or 72e9");
    return 0;
}

static int set_three(const struct line *l, double *out, const char *key, const char *value)
{
    if (numbers(value, out, 3) != 0)
        return bad_value(l, key, value, "three numbers A,B,C of at least 0, in seconds");
    return 0;
}

/* --- keys ------------------------------------------------------------------------------------- */

static int device_key(const struct line *l, const char *key, const char *value)
{
    if (strcasecmp(key, "Memory") == 0)
        return set_number(l, &l->table->memory_bytes, key, value);
    if (strcasecmp(key, "Link") == 0)
        return set_number(l, &l->table->link, key, value);
    if (strcasecmp(key, "Disk") == 0)
        return set_number(l, &l->table->disk, key, value);
    return error_set(l->err, STATUS_INVALID,
                     "%s:%d: unknown key \"%s\" of Device=; there are "
                     "Memory, Link, Disk",
                     l->path, l->number, key);
}

static int model_key(const struct line *l, const char *key, const char *value)
{
    struct cost_entry *m = l->model;
    double context, v[3];

    if (strcasecmp(key, "Weights") == 0)
        return set_number(l, &m->weight_bytes, key, value);
    if (strcasecmp(key, "KvToken") == 0)
        return set_number(l, &m->kv_token_bytes, key, value);
    if (strcasecmp(key, "Mix") == 0)
        return set_number(l, &m->weight, key, value);
    if (strcasecmp(key, "Switch") == 0)
        return set_number(l, &m->published_switch, key, value);
    if (strcasecmp(key, "Context") == 0) {
        if (set_number(l, &context, key, value) != 0)
            return -1;
        if (context < 2 || context > 1e8)
            return bad_value(l, key, value, "from 2 to 100000000 tokens");
        m->context = (uint32_t)context;
        return 0;
    }
    if (strcasecmp(key, "Prefill") == 0 || strcasecmp(key, "Decode") == 0) {
        if (set_three(l, v, key, value) != 0)
            return -1;
        if (strcasecmp(key, "Prefill") == 0)
            m->cost.prefill = v[0], m->cost.prefill_token = v[1], m->cost.prefill_square = v[2];
        else
            m->cost.decode = v[0], m->cost.decode_context = v[1], m->cost.decode_row = v[2];
        return 0;
    }
    return error_set(l->err, STATUS_INVALID,
                     "%s:%d: unknown key \"%s\" of Model=; there are Weights, KvToken, Context, "
                     "Prefill, Decode, Switch, Mix",
                     l->path, l->number, key);
}

static int begin_model(struct line *l, const char *value)
{
    struct cost_table *t = l->table;
    struct cost_entry *more;

    if (t->model_count == MODELS_MAX)
        return error_set(l->err, STATUS_INVALID, "%s:%d: more than %u models", l->path, l->number,
                         MODELS_MAX);
    if (cost_table_find(t, value) != NULL)
        return bad_value(l, "Model", value, "is there already");
    more = realloc(t->models, (t->model_count + 1) * sizeof *more);
    if (more == NULL)
        return error_set(l->err, STATUS_NOMEM, "%s: out of memory", l->path);
    t->models = more;
    l->model = &more[t->model_count];
    *l->model = (struct cost_entry){.weight = 1};
    if (set_name(l, l->model->name, "Model", value) != 0)
        return -1;
    t->model_count++;
    return 0;
}

static int check_model(const struct line *l)
{
    const struct cost_entry *m = l->model;
    const char *lacks = NULL;

    if (m == NULL)
        return 0;
    if (m->weight_bytes <= 0)
        lacks = "Weights";
    else if (m->kv_token_bytes <= 0)
        lacks = "KvToken";
    else if (m->context == 0)
        lacks = "Context";
    else if (m->cost.prefill_token <= 0)
        lacks = "Prefill";
    else if (m->cost.decode <= 0)
        lacks = "Decode";
    if (lacks == NULL)
        return 0;
    return error_set(l->err, STATUS_INVALID, "%s:%d: model %s has no %s=", l->path, l->number,
                     m->name, lacks);
}

static int parse_line(struct line *l, char *text)
{
    char *save = NULL;
    int first = 1;

    l->model = NULL;
    text[strcspn(text, "#")] = '\0';
    for (char *word = strtok_r(text, " \t\r", &save); word != NULL;
         word = strtok_r(NULL, " \t\r", &save), first = 0) {
        char *value = strchr(word, '=');
        int rc;

        if (value == NULL)
            return error_set(l->err, STATUS_INVALID, "%s:%d: \"%s\" is not Key=Value", l->path,
                             l->number, word);
        *value++ = '\0';
        if (first && strcasecmp(word, "Model") == 0)
            rc = begin_model(l, value);
        else if (first && strcasecmp(word, "Device") == 0)
            rc = set_name(l, l->table->device, word, value);
        else if (first)
            rc = error_set(l->err, STATUS_INVALID,
                           "%s:%d: a line begins with Device= or Model=, not %s=", l->path,
                           l->number, word);
        else
            rc = l->model != NULL ? model_key(l, word, value) : device_key(l, word, value);
        if (rc != 0)
            return -1;
    }
    return check_model(l);
}

/* --- the file --------------------------------------------------------------------------------- */

static int finish(struct cost_table *t, const char *path, struct error *err)
{
    if (t->model_count == 0)
        return error_set(err, STATUS_INVALID, "%s: has no Model= line", path);
    if (!(t->memory_bytes > 0) || !(t->link > 0))
        return error_set(err, STATUS_INVALID,
                         "%s: has no line Device=NAME Memory=BYTES Link=BYTES_PER_S", path);
    for (size_t i = 0; i < t->model_count; i++) {
        struct cost_entry *m = &t->models[i];
        double fits;

        m->cost.load = m->published_switch > 0 ? m->published_switch : m->weight_bytes / t->link;
        m->cost.kv_token = m->kv_token_bytes / t->link;
        fits = (t->memory_bytes - m->weight_bytes) / m->kv_token_bytes;
        if (!(fits >= 2))
            return error_set(err, STATUS_INVALID, "%s: model %s does not fit into Memory=%g", path,
                             m->name, t->memory_bytes);
        if (m->context > fits) /* as engines clip it */
            m->context = (uint32_t)fits;
    }
    return 0;
}

int cost_table_parse(struct cost_table *t, const char *text, const char *path, struct error *err)
{
    struct line l = {.path = path, .table = t, .err = err};
    char line[LINE_MAX_BYTES];

    *t = (struct cost_table){0};
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");

        l.number++;
        if (len >= sizeof line) {
            error_set(err, STATUS_INVALID, "%s:%d: the line is too long", path, l.number);
            goto fail;
        }
        memcpy(line, text, len);
        line[len] = '\0';
        if (parse_line(&l, line) != 0)
            goto fail;
        text += len + (text[len] == '\n');
    }
    if (finish(t, path, err) == 0)
        return 0;
fail:
    cost_table_clear(t);
    return -1;
}

void cost_table_clear(struct cost_table *t)
{
    free(t->models);
    *t = (struct cost_table){0};
}

const struct cost_entry *cost_table_find(const struct cost_table *t, const char *name)
{
    for (size_t i = 0; i < t->model_count; i++) {
        if (strcmp(t->models[i].name, name) == 0)
            return &t->models[i];
    }
    return NULL;
}
