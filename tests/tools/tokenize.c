/*
 * tokenize.c - the measuring half of bench/tokenizers: tokenize MODEL TEXTS ROUNDS
 *
 * TEXTS: texts with a zero byte behind each.  Prints a line for each round: CPU seconds for all of
 * them one by one, how many tokens, and FNV-1a (64 bits) over these as four bytes each,
 * little-endian.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/bytes.h"
#include "model/tokenizer.h"

static int read_texts(const char *path, struct bytes *texts)
{
    FILE *f = fopen(path, "re");
    char part[65536];
    size_t n;
    int rv = f ? 0 : -1;

    while (rv == 0 && (n = fread(part, 1, sizeof(part), f)) > 0)
        rv = bytes_append(texts, part, n, NULL);
    if (f)
        fclose(f);
    return rv;
}

static int encode_all(const struct tokenizer *t, const struct bytes *texts, struct token_list *list,
                      struct error *err)
{
    list->count = 0;
    for (size_t at = 0, n; at < texts->len; at += n + 1) {
        n = strnlen(texts->data + at, texts->len - at);
        if (tokenizer_encode(t, texts->data + at, n, 0, list, err))
            return -1;
    }
    return 0;
}

static uint64_t hash(const struct token_list *list)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < list->count; i++)
        for (unsigned k = 0; k < 32; k += 8)
            h = (h ^ (list->tokens[i] >> k & 0xff)) * 0x100000001b3u;
    return h;
}

/* Of this process's one thread, whatever else the machine does. */
static double cpu_seconds(void)
{
    struct timespec now = {0, 0};

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct error err = {.text = ""};
    struct bytes texts = {NULL, 0, 0};
    struct token_list list = {NULL, 0, 0};
    struct tokenizer *t = NULL;
    struct source *s;

    if (argc != 4) {
        fputs("usage: tokenize MODEL TEXTS ROUNDS\n", stderr);
        return 2;
    }
    s = source_open(argv[1], &err);
    if (s)
        t = tokenizer_create(s, &err);
    source_close(s);
    if (!t || read_texts(argv[2], &texts)) {
        fprintf(stderr, "tokenize: %s\n", t ? argv[2] : err.text);
        return 1;
    }
    for (int round = 0; round < atoi(argv[3]); round++) {
        double start = cpu_seconds();

        if (encode_all(t, &texts, &list, &err)) {
            fprintf(stderr, "tokenize: %s\n", err.text);
            return 1;
        }
        printf("%.6f %zu %016llx\n", cpu_seconds() - start, list.count,
               (unsigned long long)hash(&list));
    }
    free(list.tokens);
    bytes_free(&texts);
    tokenizer_destroy(t);
    return 0;
}
