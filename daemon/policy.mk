# The policy thread, the writer thread and mailboxes
noinst_LIBRARIES += daemon/libpolicy.a
daemon_libpolicy_a_SOURCES = \
    daemon/cost_fit.c \
    daemon/cost_fit.h \
    daemon/engine_link.c \
    daemon/engine_link.h \
    daemon/mailbox.c \
    daemon/mailbox.h \
    daemon/policy.c \
    daemon/policy.h \
    daemon/policy_admit.c \
    daemon/policy_calibrate.c \
    daemon/policy_command.c \
    daemon/policy_cost.c \
    daemon/policy_engine.c \
    daemon/policy_event.c \
    daemon/policy_sequence.c \
    daemon/policy_snapshot.c \
    daemon/policy_swap.c \
    daemon/policy_state.h \
    daemon/policy_tier.c \
    daemon/policy_turn.c \
    daemon/supervisor.c \
    daemon/supervisor.h \
    daemon/tier.c \
    daemon/tier.h \
    daemon/tier_place.c \
    daemon/tier_source.c \
    daemon/tier_state.h \
    daemon/writer.c \
    daemon/writer.h

check_PROGRAMS += \
    tests/tools/fake_engine \
    tests/unit/cost_fit_test \
    tests/unit/engine_link_test \
    tests/unit/mailbox_test \
    tests/unit/policy_admit_test \
    tests/unit/policy_calibrate_test \
    tests/unit/policy_death_test \
    tests/unit/policy_engine_test \
    tests/unit/policy_test \
    tests/unit/tier_test \
    tests/unit/writer_test
TESTS += \
    tests/unit/cost_fit_test \
    tests/unit/engine_link_test \
    tests/unit/mailbox_test \
    tests/unit/policy_admit_test \
    tests/unit/policy_calibrate_test \
    tests/unit/policy_death_test \
    tests/unit/policy_engine_test \
    tests/unit/policy_test \
    tests/unit/tier_test \
    tests/unit/writer_test

tests_tools_fake_engine_SOURCES = tests/tools/fake_engine.c tests/tools/fake_engine.h
tests_tools_fake_engine_LDADD = common/libcommon.a
tests_unit_cost_fit_test_SOURCES = tests/unit/cost_fit_test.c
tests_unit_cost_fit_test_LDADD = daemon/libpolicy.a $(CMOCKA_LIBS) -lm
tests_unit_engine_link_test_SOURCES = tests/unit/engine_link_test.c
tests_unit_engine_link_test_LDADD = \
    daemon/libpolicy.a common/libcommon.a $(CMOCKA_LIBS) $(EVENT_LIBS) -lpthread
tests_unit_mailbox_test_SOURCES = tests/unit/mailbox_test.c
tests_unit_mailbox_test_LDADD = daemon/libpolicy.a common/libcommon.a $(CMOCKA_LIBS) -lpthread
POLICY_TEST_LIBS = \
    daemon/libpolicy.a sched/libsched.a model/libmodel.a common/libcommon.a \
    $(CMOCKA_LIBS) $(EVENT_LIBS) $(JANSSON_LIBS) -lm -lpthread
POLICY_BENCH = \
    tests/tools/fake_engine.h \
    tests/unit/policy_bench.c \
    tests/unit/policy_bench.h
tests_unit_policy_admit_test_SOURCES = tests/unit/policy_admit_test.c $(POLICY_BENCH)
tests_unit_policy_admit_test_LDADD = $(POLICY_TEST_LIBS)
tests_unit_policy_calibrate_test_SOURCES = tests/unit/policy_calibrate_test.c $(POLICY_BENCH)
tests_unit_policy_calibrate_test_LDADD = $(POLICY_TEST_LIBS) -lm
tests_unit_policy_death_test_SOURCES = tests/unit/policy_death_test.c $(POLICY_BENCH)
tests_unit_policy_death_test_LDADD = $(POLICY_TEST_LIBS)
tests_unit_policy_engine_test_SOURCES = tests/unit/policy_engine_test.c
tests_unit_policy_engine_test_LDADD = $(POLICY_TEST_LIBS)
tests_unit_policy_test_SOURCES = tests/unit/policy_test.c $(POLICY_BENCH)
tests_unit_policy_test_LDADD = $(POLICY_TEST_LIBS)
tests_unit_tier_test_SOURCES = tests/unit/tier_test.c
tests_unit_tier_test_LDADD = daemon/libpolicy.a common/libcommon.a $(CMOCKA_LIBS) -lpthread
tests_unit_writer_test_SOURCES = tests/unit/writer_test.c
tests_unit_writer_test_LDADD = \
    daemon/libpolicy.a db/libdb.a common/libcommon.a \
    $(CMOCKA_LIBS) $(SQLITE_LIBS) -lpthread
