/* tokenizer_json.c - a tokenizer from tokenizer.json and tokenizer_config.json */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_member.h"
#include "model/token_entries.h"
#include "model/tokenizer_parts.h"

/* The vocabulary: the model's, and the added tokens behind or among it */

/* How many numbers there are: the greatest one and one more. */
static int count_entries(const json_t *vocab, const json_t *added, uint64_t *count,
                         struct error *err)
{
    const json_t *number;
    const char *text;

    *count = json_array_size(vocab);
    json_object_foreach((json_t *)vocab, text, number)
    {
        int64_t id = token_entries_number(number, text, err);

        if (id < 0)
            return -1;
        if ((uint64_t)id >= *count)
            *count = (uint64_t)id + 1;
    }
    return token_entries_count_added(
        added, json_is_array(vocab) ? json_array_size(vocab) : json_object_size(vocab), count, err);
}

/* A unigram model's list of [text, score]. */
static int fill_list(struct token_entries *e, const json_t *vocab, struct error *err)
{
    const json_t *pair;
    size_t i;

    json_array_foreach((json_t *)vocab, i, pair)
    {
        const char *text = json_string_value(json_array_get(pair, 0));

        if (!text || i >= TOKEN_IDS_MAX)
            return error_set(err, STATUS_INVALID, "token %zu is no text with a score", i);
        if (token_entries_put(e, (int64_t)i, text, strlen(text), TOKEN_NORMAL, err))
            return -1;
    }
    return 0;
}

static int fill_entries(struct token_entries *e, const json_t *vocab, const json_t *added,
                        struct error *err)
{
    const json_t *number;
    const char *text;

    if (fill_list(e, vocab, err))
        return -1;
    json_object_foreach((json_t *)vocab, text, number)
    {
        if (token_entries_put(e, json_integer_value(number), text, strlen(text), TOKEN_NORMAL, err))
            return -1;
    }
    return token_entries_put_added(e, added, err);
}

static int read_vocabulary(struct tokenizer *t, const json_t *vocab, const json_t *added,
                           const char *name, struct error *err)
{
    struct token_entries e = {NULL, NULL, 0};
    uint64_t count;
    int rv = -1;

    if (count_entries(vocab, added, &count, err))
        return -1;
    if (token_entries_create(&e, count, err) == 0 && fill_entries(&e, vocab, added, err) == 0)
        rv = vocabulary_build(&t->vocabulary,
                              pretokenizer_is_byte_level(t->pre) ? VOCABULARY_BYTE_LEVEL
                                                                 : VOCABULARY_SENTENCEPIECE,
                              name, e.texts, e.types, e.count, err);
    token_entries_free(&e);
    return rv;
}

/* Byte pair encoding */

static int read_merge(const json_t *item, struct bpe_merge *m)
{
    if (json_is_string(item)) {
        const char *text = json_string_value(item), *space = strchr(text, ' ');

        if (!space)
            return -1;
        *m = (struct bpe_merge){text, space + 1, (uint64_t)(space - text), strlen(space + 1)};
        return 0;
    }
    if (json_array_size(item) != 2 || !json_is_string(json_array_get(item, 0)) ||
        !json_is_string(json_array_get(item, 1)))
        return -1;
    m->left = json_string_value(json_array_get(item, 0));
    m->right = json_string_value(json_array_get(item, 1));
    m->left_len = strlen(m->left);
    m->right_len = strlen(m->right);
    return 0;
}

static int read_merges(struct tokenizer *t, const json_t *list, const char *name, struct error *err)
{
    size_t count = json_array_size(list), i;
    struct bpe_merge *merges = calloc(count + 1, sizeof(*merges));
    const json_t *item;
    int rv = -1;

    if (!json_is_array(list)) {
        error_set(err, STATUS_INVALID, "the model has no list \"merges\"");
        goto out;
    }
    if (!merges) {
        error_set(err, STATUS_NOMEM, "no memory for the merges");
        goto out;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        if (read_merge(item, &merges[i])) {
            error_set(err, STATUS_INVALID, "merge %zu is no pair", i);
            goto out;
        }
    }
    rv = bpe_set_merges(&t->bpe, &t->vocabulary, name, merges, count, err);
out:
    free(merges);
    return rv;
}

/* What only other families use must be absent or empty. */
static int refuse_members(const json_t *model, struct error *err)
{
    static const char *const others[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *dropout = member_of(model, "dropout");

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        const char *value = member_string(model, others[i], "", err);

        if (!value)
            return -1;
        if (*value)
            return error_set(err, STATUS_UNSUPPORTED, "a BPE model with %s is not supported",
                             others[i]);
    }
    if (dropout && json_number_value(dropout) > 0)
        return error_set(err, STATUS_UNSUPPORTED, "a BPE model with dropout is not supported");
    return 0;
}

static int read_bpe(struct tokenizer *t, const json_t *model, const json_t *added, const char *name,
                    struct error *err)
{
    const char *unknown = member_string(model, "unk_token", "", err);
    struct bpe *b = &t->bpe;

    if (!json_is_object(member_of(model, "vocab")))
        return error_set(err, STATUS_INVALID, "the model has no \"vocab\"");
    if (!unknown || refuse_members(model, err) ||
        member_bool(model, "fuse_unk", &b->fuses_unknown, err) ||
        member_bool(model, "byte_fallback", &b->byte_fallback, err) ||
        member_bool(model, "ignore_merges", &b->ignores_merges, err) ||
        read_vocabulary(t, member_of(model, "vocab"), added, name, err) ||
        read_merges(t, member_of(model, "merges"), name, err))
        return -1;
    b->characters = !pretokenizer_is_byte_level(t->pre);
    b->byte_fallback = b->byte_fallback && b->characters; /* the alphabet has every byte */
    if (!*unknown)
        return 0;
    b->unknown = vocabulary_find(&t->vocabulary, unknown, strlen(unknown));
    if (b->unknown == NO_TOKEN)
        return error_set(err, STATUS_CORRUPT, "unk_token \"%.64s\" is not in the vocabulary",
                         unknown);
    t->unk = b->unknown;
    return 0;
}

/* The unigram model */

/*
 * A score as Hugging Face's reader has it: the digits as an integer, rounded, then divided by a
 * power of ten, rounded again.  It may lie beside the nearest double that our reader gives, and
 * decides between ways to write a text whose scores are equal but for rounding.
 */
static double round_twice(double value)
{
    char text[32], power[8], *end;
    uint64_t digits = 0;
    long exponent;

    for (int n = 14; n < 17; n++) { /* the shortest text of the number, but for zeros at its end */
        snprintf(text, sizeof(text), "%.*e", n, fabs(value));
        if (strtod(text, NULL) == fabs(value))
            break;
    }
    exponent = strtol(strchr(text, 'e') + 1, NULL, 10);
    *strchr(text, 'e') = '\0';
    for (end = text + strlen(text); end > text + 2 && end[-1] == '0'; end--)
        ;
    exponent -= end - (text + 2);
    for (const char *c = text; c < end; c++)
        digits = *c == '.' ? digits : digits * 10 + (uint64_t)(*c - '0');
    if (exponent >= 0 || exponent < -300)
        return value;
    snprintf(power, sizeof(power), "1e%ld", -exponent);
    return copysign((double)digits / strtod(power, NULL), value);
}

static int read_scores(struct tokenizer *t, const json_t *vocab, struct error *err)
{
    size_t count = json_array_size(vocab), i;
    double *scores = calloc(count + 1, sizeof(*scores));
    const json_t *pair;
    int rv = -1;

    if (!scores)
        return error_set(err, STATUS_NOMEM, "no memory for the scores");
    json_array_foreach((json_t *)vocab, i, pair)
    {
        if (!json_is_number(json_array_get(pair, 1))) {
            error_set(err, STATUS_INVALID, "token %zu has no score", i);
            goto out;
        }
        scores[i] = round_twice(json_number_value(json_array_get(pair, 1)));
    }
    rv = unigram_set(&t->unigram, &t->vocabulary, scores, count, err);
out:
    free(scores);
    return rv;
}

static int read_unigram(struct tokenizer *t, const json_t *model, const json_t *added,
                        const char *name, struct error *err)
{
    const json_t *vocab = member_of(model, "vocab"), *unknown = member_of(model, "unk_id");
    struct unigram *u = &t->unigram;

    if (!json_is_array(vocab) || json_array_size(vocab) == 0)
        return error_set(err, STATUS_INVALID, "the model has no list \"vocab\"");
    if (pretokenizer_is_byte_level(t->pre))
        return error_set(err, STATUS_UNSUPPORTED, "a byte-level Unigram model is not supported");
    if (member_bool(model, "byte_fallback", &u->byte_fallback, err) ||
        read_vocabulary(t, vocab, added, name, err) || read_scores(t, vocab, err))
        return -1;
    if (!unknown)
        return 0;
    if (!json_is_integer(unknown) || json_integer_value(unknown) < 0 ||
        (uint64_t)json_integer_value(unknown) >= json_array_size(vocab))
        return error_set(err, STATUS_CORRUPT, "\"unk_id\" is no token of the model");
    u->unknown = (uint32_t)json_integer_value(unknown);
    t->unk = u->unknown;
    return 0;
}

static int read_model(struct tokenizer *t, const json_t *root, const char *name, struct error *err)
{
    const json_t *model = member_of(root, "model");
    const char *type = member_string(model, "type", member_of(model, "merges") ? "BPE" : "", err);

    if (!model)
        return error_set(err, STATUS_INVALID, "there is no \"model\"");
    if (!type)
        return -1;
    if (strcmp(type, "BPE") == 0)
        return read_bpe(t, model, member_of(root, "added_tokens"), name, err);
    if (strcmp(type, "Unigram") == 0)
        return read_unigram(t, model, member_of(root, "added_tokens"), name, err);
    return refuse_type("model", type, err);
}

/* Added tokens */

static int collect_one(struct tokenizer *t, const json_t *token, struct bytes *buffer,
                       struct regex_match *match, struct error *err)
{
    static const struct {
        const char *member;
        unsigned flag;
    } flags[] = {{"special", ADDED_SPECIAL},
                 {"single_word", ADDED_SINGLE_WORD},
                 {"lstrip", ADDED_LSTRIP},
                 {"rstrip", ADDED_RSTRIP}};
    const char *text = member_string(token, "content", NULL, err);
    uint32_t id = (uint32_t)json_integer_value(member_of(token, "id"));
    unsigned set = 0;
    int special = 0, normalized;
    size_t len;

    if (!text || member_bool(token, "special", &special, err))
        return -1;
    normalized = !special;
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        int value = 0;

        if (member_bool(token, flags[i].member, &value, err))
            return -1;
        set |= value ? flags[i].flag : 0;
    }
    if (member_bool(token, "normalized", &normalized, err))
        return -1;
    len = strlen(text);
    if (!normalized)
        return added_add(&t->added, text, len, id, set, err);
    if (normalizer_run(t->normalizer, match, text, len, buffer, &text, &len, err))
        return -1;
    return added_add(&t->normalized, text, len, id, set, err);
}

int tokenizer_read_added(struct tokenizer *t, const json_t *added, struct error *err)
{
    struct regex_match *match = regex_match_create(err);
    struct bytes buffer = {NULL, 0, 0};
    const json_t *token;
    size_t i;
    int rv = match ? 0 : -1;

    json_array_foreach((json_t *)added, i, token)
    {
        if (rv == 0)
            rv = collect_one(t, token, &buffer, match, err);
    }
    added_complete(&t->added);
    added_complete(&t->normalized);
    bytes_free(&buffer);
    regex_match_destroy(match);
    return rv;
}

/* The post-processor: what goes before a text */

static int push_prefix(struct tokenizer *t, const json_t *ids, struct error *err)
{
    const json_t *id;
    size_t i;

    if (json_array_size(ids) == 0)
        return error_set(err, STATUS_INVALID, "a special token of the template has no ids");
    json_array_foreach((json_t *)ids, i, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= t->vocabulary.count)
            return error_set(err, STATUS_CORRUPT, "the template has a token that is none");
        if (t->prefix_count == PREFIX_MAX)
            return error_set(err, STATUS_UNSUPPORTED, "more than %d tokens before a text",
                             PREFIX_MAX);
        t->prefix[t->prefix_count++] = (uint32_t)json_integer_value(id);
    }
    return 0;
}

static int read_template(struct tokenizer *t, const json_t *post, struct error *err)
{
    const json_t *pieces = member_of(post, "single"), *piece;
    int texts = 0;
    size_t i;

    if (!json_is_array(pieces))
        return error_set(err, STATUS_INVALID, "\"single\" is no list");
    json_array_foreach((json_t *)pieces, i, piece)
    {
        const json_t *special = member_of(piece, "SpecialToken");
        const char *id;

        if (!special) {
            texts += member_of(piece, "Sequence") != NULL;
            continue;
        }
        if (texts)
            return error_set(err, STATUS_UNSUPPORTED,
                             "a template with tokens behind the text is not supported");
        id = member_string(special, "id", NULL, err);
        if (!id ||
            push_prefix(t, member_of(member_of(member_of(post, "special_tokens"), id), "ids"), err))
            return -1;
    }
    return texts == 1 ? 0
                      : error_set(err, STATUS_INVALID, "the template has %d texts, not one", texts);
}

static int read_post(struct tokenizer *t, const json_t *post, unsigned depth, struct error *err)
{
    const char *type = member_string(post, "type", NULL, err);
    const json_t *list, *one;
    size_t i;

    if (!type)
        return -1;
    if (strcmp(type, "ByteLevel") == 0) /* moves offsets only */
        return 0;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, post, err);
    if (strcmp(type, "Sequence") != 0 || depth > 4)
        return refuse_type("post-processor", type, err);
    list = member_of(post, "processors");
    if (!json_is_array(list))
        return error_set(err, STATUS_INVALID, "\"processors\" is no list");
    json_array_foreach((json_t *)list, i, one)
    {
        if (read_post(t, one, depth + 1, err))
            return -1;
    }
    return 0;
}

/* tokenizer_config.json */

/* A special token there is a text, or an object with its "content". */
static int read_special(const struct tokenizer *t, const json_t *config, const char *key,
                        int64_t *id, struct error *err)
{
    const json_t *value = member_of(config, key);
    const char *text;
    uint32_t token;

    if (json_is_object(value))
        value = member_of(value, "content");
    if (!value)
        return 0;
    text = json_string_value(value);
    if (!text)
        return error_set(err, STATUS_INVALID, "tokenizer_config.json: \"%s\" is no token", key);
    token = vocabulary_find(&t->vocabulary, text, strlen(text));
    if (token == NO_TOKEN)
        return error_set(err, STATUS_CORRUPT,
                         "tokenizer_config.json: %s \"%.64s\" is not in the vocabulary", key, text);
    *id = token;
    return 0;
}

int tokenizer_read_config(struct tokenizer *t, const json_t *config, struct error *err)
{
    int adds_bos = 0;

    if (t->prefix_count > 0)
        t->bos = t->prefix[0];
    if (read_special(t, config, "bos_token", &t->bos, err) ||
        read_special(t, config, "eos_token", &t->eos, err) ||
        read_special(t, config, "unk_token", &t->unk, err) ||
        read_special(t, config, "pad_token", &t->pad, err) ||
        member_bool(config, "add_bos_token", &adds_bos, err))
        return -1;
    if (!member_of(config, "add_bos_token"))
        return 0;
    t->prefix_count = 0; /* it overrides the post-processor */
    if (adds_bos && t->bos >= 0)
        t->prefix[t->prefix_count++] = (uint32_t)t->bos;
    return 0;
}

static int read_all(struct tokenizer *t, const json_t *root, const json_t *config, const char *name,
                    struct error *err)
{
    const json_t *normalizer = member_of(root, "normalizer");
    const json_t *pre = member_of(root, "pre_tokenizer"), *post = member_of(root, "post_processor");

    if ((normalizer && normalizer_add_json(t->normalizer, normalizer, err)) ||
        (pre && pretokenizer_add_json(t->pre, pre, err)) || read_model(t, root, name, err) ||
        tokenizer_read_added(t, member_of(root, "added_tokens"), err) ||
        (post && read_post(t, post, 0, err)) ||
        tokenizer_read_decoder(t, member_of(root, "decoder"), err))
        return -1;
    return tokenizer_read_config(t, config, err);
}

int tokenizer_read_json(struct tokenizer *t, const json_t *root, const json_t *config,
                        const char *name, struct error *err)
{
    return read_all(t, root, config, name, err) ? error_wrap(err, "%s: tokenizer.json", name) : 0;
}
