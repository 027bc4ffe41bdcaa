/* What a file is made of, in C: the entries of objects, found in the bytes of a transaction. Nothing here reads a file,
   and nothing is kept. */

#include "_persistent.h"

enum { OID_SIZE = 8, HEAD_SIZE = 28, SEAL_SIZE = 132 };
/* ENTRY_HEAD.size and SEAL_SIZE of files/shelf/layout.py */

static const unsigned char first_reserved[OID_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00};

static unsigned long long
number_at(const unsigned char *at, int size)
{
    unsigned long long value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | at[i];
    return value;
}

/* Stands for find_entries, is_sound_entry. Returns the length of the entry of an object in a transaction of which `room`
   bytes are left, without the length itself, or 0 for anything else. */
static unsigned long long
length_of_entry(const unsigned char *head, unsigned long long room)
{
    unsigned long long length = number_at(head, 8), data_size = number_at(head + 24, 4);
    if (length > room - 8 || length == SEAL_SIZE - 8 || length < data_size + HEAD_SIZE - 8 || data_size == 0
        || (length - data_size - (HEAD_SIZE - 8)) % 8 || memcmp(head + 8, head + 16, OID_SIZE) != 0
        || memcmp(head + 8, first_reserved, OID_SIZE) >= 0)
        return 0;
    return length;
}

static int
add_entry(PyObject *entries, const unsigned char *oid, long long offset)
{
    PyObject *pair = Py_BuildValue("y#L", (const char *)oid, (Py_ssize_t)OID_SIZE, offset);
    int result = pair == NULL ? -1 : PyList_Append(entries, pair);
    Py_XDECREF(pair);
    return result;
}

/* Stands for find_entries. */
PyObject *
find_entries(PyObject *module, PyObject *args)
{
    PyObject *window, *entries;
    long long start, offset, end;
    if (!PyArg_ParseTuple(args, "SLLLO!:find_entries", &window, &start, &offset, &end, &PyList_Type, &entries))
        return NULL;
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(window);
    long long size = PyBytes_GET_SIZE(window);
    if (start < 0 || offset < start) {
        PyErr_SetString(PyExc_ValueError, "find_entries() begins in the window");
        return NULL;
    }
    while (offset - start <= size - HEAD_SIZE && end - offset >= HEAD_SIZE) {
        const unsigned char *head = bytes + (offset - start);
        unsigned long long length = length_of_entry(head, (unsigned long long)(end - offset));
        if (length == 0)
            break;
        if (add_entry(entries, head + 8, offset) < 0)
            return NULL;
        offset += 8 + (long long)length;
    }
    return PyLong_FromLongLong(offset);
}
