# daemon: modelpoold; the parts that tests need are libraries
include daemon/control.mk
include daemon/policy.mk

noinst_LIBRARIES += daemon/libfront.a
daemon_libfront_a_SOURCES = \
    daemon/control.c \
    daemon/control.h \
    daemon/control_acct.c \
    daemon/control_command.c \
    daemon/control_lease.c \
    daemon/control_status.c \
    daemon/front.c \
    daemon/front.h \
    daemon/front_cost.c \
    daemon/front_model.c \
    daemon/front_tier.c \
    daemon/generation.c \
    daemon/generation.h \
    daemon/generation_admit.c \
    daemon/generation_state.h \
    daemon/generation_submit.c \
    daemon/generation_text.c \
    daemon/http.c \
    daemon/key.c \
    daemon/key.h \
    daemon/lease.c \
    daemon/lease.h \
    daemon/lease_open.c \
    daemon/lease_set.h \
    daemon/lease_store.c \
    daemon/lease_tenant.c \
    daemon/lease_watch.c \
    daemon/listen.c \
    daemon/listen.h \
    daemon/metrics.c \
    daemon/metrics.h \
    daemon/openai.c \
    daemon/openai.h \
    daemon/openai_answer.c \
    daemon/openai_chat.c \
    daemon/openai_tokens.c \
    daemon/peer.c \
    daemon/peer.h \
    daemon/prompt.c \
    daemon/prompt.h \
    daemon/reply.c \
    daemon/reply.h \
    daemon/slurm.c \
    daemon/slurm.h \
    daemon/state.c \
    daemon/state.h \
    daemon/stop.c \
    daemon/stop.h \
    daemon/stream.c \
    daemon/stream.h \
    daemon/token_log.c \
    daemon/token_log.h \
    daemon/usage.c \
    daemon/usage.h

sbin_PROGRAMS += daemon/modelpoold
daemon_modelpoold_SOURCES = daemon/main.c
daemon_modelpoold_LDADD = \
    daemon/libfront.a daemon/libpolicy.a sched/libsched.a model/libmodel.a db/libdb.a \
    common/libcommon.a \
    $(CRYPTO_LIBS) $(EVENT_LIBS) $(JANSSON_LIBS) $(PCRE2_LIBS) $(SQLITE_LIBS) $(UTF8PROC_LIBS) \
    -lm -lpthread

check_PROGRAMS += \
    tests/unit/metrics_test \
    tests/unit/openai_test \
    tests/unit/peer_test \
    tests/unit/stop_test \
    tests/unit/stream_test \
    tests/unit/token_log_test
TESTS += \
    tests/unit/metrics_test \
    tests/unit/openai_test \
    tests/unit/peer_test \
    tests/unit/stop_test \
    tests/unit/stream_test \
    tests/unit/token_log_test
tests_unit_metrics_test_SOURCES = tests/unit/metrics_test.c
tests_unit_metrics_test_LDADD = \
    daemon/libfront.a common/libcommon.a $(CMOCKA_LIBS) $(EVENT_LIBS) -lpthread
tests_unit_openai_test_SOURCES = tests/unit/openai_test.c
tests_unit_openai_test_LDADD = \
    daemon/libfront.a common/libcommon.a $(CMOCKA_LIBS) $(JANSSON_LIBS)
tests_unit_peer_test_SOURCES = tests/unit/peer_test.c
tests_unit_peer_test_LDADD = daemon/libfront.a common/libcommon.a $(CMOCKA_LIBS)
tests_unit_stop_test_SOURCES = tests/unit/stop_test.c
tests_unit_stop_test_LDADD = daemon/libfront.a common/libcommon.a $(CMOCKA_LIBS)
tests_unit_stream_test_SOURCES = tests/unit/stream_test.c
tests_unit_stream_test_LDADD = \
    daemon/libfront.a common/libcommon.a $(CMOCKA_LIBS) $(EVENT_LIBS) $(JANSSON_LIBS) -lpthread
tests_unit_token_log_test_SOURCES = \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h \
    tests/unit/token_log_test.c
tests_unit_token_log_test_LDADD = \
    daemon/libfront.a model/libmodel.a common/libcommon.a \
    $(CMOCKA_LIBS) $(JANSSON_LIBS) $(PCRE2_LIBS) $(UTF8PROC_LIBS) -lm
