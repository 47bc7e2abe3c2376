# SYNOPSIS: X_AC_HWLOC
# DESCRIPTION: --with-hwloc[=yes|no]; guessed quietly, fatal when asked for and missing.  Sets
#   HWLOC_CFLAGS, HWLOC_LIBS, HAVE_HWLOC (config.h) and have_hwloc.
AC_DEFUN([X_AC_HWLOC], [
    AC_ARG_WITH([hwloc],
        AS_HELP_STRING([--with-hwloc], [bind threads to cores with hwloc (default: if there)]),
        [], [with_hwloc=guess])
    have_hwloc=no
    AS_IF([test "$with_hwloc" != no], [
        PKG_CHECK_MODULES([HWLOC], [hwloc >= 2.0], [have_hwloc=yes], [
            AS_IF([test "$with_hwloc" != guess],
                [AC_MSG_ERROR([--with-hwloc was given, and pkg-config finds no hwloc: install libhwloc-dev])])])
    ])
    AS_IF([test "$have_hwloc" = yes], [AC_DEFINE([HAVE_HWLOC], [1], [hwloc is there])])
])
