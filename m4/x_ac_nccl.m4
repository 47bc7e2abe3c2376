# SYNOPSIS: X_AC_NCCL
# DESCRIPTION: --with-nccl[=yes|no|DIR]; guessed quietly, fatal when asked for and missing.  DIR holds
#   include/nccl.h and lib/libnccl.so; without it the CUDA toolkit's folder and the system's are
#   searched.  2.4 is the first release whose communicators can be aborted (ncclCommAbort), which is
#   what is looked for.  Sets NCCL_CPPFLAGS, NCCL_LIBS, nccl_version and have_nccl.  Nothing is
#   linked with it: kernels/cuda/nccl.cu opens it.  Works after X_AC_CUDA (cuda_dir).
AC_DEFUN([X_AC_NCCL], [
    AC_ARG_WITH([nccl],
        AS_HELP_STRING([--with-nccl@<:@=DIR@:>@],
            [NCCL, with its header and library in DIR (default: if there)]),
        [], [with_nccl=guess])
    have_nccl=no
    nccl_version=
    nccl_missing=
    AS_IF([test "$with_nccl" != no], [
        AS_CASE(["$with_nccl"],
            [yes|guess], [nccl_dirs="${cuda_dir:-/usr/local/cuda} /usr/local /usr"],
            [nccl_dirs="$with_nccl"])
        nccl_dir=
        for dir in $nccl_dirs; do
            AS_IF([test -z "$nccl_dir" && test -f "$dir/include/nccl.h"], [nccl_dir=$dir])
        done
        AS_IF([test -z "$nccl_dir"], [nccl_missing="there is no include/nccl.h in $nccl_dirs"])
    ])
    AS_IF([test "$with_nccl" != no && test -z "$nccl_missing"], [
        nccl_file=
        # Python's packages have the library by the loader's name alone.
        multiarch=$($CC -print-multiarch 2>/dev/null)
        for dir in "$nccl_dir/lib64" "$nccl_dir/lib/$multiarch" "$nccl_dir/lib"; do
            for file in "$dir/libnccl.so" "$dir/libnccl.so.2"; do
                AS_IF([test -z "$nccl_file" && test -f "$file"], [nccl_file=$file])
            done
        done
        AS_IF([test -z "$nccl_file"], [nccl_missing="there is no libnccl.so in $nccl_dir/lib64 or lib"])
    ])
    AS_IF([test "$with_nccl" != no && test -z "$nccl_missing"], [
        for part in MAJOR MINOR PATCH; do
            nccl_version=$nccl_version${nccl_version:+.}$(sed -n \
                "s/^#define NCCL_$part  *\(@<:@0-9@:>@*\).*/\1/p" "$nccl_dir/include/nccl.h")
        done
        NCCL_CPPFLAGS="-isystem $nccl_dir/include"
        NCCL_LIBS="-L$(dirname "$nccl_file") -Wl,-rpath,$(dirname "$nccl_file") -l:$(basename "$nccl_file")"
        AC_MSG_CHECKING([whether $nccl_file, $nccl_version, can be linked])
        nccl_saved=$LIBS
        LIBS="$NCCL_LIBS $LIBS"
        AC_LINK_IFELSE([AC_LANG_CALL([], [ncclCommAbort])], [have_nccl=yes],
            [nccl_missing="$nccl_file cannot be linked: see config.log"])
        LIBS=$nccl_saved
        AC_MSG_RESULT([$have_nccl])
    ])
    AS_IF([test "$have_nccl" = no && test "$with_nccl" != no && test "$with_nccl" != guess],
        [AC_MSG_ERROR([--with-nccl was given, and $nccl_missing])])
    AS_IF([test "$have_nccl" = yes], [
        nccl_summary="yes ($nccl_version, $nccl_file)"
        AC_DEFINE([HAVE_NCCL], [1], [NCCL's header is there; the library is opened at run time])
    ], [
        nccl_summary="no"
        NCCL_CPPFLAGS= NCCL_LIBS=
    ])
    AC_SUBST([NCCL_CPPFLAGS])
    AC_SUBST([NCCL_LIBS])
])
