#include "model/bytes.h"

#include <stdlib.h>
#include <string.h>

int bytes_append(struct bytes *b, const char *data, size_t len, struct error *err)
{
    if (len > b->room - b->len) {
        size_t room = b->room ? b->room : 256;
        char *grown;

        while (room - b->len < len && room <= (size_t)-1 / 4)
            room *= 2;
        grown = room - b->len < len ? NULL : realloc(b->data, room);
        if (!grown)
            return error_set(err, STATUS_NOMEM, "no memory for a text of %zu bytes", b->len + len);
        b->data = grown;
        b->room = room;
    }
    if (len > 0)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    return 0;
}

void bytes_free(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){NULL, 0, 0};
}
