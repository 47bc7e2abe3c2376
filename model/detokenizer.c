#include <string.h>

#include "model/tokenizer_parts.h"
#include "model/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
#define REPLACEMENT_LEN 3

/* Write n bytes behind *count if there is room; what a caller gave no room for is lost. */
static void put(char *out, size_t room, size_t *count, const char *bytes, size_t n)
{
    if (n > room - *count)
        return;
    memcpy(out + *count, bytes, n);
    *count += n;
}

/* Leave out of the first token what is not of the text. */
static void strip(struct detokenizer *d, const struct tokenizer *t, const char **bytes, size_t *len)
{
    size_t spaces = 0, most = t->strip == STRIP_SPACE ? 1 : t->strip == STRIP_NOTHING ? 0 : *len;

    if (d->started || *len == 0)
        return;
    while (spaces < most && (*bytes)[spaces] == ' ')
        spaces++;
    *bytes += spaces;
    *len -= spaces;
    d->started = 1;
}

size_t detokenizer_push(struct detokenizer *d, const struct tokenizer *t, uint32_t token, char *out,
                        size_t room)
{
    const char *bytes;
    size_t len, count = 0;

    tokenizer_bytes(t, token, &bytes, &len);
    strip(d, t, &bytes, &len);
    for (size_t i = 0; i < len; i++) {
        int n;

        d->pending[d->pending_len++] = bytes[i];
        /* Only the newest byte can be wrong, or the one after a beginning that it cannot follow. */
        while (d->pending_len > 0 && (n = utf8_measure(d->pending, d->pending_len)) != 0) {
            size_t used = (size_t)(n > 0 ? n : -n);

            if (n > 0)
                put(out, room, &count, d->pending, used);
            else
                put(out, room, &count, replacement, REPLACEMENT_LEN);
            d->pending_len -= used;
            memmove(d->pending, d->pending + used, d->pending_len);
        }
    }
    return count;
}

size_t detokenizer_flush(struct detokenizer *d, char *out, size_t room)
{
    size_t count = 0;

    if (d->pending_len > 0)
        put(out, room, &count, replacement, REPLACEMENT_LEN);
    d->pending_len = 0;
    return count;
}
