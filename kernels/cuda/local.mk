# kernels/cuda: the same operations on NVIDIA's GPUs.  The library is there without nvcc, too, and
# refuses then by name.

noinst_LIBRARIES += kernels/libkernels_cuda.a
if HAVE_CUDA
kernels_libkernels_cuda_a_SOURCES = \
	kernels/cuda/alike.cu \
	kernels/cuda/attention.cu \
	kernels/cuda/attention.cuh \
	kernels/cuda/attention_cluster.cu \
	kernels/cuda/attention_decode.cu \
	kernels/cuda/attention_prefill.cu \
	kernels/cuda/attention_run.cuh \
	kernels/cuda/attention_wgmma.cu \
	kernels/cuda/attention_work.cuh \
	kernels/cuda/blas.cu \
	kernels/cuda/blas.cuh \
	kernels/cuda/chosen.cu \
	kernels/cuda/cuda.cuh \
	kernels/cuda/decode.cuh \
	kernels/cuda/device.cu \
	kernels/cuda/embed.cu \
	kernels/cuda/experts.cu \
	kernels/cuda/fused.cu \
	kernels/cuda/graph.cu \
	kernels/cuda/group.cuh \
	kernels/cuda/limits.cu \
	kernels/cuda/limits.cuh \
	kernels/cuda/limits.h \
	kernels/cuda/limits_attention.cu \
	kernels/cuda/limits_gemm.cu \
	kernels/cuda/limits_matmul.cu \
	kernels/cuda/limits_vmm.cu \
	kernels/cuda/lone.cu \
	kernels/cuda/lone.cuh \
	kernels/cuda/lone_types.cuh \
	kernels/cuda/matmul.cu \
	kernels/cuda/matmul.cuh \
	kernels/cuda/matmul_bf16.cu \
	kernels/cuda/matmul_f32.cu \
	kernels/cuda/lane.cu \
	kernels/cuda/memory.cu \
	kernels/cuda/move.cu \
	kernels/cuda/nccl.cu \
	kernels/cuda/operand.cuh \
	kernels/cuda/product.cuh \
	kernels/cuda/rope.cu \
	kernels/cuda/row.cu \
	kernels/cuda/sample.cu \
	kernels/cuda/sample.cuh \
	kernels/cuda/step.cu \
	kernels/cuda/stream.cu \
	kernels/cuda/stream.cuh \
	kernels/cuda/stream_finish.cuh \
	kernels/cuda/stream_quant.cuh \
	kernels/cuda/tiled.cu \
	kernels/cuda/tiled.cuh \
	kernels/cuda/tiled_types.cuh \
	kernels/cuda/tune.cu \
	kernels/cuda/wgmma.cuh
else
kernels_libkernels_cuda_a_SOURCES = \
	kernels/cuda/limits.h \
	kernels/cuda/none.c
endif

SUFFIXES = .cu
.cu.o:
	$(AM_V_NVCC)$(NVCC) $(NVCC_FLAGS) $(NCCL_CPPFLAGS) $(DEFS) -D_GNU_SOURCE -I$(top_srcdir) \
		-MD -MP -MF $(@:.o=.d) -MT $@ -c $< -o $@
AM_V_NVCC = $(am__v_NVCC_@AM_V@)
am__v_NVCC_ = $(am__v_NVCC_@AM_DEFAULT_V@)
am__v_NVCC_0 = @echo "  NVCC    " $@;
am__v_NVCC_1 =
-include kernels/cuda/*.d
mostlyclean-local:
	-rm -f kernels/cuda/*.d

# What links it.
CUDA_KERNELS_LIBS = \
	kernels/libkernels_cuda.a \
	kernels/libkernels.a \
	common/libcommon.a \
	$(CUDA_LIBS)

check_PROGRAMS += tests/unit/cuda_attention_test
TESTS += tests/unit/cuda_attention_test
tests_unit_cuda_attention_test_SOURCES = \
	tests/unit/attention_scene.c \
	tests/unit/attention_scene.h \
	tests/unit/cuda_compare.h \
	tests/unit/cuda_attention_test.c \
	tests/unit/kernels_compare.h
tests_unit_cuda_attention_test_LDADD = \
	kernels/libreference.a \
	$(CUDA_KERNELS_LIBS) \
	$(CMOCKA_LIBS) \
	$(HWLOC_LIBS) \
	-lm -lpthread

check_PROGRAMS += tests/unit/cuda_fast_test
TESTS += tests/unit/cuda_fast_test
tests_unit_cuda_fast_test_SOURCES = \
	tests/unit/cuda_compare.h \
	tests/unit/cuda_fast_test.c \
	tests/unit/kernels_compare.h
tests_unit_cuda_fast_test_LDADD = \
	kernels/libreference.a \
	$(CUDA_KERNELS_LIBS) \
	$(CMOCKA_LIBS) \
	$(HWLOC_LIBS) \
	-lm -lpthread

check_PROGRAMS += tests/unit/cuda_fused_test
TESTS += tests/unit/cuda_fused_test
tests_unit_cuda_fused_test_SOURCES = \
	tests/unit/cuda_compare.h \
	tests/unit/cuda_fused_test.c \
	tests/unit/kernels_compare.h
tests_unit_cuda_fused_test_LDADD = \
	kernels/libreference.a \
	$(CUDA_KERNELS_LIBS) \
	$(CMOCKA_LIBS) \
	$(HWLOC_LIBS) \
	-lm -lpthread

check_PROGRAMS += tests/unit/cuda_kernels_test
TESTS += tests/unit/cuda_kernels_test
tests_unit_cuda_kernels_test_SOURCES = \
	tests/unit/cuda_compare.h \
	tests/unit/cuda_kernels_test.c \
	tests/unit/kernels_compare.h
tests_unit_cuda_kernels_test_LDADD = \
	kernels/libreference.a \
	$(CUDA_KERNELS_LIBS) \
	$(CMOCKA_LIBS) \
	$(HWLOC_LIBS) \
	-lm -lpthread

check_PROGRAMS += tests/unit/cuda_memory_test
TESTS += tests/unit/cuda_memory_test
tests_unit_cuda_memory_test_SOURCES = \
	tests/unit/cuda_compare.h \
	tests/unit/cuda_memory_test.c \
	tests/unit/kernels_compare.h
tests_unit_cuda_memory_test_LDADD = \
	kernels/libreference.a \
	$(CUDA_KERNELS_LIBS) \
	$(CMOCKA_LIBS) \
	$(HWLOC_LIBS) \
	-lm -lpthread

# The sampler needs nothing of the engine but itself.
check_PROGRAMS += tests/unit/cuda_sample_test
TESTS += tests/unit/cuda_sample_test
tests_unit_cuda_sample_test_SOURCES = \
	engine/sampler.c \
	engine/sampler.h \
	tests/unit/cuda_compare.h \
	tests/unit/cuda_sample_test.c \
	tests/unit/kernels_compare.h
tests_unit_cuda_sample_test_LDADD = \
	kernels/libreference.a \
	$(CUDA_KERNELS_LIBS) \
	$(CMOCKA_LIBS) \
	$(HWLOC_LIBS) \
	-lm -lpthread
