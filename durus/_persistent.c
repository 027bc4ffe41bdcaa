/* The hot paths of durus/persistent.py, in C.

   What is true here is what is true there: that module is the reference, the tests run on both, and
   a behaviour that is changed in one is changed in the other. There are no caches and no policy here, and, apart
   from names and types, nothing is kept but the fields of two structs:

       ConnectionBase   the number of the transaction under way, the set of what was accessed in it, and the dict
                        of what was changed in it
       PersistentBase   the four slots of an object, its oid as a number, and the cache that has a pointer to it

   and four functions: new_ghost() makes an object for an oid, take_state() fills it, without_volatile() gives the
   attributes that are stored, persistent_id_by() makes the check of each value that a pickler comes to. What is done
   for btree.py is in _btree.c, for the other collections in _collections.c, for the identity map in _cache.c, for
   the read set in _read_set.c, for serialize.py in _states.c and _encode.c, and for the reading of files in _files.c
   and _entry_index.c, which are part of the same module.

   PersistentBase has no tp_setattro of its own. Its __setattr__ and __delattr__ are plain methods, which a
   subclass made in Python gets into its slots by Python's own dispatch: that costs some nanoseconds
   for each write, but it keeps object.__setattr__ working for subclasses. Frozen dataclasses call it. */

#include "_persistent.h"

#include <structmember.h>

/* What the module keeps. The state of an object is another thing: its attributes. */
typedef struct {
    PyTypeObject *connection_type;
    PyTypeObject *persistent_type;
    PyTypeObject *cache_type;
    PyTypeObject *read_set_type;
    PyObject *own_note_change; /* the methods below, to see if a subclass has others */
    PyObject *own_p_note_change;
    PyObject *note_change;   /* names */
    PyObject *p_note_change;
    PyObject *load_state;
    PyObject *class_;
    PyObject *repr;
    PyObject *setstate;
    BTreeState btree;
    CollectionState collections[COLLECTIONS];
} ModuleState;

static struct PyModuleDef module_def;

static ModuleState *
state_of(PyObject *obj)
{
    return PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(obj), &module_def));
}

PyTypeObject *
connection_type_of(PyObject *module)
{
    return ((ModuleState *)PyModule_GetState(module))->connection_type;
}

PyTypeObject *
persistent_type_of(PyObject *module)
{
    return ((ModuleState *)PyModule_GetState(module))->persistent_type;
}

PyTypeObject *
cache_type_of(PyObject *module)
{
    return ((ModuleState *)PyModule_GetState(module))->cache_type;
}

BTreeState *
btree_state_of(PyObject *obj)
{
    return &state_of(obj)->btree;
}

BTreeState *
btree_state_of_module(PyObject *module)
{
    return &((ModuleState *)PyModule_GetState(module))->btree;
}

CollectionState *
collection_state_of(PyObject *obj, int kind)
{
    return &state_of(obj)->collections[kind];
}

CollectionState *
collection_state_of_module(PyObject *module, int kind)
{
    return &((ModuleState *)PyModule_GetState(module))->collections[kind];
}

/* Names */

char
kind_of(PyObject *name)
{
    if (PyUnicode_GET_LENGTH(name) < 3 || PyUnicode_READ_CHAR(name, 0) != '_' || PyUnicode_READ_CHAR(name, 2) != '_')
        return 0;
    Py_UCS4 letter = PyUnicode_READ_CHAR(name, 1);
    return letter == 'p' || letter == 'v' ? (char)letter : 0;
}

static int
is_untracked(Persistent *self, PyObject *name)
{
    if (kind_of(name) == 'p')
        return 1;
    if (PyUnicode_GET_LENGTH(name) == 0 || PyUnicode_READ_CHAR(name, 0) != '_')
        return 0;
    ModuleState *state = state_of((PyObject *)self);
    return PyUnicode_Compare(name, state->class_) == 0 || PyUnicode_Compare(name, state->repr) == 0
        || PyUnicode_Compare(name, state->setstate) == 0;
}

/* Accesses. [OBJ-5] to [OBJ-9] */

static int
note_access(Connection *connection, Persistent *obj)
{
    if (connection->accessed == NULL) {
        PyErr_SetString(PyExc_TypeError, "a connection notes no access before its __init__()");
        return -1;
    }
    if (obj->has_oid && note_read(connection->accessed, obj->oid) < 0)
        return -1;
    obj->serial = connection->transaction_serial;
    return 0;
}

int
use(Persistent *self)
{
    Connection *connection = (Connection *)Py_NewRef(self->connection); /* loading may part the two */
    int result = 0;
    if (self->status == GHOST || connection->transaction_serial < 0) { /* below 0: no transaction is open */
        PyObject *name = state_of((PyObject *)self)->load_state;
        PyObject *loaded = PyObject_CallMethodOneArg((PyObject *)connection, name, (PyObject *)self);
        if (loaded == NULL)
            result = -1;
        Py_XDECREF(loaded);
    }
    if (result == 0)
        result = note_access(connection, self);
    Py_DECREF(connection);
    return result;
}

PyObject *
persistent_getattro(Persistent *self, PyObject *name)
{
    if (!is_fresh(self) && PyUnicode_Check(name) && !is_untracked(self, name) && use(self) < 0)
        return NULL;
    return PyObject_GenericGetAttr((PyObject *)self, name);
}

static PyObject *persistent_note_change(Persistent *, PyObject *);
static PyObject *connection_note_change(Connection *, PyObject *);

int
notes_by_itself(PyTypeObject *type)
{
    ModuleState *state = PyModule_GetState(PyType_GetModuleByDef(type, &module_def));
    return _PyType_Lookup(type, state->p_note_change) != state->own_p_note_change;
}

int
call_note_change(PyObject *obj)
{
    ModuleState *state = state_of(obj);
    PyObject *noted;
    if (_PyType_Lookup(Py_TYPE(obj), state->p_note_change) == state->own_p_note_change)
        noted = persistent_note_change((Persistent *)obj, NULL);
    else
        noted = PyObject_CallMethodNoArgs(obj, state->p_note_change);
    Py_XDECREF(noted);
    return noted == NULL ? -1 : 0;
}

int
change(Persistent *self)
{
    if (is_fresh(self) && (self->connection == NULL || self->status == UNSAVED))
        return 0;
    return call_note_change((PyObject *)self);
}

/* Returns -1 for an internal name that can't be set. [OBJ-60] */
static int
check_field(PyObject *name, Py_ssize_t count)
{
    static const char *const fields[] = {"_p_connection", "_p_oid", "_p_serial", "_p_status"};
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
        if (PyUnicode_CompareWithASCIIString(name, fields[i]) == 0)
            return 0;
    if (count < 2) /* it is to be deleted, and is not there */
        return 0;
    PyErr_Format(PyExc_AttributeError,
                 "%R can't be set: names that begin with _p_ belong to Durus; give the attribute another name", name);
    return -1;
}

static PyObject *
set_attribute(Persistent *self, PyObject *const *args, Py_ssize_t count, Py_ssize_t expected)
{
    if (count != expected)
        return PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", expected, count);
    if (!PyUnicode_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "attribute name must be string, not '%.200s'", Py_TYPE(args[0])->tp_name);
    char kind = kind_of(args[0]);
    int result = kind == 'p' ? check_field(args[0], count) : kind == 0 ? change(self) : is_fresh(self) ? 0 : use(self);
    if (result < 0
        || PyObject_GenericSetAttr((PyObject *)self, args[0], count == 2 ? args[1] : NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
persistent_setattr(Persistent *self, PyObject *const *args, Py_ssize_t count)
{
    return set_attribute(self, args, count, 2);
}

static PyObject *
persistent_delattr(Persistent *self, PyObject *const *args, Py_ssize_t count)
{
    return set_attribute(self, args, count, 1);
}

static PyObject *
persistent_note_change(Persistent *self, PyObject *Py_UNUSED(ignored))
{
    if (self->connection == NULL)
        Py_RETURN_NONE;
    if (!is_fresh(self) && use(self) < 0)
        return NULL;
    if (self->status == SAVED && self->connection != NULL) {
        ModuleState *state = state_of((PyObject *)self);
        PyObject *connection = Py_NewRef(self->connection), *noted;
        if (_PyType_Lookup(Py_TYPE(connection), state->note_change) == state->own_note_change)
            noted = connection_note_change((Connection *)connection, (PyObject *)self);
        else
            noted = PyObject_CallMethodOneArg(connection, state->note_change, (PyObject *)self);
        Py_DECREF(connection);
        if (noted == NULL)
            return NULL;
        Py_DECREF(noted);
        self->status = UNSAVED;
    }
    Py_RETURN_NONE;
}

/* PersistentBase */

static PyObject *
new_object(PyTypeObject *type)
{
    PyObject *no_args = PyTuple_New(0); /* there is only one */
    PyObject *result = no_args == NULL ? NULL : PyBaseObject_Type.tp_new(type, no_args, NULL);
    Py_XDECREF(no_args);
    return result;
}

PyObject *
persistent_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (type->tp_init == PyBaseObject_Type.tp_init
        && (PyTuple_GET_SIZE(args) || (kwargs != NULL && PyDict_GET_SIZE(kwargs))))
        return PyErr_Format(PyExc_TypeError, "%s() takes no arguments", type->tp_name);
    Persistent *self = (Persistent *)new_object(type);
    if (self != NULL)
        self->status = UNSAVED;
    return (PyObject *)self;
}

static int
persistent_traverse(Persistent *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->connection);
    return 0;
}

/* Breaks no cycle through the connection, which breaks it itself: until the object is freed, a finalizer may get it
   from the cache, and then it must have what it needs to be loaded again. All that it has lost is its state. */
static int
persistent_clear(Persistent *self)
{
    if (self->connection != NULL)
        self->status = GHOST;
    return 0;
}

static void
persistent_dealloc(Persistent *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->cache != NULL)
        leave_cache(self);
    Py_CLEAR(self->connection);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
get_connection(Persistent *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->connection == NULL ? Py_None : (PyObject *)self->connection);
}

static int
set_connection(Persistent *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || value == Py_None)
        Py_CLEAR(self->connection);
    else if (PyObject_TypeCheck(value, state_of((PyObject *)self)->connection_type))
        Py_XSETREF(self->connection, (Connection *)Py_NewRef(value));
    else {
        PyErr_Format(PyExc_TypeError, "_p_connection must be a ConnectionBase or None, not %.200s",
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    return 0;
}

static PyObject *
get_oid(Persistent *self, void *Py_UNUSED(closure))
{
    return self->has_oid ? make_oid(self->oid) : Py_NewRef(Py_None);
}

static int
set_oid(Persistent *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || value == Py_None)
        self->has_oid = 0;
    else if (read_oid(value, &self->oid))
        self->has_oid = 1;
    else {
        PyErr_Format(PyExc_TypeError, "_p_oid must be 8 bytes or None, not %R", value);
        return -1;
    }
    return 0;
}

static PyGetSetDef persistent_getset[] = {
    {"_p_connection", (getter)get_connection, (setter)set_connection, NULL, NULL},
    {"_p_oid", (getter)get_oid, (setter)set_oid, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef persistent_members[] = {
    {"_p_serial", T_LONGLONG, offsetof(Persistent, serial), 0, NULL},
    {"_p_status", T_BYTE, offsetof(Persistent, status), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef persistent_methods[] = {
    {"__setattr__", (PyCFunction)(void (*)(void))persistent_setattr, METH_FASTCALL, NULL},
    {"__delattr__", (PyCFunction)(void (*)(void))persistent_delattr, METH_FASTCALL, NULL},
    {"_p_note_change", (PyCFunction)persistent_note_change, METH_NOARGS,
     PyDoc_STR("_p_note_change(self)\n--\n\nNote that the state was changed, so that the next commit stores it. [OBJ-8]\n\n"
               "Call it when a container that is not persistent, but part of the state, was changed.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot persistent_slots[] = {
    {Py_tp_doc, "PersistentBase(*args, **kwargs)\n--\n\nCalls the connection when an attribute is read or written. [OBJ-5] to [OBJ-9]"},
    {Py_tp_new, persistent_new},
    {Py_tp_dealloc, persistent_dealloc},
    {Py_tp_traverse, persistent_traverse},
    {Py_tp_clear, persistent_clear},
    {Py_tp_getattro, persistent_getattro},
    {Py_tp_getset, persistent_getset},
    {Py_tp_members, persistent_members},
    {Py_tp_methods, persistent_methods},
    {0, NULL},
};

static PyType_Spec persistent_spec = {
    .name = "durus._persistent.PersistentBase",
    .basicsize = sizeof(Persistent),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = persistent_slots,
};

/* ConnectionBase */

static int
connection_traverse(Connection *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->accessed);
    Py_VISIT(self->changed);
    return 0;
}

static int
connection_clear(Connection *self)
{
    Py_CLEAR(self->accessed);
    Py_CLEAR(self->changed);
    return 0;
}

static void
connection_dealloc(Connection *self)
{
    free_object((PyObject *)self, (inquiry)connection_clear);
}

static PyObject *
connection_note_change(Connection *self, PyObject *obj)
{
    if (!PyObject_TypeCheck(obj, state_of((PyObject *)self)->persistent_type) || self->changed == NULL) {
        PyErr_SetString(PyExc_TypeError, "note_change() takes a persistent object, after __init__()");
        return NULL;
    }
    if (!((Persistent *)obj)->has_oid)
        Py_RETURN_NONE;
    PyObject *changed = Py_NewRef(self->changed), *oid = make_oid(((Persistent *)obj)->oid);
    int result = oid == NULL ? -1 : PyObject_SetItem(changed, oid, obj);
    Py_DECREF(changed);
    Py_XDECREF(oid);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
get_accessed(Connection *self, void *Py_UNUSED(closure))
{
    if (self->accessed == NULL)
        PyErr_SetString(PyExc_AttributeError, "accessed");
    return Py_XNewRef((PyObject *)self->accessed);
}

static int
set_accessed(Connection *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL || !Py_IS_TYPE(value, state_of((PyObject *)self)->read_set_type)) {
        PyErr_SetString(PyExc_TypeError, "the accessed of a connection must be a ReadSet");
        return -1;
    }
    Py_XSETREF(self->accessed, (struct ReadSet *)Py_NewRef(value));
    return 0;
}

static PyGetSetDef connection_getset[] = {
    {"accessed", (getter)get_accessed, (setter)set_accessed,
     "The oids of the objects that were accessed in this transaction.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef connection_members[] = {
    {"transaction_serial", T_LONGLONG, offsetof(Connection, transaction_serial), 0,
     "The number of the transaction under way, which goes up by one with each commit or abort."},
    {"changed", T_OBJECT_EX, offsetof(Connection, changed), 0,
     "The stored objects that were changed in this transaction, by oid."},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef connection_methods[] = {
    {"note_change", (PyCFunction)connection_note_change, METH_O,
     PyDoc_STR("note_change(self, obj)\n--\n\nTake the object into the set that the next commit stores.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot connection_slots[] = {
    {Py_tp_doc, "The number of the transaction under way."},
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {Py_tp_members, connection_members},
    {Py_tp_getset, connection_getset},
    {Py_tp_methods, connection_methods},
    {0, NULL},
};

static PyType_Spec connection_spec = {
    .name = "durus._persistent.ConnectionBase",
    .basicsize = sizeof(Connection),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = connection_slots,
};

/* Functions */

PyObject *
make_ghost(PyTypeObject *type, uint64_t oid, Connection *connection)
{
    /* Past object.__new__, which refuses an abstract class [OBJ-67], and takes memory for attributes. */
    Persistent *self = (Persistent *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->status = GHOST;
        self->oid = oid;
        self->has_oid = 1;
        self->connection = (Connection *)Py_NewRef(connection);
    }
    return (PyObject *)self;
}

static PyObject *
new_ghost(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    ModuleState *state = PyModule_GetState(module);
    uint64_t oid;
    if (count != 3 || !PyType_Check(args[0]) || !read_oid(args[1], &oid)
        || !PyType_IsSubtype((PyTypeObject *)args[0], state->persistent_type)
        || !PyObject_TypeCheck(args[2], state->connection_type)) {
        PyErr_SetString(PyExc_TypeError, "new_ghost() takes a class, an oid and a connection");
        return NULL;
    }
    return make_ghost((PyTypeObject *)args[0], oid, (Connection *)args[2]);
}

int
adopt_state(PyObject *obj, PyObject *state)
{
    Py_ssize_t place = 0;
    PyObject *name, *value;
    PyObject *attributes = PyDict_New();
    int result = attributes == NULL ? -1 : 0;
    while (result == 0 && PyDict_Next(state, &place, &name, &value)) {
        Py_INCREF(name);
        if (PyUnicode_CheckExact(name))
            PyUnicode_InternInPlace(&name);
        result = PyDict_SetItem(attributes, name, value);
        Py_DECREF(name);
    }
    if (result == 0)
        result = PyObject_GenericSetDict(obj, attributes, NULL);
    Py_XDECREF(attributes);
    return result;
}

static PyObject *
take_state(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    ModuleState *state = PyModule_GetState(module);
    if (count != 3 || !PyObject_TypeCheck(args[0], state->persistent_type)) {
        PyErr_SetString(PyExc_TypeError, "take_state() takes a persistent object, a state and a bool");
        return NULL;
    }
    Persistent *self = (Persistent *)args[0];
    long long serial = self->serial;
    if (self->connection != NULL)
        self->serial = self->connection->transaction_serial;
    self->status = UNSAVED;
    PyObject *result = NULL;
    if (args[2] != Py_True || !PyDict_CheckExact(args[1]))
        result = PyObject_CallMethodOneArg(args[0], state->setstate, args[1]);
    else if (adopt_state(args[0], args[1]) == 0)
        result = Py_NewRef(Py_None);
    self->serial = serial;
    self->status = result == NULL ? GHOST : SAVED;
    return result;
}

static int
is_volatile(PyObject *name)
{
    return PyUnicode_Check(name) && kind_of(name) == 'v';
}

PyObject *
without_volatile(PyObject *module, PyObject *attributes)
{
    Py_ssize_t index = 0;
    PyObject *name = NULL;
    int is_found = 0;
    if (!PyDict_Check(attributes))
        return PyErr_Format(PyExc_TypeError, "without_volatile() takes a dict");
    while (!is_found && PyDict_Next(attributes, &index, &name, NULL))
        is_found = is_volatile(name);
    if (!is_found)
        return Py_NewRef(attributes);
    PyObject *names = PyDict_Keys(attributes); /* the hash of a name may run any code */
    PyObject *result = names == NULL ? NULL : PyDict_Copy(attributes);
    for (index = 0; result != NULL && index < PyList_GET_SIZE(names); index++) {
        name = PyList_GET_ITEM(names, index);
        if (is_volatile(name) && PyDict_DelItem(result, name) < 0)
            Py_CLEAR(result);
    }
    Py_XDECREF(names);
    return result;
}

static PyObject *
persistent_id(PyObject *pair, PyObject *obj) /* of PersistentBase and what makes the references */
{
    if (!PyObject_TypeCheck(obj, (PyTypeObject *)PyTuple_GET_ITEM(pair, 0)))
        Py_RETURN_NONE;
    return PyObject_CallOneArg(PyTuple_GET_ITEM(pair, 1), obj);
}

static PyMethodDef persistent_id_def = {"persistent_id", persistent_id, METH_O, NULL};

static PyObject *
persistent_id_by(PyObject *module, PyObject *reference)
{
    ModuleState *state = PyModule_GetState(module);
    PyObject *pair = PyTuple_Pack(2, (PyObject *)state->persistent_type, reference);
    PyObject *result = pair == NULL ? NULL : PyCFunction_New(&persistent_id_def, pair);
    Py_XDECREF(pair);
    return result;
}

static PyMethodDef module_methods[] = {
    {"new_ghost", (PyCFunction)(void (*)(void))new_ghost, METH_FASTCALL,
     PyDoc_STR("Return a new ghost of a class, with an oid and a connection.")},
    {"take_state", (PyCFunction)(void (*)(void))take_state, METH_FASTCALL,
     PyDoc_STR("Call __setstate__ as if the object was changed already, so that it notes no change. [OBJ-13]")},
    {"without_volatile", without_volatile, METH_O,
     PyDoc_STR("Return the attributes that are part of a state: the dict itself if all of them are. [OBJ-80]")},
    {"persistent_id_by", persistent_id_by, METH_O,
     PyDoc_STR("Return the persistent_id of a pickler: what an other function says of a persistent object.")},
    {"fits", (PyCFunction)(void (*)(void))pickles_fit, METH_FASTCALL,
     PyDoc_STR("Return whether the numbers in pickles are in their limits beyond doubt. [REC-33]")},
    {"usual_json", usual_json, METH_O, PyDoc_STR("Return a plain value as JSON.")},
    {"usual_references", usual_references, METH_VARARGS, PyDoc_STR("Return the references in a plain value, with paths.")},
    {"usual_state", usual_state, METH_VARARGS, PyDoc_STR("Return what exports make of a usual pickle of a state.")},
    {"usual_steps", usual_steps, METH_VARARGS, PyDoc_STR("Return the pickle that imports make of a usual state.")},
    {"is_record_of", is_record_of, METH_VARARGS,
     PyDoc_STR("Return whether a record is well-formed, and that of an oid.")},
    {"refs_outside", refs_outside, METH_O, PyDoc_STR("Return the oids that records refer to and that have none.")},
    {"pack_entries", pack_entries, METH_VARARGS, PyDoc_STR("Return the entries of records, and their offsets.")},
    {"record_in_page", (PyCFunction)(void (*)(void))record_in_page, METH_FASTCALL,
     PyDoc_STR("Return the record of an oid in an entry of a page.")},
    {"newest_record_in_page", (PyCFunction)(void (*)(void))newest_record_in_page, METH_FASTCALL,
     PyDoc_STR("Return the record of an oid in its newest entry, if a page has that.")},
    {"find_entries", find_entries, METH_VARARGS,
     PyDoc_STR("Find the sound entries of objects in a window of a file.")},
    {NULL, NULL, 0, NULL},
};

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    ModuleState *state = PyModule_GetState(module);
    Py_VISIT(state->connection_type);
    Py_VISIT(state->persistent_type);
    Py_VISIT(state->cache_type);
    Py_VISIT(state->read_set_type);
    Py_VISIT(state->own_note_change);
    Py_VISIT(state->own_p_note_change);
    for (int kind = 0; kind < COLLECTIONS; kind++) {
        Py_VISIT(state->collections[kind].type);
        Py_VISIT(state->collections[kind].slot);
    }
    return btree_traverse(&state->btree, visit, arg);
}

static int
module_clear(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);
    Py_CLEAR(state->connection_type);
    Py_CLEAR(state->persistent_type);
    Py_CLEAR(state->cache_type);
    Py_CLEAR(state->read_set_type);
    Py_CLEAR(state->own_note_change);
    Py_CLEAR(state->own_p_note_change);
    Py_CLEAR(state->note_change);
    Py_CLEAR(state->p_note_change);
    Py_CLEAR(state->load_state);
    Py_CLEAR(state->class_);
    Py_CLEAR(state->repr);
    Py_CLEAR(state->setstate);
    for (int kind = 0; kind < COLLECTIONS; kind++) {
        Py_CLEAR(state->collections[kind].type);
        Py_CLEAR(state->collections[kind].name);
        Py_CLEAR(state->collections[kind].slot);
    }
    btree_clear(&state->btree);
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static int
module_exec(PyObject *module)
{
    ModuleState *state = PyModule_GetState(module);
    state->connection_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &connection_spec, NULL);
    state->persistent_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &persistent_spec, NULL);
    state->cache_type = make_cache_type(module);
    state->read_set_type = make_read_set_type(module);
    if (state->connection_type == NULL || state->persistent_type == NULL || state->cache_type == NULL
        || state->read_set_type == NULL)
        return -1;
    const struct {
        PyObject **where;
        const char *text;
    } names[] = {
        {&state->note_change, "note_change"}, {&state->p_note_change, "_p_note_change"},
        {&state->load_state, "load_state"},   {&state->class_, "__class__"},
        {&state->repr, "__repr__"},           {&state->setstate, "__setstate__"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        *names[i].where = PyUnicode_InternFromString(names[i].text);
        if (*names[i].where == NULL)
            return -1;
    }
    if (PyModule_AddType(module, state->connection_type) < 0 || PyModule_AddType(module, state->persistent_type) < 0)
        return -1;
    state->own_note_change = PyObject_GetAttr((PyObject *)state->connection_type, state->note_change);
    state->own_p_note_change = PyObject_GetAttr((PyObject *)state->persistent_type, state->p_note_change);
    if (state->own_note_change == NULL || state->own_p_note_change == NULL || btree_exec(module) < 0 || states_exec(module) < 0
        || encode_exec(module) < 0 || entry_index_exec(module) < 0)
        return -1;
    return collections_exec(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_USED}, /* the GIL alone keeps two threads out of one object */
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "durus._persistent",
    .m_doc = "The hot paths of durus.persistent.",
    .m_size = sizeof(ModuleState),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__persistent(void)
{
    return PyModuleDef_Init(&module_def);
}
