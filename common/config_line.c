#include "common/config_line.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES    8192
#define INCLUDE_DEPTH_MAX 8

struct walk {
    int (*each)(const struct config_line *, void *, struct error *);
    void *arg;
};

/* Read one logical line: `\` at the end joins.  1 read, 0 end of file, -1 too long. */
static int read_line(FILE *f, char *line, int *number, int *lines)
{
    size_t at = 0;
    int c, any = 0;
    *number += *lines;
    *lines = 0;
    while ((c = getc(f)) != EOF) {
        any = 1;
        if (c == '\n') {
            ++*lines;
            if (at && line[at - 1] == '\\') {
                line[at - 1] = ' ';
                continue;
            }
            break;
        }
        if (c == '\0' || at >= LINE_MAX_BYTES - 1)
            return -1;
        line[at++] = (char)c;
    }
    line[at] = '\0';
    return any;
}

/* Cut the comment off; a `#` inside double quotes is text. */
static void cut_comment(char *line)
{
    int quoted = 0;
    for (char *p = line; *p; p++) {
        if (*p == '"')
            quoted = !quoted;
        else if (*p == '#' && !quoted) {
            *p = '\0';
            return;
        }
    }
}

/* Take one Key=Value from *at.  1 taken, 0 nothing left, -1 bad. */
static int take_pair(char **at, char **key, char **value, struct error *err)
{
    char *p = *at;
    while (isspace((unsigned char)*p))
        p++;
    if (!*p)
        return 0;
    *key = p;
    while (*p && *p != '=' && !isspace((unsigned char)*p))
        p++;
    if (*p != '=' || p == *key)
        return error_set(err, STATUS_INVALID, "\"%.60s\" is not Key=Value", *key);
    *p++ = '\0';
    if (*p == '"') {
        *value = ++p;
        p = strchr(p, '"');
        if (!p)
            return error_set(err, STATUS_INVALID, "%s=: the double quote is not closed", *key);
        if (p[1] && !isspace((unsigned char)p[1]))
            return error_set(err, STATUS_INVALID, "%s=: text after the closing quote", *key);
    } else {
        *value = p;
        while (*p && !isspace((unsigned char)*p))
            p++;
    }
    if (*p)
        *p++ = '\0';
    *at = p;
    return 1;
}

static int walk_file(const struct walk *w, const char *path, int depth, struct error *err);

static int walk_include(const struct walk *w, const char *from, char *name, int depth,
                        struct error *err)
{
    char path[4096];
    const char *slash = strrchr(from, '/');
    size_t end = strlen(name);
    while (end && isspace((unsigned char)name[end - 1]))
        name[--end] = '\0';
    int n = name[0] == '/' || !slash
                ? snprintf(path, sizeof path, "%s", name)
                : snprintf(path, sizeof path, "%.*s/%s", (int)(slash - from), from, name);
    if (n < 0 || (size_t)n >= sizeof path || !*name)
        return error_set(err, STATUS_INVALID, "Include wants one path");
    if (depth == INCLUDE_DEPTH_MAX)
        return error_set(err, STATUS_INVALID, "Include %s: more than %d files deep", name,
                         INCLUDE_DEPTH_MAX);
    return walk_file(w, path, depth + 1, err);
}

static int walk_line(const struct walk *w, const char *path, int number, char *line, int depth,
                     struct error *err)
{
    struct config_line l = {.file = path, .number = number};
    char *at = line;
    int taken;
    cut_comment(line);
    while (isspace((unsigned char)*at))
        at++;
    if (strncasecmp(at, "include", 7) == 0 && isspace((unsigned char)at[7])) {
        at += 7;
        while (isspace((unsigned char)*at))
            at++;
        return walk_include(w, path, at, depth, err);
    }
    while (l.count < CONFIG_PAIRS_MAX) {
        taken = take_pair(&at, &l.pair[l.count].key, &l.pair[l.count].value, err);
        if (taken < 0)
            return -1;
        if (taken == 0)
            return l.count ? w->each(&l, w->arg, err) : 0;
        l.count++;
    }
    return error_set(err, STATUS_INVALID, "more than %d keys on a line", CONFIG_PAIRS_MAX);
}

static int walk_file(const struct walk *w, const char *path, int depth, struct error *err)
{
    char line[LINE_MAX_BYTES];
    int number = 1, lines = 0, got;
    FILE *f = fopen(path, "re");
    if (!f)
        return error_errno(err, "cannot read %s", path);
    while ((got = read_line(f, line, &number, &lines)) > 0)
        if (walk_line(w, path, number, line, depth, err)) {
            got = -2;
            break;
        }
    if (got == -1)
        error_set(err, STATUS_INVALID, "a line of over %d bytes, or a NUL in it",
                  LINE_MAX_BYTES - 1);
    if (got == 0 && ferror(f)) {
        error_errno(err, "read");
        got = -1;
    }
    fclose(f);
    return got < 0 ? error_wrap(err, "%s:%d", path, number) : 0;
}

int config_line_each(const char *path,
                     int (*each)(const struct config_line *, void *, struct error *), void *arg,
                     struct error *err)
{
    struct walk w = {.each = each, .arg = arg};
    return walk_file(&w, path, 0, err);
}
