/*
 * time.h - points in time as sacct(1) takes them, and as it prints them
 *
 * HH:MM[:SS] [AM|PM], MMDD[YY], MM/DD[/YY], MM.DD[.YY], YYYY-MM-DD[THH:MM[:SS]] (dates of the first
 * three kinds may be followed by -HH:MM[:SS]), today, midnight, noon, fika, teatime, tomorrow and
 * now[+-COUNT[seconds|minutes|hours|days|weeks]], in the local zone.  A time without a date is
 * today's, a date without a year this year's: the ledger lies in the past.
 */
#ifndef MP_CLI_TIME_H
#define MP_CLI_TIME_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Unix seconds. now: the present.  INVALID quotes the text and shows a form. */
int time_parse(const char *text, int64_t now, int64_t *seconds, struct error *err);
/* "YYYY-MM-DDTHH:MM:SS", or "Unknown" for 0. */
void time_print(char *out, size_t room, int64_t seconds);
/* "[DD-]HH:MM:SS" */
void time_print_elapsed(char *out, size_t room, int64_t seconds);

#endif
