/* checkpoint_folder.h - crafted checkpoint folders, right or wrong in any way that a test wants */
#ifndef MP_TESTS_CHECKPOINT_FOLDER_H
#define MP_TESTS_CHECKPOINT_FOLDER_H

#include <stddef.h>

struct checkpoint {
    char folder[64]; /* of its own under /tmp */
};

/* Trouble aborts the test. */
void checkpoint_start(struct checkpoint *c);
void checkpoint_remove(struct checkpoint *c); /* with all files in it */

/* Write a file, in place of one that is there. */
void checkpoint_write(const struct checkpoint *c, const char *name, const void *bytes, size_t len);
void checkpoint_text(const struct checkpoint *c, const char *name, const char *text);
/* A safetensors file: length, header, then data of that many bytes 0, 1, 2 ... */
void checkpoint_tensors(const struct checkpoint *c, const char *name, const char *header,
                        size_t data);
void checkpoint_unlink(const struct checkpoint *c, const char *name);

/* The bytes that checkpoint_tensors() writes; malloc'd. */
unsigned char *safetensors_bytes(const char *header, size_t header_len, size_t data, size_t *len);

#endif
