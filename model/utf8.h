/* utf8.h - well-formed UTF-8, as table 3-7 of the Unicode standard defines it */
#ifndef MP_MODEL_UTF8_H
#define MP_MODEL_UTF8_H

#include <stddef.h>

/*
 * The first character of s, len > 0 bytes: its length, 1..4.  0: s is the beginning of a character
 * and more bytes must come.  -k: the first k bytes can be part of no character ("maximal subpart":
 * one U+FFFD stands for them).
 */
int utf8_measure(const char *s, size_t len);
/* Offset of the first byte that is not part of a character; len if there is none. */
size_t utf8_check(const char *s, size_t len);

#endif
