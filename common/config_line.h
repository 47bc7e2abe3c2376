/* config_line.h - the grammar below config.c: files to lines of Key=Value pairs */
#ifndef MP_COMMON_CONFIG_LINE_H
#define MP_COMMON_CONFIG_LINE_H

#include "common/error.h"

#define CONFIG_PAIRS_MAX 32

struct config_line {
    const char *file;
    int number; /* of the first of the joined lines */
    int count;
    struct {
        char *key, *value; /* into the line's own buffer */
    } pair[CONFIG_PAIRS_MAX];
};

/*
 * Call each() for every line that holds pairs, in order, Include files in their place (relative to
 * the including file's folder; at most 8 deep).  A failure of each() gets "FILE:LINE: " before it
 * and ends the walk with -1.
 */
int config_line_each(const char *path,
                     int (*each)(const struct config_line *, void *, struct error *), void *arg,
                     struct error *err);

#endif
