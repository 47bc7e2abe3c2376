/*
 * engine_checkpoint_test.c - checkpoint folders through a whole engine: one file or shards, the
 * same tokens; what is lacking, cut short or wrongly announced is refused by name
 *
 * The checkpoint is a tiny random one of tests/golden/families.
 */
// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/turn.h"
#include "tests/unit/checkpoint_folder.h"
#include "tests/unit/engine_rig.h"

#define WHOLE  SRCDIR "/tests/golden/families/qwen2"
#define MEMORY ((uint64_t)64 << 20)
#define SHARDS 3u
#define TOKENS 24u

static struct checkpoint folder;

/* --- the whole one, split --------------------------------------------------------------------- */

static unsigned char *read_all(const char *name, size_t *len)
{
    char path[512];
    unsigned char *bytes;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", WHOLE, name);
    f = fopen(path, "r");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        fail_msg("%s cannot be read", path);
    *len = (size_t)ftell(f);
    rewind(f);
    bytes = malloc(*len + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *len, f), *len);
    bytes[*len] = '\0';
    fclose(f);
    return bytes;
}

static void shard_name(char name[64], uint32_t shard)
{
    snprintf(name, 64, "model-%05u-of-%05u.safetensors", shard + 1, SHARDS);
}

/* Every SHARDS-th tensor of the whole file, in the file's order. */
static void write_shard(const struct source *s, const unsigned char *whole, uint32_t shard,
                        json_t *map)
{
    json_t *header = json_object();
    unsigned char *data = NULL, *bytes;
    size_t used = 0, len;
    char name[64], *text;

    shard_name(name, shard);
    for (size_t i = shard; i < source_tensor_count(s); i += SHARDS) {
        const struct source_tensor *t = source_tensor(s, i);
        json_t *shape = json_array();

        for (uint32_t d = t->dims; d > 0; d--)
            json_array_append_new(shape, json_integer((json_int_t)t->shape[d - 1]));
        assert_int_equal(t->type, DTYPE_F16);
        json_object_set_new(header, t->name,
                            json_pack("{s:s,s:o,s:[I,I]}", "dtype", "F16", "shape", shape,
                                      "data_offsets", (json_int_t)used,
                                      (json_int_t)(used + t->bytes)));
        json_object_set_new(map, t->name, json_string(name));
        data = realloc(data, used + t->bytes);
        assert_non_null(data);
        memcpy(data + used, whole + t->offset, t->bytes);
        used += t->bytes;
    }
    text = json_dumps(header, JSON_COMPACT);
    bytes = safetensors_bytes(text, strlen(text), used, &len);
    memcpy(bytes + len - used, data, used);
    checkpoint_write(&folder, name, bytes, len);
    free(bytes);
    free(text);
    free(data);
    json_decref(header);
}

static int make_shards(void **state)
{
    struct error err = {.text = ""};
    struct source *s = source_open(WHOLE, &err);
    size_t len, config_len;
    unsigned char *whole = read_all("model.safetensors", &len);
    unsigned char *config = read_all("config.json", &config_len);
    json_t *map = json_object(), *index = json_pack("{s:O}", "weight_map", map);
    char *text;

    (void)state;
    if (!s)
        fail_msg("%s", err.text);
    checkpoint_start(&folder);
    checkpoint_write(&folder, "config.json", config, config_len);
    for (uint32_t i = 0; i < SHARDS; i++)
        write_shard(s, whole, i, map);
    text = json_dumps(index, 0);
    checkpoint_text(&folder, "model.safetensors.index.json", text);
    free(text);
    json_decref(index);
    json_decref(map);
    free(config);
    free(whole);
    source_close(s);
    return 0;
}

static int remove_shards(void **state)
{
    (void)state;
    checkpoint_remove(&folder);
    return 0;
}

/* --- tests ------------------------------------------------------------------------------------ */

static void ask(struct rig *r, uint64_t seq, uint32_t model)
{
    static const uint32_t prompt[] = {1, 40, 99, 7, 260, 13, 77, 5};

    rig_reset(r, seq);
    rig_seq(r, seq, model, prompt, sizeof(prompt) / sizeof(prompt[0]), 0, TOKENS,
            SAMPLING_IGNORE_EOS);
    rig_turn(r, model, 0);
    assert_string_equal(r->seqs[seq].fault, "");
    assert_int_equal(r->seqs[seq].count, TOKENS);
}

static void shards_are_the_whole(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, MEMORY, 1, 4);
    rig_model(&r, 1, WHOLE, 0);
    if (!r.model.ok)
        fail_msg("%s", r.model.text);
    rig_model(&r, 2, folder.folder, 0);
    if (!r.model.ok)
        fail_msg("%s", r.model.text);
    ask(&r, 1, 1);
    ask(&r, 2, 2);
    assert_memory_equal(r.seqs[1].tokens, r.seqs[2].tokens, TOKENS * sizeof(uint32_t));
    /* Other tokens than a constant: the weights were read. */
    assert_memory_not_equal(r.seqs[1].tokens, r.seqs[1].tokens + 1,
                            (TOKENS - 1) * sizeof(uint32_t));
    rig_close(&r);
}

/* Give the engine these files under these kinds; its answer is in r->model. */
static void give(struct rig *r, const struct source_files *opened, uint32_t count, uint32_t said)
{
    struct order_model order = {.kind = ORDER_MODEL, .model = 9, .files = said, .name = "nine"};
    struct channel_files files = {0};

    for (uint32_t i = 0; i < count; i++) {
        order.kinds[i] = (uint8_t)opened->files[i].kind;
        files.fds[files.count++] = opened->files[i].fd;
    }
    memset(&r->model, 0, sizeof(r->model));
    assert_int_equal(engine_order(r->e, &order, &files), 0);
    rig_events(r);
    assert_int_equal(r->model.kind, EVENT_MODEL);
}

static void expect_refusal(const struct rig *r, const char *text)
{
    assert_int_equal(r->model.ok, 0);
    if (!strstr(r->model.text, text))
        fail_msg("wanted \"%s\": %s", text, r->model.text);
}

static void wrong_orders(void **state)
{
    struct source_files opened;
    struct error err;
    struct rig r;

    (void)state;
    rig_open(&r, MEMORY, 1, 4);
    assert_int_equal(source_files_open(folder.folder, &opened, &err), 0);
    assert_int_equal(opened.count, 2 + SHARDS);
    give(&r, &opened, 0, 0);
    expect_refusal(&r, "without its files");
    give(&r, &opened, opened.count, opened.count - 1);
    expect_refusal(&r, "5 files instead of 4");
    give(&r, &opened, opened.count, UINT32_MAX);
    expect_refusal(&r, "5 files instead of");
    give(&r, &opened, opened.count, opened.count);
    expect_refusal(&r, "which is not there"); /* an engine cannot know the names of an index */
    source_files_for_engine(&opened);
    assert_int_equal(opened.count, 1 + SHARDS);
    give(&r, &opened, opened.count - 1, opened.count - 1);
    expect_refusal(&r, "model.");
    give(&r, &opened, 1, 1);
    expect_refusal(&r, "without its weights");
    opened.files[0].kind = SOURCE_WEIGHTS; /* config.json as weights */
    give(&r, &opened, opened.count, opened.count);
    expect_refusal(&r, "nine");
    opened.files[0].kind = (enum source_kind)200;
    give(&r, &opened, opened.count, opened.count);
    expect_refusal(&r, "kind 200");
    opened.files[0].kind = SOURCE_GGUF;
    give(&r, &opened, opened.count, opened.count);
    expect_refusal(&r, "kind 0");
    give(&r, &opened, 1, 1);
    expect_refusal(&r, "not a GGUF file");
    source_files_close(&opened);
    assert_int_equal(r.e->residency.count, 0);
    rig_close(&r);
}

/* A shard that is cut short after it was opened: the tensor is named, nothing stays held. */
static void cut_after_opening(void **state)
{
    char path[256], name[64];
    struct rig r;

    (void)state;
    shard_name(name, SHARDS - 1);
    snprintf(path, sizeof(path), "%s/%s", folder.folder, name);
    rig_open(&r, MEMORY, 1, 4);
    rig_model(&r, 1, folder.folder, 0);
    assert_int_equal(r.model.ok, 1);
    assert_int_equal(truncate(path, 2000), 0);
    static const uint32_t prompt[] = {1, 2, 3};
    rig_seq(&r, 1, 1, prompt, 3, 0, 5, 0);
    rig_turn(&r, 1, 0);
    assert_int_equal(r.turn_end.reason, TURN_FAULT);
    assert_non_null(strstr(r.turn_end.text, "its file ends within tensor model."));
    rig_ref(&r, ORDER_SEQ_CLOSE, 1, 1);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_are_the_whole),
        cmocka_unit_test(wrong_orders),
        cmocka_unit_test(cut_after_opening),
    };

    return cmocka_run_group_tests(tests, make_shards, remove_shards);
}
