/*
 * acct.h - the fields of modelpool acct, shared by acct.c and acct_field.c
 */
#ifndef MP_CLI_ACCT_H
#define MP_CLI_ACCT_H

#include <stddef.h>
#include <stdint.h>

#include "cli/table.h"
#include "common/error.h"

#define ACCT_CELL_MAX   320
#define ACCT_FIELDS_MAX 48

/* A line of output: one request, or the sum of a job's. */
struct acct_row {
    int64_t row, lease, job, array_job, array_task, het_job, het_offset, uid;
    int64_t prompt_tokens, cached_tokens, completion_tokens, engine_us, switches, preemptions;
    int64_t ttft_us, start_us, end_us, requests;
    int sum; /* of a job: has no step, request, row or time to the first token */
    char cluster[64], node[64], step[16], account[64], partition[64], request[64], slo[64];
    char state[16], finish[16];
    char model[256]; /* of a sum: all of them, with commas */
};

struct acct_field {
    const char *name;
    int width; /* by default; aligned right, as sacct's */
    void (*print)(char out[ACCT_CELL_MAX], const struct acct_row *row);
};

extern const struct acct_field acct_fields[];
extern const size_t acct_field_count;

/* What -o asks for. */
struct acct_layout {
    const struct acct_field *field[ACCT_FIELDS_MAX];
    struct table_column column[ACCT_FIELDS_MAX];
    size_t count;
};

/* "JobID,Model%-30,Start": names in any case, shortened as long as they are unique, %WIDTH
 * (negative: aligned left).  INVALID names the field. */
int acct_parse_layout(const char *text, struct acct_layout *layout, struct error *err);

/* Fill a row from the daemon's message; what is missing is empty. */
void acct_read_row(struct acct_row *row, const struct wire *w);

#endif
