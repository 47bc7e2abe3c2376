/*
 * tokenizer_decoder.c - tokenizer.json's "decoder"
 *
 * The tokens' bytes are made with the vocabulary: the decoder has to be the one that they are for.
 */
#include <string.h>

#include "model/json_member.h"
#include "model/tokenizer_parts.h"

struct decoding {
    int bytes, spaces, fallback, fuse; /* which were there */
};

static int read_replace(const json_t *decoder, struct decoding *d, struct error *err)
{
    const char *pattern, *content = member_string(decoder, "content", NULL, err);
    size_t len;
    int literal;

    if (!content || member_pattern(decoder, &pattern, &len, &literal, err))
        return -1;
    if (!literal || strcmp(pattern, SENTENCEPIECE_SPACE) != 0 || strcmp(content, " ") != 0)
        return error_set(err, STATUS_UNSUPPORTED,
                         "decoder Replace of anything but U+2581 is not supported");
    d->spaces = 1;
    return 0;
}

static int read_strip(struct tokenizer *t, const json_t *decoder, const struct decoding *d,
                      struct error *err)
{
    const char *content = member_string(decoder, "content", NULL, err);
    json_int_t start = json_integer_value(member_of(decoder, "start"));

    if (!content)
        return -1;
    if (strcmp(content, " ") != 0 || start < 0 || start > 1 ||
        json_integer_value(member_of(decoder, "stop")) != 0 || !d->fuse)
        return error_set(err, STATUS_UNSUPPORTED,
                         "decoder Strip of anything but one space before the text is not "
                         "supported");
    if (start)
        t->strip = STRIP_SPACE;
    return 0;
}

static int read_metaspace(struct tokenizer *t, const json_t *decoder, struct decoding *d,
                          struct error *err)
{
    int prefix = 1;
    const char *replacement = member_string(decoder, "replacement", SENTENCEPIECE_SPACE, err);
    const char *scheme;

    if (!replacement || member_bool(decoder, "add_prefix_space", &prefix, err))
        return -1;
    scheme = member_string(decoder, "prepend_scheme", prefix ? "always" : "never", err);
    if (!scheme)
        return -1;
    if (strcmp(replacement, SENTENCEPIECE_SPACE) != 0)
        return refuse_type("decoder Metaspace: replacement", replacement, err);
    if (strcmp(scheme, "never") != 0)
        t->strip = STRIP_TOKEN_SPACES;
    d->spaces = 1;
    return 0;
}

static int read_decoder_step(struct tokenizer *t, const json_t *decoder, struct decoding *d,
                             unsigned depth, struct error *err)
{
    const char *type = member_string(decoder, "type", NULL, err);
    const json_t *list, *one;
    size_t i;

    if (!type)
        return -1;
    if (strcmp(type, "ByteLevel") == 0)
        return d->bytes++ ? error_set(err, STATUS_UNSUPPORTED, "decoder ByteLevel twice") : 0;
    if (strcmp(type, "ByteFallback") == 0)
        return d->fallback++ ? error_set(err, STATUS_UNSUPPORTED, "decoder ByteFallback twice") : 0;
    if (strcmp(type, "Fuse") == 0) {
        d->fuse = 1;
        return 0;
    }
    if (strcmp(type, "Replace") == 0)
        return read_replace(decoder, d, err);
    if (strcmp(type, "Strip") == 0)
        return read_strip(t, decoder, d, err);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(t, decoder, d, err);
    if (strcmp(type, "Sequence") != 0 || depth > 4)
        return refuse_type("decoder", type, err);
    list = member_of(decoder, "decoders");
    if (!json_is_array(list))
        return error_set(err, STATUS_INVALID, "\"decoders\" is no list");
    json_array_foreach((json_t *)list, i, one)
    {
        if (read_decoder_step(t, one, d, depth + 1, err))
            return -1;
    }
    return 0;
}

int tokenizer_read_decoder(struct tokenizer *t, const json_t *decoder, struct error *err)
{
    struct decoding d = {0, 0, 0, 0};
    int byte_level = pretokenizer_is_byte_level(t->pre);

    if (!decoder)
        return error_set(err, STATUS_UNSUPPORTED, "a tokenizer without decoder is not supported");
    if (read_decoder_step(t, decoder, &d, 0, err))
        return -1;
    if (byte_level ? !d.bytes || d.spaces || d.fallback
                   : d.bytes || !d.spaces ||
                         d.fallback != (t->bpe.byte_fallback || t->unigram.byte_fallback))
        return error_set(err, STATUS_UNSUPPORTED,
                         "a decoder that does not undo the pre-tokenizer is not supported");
    return 0;
}
