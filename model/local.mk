noinst_LIBRARIES += model/libmodel.a
model_libmodel_a_SOURCES = \
	model/arch.c \
	model/arch.h \
	model/ggml_type.c \
	model/ggml_type.h \
	model/gguf.c \
	model/gguf.h \
	model/gguf_metadata.c \
	model/gguf_metadata.h
