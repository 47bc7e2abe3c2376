/*
 * table.h - listings: aligned columns, parsable lines, or JSON
 *
 * -p ends each field with '|', -P puts '|' between fields only (as sacct does), --delimiter takes
 * another string, -n leaves the header out.  Aligned tables size their columns by what is in them
 * and print at the end, unless every column has a fixed width: then rows go out as they come.
 */
#ifndef MP_CLI_TABLE_H
#define MP_CLI_TABLE_H

#include <getopt.h>
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

#include "common/wire.h"

struct table_format {
    int parsable; /* 0: aligned; 1: -p; 2: -P */
    int no_header;
    int json;
    const char *delimiter; /* NULL: "|" */
};

#define TABLE_SHORT "pPn"
/* The long options of every listing; their values. */
#define TABLE_OPTIONS                                                                              \
    {"parsable", no_argument, NULL, 'p'}, {"parsable2", no_argument, NULL, 'P'},                   \
        {"noheader", no_argument, NULL, 'n'}, {"json", no_argument, NULL, 'J'},                    \
    {                                                                                              \
        "delimiter", required_argument, NULL, 'D'                                                  \
    }
#define TABLE_HELP                                                                                 \
    "  -p, --parsable     fields end with '|'\n"                                                   \
    "  -P, --parsable2    fields are parted by '|'\n"                                              \
    "      --delimiter=S  another string than '|'\n"                                               \
    "  -n, --noheader     no header line\n"                                                        \
    "      --json         JSON\n"

/* 1 if c was one of these options. */
int table_option(struct table_format *f, int c, const char *argument);

struct table_column {
    const char *title;
    int width; /* 0: as wide as its widest cell; -1: the last one, unpadded; else fixed, cut with
                  '+' */
    int left;  /* aligned left */
};

struct table;

/* Columns and format must outlive it.  NULL: out of memory. */
struct table *table_create(const struct table_column *columns, size_t count,
                           const struct table_format *format, FILE *out);
/* Cells are copied; NULL is empty.  -1: out of memory. */
int table_row(struct table *t, const char *const *cells);
/* Keep all rows until table_end, also where they could go out as they come. */
void table_hold(struct table *t);
/* Print what has not been printed yet (the header, at least), and free it. */
void table_end(struct table *t);
/* Free it and print nothing.  NULL is fine. */
void table_free(struct table *t);

/* Bytes as people read them: "86.4M". */
void table_bytes(char *out, size_t room, unsigned long long bytes);

/* A row's pairs as an object, without its type; numeric keys as numbers.  NULL: out of memory. */
json_t *table_json(const struct wire *w);

#endif
