# model: file formats, the architecture table, tokenizer, chat template
include model/template.mk
noinst_LIBRARIES += model/libmodel.a
model_libmodel_a_SOURCES = \
    model/added.c \
    model/added.h \
    model/arch.c \
    model/arch.h \
    model/arch_config.c \
    model/arch_config.h \
    model/arch_config_rope.c \
    model/arch_gguf.c \
    model/arch_rope.c \
    model/bpe.c \
    model/bpe.h \
    model/bytes.c \
    model/bytes.h \
    model/detokenizer.c \
    model/family.c \
    model/family.h \
    model/ggml_type.c \
    model/ggml_type.h \
    model/gguf.c \
    model/gguf.h \
    model/gguf_metadata.c \
    model/gguf_metadata.h \
    model/json_member.c \
    model/json_member.h \
    model/normalizer.c \
    model/normalizer.h \
    model/pretokenizer.c \
    model/pretokenizer.h \
    model/pretokenizer_family.c \
    model/quantization.c \
    model/quantization.h \
    model/regex.c \
    model/regex.h \
    model/safetensors.c \
    model/safetensors.h \
    model/source.c \
    model/source.h \
    model/source_files.c \
    model/source_internal.h \
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
    model/token_entries.c \
    model/token_entries.h \
    model/tokenizer.c \
    model/tokenizer.h \
    model/tokenizer_decoder.c \
    model/tokenizer_gguf.c \
    model/tokenizer_json.c \
    model/tokenizer_parts.h \
    model/tokenizer_ranks.c \
    model/tokenizer_sentencepiece.c \
    model/unigram.c \
    model/unigram.h \
    model/utf8.c \
    model/utf8.h \
    model/vocabulary.c \
    model/vocabulary.h

check_PROGRAMS += \
    tests/tools/tokenize \
    tests/unit/arch_config_test \
    tests/unit/arch_test \
    tests/unit/gguf_test \
    tests/unit/quantization_test \
    tests/unit/safetensors_test \
    tests/unit/source_test \
    tests/unit/tokenizer_family_test \
    tests/unit/tokenizer_json_test \
    tests/unit/tokenizer_test \
    tests/unit/tokenizer_vocabulary_test \
    tests/unit/vocabularies_test
TESTS += \
    tests/unit/arch_config_test \
    tests/unit/arch_test \
    tests/unit/gguf_test \
    tests/unit/quantization_test \
    tests/unit/safetensors_test \
    tests/unit/source_test \
    tests/unit/tokenizer_family_test \
    tests/unit/tokenizer_json_test \
    tests/unit/tokenizer_test \
    tests/unit/tokenizer_vocabulary_test \
    tests/unit/vocabularies_test

tests_tools_tokenize_SOURCES = tests/tools/tokenize.c
tests_tools_tokenize_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm

tests_unit_arch_config_test_SOURCES = tests/unit/arch_config_test.c
tests_unit_arch_config_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    -lm

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
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    $(UTF8PROC_LIBS) \
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
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm

tests_unit_quantization_test_SOURCES = \
    tests/unit/checkpoint_folder.c \
    tests/unit/checkpoint_folder.h \
    tests/unit/quantization_test.c
tests_unit_quantization_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    -lm

tests_unit_safetensors_test_SOURCES = \
    tests/unit/checkpoint_folder.c \
    tests/unit/checkpoint_folder.h \
    tests/unit/safetensors_test.c
tests_unit_safetensors_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    -lm

tests_unit_source_test_SOURCES = \
    tests/unit/checkpoint_folder.c \
    tests/unit/checkpoint_folder.h \
    tests/unit/gguf_builder.c \
    tests/unit/gguf_builder.h \
    tests/unit/source_test.c
tests_unit_source_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    -lm

tests_unit_tokenizer_family_test_SOURCES = \
    tests/unit/gguf_builder.c \
    tests/unit/gguf_builder.h \
    tests/unit/tokenizer_family_test.c
tests_unit_tokenizer_family_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm

tests_unit_tokenizer_json_test_SOURCES = \
    tests/unit/gguf_builder.c \
    tests/unit/gguf_builder.h \
    tests/unit/tokenizer_json_test.c
tests_unit_tokenizer_json_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    $(UTF8PROC_LIBS) \
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
    $(UTF8PROC_LIBS) \
    -lm

tests_unit_tokenizer_vocabulary_test_SOURCES = \
    tests/unit/checkpoint_folder.c \
    tests/unit/checkpoint_folder.h \
    tests/unit/tokenizer_vocabulary_test.c
tests_unit_tokenizer_vocabulary_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm

tests_unit_vocabularies_test_SOURCES = tests/unit/vocabularies_test.c
tests_unit_vocabularies_test_LDADD = \
    model/libmodel.a \
    common/libcommon.a \
    $(CMOCKA_LIBS) \
    $(JANSSON_LIBS) \
    $(PCRE2_LIBS) \
    $(UTF8PROC_LIBS) \
    -lm
