/* The identity map of a connection, in C: what Cache in objects/cache.py does, which is the reference.

   A table from oids, as numbers, to objects. It holds a reference to a loaded object. To a ghost it has a pointer only, and
   the ghost has one back to the cache, by which it takes itself out of the table when it is freed. So there is no weak
   reference, no bytes object for an oid, and nothing that must be swept.

   What is always true, whenever other code can run:

   - obj->cache is a cache if and only if exactly one entry of that cache has obj as a ghost.
   - loaded_count is the number of the entries that have a loaded object.
   - An entry whose object has no references is one that is being freed: it is as good as empty, and a new object of the oid
     takes its place.

   Any code can run when a reference is dropped, when Python takes memory for an object, and when a state is dropped. So an
   entry is looked up again after that, and what goes through all objects goes through a copy of the table.

   An object may be loaded in one cache and in another one; a ghost is that of the cache that got it last. */

#include "_persistent.h"

#include <structmember.h>

enum { FIRST_ROOM = 8, KINDS = 16 };

typedef struct {
    uint64_t oid;
    uintptr_t tagged; /* the object, plus 1 if it is a ghost; 0 if the entry is empty */
} Entry;

/* An object when the list of the oldest was made. */
typedef struct {
    long long serial;
    uint64_t oid;
    unsigned int record_size;
} Aged;

/* What objects of a class lose with their state. */
typedef struct {
    PyTypeObject *type; /* which is not referred to, and its version */
    unsigned int version;
    PyObject *slots; /* a tuple of them, or None where Python does it */
} Kind;

struct Cache {
    PyObject_HEAD
    Entry *entries; /* each as near to its own place as those before it allow */
    size_t room;    /* a power of two, or 0 */
    size_t count;
    size_t loaded_count;
    PyObject *size; /* as it was given, and as a number */
    size_t limit;
    Aged *oldest; /* the least recently used last */
    size_t oldest_count;
    uint64_t seed;
    PyTypeObject *base;  /* PersistentBase */
    PyObject *slots_of;  /* a function of Python: the slots that a class empties */
    PyObject *set_ghost; /* the name of a method */
    Kind kinds[KINDS];
};

/* A copy of an entry, with a reference. */
typedef struct {
    uint64_t oid;
    PyObject *obj;
    int is_loaded;
} Copy;

/* The table */

static inline PyObject *
object_of(const Entry *entry)
{
    return (PyObject *)(entry->tagged & ~(uintptr_t)1);
}

static inline int
is_ghost(const Entry *entry)
{
    return entry->tagged & 1;
}

/* Returns the own place of an oid. */
static inline size_t
place_of(const Cache *self, uint64_t oid)
{
    return scattered(oid, self->seed, 2) & (self->room - 1);
}

static Entry *
find(const Cache *self, uint64_t oid)
{
    if (self->room == 0)
        return NULL;
    for (size_t place = place_of(self, oid);; place = (place + 1) & (self->room - 1)) {
        Entry *entry = &self->entries[place];
        if (entry->tagged == 0)
            return NULL;
        if (entry->oid == oid)
            return entry;
    }
}

static void
put_in(Cache *self, Entry entry)
{
    size_t place = place_of(self, entry.oid);
    while (self->entries[place].tagged != 0)
        place = (place + 1) & (self->room - 1);
    self->entries[place] = entry;
}

/* Gives the table another room; -1, without an exception, if there is no memory for it. */
static int
resize(Cache *self, size_t room)
{
    Entry *old = self->entries, *entries = room > SIZE_MAX / sizeof(Entry) ? NULL : PyMem_Calloc(room, sizeof(Entry));
    size_t old_room = self->room;
    if (entries == NULL)
        return -1;
    self->entries = entries;
    self->room = room;
    for (size_t i = 0; i < old_room; i++)
        if (old[i].tagged != 0)
            put_in(self, old[i]);
    PyMem_Free(old);
    return 0;
}

/* Makes room for one more; the table is at most two thirds full. */
static int
reserve(Cache *self)
{
    if ((self->count + 1) * 3 <= self->room * 2 || resize(self, self->room ? self->room * 2 : FIRST_ROOM) == 0)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* Makes an entry empty, and moves those after it that can now be nearer to their own places. */
static void
take_out(Cache *self, Entry *entry)
{
    size_t mask = self->room - 1, hole = (size_t)(entry - self->entries);
    for (size_t next = (hole + 1) & mask; self->entries[next].tagged != 0; next = (next + 1) & mask) {
        size_t own = place_of(self, self->entries[next].oid);
        if (((next - own) & mask) >= ((next - hole) & mask)) {
            self->entries[hole] = self->entries[next];
            hole = next;
        }
    }
    self->entries[hole].tagged = 0;
    self->count--;
    if (self->room > FIRST_ROOM && self->count < self->room / 8)
        resize(self, self->room / 4); /* without the memory for it, it stays as large as it is */
}

void
leave_cache(Persistent *ghost)
{
    Cache *self = ghost->cache;
    Entry *entry = find(self, ghost->oid);
    uintptr_t tagged = (uintptr_t)ghost | 1;
    if (entry == NULL || entry->tagged != tagged) /* someone has given it another oid meanwhile */
        for (entry = self->entries; entry->tagged != tagged;)
            entry++;
    ghost->cache = NULL;
    take_out(self, entry);
}

/* Makes an object that of an oid: as a ghost, or with a reference. Sets `old` to what the caller then drops, or to NULL. */
static int
enter(Cache *self, uint64_t oid, Persistent *obj, int as_ghost, PyObject **old)
{
    uintptr_t tagged = (uintptr_t)obj | (uintptr_t)as_ghost;
    Entry *entry = find(self, oid);
    *old = NULL;
    if (entry != NULL && entry->tagged == tagged)
        return 0;
    if (entry == NULL && reserve(self) < 0)
        return -1;
    if (as_ghost && obj->cache != NULL) /* that of another oid, or of another cache */
        leave_cache(obj);
    entry = find(self, oid);
    if (entry == NULL) {
        put_in(self, (Entry){oid, tagged});
        self->count++;
    }
    else {
        if (is_ghost(entry))
            ((Persistent *)object_of(entry))->cache = NULL;
        else {
            *old = object_of(entry);
            self->loaded_count--;
        }
        entry->tagged = tagged;
    }
    if (as_ghost)
        obj->cache = self;
    else {
        Py_INCREF(obj);
        self->loaded_count++;
    }
    return 0;
}

PyObject *
cached_object(Cache *self, uint64_t oid)
{
    Entry *entry = find(self, oid);
    return entry == NULL || Py_REFCNT(object_of(entry)) == 0 ? NULL : Py_NewRef(object_of(entry));
}

int
cache_object(Cache *self, uint64_t oid, Persistent *obj, int as_ghost)
{
    PyObject *old;
    if (enter(self, oid, obj, as_ghost, &old) < 0)
        return -1;
    Py_XDECREF(old);
    return 0;
}

static int
compare_copies(const void *one, const void *other)
{
    uint64_t left = ((const Copy *)one)->oid, right = ((const Copy *)other)->oid;
    return (left > right) - (left < right);
}

/* Returns all objects in the order of their oids, NULL with an exception. */
static Copy *
copy_table(Cache *self, size_t *count)
{
    Copy *copies = PyMem_Malloc((self->count + 1) * sizeof(Copy));
    *count = 0;
    if (copies == NULL)
        return (Copy *)PyErr_NoMemory();
    for (size_t i = 0; i < self->room; i++) {
        const Entry *entry = &self->entries[i];
        if (entry->tagged != 0 && Py_REFCNT(object_of(entry)) > 0)
            copies[(*count)++] = (Copy){entry->oid, Py_NewRef(object_of(entry)), !is_ghost(entry)};
    }
    qsort(copies, *count, sizeof(Copy), compare_copies);
    return copies;
}

static void
free_copies(Copy *copies, size_t count)
{
    while (count > 0)
        Py_DECREF(copies[--count].obj);
    PyMem_Free(copies);
}

/* States */

/* Returns the slots that objects of a class empty with their state, None where Python does it. It may call Python. */
static PyObject *
slots_of(Cache *self, PyTypeObject *type)
{
    Kind *kind = &self->kinds[((uintptr_t)type >> 6) % KINDS];
    if (kind->type == type && kind->version != 0 && kind->version == type->tp_version_tag)
        return Py_NewRef(kind->slots);
    PyObject *slots = PyObject_CallOneArg(self->slots_of, (PyObject *)type);
    if (slots == NULL)
        return NULL;
    for (Py_ssize_t i = 0; PyTuple_CheckExact(slots) && i < PyTuple_GET_SIZE(slots); i++)
        if (!is_slot_of(type, PyTuple_GET_ITEM(slots, i)))
            Py_SETREF(slots, Py_NewRef(Py_None));
    PyObject *old = kind->slots;
    kind->type = type;
    kind->version = type->tp_version_tag; /* 0 if the type has none: then it is asked again */
    kind->slots = Py_NewRef(slots);
    Py_XDECREF(old);
    return slots;
}

/* Stands for PersistentObject._p_set_status_ghost, PersistentObject._p_clear_state: makes an object a ghost. */
static int
drop_state(Cache *self, PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    PyObject *slots = slots_of(self, type), *result = NULL;
    if (slots == NULL)
        return -1;
    if (!PyTuple_CheckExact(slots)) {
        Py_DECREF(slots);
        result = PyObject_CallMethodNoArgs(obj, self->set_ghost);
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    PyObject *dropped = PyTuple_New(PyTuple_GET_SIZE(slots)); /* is freed last: finalizers may load the object again */
    PyObject *attributes = dropped == NULL || type->tp_dictoffset == 0 ? NULL : PyDict_New();
    int is_done = dropped != NULL && (attributes != NULL || type->tp_dictoffset == 0);
    if (is_done) {
        ((Persistent *)obj)->status = GHOST;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(slots); i++) {
            PyObject **place = slot_place(obj, PyTuple_GET_ITEM(slots, i));
            PyTuple_SET_ITEM(dropped, i, *place == NULL ? Py_NewRef(Py_None) : *place);
            *place = NULL;
        }
        if (attributes != NULL)
            is_done = PyObject_GenericSetDict(obj, attributes, NULL) == 0;
    }
    Py_XDECREF(attributes);
    Py_XDECREF(dropped);
    Py_DECREF(slots);
    return is_done ? 0 : -1;
}

/* Makes an object a ghost, of which the caller has a reference. */
static int
turn_into_ghost(Cache *self, uint64_t oid, PyObject *obj)
{
    PyObject *old;
    if (enter(self, oid, (Persistent *)obj, 1, &old) < 0)
        return -1;
    ((Persistent *)obj)->record_size = 0;
    Py_XDECREF(old);
    PyObject *type = Py_NewRef(Py_TYPE(obj)); /* what is called may give the object another one */
    int result = drop_state(self, obj);
    Py_DECREF(type);
    return result;
}

/* Methods */

/* Stands for Cache.get_size. */
static PyObject *
cache_get_size(Cache *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self->size);
}

/* Stands for Cache.set_size. */
static PyObject *
cache_set_size(Cache *self, PyObject *size)
{
    PyObject *one = PyLong_FromLong(1);
    int is_small = one == NULL ? -1 : PyObject_RichCompareBool(size, one, Py_LT);
    Py_XDECREF(one);
    if (is_small < 0)
        return NULL;
    if (is_small) {
        PyObject *errors = PyImport_ImportModule("durus.error");
        PyObject *error = errors == NULL ? NULL : PyObject_GetAttrString(errors, "ArgumentError");
        if (error != NULL)
            PyErr_Format(error, "a cache of %S objects is too small: it needs room for 1 at least", size);
        Py_XDECREF(error);
        Py_XDECREF(errors);
        return NULL;
    }
    Py_ssize_t limit = PY_SSIZE_T_MAX;
    if (!PyFloat_Check(size))
        limit = PyNumber_AsSsize_t(size, NULL); /* what is larger is as good as the largest */
    else if (PyFloat_AS_DOUBLE(size) < (double)(PY_SSIZE_T_MAX / 2))
        limit = (Py_ssize_t)PyFloat_AS_DOUBLE(size);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    self->limit = (size_t)limit;
    Py_XSETREF(self->size, Py_NewRef(size));
    Py_RETURN_NONE;
}

/* Stands for Cache.get_count. */
static PyObject *
cache_get_count(Cache *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(self->count);
}

/* Stands for Cache.get_loaded_count. */
static PyObject *
cache_get_loaded_count(Cache *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSize_t(self->loaded_count);
}

/* Stands for Cache.get. */
static PyObject *
cache_get(Cache *self, PyObject *bytes)
{
    uint64_t oid;
    PyObject *obj = read_oid(bytes, &oid) ? cached_object(self, oid) : NULL;
    return obj == NULL ? Py_NewRef(Py_None) : obj;
}

static PyObject *
take_two(Cache *self, PyObject *const *args, Py_ssize_t count, int as_ghost)
{
    uint64_t oid;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "expected an oid and an object, got %zd arguments", count);
    if (!PyObject_TypeCheck(args[1], self->base) || !read_oid(args[0], &oid))
        return PyErr_Format(PyExc_TypeError, "a cache takes oids of 8 bytes, and persistent objects");
    return cache_object(self, oid, (Persistent *)args[1], as_ghost) < 0 ? NULL : Py_NewRef(Py_None);
}

/* Stands for Cache.add. */
static PyObject *
cache_add(Cache *self, PyObject *const *args, Py_ssize_t count)
{
    return take_two(self, args, count, 1);
}

/* Stands for Cache.note_loaded. */
static PyObject *
cache_note_loaded(Cache *self, PyObject *const *args, Py_ssize_t count)
{
    return take_two(self, args, count, 0);
}

/* Stands for Cache.make_ghost. */
static PyObject *
cache_make_ghost(Cache *self, PyObject *bytes)
{
    uint64_t oid;
    PyObject *obj = read_oid(bytes, &oid) ? cached_object(self, oid) : NULL;
    int result = obj != NULL ? turn_into_ghost(self, oid, obj) : 0;
    Py_XDECREF(obj);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static void
belong_to(Persistent *obj, uint64_t oid, Connection *connection)
{
    obj->oid = oid;
    obj->has_oid = 1;
    Py_XSETREF(obj->connection, (Connection *)Py_NewRef(connection));
}

static int
is_connection(Cache *self, PyObject *obj)
{
    PyObject *module = PyType_GetModule(Py_TYPE(self));
    if (module == NULL)
        return -1;
    if (PyObject_TypeCheck(obj, connection_type_of(module)))
        return 1;
    PyErr_Format(PyExc_TypeError, "a cache takes a connection, not %.200s", Py_TYPE(obj)->tp_name);
    return 0;
}

/* Stands for Cache.take_in. */
static PyObject *
cache_take_in(Cache *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "take_in() takes an oid, an object and a connection, got %zd arguments", count);
    PyObject *taken = is_connection(self, args[2]) > 0 ? take_two(self, args, 2, 0) : NULL;
    if (taken == NULL)
        return NULL;
    uint64_t oid;
    Persistent *obj = (Persistent *)args[1];
    read_oid(args[0], &oid);
    Connection *connection = (Connection *)args[2];
    belong_to(obj, oid, connection);
    obj->serial = connection->transaction_serial; /* obj->connection may be another one by now */
    obj->status = SAVED;
    return taken;
}

static void
free_oldest(Cache *self)
{
    PyMem_Free(self->oldest);
    self->oldest = NULL;
    self->oldest_count = 0;
}

/* Stands for Cache.make_all_ghosts. */
static PyObject *
cache_make_all_ghosts(Cache *self, PyObject *connection)
{
    if (is_connection(self, connection) <= 0)
        return NULL;
    size_t count;
    Copy *copies = copy_table(self, &count);
    int result = copies == NULL ? -1 : 0;
    for (size_t i = 0; result == 0 && i < count; i++) {
        belong_to((Persistent *)copies[i].obj, copies[i].oid, (Connection *)connection);
        ((Persistent *)copies[i].obj)->serial = 0;
        result = turn_into_ghost(self, copies[i].oid, copies[i].obj);
    }
    if (copies != NULL)
        free_copies(copies, count);
    if (result == 0)
        free_oldest(self);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static int
compare_ages(const void *one, const void *other)
{
    const Aged *left = one, *right = other;
    int order = (left->serial < right->serial) - (left->serial > right->serial);
    return order ? order : (left->oid < right->oid) - (left->oid > right->oid);
}

/* Lists all loaded objects, the least recently used last. */
static int
list_oldest(Cache *self)
{
    Aged *oldest = PyMem_Realloc(self->oldest, (self->loaded_count + 1) * sizeof(Aged));
    if (oldest == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->oldest = oldest;
    for (size_t i = 0; i < self->room; i++) {
        const Entry *entry = &self->entries[i];
        if (entry->tagged == 0 || is_ghost(entry))
            continue;
        const Persistent *obj = (const Persistent *)object_of(entry);
        oldest[self->oldest_count++] = (Aged){obj->serial, entry->oid, obj->record_size};
    }
    qsort(oldest, self->oldest_count, sizeof(Aged), compare_ages);
    return 0;
}

/* Makes a ghost of an object if it was not used since the list was made. */
static int
evict(Cache *self, Aged aged)
{
    Entry *entry = find(self, aged.oid);
    if (entry == NULL || is_ghost(entry) || ((Persistent *)object_of(entry))->serial != aged.serial)
        return 0;
    PyObject *obj = Py_NewRef(object_of(entry));
    int result = turn_into_ghost(self, aged.oid, obj);
    Py_DECREF(obj);
    return result;
}

/* Stands for Cache.shrink. */
static PyObject *
cache_shrink(Cache *self, PyObject *serial)
{
    long long transaction_serial = PyLong_AsLongLong(serial);
    if (transaction_serial == -1 && PyErr_Occurred())
        return NULL;
    while (self->loaded_count > self->limit) {
        if (self->oldest_count == 0) {
            if (list_oldest(self) < 0)
                return NULL;
            if (self->oldest[self->oldest_count - 1].serial == transaction_serial) {
                free_oldest(self);
                break;
            }
        }
        Aged aged = self->oldest[--self->oldest_count];
        if (aged.serial != transaction_serial && evict(self, aged) < 0)
            return NULL;
    }
    if (self->oldest_count == 0)
        free_oldest(self);
    Py_RETURN_NONE;
}

/* Stands for Cache.note_size. */
static PyObject *
cache_note_size(Cache *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "expected an oid and a size, got %zd arguments", count);
    size_t size = PyLong_AsSize_t(args[1]);
    if (size == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (size > UINT_MAX) /* what is larger is as good as the largest */
        size = UINT_MAX;
    uint64_t oid;
    Persistent *obj = read_oid(args[0], &oid) ? (Persistent *)cached_object(self, oid) : NULL;
    if (obj == NULL)
        return PyLong_FromLong(0);
    long long more = (long long)size - obj->record_size;
    obj->record_size = (unsigned int)size;
    Py_DECREF(obj);
    return PyLong_FromLongLong(more);
}

/* Stands for Cache.shrink_bytes. */
static PyObject *
cache_shrink_bytes(Cache *self, PyObject *most)
{
    double limit = PyFloat_AsDouble(most);
    if (limit == -1.0 && PyErr_Occurred())
        return NULL;
    free_oldest(self);
    if (list_oldest(self) < 0)
        return NULL;
    long long total = 0;
    for (size_t i = 0; i < self->oldest_count; i++)
        total += self->oldest[i].record_size;
    while ((double)total > limit && self->oldest_count > 0) {
        Aged aged = self->oldest[--self->oldest_count];
        total -= aged.record_size;
        if (evict(self, aged) < 0)
            return NULL;
    }
    free_oldest(self);
    return PyLong_FromLongLong(total);
}

/* Stands for Cache.is_overfull. */
static PyObject *
cache_is_overfull(Cache *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(self->loaded_count > self->limit);
}

/* Stands for Cache.is_loaded. */
static PyObject *
cache_is_loaded(Cache *self, PyObject *bytes)
{
    uint64_t oid;
    Entry *entry = read_oid(bytes, &oid) ? find(self, oid) : NULL;
    return PyBool_FromLong(entry != NULL && !is_ghost(entry));
}

/* Stands for Cache.loaded_objects. */
static PyObject *
cache_loaded_objects(Cache *self, PyObject *Py_UNUSED(ignored))
{
    size_t count;
    Copy *copies = copy_table(self, &count);
    PyObject *result = copies == NULL ? NULL : PyList_New(0);
    for (size_t i = 0; result != NULL && i < count; i++)
        if (copies[i].is_loaded && PyList_Append(result, copies[i].obj) < 0)
            Py_CLEAR(result);
    if (copies != NULL)
        free_copies(copies, count);
    return result;
}

/* Stands for Cache.objects. */
static PyObject *
cache_objects(Cache *self, PyObject *Py_UNUSED(ignored))
{
    size_t count;
    Copy *copies = copy_table(self, &count);
    PyObject *result = copies == NULL ? NULL : PyDict_New();
    for (size_t i = 0; result != NULL && i < count; i++) {
        PyObject *oid = make_oid(copies[i].oid);
        if (oid == NULL || PyDict_SetItem(result, oid, copies[i].obj) < 0)
            Py_CLEAR(result);
        Py_XDECREF(oid);
    }
    if (copies != NULL)
        free_copies(copies, count);
    return result;
}

/* The class */

static int
cache_traverse(Cache *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->base);
    Py_VISIT(self->slots_of);
    for (int i = 0; i < KINDS; i++)
        Py_VISIT(self->kinds[i].slots);
    for (size_t i = 0; i < self->room; i++)
        if (self->entries[i].tagged != 0 && !is_ghost(&self->entries[i]))
            Py_VISIT(object_of(&self->entries[i]));
    return 0;
}

/* Empties the cache: ghosts first, so that no object has a pointer to it when other code runs. */
static int
cache_clear(Cache *self)
{
    Entry *entries = self->entries;
    size_t room = self->room;
    self->entries = NULL;
    self->room = self->count = self->loaded_count = 0;
    free_oldest(self);
    for (size_t i = 0; i < room; i++)
        if (is_ghost(&entries[i]))
            ((Persistent *)object_of(&entries[i]))->cache = NULL;
    for (size_t i = 0; i < room; i++)
        if (entries[i].tagged != 0 && !is_ghost(&entries[i]))
            Py_DECREF(object_of(&entries[i]));
    PyMem_Free(entries);
    return 0;
}

static void
cache_dealloc(Cache *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    cache_clear(self);
    Py_XDECREF(self->size);
    Py_XDECREF(self->base);
    Py_XDECREF(self->slots_of);
    Py_XDECREF(self->set_ghost);
    for (int i = 0; i < KINDS; i++)
        Py_XDECREF(self->kinds[i].slots);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
cache_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", NULL};
    PyObject *size, *module = PyType_GetModule(type);
    if (module == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "O:Cache", names, &size))
        return NULL;
    Cache *self = (Cache *)type->tp_alloc(type, 0);
    PyObject *objects = self == NULL ? NULL : PyImport_ImportModule("durus.persistent");
    if (objects == NULL) {
        Py_XDECREF(self);
        return NULL;
    }
    self->base = (PyTypeObject *)Py_NewRef(persistent_type_of(module));
    self->slots_of = PyObject_GetAttrString(objects, "slots_to_empty");
    self->set_ghost = PyUnicode_InternFromString("_p_set_status_ghost");
    Py_DECREF(objects);
    self->seed = self->set_ghost == NULL ? 0 : (uint64_t)PyObject_Hash(self->set_ghost) | 1;
    PyObject *is_set = self->slots_of == NULL || self->set_ghost == NULL ? NULL : cache_set_size(self, size);
    if (is_set == NULL)
        Py_CLEAR(self);
    Py_XDECREF(is_set);
    return (PyObject *)self;
}

static PyMethodDef cache_methods[] = {
    {"get_size", (PyCFunction)cache_get_size, METH_NOARGS, NULL},
    {"set_size", (PyCFunction)cache_set_size, METH_O, NULL},
    {"get_count", (PyCFunction)cache_get_count, METH_NOARGS, NULL},
    {"get_loaded_count", (PyCFunction)cache_get_loaded_count, METH_NOARGS, NULL},
    {"get", (PyCFunction)cache_get, METH_O, NULL},
    {"add", (PyCFunction)(void (*)(void))cache_add, METH_FASTCALL, NULL},
    {"note_loaded", (PyCFunction)(void (*)(void))cache_note_loaded, METH_FASTCALL, NULL},
    {"take_in", (PyCFunction)(void (*)(void))cache_take_in, METH_FASTCALL, NULL},
    {"make_ghost", (PyCFunction)cache_make_ghost, METH_O, NULL},
    {"make_all_ghosts", (PyCFunction)cache_make_all_ghosts, METH_O, NULL},
    {"shrink", (PyCFunction)cache_shrink, METH_O, NULL},
    {"note_size", (PyCFunction)(void (*)(void))cache_note_size, METH_FASTCALL, NULL},
    {"shrink_bytes", (PyCFunction)cache_shrink_bytes, METH_O, NULL},
    {"is_overfull", (PyCFunction)cache_is_overfull, METH_NOARGS, NULL},
    {"is_loaded", (PyCFunction)cache_is_loaded, METH_O, NULL},
    {"loaded_objects", (PyCFunction)cache_loaded_objects, METH_NOARGS, NULL},
    {"objects", (PyCFunction)cache_objects, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot cache_slots[] = {
    {Py_tp_doc, "The identity map of a connection, which holds about `size` objects in their loaded form."},
    {Py_tp_new, cache_new},
    {Py_tp_dealloc, cache_dealloc},
    {Py_tp_traverse, cache_traverse},
    {Py_tp_clear, cache_clear},
    {Py_tp_methods, cache_methods},
    {0, NULL},
};

static PyType_Spec cache_spec = {
    .name = "durus._persistent.Cache",
    .basicsize = sizeof(Cache),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = cache_slots,
};

PyTypeObject *
make_cache_type(PyObject *module)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &cache_spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}
