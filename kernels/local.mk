# kernels/: operations of a forward pass

noinst_LIBRARIES += kernels/libkernels.a
# No multiply and add may be fused but where the source says so: a result must not depend on which
# copy of a loop the compiler fused.
kernels_libkernels_a_CFLAGS = $(AM_CFLAGS) -ffp-contract=off
kernels_libkernels_a_SOURCES = \
	kernels/collective.c \
	kernels/collective.h \
	kernels/collective_parts.h \
	kernels/cpu/attention_pair_avx512.h \
	kernels/cpu/avx2.c \
	kernels/cpu/avx512.c \
	kernels/cpu/body.h \
	kernels/cpu/body_attention.h \
	kernels/cpu/body_decode.h \
	kernels/cpu/body_matmul.h \
	kernels/cpu/body_row.h \
	kernels/cpu/collective.c \
	kernels/cpu/device.c \
	kernels/cpu/device.h \
	kernels/cpu/isa.h \
	kernels/cpu/lane.c \
	kernels/cpu/memory.c \
	kernels/cpu/move.c \
	kernels/cpu/ops.c \
	kernels/cpu/pool.c \
	kernels/cpu/pool.h \
	kernels/cpu/portable.c \
	kernels/cpu/quantized.c \
	kernels/cpu/quantized.h \
	kernels/cpu/quantized_avx2.c \
	kernels/cpu/quantized_avx512.c \
	kernels/cpu/quantized_avxvnni.c \
	kernels/cpu/quantized_block.h \
	kernels/cpu/quantized_body.h \
	kernels/cpu/quantized_vec_avx2.h \
	kernels/cpu/quantized_vec_avx512.h \
	kernels/cpu/vec_avx2.h \
	kernels/cpu/vec_portable.h \
	kernels/device.h \
	kernels/dispatch.c \
	kernels/dtype.c \
	kernels/kernels.h

# For tests only.
noinst_LIBRARIES += kernels/libreference.a
kernels_libreference_a_SOURCES = \
	kernels/dequantize.c \
	kernels/reference.c \
	kernels/reference.h

KERNELS_TEST_LIBS = \
	kernels/libreference.a \
	kernels/libkernels.a \
	common/libcommon.a \
	$(CMOCKA_LIBS) \
	$(HWLOC_LIBS) \
	-lm -lpthread

check_PROGRAMS += \
	tests/unit/attention_test \
	tests/unit/kernels_test \
	tests/unit/pool_test \
	tests/unit/quantized_test \
	tests/unit/sampler_test
TESTS += \
	tests/unit/attention_test \
	tests/unit/kernels_test \
	tests/unit/pool_test \
	tests/unit/quantized_test \
	tests/unit/sampler_test
EXTRA_DIST += \
	tests/golden/kernels/dequantize.bin \
	tests/golden/kernels/dequantize.py \
	tests/golden/kernels/e4m3.bin \
	tests/golden/kernels/e4m3.py

tests_unit_attention_test_SOURCES = \
	tests/unit/attention_scene.c \
	tests/unit/attention_scene.h \
	tests/unit/attention_test.c \
	tests/unit/kernels_compare.h
tests_unit_attention_test_LDADD = $(KERNELS_TEST_LIBS)

tests_unit_kernels_test_SOURCES = tests/unit/kernels_compare.h tests/unit/kernels_test.c
tests_unit_kernels_test_LDADD = $(KERNELS_TEST_LIBS)

tests_unit_pool_test_SOURCES = tests/unit/pool_test.c
tests_unit_pool_test_LDADD = $(KERNELS_TEST_LIBS)

tests_unit_quantized_test_SOURCES = tests/unit/kernels_compare.h tests/unit/quantized_test.c
tests_unit_quantized_test_LDADD = $(KERNELS_TEST_LIBS)

# The sampler needs nothing of the engine but itself.
tests_unit_sampler_test_SOURCES = \
	engine/sampler.c \
	engine/sampler.h \
	tests/unit/sampler_test.c
tests_unit_sampler_test_LDADD = common/libcommon.a $(CMOCKA_LIBS) -lm
