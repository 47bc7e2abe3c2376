/* tokenizer_gguf.c - a tokenizer from GGUF's tokenizer.ggml.* keys */
#include <inttypes.h>
#include <string.h>

#include "model/gguf_metadata.h"
#include "model/tokenizer_parts.h"

/* A token's id; -1 if the file does not say. */
static int read_id(const struct tokenizer *t, const struct gguf *g, const char *key, int64_t *id,
                   struct error *err)
{
    uint64_t value;
    int found = gguf_get_u64(g, key, &value, err);

    if (found < 0)
        return -1;
    if (found == 0 && value >= t->vocabulary.count)
        return error_set(err, STATUS_CORRUPT,
                         "%s: key %s is %" PRIu64 ", the vocabulary has %" PRIu32 " tokens",
                         g->name, key, value, t->vocabulary.count);
    *id = found == 0 ? (int64_t)value : -1;
    return 0;
}

static int refuse_flag(const struct gguf *g, const char *key, struct error *err)
{
    int value = 0;

    if (gguf_get_bool(g, key, &value, err) < 0)
        return -1;
    if (value)
        return error_set(err, STATUS_UNSUPPORTED, "%s: key %s is not supported", g->name, key);
    return 0;
}

/* Numbers of tokens, and what is put before a text. */
static int read_settings(struct tokenizer *t, const struct gguf *g, int adds_bos, struct error *err)
{
    if (read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err) ||
        read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err) ||
        read_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unk, err) ||
        read_id(t, g, "tokenizer.ggml.padding_token_id", &t->pad, err) ||
        refuse_flag(g, "tokenizer.ggml.add_eos_token", err) ||
        gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &adds_bos, err) < 0)
        return -1;
    if (adds_bos && t->bos >= 0)
        t->prefix[t->prefix_count++] = (uint32_t)t->bos;
    return 0;
}

/* A required string among the file's keys. */
static int read_word(const struct gguf *g, const char *key, struct gguf_string *word,
                     struct error *err)
{
    int found = gguf_get_string(g, key, word, err);

    if (found == 1)
        return error_set(err, STATUS_CORRUPT, "%s: key %s is missing; convert the model anew",
                         g->name, key);
    return found;
}

static int is_word(const struct gguf_string *s, const char *word)
{
    return s->len == strlen(word) && memcmp(s->data, word, s->len) == 0;
}

/* GGUF does not keep which tokens take white space with them: these are those of Phi-3. */
static unsigned strip_flags(const struct token *token)
{
    static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};

    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
        if (strcmp(token->text, plain[i]) == 0)
            return 0;
    return ADDED_RSTRIP;
}

/* SentencePiece looks for its user-defined tokens in the text with its spaces replaced. */
static int add_user_defined(struct tokenizer *t, const struct token *token, uint32_t id,
                            unsigned flags, struct regex_match *match, struct error *err)
{
    struct bytes buffer = {NULL, 0, 0};
    const char *text;
    size_t len;
    int rv = normalizer_run(t->normalizer, match, token->text, token->text_len, &buffer, &text,
                            &len, err);

    if (rv == 0)
        rv = added_add(&t->normalized, text, len, id, flags, err);
    bytes_free(&buffer);
    return rv;
}

/* Control, unknown and user-defined tokens are cut out of the text. */
static int collect_added(struct tokenizer *t, int strips, struct error *err)
{
    const struct vocabulary *v = &t->vocabulary;
    int replaces = v->kind == VOCABULARY_SENTENCEPIECE;
    struct regex_match *match = regex_match_create(err);
    int rv = match ? 0 : -1;

    for (uint32_t i = 0; i < v->count && rv == 0; i++) {
        const struct token *token = &v->tokens[i];
        unsigned flags = strips ? strip_flags(token) : 0;

        if (token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN)
            rv = added_add(&t->added, token->text, token->text_len, i, flags | ADDED_SPECIAL, err);
        else if (token->type == TOKEN_USER_DEFINED && replaces)
            rv = add_user_defined(t, token, i, flags, match, err);
        else if (token->type == TOKEN_USER_DEFINED)
            rv = added_add(&t->added, token->text, token->text_len, i, flags, err);
    }
    regex_match_destroy(match);
    added_complete(&t->added);
    added_complete(&t->normalized);
    return rv;
}

static int read_byte_level(struct tokenizer *t, const struct gguf *g, struct error *err)
{
    struct pretokenizer_family family;
    struct gguf_string pre;
    char shown[GGUF_SHOWN_MAX];

    if (read_word(g, "tokenizer.ggml.pre", &pre, err) ||
        refuse_flag(g, "tokenizer.ggml.add_space_prefix", err))
        return -1;
    gguf_show(&pre, shown);
    if (pretokenizer_add_family(t->pre, shown, strlen(shown), &family, err) ||
        (family.nfc && normalizer_add_nfc(t->normalizer, err)))
        return error_wrap(err, "%s", g->name);
    if (vocabulary_read(&t->vocabulary, VOCABULARY_BYTE_LEVEL, g, err) ||
        bpe_read_merges(&t->bpe, &t->vocabulary, g, err))
        return -1;
    if (collect_added(t, 0, err))
        return error_wrap(err, "%s", g->name);
    t->bpe.ignores_merges = family.ignores_merges;
    return read_settings(t, g, family.wants_bos, err);
}

/*
 * SentencePiece's BPE.  The space before a text goes before every part of it that begins behind a
 * control token, as the family's tokenizer.json and llama.cpp have it.
 */
int tokenizer_finish_sentencepiece(struct tokenizer *t, int prefix, int phi3, struct error *err)
{
    /* User-defined tokens are normalized without the space before a text. */
    if (normalizer_add_replace(t->normalizer, " ", SENTENCEPIECE_SPACE, err) ||
        collect_added(t, phi3, err) ||
        (prefix && normalizer_add_prepend(t->normalizer, SENTENCEPIECE_SPACE, err)))
        return -1;
    t->strip = prefix ? STRIP_SPACE : STRIP_NOTHING;
    t->bpe.characters = 1;
    t->bpe.byte_fallback = 1;
    t->bpe.fuses_unknown = 1;
    t->bpe.unknown = t->unk >= 0 ? (uint32_t)t->unk : NO_TOKEN;
    return 0;
}

static int read_sentencepiece(struct tokenizer *t, const struct gguf *g, struct error *err)
{
    struct gguf_string architecture;
    int prefix = 1, phi3;

    if (gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &prefix, err) < 0 ||
        refuse_flag(g, "tokenizer.ggml.remove_extra_whitespaces", err) ||
        vocabulary_read(&t->vocabulary, VOCABULARY_SENTENCEPIECE, g, err) ||
        bpe_read_scores(&t->bpe, &t->vocabulary, g, err) || read_settings(t, g, 1, err))
        return -1;
    phi3 = gguf_get_string(g, "general.architecture", &architecture, NULL) == 0 &&
           is_word(&architecture, "phi3");
    return tokenizer_finish_sentencepiece(t, prefix, phi3, err) ? error_wrap(err, "%s", g->name)
                                                                : 0;
}

int tokenizer_read_gguf(struct tokenizer *t, const struct gguf *g, struct error *err)
{
    struct gguf_string model;
    char shown[GGUF_SHOWN_MAX];

    if (read_word(g, "tokenizer.ggml.model", &model, err))
        return -1;
    if (is_word(&model, "gpt2"))
        return read_byte_level(t, g, err);
    if (is_word(&model, "llama"))
        return read_sentencepiece(t, g, err);
    return error_set(err, STATUS_UNSUPPORTED, "%s: tokenizer %s is not supported", g->name,
                     gguf_show(&model, shown));
}
