/* run.c - modelpool run: ask a model */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/stream.h"
#include "common/client.h"

#define USAGE "modelpool run [OPTIONS] MODEL [PROMPT]"
#define HELP                                                                                       \
    "Without PROMPT it is read from standard input; with both, the text follows the prompt.\n"     \
    "In a job step the step's own lease is used, elsewhere a local one.\n"                         \
    "      --max-tokens=N   at most N tokens of answer\n"                                          \
    "      --temperature=X  0: always the likeliest token\n"                                       \
    "      --seed=N         the same answer for the same seed\n"                                   \
    "      --system=TEXT    a system message before the prompt\n"                                  \
    "      --stop=TEXT      end before this text (up to 4 times)\n"                                \
    "      --raw            continue the prompt as it is, without the chat template\n"
#define INPUT_MAX (8u << 20)
#define STOPS_MAX 4

struct request {
    const char *model, *system;
    char *prompt;             /* malloc'd */
    int64_t max_tokens, seed; /* -1: not given */
    double temperature;       /* negative: not given */
    const char *stop[STOPS_MAX];
    size_t stop_count;
    int raw;
};

/* --- the command line ------------------------------------------------------------------------- */

static int parse_count(const char *what, const char *text, int64_t *value, struct error *err)
{
    char *end;

    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < 0)
        return error_set(err, STATUS_INVALID, "--%s=%.40s: give a whole number from 0 on", what,
                         text);
    *value = v;
    return 0;
}

static int take_option(struct request *r, int c, const char *argument, struct error *err)
{
    char *end;

    switch (c) {
    case 'm':
        return parse_count("max-tokens", argument, &r->max_tokens, err);
    case 'd':
        return parse_count("seed", argument, &r->seed, err);
    case 't':
        r->temperature = strtod(argument, &end);
        if (end == argument || *end || !(r->temperature >= 0.0 && r->temperature <= 2.0))
            return error_set(err, STATUS_INVALID, "--temperature=%.40s: give 0 to 2", argument);
        return 0;
    case 'y':
        r->system = argument;
        return 0;
    case 's':
        if (r->stop_count == STOPS_MAX)
            return error_set(err, STATUS_INVALID, "--stop: at most %d", STOPS_MAX);
        r->stop[r->stop_count++] = argument;
        return 0;
    default: /* 'r' */
        r->raw = 1;
        return 0;
    }
}

/* All of standard input; malloc'd. */
static char *read_input(struct error *err)
{
    size_t len = 0, room = 65536;
    char *text = malloc(room + 1);

    while (text) {
        size_t n = fread(text + len, 1, room - len, stdin);
        len += n;
        if (n == 0)
            break;
        if (len < room)
            continue;
        char *bigger = room < INPUT_MAX ? realloc(text, room * 2 + 1) : NULL;
        if (!bigger) {
            error_set(err, STATUS_INVALID, "standard input: more than %u bytes", INPUT_MAX);
            free(text);
            return NULL;
        }
        text = bigger;
        room *= 2;
    }
    if (!text || ferror(stdin)) {
        error_set(err, STATUS_IO, "standard input: cannot be read");
        free(text);
        return NULL;
    }
    if (len && text[len - 1] == '\n') /* the line's end, not the prompt's */
        len--;
    text[len] = '\0';
    if (strlen(text) != len) {
        error_set(err, STATUS_INVALID, "standard input: is no text, it has NUL bytes");
        free(text);
        return NULL;
    }
    return text;
}

/* The argument, standard input unless it is a terminal, or both. */
static int make_prompt(struct request *r, const char *argument, struct error *err)
{
    int terminal = isatty(STDIN_FILENO);

    if (terminal && !argument)
        return error_set(err, STATUS_INVALID, "run: there is no prompt: give one, or pipe one in");
    char *input = terminal ? strdup("") : read_input(err);
    if (!input)
        return -1;
    if (argument && *input) {
        if (asprintf(&r->prompt, "%s\n\n%s", argument, input) < 0)
            r->prompt = NULL;
        free(input);
    } else if (argument) {
        r->prompt = strdup(argument);
        free(input);
    } else {
        r->prompt = input;
    }
    if (!r->prompt)
        return error_set(err, STATUS_NOMEM, "out of memory");
    if (!*r->prompt)
        return error_set(err, STATUS_INVALID, "run: the prompt is empty");
    return 0;
}

/* --- the request ------------------------------------------------------------------------------ */

static json_t *make_messages(const struct request *r)
{
    json_t *messages = json_array();

    if (r->system)
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", "system", "content", r->system));
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", r->prompt));
    return messages;
}

/* JSON; malloc'd.  NULL: text that is no UTF-8, which JSON cannot carry. */
static char *make_body(const struct request *r)
{
    json_t *body = json_pack("{s:s, s:b}", "model", r->model, "stream", 1);
    json_t *stops = json_array();
    int failed = 0;

    if (r->raw)
        failed |= json_object_set_new(body, "prompt", json_string(r->prompt));
    else
        failed |= json_object_set_new(body, "messages", make_messages(r));
    size_t wanted = r->raw ? 0 : 1 + (r->system != NULL);
    if (json_array_size(json_object_get(body, "messages")) != wanted)
        failed = 1;
    if (r->max_tokens >= 0)
        failed |= json_object_set_new(body, "max_tokens", json_integer(r->max_tokens));
    if (r->seed >= 0)
        failed |= json_object_set_new(body, "seed", json_integer(r->seed));
    if (r->temperature >= 0.0)
        failed |= json_object_set_new(body, "temperature", json_real(r->temperature));
    for (size_t i = 0; i < r->stop_count; i++)
        failed |= json_array_append_new(stops, json_string(r->stop[i]));
    if (r->stop_count)
        failed |= json_object_set(body, "stop", stops);
    char *text = failed ? NULL : json_dumps(body, JSON_COMPACT);
    json_decref(stops);
    json_decref(body);
    return text;
}

/* A lease of our own, held as long as fd is open. */
static int take_lease(const struct cli *cli, const char *model, struct wire *w, int *fd)
{
    int code = cli_connect(cli, fd);

    if (code)
        return code;
    wire_start(w, "lease");
    wire_put(w, "models", model);
    code = cli_send(*fd, w);
    if (code == EXIT_OK)
        code = -cli_receive(*fd, w);
    if (code == EXIT_OK && (!wire_get(w, "base_url") || !wire_get(w, "key")))
        code = cli_fail(EXIT_REFUSED, "modelpoold's answer has no address or no key");
    if (code)
        close(*fd);
    return code;
}

static int ask(const struct cli *cli, const struct request *r)
{
    const char *path = r->raw ? "/completions" : "/chat/completions";
    char *body = make_body(r);
    struct wire w;
    int fd = -1, code;

    if (!body)
        return cli_fail(EXIT_USAGE, "run: the prompt, or an option, is no UTF-8 text");
    if (cli->base_url && cli->api_key) {
        code = stream_request(cli->base_url, path, cli->api_key, body, stdout);
    } else {
        code = take_lease(cli, r->model, &w, &fd);
        if (code == EXIT_OK) {
            code =
                stream_request(wire_get(&w, "base_url"), path, wire_get(&w, "key"), body, stdout);
            close(fd);
        }
    }
    explicit_bzero(&w, sizeof(w));
    free(body);
    return code;
}

int cmd_run(const struct cli *cli, int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'},
                                            {"max-tokens", required_argument, NULL, 'm'},
                                            {"raw", no_argument, NULL, 'r'},
                                            {"seed", required_argument, NULL, 'd'},
                                            {"stop", required_argument, NULL, 's'},
                                            {"system", required_argument, NULL, 'y'},
                                            {"temperature", required_argument, NULL, 't'},
                                            {NULL, 0, NULL, 0}};
    struct request r = {.max_tokens = -1, .seed = -1, .temperature = -1.0};
    struct error err;
    int c;

    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'h')
            return cli_help(USAGE, HELP);
        if (c == '?')
            return cli_usage(USAGE, NULL);
        if (take_option(&r, c, optarg, &err) < 0)
            return cli_usage(USAGE, "%s", err.text);
    }
    if (optind == argc)
        return cli_usage(USAGE, "run: which model? `modelpool list` shows them");
    if (argc - optind > 2)
        return cli_usage(USAGE, "run: one prompt: put quotes around it");
    if (r.raw && r.system)
        return cli_usage(USAGE, "run: --raw takes no --system");
    r.model = argv[optind];
    if (make_prompt(&r, argv[optind + 1], &err) < 0)
        return cli_usage(USAGE, "%s", err.text);
    int code = ask(cli, &r);
    free(r.prompt);
    return code;
}
