/* key_test.c - keys and the secret's file */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/key.h"

static char dir[64], path[96];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/key_test.XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/secret", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir); /* fails if something else was left behind */
}

static void write_secret(size_t bytes, mode_t mode)
{
    static const char content[64] = "0123456789abcdef0123456789abcdef";
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, bytes), (ssize_t)bytes);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void a_secret_is_made_once(void **state)
{
    struct key_secret first, again, zero = {{0}};
    struct error err;
    struct stat st;

    (void)state;
    assert_int_equal(key_secret_load(&first, path, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0400);
    assert_int_equal(st.st_size, KEY_SECRET_BYTES);
    assert_memory_not_equal(&first, &zero, sizeof(zero));
    assert_int_equal(key_secret_load(&again, path, &err), 0);
    assert_memory_equal(&first, &again, sizeof(first));
}

static void a_readable_secret_is_refused(void **state)
{
    struct key_secret secret;
    struct error err;

    (void)state;
    write_secret(KEY_SECRET_BYTES, 0440);
    assert_int_equal(key_secret_load(&secret, path, &err), -1);
    assert_int_equal(err.status, STATUS_DENIED);
    assert_non_null(strstr(err.text, path));
}

static void a_secret_of_another_size_is_refused(void **state)
{
    struct key_secret secret;
    struct error err;

    (void)state;
    write_secret(KEY_SECRET_BYTES - 1, 0400);
    assert_int_equal(key_secret_load(&secret, path, &err), -1);
    assert_int_equal(err.status, STATUS_CORRUPT);
    unlink(path);
    write_secret(KEY_SECRET_BYTES + 1, 0400);
    assert_int_equal(key_secret_load(&secret, path, &err), -1);
    assert_int_equal(err.status, STATUS_CORRUPT);
}

static void a_link_is_not_followed(void **state)
{
    struct key_secret secret;
    struct error err;

    (void)state;
    assert_int_equal(symlink("/etc/hostname", path), 0);
    assert_int_equal(key_secret_load(&secret, path, &err), -1);
}

/* The code is HMAC-SHA256 with the secret 00 01 .. 1f over "mp1:000000000000002a:1000"; computed
 * with Python's hmac module. */
static void a_key_is_the_hmac(void **state)
{
    struct key_secret secret;
    char key[LEASE_KEY_MAX];
    uint64_t grant = 0;
    struct error err;

    (void)state;
    for (unsigned i = 0; i < KEY_SECRET_BYTES; i++)
        secret.bytes[i] = (unsigned char)i;
    assert_int_equal(key_make(&secret, 42, 1000, key, &err), 0);
    assert_string_equal(key, "mp1.000000000000002a."
                             "9c493ca07274e4ea5bc02b5f2dcc265bf805ff62d444cd1fed5498af34e3a0b3");
    assert_int_equal(key_parse(key, &grant, &err), 0);
    assert_int_equal(grant, 42);
    assert_int_equal(key_check(&secret, 42, 1000, key), 1);
}

static void every_changed_character_is_noticed(void **state)
{
    struct key_secret secret = {{7}};
    char key[LEASE_KEY_MAX];
    struct error err;

    (void)state;
    assert_int_equal(key_make(&secret, 0x1234, 1000, key, &err), 0);
    for (size_t i = 0; i < strlen(key); i++) {
        char was = key[i];
        key[i] = was == '0' ? '1' : '0';
        assert_int_equal(key_check(&secret, 0x1234, 1000, key), 0);
        key[i] = was;
    }
    assert_int_equal(key_check(&secret, 0x1234, 1000, key), 1);
    assert_int_equal(key_check(&secret, 0x1234, 1001, key), 0);
    assert_int_equal(key_check(&secret, 0x1235, 1000, key), 0);
    secret.bytes[31] = 1;
    assert_int_equal(key_check(&secret, 0x1234, 1000, key), 0);
}

static void malformed_keys_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "mp1.",
        "sk-1234",
        "mp1.000000000000002a",
        "mp2.000000000000002a.0000000000000000000000000000000000000000000000000000000000000000",
        "mp1.00000000000000zz.0000000000000000000000000000000000000000000000000000000000000000",
        "mp1.000000000000002A.0000000000000000000000000000000000000000000000000000000000000000",
        "mp1.000000000000002a.00000000000000000000000000000000000000000000000000000000000000000",
    };
    struct key_secret secret = {{7}};
    struct error err;
    uint64_t grant;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(key_parse(bad[i], &grant, &err), -1);
        assert_int_equal(err.status, STATUS_UNAUTHENTICATED);
        assert_int_equal(key_check(&secret, 42, 0, bad[i]), 0);
        if (strlen(bad[i]) > 8) /* what was sent is not repeated: it may be somebody's key */
            assert_null(strstr(err.text, bad[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_secret_is_made_once, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_readable_secret_is_refused, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_secret_of_another_size_is_refused, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_link_is_not_followed, make_dir, remove_dir),
        cmocka_unit_test(a_key_is_the_hmac),
        cmocka_unit_test(every_changed_character_is_noticed),
        cmocka_unit_test(malformed_keys_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
