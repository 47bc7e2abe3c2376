/* token_log.c - log probabilities of an answer's tokens; see token_log.h */
#include "daemon/token_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void token_log_fini(struct token_log *l)
{
    free(l->entries);
    free(l->probs);
    *l = (struct token_log){0};
}

static int grow(struct token_log *l, struct error *err)
{
    size_t room = l->room * 2 + 16, width = 1u + l->top;
    struct token_log_entry *entries = realloc(l->entries, room * sizeof *entries);
    struct token_logprob *probs = realloc(l->probs, room * width * sizeof *probs);

    l->entries = entries ? entries : l->entries;
    l->probs = probs ? probs : l->probs;
    if (!entries || !probs)
        return error_set(err, STATUS_NOMEM, "out of memory");
    l->room = room;
    return 0;
}

int token_log_push(struct token_log *l, const struct event_logprobs *ev, uint64_t begin,
                   uint64_t characters, struct error *err)
{
    size_t width = 1u + l->top;
    uint32_t count = ev->count < l->top ? ev->count : l->top;

    if (l->count == l->room && grow(l, err))
        return -1;
    l->probs[l->count * width] = ev->picked;
    memcpy(l->probs + l->count * width + 1, ev->top, count * sizeof *ev->top);
    l->entries[l->count++] = (struct token_log_entry){begin, characters, count};
    return 0;
}

size_t token_log_ready(const struct token_log *l, uint64_t end)
{
    size_t n = 0;

    while (n < l->count && l->entries[n].begin < end)
        n++;
    return n;
}

/* --- a token's name ----------------------------------------------------------------------------
 */

static void token_text(const struct tokenizer *t, uint32_t token, const char **text, size_t *len)
{
    if (!tokenizer_is_control(t, token)) {
        tokenizer_bytes(t, token, text, len);
        return;
    }
    *text = tokenizer_text(t, token);
    *len = strlen(*text);
}

/* Its text, or its bytes where they are no text.  malloc'd; NULL without memory. */
static char *token_name(enum openai_kind kind, const struct tokenizer *t, uint32_t token)
{
    const char *text;
    size_t len, at = 0;

    token_text(t, token, &text, &len);
    char *name = malloc(4 * len + sizeof "bytes:");
    if (!name)
        return NULL;
    json_t *valid = memchr(text, 0, len) ? NULL : json_stringn(text, len);
    if (valid) {
        memcpy(name, text, len);
        name[len] = '\0';
        json_decref(valid);
        return name;
    }
    if (kind == OPENAI_COMPLETION)
        at = (size_t)sprintf(name, "bytes:");
    for (size_t i = 0; i < len; i++)
        at += (size_t)sprintf(name + at, "\\x%02x", (unsigned char)text[i]);
    return name;
}

/* null for what is no text of an answer. */
static json_t *token_bytes(const struct tokenizer *t, uint32_t token)
{
    const char *bytes;
    size_t len;

    if (tokenizer_is_control(t, token))
        return json_null();
    json_t *list = json_array();
    tokenizer_bytes(t, token, &bytes, &len);
    for (size_t i = 0; i < len; i++)
        if (json_array_append_new(list, json_integer((unsigned char)bytes[i]))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* --- chat ---------------------------------------------------------------------------------------
 */

static json_t *chat_token(const struct tokenizer *t, const struct token_logprob *p)
{
    char *name = token_name(OPENAI_CHAT, t, p->token);
    json_t *one = json_pack("{ss sf so}", "token", name, "logprob", p->logprob, "bytes",
                            token_bytes(t, p->token));

    free(name);
    return one;
}

static int chat_append(json_t *content, const struct tokenizer *t, const struct token_logprob *p,
                       uint32_t count)
{
    json_t *one = chat_token(t, p), *top = json_array();

    for (uint32_t i = 0; i < count; i++)
        if (json_array_append_new(top, chat_token(t, &p[1 + i]))) {
            json_decref(top);
            top = NULL;
            break;
        }
    if (json_object_set_new(one, "top_logprobs", top)) {
        json_decref(one);
        return -1;
    }
    return json_array_append_new(content, one);
}

/* --- completions ---------------------------------------------------------------------------------
 */

/* {token: logprob} of the alternatives and of the token itself. */
static json_t *alternatives(const struct tokenizer *t, const struct token_logprob *p,
                            uint32_t count)
{
    json_t *all = json_object();

    for (uint32_t i = 1; i <= count + 1; i++) {
        const struct token_logprob *one = &p[i <= count ? i : 0];
        char *name = token_name(OPENAI_COMPLETION, t, one->token);
        int failed = !name || (!json_object_get(all, name) &&
                               json_object_set_new(all, name, json_real(one->logprob)));
        free(name);
        if (failed) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

static int completion_append(json_t *lists, const struct tokenizer *t,
                             const struct token_logprob *p, const struct token_log_entry *entry)
{
    char *name = token_name(OPENAI_COMPLETION, t, p->token);
    int failed =
        !name || json_array_append_new(json_object_get(lists, "tokens"), json_string(name)) ||
        json_array_append_new(json_object_get(lists, "token_logprobs"), json_real(p->logprob)) ||
        json_array_append_new(json_object_get(lists, "top_logprobs"),
                              alternatives(t, p, entry->count)) ||
        json_array_append_new(json_object_get(lists, "text_offset"),
                              json_integer((json_int_t)entry->characters));

    free(name);
    return failed ? -1 : 0;
}

/* --- both ---------------------------------------------------------------------------------------
 */

static void forget(struct token_log *l, size_t n)
{
    size_t width = 1u + l->top;

    if (n == 0)
        return;
    l->count -= n;
    memmove(l->entries, l->entries + n, l->count * sizeof *l->entries);
    memmove(l->probs, l->probs + n * width, l->count * width * sizeof *l->probs);
}

json_t *token_log_take(struct token_log *l, enum openai_kind kind, const struct tokenizer *t,
                       uint64_t end)
{
    size_t n = token_log_ready(l, end), width = 1u + l->top;
    json_t *all = kind == OPENAI_CHAT ? json_pack("{s[] sn}", "content", "refusal")
                                      : json_pack("{s[] s[] s[] s[]}", "tokens", "token_logprobs",
                                                  "top_logprobs", "text_offset");
    int failed = !all;

    for (size_t i = 0; i < n && !failed; i++) {
        const struct token_logprob *p = l->probs + i * width;
        failed = kind == OPENAI_CHAT
                     ? chat_append(json_object_get(all, "content"), t, p, l->entries[i].count)
                     : completion_append(all, t, p, &l->entries[i]);
    }
    forget(l, n);
    if (!failed)
        return all;
    json_decref(all);
    return NULL;
}
