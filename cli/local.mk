# cli: modelpool; everything but main is a library, which its tests link
noinst_LIBRARIES += cli/libcli.a
cli_libcli_a_SOURCES = \
    cli/acct.c \
    cli/acct.h \
    cli/acct_field.c \
    cli/bench.c \
    cli/cli.h \
    cli/config.c \
    cli/connect.c \
    cli/inspect.c \
    cli/list.c \
    cli/load.c \
    cli/model_report.c \
    cli/model_report.h \
    cli/run.c \
    cli/serve.c \
    cli/serve.h \
    cli/serve_client.c \
    cli/serve_costs.c \
    cli/serve_options.c \
    cli/serve_pool.c \
    cli/serve_private.c \
    cli/serve_report.c \
    cli/serve_token.c \
    cli/sim.c \
    cli/sim.h \
    cli/sim_burst.c \
    cli/sim_command.h \
    cli/sim_device.c \
    cli/sim_growth.c \
    cli/sim_host.c \
    cli/sim_memory.c \
    cli/sim_paper.c \
    cli/sim_plot.c \
    cli/sim_random.c \
    cli/sim_report.c \
    cli/sim_run.c \
    cli/sim_segment.c \
    cli/sim_state.h \
    cli/sim_sum.c \
    cli/sim_trace.c \
    cli/sim_workload.c \
    cli/status.c \
    cli/stream.c \
    cli/stream.h \
    cli/table.c \
    cli/table.h \
    cli/time.c \
    cli/time.h

bin_PROGRAMS += cli/modelpool
cli_modelpool_SOURCES = cli/main.c
cli_modelpool_LDADD = \
    cli/libcli.a sched/libsched.a model/libmodel.a common/libcommon.a \
    $(EVENT_LIBS) $(JANSSON_LIBS) $(PCRE2_LIBS) $(UTF8PROC_LIBS) -lm

check_PROGRAMS += \
    tests/unit/acct_time_test \
    tests/unit/cli_text_test
TESTS += \
    tests/unit/acct_time_test \
    tests/unit/cli_text_test
tests_unit_acct_time_test_SOURCES = tests/unit/acct_time_test.c
tests_unit_acct_time_test_LDADD = cli/libcli.a common/libcommon.a $(CMOCKA_LIBS)
tests_unit_cli_text_test_SOURCES = tests/unit/cli_text_test.c
tests_unit_cli_text_test_LDADD = \
    cli/libcli.a common/libcommon.a $(CMOCKA_LIBS) $(EVENT_LIBS) $(JANSSON_LIBS)

check_PROGRAMS += tests/unit/sim_burst_test
TESTS += tests/unit/sim_burst_test
tests_unit_sim_burst_test_SOURCES = tests/unit/sim_burst_test.c
tests_unit_sim_burst_test_LDADD = \
    cli/libcli.a sched/libsched.a common/libcommon.a $(CMOCKA_LIBS) -lm

check_PROGRAMS += tests/unit/sim_test
TESTS += tests/unit/sim_test
tests_unit_sim_test_SOURCES = tests/unit/sim_test.c
tests_unit_sim_test_LDADD = \
    cli/libcli.a sched/libsched.a common/libcommon.a $(CMOCKA_LIBS) -lm

check_PROGRAMS += tests/unit/serve_test
TESTS += tests/unit/serve_test
tests_unit_serve_test_SOURCES = tests/unit/serve_test.c
tests_unit_serve_test_LDADD = \
    cli/libcli.a sched/libsched.a common/libcommon.a \
    $(CMOCKA_LIBS) $(EVENT_LIBS) $(JANSSON_LIBS) -lm -lpthread
