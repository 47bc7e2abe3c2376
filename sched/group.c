/* group.c - queues of groups: sequences of one model that are served together */
#include <stdlib.h>

#include "sched/state.h"

int group_join(struct sched *s, struct sched_entry *e, struct sched_group *g)
{
    struct sched_instance *in = &s->instances[e->slot->instance];

    if (g == NULL) {
        g = calloc(1, sizeof *g);
        if (g == NULL)
            return -1;
        g->model = e->slot->model;
        if (in->groups_last != NULL)
            in->groups_last->next = g;
        else
            in->groups = g;
        in->groups_last = g;
    }
    g->admitted++;
    g->left++;
    e->group = g;
    return 0;
}

void group_leave(struct sched *s, struct sched_entry *e)
{
    struct sched_instance *in = &s->instances[e->slot->instance];
    struct sched_group *g = e->group, **link = &in->groups, *before = NULL;

    if (g == NULL)
        return;
    e->group = NULL;
    if (--g->left > 0)
        return;
    while (*link != g) {
        before = *link;
        link = &(*link)->next;
    }
    *link = g->next;
    if (in->groups_last == g)
        in->groups_last = before;
    free(g);
}
