/* The newest entry of each oid in a file, in C: what EntryIndex in files/entry_index.py does, which is the reference.

   The places are one array, in the order in which their oids came. A table of numbers leads to them: 0 is an empty place of
   the table, n leads to the place n - 1. So an oid takes 16 to 18 bytes and the 8 to 16 of its part of the table, and only
   the table is rebuilt when it is half full. */

#include "_persistent.h"

enum { PLACE_SIZE = 16, FIRST_ROOM = 16, NEIGHBOUR_BITS = 2 };

typedef struct {
    uint64_t oid;
    uint64_t offset;
} Place;

typedef struct {
    PyObject_HEAD
    Place *places;
    size_t count;
    size_t room; /* of the places */
    uint32_t *table;
    size_t table_size; /* a power of two, or 0 */
    uint64_t seed;
} EntryIndex;

/* Returns what leads to an oid, or the empty place of the table where it would stand. */
static uint32_t *
find(const EntryIndex *self, uint64_t oid)
{
    for (size_t at = scattered(oid, self->seed, NEIGHBOUR_BITS);; at++) {
        uint32_t *found = &self->table[at & (self->table_size - 1)];
        if (*found == 0 || self->places[*found - 1].oid == oid)
            return found;
    }
}

static int
grow_table(EntryIndex *self)
{
    size_t size = self->table_size ? 2 * self->table_size : 4 * FIRST_ROOM;
    uint32_t *table = PyMem_Calloc(size, sizeof(*table));
    if (table == NULL)
        return -1;
    PyMem_Free(self->table);
    self->table = table;
    self->table_size = size;
    for (size_t i = 0; i < self->count; i++) {
        size_t at = scattered(self->places[i].oid, self->seed, NEIGHBOUR_BITS);
        while (table[at & (size - 1)] != 0) /* each oid is in the places once, so no other place has to be read */
            at++;
        table[at & (size - 1)] = (uint32_t)(i + 1);
    }
    return 0;
}

/* Makes room for one more oid. */
static int
make_room(EntryIndex *self)
{
    if (self->count == self->room) {
        size_t room = self->room + self->room / 8 + FIRST_ROOM;
        Place *places = room > UINT32_MAX ? NULL : PyMem_Realloc(self->places, room * sizeof(*places));
        if (places == NULL)
            return -1;
        self->places = places;
        self->room = room;
    }
    return 2 * (self->count + 1) > self->table_size ? grow_table(self) : 0;
}

static int
put(EntryIndex *self, uint64_t oid, uint64_t offset)
{
    if (make_room(self) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    uint32_t *found = find(self, oid);
    if (*found == 0) {
        self->places[self->count].oid = oid;
        *found = (uint32_t)++self->count;
    }
    self->places[*found - 1].offset = offset;
    return 0;
}

/* Stands for EntryIndex.add. */
static PyObject *
entry_index_add(EntryIndex *self, PyObject *arg)
{
    Py_buffer places;
    if (PyObject_GetBuffer(arg, &places, PyBUF_SIMPLE) < 0)
        return NULL;
    int result = places.len % PLACE_SIZE == 0 ? 0 : -1;
    if (result < 0)
        PyErr_Format(PyExc_ValueError, "places have %d bytes each", PLACE_SIZE);
    const unsigned char *at = places.buf;
    for (const unsigned char *end = at + places.len; result == 0 && at < end; at += PLACE_SIZE)
        result = put(self, read_u64(at), read_u64(at + 8));
    PyBuffer_Release(&places);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* Returns the place of an oid, NULL if it has none. */
static const Place *
place_of(const EntryIndex *self, PyObject *bytes)
{
    uint64_t oid;
    const uint32_t *found = self->count > 0 && read_oid(bytes, &oid) ? find(self, oid) : NULL;
    return found == NULL || *found == 0 ? NULL : &self->places[*found - 1];
}

static PyObject *
entry_index_get(EntryIndex *self, PyObject *bytes)
{
    const Place *place = place_of(self, bytes);
    return place == NULL ? Py_NewRef(Py_None) : PyLong_FromUnsignedLongLong(place->offset);
}

static int
entry_index_contains(EntryIndex *self, PyObject *bytes)
{
    uint64_t oid;
    return self->count > 0 && read_oid(bytes, &oid) && *find(self, oid) != 0;
}

static Py_ssize_t
entry_index_length(EntryIndex *self)
{
    return (Py_ssize_t)self->count;
}

static int
compare_offsets(const void *one, const void *other)
{
    return memcmp((const char *)one + 8, (const char *)other + 8, 8);
}

/* Stands for EntryIndex.places. */
static PyObject *
entry_index_places(EntryIndex *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *places = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)self->count * PLACE_SIZE);
    if (places == NULL)
        return NULL;
    char *at = PyBytes_AS_STRING(places);
    int is_sorted = 1;
    for (size_t i = 0; i < self->count; i++, at += PLACE_SIZE) {
        put_oid(at, self->places[i].oid);
        put_oid(at + 8, self->places[i].offset);
        is_sorted = is_sorted && (i == 0 || self->places[i - 1].offset <= self->places[i].offset);
    }
    if (!is_sorted)
        qsort(PyBytes_AS_STRING(places), self->count, PLACE_SIZE, compare_offsets);
    return places;
}

/* Stands for EntryIndex.count_below. */
static PyObject *
entry_index_count_below(EntryIndex *self, PyObject *bytes)
{
    uint64_t oid;
    if (!read_oid(bytes, &oid))
        return PyErr_Format(PyExc_TypeError, "count_below() takes an oid of 8 bytes, not %R", bytes);
    size_t count = 0;
    for (size_t i = 0; i < self->count; i++)
        count += self->places[i].oid < oid;
    return PyLong_FromSize_t(count);
}

static PyObject *
entry_index_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || kwargs != NULL)
        return PyErr_Format(PyExc_TypeError, "EntryIndex() takes no arguments");
    uint64_t seed = seed_of("entries");
    EntryIndex *self = seed == 0 ? NULL : (EntryIndex *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->seed = seed;
    return (PyObject *)self;
}

static void
entry_index_dealloc(EntryIndex *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->places);
    PyMem_Free(self->table);
    type->tp_free(self);
    Py_DECREF(type);
}

int
find_in_index(PyObject *index, PyObject *oid, uint64_t *offset)
{
    if (Py_TYPE(index)->tp_dealloc != (destructor)entry_index_dealloc) /* the class has no subclasses */
        return -1;
    const Place *place = place_of((EntryIndex *)index, oid);
    if (place == NULL)
        return 0;
    *offset = place->offset;
    return 1;
}

static PyMethodDef entry_index_methods[] = {
    {"add", (PyCFunction)entry_index_add, METH_O, PyDoc_STR("Take places in the order of the file.")},
    {"get", (PyCFunction)entry_index_get, METH_O, PyDoc_STR("Return the offset of an oid, None if it has none.")},
    {"places", (PyCFunction)entry_index_places, METH_NOARGS,
     PyDoc_STR("Return the places of all oids, in the order of the file.")},
    {"count_below", (PyCFunction)entry_index_count_below, METH_O, PyDoc_STR("Return how many oids are below this one.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot entry_index_slots[] = {
    {Py_tp_doc, "The file offset of the newest entry of each oid."},
    {Py_tp_new, entry_index_new},
    {Py_tp_dealloc, entry_index_dealloc},
    {Py_sq_length, entry_index_length},
    {Py_sq_contains, entry_index_contains},
    {Py_tp_methods, entry_index_methods},
    {0, NULL},
};

static PyType_Spec entry_index_spec = {
    .name = "durus._persistent.EntryIndex",
    .basicsize = sizeof(EntryIndex),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = entry_index_slots,
};

int
entry_index_exec(PyObject *module)
{
    return add_type(module, &entry_index_spec);
}
