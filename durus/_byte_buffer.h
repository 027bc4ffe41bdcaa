/* Bytes that grow at their end. The first ones are where the buffer is. */

#ifndef DURUS_BYTE_BUFFER_H
#define DURUS_BYTE_BUFFER_H

#include "_persistent.h"

enum { MAX_BYTES = 1 << 24, FEW_BYTES = 1024 };

typedef struct {
    unsigned char *bytes;
    Py_ssize_t size, room;
    unsigned char few_bytes[FEW_BYTES];
} ByteBuffer;

static inline void
init_buffer(ByteBuffer *buffer)
{
    buffer->bytes = buffer->few_bytes;
    buffer->size = 0;
    buffer->room = FEW_BYTES;
}

static inline void
free_buffer(ByteBuffer *buffer)
{
    if (buffer->bytes != buffer->few_bytes)
        PyMem_Free(buffer->bytes);
}

/* Returns the place for this many further bytes, which are counted already; NULL without an exception if there is none. */
static inline unsigned char *
more(ByteBuffer *buffer, Py_ssize_t count)
{
    if (count > MAX_BYTES - buffer->size)
        return NULL;
    if (buffer->size + count > buffer->room) {
        unsigned char *old = buffer->bytes == buffer->few_bytes ? NULL : buffer->bytes;
        Py_ssize_t room = 2 * (buffer->size + count);
        unsigned char *bytes = PyMem_Realloc(old, (size_t)room);
        if (bytes == NULL)
            return NULL;
        if (old == NULL)
            memcpy(bytes, buffer->few_bytes, (size_t)buffer->size);
        buffer->bytes = bytes;
        buffer->room = room;
    }
    unsigned char *place = buffer->bytes + buffer->size;
    buffer->size += count;
    return place;
}

/* Returns -1 without an exception if there is no place. */
static inline int
put(ByteBuffer *buffer, const void *bytes, Py_ssize_t count)
{
    unsigned char *place = more(buffer, count);
    if (place == NULL)
        return -1;
    memcpy(place, bytes, (size_t)count);
    return 0;
}

#endif
