# The chat template's tests.
check_PROGRAMS += \
    tests/unit/template_real_test \
    tests/unit/template_test
TESTS += \
    tests/unit/template_real_test \
    tests/unit/template_test

tests_unit_template_real_test_SOURCES = tests/unit/template_real_test.c
tests_unit_template_real_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(CRYPTO_LIBS) \
    $(JANSSON_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm

tests_unit_template_test_SOURCES = tests/unit/template_test.c
tests_unit_template_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm
