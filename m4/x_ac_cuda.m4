# SYNOPSIS: X_AC_CUDA
# DESCRIPTION: --with-cuda[=yes|no|DIR]; guessed quietly, fatal when asked for and missing.  DIR is
#   the toolkit: DIR/bin/nvcc.  Sets NVCC, NVCC_FLAGS, CUDA_CPPFLAGS, CUDA_LIBS, have_cuda and the
#   conditional HAVE_CUDA.  Works after X_AC_WARNINGS (nvcc's host compiler has the same warnings,
#   but for -Wconversion, which nvcc's own generated code does not pass).
AC_DEFUN([X_AC_CUDA], [
    AC_ARG_WITH([cuda],
        AS_HELP_STRING([--with-cuda@<:@=DIR@:>@],
            [GPUs, with the CUDA toolkit in DIR (default: if there)]), [], [with_cuda=guess])
    AC_ARG_VAR([NVCC], [CUDA's compiler])
    AC_ARG_VAR([NVCC_ARCH], [nvcc's -gencode options, in place of those for sm_80 and sm_90a])

    have_cuda=no
    cuda_missing=
    AS_IF([test "$with_cuda" != no], [
        AS_CASE(["$with_cuda"],
            [yes|guess], [cuda_path="$PATH$PATH_SEPARATOR${CUDA_HOME:-/usr/local/cuda}/bin"],
            [cuda_path="$with_cuda/bin"])
        AC_PATH_PROG([NVCC], [nvcc], [], [$cuda_path])
        AS_IF([test -z "$NVCC"], [cuda_missing="no nvcc in $cuda_path"], [
            # The toolkit is the folder above nvcc, also behind links such as /usr/bin/nvcc.
            cuda_dir=$(dirname "$(dirname "$(readlink -f "$NVCC")")")
            cuda_lib=$cuda_dir/lib64
            AS_IF([test -d "$cuda_lib"], [], [cuda_lib=$cuda_dir/lib])
            AS_IF([test -f "$cuda_lib/libcudart_static.a"], [],
                [cuda_missing="no libcudart_static.a in $cuda_lib"])
            AS_IF([test -f "$cuda_dir/include/cublasLt.h"], [],
                [cuda_missing="no cublasLt.h in $cuda_dir/include"])
        ])
        AS_IF([test -z "$cuda_missing"], [
            AC_MSG_CHECKING([whether $NVCC compiles for sm_90a])
            NVCC_ARCH=${NVCC_ARCH:-"-gencode arch=compute_80,code=sm_80 -gencode arch=compute_80,code=compute_80 -gencode arch=compute_90a,code=sm_90a"}
            echo '__global__ void f(int *p) { *p = 1; }' >conftest.cu
            AS_IF([$NVCC $NVCC_ARCH -ccbin "$CC" -x cu -c conftest.cu -o conftest.o \
                    >&AS_MESSAGE_LOG_FD 2>&1],
                [AC_MSG_RESULT([yes]); have_cuda=yes],
                [AC_MSG_RESULT([no]); cuda_missing="$NVCC $NVCC_ARCH cannot compile: see config.log"])
            rm -f conftest.cu conftest.o
        ])
        AS_IF([test "$have_cuda" = no && test "$with_cuda" != guess],
            [AC_MSG_ERROR([--with-cuda was given, and $cuda_missing])])
    ])
    AS_IF([test "$have_cuda" = yes], [
        CUDA_CPPFLAGS="-isystem $cuda_dir/include"
        # cuBLASLt is hundreds of megabytes: opened by what needs it, found by the path in the program.
        CUDA_LIBS="-L$cuda_lib -Wl,-rpath,$cuda_lib -lcudart_static -ldl -lrt -lpthread -lstdc++"
        # No multiply and add may be fused but where the source says so, as on the CPU.
        NVCC_FLAGS="$NVCC_ARCH -std=c++17 -O3 -lineinfo -fmad=false -ccbin $CC -Xcompiler=-Wall,-Wextra,-Wshadow,-fPIC"
        AS_IF([test "$enable_werror" = yes],
            [NVCC_FLAGS="$NVCC_FLAGS -Werror all-warnings -Xcompiler=-Werror"])
        AC_DEFINE([HAVE_CUDA], [1], [the CUDA toolkit is there])
    ])
    AC_SUBST([NVCC_FLAGS])
    AC_SUBST([CUDA_CPPFLAGS])
    AC_SUBST([CUDA_LIBS])
    AM_CONDITIONAL([HAVE_CUDA], [test "$have_cuda" = yes])
])
