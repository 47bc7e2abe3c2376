/* args.h - the plugin's arguments in plugstack.conf */
#ifndef MP_PLUGIN_ARGS_H
#define MP_PLUGIN_ARGS_H

#include "common/error.h"

#define ARGS_PATH_MAX 1024

struct args {
    char socket[ARGS_PATH_MAX]; /* socket=PATH: the daemon's control socket on this node */
    char config[ARGS_PATH_MAX]; /* config=PATH: modelpool.conf to check names with, or "" */
};

/* Read `KEY=VALUE` words, over the defaults.  INVALID names the word and the known keys. */
int args_parse(struct args *args, int count, char **words, struct error *err);

#endif
