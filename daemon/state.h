/* state.h - StateDir, its files, and the user that owns them */
#ifndef MP_DAEMON_STATE_H
#define MP_DAEMON_STATE_H

#include <sys/types.h>

#include "common/config.h"
#include "db/db.h"
#include "db/journal.h"

/* Whom to become: User=, by name or number, if we are root; else whom we are.  INVALID if it is not
 * known, or is root itself. */
int state_user(const char *user, uid_t *uid, gid_t *gid, struct error *err);
/* Drop to them for good, with no capability to come back and no core that others could read. */
int state_drop(uid_t uid, gid_t gid, struct error *err);

/* Make StateDir (0700; the user's, if we are root) and take its lock: *lock stays open as long as
 * the daemon lives.  EXISTS names the directory and the process that holds it. */
int state_lock(const char *dir, uid_t uid, gid_t gid, int *lock, struct error *err);

/* Open database and journal, and close the ledger rows that an earlier life left open. */
int state_open(const char *dir, struct db **db, struct journal **journal, struct error *err);

#endif
