#include "tests/unit/checkpoint_folder.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void path_of(const struct checkpoint *c, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%.255s", c->folder, name);
}

void checkpoint_start(struct checkpoint *c)
{
    snprintf(c->folder, sizeof(c->folder), "/tmp/checkpoint.XXXXXX");
    if (!mkdtemp(c->folder))
        abort();
}

void checkpoint_remove(struct checkpoint *c)
{
    DIR *d = opendir(c->folder);
    const struct dirent *e;

    if (!d)
        abort();
    while ((e = readdir(d)))
        if (e->d_name[0] != '.')
            checkpoint_unlink(c, e->d_name);
    closedir(d);
    rmdir(c->folder);
}

void checkpoint_write(const struct checkpoint *c, const char *name, const void *bytes, size_t len)
{
    char path[512];
    FILE *f;

    path_of(c, name, path);
    f = fopen(path, "w");
    if (!f || fwrite(bytes, 1, len, f) != len || fclose(f) != 0)
        abort();
}

void checkpoint_text(const struct checkpoint *c, const char *name, const char *text)
{
    checkpoint_write(c, name, text, strlen(text));
}

unsigned char *safetensors_bytes(const char *header, size_t header_len, size_t data, size_t *len)
{
    unsigned char *bytes;

    *len = 8 + header_len + data;
    bytes = malloc(*len);
    if (!bytes)
        abort();
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)header_len >> (8 * i));
    memcpy(bytes + 8, header, header_len);
    for (size_t i = 0; i < data; i++)
        bytes[8 + header_len + i] = (unsigned char)i;
    return bytes;
}

void checkpoint_tensors(const struct checkpoint *c, const char *name, const char *header,
                        size_t data)
{
    size_t len;
    unsigned char *bytes = safetensors_bytes(header, strlen(header), data, &len);

    checkpoint_write(c, name, bytes, len);
    free(bytes);
}

void checkpoint_unlink(const struct checkpoint *c, const char *name)
{
    char path[512];

    path_of(c, name, path);
    unlink(path);
}
