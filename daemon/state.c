/* state.c - StateDir, its files, and the user that owns them; see state.h */
#include "daemon/state.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

/* --- the user -----------------------------------------------------------------------------------
 */

/* A number that no passwd entry knows is its own group, as systemd's DynamicUser= has it. */
static int look_up(const char *user, uid_t *uid, gid_t *gid, struct error *err)
{
    char *end;
    unsigned long number = strtoul(user, &end, 10);
    int numeric = user[0] >= '0' && user[0] <= '9' && *end == '\0';
    const struct passwd *pw = numeric ? getpwuid((uid_t)number) : getpwnam(user);

    if (numeric && number >= UINT32_MAX)
        return error_set(err, STATUS_INVALID, "User=%s is no uid", user);
    if (!pw && !numeric)
        return error_set(err, STATUS_INVALID,
                         "User=%s: there is no such user; make it (useradd --system %s) or set "
                         "User= to one that there is",
                         user, user);
    *uid = pw ? pw->pw_uid : (uid_t)number;
    *gid = pw ? pw->pw_gid : (gid_t)number;
    return 0;
}

int state_user(const char *user, uid_t *uid, gid_t *gid, struct error *err)
{
    *uid = geteuid();
    *gid = getegid();
    if (*uid != 0)
        return 0;
    if (look_up(user, uid, gid, err))
        return -1;
    if (*uid == 0 || *gid == 0)
        return error_set(err, STATUS_INVALID,
                         "User=%s is root (or in its group); modelpoold does not run as root",
                         user);
    return 0;
}

int state_drop(uid_t uid, gid_t gid, struct error *err)
{
    if (geteuid() == 0) {
        /* Group memberships beyond the user's own are those of its passwd entry. */
        const struct passwd *pw = getpwuid(uid);
        int failed = pw ? initgroups(pw->pw_name, gid) : setgroups(0, NULL);
        if (failed || setgid(gid) || setuid(uid))
            return error_errno(err, "becoming uid %u", uid);
        if (setuid(0) == 0 || getegid() != gid)
            return error_set(err, STATUS_INTERNAL, "uid %u did not let go of root", uid);
    }
    if (prctl(PR_SET_DUMPABLE, 0))
        return error_errno(err, "PR_SET_DUMPABLE");
    umask(077);
    return 0;
}

/* --- the directory ------------------------------------------------------------------------------
 */

static int make_dir(const char *dir, uid_t uid, gid_t gid, struct error *err)
{
    struct stat st;

    if (mkdir(dir, 0700) && errno != EEXIST)
        return error_errno(err, "StateDir=%s", dir);
    if (lstat(dir, &st))
        return error_errno(err, "StateDir=%s", dir);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, STATUS_INVALID, "StateDir=%s is not a directory", dir);
    if (geteuid() == 0 && lchown(dir, uid, gid))
        return error_errno(err, "StateDir=%s", dir);
    if ((geteuid() == 0 || st.st_uid == uid) && chmod(dir, 0700))
        return error_errno(err, "StateDir=%s", dir);
    if (geteuid() != 0 && access(dir, W_OK | X_OK))
        return error_errno(err, "StateDir=%s (owned by uid %u, we are uid %u)", dir, st.st_uid,
                           uid);
    return 0;
}

static int path_in(char *path, size_t room, const char *dir, const char *name, struct error *err)
{
    int n = snprintf(path, room, "%s/%s", dir, name);

    if (n < 0 || (size_t)n >= room)
        return error_set(err, STATUS_INVALID, "StateDir=%s: too long", dir);
    return 0;
}

static int refuse_lock(int fd, const char *dir, struct error *err)
{
    char pid[16] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);

    pid[n > 0 ? strspn(pid, "0123456789") : 0] = '\0';
    return error_set(err, STATUS_EXISTS,
                     "StateDir=%s belongs to a running modelpoold (pid %s): stop it, or give this "
                     "one its own StateDir=",
                     dir, pid[0] ? pid : "unknown");
}

int state_lock(const char *dir, uid_t uid, gid_t gid, int *lock, struct error *err)
{
    char path[512], pid[16];
    struct stat st;

    if (make_dir(dir, uid, gid, err) || path_in(path, sizeof path, dir, "lock", err))
        return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_errno(err, "%s", path);
    /* The directory is the user's, and we may still be root: write to no file of somebody else. */
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink != 1 ||
        (st.st_uid != uid && st.st_uid != geteuid())) {
        error_set(err, STATUS_INVALID, "%s is no plain file of uid %u: remove it", path, uid);
        close(fd);
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno == EWOULDBLOCK)
            refuse_lock(fd, dir, err);
        else
            error_errno(err, "%s", path);
        close(fd);
        return -1;
    }
    int n = snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    if ((geteuid() == 0 && fchown(fd, uid, gid)) || ftruncate(fd, 0) ||
        pwrite(fd, pid, (size_t)n, 0) != n) {
        error_errno(err, "%s", path);
        close(fd);
        return -1;
    }
    *lock = fd;
    return 0;
}

/* --- database and journal -----------------------------------------------------------------------
 */

static int64_t delivered(int64_t row, void *arg)
{
    return journal_find(arg, row);
}

static int recover(struct db *db, struct journal *journal, struct error *err)
{
    uint64_t closed = 0;

    if (db_recover_usage(db, delivered, journal, clock_wall_us(), &closed, err))
        return error_wrap(err, "closing the ledger rows of an earlier life");
    journal_clear(journal);
    if (closed)
        log_info("%" PRIu64 " requests of an earlier life are in the ledger as interrupted",
                 closed);
    return 0;
}

int state_open(const char *dir, struct db **db, struct journal **journal, struct error *err)
{
    char path[512];

    *db = NULL;
    *journal = NULL;
    if (path_in(path, sizeof path, dir, "modelpool.db", err))
        return -1;
    *db = db_open(path, err);
    if (!*db || path_in(path, sizeof path, dir, "journal", err))
        goto fail;
    *journal = journal_open(path, err);
    if (*journal && recover(*db, *journal, err) == 0)
        return 0;
fail:
    journal_close(*journal);
    db_close(*db);
    *journal = NULL;
    *db = NULL;
    return -1;
}
