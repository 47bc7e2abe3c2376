# common: knows nobody
noinst_LIBRARIES += common/libcommon.a
common_libcommon_a_SOURCES = \
    common/checksum.c \
    common/checksum.h \
    common/client.c \
    common/client.h \
    common/clock.c \
    common/clock.h \
    common/config.c \
    common/config.h \
    common/config_line.c \
    common/config_line.h \
    common/config_value.c \
    common/error.c \
    common/error.h \
    common/futex.c \
    common/futex.h \
    common/log.c \
    common/log.h \
    common/order.h \
    common/segment.c \
    common/segment.h \
    common/wire.c \
    common/wire.h

check_PROGRAMS += tests/unit/config_test tests/unit/segment_test tests/unit/wire_test
TESTS += tests/unit/config_test tests/unit/segment_test tests/unit/wire_test
tests_unit_config_test_SOURCES = tests/unit/config_test.c
tests_unit_config_test_LDADD = common/libcommon.a $(CMOCKA_LIBS)
tests_unit_segment_test_SOURCES = tests/unit/segment_test.c
tests_unit_segment_test_LDADD = common/libcommon.a $(CMOCKA_LIBS)
tests_unit_wire_test_SOURCES = tests/unit/wire_test.c
tests_unit_wire_test_LDADD = common/libcommon.a $(CMOCKA_LIBS) -lpthread
