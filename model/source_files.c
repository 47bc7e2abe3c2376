/* source_files.c - from a path to a model's open descriptors */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/source_internal.h"

#define INDEX_NAME     "model.safetensors.index.json"
#define INDEX_FILE_MAX (64u << 20)
#define OPEN_FLAGS     (O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

static const struct folder_file {
    const char *name;
    enum source_kind kind;
} folder_files[] = {
    {"config.json", SOURCE_CONFIG},           {"generation_config.json", SOURCE_GENERATION},
    {"tokenizer.json", SOURCE_TOKENIZER},     {"tokenizer_config.json", SOURCE_TOKENIZER_CONFIG},
    {"chat_template.jinja", SOURCE_TEMPLATE},
};

static int ends_with(const char *s, const char *end)
{
    size_t len = strlen(s), end_len = strlen(end);

    return len > end_len && strcmp(s + len - end_len, end) == 0;
}

/* Open dir/name and put it in the list.  0 done, 1 there is no such file. */
static int add_file(int dir, const char *path, const char *name, enum source_kind kind,
                    struct source_files *files, struct error *err)
{
    struct source_file *f = &files->files[files->count];
    int fd;

    if (files->count == SOURCE_FILES_MAX)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: has more than the %u files that are supported; join its shards into "
                         "fewer",
                         path, SOURCE_FILES_MAX);
    fd = openat(dir, name, OPEN_FLAGS);
    if (fd < 0)
        return errno == ENOENT ? 1 : error_errno(err, "%s/%s", path, name);
    f->kind = kind;
    f->fd = fd;
    snprintf(f->name, sizeof(f->name), "%s", name);
    files->count++;
    return 0;
}

/* Shards, each once, in the index's order. */

static int is_added(const struct source_files *files, const char *name)
{
    for (uint32_t i = 0; i < files->count; i++)
        if (files->files[i].kind == SOURCE_WEIGHTS && strcmp(files->files[i].name, name) == 0)
            return 1;
    return 0;
}

static int add_shard(int dir, const char *path, const char *tensor, const char *name,
                     struct source_files *files, struct error *err)
{
    char shown[GGUF_SHOWN_MAX], shown_file[GGUF_SHOWN_MAX];
    int added;

    if (!name || strchr(name, '/') || strlen(name) >= SOURCE_NAME_MAX ||
        !ends_with(name, ".safetensors"))
        return error_set(err, STATUS_CORRUPT,
                         "%s/" INDEX_NAME ": tensor %s is not in a .safetensors file of this "
                         "folder",
                         path, source_show(tensor, shown));
    if (is_added(files, name))
        return 0;
    added = add_file(dir, path, name, SOURCE_WEIGHTS, files, err);
    if (added > 0)
        return error_set(err, STATUS_NOT_FOUND,
                         "%s/%s: no such file, but " INDEX_NAME
                         " has tensor %s in it: fetch the missing shard",
                         path, source_show(name, shown_file), source_show(tensor, shown));
    return added;
}

static int add_shards(int dir, const char *path, struct source_files *files, struct error *err)
{
    char where[SOURCE_WHERE_MAX], *text;
    const char *tensor;
    json_t *root, *map, *shard;
    size_t len;
    int rv = -1;

    snprintf(where, sizeof(where), "%.300s/" INDEX_NAME, path);
    text = source_read_file(files->files[files->count - 1].fd, where, INDEX_FILE_MAX, &len, err);
    if (!text)
        return -1;
    root = source_parse_json(text, len, where, err);
    free(text);
    if (!root)
        return -1;
    map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        error_set(err, STATUS_CORRUPT, "%s: no weight_map", where);
        goto out;
    }
    json_object_foreach(map, tensor, shard)
    {
        if (add_shard(dir, path, tensor, json_string_value(shard), files, err))
            goto out;
    }
    rv = 0;
out:
    json_decref(root);
    return rv;
}

/* A folder without safetensors: say what it has instead. */
static int refuse_weights(int dir, const char *path, struct error *err)
{
    const char *fix = "fetch model.safetensors, or model.safetensors.index.json and its shards";
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *e;

    if (!d && fd >= 0)
        close(fd);
    while (d && (e = readdir(d))) {
        if (ends_with(e->d_name, ".gguf"))
            fix = "it holds a GGUF file: name that file itself";
        else if (ends_with(e->d_name, ".bin") || ends_with(e->d_name, ".pth"))
            fix = "it holds pickled weights, which are not read: convert them to safetensors";
    }
    if (d)
        closedir(d);
    return error_set(err, STATUS_NOT_FOUND, "%s: a folder without model.safetensors; %s", path,
                     fix);
}

static int add_weights(int dir, const char *path, struct source_files *files, struct error *err)
{
    int added = add_file(dir, path, "model.safetensors", SOURCE_WEIGHTS, files, err);

    if (added <= 0)
        return added;
    added = add_file(dir, path, INDEX_NAME, SOURCE_INDEX, files, err);
    if (added > 0)
        return refuse_weights(dir, path, err);
    return added < 0 ? -1 : add_shards(dir, path, files, err);
}

/* A folder's only file of ranks with that ending: *name is NUL-terminated, or empty. */
static int find_tiktoken(int dir, const char *path, char name[SOURCE_NAME_MAX], struct error *err)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rv = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *e;

    name[0] = '\0';
    if (!d) {
        if (fd >= 0)
            close(fd);
        return error_errno(err, "%s", path);
    }
    while (rv == 0 && (e = readdir(d))) {
        size_t length = strlen(e->d_name);

        if (!ends_with(e->d_name, ".tiktoken") || length >= SOURCE_NAME_MAX)
            continue;
        if (name[0])
            rv = error_set(err, STATUS_INVALID,
                           "%s: has several .tiktoken files; leave the model's own, or fetch "
                           "tokenizer.json",
                           path);
        else
            memcpy(name, e->d_name, length + 1);
    }
    closedir(d);
    return rv;
}

/* What stands in for tokenizer.json. */
static int add_vocabulary(int dir, const char *path, struct source_files *files, struct error *err)
{
    char tiktoken[SOURCE_NAME_MAX];
    const char *const names[] = {tiktoken, "tekken.json", "tiktoken.model", "tokenizer.model"};
    int added = 1;

    if (find_tiktoken(dir, path, tiktoken, err))
        return -1;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && added > 0; i++)
        if (names[i][0])
            added = add_file(dir, path, names[i], SOURCE_VOCABULARY, files, err);
    return added < 0 ? -1 : 0;
}

static int open_folder(int dir, const char *path, struct source_files *files, struct error *err)
{
    for (size_t i = 0; i < sizeof(folder_files) / sizeof(folder_files[0]); i++) {
        const struct folder_file *f = &folder_files[i];
        int added = add_file(dir, path, f->name, f->kind, files, err);

        if (added < 0)
            return -1;
        if (added > 0 && f->kind == SOURCE_TOKENIZER && add_vocabulary(dir, path, files, err))
            return -1;
        if (added > 0 && f->kind == SOURCE_CONFIG) {
            if (faccessat(dir, "model.safetensors", F_OK, 0) && faccessat(dir, INDEX_NAME, F_OK, 0))
                return refuse_weights(dir, path, err);
            return error_set(err, STATUS_NOT_FOUND,
                             "%s: a folder without config.json: a checkpoint folder of the Hugging "
                             "Face hub has one; fetch it too",
                             path);
        }
    }
    return add_weights(dir, path, files, err);
}

static int is_gguf(int fd, const char *path)
{
    char magic[4];

    return ends_with(path, ".gguf") ||
           (pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
            memcmp(magic, "GGUF", sizeof(magic)) == 0);
}

static int open_file(int fd, const char *path, struct source_files *files, struct error *err)
{
    if (ends_with(path, ".safetensors"))
        return error_set(err, STATUS_INVALID,
                         "%s: name its folder, which also has config.json and tokenizer.json",
                         path);
    if (!is_gguf(fd, path))
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: neither a GGUF file nor a checkpoint folder with config.json and "
                         "model.safetensors",
                         path);
    files->files[0] = (struct source_file){.kind = SOURCE_GGUF, .fd = fd};
    files->count = 1;
    return 0;
}

static int refuse_path(const char *path, struct error *err)
{
    if (errno == ENOENT)
        return error_set(err, STATUS_NOT_FOUND,
                         "%s: No such file or directory; a model is a .gguf file or a checkpoint "
                         "folder",
                         path);
    if (errno == EACCES)
        return error_set(err, STATUS_DENIED,
                         "%s: Permission denied; the user that reads models must be allowed to "
                         "read it and to pass its folders",
                         path);
    return error_errno(err, "%s", path);
}

int source_files_open(const char *path, struct source_files *files, struct error *err)
{
    int fd = open(path, OPEN_FLAGS), failed;
    struct stat st;

    files->count = 0;
    if (fd < 0)
        return refuse_path(path, err);
    if (fstat(fd, &st)) {
        error_errno(err, "%s", path);
        close(fd);
        return -1;
    }
    if (S_ISDIR(st.st_mode)) {
        failed = open_folder(fd, path, files, err);
        close(fd);
    } else {
        failed = open_file(fd, path, files, err);
        if (failed)
            close(fd);
    }
    if (failed)
        source_files_close(files);
    return failed ? -1 : 0;
}

void source_files_close(struct source_files *files)
{
    for (uint32_t i = 0; i < files->count; i++)
        close(files->files[i].fd);
    files->count = 0;
}

void source_files_for_engine(struct source_files *files)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < files->count; i++) {
        enum source_kind kind = files->files[i].kind;

        if (kind == SOURCE_INDEX || kind == SOURCE_TOKENIZER || kind == SOURCE_TEMPLATE ||
            kind == SOURCE_VOCABULARY)
            close(files->files[i].fd);
        else if (kept++ != i)
            files->files[kept - 1] = files->files[i];
    }
    files->count = kept;
}
