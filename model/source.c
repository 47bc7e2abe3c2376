/* source.c - what is behind a model's descriptors */
#include "model/source.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/quantization.h"
#include "model/safetensors.h"
#include "model/source_internal.h"

#define SMALL_FILE_MAX      (16u << 20)  /* settings and templates */
#define TOKENIZER_FILE_MAX  (256u << 20) /* vocabularies reach 40 MB */
#define VOCABULARY_FILE_MAX (64u << 20)  /* 20 MB */

/* Files */

const char *source_show(const char *text, char shown[GGUF_SHOWN_MAX])
{
    const struct gguf_string string = {text ? text : "none", text ? strlen(text) : 4};

    return gguf_show(&string, shown);
}

const char *source_where(const struct source *s, uint32_t file, char where[SOURCE_WHERE_MAX])
{
    const char *name = s->file_names[file];

    if (name[0] == '\0')
        snprintf(where, SOURCE_WHERE_MAX, "%s", s->name);
    else
        snprintf(where, SOURCE_WHERE_MAX, "%s: %s", s->name, name);
    return where;
}

char *source_read_file(int fd, const char *where, uint64_t most, size_t *len, struct error *err)
{
    struct stat st;
    char *text = NULL;
    uint64_t done = 0, bytes;

    if (fstat(fd, &st)) {
        error_errno(err, "%s", where);
        return NULL;
    }
    bytes = (uint64_t)st.st_size;
    if (!S_ISREG(st.st_mode) || st.st_size < 0 || bytes > most) {
        error_set(err, STATUS_CORRUPT, "%s: not a regular file of at most %" PRIu64 " bytes", where,
                  most);
        return NULL;
    }
    text = malloc((size_t)bytes + 1);
    if (!text) {
        error_set(err, STATUS_NOMEM, "%s: no memory for %" PRIu64 " bytes", where, bytes);
        return NULL;
    }
    while (done < bytes) {
        ssize_t n = pread(fd, text + done, (size_t)(bytes - done), (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n < 0)
                error_errno(err, "%s", where);
            else
                error_set(err, STATUS_CORRUPT, "%s: became shorter while it was read", where);
            free(text);
            return NULL;
        }
        done += (uint64_t)n;
    }
    text[bytes] = '\0';
    *len = (size_t)bytes;
    return text;
}

/* JSON */

/* 1e30 is a fine length limit to Python, but no 64-bit integer: with JSON_DECODE_INT_AS_REAL all
 * numbers come as reals, and those that are integers are made so again. */
static json_t *restore_integers(json_t *value)
{
    json_t *child, *changed;
    const char *key;
    size_t i;

    switch (json_typeof(value)) {
    case JSON_OBJECT:
        json_object_foreach(value, key,
                            child) if ((changed = restore_integers(child)) &&
                                       json_object_set_new(value, key, changed)) return NULL;
        return NULL;
    case JSON_ARRAY:
        json_array_foreach(value, i, child) if ((changed = restore_integers(child)) &&
                                                json_array_set_new(value, i, changed)) return NULL;
        return NULL;
    case JSON_REAL: {
        double number = json_real_value(value);

        if (fabs(number) <= 9007199254740992.0 && number == floor(number))
            return json_integer((json_int_t)number);
        return NULL;
    }
    default:
        return NULL;
    }
}

json_t *source_parse_json(const char *text, size_t len, const char *where, struct error *err)
{
    char shown[GGUF_SHOWN_MAX];
    json_error_t at;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at);

    if (!root && json_error_code(&at) == json_error_numeric_overflow) {
        root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &at);
        if (root)
            restore_integers(root);
    }
    if (!root) {
        error_set(err, STATUS_CORRUPT, "%s: no JSON: line %d: %s", where, at.line,
                  source_show(at.text, shown));
        return NULL;
    }
    if (!json_is_object(root)) {
        error_set(err, STATUS_CORRUPT, "%s: its JSON is no object", where);
        json_decref(root);
        return NULL;
    }
    return root;
}

/* Tensors */

struct source_tensor *source_add_tensor(struct source *s, const char *name, size_t len)
{
    struct source_tensor *t;
    char *copy;

    if (s->tensor_count == s->tensor_room) {
        size_t room = s->tensor_room ? s->tensor_room * 2 : 256;

        t = realloc(s->tensors, room * sizeof(*t));
        if (!t)
            return NULL;
        s->tensors = t;
        s->tensor_room = room;
    }
    copy = strndup(name, len);
    if (!copy)
        return NULL;
    t = &s->tensors[s->tensor_count++];
    *t = (struct source_tensor){.name = copy, .shape = {1, 1, 1, 1}};
    return t;
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct source_tensor *)a)->name, ((const struct source_tensor *)b)->name);
}

static int sort_tensors(struct source *s, struct error *err)
{
    if (s->tensor_count)
        qsort(s->tensors, s->tensor_count, sizeof(*s->tensors), compare_tensors);
    for (size_t i = 1; i < s->tensor_count; i++)
        if (!compare_tensors(&s->tensors[i - 1], &s->tensors[i]))
            return error_set(err, STATUS_CORRUPT, "%s: tensor %.200s is there twice", s->name,
                             s->tensors[i].name);
    return 0;
}

static int list_gguf(struct source *s, struct error *err)
{
    uint64_t parts = 1;

    if (gguf_get_u64(s->gguf, "split.count", &parts, err) < 0)
        return -1;
    if (parts > 1)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s: one of %" PRIu64 " parts of a split GGUF file; merge them into one",
                         s->name, parts);
    for (size_t i = 0; i < gguf_tensor_count(s->gguf); i++) {
        const struct gguf_tensor *from = gguf_tensor(s->gguf, i);
        struct source_tensor *t;

        if (memchr(from->name.data, '\0', (size_t)from->name.len))
            return error_set(err, STATUS_CORRUPT, "%s: the name of tensor %zu has a zero byte",
                             s->name, i);
        t = source_add_tensor(s, from->name.data, (size_t)from->name.len);
        if (!t)
            return error_set(err, STATUS_NOMEM, "%s: no memory for its tensors", s->name);
        t->dims = from->dims;
        memcpy(t->shape, from->shape, sizeof(t->shape));
        t->type = from->type;
        t->offset = from->offset;
        t->bytes = from->bytes;
    }
    return sort_tensors(s, err);
}

/* Folders */

static uint32_t find_weights(const struct source *s, const struct source_files *files,
                             const char *name)
{
    for (uint32_t i = 0; i < s->file_count; i++)
        if (files->files[i].kind == SOURCE_WEIGHTS && strcmp(s->file_names[i], name) == 0)
            return i;
    return UINT32_MAX;
}

/* Each tensor of the index is in the shard that it names, and each tensor is in the index. */
static int check_index(const struct source *s, const struct source_files *files, struct error *err)
{
    json_t *map = json_object_get(s->json[SOURCE_INDEX], "weight_map"), *value;
    char shown[GGUF_SHOWN_MAX], shown_file[GGUF_SHOWN_MAX];
    const char *name;

    if (!json_is_object(map))
        return error_set(err, STATUS_CORRUPT, "%s: model.safetensors.index.json: no weight_map",
                         s->name);
    json_object_foreach(map, name, value)
    {
        const char *shard = json_string_value(value);
        const struct source_tensor *t = source_find_tensor(s, name);
        uint32_t file = shard ? find_weights(s, files, shard) : UINT32_MAX;

        if (file == UINT32_MAX)
            return error_set(err, STATUS_CORRUPT,
                             "%s: model.safetensors.index.json: tensor %s is in %s, which "
                             "is not there",
                             s->name, source_show(name, shown), source_show(shard, shown_file));
        if (!t || t->file != file)
            return error_set(err, STATUS_CORRUPT,
                             "%s: tensor %s is missing in %s, where "
                             "model.safetensors.index.json has it",
                             s->name, source_show(name, shown), source_show(shard, shown_file));
    }
    for (size_t i = 0; i < s->tensor_count; i++)
        if (!json_object_get(map, s->tensors[i].name))
            return error_set(err, STATUS_CORRUPT,
                             "%s: tensor %.128s in %.128s is not in model.safetensors.index.json",
                             s->name, s->tensors[i].name, s->file_names[s->tensors[i].file]);
    return 0;
}

static int read_text_file(struct source *s, const struct source_file *f, uint32_t i,
                          struct error *err)
{
    uint64_t most = f->kind == SOURCE_TOKENIZER    ? TOKENIZER_FILE_MAX
                    : f->kind == SOURCE_VOCABULARY ? VOCABULARY_FILE_MAX
                                                   : SMALL_FILE_MAX;
    char where[SOURCE_WHERE_MAX], *text;
    size_t len;

    source_where(s, i, where);
    if (s->json[f->kind] || (f->kind == SOURCE_TEMPLATE && s->text) ||
        (f->kind == SOURCE_VOCABULARY && s->vocabulary))
        return error_set(err, STATUS_INVALID, "%s: is there twice", where);
    text = source_read_file(f->fd, where, most, &len, err);
    if (!text)
        return -1;
    if (f->kind == SOURCE_TEMPLATE) {
        s->text = text;
        s->text_len = len;
        return 0;
    }
    if (f->kind == SOURCE_VOCABULARY) {
        s->vocabulary = text;
        s->vocabulary_len = len;
        s->vocabulary_file = i;
        return 0;
    }
    s->json[f->kind] = source_parse_json(text, len, where, err);
    free(text);
    return s->json[f->kind] ? 0 : -1;
}

static int read_folder(struct source *s, const struct source_files *files, struct error *err)
{
    struct quantization quantization;
    uint32_t weights = 0;

    for (uint32_t i = 0; i < files->count; i++) {
        const struct source_file *f = &files->files[i];

        if (f->kind == SOURCE_WEIGHTS)
            weights++;
        else if (f->kind == SOURCE_GGUF || f->kind >= SOURCE_KIND_COUNT)
            return error_set(err, STATUS_INVALID, "%s: file %" PRIu32 " is of kind %d", s->name, i,
                             (int)f->kind);
        else if (read_text_file(s, f, i, err))
            return -1;
    }
    if (!s->json[SOURCE_CONFIG] || weights == 0)
        return error_set(err, STATUS_INVALID, "%s: came without its %s", s->name,
                         weights == 0 ? "weights" : "config.json");
    if (quantization_read(&quantization, s, err))
        return -1;
    for (uint32_t i = 0; i < files->count; i++)
        if (files->files[i].kind == SOURCE_WEIGHTS &&
            safetensors_read(s, i, files->files[i].fd, err))
            return -1;
    if (sort_tensors(s, err) || (s->json[SOURCE_INDEX] && check_index(s, files, err)))
        return -1;
    return quantization_link(&quantization, s, err);
}

/* Opening and closing */

static struct source *create(const char *name, uint32_t files, struct error *err)
{
    struct source *s = calloc(1, sizeof(*s));

    if (!s || !(s->name = strdup(name)) ||
        !(s->file_names = calloc(files, sizeof(*s->file_names)))) {
        error_set(err, STATUS_NOMEM, "%s: no memory to open it", name);
        source_close(s);
        return NULL;
    }
    s->file_count = files;
    return s;
}

struct source *source_open_files(const struct source_files *files, const char *name,
                                 struct error *err)
{
    struct source *s;

    if (files->count == 0 || files->count > SOURCE_FILES_MAX) {
        error_set(err, STATUS_INVALID, "%s: %" PRIu32 " files instead of 1 to %u", name,
                  files->count, SOURCE_FILES_MAX);
        return NULL;
    }
    s = create(name, files->count, err);
    if (!s)
        return NULL;
    for (uint32_t i = 0; i < files->count; i++)
        snprintf(s->file_names[i], SOURCE_NAME_MAX, "%.*s", (int)SOURCE_NAME_MAX - 1,
                 files->files[i].name);
    if (files->count == 1 && files->files[0].kind == SOURCE_GGUF) {
        s->gguf = gguf_open_fd(files->files[0].fd, name, err);
        if (!s->gguf || list_gguf(s, err))
            goto fail;
    } else if (read_folder(s, files, err)) {
        goto fail;
    }
    return s;
fail:
    source_close(s);
    return NULL;
}

struct source *source_from_gguf(const struct gguf *g, struct error *err)
{
    struct source *s = create(gguf_name(g), 1, err);

    if (!s)
        return NULL;
    s->gguf = (struct gguf *)g;
    s->gguf_borrowed = 1;
    if (list_gguf(s, err)) {
        source_close(s);
        return NULL;
    }
    return s;
}

struct source *source_open(const char *path, struct error *err)
{
    struct source_files *files = calloc(1, sizeof(*files));
    struct source *s = NULL;

    if (!files) {
        error_set(err, STATUS_NOMEM, "%s: no memory to open it", path);
        return NULL;
    }
    if (source_files_open(path, files, err) == 0) {
        s = source_open_files(files, path, err);
        source_files_close(files);
    }
    free(files);
    return s;
}

void source_close(struct source *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->tensor_count; i++)
        free((char *)s->tensors[i].name);
    free(s->tensors);
    for (size_t i = 0; i < SOURCE_KIND_COUNT; i++)
        json_decref(s->json[i]);
    if (!s->gguf_borrowed)
        gguf_close(s->gguf);
    free(s->text);
    free(s->vocabulary);
    free(s->file_names);
    free(s->name);
    free(s);
}

/* Looking */

const char *source_name(const struct source *s)
{
    return s->name;
}

const struct gguf *source_gguf(const struct source *s)
{
    return s->gguf;
}

const json_t *source_json(const struct source *s, enum source_kind kind)
{
    return kind < SOURCE_KIND_COUNT ? s->json[kind] : NULL;
}

int source_vocabulary(const struct source *s, const char **name, const char **bytes, size_t *len)
{
    if (!s->vocabulary)
        return 1;
    *name = s->file_names[s->vocabulary_file];
    *bytes = s->vocabulary;
    *len = s->vocabulary_len;
    return 0;
}

/* tokenizer_config.json has one template, or several with names. */
static int config_template(const struct source *s, const char **text, size_t *len,
                           struct error *err)
{
    const json_t *value = json_object_get(s->json[SOURCE_TOKENIZER_CONFIG], "chat_template");
    const json_t *entry;
    size_t i;

    if (json_is_array(value)) {
        const json_t *list = value;

        value = NULL;
        json_array_foreach(list, i, entry)
        {
            const char *name = json_string_value(json_object_get(entry, "name"));

            if (name && strcmp(name, "default") == 0)
                value = json_object_get(entry, "template");
        }
    }
    if (!value || json_is_null(value))
        return 1;
    if (!json_is_string(value))
        return error_set(err, STATUS_CORRUPT,
                         "%s: tokenizer_config.json: chat_template is neither text nor a list with "
                         "a default",
                         s->name);
    *text = json_string_value(value);
    *len = json_string_length(value);
    return 0;
}

int source_template(const struct source *s, const char **text, size_t *len, struct error *err)
{
    struct gguf_string value;
    int found;

    if (s->gguf) {
        found = gguf_get_string(s->gguf, "tokenizer.chat_template", &value, err);
        if (found == 0) {
            *text = value.data;
            *len = (size_t)value.len;
        }
        return found;
    }
    if (!s->text)
        return config_template(s, text, len, err);
    *text = s->text;
    *len = s->text_len;
    return 0;
}

uint32_t source_file_count(const struct source *s)
{
    return s->file_count;
}

const char *source_file_name(const struct source *s, uint32_t file)
{
    return s->file_names[file];
}

uint64_t source_weight_bytes(const struct source *s)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < s->tensor_count; i++)
        bytes += s->tensors[i].bytes; /* no two share bytes of a file: the sum is in 64 bits */
    return bytes;
}

size_t source_tensor_count(const struct source *s)
{
    return s->tensor_count;
}

const struct source_tensor *source_tensor(const struct source *s, size_t i)
{
    return &s->tensors[i];
}

const struct source_tensor *source_find_tensor(const struct source *s, const char *name)
{
    const struct source_tensor wanted = {.name = name};

    if (!s->tensor_count)
        return NULL;
    return bsearch(&wanted, s->tensors, s->tensor_count, sizeof(*s->tensors), compare_tensors);
}
