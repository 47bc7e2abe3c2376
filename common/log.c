#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Process-wide by purpose: set once by log_init before any thread starts, read-only afterwards. */
static const char *log_name = "modelpool";
static enum log_level log_threshold = LOG_LEVEL_INFO;
static int log_has_time = 1;

static const char *const level_words[] = {"error", "warn", "info", "debug"};

void log_init(const char *name, enum log_level level)
{
    struct stat st;
    log_name = name;
    log_threshold = level;
    /* A journal stamps lines itself; it hands us a socket. */
    log_has_time = fstat(STDERR_FILENO, &st) != 0 || !S_ISSOCK(st.st_mode);
}

int log_level_from_word(const char *word)
{
    for (int i = 0; i <= LOG_LEVEL_DEBUG; i++)
        if (strcmp(word, level_words[i]) == 0)
            return i;
    return -1;
}

static void log_line(enum log_level level, const char *fmt, va_list ap)
{
    char line[1024];
    size_t at = 0;
    if (level > log_threshold)
        return;
    if (log_has_time) {
        struct timespec now;
        struct tm tm;
        clock_gettime(CLOCK_REALTIME, &now);
        localtime_r(&now.tv_sec, &tm);
        at = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
        at += (size_t)snprintf(line + at, sizeof line - at, ".%03ld ", now.tv_nsec / 1000000);
    }
    at += (size_t)snprintf(line + at, sizeof line - at, "%s %s: ", level_words[level], log_name);
    if (at < sizeof line) {
        int n = vsnprintf(line + at, sizeof line - at, fmt, ap);
        at += n > 0 ? (size_t)n : 0;
    }
    if (at > sizeof line - 2)
        at = sizeof line - 2;
    /* One event, one line, whatever text from outside it quotes. */
    for (size_t i = 0; i < at; i++)
        if ((unsigned char)line[i] < ' ')
            line[i] = ' ';
    line[at++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, at);
    (void)ignored; /* there is nowhere else to say it */
}

#define LOG_FUNCTION(function, level)                                                              \
    void function(const char *fmt, ...)                                                            \
    {                                                                                              \
        va_list ap;                                                                                \
        va_start(ap, fmt);                                                                         \
        log_line(level, fmt, ap);                                                                  \
        va_end(ap);                                                                                \
    }

LOG_FUNCTION(log_error, LOG_LEVEL_ERROR)
LOG_FUNCTION(log_warn, LOG_LEVEL_WARN)
LOG_FUNCTION(log_info, LOG_LEVEL_INFO)
LOG_FUNCTION(log_debug, LOG_LEVEL_DEBUG)
