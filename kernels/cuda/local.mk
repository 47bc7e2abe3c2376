# kernels/cuda: the same operations on NVIDIA's GPUs.  The library is there without nvcc, too, and
# refuses then by name.

noinst_LIBRARIES += kernels/libkernels_cuda.a
if HAVE_CUDA
kernels_libkernels_cuda_a_SOURCES = \
	kernels/cuda/attention.cu \
	kernels/cuda/cuda.cuh \
	kernels/cuda/decode.cuh \
	kernels/cuda/device.cu \
	kernels/cuda/experts.cu \
	kernels/cuda/limits.cu \
	kernels/cuda/limits.cuh \
	kernels/cuda/limits.h \
	kernels/cuda/limits_gemm.cu \
	kernels/cuda/limits_matmul.cu \
	kernels/cuda/limits_vmm.cu \
	kernels/cuda/matmul.cu \
	kernels/cuda/row.cu
else
kernels_libkernels_cuda_a_SOURCES = \
	kernels/cuda/limits.h \
	kernels/cuda/none.c
endif

SUFFIXES = .cu
.cu.o:
	$(AM_V_NVCC)$(NVCC) $(NVCC_FLAGS) $(DEFS) -D_GNU_SOURCE -I$(top_srcdir) \
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
	tests/unit/cuda_compare.h \
	tests/unit/cuda_attention_test.c \
	tests/unit/kernels_compare.h
tests_unit_cuda_attention_test_LDADD = \
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
