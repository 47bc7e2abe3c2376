noinst_LIBRARIES += sched/libsched.a
sched_libsched_a_SOURCES = \
	sched/admit.c \
	sched/aegaeon.c \
	sched/cost.c \
	sched/cost.h \
	sched/dispatch.c \
	sched/fcfs.c \
	sched/group.c \
	sched/rr.c \
	sched/sched.c \
	sched/sched.h \
	sched/sequence.c \
	sched/slack.c \
	sched/slot.c \
	sched/state.h \
	sched/tenant.c

check_PROGRAMS += tests/unit/sched_test
TESTS += tests/unit/sched_test
tests_unit_sched_test_SOURCES = tests/unit/sched_test.c
tests_unit_sched_test_LDADD = sched/libsched.a common/libcommon.a $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/sched_property_test
TESTS += tests/unit/sched_property_test
tests_unit_sched_property_test_SOURCES = tests/unit/sched_property_test.c
tests_unit_sched_property_test_LDADD = sched/libsched.a common/libcommon.a $(CMOCKA_LIBS)

check_PROGRAMS += tests/unit/sched_policy_test
TESTS += tests/unit/sched_policy_test
tests_unit_sched_policy_test_SOURCES = tests/unit/sched_policy_test.c
tests_unit_sched_policy_test_LDADD = sched/libsched.a common/libcommon.a $(CMOCKA_LIBS) -lm

check_PROGRAMS += tests/unit/sched_dispatch_test
TESTS += tests/unit/sched_dispatch_test
tests_unit_sched_dispatch_test_SOURCES = tests/unit/sched_dispatch_test.c
tests_unit_sched_dispatch_test_LDADD = sched/libsched.a common/libcommon.a $(CMOCKA_LIBS)
