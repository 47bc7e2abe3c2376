/*
 * front.h - the front loop: HTTP, the control socket, leases, questions to Slurm
 *
 * One libevent loop in the main thread owns everything here.  It never blocks: the database is the
 * writer's, engines are the policy thread's, Slurm's commands are children whose output is read by
 * the loop.
 */
#ifndef MP_DAEMON_FRONT_H
#define MP_DAEMON_FRONT_H

#include <event2/event.h>

#include "common/config.h"
#include "daemon/lease.h"
#include "daemon/policy.h"
#include "daemon/writer.h"
#include "model/template.h"
#include "model/tokenizer.h"

struct front_model { /* what the front needs of a model; NULLs and text if its file is unusable */
    struct tokenizer *tokenizer;
    struct template *template;
    uint32_t context;
    uint64_t bytes;
    char text[ERROR_TEXT_MAX]; /* why it is unusable */
    int fd;                    /* not used by the front: models are opened again by policy */
};

struct front {
    struct event_base *base;
    struct config *config;
    struct tier *tier; /* the policy thread's while that runs; NULL: there is none */
    struct policy *policy;
    struct writer *writer;
    struct journal *journal;
    struct leases *leases;
    struct control *control;
    struct http *http;
    struct mailbox *events;     /* policy events, taken by front.c and routed */
    struct mailbox *written;    /* finished front_jobs */
    struct front_model *models; /* [config->model_count] */
    char base_url[128];         /* "http://127.0.0.1:811/v1": what jobs get as OPENAI_BASE_URL */
    char http_socket[512];      /* path of the Unix socket that speaks HTTP */
    int64_t started_us;         /* wall */
};

struct front_listeners { /* listening, non-blocking, close-on-exec */
    int http_tcp, http_unix, control;
};

/*
 * Open the models, restore the leases, start writer, policy thread and the servers: a zeroed *f
 * becomes ready to run.  A model whose file is unusable is no failure: its text says why.  config,
 * db and journal are borrowed, the listeners taken over.  front_close() ends all of it, also what a
 * failed front_open() has begun.
 */
int front_open(struct front *f, struct config *config, struct db *db, struct journal *journal,
               const struct front_listeners *listeners, struct error *err);
/* Serve until SIGTERM or SIGINT, then end what runs within 2 s. */
int front_run(struct front *f, struct error *err);
void front_close(struct front *f);

/* Open a model's file for tokenizing and templates; on failure m->text says why and all else is
 * empty. A chat template that cannot be used leaves m->template NULL, with the reason in m->text.
 */
void front_model_open(struct front_model *m, const struct config_model *config);
void front_model_close(struct front_model *m);
/* The longest sequence that a model takes: its own limit, and that of the instances' memory where
 * their engines have told. */
uint32_t front_context(const struct front *f, uint32_t model);

/* A database job of the front: run() in the writer, then done() in the loop when it is durable.
 * Embed as first member, malloc; front frees it after done() (which may be NULL). */
struct front_job {
    struct writer_job job;
    void (*done)(struct front *f, struct front_job *job);
};
void front_write(struct front *f, struct front_job *job,
                 int (*run)(struct db *, struct writer_job *, struct error *),
                 void (*done)(struct front *, struct front_job *));

/* --- front_tier.c: the host tier's beginning --- */
struct front_tier { /* what the database knows of it */
    struct db_segment *segments;
    struct db_source *sources;
    size_t segment_count, source_count;
};
/* What is pinned must fit: INVALID says by how much it does not. */
int front_check_pins(const struct front *f, struct error *err);
/* Before the writer owns the database; and after, from what was read. */
int front_tier_read(struct front_tier *t, struct db *db, struct error *err);
int front_tier_open(struct front *f, const struct front_tier *rows, struct error *err);
void front_tier_free(struct front_tier *t);
/* --- front_cost.c --- */
/* A COST event into the database. */
void front_cost_write(struct front *f, const struct policy_cost *c);
struct front_costs { /* what an earlier life has measured */
    struct policy_cost *costs;
    size_t count;
};
/* Before the writer owns the database; and after, to the policy thread.  The caller frees costs. */
int front_cost_read(const struct front *f, struct front_costs *costs, struct db *db,
                    struct error *err);
void front_cost_teach(struct front *f, const struct front_costs *costs);

/* --- http.c: OpenAI's API, /health, /metrics --- */
struct http *http_create(struct front *f, int tcp_fd, int unix_fd, struct error *err);
void http_destroy(struct http *h);
/* A TOKENS, LOGPROBS or DONE event. */
void http_policy_event(struct http *h, const struct policy_event *ev);
/* Requests in flight and held back, for status. */
void http_counts(const struct http *h, uint32_t *running, uint32_t *held);
/* The grant has ended (step over, lease over): cancel its requests; they are answered 401. */
void http_grant_ended(struct http *h, const struct grant *g);
/* The lease's account has become known: its requests are that tenant's. */
void http_lease_identified(struct http *h, const struct lease *lease);
struct http_waiting { /* a request that waits to begin */
    const struct grant *grant;
    uint32_t model;
    int64_t arrived_us; /* monotonic */
    const char *why;
};
void http_each_waiting(const struct http *h, void (*each)(const struct http_waiting *, void *),
                       void *arg);
/* Accept no more, cancel what runs; idle(arg) is called, perhaps at once, when all has ended. */
void http_stop(struct http *h, void (*idle)(void *arg), void *arg);

/* --- control.c: the control socket --- */
struct control *control_create(struct front *f, int listen_fd, struct error *err);
void control_destroy(struct control *c);
/* A REPLY event to a command that control sent. */
void control_policy_reply(struct control *c, const struct policy_event *ev);

/* --- lease.c and slurm.c --- */
/* Reads or makes the secret, restores live leases and grants from db (which nobody else uses yet).
 */
struct leases *leases_create(struct front *f, struct db *db, struct error *err);
void leases_destroy(struct leases *l);

#endif
