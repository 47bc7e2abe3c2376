# Folders are named only where nothing is built into them: make dist would take the objects along.
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
    bench/client.py \
    bench/parity \
    bench/peers \
    bench/peers.py \
    bench/pool.bash \
    bench/srun-overhead \
    bench/turns \
    bench/turns.py \
    tests/tools/control.py \
    tests/tools/fake_daemon.py \
    tests/tools/http_check.py \
    tests/tools/openai_check.py \
    tests/tools/wire.py \
    tests/tools/with_lease.py
AM_TESTS_ENVIRONMENT = srcdir='$(srcdir)'; export srcdir;
