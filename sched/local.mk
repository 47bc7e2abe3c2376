noinst_LIBRARIES += sched/libsched.a
sched_libsched_a_SOURCES = \
	sched/rr.c \
	sched/sched.c \
	sched/sched.h \
	sched/state.h

check_PROGRAMS += tests/unit/sched_test
TESTS += tests/unit/sched_test
tests_unit_sched_test_SOURCES = tests/unit/sched_test.c
tests_unit_sched_test_LDADD = sched/libsched.a common/libcommon.a $(CMOCKA_LIBS)
