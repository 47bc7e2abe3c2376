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
    const struct config *config;
    struct policy *policy;
    struct writer *writer;
    struct journal *journal;
    struct leases *leases;
    struct control *control;
    struct http *http;
    struct mailbox *events;  /* policy events, taken by front.c and routed */
    struct mailbox *written; /* finished front_jobs */
    struct front_model *models; /* [config->model_count] */
    char base_url[128];      /* "http://127.0.0.1:811/v1": what jobs get as OPENAI_BASE_URL */
    char http_socket[512];   /* path of the Unix socket that speaks HTTP */
    int64_t started_us;      /* wall */
};

/* A database job of the front: run() in the writer, then done() in the loop when it is durable.
 * Embed as first member, malloc; front frees it after done() (which may be NULL). */
struct front_job {
    struct writer_job job;
    void (*done)(struct front *f, struct front_job *job);
};
void front_write(struct front *f, struct front_job *job,
                 int (*run)(struct db *, struct writer_job *, struct error *),
                 void (*done)(struct front *, struct front_job *));

/* --- http.c: OpenAI's API, /health, /metrics --- */
struct http *http_create(struct front *f, int tcp_fd, int unix_fd, struct error *err);
void http_destroy(struct http *h);
/* A TOKENS or DONE event. */
void http_policy_event(struct http *h, const struct policy_event *ev);
/* Requests in flight and held back, for status. */
void http_counts(const struct http *h, uint32_t *running, uint32_t *held);
/* The grant has ended (step over, lease over): cancel its requests; they are answered 401. */
void http_grant_ended(struct http *h, const struct grant *g);

/* --- control.c: the control socket --- */
struct control *control_create(struct front *f, int listen_fd, struct error *err);
void control_destroy(struct control *c);
/* A REPLY event to a command that control sent. */
void control_policy_reply(struct control *c, const struct policy_event *ev);

/* --- lease.c and slurm.c --- */
/* Reads or makes the secret, restores live leases and grants from db (which nobody else uses yet). */
struct leases *leases_create(struct front *f, struct db *db, struct error *err);
void leases_destroy(struct leases *l);

#endif
