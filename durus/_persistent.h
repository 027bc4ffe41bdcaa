/* What the C sources of the extension share: the two structs of _persistent.c, what it does with them, and what
   _btree.c keeps. */

#ifndef DURUS_PERSISTENT_H
#define DURUS_PERSISTENT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#if defined(__GNUC__)
#define SHARED __attribute__((visibility("hidden"))) /* between the sources, with nobody else */
#else
#define SHARED
#endif

enum { GHOST = -1, SAVED = 0, UNSAVED = 1 };

typedef struct {
    PyObject_HEAD
    long long transaction_serial;
    struct ReadSet *accessed; /* NULL before __init__ */
    PyObject *changed;        /* a dict, likewise */
} Connection;

typedef struct Cache Cache;

typedef struct {
    PyObject_HEAD
    Connection *connection; /* NULL is None */
    uint64_t oid;           /* as a number: bytes are made of it when they are asked for */
    Cache *cache;           /* the one that has a pointer to this ghost, or NULL; it is not referred to */
    long long serial;
    signed char status;
    char has_oid;
    unsigned int record_size; /* in bytes, as a cache was told; 0 if it was not */
} Persistent;

static inline int
is_fresh(Persistent *self) /* in this transaction: neither to be loaded nor to be noted */
{
    return self->connection == NULL
        || (self->serial == self->connection->transaction_serial && self->status != GHOST);
}

/* Reads a number of 8 bytes, the highest first. */
static inline uint64_t
read_u64(const unsigned char *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

/* Reads an oid; 0 if it is none. */
static inline int
read_oid(PyObject *bytes, uint64_t *oid)
{
    if (bytes == NULL || !PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) != 8)
        return 0;
    *oid = read_u64((const unsigned char *)PyBytes_AS_STRING(bytes));
    return 1;
}

static inline void
put_oid(char *at, uint64_t oid)
{
    for (int i = 8; i-- > 0; oid >>= 8)
        at[i] = (char)oid;
}

static inline PyObject *
make_oid(uint64_t oid)
{
    char bytes[8];
    put_oid(bytes, oid);
    return PyBytes_FromStringAndSize(bytes, 8);
}

/* Returns a place for an oid in a table. Neighbours stand beside one another, 2 ** `bits` of them, because they are used one
   after the other; no file knows the seed, so that it can't have oids of one place. */
static inline size_t
scattered(uint64_t oid, uint64_t seed, int bits)
{
    uint64_t group = oid >> bits;
    group = (group ^ group >> 32) * seed;
    group = (group ^ group >> 29) * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(group >> 32) << bits | (size_t)(oid & ((1u << bits) - 1));
}

/* Makes a seed for scattered() of the hash of a text, which Python makes anew in each process; 0 with an error set. */
static inline uint64_t
seed_of(const char *text)
{
    PyObject *name = PyUnicode_FromString(text);
    uint64_t seed = name == NULL ? 0 : (uint64_t)PyObject_Hash(name) | 1;
    Py_XDECREF(name);
    return seed;
}

/* Ends an object that the collector of garbage knows; `clear` drops what it refers to. */
static inline void
free_object(PyObject *self, inquiry clear)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Makes a class, and gives the module its name. */
static inline int
add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    int result = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return result;
}

/* Returns the names of the module sys. */
static inline PyObject *
names_of_sys(void)
{
    PyObject *sys = PyImport_ImportModule("sys");
    PyObject *names = sys == NULL ? NULL : Py_NewRef(PyModule_GetDict(sys));
    Py_XDECREF(sys);
    return names;
}

/* Loads a ghost, and notes an access. */
SHARED int use(Persistent *self);
SHARED PyObject *persistent_getattro(Persistent *self, PyObject *name);
SHARED PyObject *persistent_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);
/* Notes a change where that was not done yet. */
SHARED int change(Persistent *self);
/* Calls obj._p_note_change(). */
SHARED int call_note_change(PyObject *obj);

/* Makes a ghost of a class of persistent objects. */
SHARED PyObject *make_ghost(PyTypeObject *type, uint64_t oid, Connection *connection);
/* Makes a dict the one of an object's attributes, with the names that all objects share. */
SHARED int adopt_state(PyObject *obj, PyObject *state);
/* Takes a ghost out of its cache. */
SHARED void leave_cache(Persistent *ghost);
/* Returns the object of an oid, or NULL without an exception. */
SHARED PyObject *cached_object(Cache *cache, uint64_t oid);
/* Makes an object that of an oid, as a ghost or as a loaded one. */
SHARED int cache_object(Cache *cache, uint64_t oid, Persistent *obj, int as_ghost);
SHARED PyTypeObject *make_cache_type(PyObject *module);
/* Adds an oid to a read set. */
SHARED int note_read(struct ReadSet *set, uint64_t oid);
SHARED PyTypeObject *make_read_set_type(PyObject *module);
SHARED PyTypeObject *cache_type_of(PyObject *module);
SHARED PyTypeObject *connection_type_of(PyObject *module);
SHARED PyTypeObject *persistent_type_of(PyObject *module);
SHARED int states_exec(PyObject *module);
SHARED int encode_exec(PyObject *module);
SHARED int entry_index_exec(PyObject *module);
/* Returns 'p' for _p_..., which belongs to Durus, 'v' for _v_..., which is volatile [OBJ-80], and 0 for others. */
SHARED char kind_of(PyObject *name);
SHARED PyObject *without_volatile(PyObject *module, PyObject *attributes);
/* Returns whether an object of the type keeps what a slot has in a place of its own. */
SHARED int is_slot_of(PyTypeObject *type, PyObject *slot);
SHARED PyObject **slot_place(PyObject *obj, PyObject *slot);
/* Returns what a name stands for in a module that is loaded, a borrowed reference, or NULL. `sys_names` are the names of
   the module sys, `modules` is the name of the modules in it. */
SHARED PyObject *find_loaded(PyObject *sys_names, PyObject *modules, PyObject *module_name, PyObject *name);
/* Whether a type is one whose values are made by a call that runs no code of an application: one of the set, or Decimal in
   C, which nothing here imports. */
SHARED int is_value_type(PyObject *type, PyObject *value_types, PyObject *sys_names, PyObject *modules);
SHARED PyObject *is_record_of(PyObject *module, PyObject *args);
SHARED PyObject *refs_outside(PyObject *module, PyObject *records);
SHARED PyObject *record_in_page(PyObject *module, PyObject *const *args, Py_ssize_t count);
SHARED PyObject *newest_record_in_page(PyObject *module, PyObject *const *args, Py_ssize_t count);
/* Sets the file offset that an EntryIndex has for an oid; 0 if it has none, -1 if it is not an EntryIndex. */
SHARED int find_in_index(PyObject *index, PyObject *oid, uint64_t *offset);
SHARED PyObject *find_entries(PyObject *module, PyObject *args);
SHARED PyObject *pack_entries(PyObject *module, PyObject *args);
SHARED PyObject *usual_json(PyObject *module, PyObject *value);
SHARED PyObject *usual_references(PyObject *module, PyObject *args);
SHARED PyObject *usual_state(PyObject *module, PyObject *args);
SHARED PyObject *usual_steps(PyObject *module, PyObject *args);
SHARED PyObject *pickles_fit(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Returns whether a class has a _p_note_change() of its own. */
SHARED int notes_by_itself(PyTypeObject *type);

/* What btree.py gave to join_btree(), and names. */
typedef struct {
    PyTypeObject *node_type; /* BNode, and the slots of its instances */
    PyObject *items_slot;
    PyObject *nodes_slot;
    Py_ssize_t items_offset;
    Py_ssize_t nodes_offset;
    PyObject *node_init;
    PyObject *node_setattr;
    PyTypeObject *tree_type; /* the BTree that is made of Python alone, and the slots of its instances */
    PyObject *root_slot;
    PyObject *count_slot;
    Py_ssize_t root_offset;
    Py_ssize_t count_offset;
    PyTypeObject *usual_type; /* the class of nodes that was seen last, which is not referred to, and its version */
    unsigned int usual_version;
    Py_ssize_t usual_degree; /* -1 if an object of the class must be asked */
    int usual_notes;         /* the class has a _p_note_change() of its own */
    PyObject *globals; /* of btree.py */
    PyTypeObject *items_type; /* the iterators of this module */
    PyTypeObject *parts_type;
    PyObject *no_args;
    PyObject *items; /* names */
    PyObject *nodes;
    PyObject *root;
    PyObject *init;
    PyObject *setattr;
    PyObject *minimum_degree;
    PyObject *value;
} BTreeState;

/* The same of the other collections. */
enum { A_DICT, A_LIST, A_SET, COLLECTIONS };

typedef struct {
    PyTypeObject *type; /* what is made of Python alone, and the slot of its instances */
    PyObject *name;
    PyObject *slot;
    Py_ssize_t offset;
    PyTypeObject *usual_type; /* as above */
    unsigned int usual_version;
} CollectionState;

SHARED CollectionState *collection_state_of(PyObject *obj, int kind);
SHARED CollectionState *collection_state_of_module(PyObject *module, int kind);
SHARED int collections_exec(PyObject *module);

SHARED BTreeState *btree_state_of(PyObject *obj); /* of a type of the module, or of a subclass */
SHARED BTreeState *btree_state_of_module(PyObject *module);

SHARED int btree_exec(PyObject *module);
SHARED int btree_traverse(BTreeState *state, visitproc visit, void *arg);
SHARED void btree_clear(BTreeState *state);

#endif
