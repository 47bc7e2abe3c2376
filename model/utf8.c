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
