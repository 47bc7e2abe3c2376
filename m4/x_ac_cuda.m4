# SYNOPSIS: X_AC_CUDA
# DESCRIPTION: This release runs on CPUs.  Asking for CUDA or NCCL is refused rather than ignored.
AC_DEFUN([X_AC_CUDA], [
    AC_ARG_WITH([cuda],
        AS_HELP_STRING([--without-cuda], [this release has no CUDA engine yet]), [], [with_cuda=no])
    AC_ARG_WITH([nccl],
        AS_HELP_STRING([--without-nccl], [this release does not use NCCL yet]), [], [with_nccl=no])
    AS_IF([test "$with_cuda" != no],
        [AC_MSG_ERROR([--with-cuda was given, and this release has no CUDA engine yet])])
    AS_IF([test "$with_nccl" != no],
        [AC_MSG_ERROR([--with-nccl was given, and this release does not use NCCL yet])])
])
