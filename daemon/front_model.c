/* front_model.c - what the front needs of a model's files: tokenizer, chat template, context */
#include <stdio.h>
#include <string.h>

#include "daemon/front.h"
#include "model/arch.h"

static void open_template(struct front_model *m, const struct source *s)
{
    struct error err = {0};
    const char *text;
    size_t len;
    int found = source_template(s, &text, &len, &err);

    if (found == 0)
        m->template = template_create(text, len, &err);
    if (found > 0)
        snprintf(m->text, sizeof m->text, "it has no chat template");
    else if (!m->template)
        snprintf(m->text, sizeof m->text, "its chat template: %.480s", err.text);
}

void front_model_open(struct front_model *m, const struct config_model *config)
{
    struct error err = {0};
    struct arch a;

    memset(m, 0, sizeof *m);
    m->fd = -1;
    struct source *s = source_open(config->path, &err);
    if (!s || arch_read(&a, s, &err) || !(m->tokenizer = tokenizer_create(s, &err))) {
        snprintf(m->text, sizeof m->text, "%s", err.text);
        source_close(s);
        return;
    }
    m->context = a.context;
    if (config->max_context && config->max_context < m->context)
        m->context = config->max_context;
    m->bytes = source_weight_bytes(s);
    open_template(m, s);
    source_close(s);
}

void front_model_close(struct front_model *m)
{
    tokenizer_destroy(m->tokenizer);
    template_destroy(m->template);
    memset(m, 0, sizeof *m);
}

uint32_t front_context(const struct front *f, uint32_t model)
{
    struct policy_snapshot s;
    uint32_t own = f->models[model].context, longest = 0;

    if (policy_snapshot(f->policy, &s, NULL))
        return own;
    for (uint32_t i = 0; i < s.instances; i++) {
        const struct policy_model_status *m = &s.model[(size_t)i * s.models + model];
        if (m->known && m->ok && m->max_context > longest)
            longest = m->max_context;
    }
    policy_snapshot_free(&s);
    return longest && longest < own ? longest : own;
}
