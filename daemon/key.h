/*
 * key.h - the keys that jobs present: mp1.<grant id, 16 hex digits>.<HMAC-SHA256, 64 hex digits>
 *
 * The code is taken over "mp1:<grant id>:<uid>" with the pool's secret, so a key names its grant
 * and is bound to its uid; nothing about it is stored.  Never log a key or the secret.
 */
#ifndef MP_DAEMON_KEY_H
#define MP_DAEMON_KEY_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "daemon/lease.h"

#define KEY_SECRET_BYTES 32u

struct key_secret {
    unsigned char bytes[KEY_SECRET_BYTES];
};

/* Read the secret's file, or make it (random, mode 0400) if there is none.  A file that others may
 * read, that another uid owns or that has another size is refused: DENIED or CORRUPT with its path
 * and the fix. */
int key_secret_load(struct key_secret *secret, const char *path, struct error *err);

int key_make(const struct key_secret *secret, uint64_t grant, uid_t uid, char key[LEASE_KEY_MAX],
             struct error *err);

/* The grant's id in a well-formed key; UNAUTHENTICATED for any other text. Proves nothing yet. */
int key_parse(const char *key, uint64_t *grant, struct error *err);

/* 1 if the key is that of (grant, uid), 0 if not; takes the same time wherever it differs. */
int key_check(const struct key_secret *secret, uint64_t grant, uid_t uid, const char *key);

#endif
