/* connect.c - the command line's end of the control socket */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "common/client.h"
#include "common/clock.h"

#define CONNECT_US 5000000
#define FOR_EVER   INT64_MAX

int cli_connect(const struct cli *cli, int *fd)
{
    struct error err;

    *fd = client_connect(cli->socket, "modelpool", clock_monotonic_us() + CONNECT_US, NULL, &err);
    return *fd < 0 ? cli_fail(EXIT_UNREACHABLE, "%s", err.text) : EXIT_OK;
}

/* The connection has broken, or the daemon has said no. */
static int code_of(const struct error *err, int refused)
{
    return refused ? EXIT_REFUSED : err->status == STATUS_CORRUPT ? EXIT_REFUSED : EXIT_UNREACHABLE;
}

int cli_send(int fd, const struct wire *w)
{
    struct error err;

    if (wire_send(fd, w, clock_monotonic_us() + CONNECT_US, &err) == 0)
        return EXIT_OK;
    return cli_fail(code_of(&err, w->overflow), "%s", err.text);
}

int cli_receive(int fd, struct wire *w)
{
    struct error err;

    if (wire_recv(fd, w, FOR_EVER, &err) < 0)
        return -cli_fail(code_of(&err, 0), "%s", err.text);
    if (wire_error(w, &err) < 0)
        return -cli_fail(EXIT_REFUSED, "%s", err.text);
    const char *type = wire_type(w);
    return strcmp(type, "end") != 0 && strcmp(type, "ok") != 0 && strcmp(type, "granted") != 0;
}

int cli_order(const struct cli *cli, const char *type, const char *key, const char *value,
              cli_wait *wait)
{
    struct wire w;
    int fd, code = cli_connect(cli, &fd);

    if (code)
        return code;
    wire_start(&w, type);
    wire_put(&w, key, value);
    code = cli_send(fd, &w);
    if (code == EXIT_OK && wait)
        wait(cli, fd, value);
    while (code == EXIT_OK) {
        int more = cli_receive(fd, &w);
        if (more < 0)
            code = -more;
        if (more <= 0)
            break;
    }
    if (code == EXIT_OK) {
        const char *text = wire_get(&w, "text");
        if (text && *text)
            puts(text);
    }
    close(fd);
    return code;
}
