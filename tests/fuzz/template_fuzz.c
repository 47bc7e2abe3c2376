/*
 * template_fuzz.c - libFuzzer target: any bytes as a template, rendered with a small conversation
 *
 *     clang -std=gnu11 -D_GNU_SOURCE -I. -g -O1 -fsanitize=fuzzer,address,undefined \
 *         tests/fuzz/template_fuzz.c model/template*.c common/error.c \
 *         $(pkg-config --libs jansson libutf8proc) -lm -o template_fuzz
 *     ./template_fuzz -max_total_time=120 -timeout=10 CORPUS tests/golden/template/templates
 */
#include <stdint.h>
#include <stdlib.h>

#include "model/template.h"

static json_t *variables;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char text[] =
        "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"},"
        " {\"role\": \"user\", \"content\": \" gr\\u00fc\\u00dfe \\ud83c\\udf0d \"},"
        " {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"abcdefghi\","
        " \"function\": {\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, true, null, {}]}}}]}],"
        " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}],"
        " \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\","
        " \"x\": -5, \"s\": \"a,b\", \"d\": {\"k\": [3, 1, 2]}}";
    (void)argc;
    (void)argv;
    variables = json_loads(text, 0, NULL);
    if (!variables)
        abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {STATUS_OK, ""};
    struct template *t = template_create((const char *)data, size, &err);
    char *out = NULL;
    size_t len;
    if (t && template_render(t, variables, &out, &len, &err) == 0)
        free(out);
    template_destroy(t);
    return 0;
}
