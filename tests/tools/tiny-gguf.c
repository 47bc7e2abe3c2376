/* tiny-gguf.c - write a tiny random model file: tiny-gguf OUT.gguf [SEED] */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/tiny_gguf.h"

int main(int argc, char **argv)
{
    struct tiny_options options = {0};

    if (argc < 2 || argc > 3) {
        fputs("usage: tiny-gguf OUT.gguf [SEED]\n", stderr);
        return 2;
    }
    if (argc == 3)
        options.seed = strtoull(argv[2], NULL, 10);
    if (tiny_gguf_write(argv[1], &options) != 0) {
        fprintf(stderr, "tiny-gguf: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    return 0;
}
