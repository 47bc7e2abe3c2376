# SYNOPSIS: X_AC_WARNINGS
# DESCRIPTION: The project's warnings, -Werror with --enable-werror, sanitizers with
#   --enable-sanitizers, hardening otherwise.  Sets WARN_CFLAGS and SAFE_CFLAGS.
AC_DEFUN([X_AC_WARNINGS], [
    WARN_CFLAGS="-Wall -Wextra -Wshadow -Wconversion"
    AS_IF([test "$enable_werror" = yes], [WARN_CFLAGS="$WARN_CFLAGS -Werror"])
    AS_IF([test "$enable_sanitizers" = yes],
        [SAFE_CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"],
        [SAFE_CFLAGS="-fstack-protector-strong"])
    AC_SUBST([WARN_CFLAGS])
    AC_SUBST([SAFE_CFLAGS])
])
