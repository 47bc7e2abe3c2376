/*
 * memory.c - the CPU's physical memory in handles: pieces of a memfd
 *
 * Memory is touched, and so taken from the host, at a handle's first use.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu/device.h"

int cpu_pool(struct device *d, uint32_t count, struct error *err)
{
    struct cpu_device *c = (struct cpu_device *)d;
    uint64_t bytes = count * CPU_HANDLE_BYTES;
    int fd, rv = -1;

    if (c->memory >= 0)
        return error_set(err, STATUS_EXISTS, "the device has its memory already");
    fd = memfd_create("modelpool-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return error_errno(err, "cannot create the arena");
    if (ftruncate(fd, (off_t)bytes) != 0) {
        error_errno(err, "cannot size the arena to %" PRIu64 " bytes", bytes);
        goto out;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        error_errno(err, "cannot seal the arena");
        goto out;
    }
    c->memory = fd;
    c->handles = count;
    fd = -1;
    rv = 0;
out:
    if (fd >= 0)
        close(fd);
    return rv;
}

void *cpu_reserve(struct device *d, uint64_t bytes, struct error *err)
{
    void *range = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)d;
    if (range == MAP_FAILED) {
        error_errno(err, "cannot reserve %" PRIu64 " bytes of address space", bytes);
        return NULL;
    }
    return range;
}

void cpu_release(struct device *d, void *range, uint64_t bytes)
{
    (void)d;
    munmap(range, bytes);
}

int cpu_map(struct device *d, void *range, const uint32_t *handles, uint32_t count,
            struct error *err)
{
    struct cpu_device *c = (struct cpu_device *)d;

    /* Page tables are filled at once, instead of by a fault for each 4 KiB while weights are
     * copied; but not those of a window over everything, which would take all memory. */
    int populate = count < c->handles ? MAP_POPULATE : 0;

    /* Consecutive handles go in one call. */
    for (uint32_t i = 0, n; i < count; i += n) {
        for (n = 1; i + n < count && handles[i + n] == handles[i] + n; n++)
            ;
        void *place = (uint8_t *)range + i * CPU_HANDLE_BYTES;
        void *got = mmap(place, n * CPU_HANDLE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_FIXED | populate, c->memory,
                         (off_t)(handles[i] * CPU_HANDLE_BYTES));
        if (got == MAP_FAILED) {
            error_errno(err, "cannot map %" PRIu32 " handles", n);
            cpu_unmap(d, range, count);
            return -1;
        }
    }
    return 0;
}

void cpu_unmap(struct device *d, void *range, uint32_t count)
{
    (void)d;
    /* Mapping something else in the same place is atomic: the range never leaves our hands. */
    mmap(range, count * CPU_HANDLE_BYTES, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

int cpu_remap(struct device *d, void *at, int mapped, uint32_t handle, struct error *err)
{
    (void)mapped;
    return cpu_map(d, at, &handle, 1, err);
}
