# db: SQLite; the only room with sqlite3.h
noinst_LIBRARIES += db/libdb.a
db_libdb_a_SOURCES = \
    db/cost.c \
    db/db.c \
    db/db.h \
    db/internal.h \
    db/journal.c \
    db/journal.h \
    db/lease.c \
    db/placement.c \
    db/usage.c

check_PROGRAMS += \
    tests/unit/db_sums_test \
    tests/unit/db_test \
    tests/unit/journal_test
TESTS += \
    tests/unit/db_sums_test \
    tests/unit/db_test \
    tests/unit/journal_test
DB_BENCH = tests/unit/db_bench.c tests/unit/db_bench.h
tests_unit_db_sums_test_SOURCES = tests/unit/db_sums_test.c $(DB_BENCH)
tests_unit_db_sums_test_LDADD = db/libdb.a common/libcommon.a $(SQLITE_LIBS) $(CMOCKA_LIBS)
tests_unit_db_test_SOURCES = tests/unit/db_test.c $(DB_BENCH)
tests_unit_db_test_LDADD = db/libdb.a common/libcommon.a $(SQLITE_LIBS) $(CMOCKA_LIBS)
tests_unit_journal_test_SOURCES = tests/unit/journal_test.c
tests_unit_journal_test_LDADD = db/libdb.a common/libcommon.a $(CMOCKA_LIBS)
