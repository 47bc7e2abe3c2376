/*
 * template.c - a chat template from its source to rendered text
 */
#include "model/template.h"

#include "model/template_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- arena ---------------------------------------------------------------------------------- */

struct tpl_chunk {
    struct tpl_chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
};

#define CHUNK_MIN (16u << 10)
#define CHUNK_MAX (1u << 20)

/* A chunk with room for `bytes`; chunks double in size up to CHUNK_MAX. */
static struct tpl_chunk *add_chunk(struct tpl_arena *arena, size_t bytes)
{
    size_t size = arena->head ? arena->head->size * 2 : CHUNK_MIN;
    if (size > CHUNK_MAX)
        size = CHUNK_MAX;
    if (size < bytes)
        size = bytes;
    if (size > arena->limit - arena->used)
        return NULL;
    struct tpl_chunk *chunk = malloc(sizeof *chunk + size);
    if (!chunk)
        return NULL;
    chunk->next = arena->head;
    chunk->used = 0;
    chunk->size = size;
    arena->head = chunk;
    arena->used += size;
    return chunk;
}

void *tpl_arena_alloc(struct tpl_arena *arena, size_t bytes)
{
    struct tpl_chunk *chunk = arena->head;
    if (bytes > arena->limit)
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes == 0)
        bytes = 16;
    if (!chunk || bytes > chunk->size - chunk->used)
        chunk = add_chunk(arena, bytes);
    if (!chunk)
        return NULL;
    void *at = chunk->data + chunk->used;
    chunk->used += bytes;
    return at;
}

void tpl_arena_free(struct tpl_arena *arena)
{
    while (arena->head) {
        struct tpl_chunk *next = arena->head->next;
        free(arena->head);
        arena->head = next;
    }
    arena->used = 0;
}

/* --- limits and errors of a rendering ------------------------------------------------------- */

int tpl_fail(struct tpl_render *r, enum status status, const char *fmt, ...)
{
    char text[ERROR_TEXT_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return error_set(r->err, status, "line %d: %s", r->line, text);
}

int tpl_fail_undefined(struct tpl_render *r, const struct tpl_value *v)
{
    int len = v->string.len < 200 ? (int)v->string.len : 200;
    switch (v->undefined) {
    case TPL_NO_ATTRIBUTE:
        return tpl_fail(r, STATUS_INVALID, "%.*s", len, v->string.data);
    case TPL_NO_ELEMENT:
        return tpl_fail(r, STATUS_INVALID, "'%.*s' object has no such element", len,
                        v->string.data);
    case TPL_NO_ELSE:
        return tpl_fail(r, STATUS_INVALID,
                        "an inline 'if' was false and has no 'else': its value is undefined");
    case TPL_NO_VARIABLE:
        break;
    }
    return tpl_fail(r, STATUS_INVALID, "'%.*s' is undefined", len, v->string.data);
}

int tpl_step(struct tpl_render *r, size_t steps)
{
    if (steps > TPL_STEPS_MAX - r->steps) {
        r->steps = TPL_STEPS_MAX;
        return tpl_fail(r, STATUS_EXHAUSTED, "template takes more than %u steps", TPL_STEPS_MAX);
    }
    r->steps += steps;
    return 0;
}

int tpl_scan(struct tpl_render *r, size_t bytes)
{
    return bytes < TPL_SCAN_PER_STEP ? 0 : tpl_step(r, bytes / TPL_SCAN_PER_STEP);
}

void *tpl_alloc(struct tpl_render *r, size_t count, size_t size)
{
    size_t bytes;
    void *at = NULL;
    if (!__builtin_mul_overflow(count, size, &bytes))
        at = tpl_arena_alloc(&r->arena, bytes);
    if (!at)
        tpl_fail(r, STATUS_EXHAUSTED, "template needs more than %u bytes of memory",
                 TPL_MEMORY_MAX);
    return at;
}

/* --- the template --------------------------------------------------------------------------- */

struct template *template_create(const char *source, size_t len, struct error *err)
{
    struct template *t;
    if (len > TPL_SOURCE_MAX) {
        error_set(err, STATUS_UNSUPPORTED, "template of %zu bytes is larger than %u", len,
                  TPL_SOURCE_MAX);
        return NULL;
    }
    if (!tpl_utf8_valid(source, len)) {
        error_set(err, STATUS_INVALID, "template is not valid UTF-8");
        return NULL;
    }
    t = calloc(1, sizeof *t);
    if (!t) {
        error_set(err, STATUS_NOMEM, "no memory for a template");
        return NULL;
    }
    t->arena.limit = TPL_TREE_MAX;
    struct tpl_parser parser = {.arena = &t->arena, .err = err};
    parser.token = tpl_lex(&t->arena, source, len, err);
    t->tokens = parser.token;
    if (!parser.token || tpl_parse(&parser, &t->body) != 0) {
        template_destroy(t);
        return NULL;
    }
    return t;
}

void template_destroy(struct template *t)
{
    if (!t)
        return;
    tpl_arena_free(&t->arena);
    free(t);
}

static int is_word(const struct tpl_token *token, enum tpl_token_type type, const char *word)
{
    return token->type == type && token->text.len == strlen(word) &&
           memcmp(token->text.data, word, token->text.len) == 0;
}

int template_reads(const struct template *t, const char *variable)
{
    const struct tpl_token *before = NULL;
    for (const struct tpl_token *token = t->tokens; token->type != TPL_TOKEN_END; token++) {
        if (is_word(token, TPL_TOKEN_NAME, variable) &&
            !(before && is_word(before, TPL_TOKEN_OPERATOR, ".")))
            return 1;
        before = token;
    }
    return 0;
}

int template_mentions(const struct template *t, const char *word)
{
    for (const struct tpl_token *token = t->tokens; token->type != TPL_TOKEN_END; token++)
        if (is_word(token, TPL_TOKEN_NAME, word) || is_word(token, TPL_TOKEN_STRING, word))
            return 1;
    return 0;
}

static int set_variables(struct tpl_render *r, const json_t *variables)
{
    struct tpl_value all;
    if (!json_is_object(variables))
        return error_set(r->err, STATUS_INVALID, "a template's variables must be a JSON object");
    if (tpl_from_json(r, variables, 0, &all) != 0)
        return -1;
    for (size_t i = 0; i < all.dict->count; i++) {
        const struct tpl_pair *pair = &all.dict->pairs[i];
        if (tpl_set_variable(r, &r->scope->first, pair->key.string, &pair->value) != 0)
            return -1;
    }
    return 0;
}

int template_render(const struct template *t, const json_t *variables, char **out, size_t *len,
                    struct error *err)
{
    struct tpl_scope scope = {NULL, NULL};
    struct tpl_text text = {NULL, 0, 0};
    struct tpl_render r = {
        .arena = {NULL, 0, TPL_MEMORY_MAX}, .line = 1, .scope = &scope, .out = &text, .err = err};
    int rv = -1;
    if (set_variables(&r, variables) != 0 || tpl_execute(&r, t->body) != 0)
        goto out;
    char *copy = malloc(text.len + 1);
    if (!copy) {
        error_set(err, STATUS_NOMEM, "no memory for a rendered template of %zu bytes", text.len);
        goto out;
    }
    if (text.len)
        memcpy(copy, text.data, text.len);
    copy[text.len] = '\0';
    *out = copy;
    *len = text.len;
    rv = 0;
out:
    tpl_arena_free(&r.arena);
    return rv;
}
