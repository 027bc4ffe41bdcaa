/* The oids of the objects that a transaction has accessed, in C: what ReadSet in persistent.py does, which is the
   reference.

   A list of what was noted, and a table of oids, as numbers. An object is noted once in a transaction, and most transactions
   ask for nothing: so an oid is in the list, maybe twice, until the set is asked, and then moves to the table. There 0
   is an empty place; whether the oid 0 itself is in the set, that of the root, is told apart. No code of an application
   runs here, except in the iterators that update() and isdisjoint() are given. */

#include "_persistent.h"

enum { FIRST_ROOM = 16, KEPT_ROOM = 1024, MAX_NOTED = 1 << 16 };

typedef struct ReadSet {
    PyObject_HEAD
    uint64_t *noted; /* the list */
    size_t noted_room;
    size_t noted_count;
    uint64_t *oids; /* the table */
    size_t room;    /* a power of two, or 0 */
    size_t count;   /* without the root */
    int has_root;
    uint64_t seed;
} ReadSet;

/* Returns the place of an oid that is not 0: it is there, or the place is empty. */
static uint64_t *
find(const ReadSet *self, uint64_t oid)
{
    size_t place = scattered(oid, self->seed, 3);
    for (;; place++)
        if (self->oids[place & (self->room - 1)] == 0 || self->oids[place & (self->room - 1)] == oid)
            return &self->oids[place & (self->room - 1)];
}

static int
grow(ReadSet *self)
{
    ReadSet old = *self;
    size_t room = old.room ? 2 * old.room : FIRST_ROOM;
    uint64_t *oids = PyMem_Calloc(room, sizeof(*oids));
    if (oids == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->oids = oids;
    self->room = room;
    for (size_t i = 0; i < old.room; i++)
        if (old.oids[i] != 0)
            *find(self, old.oids[i]) = old.oids[i];
    PyMem_Free(old.oids);
    return 0;
}

static int
add(ReadSet *self, uint64_t oid)
{
    if (oid == 0) {
        self->has_root = 1;
        return 0;
    }
    if ((self->count + 1) * 3 > self->room * 2 && grow(self) < 0)
        return -1;
    uint64_t *place = find(self, oid);
    self->count += *place == 0;
    *place = oid;
    return 0;
}

/* Moves the list to the table. */
static int
settle(ReadSet *self)
{
    for (; self->noted_count > 0; self->noted_count--)
        if (add(self, self->noted[self->noted_count - 1]) < 0)
            return -1;
    return 0;
}

/* Makes room in the list for one more. */
static int
reserve(ReadSet *self)
{
    if (self->noted_room == MAX_NOTED)
        return settle(self);
    size_t room = self->noted_room ? 2 * self->noted_room : FIRST_ROOM;
    uint64_t *noted = PyMem_Realloc(self->noted, room * sizeof(*noted));
    if (noted == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->noted = noted;
    self->noted_room = room;
    return 0;
}

int
note_read(ReadSet *self, uint64_t oid)
{
    if (self->noted_count == self->noted_room && reserve(self) < 0)
        return -1;
    self->noted[self->noted_count++] = oid;
    return 0;
}

static int
read_set_contains(ReadSet *self, PyObject *bytes)
{
    uint64_t oid;
    if (settle(self) < 0)
        return -1;
    if (!read_oid(bytes, &oid))
        return 0;
    return oid == 0 ? self->has_root : self->room > 0 && *find(self, oid) != 0;
}

static Py_ssize_t
read_set_length(ReadSet *self)
{
    return settle(self) < 0 ? -1 : (Py_ssize_t)self->count + self->has_root;
}

static int
append_oid(PyObject *list, uint64_t oid)
{
    PyObject *bytes = make_oid(oid);
    int result = bytes == NULL ? -1 : PyList_Append(list, bytes);
    Py_XDECREF(bytes);
    return result;
}

/* Iterates over the oids that are in the set now, whatever it gets meanwhile. */
static PyObject *
read_set_iter(ReadSet *self)
{
    PyObject *list = settle(self) < 0 ? NULL : PyList_New(0);
    int result = list == NULL ? -1 : self->has_root ? append_oid(list, 0) : 0;
    for (size_t i = 0; result == 0 && i < self->room; i++)
        if (self->oids[i] != 0)
            result = append_oid(list, self->oids[i]);
    PyObject *iterator = result < 0 ? NULL : PyObject_GetIter(list);
    Py_XDECREF(list);
    return iterator;
}

static PyObject *
read_set_add(ReadSet *self, PyObject *bytes)
{
    uint64_t oid;
    if (!read_oid(bytes, &oid))
        return PyErr_Format(PyExc_TypeError, "a ReadSet takes oids of 8 bytes, not %R", bytes);
    return note_read(self, oid) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
read_set_update(ReadSet *self, PyObject *oids)
{
    PyObject *iterator = PyObject_GetIter(oids), *oid;
    while (iterator != NULL && (oid = PyIter_Next(iterator)) != NULL) {
        PyObject *added = read_set_add(self, oid);
        Py_DECREF(oid);
        if (added == NULL)
            break;
        Py_DECREF(added);
    }
    Py_XDECREF(iterator);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *
read_set_isdisjoint(ReadSet *self, PyObject *oids)
{
    PyObject *iterator = PyObject_GetIter(oids), *oid;
    int is_found = 0;
    while (iterator != NULL && !is_found && (oid = PyIter_Next(iterator)) != NULL) {
        is_found = read_set_contains(self, oid);
        Py_DECREF(oid);
    }
    Py_XDECREF(iterator);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(!is_found);
}

static PyObject *
read_set_clear(ReadSet *self, PyObject *Py_UNUSED(ignored))
{
    if (self->noted_room > KEPT_ROOM) {
        PyMem_Free(self->noted);
        self->noted = NULL;
        self->noted_room = 0;
    }
    self->noted_count = 0;
    if (self->room > KEPT_ROOM) {
        PyMem_Free(self->oids);
        self->oids = NULL;
        self->room = 0;
    }
    else if (self->count > 0)
        memset(self->oids, 0, self->room * sizeof(*self->oids));
    self->count = 0;
    self->has_root = 0;
    Py_RETURN_NONE;
}

static PyObject *
read_set_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || kwargs != NULL)
        return PyErr_Format(PyExc_TypeError, "ReadSet() takes no arguments");
    uint64_t seed = seed_of("accessed");
    ReadSet *self = seed == 0 ? NULL : (ReadSet *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->seed = seed;
    return (PyObject *)self;
}

static void
read_set_dealloc(ReadSet *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->noted);
    PyMem_Free(self->oids);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef read_set_methods[] = {
    {"add", (PyCFunction)read_set_add, METH_O, NULL},
    {"update", (PyCFunction)read_set_update, METH_O, NULL},
    {"isdisjoint", (PyCFunction)read_set_isdisjoint, METH_O, NULL},
    {"clear", (PyCFunction)read_set_clear, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot read_set_slots[] = {
    {Py_tp_doc, "The oids of the objects that a transaction has accessed."},
    {Py_tp_new, read_set_new},
    {Py_tp_dealloc, read_set_dealloc},
    {Py_tp_iter, read_set_iter},
    {Py_sq_length, read_set_length},
    {Py_sq_contains, read_set_contains},
    {Py_tp_methods, read_set_methods},
    {0, NULL},
};

static PyType_Spec read_set_spec = {
    .name = "durus._persistent.ReadSet",
    .basicsize = sizeof(ReadSet),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = read_set_slots,
};

PyTypeObject *
make_read_set_type(PyObject *module)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &read_set_spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}
