# model: file formats, the architecture table, tokenizer, chat template
noinst_LIBRARIES += model/libmodel.a
model_libmodel_a_SOURCES = \
    model/arch.c \
    model/arch.h \
    model/bpe.c \
    model/bpe.h \
    model/detokenizer.c \
    model/ggml_type.c \
    model/ggml_type.h \
    model/gguf.c \
    model/gguf.h \
    model/gguf_metadata.c \
    model/gguf_metadata.h \
    model/pretokenizer.c \
    model/pretokenizer.h \
    model/template.c \
    model/template.h \
    model/template_call.c \
    model/template_eval.c \
    model/template_eval.h \
    model/template_evaluate.c \
    model/template_expression.c \
    model/template_filters.c \
    model/template_internal.h \
    model/template_lexer.c \
    model/template_methods.c \
    model/template_operators.c \
    model/template_parser.c \
    model/template_sequences.c \
    model/template_string.c \
    model/template_tests.c \
    model/template_text.c \
    model/template_value.c \
    model/tokenizer.c \
    model/tokenizer.h \
    model/utf8.c \
    model/utf8.h \
    model/vocabulary.c \
    model/vocabulary.h

check_PROGRAMS += \
    tests/unit/arch_test \
    tests/unit/gguf_test \
    tests/unit/tokenizer_test
TESTS += \
    tests/unit/arch_test \
    tests/unit/gguf_test \
    tests/unit/tokenizer_test

tests_unit_arch_test_SOURCES = \
    tests/unit/arch_test.c \
    tests/unit/gguf_builder.c \
    tests/unit/gguf_builder.h
tests_unit_arch_test_LDADD = \
    model/libmodel.a \
    kernels/libkernels.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(HWLOC_LIBS) \
    $(PCRE2_LIBS) \
    -lm -lpthread

# The map ends with the file, so that a sanitizer sees what is read behind it.
tests_unit_gguf_test_SOURCES = \
    tests/unit/exact_map.c \
    tests/unit/gguf_builder.c \
    tests/unit/gguf_builder.h \
    tests/unit/gguf_test.c
tests_unit_gguf_test_LDFLAGS = -Wl,--wrap=mmap -Wl,--wrap=munmap
tests_unit_gguf_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(PCRE2_LIBS) \
    -lm

tests_unit_tokenizer_test_SOURCES = \
    tests/unit/gguf_builder.c \
    tests/unit/gguf_builder.h \
    tests/unit/tokenizer_test.c
tests_unit_tokenizer_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    -lm
