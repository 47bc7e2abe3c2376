/* serve_private.c - a pool of bench serve's own: random models, a configuration, a daemon */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/serve.h"
#include "common/client.h"
#include "common/clock.h"
#include "common/config.h"

#define START_US 30000000
#define STOP_US  10000000

int serve_shape_next(const char **list, char name[64], uint32_t *count)
{
    size_t len = strcspn(*list, ",");
    const char *colon = memchr(*list, ':', len);
    size_t letters = colon != NULL ? (size_t)(colon - *list) : len;
    char *end;

    if (**list == '\0')
        return 0;
    if (letters == 0 || letters >= 48 || strcspn(*list, "#/ ") < letters)
        return -1;
    memcpy(name, *list, letters);
    name[letters] = '\0';
    *count = 1;
    if (colon != NULL) {
        unsigned long n = strtoul(colon + 1, &end, 10);

        if (colon[1] < '1' || colon[1] > '9' || end != *list + len || n > SERVE_MODELS_MAX)
            return -1;
        *count = (uint32_t)n;
    }
    *list += len + ((*list)[len] == ',');
    return 1;
}

/* --- programs -----------------------------------------------------------------------------------
 */

/* Another user must come there: the daemon gives up root. */
static int reachable(const char *path)
{
    char part[400];
    struct stat about;

    for (size_t i = 1; path[i] != '\0'; i++) {
        if (path[i] != '/' || i >= sizeof part)
            continue;
        snprintf(part, sizeof part, "%.*s", (int)i, path);
        if (stat(part, &about) != 0 || !(about.st_mode & S_IXOTH))
            return 0;
    }
    return 1;
}

/* The daemon and the engine that belong to this program: of its own tree, which may have been
 * moved, or where it was meant to be installed. */
static int find_programs(struct serve_private *p)
{
    char self[256];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash;

    snprintf(p->daemon, sizeof p->daemon, "%s", SBINDIR "/modelpoold");
    snprintf(p->engine, sizeof p->engine, "%s", LIBEXECDIR "/modelpool-engine");
    if (len > 0) {
        char daemon[300], engine[300];

        self[len] = '\0';
        slash = strrchr(self, '/');
        *slash = '\0';
        slash = strrchr(self, '/');
        if (slash != NULL)
            *slash = '\0';
        snprintf(daemon, sizeof daemon, "%s/sbin/modelpoold", self);
        snprintf(engine, sizeof engine, "%s/libexec/modelpool-engine", self);
        if (access(daemon, X_OK) == 0 && access(engine, X_OK) == 0) {
            memcpy(p->daemon, daemon, sizeof p->daemon);
            memcpy(p->engine, engine, sizeof p->engine);
        }
    }
    if (access(p->daemon, X_OK) != 0 || access(p->engine, X_OK) != 0)
        return cli_fail(EXIT_REFUSED, "%s and %s are not both there: install modelpool", p->daemon,
                        p->engine);
    if (geteuid() == 0 && !reachable(p->engine))
        return cli_fail(EXIT_REFUSED,
                        "%s: a folder on its way is closed to other users, and the daemon does not "
                        "run as root",
                        p->engine);
    return EXIT_OK;
}

/* --- processes ----------------------------------------------------------------------------------
 */

/* Start a program that ends with us; its output goes to `log` where one is named. */
static int start(const char *const *argv, const char *log)
{
    pid_t parent = getpid(), pid = fork();

    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    setpgid(0, 0); /* Ctrl-C is ours: it ends the daemon when we have read its last counters */
    if (log != NULL && (freopen(log, "a", stdout) == NULL || freopen(log, "a", stderr) == NULL))
        _exit(1);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static int wait_for(int pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* Removes what the daemon has made as soon as we are gone, however we went, and ends the daemon:
 * its own parent-death signal was lost as it gave up root.  Each number that comes is the daemon's
 * pid. */
static _Noreturn void watch(const char *dir, int from)
{
    const char *argv[] = {"/bin/rm", "-rf", "--", dir, NULL};
    int pid = 0, got;

    while (read(from, &got, sizeof got) == (ssize_t)sizeof got)
        pid = got;
    if (pid > 0)
        kill(pid, SIGTERM);
    for (int i = 0; i < 100 && access(dir, F_OK) == 0; i++) {
        int rm = start(argv, "/dev/null");

        if (rm > 0)
            wait_for(rm);
        if (i > 0)
            usleep(100000);
    }
    _exit(0);
}

static int start_watcher(struct serve_private *p)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return cli_fail(EXIT_REFUSED, "pipe: %s", strerror(errno));
    p->watcher = fork();
    if (p->watcher == 0) {
        setpgid(0, 0);
        close(ends[1]);
        watch(p->dir, ends[0]);
    }
    close(ends[0]);
    p->to_watcher = ends[1];
    return p->watcher > 0 ? EXIT_OK : cli_fail(EXIT_REFUSED, "fork: %s", strerror(errno));
}

static void tell_watcher(const struct serve_private *p)
{
    if (p->watcher > 0 && write(p->to_watcher, &p->pid, sizeof p->pid) < 0)
        cli_fail(EXIT_REFUSED, "%s stays behind: %s", p->dir, strerror(errno));
}

/* "WHAT: the last line of the log" */
static int died(const struct serve_private *p, const char *what)
{
    char path[112], line[512] = "", last[512] = "";
    FILE *log;

    snprintf(path, sizeof path, "%s/log", p->dir);
    log = fopen(path, "re");
    while (log != NULL && fgets(line, sizeof line, log) != NULL)
        snprintf(last, sizeof last, "%.*s", (int)strcspn(line, "\n"), line);
    if (log != NULL)
        fclose(log);
    return cli_fail(EXIT_REFUSED, "%s: %s", what, last[0] != '\0' ? last : "its log says nothing");
}

/* --- models -------------------------------------------------------------------------------------
 */

/* A file that is there already is used again. */
static int make_model(const struct serve_private *p, const char *shape, const char *path)
{
    char with_shape[96], with_dtype[64], with_out[512], log[112], what[128];
    const char *argv[] = {p->engine, "--bench=make-model", with_shape, with_dtype, with_out, NULL};

    if (access(path, R_OK) == 0)
        return EXIT_OK;
    snprintf(with_shape, sizeof with_shape, "--shape=%s", shape);
    snprintf(with_dtype, sizeof with_dtype, "--dtype=%s", p->dtype);
    snprintf(with_out, sizeof with_out, "--out=%s", path);
    snprintf(log, sizeof log, "%s/log", p->dir);
    int pid = start(argv, log);
    if (pid < 0)
        return cli_fail(EXIT_REFUSED, "fork: %s", strerror(errno));
    snprintf(what, sizeof what, "the model %s could not be made", shape);
    return wait_for(pid) == 0 ? EXIT_OK : died(p, what);
}

/* One file a shape, under all of its names; the names number on as the simulator's do. */
static int make_models(const struct serve_private *p, const char *folder, struct serve_names *names,
                       FILE *conf)
{
    const char *list = p->shapes;
    char shape[64], path[400];
    uint32_t count;

    if (mkdir(folder, 0755) != 0 && errno != EEXIST)
        return cli_fail(EXIT_REFUSED, "%s: %s", folder, strerror(errno));
    while (serve_shape_next(&list, shape, &count) == 1) {
        snprintf(path, sizeof path, "%s/%s.%s.gguf", folder, shape, p->dtype);
        int code = make_model(p, shape, path);

        if (code != EXIT_OK)
            return code;
        for (uint32_t i = 0; i < names->count; i++)
            if (strcmp(names->kind[i], shape) == 0)
                fprintf(conf, "Model=%s Path=\"%s\"\n", names->name[i], path);
    }
    return EXIT_OK;
}

/* --- the daemon ---------------------------------------------------------------------------------
 */

/* A port that was free a moment ago. */
static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = 0;

    if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 &&
        getsockname(fd, (struct sockaddr *)&a, &len) == 0)
        port = ntohs(a.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

static void write_pool(const struct serve_private *p, int port, FILE *conf)
{
    fprintf(conf, "ClusterName=bench\nNodeName=bench\nStateDir=%s/state\nRunDir=%s/run\n", p->dir,
            p->dir);
    fprintf(conf, "Listen=127.0.0.1:%d\nEngine=%s\nIdentity=none\nLocalUsers=yes\n", port,
            p->engine);
    fprintf(conf, "Scheduler=%s\nTurnTime=%gs\nAdmission=%s\n", p->scheduler, p->turn,
            p->admit ? "yes" : "no");
    if (p->host_cache != NULL)
        fprintf(conf, "HostCache=%s\n", p->host_cache);
    if (geteuid() == 0) /* the daemon does not run as root */
        fprintf(conf, "User=%s\n", getpwnam("modelpool") != NULL ? "modelpool" : "nobody");
    for (uint32_t i = 0; i < p->instances; i++) {
        fprintf(conf, "Instance=i%u Device=%s Memory=%s", i, p->device, p->memory);
        if (strcmp(p->device, "cuda") == 0)
            fprintf(conf, " Gpus=%u", i);
        if (p->threads != NULL)
            fprintf(conf, " Threads=%s", p->threads);
        if (p->max_batch != NULL)
            fprintf(conf, " MaxBatch=%s", p->max_batch);
        fputc('\n', conf);
    }
}

static int wait_socket(struct serve_private *p)
{
    int64_t until = clock_monotonic_us() + START_US;
    struct error err;

    while (clock_monotonic_us() < until) {
        int fd = client_connect(p->socket, "modelpool", clock_monotonic_us() + 1000000, NULL, &err);

        if (fd >= 0) {
            close(fd);
            return EXIT_OK;
        }
        if (waitpid(p->pid, NULL, WNOHANG) != 0) {
            p->pid = 0;
            return died(p, "the private pool did not start");
        }
        usleep(50000);
    }
    return died(p, "the private pool did not start");
}

static int start_daemon(struct serve_private *p, const char *conf)
{
    char log[112];
    const char *argv[] = {p->daemon, "-f", conf, NULL};

    snprintf(log, sizeof log, "%s/log", p->dir);
    snprintf(p->socket, sizeof p->socket, "%s/run/control.sock", p->dir);
    p->pid = start(argv, log);
    if (p->pid < 0) {
        p->pid = 0;
        return cli_fail(EXIT_REFUSED, "fork: %s", strerror(errno));
    }
    tell_watcher(p);
    return wait_socket(p);
}

int serve_private_start(struct serve_private *p, const char *tmp, struct serve_names *names)
{
    char path[112], folder[300];
    int port = free_port(), code;
    FILE *conf;

    code = find_programs(p);
    if (code != EXIT_OK)
        return code;
    if (tmp == NULL || tmp[0] != '/' || strlen(tmp) > 40) /* a socket's path is short */
        tmp = "/tmp";
    snprintf(p->dir, sizeof p->dir, "%s/modelpool-serve-XXXXXX", tmp);
    if (mkdtemp(p->dir) == NULL) {
        p->dir[0] = '\0';
        return cli_fail(EXIT_REFUSED, "a folder in %s: %s", tmp, strerror(errno));
    }
    chmod(p->dir, 0755); /* the daemon and its engines are of another user */
    code = start_watcher(p);
    if (code != EXIT_OK)
        return code;
    snprintf(folder, sizeof folder, "%s%s", p->folder != NULL ? p->folder : p->dir,
             p->folder != NULL ? "" : "/models");
    snprintf(path, sizeof path, "%s/modelpool.conf", p->dir);
    conf = fopen(path, "we");
    if (conf == NULL || port == 0) {
        if (conf != NULL)
            fclose(conf);
        return cli_fail(EXIT_REFUSED, "%s: %s", conf == NULL ? path : "a port", strerror(errno));
    }
    write_pool(p, port, conf);
    code = make_models(p, folder, names, conf);
    if (fclose(conf) != 0 && code == EXIT_OK)
        code = cli_fail(EXIT_REFUSED, "%s: %s", path, strerror(errno));
    return code == EXIT_OK ? start_daemon(p, path) : code;
}

void serve_private_stop(struct serve_private *p)
{
    int64_t until = clock_monotonic_us() + STOP_US;

    if (p->pid > 0) {
        kill(p->pid, SIGTERM);
        while (waitpid(p->pid, NULL, WNOHANG) == 0) {
            if (clock_monotonic_us() > until)
                kill(p->pid, SIGKILL);
            usleep(20000);
        }
        p->pid = 0;
        tell_watcher(p); /* the number is nobody's now */
    }
    if (p->watcher > 0) {
        close(p->to_watcher);
        wait_for(p->watcher);
        p->watcher = 0;
    }
}
