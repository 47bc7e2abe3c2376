#include "model/vocabulary.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_metadata.h"
#include "model/utf8.h"

#define TOKENS_MAX      (1u << 22)
#define TEXT_BYTES_MAX  (1u << 16)
#define TEXTS_BYTES_MAX (1u << 30)
/* Load is at most one half, so honest tables stay far below this many steps a search. */
#define PROBES_MAX 1024u

/* The byte alphabet */

static int is_own_letter(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* A byte's character is itself (as Latin-1) if that is printable, else the next one from U+0100. */
void vocabulary_alphabet(char letters[256][3])
{
    unsigned next = 0x100;

    for (unsigned byte = 0; byte < 256; byte++) {
        unsigned code = is_own_letter(byte) ? byte : next++;
        char *letter = letters[byte];

        if (code < 0x80) {
            letter[0] = (char)code;
            letter[1] = '\0';
        } else {
            letter[0] = (char)(0xc0 | code >> 6);
            letter[1] = (char)(0x80 | (code & 0x3f));
            letter[2] = '\0';
        }
    }
}

/* The byte of a character of the alphabet, -1 for another one.  n is its length in UTF-8. */
static int letter_byte(const char *s, int n)
{
    unsigned code = (unsigned char)s[0], spare = 0x100;

    if (n > 2)
        return -1;
    if (n == 2)
        code = (code & 0x1f) << 6 | ((unsigned char)s[1] & 0x3f);
    if (code < 0x100)
        return is_own_letter(code) ? (int)code : -1;
    for (unsigned byte = 0; byte < 256; byte++)
        if (!is_own_letter(byte) && spare++ == code)
            return (int)byte;
    return -1;
}

/* Undo the alphabet.  A text with a character from outside of it stands for itself. */
static uint32_t decode_letters(const char *text, uint32_t len, char *out)
{
    uint32_t count = 0, n;

    for (uint32_t at = 0; at < len; at += n) {
        int byte;

        n = (uint32_t)utf8_measure(text + at, len - at);
        byte = letter_byte(text + at, (int)n);
        if (byte < 0) {
            memcpy(out, text, len);
            return len;
        }
        out[count++] = (char)byte;
    }
    return count;
}

int vocabulary_byte_of(const char *text, size_t len)
{
    int byte = 0;

    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        static const char digits[] = "0123456789ABCDEF";
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;

        if (!digit)
            return -1;
        byte = byte << 4 | (int)(digit - digits);
    }
    return byte;
}

/* A byte of its own, else U+2581 to spaces. */
static uint32_t decode_sentencepiece(const char *text, uint32_t len, char *out)
{
    static const char space[] = SENTENCEPIECE_SPACE;
    const uint32_t space_len = sizeof(space) - 1;
    int byte = vocabulary_byte_of(text, len);
    uint32_t count = 0, at = 0;

    if (byte >= 0) {
        out[0] = (char)byte;
        return 1;
    }
    while (at < len) {
        int is_space = len - at >= space_len && memcmp(text + at, space, space_len) == 0;

        out[count++] = is_space ? ' ' : text[at];
        at += is_space ? space_len : 1;
    }
    return count;
}

/* By text */

/* Eight bytes at a time, each mixed by a multiplication (the constant is splitmix64's). */
static uint64_t hash_text(const char *text, size_t len)
{
    uint64_t h = len * 0x9e3779b97f4a7c15u, word;

    for (; len >= sizeof(word); text += sizeof(word), len -= sizeof(word)) {
        memcpy(&word, text, sizeof(word));
        h = (h ^ word) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 32;
    }
    word = 0;
    for (size_t i = 0; i < len; i++)
        word = word << 8 | (unsigned char)text[i];
    h = (h ^ word) * 0x94d049bb133111ebu;
    return h ^ h >> 29;
}

/* The slot of this text: taken by it, or free.  UINT64_MAX if the search is too long. */
static uint64_t find_slot(const struct vocabulary *v, const char *text, size_t len)
{
    uint64_t slot = hash_text(text, len) & v->mask;

    for (unsigned i = 0; i < PROBES_MAX; i++, slot = (slot + 1) & v->mask) {
        const struct token *t;

        if (v->slots[slot] == NO_TOKEN)
            return slot;
        t = &v->tokens[v->slots[slot]];
        if (t->text_len == len && memcmp(t->text, text, len) == 0)
            return slot;
    }
    return UINT64_MAX;
}

uint32_t vocabulary_find(const struct vocabulary *v, const char *text, size_t len)
{
    uint64_t slot = find_slot(v, text, len);

    return slot == UINT64_MAX ? NO_TOKEN : v->slots[slot];
}

static int index_texts(struct vocabulary *v, const char *name, struct error *err)
{
    uint64_t slots = 16;

    while (slots < (uint64_t)v->count * 2)
        slots *= 2;
    v->slots = malloc(slots * sizeof(*v->slots));
    if (!v->slots)
        return error_set(err, STATUS_NOMEM, "%s: no memory for its vocabulary", name);
    memset(v->slots, 0xff, slots * sizeof(*v->slots)); /* NO_TOKEN */
    v->mask = slots - 1;
    for (uint32_t i = 0; i < v->count; i++) {
        uint64_t slot;

        if (v->tokens[i].text_len == 0)
            continue;
        slot = find_slot(v, v->tokens[i].text, v->tokens[i].text_len);
        if (slot == UINT64_MAX)
            return error_set(err, STATUS_CORRUPT,
                             "%s: token %" PRIu32 ": too many tokens hash alike", name, i);
        if (v->slots[slot] != NO_TOKEN)
            return error_set(err, STATUS_CORRUPT,
                             "%s: tokens %" PRIu32 " and %" PRIu32 " have the same text", name,
                             v->slots[slot], i);
        v->slots[slot] = i;
    }
    return 0;
}

/* Reading */

static int check_texts(const char *name, const struct gguf_string *texts, uint64_t count,
                       uint64_t *bytes, struct error *err)
{
    *bytes = 0;
    if (count == 0 || count > TOKENS_MAX)
        return error_set(err, STATUS_CORRUPT,
                         "%s: the vocabulary has %" PRIu64 " tokens, must be 1..%u", name, count,
                         TOKENS_MAX);
    for (uint64_t i = 0; i < count; i++) {
        if (texts[i].len > TEXT_BYTES_MAX || memchr(texts[i].data, '\0', texts[i].len) ||
            utf8_check(texts[i].data, texts[i].len) != texts[i].len)
            return error_set(err, STATUS_CORRUPT,
                             "%s: token %" PRIu64 " is no UTF-8 text of at most %u bytes", name, i,
                             TEXT_BYTES_MAX);
        *bytes += texts[i].len + 1;
    }
    if (*bytes > TEXTS_BYTES_MAX)
        return error_set(err, STATUS_CORRUPT, "%s: the tokens' texts are %" PRIu64 " bytes long",
                         name, *bytes);
    return 0;
}

static int check_types(const struct vocabulary *v, const char *name,
                       const struct gguf_string *texts, const int64_t *types, uint64_t count,
                       struct error *err)
{
    for (uint64_t i = 0; types && i < count; i++) {
        if (types[i] < TOKEN_NORMAL || types[i] > TOKEN_BYTE)
            return error_set(err, STATUS_CORRUPT, "%s: token %" PRIu64 " is of type %" PRId64, name,
                             i, types[i]);
        if (types[i] != TOKEN_BYTE)
            continue;
        if (v->kind == VOCABULARY_BYTE_LEVEL)
            return error_set(err, STATUS_UNSUPPORTED,
                             "%s: token %" PRIu64 " is a byte of a SentencePiece vocabulary", name,
                             i);
        if (vocabulary_byte_of(texts[i].data, texts[i].len) < 0)
            return error_set(err, STATUS_CORRUPT,
                             "%s: token %" PRIu64 " is a byte and not named <0xHH>", name, i);
    }
    return 0;
}

/* What the token becomes in output: nothing if it controls or stands for what is unknown. */
static uint32_t decode_token(const struct vocabulary *v, const struct token *t, char *bytes)
{
    if (t->type == TOKEN_CONTROL || t->type == TOKEN_UNKNOWN)
        return 0;
    if (v->kind == VOCABULARY_BYTE_LEVEL)
        return decode_letters(t->text, t->text_len, bytes);
    return decode_sentencepiece(t->text, t->text_len, bytes);
}

static void fill_tokens(struct vocabulary *v, const struct gguf_string *texts, const int64_t *types)
{
    char *text = v->texts, *bytes = v->bytes;

    for (uint32_t i = 0; i < v->count; i++) {
        struct token *t = &v->tokens[i];

        t->type = types ? (enum token_type)types[i] : TOKEN_NORMAL;
        t->text = text;
        t->text_len = (uint32_t)texts[i].len;
        if (t->text_len > 0)
            memcpy(text, texts[i].data, t->text_len);
        text[t->text_len] = '\0';
        t->bytes = bytes;
        t->bytes_len = decode_token(v, t, bytes);
        if (t->bytes_len > v->bytes_max)
            v->bytes_max = t->bytes_len;
        if (t->text_len > v->text_max)
            v->text_max = t->text_len;
        text += t->text_len + 1;
        bytes += t->bytes_len;
    }
}

/* The tokens of single bytes. */
static void index_bytes(struct vocabulary *v)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];

        snprintf(name, sizeof(name), "<0x%02X>", byte);
        v->of_byte[byte] = v->kind == VOCABULARY_BYTE_LEVEL
                               ? vocabulary_find(v, v->letters[byte], strlen(v->letters[byte]))
                               : vocabulary_find(v, name, strlen(name));
    }
}

int vocabulary_build(struct vocabulary *v, enum vocabulary_kind kind, const char *name,
                     const struct gguf_string *texts, const int64_t *types, uint64_t count,
                     struct error *err)
{
    uint64_t bytes;

    memset(v, 0, sizeof(*v));
    v->kind = kind;
    vocabulary_alphabet(v->letters);
    if (check_texts(name, texts, count, &bytes, err) ||
        check_types(v, name, texts, types, count, err))
        return -1;
    v->count = (uint32_t)count;
    v->tokens = calloc(count, sizeof(*v->tokens));
    v->texts = malloc(bytes);
    v->bytes = malloc(bytes);
    if (!v->tokens || !v->texts || !v->bytes)
        return error_set(err, STATUS_NOMEM, "%s: no memory for its vocabulary", name);
    fill_tokens(v, texts, types);
    if (index_texts(v, name, err))
        return -1;
    index_bytes(v);
    return 0;
}

int vocabulary_read(struct vocabulary *v, enum vocabulary_kind kind, const struct gguf *g,
                    struct error *err)
{
    struct gguf_string *texts = NULL;
    int64_t *types = NULL;
    uint64_t count = 0, type_count = 0;
    int rv = -1, found;

    memset(v, 0, sizeof(*v));
    found = gguf_get_strings(g, "tokenizer.ggml.tokens", &texts, &count, err);
    if (found == 1)
        error_set(err, STATUS_CORRUPT, "%s: key tokenizer.ggml.tokens is missing", g->name);
    if (found)
        goto out;
    found = gguf_get_i64s(g, "tokenizer.ggml.token_type", &types, &type_count, err);
    if (found < 0)
        goto out;
    if (found == 0 && type_count != count) {
        error_set(err, STATUS_CORRUPT,
                  "%s: key tokenizer.ggml.token_type has %" PRIu64 " elements for %" PRIu64
                  " tokens",
                  g->name, type_count, count);
        goto out;
    }
    rv = vocabulary_build(v, kind, g->name, texts, types, count, err);
out:
    free(types);
    free(texts);
    return rv;
}

void vocabulary_free(struct vocabulary *v)
{
    free(v->slots);
    free(v->bytes);
    free(v->texts);
    free(v->tokens);
}
