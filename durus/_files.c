/* Records, and the entries of a file that hold them, in C. Bytes go in, and bytes and numbers come out: nothing here reads
   or writes a file, and nothing is kept. */

#include "_persistent.h"

enum { OID_SIZE = 8, RECORD_HEAD_SIZE = 12, FRAME_SIZE = 16, HEAD_SIZE = 28, SEAL_SIZE = 132, PLACE_SIZE = 16 };
/* HEAD_SIZE of records/record.py; ENTRY_FRAME_SIZE, ENTRY_HEAD.size and SEAL_SIZE of files/shelf/layout.py; PLACE.size of
   files/entry_index.py */

static const unsigned char first_reserved[OID_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00};

static unsigned long long
number_at(const unsigned char *at, int size)
{
    unsigned long long value = 0;
    for (int i = 0; i < size; i++)
        value = value << 8 | at[i];
    return value;
}

/* Stands for find_entries, record_in_page, is_sound_entry. Returns the length of the entry of an object in a transaction of
   which `room` bytes are left, without the length itself, or 0 for anything else. */
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

/* Records */

static int
is_sound_record(const unsigned char *oid, Py_ssize_t oid_size, const unsigned char *record, Py_ssize_t size)
{
    if (oid_size != OID_SIZE || size < RECORD_HEAD_SIZE || memcmp(record, oid, OID_SIZE) != 0
        || memcmp(oid, first_reserved, OID_SIZE) >= 0)
        return 0;
    unsigned long long data_size = number_at(record + OID_SIZE, 4), room = size - RECORD_HEAD_SIZE;
    return data_size > 0 && data_size <= room && (room - data_size) % OID_SIZE == 0;
}

/* Stands for is_record_of. */
PyObject *
is_record_of(PyObject *module, PyObject *args)
{
    Py_buffer oid, record;
    if (!PyArg_ParseTuple(args, "y*y*:is_record_of", &oid, &record))
        return NULL;
    int result = is_sound_record(oid.buf, oid.len, record.buf, record.len);
    PyBuffer_Release(&oid);
    PyBuffer_Release(&record);
    return PyBool_FromLong(result);
}

/* Adds the refs of a record that are not among the records. */
static int
add_refs(PyObject *found, PyObject *record, PyObject *records)
{
    Py_ssize_t size = PyBytes_Check(record) ? PyBytes_GET_SIZE(record) : 0;
    const unsigned char *bytes = size ? (const unsigned char *)PyBytes_AS_STRING(record) : NULL;
    if (size < RECORD_HEAD_SIZE || number_at(bytes + OID_SIZE, 4) > (unsigned long long)(size - RECORD_HEAD_SIZE)) {
        PyErr_SetString(PyExc_ValueError, "refs_outside() takes well-formed records");
        return -1;
    }
    Py_ssize_t start = RECORD_HEAD_SIZE + (Py_ssize_t)number_at(bytes + OID_SIZE, 4);
    for (; start + OID_SIZE <= size; start += OID_SIZE) {
        PyObject *ref = PyBytes_FromStringAndSize((const char *)bytes + start, OID_SIZE);
        int is_inside = ref == NULL ? -1 : PyDict_Contains(records, ref);
        int result = is_inside < 0 ? -1 : is_inside ? 0 : PySet_Add(found, ref);
        Py_XDECREF(ref);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* Stands for refs_outside. */
PyObject *
refs_outside(PyObject *module, PyObject *records)
{
    if (!PyDict_Check(records))
        return PyErr_Format(PyExc_TypeError, "refs_outside() takes a dict");
    PyObject *values = PyDict_Values(records), *found = values == NULL ? NULL : PySet_New(NULL);
    for (Py_ssize_t i = 0; found != NULL && i < PyList_GET_SIZE(values); i++)
        if (add_refs(found, PyList_GET_ITEM(values, i), records) < 0)
            Py_CLEAR(found);
    Py_XDECREF(values);
    return found;
}

/* Entries */

static void
put_place(char *at, const char *oid, long long offset)
{
    memcpy(at, oid, OID_SIZE);
    put_oid(at + OID_SIZE, (uint64_t)offset);
}

static int
add_place(PyObject *places, const unsigned char *oid, long long offset)
{
    Py_ssize_t size = PyByteArray_GET_SIZE(places);
    if (PyByteArray_Resize(places, size + PLACE_SIZE) < 0)
        return -1;
    put_place(PyByteArray_AS_STRING(places) + size, (const char *)oid, offset);
    return 0;
}

/* Stands for find_entries. */
PyObject *
find_entries(PyObject *module, PyObject *args)
{
    PyObject *window, *places;
    long long start, offset, end;
    if (!PyArg_ParseTuple(args, "SLLLO!:find_entries", &window, &start, &offset, &end, &PyByteArray_Type, &places))
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
        if (add_place(places, head + 8, offset) < 0)
            return NULL;
        offset += 8 + (long long)length;
    }
    return PyLong_FromLongLong(offset);
}

/* Returns the page that has the head of an entry at `offset`, a borrowed reference, or NULL. */
static PyObject *
page_at(PyObject *pages, long long page_size, long long offset)
{
    PyObject *number = PyLong_FromLongLong(offset / page_size);
    PyObject *page = number == NULL ? NULL : PyDict_GetItemWithError(pages, number);
    Py_XDECREF(number);
    return page != NULL && PyBytes_CheckExact(page) && PyBytes_GET_SIZE(page) - offset % page_size >= HEAD_SIZE ? page : NULL;
}

/* Stands for record_in_page. */
static PyObject *
record_at(PyObject *pages, long long page_size, const char *oid, long long offset, long long end)
{
    if (page_size <= 0 || offset < 0)
        return PyErr_Format(PyExc_ValueError, "a page has a size above 0, and an offset is not below it");
    PyObject *page = end < offset || end - offset < HEAD_SIZE ? NULL : page_at(pages, page_size, offset);
    if (page == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    Py_ssize_t index = (Py_ssize_t)(offset % page_size);
    const unsigned char *head = (const unsigned char *)PyBytes_AS_STRING(page) + index;
    unsigned long long length = length_of_entry(head, (unsigned long long)(end - offset));
    if (length == 0 || memcmp(head + 8, oid, OID_SIZE) != 0
        || length > (unsigned long long)(PyBytes_GET_SIZE(page) - index - 8))
        return Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize((const char *)head + FRAME_SIZE, (Py_ssize_t)length - (FRAME_SIZE - 8));
}

static int
is_oid(PyObject *value)
{
    return PyBytes_Check(value) && PyBytes_GET_SIZE(value) == OID_SIZE;
}

/* Stands for record_in_page. */
PyObject *
record_in_page(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyDict_CheckExact(args[0]) || !is_oid(args[2]))
        return PyErr_Format(PyExc_TypeError, "record_in_page() takes a dict, a size, an oid and two offsets");
    long long page_size = PyLong_AsLongLong(args[1]), offset = PyLong_AsLongLong(args[3]), end = PyLong_AsLongLong(args[4]);
    return PyErr_Occurred() ? NULL : record_at(args[0], page_size, PyBytes_AS_STRING(args[2]), offset, end);
}

/* Stands for newest_record_in_page. */
PyObject *
newest_record_in_page(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    uint64_t offset = 0;
    int is_found = count == 5 && PyDict_CheckExact(args[1]) && is_oid(args[3]) ? find_in_index(args[0], args[3], &offset) : -1;
    if (is_found < 0)
        return PyErr_Format(PyExc_TypeError, "newest_record_in_page() takes an EntryIndex, a dict, a size, an oid and an end");
    long long page_size = PyLong_AsLongLong(args[2]), end = PyLong_AsLongLong(args[4]);
    if (PyErr_Occurred())
        return NULL;
    if (!is_found || offset > LLONG_MAX)
        return Py_NewRef(Py_None);
    return record_at(args[1], page_size, PyBytes_AS_STRING(args[3]), (long long)offset, end);
}

/* Sets oid and record of a pair, which are borrowed; -1 with an exception. */
static int
read_pair(PyObject *pair, PyObject **oid, PyObject **record)
{
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(pair, 0))
        || PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 0)) != OID_SIZE || !PyBytes_Check(PyTuple_GET_ITEM(pair, 1))) {
        PyErr_SetString(PyExc_TypeError, "pack_entries() takes pairs of oid and record");
        return -1;
    }
    *oid = PyTuple_GET_ITEM(pair, 0);
    *record = PyTuple_GET_ITEM(pair, 1);
    return 0;
}

/* Adds the bytes of the entries of some pairs to the pieces, `size` in number, without those of large records. */
static int
add_entries(PyObject *pieces, PyObject *pairs, Py_ssize_t first, Py_ssize_t after, Py_ssize_t size, Py_ssize_t large)
{
    PyObject *piece = PyBytes_FromStringAndSize(NULL, size);
    char *at = piece == NULL ? NULL : PyBytes_AS_STRING(piece);
    for (Py_ssize_t i = first; piece != NULL && i < after; i++) {
        PyObject *pair = PyTuple_GET_ITEM(pairs, i), *record = PyTuple_GET_ITEM(pair, 1);
        Py_ssize_t record_size = PyBytes_GET_SIZE(record);
        put_oid(at, (uint64_t)(OID_SIZE + record_size));
        memcpy(at + 8, PyBytes_AS_STRING(PyTuple_GET_ITEM(pair, 0)), OID_SIZE);
        at += FRAME_SIZE;
        if (record_size < large) {
            memcpy(at, PyBytes_AS_STRING(record), record_size);
            at += record_size;
        }
    }
    int result = piece == NULL ? -1 : PyList_Append(pieces, piece);
    Py_XDECREF(piece);
    return result;
}

/* Stands for pack_entries, pack_entry. */
PyObject *
pack_entries(PyObject *module, PyObject *args)
{
    PyObject *pairs, *oid, *record, *places = NULL, *pieces = NULL, *result = NULL;
    long long offset;
    Py_ssize_t large, first = 0, size = 0; /* of the piece that is not made yet */
    if (!PyArg_ParseTuple(args, "OLn:pack_entries", &pairs, &offset, &large))
        return NULL;
    pairs = PySequence_Tuple(pairs); /* which nobody else changes */
    if (pairs == NULL)
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(pairs);
    pieces = PyList_New(0);
    places = pieces == NULL ? NULL : PyBytes_FromStringAndSize(NULL, count * PLACE_SIZE);
    for (Py_ssize_t i = 0; places != NULL && i < count; i++) {
        if (read_pair(PyTuple_GET_ITEM(pairs, i), &oid, &record) < 0)
            goto done;
        Py_ssize_t record_size = PyBytes_GET_SIZE(record);
        put_place(PyBytes_AS_STRING(places) + i * PLACE_SIZE, PyBytes_AS_STRING(oid), offset);
        offset += FRAME_SIZE + record_size;
        size += FRAME_SIZE;
        if (record_size < large)
            size += record_size;
        else if (add_entries(pieces, pairs, first, i + 1, size, large) < 0 || PyList_Append(pieces, record) < 0)
            goto done;
        else {
            first = i + 1;
            size = 0;
        }
    }
    if (places != NULL && add_entries(pieces, pairs, first, count, size, large) == 0)
        result = PyTuple_Pack(2, pieces, places);
done:
    Py_DECREF(pairs);
    Py_XDECREF(places);
    Py_XDECREF(pieces);
    return result;
}
