#include "common/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const words[STATUS_COUNT] = {
#define X(name, word) word,
    STATUS_MAP(X)
#undef X
};

int error_set(struct error *err, enum status status, const char *fmt, ...)
{
    int saved = errno;
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
    }
    errno = saved;
    return -1;
}

static enum status status_of_errno(int number)
{
    switch (number) {
    case ENOMEM:
        return STATUS_NOMEM;
    case ENOENT:
        return STATUS_NOT_FOUND;
    case EACCES:
    case EPERM:
        return STATUS_DENIED;
    case EEXIST:
        return STATUS_EXISTS;
    case ETIMEDOUT:
        return STATUS_TIMEOUT;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
        return STATUS_EXHAUSTED;
    default:
        return STATUS_IO;
    }
}

int error_errno(struct error *err, const char *fmt, ...)
{
    int saved = errno;
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
        err->status = status_of_errno(saved);
        if (n >= 0 && (size_t)n < sizeof err->text)
            snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", strerror(saved));
    }
    errno = saved;
    return -1;
}

int error_wrap(struct error *err, const char *fmt, ...)
{
    if (err) {
        char old[ERROR_TEXT_MAX];
        memcpy(old, err->text, sizeof old);
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
        va_end(ap);
        size_t at = n < 0 ? 0 : (size_t)n;
        if (at < sizeof err->text &&
            snprintf(err->text + at, sizeof err->text - at, ": %s", old) < 0)
            err->text[at] = '\0'; /* a long text is cut, which is fine */
    }
    return -1;
}

const char *status_word(enum status status)
{
    return (unsigned)status < STATUS_COUNT ? words[status] : words[STATUS_INTERNAL];
}

enum status status_from_word(const char *word)
{
    for (int i = 0; word && i < STATUS_COUNT; i++)
        if (strcmp(word, words[i]) == 0)
            return (enum status)i;
    return STATUS_INTERNAL;
}
