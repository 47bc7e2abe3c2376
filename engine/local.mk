# engine: the process that owns an instance's device
noinst_LIBRARIES += engine/libengine.a
engine_libengine_a_SOURCES = \
    engine/arena.c \
    engine/arena.h \
    engine/channel.c \
    engine/channel.h \
    engine/crew.c \
    engine/crew.h \
    engine/engine.c \
    engine/engine.h \
    engine/engine_ranks.c \
    engine/forward.c \
    engine/forward.h \
    engine/group.c \
    engine/group.h \
    engine/loader.c \
    engine/loader.h \
    engine/logprobs.c \
    engine/logprobs.h \
    engine/master.c \
    engine/master.h \
    engine/pages.c \
    engine/pages.h \
    engine/prefix.c \
    engine/prefix.h \
    engine/prepare.c \
    engine/prepare.h \
    engine/residency.c \
    engine/residency.h \
    engine/room.c \
    engine/room.h \
    engine/sampler.c \
    engine/sampler.h \
    engine/sequence.c \
    engine/sequence.h \
    engine/shard.c \
    engine/shard.h \
    engine/share.c \
    engine/share.h \
    engine/step.c \
    engine/step.h \
    engine/swap.c \
    engine/swap.h \
    engine/swap_space.c \
    engine/swap_space.h \
    engine/turn.c \
    engine/turn.h \
    engine/weights.c \
    engine/weights.h \
    engine/weights_copy.h \
    engine/weights_f8.c \
    engine/weights_load.c

ENGINE_LIBS = \
    engine/libengine.a \
    model/libmodel.a \
    kernels/libkernels_cuda.a \
    kernels/libkernels.a \
    common/libcommon.a \
    $(CUDA_LIBS) \
    $(HWLOC_LIBS) $(JANSSON_LIBS) \
    -lm -lpthread

libexec_PROGRAMS += modelpool-engine
modelpool_engine_SOURCES = \
    engine/bench.c \
    engine/bench.h \
    engine/bench_engine.c \
    engine/bench_engine.h \
    engine/bench_prepare.c \
    engine/bench_rotation.c \
    engine/bench_start.c \
    engine/bench_subject.c \
    engine/bench_subject.h \
    engine/bench_soak.c \
    engine/bench_swap.c \
    engine/bench_switch.c \
    engine/main.c \
    engine/random_checkpoint.c \
    engine/random_checkpoint.h \
    engine/random_model.c \
    engine/random_model.h
modelpool_engine_LDADD = \
    $(ENGINE_LIBS) \
    $(JANSSON_LIBS)

# A tiny random model, for tests of every room.
check_PROGRAMS += tests/tools/tiny-gguf
tests_tools_tiny_gguf_SOURCES = \
    tests/tools/tiny-gguf.c \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h

check_PROGRAMS += \
    tests/unit/cuda_trace_test \
    tests/unit/deterministic_test \
    tests/unit/engine_channel_test \
    tests/unit/engine_checkpoint_test \
    tests/unit/engine_f8_test \
    tests/unit/engine_golden_test \
    tests/unit/engine_logprobs_test \
    tests/unit/engine_precision_test \
    tests/unit/engine_test \
    tests/unit/engine_tier_test \
    tests/unit/engine_turn_test \
    tests/unit/families_test \
    tests/unit/kv_fault_test \
    tests/unit/kv_property_test \
    tests/unit/logprobs_test \
    tests/unit/pages_test \
    tests/unit/parallel_test \
    tests/unit/parity_test \
    tests/unit/prefix_test \
    tests/unit/swap_test
TESTS += \
    tests/unit/cuda_trace_test \
    tests/unit/deterministic_test \
    tests/unit/engine_channel_test \
    tests/unit/engine_checkpoint_test \
    tests/unit/engine_f8_test \
    tests/unit/engine_golden_test \
    tests/unit/engine_logprobs_test \
    tests/unit/engine_precision_test \
    tests/unit/engine_test \
    tests/unit/engine_tier_test \
    tests/unit/engine_turn_test \
    tests/unit/families_test \
    tests/unit/kv_fault_test \
    tests/unit/kv_property_test \
    tests/unit/logprobs_test \
    tests/unit/pages_test \
    tests/unit/parallel_test \
    tests/unit/parity_test \
    tests/unit/prefix_test \
    tests/unit/swap_test
EXTRA_DIST += tests/golden/families
tests_unit_cuda_trace_test_SOURCES = \
    engine/random_model.c \
    engine/random_model.h \
    tests/unit/cuda_trace_test.c \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h
tests_unit_cuda_trace_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS) -ldl
tests_unit_deterministic_test_SOURCES = \
    engine/random_model.c \
    engine/random_model.h \
    tests/unit/deterministic_test.c \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h
tests_unit_deterministic_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_channel_test_SOURCES = \
    tests/unit/engine_channel_test.c \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h
tests_unit_engine_channel_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_checkpoint_test_SOURCES = \
    tests/unit/checkpoint_folder.c \
    tests/unit/checkpoint_folder.h \
    tests/unit/engine_checkpoint_test.c \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h
tests_unit_engine_checkpoint_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_f8_test_SOURCES = \
    tests/unit/checkpoint_folder.c \
    tests/unit/checkpoint_folder.h \
    tests/unit/engine_f8_test.c \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h
tests_unit_engine_f8_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_golden_test_SOURCES = \
    tests/unit/engine_golden.c \
    tests/unit/engine_golden.h \
    tests/unit/engine_golden_test.c \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h
tests_unit_engine_golden_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_logprobs_test_SOURCES = \
    tests/unit/engine_logprobs_test.c \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h
tests_unit_engine_logprobs_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_precision_test_SOURCES = \
    tests/unit/engine_golden.c \
    tests/unit/engine_golden.h \
    tests/unit/engine_precision_test.c \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h
tests_unit_engine_precision_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/engine_test.c \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h
tests_unit_engine_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_engine_tier_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/engine_tier_test.c \
    tests/unit/fault.c \
    tests/unit/fault.h \
    tests/unit/lane_rig.c \
    tests/unit/lane_rig.h \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h
tests_unit_engine_tier_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
FAULT_LDFLAGS = \
    -Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=realloc -Wl,--wrap=aligned_alloc \
    -Wl,--wrap=mmap -Wl,--wrap=pread -Wl,--wrap=pwrite -Wl,--wrap=posix_fallocate \
    -Wl,--wrap=pthread_create
tests_unit_engine_tier_test_LDFLAGS = $(FAULT_LDFLAGS) \
    -Wl,--wrap=device_lane_copy -Wl,--wrap=device_lane_mark -Wl,--wrap=device_lane_wait \
    -Wl,--wrap=device_await -Wl,--wrap=device_host_pin -Wl,--wrap=device_host_unpin
tests_unit_engine_turn_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/engine_turn_test.c \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h
tests_unit_engine_turn_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_families_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/families_test.c
tests_unit_families_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_kv_fault_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/kv_fault_test.c
tests_unit_kv_fault_test_LDFLAGS = -Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=device_map
tests_unit_kv_fault_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_kv_property_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/kv_property_test.c
tests_unit_kv_property_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_logprobs_test_SOURCES = \
    engine/logprobs.c \
    engine/logprobs.h \
    tests/unit/logprobs_test.c
tests_unit_logprobs_test_LDADD = $(CMOCKA_LIBS) -lm
tests_unit_pages_test_SOURCES = \
    tests/unit/pages_test.c
tests_unit_pages_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_parallel_test_SOURCES = \
    tests/unit/checkpoint_folder.c \
    tests/unit/checkpoint_folder.h \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/fault.c \
    tests/unit/fault.h \
    tests/unit/parallel_test.c \
    tests/unit/tiny_gguf.c \
    tests/unit/tiny_gguf.h
tests_unit_parallel_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_parallel_test_LDFLAGS = $(FAULT_LDFLAGS)
tests_unit_parity_test_SOURCES = \
    tests/unit/engine_golden.c \
    tests/unit/engine_golden.h \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/parity_test.c
tests_unit_parity_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_prefix_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/prefix_test.c
tests_unit_prefix_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
tests_unit_swap_test_SOURCES = \
    tests/unit/engine_rig.c \
    tests/unit/engine_rig.h \
    tests/unit/swap_test.c
tests_unit_swap_test_LDADD = $(ENGINE_LIBS) $(CMOCKA_LIBS)
