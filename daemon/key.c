/* key.c - keys and the pool's secret */
#include "daemon/key.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#define KEY_PREFIX "mp1."
#define CODE_BYTES 32u
#define ID_DIGITS  16u
#define KEY_LENGTH (sizeof(KEY_PREFIX) - 1 + ID_DIGITS + 1 + 2 * CODE_BYTES)

_Static_assert(KEY_LENGTH < LEASE_KEY_MAX, "a key and its NUL fit");

/* --- the secret ------------------------------------------------------------------------------- */

static int read_secret(int fd, const char *path, struct key_secret *secret, struct error *err)
{
    struct stat st;
    unsigned char extra;

    if (fstat(fd, &st) < 0)
        return error_errno(err, "%s", path);
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
        return error_set(err, STATUS_DENIED,
                         "%s: must be a file of uid %ld: chown it, or remove it", path,
                         (long)geteuid());
    if (st.st_mode & 077)
        return error_set(err, STATUS_DENIED,
                         "%s: others may read it: remove it (all keys become void) or chmod 0400",
                         path);
    ssize_t n = read(fd, secret->bytes, sizeof(secret->bytes));
    if (n < 0)
        return error_errno(err, "%s", path);
    if (n != (ssize_t)sizeof(secret->bytes) || read(fd, &extra, 1) != 0)
        return error_set(err, STATUS_CORRUPT,
                         "%s: must hold %u bytes: remove it and all keys become void", path,
                         KEY_SECRET_BYTES);
    return 0;
}

/* Written under another name and linked: a crash leaves no half secret, a race has one winner. */
static int make_secret(const char *path, struct error *err)
{
    int rv = -1;
    struct key_secret fresh;
    char temporary[4096];
    int fd = -1;

    if (RAND_bytes(fresh.bytes, (int)sizeof(fresh.bytes)) != 1)
        return error_set(err, STATUS_IO, "%s: no random bytes from OpenSSL", path);
    int n = snprintf(temporary, sizeof(temporary), "%s.%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof(temporary)) {
        error_set(err, STATUS_INVALID, "%s: path too long", path);
        goto out;
    }
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0400);
    if (fd < 0) {
        error_errno(err, "%s", temporary);
        goto out;
    }
    if (write(fd, fresh.bytes, sizeof(fresh.bytes)) != (ssize_t)sizeof(fresh.bytes) ||
        fsync(fd) < 0) {
        error_errno(err, "%s", temporary);
        goto out;
    }
    if (link(temporary, path) < 0 && errno != EEXIST) {
        error_errno(err, "%s", path);
        goto out;
    }
    rv = 0;
out:
    OPENSSL_cleanse(&fresh, sizeof(fresh));
    if (fd >= 0) {
        close(fd);
        unlink(temporary);
    }
    return rv;
}

int key_secret_load(struct key_secret *secret, const char *path, struct error *err)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW;
    int fd = open(path, flags);

    if (fd < 0 && errno == ENOENT) {
        if (make_secret(path, err) < 0)
            return -1;
        fd = open(path, flags);
    }
    if (fd < 0)
        return error_errno(err, "%s", path);
    int rv = read_secret(fd, path, secret, err);
    close(fd);
    return rv;
}

/* --- keys ------------------------------------------------------------------------------------- */

int key_make(const struct key_secret *secret, uint64_t grant, uid_t uid, char key[LEASE_KEY_MAX],
             struct error *err)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char code[EVP_MAX_MD_SIZE];
    unsigned int code_len = 0;
    char message[64];

    int n = snprintf(message, sizeof(message), "mp1:%016" PRIx64 ":%lu", grant, (unsigned long)uid);
    if (!HMAC(EVP_sha256(), secret->bytes, (int)sizeof(secret->bytes),
              (const unsigned char *)message, (size_t)n, code, &code_len) ||
        code_len != CODE_BYTES)
        return error_set(err, STATUS_INTERNAL, "HMAC-SHA256 failed in OpenSSL");

    n = snprintf(key, LEASE_KEY_MAX, KEY_PREFIX "%016" PRIx64 ".", grant);
    char *at = key + n;
    for (unsigned i = 0; i < CODE_BYTES; i++) {
        *at++ = digits[code[i] >> 4];
        *at++ = digits[code[i] & 15];
    }
    *at = '\0';
    return 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

int key_parse(const char *key, uint64_t *grant, struct error *err)
{
    const size_t prefix = sizeof(KEY_PREFIX) - 1;
    uint64_t id = 0;

    if (strnlen(key, KEY_LENGTH + 1) != KEY_LENGTH || strncmp(key, KEY_PREFIX, prefix) != 0 ||
        key[prefix + ID_DIGITS] != '.')
        goto malformed;
    for (size_t i = 0; i < ID_DIGITS; i++) {
        int v = hex_value(key[prefix + i]);
        if (v < 0)
            goto malformed;
        id = id << 4 | (unsigned)v;
    }
    *grant = id;
    return 0;
malformed:
    return error_set(err, STATUS_UNAUTHENTICATED,
                     "this is no modelpool key: use OPENAI_API_KEY as the job step has it");
}

int key_check(const struct key_secret *secret, uint64_t grant, uid_t uid, const char *key)
{
    char right[LEASE_KEY_MAX];

    if (strnlen(key, LEASE_KEY_MAX) != KEY_LENGTH || key_make(secret, grant, uid, right, NULL) < 0)
        return 0;
    int same = CRYPTO_memcmp(right, key, KEY_LENGTH) == 0;
    OPENSSL_cleanse(right, sizeof(right));
    return same;
}
