/* front_model.c - what the front needs of a model's file: tokenizer, chat template, context */
#include <stdio.h>
#include <string.h>

#include "daemon/front.h"
#include "model/arch.h"

static void open_template(struct front_model *m, const struct gguf *g)
{
    struct gguf_string source;
    struct error err = {0};
    int found = gguf_get_string(g, "tokenizer.chat_template", &source, &err);

    if (found == 0)
        m->template = template_create(source.data, source.len, &err);
    if (found > 0)
        snprintf(m->text, sizeof m->text, "its file has no chat template");
    else if (!m->template)
        snprintf(m->text, sizeof m->text, "its chat template: %.480s", err.text);
}

void front_model_open(struct front_model *m, const struct config_model *config)
{
    struct error err = {0};
    struct arch a;

    memset(m, 0, sizeof *m);
    m->fd = -1;
    struct gguf *g = gguf_open(config->path, &err);
    if (!g || arch_read(&a, g, &err) || !(m->tokenizer = tokenizer_create(g, &err))) {
        snprintf(m->text, sizeof m->text, "%s", err.text);
        gguf_close(g);
        return;
    }
    m->context = a.context;
    if (config->max_context && config->max_context < m->context)
        m->context = config->max_context;
    m->bytes = gguf_file_bytes(g);
    open_template(m, g);
    gguf_close(g);
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
