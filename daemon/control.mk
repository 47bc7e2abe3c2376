# Tests of keys, leases, questions to Slurm and the control socket; their sources are in libfront.a
check_PROGRAMS += \
    tests/unit/control_test \
    tests/unit/key_test \
    tests/unit/lease_test \
    tests/unit/slurm_test
TESTS += \
    tests/unit/control_test \
    tests/unit/key_test \
    tests/unit/lease_test \
    tests/unit/slurm_test

tests_unit_control_test_SOURCES = \
    tests/unit/control_test.c \
    tests/unit/lease_rig.c \
    tests/unit/lease_rig.h
tests_unit_control_test_LDADD = \
    daemon/libfront.a db/libdb.a common/libcommon.a \
    $(CMOCKA_LIBS) $(CRYPTO_LIBS) $(EVENT_LIBS) $(SQLITE_LIBS) -lpthread
tests_unit_key_test_SOURCES = tests/unit/key_test.c
tests_unit_key_test_LDADD = daemon/libfront.a common/libcommon.a $(CMOCKA_LIBS) $(CRYPTO_LIBS)
tests_unit_lease_test_SOURCES = \
    tests/unit/lease_rig.c \
    tests/unit/lease_rig.h \
    tests/unit/lease_test.c
tests_unit_lease_test_LDADD = \
    daemon/libfront.a db/libdb.a common/libcommon.a \
    $(CMOCKA_LIBS) $(CRYPTO_LIBS) $(EVENT_LIBS) $(SQLITE_LIBS) -lpthread
tests_unit_slurm_test_SOURCES = tests/unit/slurm_test.c
tests_unit_slurm_test_LDADD = daemon/libfront.a common/libcommon.a $(CMOCKA_LIBS) $(EVENT_LIBS)
