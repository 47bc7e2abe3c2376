/*
 * log.h - one line per event, to stderr
 *
 * Lines are "LEVEL name: text", with a time before it where stderr is no journal.  Never log keys,
 * prompts, answers or whole environments.  State: one process-wide level and name, set once by main
 * before any thread starts; each line is a single write(2).
 */
#ifndef MP_COMMON_LOG_H
#define MP_COMMON_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_init(const char *name, enum log_level level);
/* "error", "warn", "info", "debug"; -1 for another word. */
int log_level_from_word(const char *word);
void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
