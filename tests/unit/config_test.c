/* modelpool.conf: what is right is read, what is wrong is named with its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/config.h"

static char dir[] = "/tmp/config-test-XXXXXX";

static const char *put(const char *name, const char *text)
{
    static char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    return path;
}

#define GOOD "Model=a Path=/m/a.gguf\nInstance=cpu Device=cpu Memory=256M\n"

static void a_whole_file(void **state)
{
    (void)state;
    struct error err = {0};
    put("more.conf", "SLO=fast TTFT=500ms TBT=0.05\n");
    struct config *c = config_read(put("modelpool.conf",
                                       "# a pool\n"
                                       "clustername=t Listen=127.0.0.1:8000   # two on a line\n"
                                       "Model=a Path=\"/m/with blank # and hash.gguf\" \\\n"
                                       "    MaxContext=2048 AllowAccounts=chem,bio\n"
                                       "Model=b Path=/m/b.gguf\n"
                                       "Include more.conf\n"
                                       "Instance=cpu Device=cpu Memory=1G Threads=2 Nodes=n1,n2\n"
                                       "Instance=true Device=cpu Memory=1G Precision=Exact\n"
                                       "Instance=gpu Device=cuda Memory=1G Deterministic=YES\n"
                                       "LocalUsers=no Identity=none TurnTime=100ms\n"
                                       "SharePrefixes=All SwapSpace=2G\n"),
                                   "n2", &err);
    assert_non_null(c);
    assert_string_equal(c->cluster, "t");
    assert_string_equal(c->node, "n2");
    assert_int_equal(c->model_count, 2);
    assert_int_equal(c->share_prefixes, SHARE_ALL);
    assert_true(c->swap_space == 2ull << 30);
    assert_string_equal(c->models[0].path, "/m/with blank # and hash.gguf");
    assert_int_equal(c->models[0].max_context, 2048);
    assert_string_equal(c->models[0].allow_accounts, "chem,bio");
    assert_null(c->models[1].allow_accounts);
    assert_true(c->instances[0].memory_bytes == 1ull << 30);
    assert_int_equal(c->instances[0].threads, 2);
    assert_int_equal(c->instances[0].max_batch, 32);
    assert_int_equal(c->instances[0].precision, ORDER_FAST);
    assert_int_equal(c->instances[1].precision, ORDER_EXACT);
    assert_int_equal(c->instances[1].deterministic, 0);
    assert_int_equal(c->instances[2].deterministic, 1);
    assert_string_equal(c->instances[0].nodes, "n1,n2");
    assert_true(config_find_slo(c, "fast")->ttft_us == 500000);
    assert_true(config_find_slo(c, "fast")->tbt_us == 50000);
    assert_null(config_find_slo(c, "slow"));
    assert_int_equal(c->local_users, 0);
    assert_int_equal(c->identity, IDENTITY_NONE);
    assert_true(c->turn_us == 100000);
    config_destroy(c);
}

static void what_may_change_while_it_runs(void **state)
{
    static const char tail[] = "Instance=cpu Device=cpu Memory=256M\n";
    char text[512];
    struct error err = {0};

    (void)state;
    snprintf(text, sizeof text,
             "Model=a Path=/a AllowAccounts=x\nModel=b Path=/b\nSlo=s TTFT=1 TBT=1\n%s", tail);
    struct config *c = config_read(put("modelpool.conf", text), "n", &err);
    assert_non_null(c);
    snprintf(text, sizeof text,
             "Model=new Path=/new\nModel=b Path=/other AllowAccounts=y,z\nModel=a Path=/a\n"
             "Slo=s TTFT=2 TBT=1\nSlo=t TTFT=1 TBT=1\nWaitMax=5s Listen=127.0.0.1:9\n%s",
             tail);
    struct config *fresh = config_read(put("modelpool.conf", text), "n", &err);
    assert_non_null(fresh);
    config_apply(c, fresh);
    config_destroy(fresh);
    assert_int_equal(c->model_count, 2);
    assert_null(c->models[0].allow_accounts);
    assert_string_equal(c->models[1].allow_accounts, "y,z");
    assert_string_equal(c->models[1].path, "/b");
    assert_true(config_find_slo(c, "s")->ttft_us == 2000000);
    assert_non_null(config_find_slo(c, "t"));
    assert_true(c->wait_max_us == 5000000);
    assert_string_equal(c->listen, "127.0.0.1:811");
    snprintf(text, sizeof text, "Model=b Path=/b\nIdentity=none\n%s", tail);
    fresh = config_read(put("modelpool.conf", text), "n", &err);
    assert_non_null(fresh);
    config_apply(c, fresh);
    config_destroy(fresh);
    assert_string_equal(c->models[1].allow_accounts, "y,z"); /* known by what is gone */
    assert_int_equal(c->slo_count, 0);
    config_destroy(c);
}

/* Master copies: only those who ask have them where there is no GPU. */
static void host_cache(void **state)
{
    const struct {
        const char *lines;
        int none;
        enum config_pin pin;
    } cases[] = {
        {"", 1, PIN_NONE},
        {"Instance=g Device=cuda Memory=1G\n", 0, PIN_NONE},
        {"Instance=g Device=cuda Memory=1G Nodes=other\n", 1, PIN_NONE},
        {"HostCache=1G\nModel=b Path=/b Pin=Host\n", 0, PIN_HOST},
        {"Instance=g Device=cuda Memory=1G\nModel=b Path=/b Pin=host\n", 0, PIN_HOST},
        {"HostCache=0\nModel=b Path=/b Pin=gpu\n", 1, PIN_GPU},
        {"Instance=g Device=cuda Memory=1G\nHostCache=0\n", 1, PIN_NONE},
    };
    char text[512];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};

        snprintf(text, sizeof text, GOOD "%s", cases[i].lines);
        struct config *c = config_read(put("modelpool.conf", text), "here", &err);
        if (!c)
            fail_msg("%s", err.text);
        assert_int_equal(c->host_cache == 0, cases[i].none);
        assert_int_equal(c->models[c->model_count - 1].pin, cases[i].pin);
        assert_null(c->host_cache_dir);
        config_destroy(c);
    }
}

static void tenants_have_lines_or_the_default(void **state)
{
    (void)state;
    struct error err = {0};
    struct config *c = config_read(put("modelpool.conf", GOOD
                                       "Tenant=physics Share=2.5 TokensPerDay=20M MaxRequests=8\n"
                                       "Tenant=default TokensPerDay=500k\nTenant=x.y-z Share=3\n"),
                                   "n", &err);
    assert_non_null(c);
    const struct config_tenant *t = config_find_tenant(c, "Physics");
    assert_string_equal(t->name, "physics");
    assert_true(t->share > 2.49 && t->share < 2.51);
    assert_true(t->tokens_per_day == 20000000);
    assert_int_equal(t->max_requests, 8);
    t = config_find_tenant(c, "x.y-z"); /* the default's limits are not its own */
    assert_true(t->share > 2.9 && t->tokens_per_day == 0 && t->max_requests == 0);
    t = config_find_tenant(c, "bio");
    assert_true(t->share > 0.9 && t->share < 1.1 && t->tokens_per_day == 500000);
    struct config *fresh =
        config_read(put("modelpool.conf", GOOD "Tenant=bio Share=7 MaxRequests=2K\n"), "n", &err);
    assert_non_null(fresh);
    config_apply(c, fresh);
    config_destroy(fresh);
    t = config_find_tenant(c, "bio");
    assert_true(t->share > 6.9 && t->tokens_per_day == 0 && t->max_requests == 2048);
    t = config_find_tenant(c, "physics");
    assert_true(t->share > 0.9 && t->share < 1.1 && t->tokens_per_day == 0);
    assert_string_equal(c->scheduler, "slack");
    assert_int_equal(c->admission, 1);
    config_destroy(c);
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    const struct {
        const char *text, *says;
    } bad[] = {
        {GOOD "Colour=red\n", ":3: unknown key Colour; allowed: Admission, ClusterName, Engine"},
        {GOOD "Model=c Path=/x Size=3\n", "unknown key Size for a Model; allowed: AllowAccounts"},
        {GOOD "Model=a Path=/x\n", ":3: Model=a stands twice"},
        {GOOD "Model=b\n", "Path= is missing for a Model"},
        {GOOD "Model=b Path=rel/x\n", "must be an absolute path"},
        {GOOD "Model=../b Path=/x\n", "begins with a letter or digit"},
        {GOOD "Listen=0.0.0.0:80\n", "127.0.0.0/8"},
        {GOOD "Listen=127.0.0.1\n", "not ADDRESS:PORT"},
        {GOOD "Listen=127.0.0.1:99999\n", "not ADDRESS:PORT"},
        {GOOD "Instance=g Device=tpu Memory=1G\n", "no device \"tpu\"; there are: cpu, cuda"},
        {GOOD "Instance=g Device=cuda Gpus=0-3 Memory=1G\n", "Gpus: \"0-3\" is not the number of"},
        {GOOD "Instance=g Device=cpu Gpus=0 Memory=1G\n", "Gpus= needs Device=cuda"},
        {GOOD "Instance=g Device=cuda Threads=2 Memory=1G\n", "Threads= needs Device=cpu"},
        {GOOD "Instance=g Device=cuda Memory=1G TensorParallel=4\n",
         "TensorParallel=4 with Device=cuda has not been tried yet: at most 2"},
        {GOOD "Instance=g Device=cuda Memory=1G TensorParallel=2 Deterministic=yes\n",
         "Deterministic=yes with TensorParallel=2 has not been tried on GPUs yet"},
        {GOOD "Instance=g Device=cpu Memory=1G TensorParallel=3\n",
         "\"3\" is none of 1, 2, 4 and 8"},
        {GOOD "Instance=g Device=cpu Memory=1G TensorParallel=\n", "TensorParallel"},
        {GOOD "Instance=g Device=cpu Memory=12\n", "not between 16M and 64T"},
        {GOOD "Instance=g Device=cpu Memory=99999999999G\n", "is no size"},
        {GOOD "Instance=g Device=cpu Memory=1G Memory=2G\n", "stands twice on the line"},
        {GOOD "Instance=g Device=cpu Memory=1G Precision=half\n", "neither exact nor fast"},
        {GOOD "Instance=g Device=cuda Memory=1G Deterministic=maybe\n",
         "Deterministic: \"maybe\" is neither yes nor no"},
        {GOOD "Model=b Path=/x Pin=disk\n", "Pin: \"disk\" is neither host nor gpu"},
        {GOOD "Model=b Path=/x Pin=host\n", "Model=b: Pin=host needs HostCache="},
        {GOOD "HostCacheDir=shm\n", "must be an absolute path"},
        {GOOD "Slo=x TTFT=1\n", "TBT= is missing"},
        {GOOD "Slo=x TTFT=nan TBT=1\n", "is no time"},
        {GOOD "Slo=x TTFT=0 TBT=1\n", "above zero"},
        {GOOD "LocalUsers=maybe\n", "neither yes nor no"},
        {GOOD "SharePrefixes=yes\n", "none of tenant, all, no"},
        {GOOD "Scheduler=lottery\n", "there are: slack, aegaeon, rr, fcfs"},
        {GOOD "Scheduler=sjf\n", "sjf knows the future and is for `modelpool sim`"},
        {GOOD "Admission=perhaps\n", "neither yes nor no"},
        {GOOD "Tenant=a Weight=2\n", "for a Tenant; allowed: MaxRequests, Share, TokensPerDay"},
        {GOOD "Tenant=a Share=2\nTenant=A Share=3\n", ":4: Tenant=A stands twice"},
        {GOOD "Tenant=a Share=0\n", "no share above 0"},
        {GOOD "Tenant=a Share=-1\n", "no share above 0"},
        {GOOD "Tenant=a Share=nan\n", "no share above 0"},
        {GOOD "Tenant=a Share=2e9\n", "no share above 0"},
        {GOOD "Tenant=a TokensPerDay=0\n", "no number of tokens"},
        {GOOD "Tenant=a TokensPerDay=5X\n", "no number of tokens"},
        {GOOD "Tenant=a TokensPerDay=5MM\n", "no number of tokens"},
        {GOOD "Tenant=a TokensPerDay=99999999999999999999\n", "no number of tokens"},
        {GOOD "Tenant=a TokensPerDay=999999999999999G\n", "no number of tokens"},
        {GOOD "Tenant=a MaxRequests=0\n", "no number from 1"},
        {GOOD "stray words\n", "is not Key=Value"},
        {GOOD "ClusterName=\"x\n", "is not closed"},
        {GOOD "Include nowhere.conf\n", "nowhere.conf: No such file"},
        {"Include modelpool.conf\n" GOOD, "more than 8 files deep"},
        {"Model=a Path=/m\n", "no Instance= line"},
        {"Instance=cpu Device=cpu Memory=256M\n", "no Model= line"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};
        assert_null(config_read(put("modelpool.conf", bad[i].text), NULL, &err));
        if (!strstr(err.text, bad[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
        assert_non_null(strstr(err.text, "modelpool.conf"));
    }
}

static void values(void **state)
{
    (void)state;
    int64_t a, b;
    uint64_t n;
    assert_int_equal(config_parse_size("3K", &n, NULL), 0);
    assert_true(n == 3072);
    assert_int_equal(config_parse_size("-3", &n, NULL), -1);
    assert_int_equal(config_parse_size("18446744073709551616", &n, NULL), -1);
    assert_int_equal(config_parse_time("1.5m", &a, NULL), 0);
    assert_true(a == 90000000);
    assert_int_equal(config_parse_time("-1", &a, NULL), -1);
    assert_int_equal(config_parse_time("inf", &a, NULL), -1);
    assert_int_equal(config_parse_slo("ttft:2,tbt:100ms", &a, &b, NULL), 0);
    assert_true(a == 2000000 && b == 100000);
    assert_int_equal(config_parse_slo("gold", &a, &b, NULL), 0);
    assert_true(a == 0 && b == 0);
    assert_int_equal(config_parse_slo("ttft:2", &a, &b, NULL), -1);
    assert_int_equal(config_parse_slo("ttft:2,ttft:3", &a, &b, NULL), -1);
    assert_int_equal(config_parse_slo("ttft:0,tbt:1", &a, &b, NULL), -1);
    assert_int_equal(config_check_models("a,b-2,c.3", NULL), 0);
    assert_int_equal(config_check_models("a,,b", NULL), -1);
    assert_int_equal(config_check_models("a,a", NULL), -1);
    assert_int_equal(config_check_models("", NULL), -1);
    assert_int_equal(config_check_models("a;b", NULL), -1);
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    (void)state;
    const char *names[] = {"modelpool.conf", "more.conf"};
    for (int i = 0; i < 2; i++) {
        char path[200];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_file),
        cmocka_unit_test(host_cache),
        cmocka_unit_test(tenants_have_lines_or_the_default),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(what_may_change_while_it_runs),
        cmocka_unit_test(values),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
