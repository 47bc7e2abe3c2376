# The chat template's tests.
check_PROGRAMS += tests/unit/template_test
TESTS += tests/unit/template_test

tests_unit_template_test_SOURCES = tests/unit/template_test.c
tests_unit_template_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm

EXTRA_DIST += \
    tests/fuzz/template_fuzz.c \
    tests/golden/template/cases.json \
    tests/golden/template/remake.py \
    tests/golden/template/templates/chatml.jinja \
    tests/golden/template/templates/deepseek_r1.jinja \
    tests/golden/template/templates/gemma.jinja \
    tests/golden/template/templates/gemma3.jinja \
    tests/golden/template/templates/granite3.jinja \
    tests/golden/template/templates/llama2.jinja \
    tests/golden/template/templates/llama3.jinja \
    tests/golden/template/templates/llama31.jinja \
    tests/golden/template/templates/macros.jinja \
    tests/golden/template/templates/mistral.jinja \
    tests/golden/template/templates/mistral_nemo.jinja \
    tests/golden/template/templates/olmo2.jinja \
    tests/golden/template/templates/phi3.jinja \
    tests/golden/template/templates/phi4_mini.jinja \
    tests/golden/template/templates/qwen25.jinja \
    tests/golden/template/templates/qwen3.jinja \
    tests/golden/template/templates/smollm2.jinja \
    tests/golden/template/templates/smollm3.jinja
