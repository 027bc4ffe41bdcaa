/* What PersistentDict, PersistentList and PersistentSet read, in C: one check of the object, and what the builtin does.

   persistent_dict.py and its kin are the reference, as _btree.c says of btree.py: the comment before a function names
   the Python that it stands for, and tests/twins.py finds it when one of the two is changed alone. An object whose
   attributes are intercepted is left to the Python. */

#include "_persistent.h"

#include <structmember.h>

/* Returns the dict, list or set of an object, which is loaded and counts as accessed: a new reference, or NULL, without
   an error if the Python is to be asked. */
static PyObject *
data_of(PyObject *self, CollectionState *state)
{
    PyTypeObject *type = Py_TYPE(self);
    if (type != state->usual_type || type->tp_version_tag == 0 || type->tp_version_tag != state->usual_version) {
        if (state->type == NULL || type->tp_getattro != (getattrofunc)persistent_getattro
            || _PyType_Lookup(type, state->name) != state->slot || !PyType_IsSubtype(type, state->type))
            return NULL;
        state->usual_type = type;
        state->usual_version = type->tp_version_tag;
    }
    if (!is_fresh((Persistent *)self) && use((Persistent *)self) < 0)
        return NULL;
    return Py_XNewRef(*(PyObject **)((char *)self + state->offset));
}

static PyObject *
call_reference(CollectionState *state, const char *name, PyObject *self, PyObject *argument)
{
    if (PyErr_Occurred())
        return NULL;
    if (state->type == NULL) {
        PyErr_SetString(PyExc_TypeError, "join_collection() was not called");
        return NULL;
    }
    PyObject *method = PyObject_GetAttrString((PyObject *)state->type, name);
    PyObject *result = method == NULL ? NULL : PyObject_CallFunctionObjArgs(method, self, argument, NULL);
    Py_XDECREF(method);
    return result;
}

static PyObject *
subscript(PyObject *self, PyObject *key, CollectionState *state)
{
    PyObject *data = data_of(self, state);
    if (data == NULL)
        return call_reference(state, "__getitem__", self, key);
    PyObject *result = PyObject_GetItem(data, key);
    Py_DECREF(data);
    return result;
}

static int
contains(PyObject *self, PyObject *item, CollectionState *state)
{
    PyObject *data = data_of(self, state);
    if (data == NULL) {
        PyObject *found = call_reference(state, "__contains__", self, item);
        int is_there = found == NULL ? -1 : PyObject_IsTrue(found);
        Py_XDECREF(found);
        return is_there;
    }
    int is_there = PySequence_Contains(data, item);
    Py_DECREF(data);
    return is_there;
}

static Py_ssize_t
length(PyObject *self, CollectionState *state)
{
    PyObject *data = data_of(self, state);
    if (data == NULL) {
        PyObject *found = call_reference(state, "__len__", self, NULL);
        Py_ssize_t size = found == NULL ? -1 : PyLong_AsSsize_t(found);
        Py_XDECREF(found);
        return size;
    }
    Py_ssize_t size = PyObject_Size(data);
    Py_DECREF(data);
    return size;
}

static PyObject *
iterate(PyObject *self, CollectionState *state)
{
    PyObject *data = data_of(self, state);
    if (data == NULL)
        return call_reference(state, "__iter__", self, NULL);
    PyObject *result = PyObject_GetIter(data);
    Py_DECREF(data);
    return result;
}

/* Stands for PersistentDict.__getitem__. */
static PyObject *
dict_subscript(PyObject *self, PyObject *key)
{
    return subscript(self, key, collection_state_of(self, A_DICT));
}

/* Stands for PersistentDict.__contains__. */
static int
dict_contains(PyObject *self, PyObject *key)
{
    return contains(self, key, collection_state_of(self, A_DICT));
}

/* Stands for PersistentDict.__len__. */
static Py_ssize_t
dict_length(PyObject *self)
{
    return length(self, collection_state_of(self, A_DICT));
}

/* Stands for PersistentDict.__iter__. */
static PyObject *
dict_iter(PyObject *self)
{
    return iterate(self, collection_state_of(self, A_DICT));
}

/* Stands for PersistentDict.get. */
static PyObject *
dict_get(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    CollectionState *state = collection_state_of(self, A_DICT);
    PyObject *data = names == NULL && (count == 1 || count == 2) ? data_of(self, state) : NULL, *result;
    if (data == NULL || !PyDict_CheckExact(data)) {
        Py_XDECREF(data);
        if (PyErr_Occurred())
            return NULL;
        PyObject *method = state->type == NULL ? NULL : PyObject_GetAttrString((PyObject *)state->type, "get");
        PyObject *bound = method == NULL ? NULL : PyMethod_New(method, self);
        result = bound == NULL ? NULL : PyObject_Vectorcall(bound, args, (size_t)count, names);
        Py_XDECREF(bound);
        Py_XDECREF(method);
        if (result == NULL && !PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "join_collection() was not called");
        return result;
    }
    result = Py_XNewRef(PyDict_GetItemWithError(data, args[0]));
    if (result == NULL && !PyErr_Occurred())
        result = Py_NewRef(count == 2 ? args[1] : Py_None);
    Py_DECREF(data);
    return result;
}

/* Stands for PersistentList.__getitem__. */
static PyObject *
list_subscript(PyObject *self, PyObject *index)
{
    return subscript(self, index, collection_state_of(self, A_LIST));
}

/* Stands for PersistentList.__contains__. */
static int
list_contains(PyObject *self, PyObject *item)
{
    return contains(self, item, collection_state_of(self, A_LIST));
}

/* Stands for PersistentList.__len__. */
static Py_ssize_t
list_length(PyObject *self)
{
    return length(self, collection_state_of(self, A_LIST));
}

/* Stands for PersistentList.__iter__. */
static PyObject *
list_iter(PyObject *self)
{
    return iterate(self, collection_state_of(self, A_LIST));
}

/* Stands for PersistentSet.__contains__. */
static int
set_contains(PyObject *self, PyObject *item)
{
    return contains(self, item, collection_state_of(self, A_SET));
}

/* Stands for PersistentSet.__len__. */
static Py_ssize_t
set_length(PyObject *self)
{
    return length(self, collection_state_of(self, A_SET));
}

/* Stands for PersistentSet.__iter__. */
static PyObject *
set_iter(PyObject *self)
{
    return iterate(self, collection_state_of(self, A_SET));
}

static PyMethodDef dict_methods[] = {
    {"get", (PyCFunction)(void (*)(void))dict_get, METH_FASTCALL | METH_KEYWORDS,
     "get($self, key, failobj=None)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot dict_slots[] = {
    {Py_tp_methods, dict_methods}, {Py_mp_subscript, dict_subscript}, {Py_sq_contains, dict_contains},
    {Py_mp_length, dict_length},   {Py_tp_iter, dict_iter},           {0, NULL},
};

static PyType_Slot list_slots[] = {
    {Py_mp_subscript, list_subscript},
    {Py_sq_contains, list_contains},
    {Py_sq_length, list_length},
    {Py_tp_iter, list_iter},
    {0, NULL},
};

static PyType_Slot set_slots[] = {
    {Py_sq_contains, set_contains},
    {Py_sq_length, set_length},
    {Py_tp_iter, set_iter},
    {0, NULL},
};

#define BASE(text, its_slots) \
    {.name = text, .basicsize = sizeof(PyObject), .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, .slots = its_slots}

static PyType_Spec specs[COLLECTIONS] = {
    [A_DICT] = BASE("durus._persistent.DictBase", dict_slots),
    [A_LIST] = BASE("durus._persistent.ListBase", list_slots),
    [A_SET] = BASE("durus._persistent.SetBase", set_slots),
};

static PyObject *
join_collection(PyObject *module, PyObject *args)
{
    const char *const attributes[COLLECTIONS] = {[A_DICT] = "data", [A_LIST] = "data", [A_SET] = "s"};
    int kind;
    PyObject *type;
    if (!PyArg_ParseTuple(args, "iO!:join_collection", &kind, &PyType_Type, &type))
        return NULL;
    if (kind < 0 || kind >= COLLECTIONS)
        return PyErr_Format(PyExc_ValueError, "there is no such kind of collection");
    CollectionState *state = collection_state_of_module(module, kind);
    PyObject *name = PyUnicode_InternFromString(attributes[kind]);
    PyObject *slot = name == NULL ? NULL : PyObject_GetAttr(type, name);
    int is_slot = slot != NULL && Py_IS_TYPE(slot, &PyMemberDescr_Type);
    PyMemberDef *member = is_slot ? ((PyMemberDescrObject *)slot)->d_member : NULL;
    if (member == NULL || member->type != T_OBJECT_EX) {
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_TypeError, "%U must be a slot", name);
        Py_XDECREF(name);
        Py_XDECREF(slot);
        return NULL;
    }
    state->offset = member->offset;
    state->usual_type = NULL;
    Py_XSETREF(state->name, name);
    Py_XSETREF(state->slot, slot);
    Py_XSETREF(state->type, (PyTypeObject *)Py_NewRef(type));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"join_collection", join_collection, METH_VARARGS,
     PyDoc_STR("Take the class that is made of Python alone, of a dict (0), a list (1) or a set (2).")},
    {NULL, NULL, 0, NULL},
};

int
collections_exec(PyObject *module)
{
    for (int kind = 0; kind < COLLECTIONS; kind++)
        if (add_type(module, &specs[kind]) < 0)
            return -1;
    return PyModule_AddFunctions(module, functions);
}
