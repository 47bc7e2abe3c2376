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
    cli/libcli.a model/libmodel.a common/libcommon.a \
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
