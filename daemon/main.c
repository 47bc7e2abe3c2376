/*
 * main.c - modelpoold, the node daemon
 *
 * Runs in the foreground and logs to stderr: systemd, or whoever starts it, supervises it.  Exit
 * status: 0 after SIGTERM or SIGINT, 1 on a failure (its text is the last line), 2 on a wrong
 * option.
 */
#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/config.h"
#include "common/log.h"
#include "daemon/front.h"
#include "daemon/listen.h"
#include "daemon/state.h"

#define EXIT_USAGE 2

struct options {
    const char *file, *node;
    enum log_level level;
};

static void print_help(void)
{
    printf("Usage: modelpoold [-f FILE] [-N NODE] [-v]\n"
           "Serve language models to the jobs of this node.\n"
           "\n"
           "  -f, --file=FILE    configuration (default %s/modelpool/modelpool.conf)\n"
           "  -N, --node=NODE    this node's name (default: NodeName=, else the host's)\n"
           "  -D, --foreground   stay in the foreground, which is the only mode\n"
           "  -v, --verbose      log every request\n"
           "  -V, --version      print the version\n"
           "  -h, --help         print this\n"
           "\n"
           "Started as root it binds its sockets and becomes User=.  SIGTERM and SIGINT end it,\n"
           "SIGHUP reads the configuration file again.  Exit status: 0 after a signal, 1 on a "
           "failure,\n"
           "2 on a wrong option.\n",
           SYSCONFDIR);
}

/* -1: go on; else the exit status. */
static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"file", required_argument, NULL, 'f'},
        {"node", required_argument, NULL, 'N'},
        {"foreground", no_argument, NULL, 'D'},
        {"verbose", no_argument, NULL, 'v'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;

    *o = (struct options){SYSCONFDIR "/modelpool/modelpool.conf", NULL, LOG_LEVEL_INFO};
    while ((c = getopt_long(argc, argv, "f:N:DvVh", longs, NULL)) != -1) {
        switch (c) {
        case 'f':
            o->file = optarg;
            break;
        case 'N':
            o->node = optarg;
            break;
        case 'D':
            break;
        case 'v':
            o->level = LOG_LEVEL_DEBUG;
            break;
        case 'V':
            printf("modelpoold %s\n", MODELPOOL_RELEASE);
            return EXIT_SUCCESS;
        case 'h':
            print_help();
            return EXIT_SUCCESS;
        default:
            fprintf(stderr, "Try 'modelpoold --help'.\n");
            return EXIT_USAGE;
        }
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "modelpoold: unexpected argument \"%s\"\nTry 'modelpoold --help'.\n",
            argv[optind]);
    return EXIT_USAGE;
}

/* Descriptors are connections here: take as many as we may. */
static void raise_descriptor_limit(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

/* Tell systemd that we are ready, as sd_notify(3) documents the protocol. */
static void notify_ready(const char *path)
{
    static const char ready[] = "READY=1";
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;

    if (n == 0 || n >= sizeof a.sun_path || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(a.sun_path, path, n);
    if (path[0] == '@') /* an abstract name */
        a.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || sendto(fd, ready, sizeof ready - 1, 0, (struct sockaddr *)&a,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
        log_warn("NOTIFY_SOCKET: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void on_event_log(int severity, const char *text)
{
    if (severity >= EVENT_LOG_WARN)
        log_warn("libevent: %s", text);
    else
        log_debug("libevent: %s", text);
}

static int serve(struct config *config, struct error *err)
{
    int rv = -1, lock = -1, opened = 0;
    uid_t uid;
    gid_t gid;
    struct db *db = NULL;
    struct journal *journal = NULL;
    struct front front = {0};
    struct front_listeners listeners = {-1, -1, -1};

    if (state_user(config->user, &uid, &gid, err) ||
        state_lock(config->state_dir, uid, gid, &lock, err) ||
        listen_open(&listeners, config, uid, gid, err) || state_drop(uid, gid, err) ||
        state_open(config->state_dir, &db, &journal, err))
        goto out;
    opened = 1; /* the front has the listeners from here on */
    rv = front_open(&front, config, db, journal, &listeners, err);
    if (rv == 0) {
        log_info("%s on %s, cluster %s, node %s", MODELPOOL_RELEASE, config->listen,
                 config->cluster, config->node);
        notify_ready(getenv("NOTIFY_SOCKET"));
        rv = front_run(&front, err);
    }
    front_close(&front);
    listen_unlink(config);
out:
    if (!opened)
        listen_close(&listeners);
    journal_close(journal);
    db_close(db);
    if (lock >= 0)
        close(lock);
    return rv;
}

int main(int argc, char **argv)
{
    struct options options;
    struct error err = {0};
    int status = parse_options(argc, argv, &options);

    if (status >= 0)
        return status;
    log_init("modelpoold", options.level);
    event_set_log_callback(on_event_log);
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    struct config *config = config_read(options.file, options.node, &err);
    int rv = config ? serve(config, &err) : -1;
    config_destroy(config);
    if (rv == 0)
        return EXIT_SUCCESS;
    log_error("%s", err.text);
    return EXIT_FAILURE;
}
