/*
 * error.h - errors are values
 *
 * A function that can fail returns 0 or -1 (or a pointer or NULL) and takes a struct error last.
 * On failure nothing has changed and the error's text names the thing and, where there is one, the
 * fix.  A caller that has no use for the text passes NULL.
 */
#ifndef MP_COMMON_ERROR_H
#define MP_COMMON_ERROR_H

#include <stdarg.h>

/* Each status with the word that crosses the control wire. */
#define STATUS_MAP(X)                                                                              \
    X(OK, "ok")                                                                                    \
    X(INVALID, "invalid")         /* the caller's text or value is wrong */                        \
    X(NOT_FOUND, "not-found")     /* no such model, file, lease, instance */                       \
    X(DENIED, "denied")           /* known, but not for this uid or account */                     \
    X(UNAUTHENTICATED, "bad-key") /* no key, a wrong key, or a key of another uid */               \
    X(EXHAUSTED, "exhausted")     /* budget, memory or queue is used up; later may work */         \
    X(UNAVAILABLE, "unavailable") /* daemon or engine not there; later may work */                 \
    X(UNSUPPORTED, "unsupported") /* understood, and not built */                                  \
    X(CORRUPT, "corrupt")         /* truncated or hostile data */                                  \
    X(EXISTS, "exists")           /* the name is taken */                                          \
    X(TIMEOUT, "timeout")                                                                          \
    X(NOMEM, "no-memory")                                                                          \
    X(IO, "io")             /* a system call failed; the text has errno's */                       \
    X(INTERNAL, "internal") /* a bug of ours */

enum status {
#define X(name, word) STATUS_##name,
    STATUS_MAP(X)
#undef X
        STATUS_COUNT
};

#define ERROR_TEXT_MAX 512

struct error {
    enum status status;
    char text[ERROR_TEXT_MAX];
};

/* Set status and text.  Always -1, so that `return error_set(err, ...)` works.  Keeps errno. */
int error_set(struct error *err, enum status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* STATUS_IO (or NOMEM, NOT_FOUND, DENIED as errno says) with ": strerror(errno)" appended. */
int error_errno(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "CONTEXT: " before the text that is there; the status stays.  Always -1. */
int error_wrap(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The word of a status, and the status of a word (STATUS_INTERNAL if unknown). */
const char *status_word(enum status status);
enum status status_from_word(const char *word);

#endif
