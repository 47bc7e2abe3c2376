#include "model/utf8.h"

int utf8_measure(const char *s, size_t len)
{
    unsigned char lead = (unsigned char)s[0];
    /* The second byte's range excludes overlong forms, surrogates and what is past U+10FFFF. */
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    int need = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

    if (need == 0 || lead > 0xf4)
        return -1;
    for (int i = 1; i < need; i++) {
        if ((size_t)i == len)
            return 0;
        if ((unsigned char)s[i] < low || (unsigned char)s[i] > high)
            return -i;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

size_t utf8_check(const char *s, size_t len)
{
    size_t at = 0;

    while (at < len) {
        int n = utf8_measure(s + at, len - at);

        if (n <= 0)
            return at;
        at += (size_t)n;
    }
    return len;
}

uint32_t utf8_decode(const char *s, int n)
{
    static const unsigned char lead[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t code = (unsigned char)s[0] & lead[n];

    for (int i = 1; i < n; i++)
        code = code << 6 | ((unsigned char)s[i] & 0x3f);
    return code;
}

size_t utf8_last(const char *s, size_t len)
{
    size_t at = len - 1;

    while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80)
        at--;
    return at;
}

int utf8_is_space(uint32_t code)
{
    return (code >= '\t' && code <= '\r') || code == ' ' || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

size_t utf8_space_at_start(const char *s, size_t len)
{
    size_t at = 0;

    while (at < len) {
        int n = utf8_measure(s + at, len - at);

        if (n <= 0 || !utf8_is_space(utf8_decode(s + at, n)))
            break;
        at += (size_t)n;
    }
    return at;
}

size_t utf8_space_at_end(const char *s, size_t len)
{
    while (len > 0) {
        size_t last = utf8_last(s, len);

        if (!utf8_is_space(utf8_decode(s + last, (int)(len - last))))
            break;
        len = last;
    }
    return len;
}
