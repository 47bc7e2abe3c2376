/* tier_place.c - where the host tier lies, and how large it may be */
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/checksum.h"
#include "daemon/tier.h"

#define SHARED_MEMORY "/dev/shm"

uint64_t tier_budget(const struct config *c)
{
    return c->host_cache;
}

/* Room of all pages of that file system, used ones included: ours may be among them. */
static uint64_t huge_bytes(const char *folder)
{
    struct statfs fs;
    char path[96];
    unsigned long pages = 0;
    FILE *f;

    if (statfs(folder, &fs) != 0 || fs.f_bsize <= 0)
        return 0;
    if (fs.f_blocks > 0 && (long)fs.f_blocks > 0)
        pages = (unsigned long)fs.f_blocks; /* it has a limit of its own */
    snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%ldkB/nr_hugepages",
             (long)fs.f_bsize >> 10);
    f = fopen(path, "re");
    if (f != NULL) {
        unsigned long all = 0;

        if (fscanf(f, "%lu", &all) != 1)
            all = 0;
        if (pages == 0 || all < pages)
            pages = all;
        fclose(f);
    }
    return (uint64_t)pages * (uint64_t)fs.f_bsize;
}

/* A mounted hugetlbfs of 2 MiB pages that we may write to, with pages for all of the budget. */
static int find_huge(char *folder, size_t room, uint64_t budget)
{
    FILE *mounts = setmntent("/proc/self/mounts", "r");
    struct mntent *m;
    int found = 0;

    while (!found && mounts != NULL && (m = getmntent(mounts)) != NULL) {
        struct statfs fs;

        if (strcmp(m->mnt_type, "hugetlbfs") != 0 || access(m->mnt_dir, W_OK | X_OK) != 0 ||
            statfs(m->mnt_dir, &fs) != 0 || (uint64_t)fs.f_bsize > SEGMENT_ALIGN)
            continue;
        found = huge_bytes(m->mnt_dir) >= budget && strlen(m->mnt_dir) < room;
        if (found)
            snprintf(folder, room, "%s", m->mnt_dir);
    }
    if (mounts != NULL)
        endmntent(mounts);
    return found;
}

void tier_place(char place[TIER_PLACE_MAX], const struct config *c)
{
    char folder[256] = SHARED_MEMORY;

    if (c->host_cache_dir != NULL)
        snprintf(folder, sizeof folder, "%s", c->host_cache_dir);
    else
        (void)find_huge(folder, sizeof folder, tier_budget(c));
    snprintf(place, TIER_PLACE_MAX, "%s/modelpool-%s-%08x", folder, c->node,
             (unsigned)checksum64(c->state_dir, strlen(c->state_dir), 0));
}
