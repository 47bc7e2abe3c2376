/*
 * lease_rig.h - what leases and the control socket stand on, for their tests
 *
 * A real database in a folder of its own and a configuration of three models; policy, http and the
 * writer's queue are replaced at link time: a database job runs at once and is done in the loop.
 */
#ifndef MP_TESTS_LEASE_RIG_H
#define MP_TESTS_LEASE_RIG_H

#include "daemon/front.h"

enum { ALPHA, BETA, GAMMA, RIG_MODELS }; /* beta is for accounts bio and chem alone */

#define RIG_TENANTS 8

struct rig {
    struct front f;
    struct config config;
    struct config_model models[RIG_MODELS];
    struct config_instance instances[1];
    struct config_slo slos[2];
    struct config_tenant tenants[3];
    struct db *db;
    char dir[64], db_path[128], bin[96];

    /* what policy says */
    char instance_state[16], failure[64];
    int known[RIG_MODELS], ok[RIG_MODELS];
    int preparing; /* BETA's master copy */

    /* what was called */
    int grants_ended;
    int64_t last_ended;
    enum policy_command command;
    uint32_t target;
    uint64_t tag;
    int commands;
    int identified;
    double shares[RIG_TENANTS];  /* as the policy was told */
    const struct grant *waiting; /* of the one request that waits; NULL: none does */
    int write_fails;             /* database jobs fail with "disk full" */
};

extern struct rig *rig; /* the fakes' */

int rig_set_up(void **state);
int rig_tear_down(void **state);
/* The daemon goes and comes again: leases are read back. */
void rig_restart(void);
/* A script for squeue. */
void rig_squeue(const char *script);
/* Run the loop until *flag, or for at most ms. */
void rig_loop_until(const int *flag, int ms);
void rig_loop(int ms);

#endif
