/* serve_token.c - what the events of an answer say, and what tokens count for */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/serve.h"

/* Shown to people: one line. */
static void set_reason(char *out, const char *text)
{
    snprintf(out, SERVE_REASON_MAX, "%s", text);
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
}

void serve_chunk_parse(const char *data, struct serve_chunk *c)
{
    json_t *root = json_loads(data, JSON_ALLOW_NUL, NULL);
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *error = json_object_get(root, "error");
    const json_t *n = json_object_get(json_object_get(root, "usage"), "completion_tokens");
    const char *message = json_string_value(json_object_get(error, "message"));

    *c = (struct serve_chunk){.tokens = -1};
    if (root == NULL)
        set_reason(c->error, "the server sent an event that is no JSON");
    else if (error != NULL)
        set_reason(c->error, message != NULL ? message : "the server reports an error");
    if (json_is_integer(n) && json_integer_value(n) >= 0)
        c->tokens = json_integer_value(n);
    c->text = json_string_length(json_object_get(choice, "text")) > 0;
    c->finished = json_is_string(json_object_get(choice, "finish_reason"));
    json_decref(root);
}

void serve_take_tokens(struct sim_outcome *o, int64_t arrival, const struct sim_class *class,
                       uint32_t by_now, int64_t now)
{
    const struct sim_segment one = {.start = now - arrival, .steps = 1};

    if (by_now <= o->produced)
        return;
    if (o->produced == 0) {
        o->first = now;
        o->qos.target = class->ttft;
    }
    o->last = now;
    for (; o->produced < by_now; o->produced++) {
        int64_t due = arrival + class->ttft + (int64_t)o->produced * class->tbt;

        o->on_time += class->ttft == 0 || now <= due;
        sim_qos_add(&o->qos, &one, class->tbt);
    }
}
