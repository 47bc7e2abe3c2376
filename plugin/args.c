#include "plugin/args.h"

#include <stdio.h>
#include <string.h>

#define SOCKET_DEFAULT RUNSTATEDIR "/modelpool/control.sock"

static int args_set_path(char *field, const char *word, const char *value, struct error *err)
{
    if (value[0] != '/')
        return error_set(err, STATUS_INVALID, "plugstack.conf: %.200s is no absolute path", word);
    if (strlen(value) >= ARGS_PATH_MAX)
        return error_set(err, STATUS_INVALID, "plugstack.conf: %.200s...: the path is too long",
                         word);
    strcpy(field, value);
    return 0;
}

int args_parse(struct args *args, int count, char **words, struct error *err)
{
    struct args read = {.socket = SOCKET_DEFAULT};
    for (int i = 0; i < count; i++) {
        const char *word = words[i];
        char *field = strncmp(word, "socket=", 7) == 0   ? read.socket
                      : strncmp(word, "config=", 7) == 0 ? read.config
                                                         : NULL;
        if (!field)
            return error_set(err, STATUS_INVALID,
                             "plugstack.conf: unknown argument %.200s (known: socket=PATH, "
                             "config=PATH)",
                             word);
        if (args_set_path(field, word, strchr(word, '=') + 1, err))
            return -1;
    }
    *args = read;
    return 0;
}
