#include "model/token_entries.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_member.h"
#include "model/vocabulary.h"

#define GAPS_MAX (1u << 16) /* numbers without a token */

int token_entries_create(struct token_entries *e, uint64_t count, struct error *err)
{
    e->count = count;
    e->texts = calloc(count + 1, sizeof(*e->texts));
    e->types = calloc(count + 1, sizeof(*e->types));
    if (!e->texts || !e->types)
        return error_set(err, STATUS_NOMEM, "no memory for the vocabulary");
    for (uint64_t i = 0; i < count; i++) {
        e->texts[i].data = "";
        e->types[i] = TOKEN_UNUSED;
    }
    return 0;
}

void token_entries_free(struct token_entries *e)
{
    free(e->texts);
    free(e->types);
}

int64_t token_entries_number(const json_t *number, const char *text, struct error *err)
{
    if (json_is_integer(number) && json_integer_value(number) >= 0 &&
        json_integer_value(number) < TOKEN_IDS_MAX)
        return json_integer_value(number);
    return error_set(err, STATUS_CORRUPT, "token \"%.64s\" has no number below %d", text,
                     TOKEN_IDS_MAX);
}

int token_entries_put(struct token_entries *e, int64_t id, const char *text, size_t len,
                      int64_t type, struct error *err)
{
    struct gguf_string *there = &e->texts[id];

    if (there->len > 0 && (there->len != len || memcmp(there->data, text, len) != 0))
        return error_set(err, STATUS_CORRUPT, "number %" PRId64 " is that of two tokens", id);
    *there = (struct gguf_string){text, len};
    e->types[id] = type;
    return 0;
}

int token_entries_count_added(const json_t *added, uint64_t own, uint64_t *count, struct error *err)
{
    const json_t *token;
    size_t i;

    json_array_foreach((json_t *)added, i, token)
    {
        int64_t id = token_entries_number(member_of(token, "id"), "of added_tokens", err);

        if (id < 0)
            return -1;
        if ((uint64_t)id >= *count)
            *count = (uint64_t)id + 1;
    }
    own += json_array_size(added);
    if (*count > own + GAPS_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "tokens have numbers up to %" PRIu64 ", and there are only %" PRIu64
                         " of them",
                         *count - 1, own);
    return 0;
}

int token_entries_put_added(struct token_entries *e, const json_t *added, struct error *err)
{
    const json_t *token;
    size_t i;

    json_array_foreach((json_t *)added, i, token)
    {
        const char *text = member_string(token, "content", NULL, err);
        int special = 0;

        if (!text || member_bool(token, "special", &special, err) ||
            token_entries_put(e, json_integer_value(member_of(token, "id")), text, strlen(text),
                              special ? TOKEN_CONTROL : TOKEN_USER_DEFINED, err))
            return -1;
    }
    return 0;
}
