# tests: scripts of make check; the end-to-end ones need root and run by tests/check
dist_check_SCRIPTS += tests/readme tests/rooms
TESTS += tests/readme tests/rooms
EXTRA_DIST += \
    $(srcdir)/bench \
    $(srcdir)/tests/check \
    $(srcdir)/tests/e2e \
    $(srcdir)/tests/fuzz \
    $(srcdir)/tests/golden \
    $(srcdir)/tests/slurm \
    etc/examples/ask.py \
    etc/examples/job.sh \
    etc/modelpool.conf \
    etc/modelpoold.service \
    etc/plugstack.conf
AM_TESTS_ENVIRONMENT = srcdir='$(srcdir)'; export srcdir;
