/*
 * tokenizer_ranks.c - a tokenizer from a vocabulary by ranks
 *
 * Two forms: lines of a token's bytes in base64 and its rank, as tiktoken loads them (Llama 3's
 * tokenizer.model, qwen.tiktoken), and Mistral's tekken.json.  The former has neither special
 * tokens nor a pattern: both come from the family that config.json names, if the number of ranks is
 * that family's too; tokenizer_config.json's "added_tokens_decoder" has the last word on special
 * tokens.  What merges is any two neighbours that make a token, lowest rank first, and a piece that
 * is a token as a whole is that token.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_member.h"
#include "model/token_entries.h"
#include "model/tokenizer_parts.h"

#define PIECE_BYTES_MAX 512u
#define SPECIAL_MAX     (1 << 16)
#define LINE_BYTES_MIN  7u /* "AA== 0" and its end */

/* Tokens by rank, in GPT-2's alphabet. */
struct ranks {
    struct rank_text {
        size_t at, len; /* in letters; of length 0: no token has this rank */
    } * texts;
    uint64_t count, room;
    uint64_t most; /* ranks that a file of its length can have: none is beyond */
    struct bytes letters;
    char alphabet[256][3];
};

static void ranks_free(struct ranks *r)
{
    free(r->texts);
    bytes_free(&r->letters);
}

/* Base64 */

/* The six bits of a character, -1 if it has none. */
static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decode; the number of bytes, 0 if it is no base64 of 1..PIECE_BYTES_MAX bytes. */
static size_t decode_base64(const char *text, size_t len, unsigned char out[PIECE_BYTES_MAX])
{
    size_t count = 0, pad = len > 1 && text[len - 1] == '=' ? 1 + (text[len - 2] == '=') : 0;

    if (len == 0 || len % 4 != 0 || len / 4 * 3 - pad > PIECE_BYTES_MAX)
        return 0;
    for (size_t at = 0; at < len; at += 4) {
        uint32_t bits = 0;
        size_t bytes = at + 4 == len ? 3 - pad : 3;

        for (size_t i = 0; i < 4; i++) {
            int value = i <= bytes ? sextet(text[at + i]) : 0;

            if (value < 0)
                return 0;
            bits = bits << 6 | (uint32_t)value;
        }
        for (size_t i = 0; i < bytes; i++)
            out[count++] = (unsigned char)(bits >> (16 - 8 * i));
    }
    return count;
}

/* Collecting */

static int grow_ranks(struct ranks *r, uint64_t count, struct error *err)
{
    struct rank_text *grown;
    uint64_t room = r->room ? r->room : 1024;

    while (room < count)
        room *= 2;
    if (room != r->room) {
        grown = reallocarray(r->texts, room, sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "no memory for the vocabulary");
        memset(grown + r->room, 0, (room - r->room) * sizeof(*grown));
        r->texts = grown;
        r->room = room;
    }
    if (count > r->count)
        r->count = count;
    return 0;
}

static int add_rank(struct ranks *r, const char *base64, size_t len, int64_t rank,
                    struct error *err)
{
    unsigned char bytes[PIECE_BYTES_MAX];
    size_t count = decode_base64(base64, len, bytes), before = r->letters.len;

    if (rank < 0 || rank >= TOKEN_IDS_MAX)
        return error_set(err, STATUS_CORRUPT, "rank %" PRId64 " is not in 0..%d", rank,
                         TOKEN_IDS_MAX - 1);
    if ((uint64_t)rank >= r->most)
        return error_set(err, STATUS_CORRUPT,
                         "rank %" PRId64 " in a file that has room for %" PRIu64 " tokens", rank,
                         r->most);
    if (count == 0)
        return error_set(err, STATUS_CORRUPT,
                         "the token of rank %" PRId64 " is no base64 of 1 to %u bytes", rank,
                         PIECE_BYTES_MAX);
    if (grow_ranks(r, (uint64_t)rank + 1, err))
        return -1;
    if (r->texts[rank].len > 0)
        return error_set(err, STATUS_CORRUPT, "rank %" PRId64 " is that of two tokens", rank);
    for (size_t i = 0; i < count; i++) {
        const char *letter = r->alphabet[bytes[i]];

        if (bytes_append(&r->letters, letter, strlen(letter), err))
            return -1;
    }
    r->texts[rank] = (struct rank_text){before, r->letters.len - before};
    return 0;
}

/* "BASE64 RANK" */
static int add_line(struct ranks *r, const char *line, size_t len, struct error *err)
{
    const char *space;
    int64_t rank = 0;

    if (len > 0 && line[len - 1] == '\r')
        len--;
    if (len == 0)
        return 0;
    space = memchr(line, ' ', len);
    if (!space || space + 1 == line + len || line + len - space > 8)
        return error_set(err, STATUS_CORRUPT, "a line is no token in base64 and its rank");
    for (const char *c = space + 1; c < line + len; c++) {
        if (*c < '0' || *c > '9')
            return error_set(err, STATUS_CORRUPT, "a rank is no number");
        rank = rank * 10 + (*c - '0');
    }
    return add_rank(r, line, (size_t)(space - line), rank, err);
}

static int read_lines(struct ranks *r, const char *text, size_t len, struct error *err)
{
    size_t number = 1;

    for (size_t at = 0, n; at < len; at += n + 1, number++) {
        const char *end = memchr(text + at, '\n', len - at);

        n = end ? (size_t)(end - text) - at : len - at;
        if (add_line(r, text + at, n, err))
            return error_wrap(err, "line %zu", number);
    }
    return 0;
}

/* The vocabulary: tokens by rank from `first` on, and the added ones */

static int build(struct tokenizer *t, const struct ranks *r, uint64_t first, const json_t *added,
                 const char *name, struct error *err)
{
    struct token_entries e = {NULL, NULL, 0};
    uint64_t count = first + r->count;
    int rv = -1;

    if (token_entries_count_added(added, count, &count, err) ||
        token_entries_create(&e, count, err))
        goto out;
    for (uint64_t i = 0; i < r->count; i++) {
        const struct rank_text *text = &r->texts[i];

        if (text->len > 0 && token_entries_put(&e, (int64_t)(first + i), r->letters.data + text->at,
                                               text->len, TOKEN_NORMAL, err))
            goto out;
    }
    if (token_entries_put_added(&e, added, err) ||
        vocabulary_build(&t->vocabulary, VOCABULARY_BYTE_LEVEL, name, e.texts, e.types, e.count,
                         err) ||
        bpe_set_ranks(&t->bpe, &t->vocabulary, name, err))
        goto out;
    rv = tokenizer_read_added(t, added, err);
out:
    token_entries_free(&e);
    return rv;
}

/* Special tokens as a list of tokenizer.json's form */

static int append_special(json_t *list, uint64_t id, const char *text, int control,
                          struct error *err)
{
    json_t *token = json_pack("{s:I, s:s, s:b, s:b}", "id", (json_int_t)id, "content", text,
                              "special", control, "normalized", 0);

    if (token && json_array_append_new(list, token) == 0)
        return 0;
    return error_set(err, STATUS_NOMEM, "no memory for the special tokens");
}

struct rank_family {
    const char *const *model_types; /* of config.json; ends with NULL */
    uint64_t count;                 /* of ranks; special tokens follow */
    const char *pre;                /* a name of pretokenizer_add_family() */
    const char *const *special;     /* ends with NULL; then fillers, numbered from .. on */
    const char *filler_head, *filler_tail;
    unsigned filler_first, filler_count;
    const char *bos, *eos; /* NULL: none */
};

static const char *const llama_types[] = {"llama", NULL};
static const char *const llama3_special[] = {
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
    NULL,
};
static const char *const qwen1_types[] = {"qwen", NULL};
static const char *const qwen2_types[] = {"qwen2", "qwen3", "qwen3_moe", NULL};
static const char *const qwen_special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL};

/* Llama 3 as in its own tokenizer.py (llama-models 0.3.0), Qwen as in tokenization_qwen.py. */
static const struct rank_family families[] = {
    {llama_types, 128000, "llama-bpe", llama3_special, "<|reserved_special_token_", "|>", 2, 244,
     "<|begin_of_text|>", "<|end_of_text|>"},
    {qwen1_types, 151643, "qwen2", qwen_special, "<|extra_", "|>", 0, 205, NULL, "<|endoftext|>"},
    {qwen2_types, 151643, "qwen2", qwen_special, "", "", 0, 0, NULL, "<|endoftext|>"},
};

static const struct rank_family *find_family(const char *model_type, uint64_t count,
                                             struct error *err)
{
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        for (const char *const *type = families[i].model_types; *type; type++)
            if (strcmp(*type, model_type) == 0 && families[i].count == count)
                return &families[i];
    error_set(err, STATUS_UNSUPPORTED,
              "special tokens and pre-tokenizer of %" PRIu64
              " ranks and model_type \"%.64s\" are not known; fetch tokenizer.json",
              count, model_type);
    return NULL;
}

/* tokenizer_config.json's "added_tokens_decoder": an object by number. */
static int append_decoder(json_t *list, const json_t *decoder, struct error *err)
{
    const json_t *value;
    const char *key;

    if (decoder && !json_is_object(decoder))
        return error_set(err, STATUS_INVALID,
                         "tokenizer_config.json: \"added_tokens_decoder\" is no object");
    if (json_object_size(decoder) > SPECIAL_MAX)
        return error_set(err, STATUS_UNSUPPORTED,
                         "tokenizer_config.json: more than %d added tokens", SPECIAL_MAX);
    json_object_foreach((json_t *)decoder, key, value)
    {
        json_t *token = json_is_object(value) ? json_copy((json_t *)value) : NULL;
        char *end;
        long long number = strtoll(key, &end, 10);

        if (!token || end == key || *end != '\0') {
            json_decref(token);
            return error_set(err, STATUS_INVALID,
                             "tokenizer_config.json: added token %.32s is none", key);
        }
        if (json_object_set_new(token, "id", json_integer(number)) ||
            json_array_append(list, token)) {
            json_decref(token);
            return error_set(err, STATUS_NOMEM, "no memory for the special tokens");
        }
        json_decref(token);
    }
    return 0;
}

/* A number that is in the list already keeps its token. */
static int append_unless(json_t *list, size_t decided, uint64_t id, const char *text,
                         struct error *err)
{
    for (size_t i = 0; i < decided; i++) {
        const json_t *token = json_array_get(list, i);
        const char *content = json_string_value(member_of(token, "content"));

        if (json_integer_value(member_of(token, "id")) == (json_int_t)id ||
            (content && strcmp(content, text) == 0))
            return 0;
    }
    return append_special(list, id, text, 1, err);
}

static int append_family(json_t *list, const struct rank_family *f, struct error *err)
{
    size_t decided = json_array_size(list);
    uint64_t id = f->count;
    char text[64];

    for (const char *const *special = f->special; *special; special++)
        if (append_unless(list, decided, id++, *special, err))
            return -1;
    for (unsigned i = 0; i < f->filler_count; i++) {
        snprintf(text, sizeof(text), "%s%u%s", f->filler_head, f->filler_first + i, f->filler_tail);
        if (append_unless(list, decided, id++, text, err))
            return -1;
    }
    return 0;
}

static int64_t find_special(const struct tokenizer *t, const char *text)
{
    uint32_t token = text ? vocabulary_find(&t->vocabulary, text, strlen(text)) : NO_TOKEN;

    return token == NO_TOKEN ? -1 : (int64_t)token;
}

static void begin_with_bos(struct tokenizer *t)
{
    if (t->bos >= 0)
        t->prefix[t->prefix_count++] = (uint32_t)t->bos;
}

static int read_plain(struct tokenizer *t, struct ranks *r, const char *text, size_t len,
                      const json_t *settings, const json_t *config, const char *name,
                      struct error *err)
{
    struct pretokenizer_family pre;
    const struct rank_family *f;
    const char *model_type;
    json_t *added = json_array();
    int rv = -1;

    if (!added) {
        error_set(err, STATUS_NOMEM, "no memory for the special tokens");
        goto out;
    }
    r->most = len / LINE_BYTES_MIN + 1;
    if (read_lines(r, text, len, err))
        goto out;
    model_type = member_string(settings, "model_type", "", err);
    f = model_type ? find_family(model_type, r->count, err) : NULL;
    if (!f || append_decoder(added, member_of(config, "added_tokens_decoder"), err) ||
        append_family(added, f, err) ||
        pretokenizer_add_family(t->pre, f->pre, strlen(f->pre), &pre, err) ||
        (pre.nfc && normalizer_add_nfc(t->normalizer, err)) || build(t, r, 0, added, name, err))
        goto out;
    t->bos = find_special(t, f->bos);
    t->eos = find_special(t, f->eos);
    begin_with_bos(t);
    rv = tokenizer_read_config(t, config, err);
out:
    json_decref(added);
    return rv;
}

/* tekken.json */

static int count_member(const json_t *config, const char *key, uint64_t *value, struct error *err)
{
    const json_t *number = member_of(config, key);

    if (!json_is_integer(number) || json_integer_value(number) < 0 ||
        json_integer_value(number) > TOKEN_IDS_MAX)
        return error_set(err, STATUS_CORRUPT, "config: \"%s\" is no number of tokens", key);
    *value = (uint64_t)json_integer_value(number);
    return 0;
}

static int read_tekken_vocab(struct ranks *r, const json_t *vocab, uint64_t most, struct error *err)
{
    const json_t *token;
    size_t i;

    if (!json_is_array(vocab) || json_array_size(vocab) < most)
        return error_set(err, STATUS_CORRUPT, "\"vocab\" is no list of %" PRIu64 " tokens", most);
    r->most = most;
    json_array_foreach((json_t *)vocab, i, token)
    {
        const json_t *rank = member_of(token, "rank");
        const char *bytes = member_string(token, "token_bytes", NULL, err);

        if (!bytes || !json_is_integer(rank))
            return error_set(err, STATUS_CORRUPT, "token %zu has no bytes or no rank", i);
        if (json_integer_value(rank) < (json_int_t)most &&
            add_rank(r, bytes, strlen(bytes), json_integer_value(rank), err))
            return -1;
    }
    return 0;
}

/* The list of the file, or that of files which have none; then fillers up to `count`. */
static int append_tekken_special(json_t *list, const json_t *special, uint64_t count,
                                 struct error *err)
{
    static const char *const old[] = {
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
        "[TOOL_CALLS]",
        "[IMG]",
        "<pad>",
        "[IMG_BREAK]",
        "[IMG_END]",
        "[PREFIX]",
        "[MIDDLE]",
        "[SUFFIX]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[TOOL_CONTENT]",
    };
    uint64_t id = special ? json_array_size(special) : sizeof(old) / sizeof(old[0]);
    const json_t *token;
    char text[32];
    size_t i;

    if (id > count || count > SPECIAL_MAX)
        return error_set(err, STATUS_CORRUPT, "%" PRIu64 " special tokens of %" PRIu64, id, count);
    for (i = 0; !special && i < id; i++)
        if (append_special(list, i, old[i], 1, err))
            return -1;
    json_array_foreach((json_t *)special, i, token)
    {
        const json_t *rank = member_of(token, "rank");
        const char *content = member_string(token, "token_str", NULL, err);
        int control = 1;

        if (!content || !json_is_integer(rank) || json_integer_value(rank) < 0 ||
            json_integer_value(rank) >= (json_int_t)count)
            return error_set(err, STATUS_CORRUPT, "special token %zu has no text or no rank", i);
        if (member_bool(token, "is_control", &control, err) ||
            append_special(list, (uint64_t)json_integer_value(rank), content, control, err))
            return -1;
    }
    for (; id < count; id++) {
        snprintf(text, sizeof(text), "<SPECIAL_%" PRIu64 ">", id);
        if (append_special(list, id, text, 1, err))
            return -1;
    }
    return 0;
}

static int read_tekken(struct tokenizer *t, struct ranks *r, const json_t *root,
                       const json_t *config, const char *name, struct error *err)
{
    const json_t *settings = member_of(root, "config");
    const char *pattern = member_string(settings, "pattern", NULL, err);
    uint64_t size, special;
    json_t *added = json_array();
    int rv = -1;

    if (!added) {
        error_set(err, STATUS_NOMEM, "no memory for the special tokens");
        goto out;
    }
    if (!pattern || count_member(settings, "default_vocab_size", &size, err) ||
        count_member(settings, "default_num_special_tokens", &special, err))
        goto out;
    if (special > size) {
        error_set(err, STATUS_CORRUPT, "config: more special tokens than tokens");
        goto out;
    }
    if (read_tekken_vocab(r, member_of(root, "vocab"), size - special, err) ||
        append_tekken_special(added, member_of(root, "special_tokens"), special, err) ||
        pretokenizer_add_split(t->pre, pattern, strlen(pattern), 0, BEHAVIOR_ISOLATED, 0, err) ||
        pretokenizer_add_byte_level(t->pre, 0, 0, err) || build(t, r, special, added, name, err))
        goto out;
    t->bos = find_special(t, "<s>");
    t->eos = find_special(t, "</s>");
    t->unk = find_special(t, "<unk>");
    t->pad = find_special(t, "<pad>");
    begin_with_bos(t);
    rv = tokenizer_read_config(t, config, err);
out:
    json_decref(added);
    return rv;
}

int tokenizer_read_ranks(struct tokenizer *t, const char *text, size_t len, const json_t *settings,
                         const json_t *config, const char *name, struct error *err)
{
    struct ranks r = {.count = 0};
    json_t *root;
    int rv;

    vocabulary_alphabet(r.alphabet);
    if (len > 0 && text[0] == '{') {
        json_error_t at;

        /* Tokens stand there as text, too: one is a zero byte. */
        root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &at);
        rv = root ? read_tekken(t, &r, root, config, name, err)
                  : error_set(err, STATUS_CORRUPT, "no JSON in line %d", at.line);
        json_decref(root);
    } else {
        rv = read_plain(t, &r, text, len, settings, config, name, err);
    }
    ranks_free(&r);
    return rv;
}
