/* utf8.h - well-formed UTF-8, as table 3-7 of the Unicode standard defines it */
#ifndef MP_MODEL_UTF8_H
#define MP_MODEL_UTF8_H

#include <stddef.h>
#include <stdint.h>

/*
 * The first character of s, len > 0 bytes: its length, 1..4.  0: s is the beginning of a character
 * and more bytes must come.  -k: the first k bytes can be part of no character ("maximal subpart":
 * one U+FFFD stands for them).
 */
int utf8_measure(const char *s, size_t len);
/* Offset of the first byte that is not part of a character; len if there is none. */
size_t utf8_check(const char *s, size_t len);

/* The rest is for well-formed text. */

/* The code point of a character of n bytes. */
uint32_t utf8_decode(const char *s, int n);
/* Where the last character begins; len > 0. */
size_t utf8_last(const char *s, size_t len);
/* Unicode's White_Space. */
int utf8_is_space(uint32_t code);
/* Bytes of white space at the start; and where white space at the end begins. */
size_t utf8_space_at_start(const char *s, size_t len);
size_t utf8_space_at_end(const char *s, size_t len);

#endif
