# plugin: the SPANK plugin; links nothing but libc, since it is loaded into every srun and slurmstepd
EXTRA_DIST += \
    plugin/seal \
    plugin/spank_modelpool.lds

if WITH_SLURM
slurmdir = $(libdir)/slurm
slurm_LTLIBRARIES = plugin/spank_modelpool.la
plugin_spank_modelpool_la_SOURCES = \
    common/client.c \
    common/clock.c \
    common/config.c \
    common/config_line.c \
    common/config_value.c \
    common/error.c \
    common/wire.c \
    plugin/alloc.c \
    plugin/alloc.h \
    plugin/args.c \
    plugin/args.h \
    plugin/dispatch.c \
    plugin/options.c \
    plugin/options.h \
    plugin/srun.c \
    plugin/srun.h \
    plugin/stepd.c \
    plugin/stepd.h \
    plugin/submit.c \
    plugin/submit.h
plugin_spank_modelpool_la_CPPFLAGS = $(AM_CPPFLAGS) $(SLURM_CPPFLAGS)
plugin_spank_modelpool_la_CFLAGS = $(AM_CFLAGS)
plugin_spank_modelpool_la_LDFLAGS = -module -avoid-version -shared \
    -Wl,--version-script=$(srcdir)/plugin/spank_modelpool.lds -Wl,-z,relro
plugin_spank_modelpool_la_DEPENDENCIES = plugin/spank_modelpool.lds

install-data-hook:
	test -n "$(DESTDIR)" || $(srcdir)/plugin/seal $(slurmdir)/spank_modelpool.so

check_PROGRAMS += tests/unit/spank_test
TESTS += tests/unit/spank_test
tests_unit_spank_test_SOURCES = \
    plugin/args.c \
    plugin/options.c \
    tests/unit/spank_test.c
tests_unit_spank_test_CPPFLAGS = $(AM_CPPFLAGS) $(SLURM_CPPFLAGS)
tests_unit_spank_test_LDADD = common/libcommon.a $(CMOCKA_LIBS)
endif
