/*
 * exact_map.c - mmap of files as heap memory, by -Wl,--wrap=mmap -Wl,--wrap=munmap
 *
 * A real map ends on a page; this one ends with the file, so that AddressSanitizer sees each byte
 * that is read behind it.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t len);

void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    char *map = malloc(len);

    (void)at, (void)protection, (void)flags;
    if (!map || pread(fd, map, len, offset) != (ssize_t)len)
        abort();
    return map;
}

int __wrap_munmap(void *at, size_t len)
{
    (void)len;
    free(at);
    return 0;
}
