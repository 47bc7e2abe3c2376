# SYNOPSIS: X_AC_SLURM
# DESCRIPTION: --with-slurm[=PREFIX|no]; guessed quietly, fatal when asked for and missing.  A SPANK
#   plugin fits the Slurm release whose headers it was compiled with.  Sets SLURM_CPPFLAGS,
#   slurmplugindir and the automake conditional WITH_SLURM.
AC_DEFUN([X_AC_SLURM], [
    AC_ARG_WITH([slurm],
        AS_HELP_STRING([--with-slurm=PREFIX], [build the SPANK plugin (default: if spank.h is there)]),
        [], [with_slurm=guess])
    have_slurm=no
    SLURM_CPPFLAGS=
    AS_IF([test "$with_slurm" != no], [
        AS_CASE([$with_slurm], [yes|guess], [], [SLURM_CPPFLAGS="-I$with_slurm/include"])
        x_saved_CPPFLAGS=$CPPFLAGS
        CPPFLAGS="$CPPFLAGS $SLURM_CPPFLAGS"
        AC_CHECK_HEADER([slurm/spank.h], [have_slurm=yes], [
            AS_IF([test "$with_slurm" != guess],
                [AC_MSG_ERROR([--with-slurm was given, and there is no slurm/spank.h: install libslurm-dev or give its prefix])])])
        CPPFLAGS=$x_saved_CPPFLAGS
    ])
    AC_SUBST([SLURM_CPPFLAGS])
    AM_CONDITIONAL([WITH_SLURM], [test "$have_slurm" = yes])
])
