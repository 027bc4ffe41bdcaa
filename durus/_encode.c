/* Stores states, in C: what ObjectWriter._pickled_record() of serialize.py makes of an object in the usual case.

   A StateWriter takes an object and makes its record; or it returns None and has done nothing but given oids to new
   objects, where anything is unusual, and then the Python, which is the reference, does all of it and words the error for
   what is wrong. So nothing here reports an error of a state. What it makes is the same as what the Python makes, byte
   for byte: the opcodes, what is memoized, and what the memo finds by its identity are those of pickle's own C.

   Usual is an object whose class has the __getstate__() of PersistentObject, with a state of values in encode(). No code
   of an application runs meanwhile, except that take_in() asks the storage for an oid. (A finalizer can run whenever
   memory is taken, and other threads can run in take_in(). So what is walked through is held, and may change.) */

#include "_persistent.h"

#include <structmember.h>

enum {
    MAX_BYTES = 1 << 24,
    FRAME_BYTES = 1 << 16, /* when there are so many, pickle begins another frame */
    FRAME_HEAD = 9,
    BATCH = 1000, /* items, which pickle adds at a time */
    TRIMS_BATCHES = PY_VERSION_HEX >= 0x030F0000, /* no last batch of nothing, and none of one item of a list or dict */
    MAX_DEPTH = 50,
    CLASSES = 32,
    FEW_BYTES = 1024,
    MANY_BYTES = 1 << 20, /* of which there is no second copy */
    FEW_PLACES = 64, /* a power of 2, as all sizes of a memo */
};

/* How objects of a class are stored. Types are compared by their versions, which are never used twice, so that nothing
   here keeps a class in memory. */
typedef struct {
    PyTypeObject *type; /* not referred to */
    unsigned int version;
    PyObject *pickle;    /* the class pickle, or NULL if all is left to Python */
    PyObject *names;     /* a tuple of those of the slots: empty if the state is the __dict__ */
    Py_ssize_t *offsets; /* where the slots are in an object */
} Class;

typedef struct {
    PyObject_HEAD
    PyTypeObject *base;      /* PersistentObject */
    PyObject *layout;        /* a function of Python: how objects of a class are stored */
    PyObject *compress;      /* a function of Python: the stored form of a state pickle */
    Py_ssize_t compress_from; /* which leaves shorter ones as they are */
    PyObject *extensions;    /* the extension registry of copyreg */
    PyTypeObject *abc_meta;  /* abc.ABCMeta, the metaclass of collections */
    PyObject *dispatch;      /* the table of copyreg: functions that pickle values of other types */
    PyObject *value_types;   /* a frozenset of types that pickle themselves as a call, by code of Python */
    PyObject *sys_names;     /* the names of the module sys, and names */
    PyObject *modules;
    PyObject *module;
    PyObject *qualname;
    PyObject *getstate;
    PyObject *reduce;
    PyObject *protocol;
    Class classes[CLASSES];
    int next_class; /* the place of the next one that is not known */
} StateWriter;

/* The numbers of the values in the memo, by identity. */
typedef struct {
    PyObject *value; /* held, so that no other value gets its address */
    Py_ssize_t number;
    int is_oid; /* it is the oid of the object that has this number, as if that was one bytes object */
} Place;

typedef struct {
    StateWriter *writer;
    PyObject *connection;
    PyObject *new_objects; /* a dict: by id, the oids of new objects */
    PyObject *take_in;     /* a function of Python: gives an oid to a new object */
    unsigned char *bytes;
    Py_ssize_t size, room;
    Py_ssize_t frame; /* where the frame begins that is being written, -1 if there is none */
    int is_framing;
    Place *places;
    Py_ssize_t place_count, places_used, memo_count;
    unsigned char *refs; /* oids, one after the other */
    Py_ssize_t ref_count, ref_room;
    int depth;
    int has_frozenset;
    unsigned char few_bytes[FEW_BYTES];
    Place few_places[FEW_PLACES];
} Encoder;

/* What a function below returns: 1 if it has done its work, 0 where anything is unusual, which may leave an exception, and
   -1 with an exception that comes from outside. */

static void
encoder_init(Encoder *encoder)
{
    encoder->bytes = encoder->few_bytes;
    encoder->room = FEW_BYTES;
    encoder->places = encoder->few_places;
    encoder->place_count = FEW_PLACES;
    memset(encoder->few_places, 0, sizeof(encoder->few_places));
    encoder->size = encoder->places_used = encoder->memo_count = encoder->ref_count = encoder->ref_room = 0;
    encoder->refs = NULL;
    encoder->frame = -1;
    encoder->is_framing = 0;
    encoder->depth = encoder->has_frozenset = 0;
}

static void
free_bytes(Encoder *encoder)
{
    if (encoder->bytes != encoder->few_bytes)
        PyMem_Free(encoder->bytes);
    encoder->bytes = encoder->few_bytes;
}

static void
encoder_free(Encoder *encoder)
{
    for (Py_ssize_t i = 0; i < encoder->place_count; i++)
        Py_XDECREF(encoder->places[i].value);
    if (encoder->places != encoder->few_places)
        PyMem_Free(encoder->places);
    free_bytes(encoder);
    PyMem_Free(encoder->refs);
}

/* Returns the place for this many further bytes, NULL if there are too many. */
static unsigned char *
reserve_bytes(Encoder *encoder, Py_ssize_t count)
{
    if (count > MAX_BYTES - encoder->size)
        return NULL;
    Py_ssize_t size = encoder->size + count;
    if (size > encoder->room) {
        unsigned char *old = encoder->bytes == encoder->few_bytes ? NULL : encoder->bytes;
        Py_ssize_t room = size < MANY_BYTES ? 2 * size : size + size / 8;
        unsigned char *bytes = PyMem_Realloc(old, room);
        if (bytes == NULL)
            return NULL;
        if (old == NULL)
            memcpy(bytes, encoder->few_bytes, encoder->size);
        encoder->bytes = bytes;
        encoder->room = room;
    }
    encoder->size = size;
    return encoder->bytes + size - count;
}

static void
put_number(unsigned char *at, unsigned long long value, int count)
{
    for (int i = 0; i < count; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

/* The same, in a frame. */
static unsigned char *
reserve(Encoder *encoder, Py_ssize_t count)
{
    if (encoder->frame < 0 && encoder->is_framing) {
        if (reserve_bytes(encoder, FRAME_HEAD) == NULL)
            return NULL;
        encoder->frame = encoder->size - FRAME_HEAD;
    }
    return reserve_bytes(encoder, count);
}

/* Ends the frame, with the length that only now is known. */
static void
end_frame(Encoder *encoder)
{
    if (encoder->frame < 0)
        return;
    unsigned char *at = encoder->bytes + encoder->frame;
    Py_ssize_t content = encoder->size - encoder->frame - FRAME_HEAD;
    if (content < 4) { /* then pickle makes no frame */
        memmove(at, at + FRAME_HEAD, content);
        encoder->size -= FRAME_HEAD;
    }
    else {
        at[0] = 0x95;
        put_number(at + 1, content, 8);
    }
    encoder->frame = -1;
}

/* Ends a frame that is long enough, as pickle does before each value. */
static void
begin_value(Encoder *encoder)
{
    if (encoder->frame >= 0 && encoder->size - encoder->frame - FRAME_HEAD >= FRAME_BYTES)
        end_frame(encoder);
}

/* Writes an opcode, and a number in this many bytes. */
static int
write_opcode(Encoder *encoder, unsigned char opcode, unsigned long long value, int count)
{
    unsigned char *at = reserve(encoder, 1 + count);
    if (at == NULL)
        return 0;
    at[0] = opcode;
    put_number(at + 1, value, count);
    return 1;
}

static int
write_data(Encoder *encoder, unsigned char short_opcode, unsigned char long_opcode, const char *data, Py_ssize_t size)
{
    if (size > MAX_BYTES)
        return 0;
    if (size >= FRAME_BYTES) { /* this stands between the frames */
        end_frame(encoder);
        encoder->is_framing = 0;
    }
    int result = size < 256 ? write_opcode(encoder, short_opcode, size, 1) : write_opcode(encoder, long_opcode, size, 4);
    unsigned char *at = result ? reserve(encoder, size) : NULL;
    encoder->is_framing = 1;
    if (at == NULL)
        return 0;
    memcpy(at, data, size);
    return 1;
}

/* The memo */

static Place *
place_of(Place *places, Py_ssize_t count, PyObject *value)
{
    size_t mask = count - 1, i = ((size_t)value >> 4) * 0x9E3779B1u;
    for (i ^= i >> 16;; i++)
        if (places[i & mask].value == NULL || places[i & mask].value == value)
            return &places[i & mask];
}

static int
grow_memo(Encoder *encoder)
{
    Py_ssize_t count = 4 * encoder->place_count;
    Place *places = PyMem_Calloc(count, sizeof(*places));
    if (places == NULL)
        return 0;
    for (Py_ssize_t i = 0; i < encoder->place_count; i++)
        if (encoder->places[i].value != NULL)
            *place_of(places, count, encoder->places[i].value) = encoder->places[i];
    if (encoder->places != encoder->few_places)
        PyMem_Free(encoder->places);
    encoder->places = places;
    encoder->place_count = count;
    return 1;
}

static int
write_get(Encoder *encoder, const Place *known)
{
    return known->number < 256 ? write_opcode(encoder, 'h', known->number, 1)
                               : write_opcode(encoder, 'j', known->number, 4);
}

static int
memoize_as(Encoder *encoder, PyObject *value, int is_oid)
{
    if (2 * encoder->places_used >= encoder->place_count && !grow_memo(encoder))
        return 0;
    Place *place = place_of(encoder->places, encoder->place_count, value);
    if (place->value != NULL) /* it is in there already: a tuple that contains itself */
        return 0;
    *place = (Place){Py_NewRef(value), encoder->memo_count++, is_oid};
    encoder->places_used++;
    return write_opcode(encoder, 0x94, 0, 0); /* MEMOIZE */
}

static int
memoize(Encoder *encoder, PyObject *value)
{
    return memoize_as(encoder, value, 0);
}

/* Values */

static int encode(Encoder *encoder, PyObject *value);

static int
encode_long(Encoder *encoder, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow || (number == -1 && PyErr_Occurred()))
        return 0;
    if (number >= 0 && number <= 0xffff)
        return number <= 0xff ? write_opcode(encoder, 'K', number, 1) : write_opcode(encoder, 'M', number, 2);
    if (number >= INT32_MIN && number <= INT32_MAX)
        return write_opcode(encoder, 'J', (unsigned long long)number, 4);
    int count = 5; /* at least */
    while (count < 8 && number >> (8 * count - 1) != 0 && number >> (8 * count - 1) != -1)
        count++;
    if (!write_opcode(encoder, 0x8a, count, 1)) /* LONG1 */
        return 0;
    unsigned char *at = reserve(encoder, count);
    if (at == NULL)
        return 0;
    put_number(at, (unsigned long long)number, count);
    return 1;
}

static int
encode_float(Encoder *encoder, PyObject *value)
{
    unsigned char *at = reserve(encoder, 9);
    if (at == NULL)
        return 0;
    at[0] = 'G';
    return PyFloat_Pack8(PyFloat_AS_DOUBLE(value), (char *)at + 1, 0) == 0;
}

static int
encode_text(Encoder *encoder, PyObject *value)
{
    Py_ssize_t size;
    if (PyUnicode_GET_LENGTH(value) > MAX_BYTES)
        return 0;
    const char *text = PyUnicode_AsUTF8AndSize(value, &size);
    return text != NULL && write_data(encoder, 0x8c, 'X', text, size) ? memoize(encoder, value) : 0;
}

static int
encode_tuple(Encoder *encoder, PyObject *value)
{
    Py_ssize_t count = PyTuple_GET_SIZE(value);
    if (count == 0)
        return write_opcode(encoder, ')', 0, 0);
    if (count > MAX_BYTES)
        return 0;
    int result = count <= 3 ? 1 : write_opcode(encoder, '(', 0, 0);
    for (Py_ssize_t i = 0; result == 1 && i < count; i++)
        result = encode(encoder, PyTuple_GET_ITEM(value, i));
    if (result == 1)
        result = write_opcode(encoder, count <= 3 ? 0x84 + (unsigned char)count : 't', 0, 0);
    return result == 1 ? memoize(encoder, value) : result;
}

static int
encode_list(Encoder *encoder, PyObject *value)
{
    Py_ssize_t count = PyList_GET_SIZE(value);
    if (!write_opcode(encoder, ']', 0, 0) || !memoize(encoder, value))
        return 0;
    int result = 1;
    for (Py_ssize_t i = 0; result == 1 && i < count; i++) {
        int is_alone = i % BATCH == 0 && i == count - 1 && (count == 1 || TRIMS_BATCHES);
        if (PyList_GET_SIZE(value) != count || (i % BATCH == 0 && !is_alone && !write_opcode(encoder, '(', 0, 0)))
            return 0;
        PyObject *item = Py_NewRef(PyList_GET_ITEM(value, i));
        result = encode(encoder, item);
        Py_DECREF(item);
        if (result == 1 && (i == count - 1 || i % BATCH == BATCH - 1))
            result = write_opcode(encoder, is_alone ? 'a' : 'e', 0, 0);
    }
    return result;
}

/* Ends a batch of items that is full, and begins the next one with a mark. Up to Python 3.14, pickle does so even if nothing
   is left for it. */
static int
write_batch(Encoder *encoder, Py_ssize_t found, Py_ssize_t count, unsigned char opcode)
{
    if (found % BATCH != 0)
        return 1;
    if (found > 0 && !write_opcode(encoder, opcode, 0, 0))
        return 0;
    if (TRIMS_BATCHES && (found == count || (found == count - 1 && opcode == 'u')))
        return 1;
    return write_opcode(encoder, '(', 0, 0);
}

static int
encode_dict(Encoder *encoder, PyObject *value)
{
    Py_ssize_t count = PyDict_GET_SIZE(value), place = 0, found = 0;
    if (!write_opcode(encoder, '}', 0, 0) || !memoize(encoder, value))
        return 0;
    int result = count < 2 ? 1 : write_batch(encoder, 0, count, 'u');
    PyObject *key, *item;
    while (result == 1 && PyDict_Next(value, &place, &key, &item)) {
        Py_INCREF(key);
        Py_INCREF(item);
        result = encode(encoder, key);
        if (result == 1)
            result = encode(encoder, item);
        Py_DECREF(key);
        Py_DECREF(item);
        if (result == 1)
            result = PyDict_GET_SIZE(value) == count && write_batch(encoder, ++found, count, 'u');
    }
    if (result == 1 && found != count)
        return 0;
    if (result == 1 && count > 0 && !(TRIMS_BATCHES && count % BATCH == 0))
        result = write_opcode(encoder, count == 1 || (TRIMS_BATCHES && count % BATCH == 1) ? 's' : 'u', 0, 0);
    return result;
}

/* Writes the items of a set after a mark, in batches that `opcode` ends, unless that is 0. */
static int
encode_items(Encoder *encoder, PyObject *value, unsigned char opcode)
{
    PyObject *items = PyObject_GetIter(value), *item;
    Py_ssize_t found = 0;
    int result = items == NULL ? 0 : write_opcode(encoder, '(', 0, 0);
    while (result == 1 && (item = PyIter_Next(items)) != NULL) {
        result = encode(encoder, item);
        Py_DECREF(item);
        if (result == 1 && opcode)
            result = write_batch(encoder, ++found, PySet_GET_SIZE(value), opcode);
    }
    Py_XDECREF(items);
    return result == 1 && PyErr_Occurred() ? 0 : result;
}

static int
encode_set(Encoder *encoder, PyObject *value)
{
    Py_ssize_t count = PySet_GET_SIZE(value);
    if (!write_opcode(encoder, 0x8f, 0, 0) || !memoize(encoder, value)) /* EMPTY_SET */
        return 0;
    int result = count == 0 ? 1 : encode_items(encoder, value, 0x90);
    int is_ended = count == 0 || (TRIMS_BATCHES && count % BATCH == 0);
    return result == 1 && !is_ended ? write_opcode(encoder, 0x90, 0, 0) : result; /* ADDITEMS */
}

static int
encode_frozenset(Encoder *encoder, PyObject *value)
{
    encoder->has_frozenset = 1;
    int result = encode_items(encoder, value, 0);
    if (result == 1)
        result = write_opcode(encoder, 0x91, 0, 0);
    return result == 1 ? memoize(encoder, value) : result;
}

/* References */

/* Writes a class by its name, which must lead to it, through a module that is loaded. */
static int
encode_class(Encoder *encoder, PyObject *type)
{
    StateWriter *writer = encoder->writer;
    /* Other metaclasses may have names of their own; an extension code would be written in place of the name. */
    if ((!Py_IS_TYPE(type, &PyType_Type) && !Py_IS_TYPE(type, writer->abc_meta))
        || PyDict_GET_SIZE(writer->extensions))
        return 0;
    PyObject *module = PyObject_GetAttr(type, writer->module);
    PyObject *name = module == NULL ? NULL : PyObject_GetAttr(type, writer->qualname);
    int result = 0;
    if (name != NULL && PyUnicode_CheckExact(module) && PyUnicode_CheckExact(name)
        && find_loaded(writer->sys_names, writer->modules, module, name) == type) {
        result = encode(encoder, module);
        if (result == 1)
            result = encode(encoder, name);
        if (result == 1)
            result = write_opcode(encoder, 0x93, 0, 0) ? memoize(encoder, type) : 0; /* STACK_GLOBAL */
    }
    Py_XDECREF(module);
    Py_XDECREF(name);
    return result;
}

/* Writes a class, or its place in the memo. */
static int
encode_known_class(Encoder *encoder, PyObject *type)
{
    begin_value(encoder);
    const Place *known = place_of(encoder->places, encoder->place_count, type);
    return known->value == NULL ? encode_class(encoder, type) : write_get(encoder, known);
}

/* Returns whether what a value says of itself is a call of its type, and nothing else. */
static int
is_plain_call(PyObject *call, PyObject *type)
{
    if (!PyTuple_CheckExact(call) || PyTuple_GET_SIZE(call) < 2 || PyTuple_GET_ITEM(call, 0) != type)
        return 0;
    for (Py_ssize_t i = 2; i < PyTuple_GET_SIZE(call); i++)
        if (PyTuple_GET_ITEM(call, i) != Py_None)
            return 0;
    return PyTuple_CheckExact(PyTuple_GET_ITEM(call, 1));
}

/* Writes the call that makes a value of one of Python's types. */
static int
encode_call(Encoder *encoder, PyObject *value)
{
    StateWriter *writer = encoder->writer;
    PyObject *type = (PyObject *)Py_TYPE(value);
    if (!is_value_type(type, writer->value_types, writer->sys_names, writer->modules)
        || PyDict_GetItemWithError(writer->dispatch, type) != NULL || PyErr_Occurred())
        return 0;
    PyObject *call = PyObject_CallMethodOneArg(value, writer->reduce, writer->protocol);
    int result = call != NULL && is_plain_call(call, type);
    if (result == 1)
        result = encode_known_class(encoder, type);
    if (result == 1)
        result = encode(encoder, PyTuple_GET_ITEM(call, 1));
    if (result == 1)
        result = write_opcode(encoder, 'R', 0, 0) ? memoize(encoder, value) : 0;
    Py_XDECREF(call);
    return result;
}

/* Sets the oid of a new object. */
static int
oid_of_new(Encoder *encoder, PyObject *object, uint64_t *oid)
{
    PyObject *id = PyLong_FromVoidPtr(object);
    PyObject *known = id == NULL ? NULL : PyDict_GetItemWithError(encoder->new_objects, id);
    Py_XDECREF(id);
    if (known == NULL) {
        if (PyErr_Occurred())
            return 0;
        PyObject *taken = PyObject_CallOneArg(encoder->take_in, object);
        int result = taken == NULL ? -1 : read_oid(taken, oid);
        Py_XDECREF(taken);
        return result;
    }
    return PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 2 && read_oid(PyTuple_GET_ITEM(known, 0), oid);
}

static int
add_ref(Encoder *encoder, uint64_t oid)
{
    if (encoder->ref_count == encoder->ref_room) {
        Py_ssize_t room = 2 * encoder->ref_room + 8;
        unsigned char *refs = PyMem_Realloc(encoder->refs, 8 * room);
        if (refs == NULL)
            return 0;
        encoder->refs = refs;
        encoder->ref_room = room;
    }
    put_oid((char *)encoder->refs + 8 * encoder->ref_count++, oid);
    return 1;
}

/* Writes the oid of an object. The memo knows it by the object, of which it has nothing else. */
static int
encode_oid(Encoder *encoder, PyObject *object, uint64_t oid)
{
    Place *known = place_of(encoder->places, encoder->place_count, object);
    if (known->value != NULL)
        return write_get(encoder, known);
    char bytes[8];
    put_oid(bytes, oid);
    return add_ref(encoder, oid) && write_data(encoder, 'C', 'B', bytes, 8) && memoize_as(encoder, object, 1);
}

/* Stands for ObjectWriter.reference: writes what stands for a persistent object. */
static int
encode_reference(Encoder *encoder, PyObject *object)
{
    Connection *connection = ((Persistent *)object)->connection;
    uint64_t oid = ((Persistent *)object)->oid;
    int result = 0;
    if (connection == NULL)
        result = oid_of_new(encoder, object, &oid);
    else if ((PyObject *)connection == encoder->connection)
        result = ((Persistent *)object)->has_oid;
    if (result == 1)
        result = encode_oid(encoder, object, oid);
    PyObject *type = Py_NewRef(Py_TYPE(object)); /* which oid_of_new() may have changed */
    if (result == 1)
        result = encode_known_class(encoder, type);
    if (result == 1) {
        encoder->memo_count++; /* the pair, which nothing else can be */
        unsigned char *at = reserve(encoder, 3);
        if (at == NULL)
            result = 0;
        else
            memcpy(at, "\x86\x94Q", 3); /* TUPLE2, MEMOIZE, BINPERSID */
    }
    Py_DECREF(type);
    return result;
}

static int
encode_container(Encoder *encoder, PyObject *value)
{
    if (PyDict_CheckExact(value))
        return encode_dict(encoder, value);
    if (PyList_CheckExact(value))
        return encode_list(encoder, value);
    if (PyTuple_CheckExact(value))
        return encode_tuple(encoder, value);
    if (PySet_CheckExact(value))
        return encode_set(encoder, value);
    if (PyFrozenSet_CheckExact(value))
        return encode_frozenset(encoder, value);
    if (PyObject_TypeCheck(value, encoder->writer->base))
        return encode_reference(encoder, value);
    return encode_call(encoder, value);
}

/* Writes a value, as pickle does. The names of the opcodes are those of pickle.py. */
static int
encode(Encoder *encoder, PyObject *value)
{
    begin_value(encoder);
    if (value == Py_None)
        return write_opcode(encoder, 'N', 0, 0);
    if (PyBool_Check(value))
        return write_opcode(encoder, value == Py_True ? 0x88 : 0x89, 0, 0);
    if (PyLong_CheckExact(value))
        return encode_long(encoder, value);
    if (PyFloat_CheckExact(value))
        return encode_float(encoder, value);
    Place *known = place_of(encoder->places, encoder->place_count, value);
    if (known->value != NULL && !known->is_oid)
        return write_get(encoder, known);
    if (PyUnicode_CheckExact(value))
        return encode_text(encoder, value);
    if (PyBytes_CheckExact(value)) {
        int result = write_data(encoder, 'C', 'B', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
        return result == 1 ? memoize(encoder, value) : 0;
    }
    if (encoder->depth == MAX_DEPTH)
        return 0;
    encoder->depth++;
    int result = encode_container(encoder, value);
    encoder->depth--;
    return result;
}

/* States */

/* Looks at the names in a __dict__. Sets if some are volatile. */
static int
check_names(StateWriter *writer, PyObject *attributes, int *has_volatile)
{
    Py_ssize_t place = 0;
    PyObject *name;
    *has_volatile = 0;
    while (PyDict_Next(attributes, &place, &name, NULL)) {
        char kind = PyUnicode_CheckExact(name) ? kind_of(name) : 'p';
        if (kind == 'p' || PyUnicode_Compare(name, writer->getstate) == 0)
            return 0;
        if (kind == 'v')
            *has_volatile = 1;
    }
    return !PyErr_Occurred();
}

/* Notes that the state is taken, so that a change from here on is noted as a new one. [TXN-37] */
static void
mark_as_saved(Persistent *object)
{
    if (object->connection != NULL)
        object->status = SAVED;
}

static int
encode_attributes(Encoder *encoder, Persistent *object)
{
    PyObject *attributes = PyObject_GenericGetDict((PyObject *)object, NULL);
    int has_volatile, result = 0;
    if (attributes != NULL && PyDict_CheckExact(attributes) && check_names(encoder->writer, attributes, &has_volatile)) {
        if (has_volatile)
            Py_SETREF(attributes, without_volatile(NULL, attributes));
        if (attributes != NULL) {
            mark_as_saved(object);
            result = encode(encoder, attributes);
        }
    }
    Py_XDECREF(attributes);
    return result;
}

/* Writes a new dict of names and values, without those that are NULL. */
static int
encode_pairs(Encoder *encoder, PyObject *names, PyObject *const *values, Py_ssize_t filled)
{
    if (filled >= BATCH || !write_opcode(encoder, '}', 0, 0) || !write_opcode(encoder, 0x94, 0, 0))
        return 0;
    encoder->memo_count++; /* the dict, which nothing else can be */
    int result = filled < 2 ? 1 : write_opcode(encoder, '(', 0, 0);
    for (Py_ssize_t i = 0; result == 1 && i < PyTuple_GET_SIZE(names); i++)
        if (values[i] != NULL) {
            result = encode(encoder, PyTuple_GET_ITEM(names, i));
            if (result == 1)
                result = encode(encoder, values[i]);
        }
    if (result == 1 && filled > 0)
        result = write_opcode(encoder, filled == 1 ? 's' : 'u', 0, 0);
    return result;
}

static int
encode_slots(Encoder *encoder, Persistent *object, const Class *known)
{
    PyObject *names = Py_NewRef(known->names); /* other threads may bring another class into its place */
    Py_ssize_t count = PyTuple_GET_SIZE(names), filled = 0;
    PyObject **values = PyMem_Malloc(count * sizeof(*values));
    int result = 0;
    if (values != NULL) {
        for (Py_ssize_t i = 0; i < count; i++) {
            values[i] = Py_XNewRef(*(PyObject **)((char *)object + known->offsets[i]));
            filled += values[i] != NULL;
        }
        mark_as_saved(object);
        result = encode_pairs(encoder, names, values, filled);
        for (Py_ssize_t i = 0; i < count; i++)
            Py_XDECREF(values[i]);
    }
    PyMem_Free(values);
    Py_DECREF(names);
    return result;
}

/* Classes */

static void
forget_class(Class *known)
{
    Class old = *known;
    *known = (Class){0};
    PyMem_Free(old.offsets);
    Py_XDECREF(old.pickle);
    Py_XDECREF(old.names);
}

/* Takes what the Python says of a class: its pickle, and pairs of the name and the descriptor of each slot. */
static int
take_layout(Class *known, PyTypeObject *type, PyObject *layout)
{
    if (!PyTuple_CheckExact(layout) || PyTuple_GET_SIZE(layout) != 2)
        return layout == Py_None;
    PyObject *pickle = PyTuple_GET_ITEM(layout, 0), *slots = PyTuple_GET_ITEM(layout, 1);
    if (!PyBytes_CheckExact(pickle) || !PyTuple_CheckExact(slots))
        return 0;
    Py_ssize_t count = PyTuple_GET_SIZE(slots);
    known->names = PyTuple_New(count);
    known->offsets = PyMem_Malloc((count + 1) * sizeof(*known->offsets));
    if (known->names == NULL || known->offsets == NULL)
        return 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name, *slot;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(slots, i), "UO", &name, &slot) || !PyUnicode_CheckExact(name)
            || !is_slot_of(type, slot))
            return 0;
        PyTuple_SET_ITEM(known->names, i, Py_NewRef(name));
        known->offsets[i] = ((PyMemberDescrObject *)slot)->d_member->offset;
    }
    known->pickle = Py_NewRef(pickle);
    return 1;
}

/* Finds how objects of a class are stored. It may call Python. */
static int
find_class(StateWriter *writer, PyTypeObject *type, Class **found)
{
    unsigned int version = type->tp_version_tag;
    for (int i = 0; version != 0 && i < CLASSES; i++)
        if (writer->classes[i].type == type && writer->classes[i].version == version) {
            *found = &writer->classes[i];
            return 1;
        }
    PyObject *layout = PyObject_CallOneArg(writer->layout, (PyObject *)type);
    if (layout == NULL)
        return -1;
    Class new = {.type = type, .version = type->tp_version_tag}; /* 0 if the type has none: then it is asked again */
    int result = take_layout(&new, type, layout);
    Py_DECREF(layout);
    if (result != 1) {
        forget_class(&new);
        return result;
    }
    Class *place = &writer->classes[writer->next_class], old = *place;
    writer->next_class = (writer->next_class + 1) % CLASSES;
    *place = new;
    forget_class(&old);
    *found = place;
    return 1;
}

/* Records */

static int
compare_oids(const void *one, const void *other)
{
    return memcmp(one, other, 8);
}

/* Sorts the references, and takes out the object's own and those that occur more than once. [REC-7] */
static void
sort_refs(Encoder *encoder, const unsigned char *oid)
{
    unsigned char *refs = encoder->refs, *end = refs;
    if (encoder->ref_count == 0)
        return;
    qsort(refs, encoder->ref_count, 8, compare_oids);
    for (Py_ssize_t i = 0; i < encoder->ref_count; i++) {
        const unsigned char *ref = refs + 8 * i;
        if (memcmp(ref, oid, 8) != 0 && (end == refs || memcmp(ref, end - 8, 8) != 0)) {
            memmove(end, ref, 8);
            end += 8;
        }
    }
    encoder->ref_count = (end - refs) / 8;
}

static PyObject *
pack_record(Encoder *encoder, PyObject *oid, PyObject *class_pickle, const char *state, Py_ssize_t size)
{
    Py_ssize_t class_size = PyBytes_GET_SIZE(class_pickle), refs_size;
    if (class_size > MAX_BYTES)
        return NULL;
    sort_refs(encoder, (const unsigned char *)PyBytes_AS_STRING(oid));
    refs_size = 8 * encoder->ref_count;
    PyObject *record = PyBytes_FromStringAndSize(NULL, 12 + class_size + size + refs_size);
    if (record == NULL)
        return NULL;
    unsigned char *at = (unsigned char *)PyBytes_AS_STRING(record);
    memcpy(at, PyBytes_AS_STRING(oid), 8);
    for (int i = 0; i < 4; i++)
        at[8 + i] = (unsigned char)((class_size + size) >> (24 - 8 * i));
    memcpy(at + 12, PyBytes_AS_STRING(class_pickle), class_size);
    memcpy(at + 12 + class_size, state, size);
    if (refs_size)
        memcpy(at + 12 + class_size + size, encoder->refs, refs_size);
    return record;
}

/* Makes the record of an object whose state was encoded. */
static int
finish_record(Encoder *encoder, PyObject *oid, PyObject *class_pickle, PyObject **record)
{
    end_frame(encoder);
    const char *start = (const char *)encoder->bytes;
    Py_ssize_t size = encoder->size;
    if (size < encoder->writer->compress_from) {
        *record = pack_record(encoder, oid, class_pickle, start, size);
        return *record != NULL;
    }
    PyObject *pickle = PyBytes_FromStringAndSize(start, size);
    if (pickle == NULL)
        return 0;
    free_bytes(encoder); /* a state may be large, and is not to be in memory more often than it must */
    PyObject *stored = PyObject_CallOneArg(encoder->writer->compress, pickle);
    Py_DECREF(pickle);
    if (stored == NULL)
        return -1;
    if (PyBytes_CheckExact(stored) && PyBytes_GET_SIZE(stored) <= size)
        *record = pack_record(encoder, oid, class_pickle, PyBytes_AS_STRING(stored), PyBytes_GET_SIZE(stored));
    Py_DECREF(stored);
    return *record != NULL;
}

/* Stands for ObjectWriter._pickled_record: see above. */
static int
make_record(Encoder *encoder, Persistent *object, PyObject *oid, PyObject **record)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type->tp_getattro != (getattrofunc)persistent_getattro || !is_fresh(object))
        return 0;
    Class *known;
    int result = find_class(encoder->writer, type, &known);
    if (result != 1 || known->pickle == NULL)
        return result == 1 ? 0 : result;
    PyObject *class_pickle = Py_NewRef(known->pickle);
    write_opcode(encoder, 0x80, 4, 1); /* PROTO */
    encoder->is_framing = 1;
    result = PyTuple_GET_SIZE(known->names) ? encode_slots(encoder, object, known) : encode_attributes(encoder, object);
    if (result == 1)
        result = write_opcode(encoder, '.', 0, 0);
    if (result == 1 && encoder->has_frozenset && encoder->ref_count) /* which may need a load for a trial [OBJ-74] */
        result = 0;
    if (result == 1)
        result = finish_record(encoder, oid, class_pickle, record);
    Py_DECREF(class_pickle);
    return result;
}

static PyObject *
writer_record(StateWriter *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || self->base == NULL || !PyObject_TypeCheck(args[0], self->base) || !PyBytes_CheckExact(args[1])
        || PyBytes_GET_SIZE(args[1]) != 8 || !PyDict_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError,
                        "record() takes a persistent object, its oid, its connection, a dict and a function");
        return NULL;
    }
    Encoder encoder = {.writer = self, .connection = args[2], .new_objects = args[3], .take_in = args[4]};
    PyObject *record = NULL, *type = Py_NewRef(Py_TYPE(args[0])); /* what is called may give the object another one */
    encoder_init(&encoder);
    int result = make_record(&encoder, (Persistent *)args[0], args[1], &record);
    encoder_free(&encoder);
    Py_DECREF(type);
    if (result < 0)
        return NULL;
    if (result == 0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear(); /* text with half of a character, or no memory left: Python meets it again */
    }
    return record == NULL ? Py_NewRef(Py_None) : record;
}

static int
writer_traverse(StateWriter *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->base);
    Py_VISIT(self->layout);
    Py_VISIT(self->compress);
    Py_VISIT(self->extensions);
    Py_VISIT(self->abc_meta);
    Py_VISIT(self->dispatch);
    Py_VISIT(self->value_types);
    return 0;
}

static int
writer_clear(StateWriter *self)
{
    Py_CLEAR(self->base);
    Py_CLEAR(self->layout);
    Py_CLEAR(self->compress);
    Py_CLEAR(self->extensions);
    Py_CLEAR(self->abc_meta);
    Py_CLEAR(self->dispatch);
    Py_CLEAR(self->value_types);
    Py_CLEAR(self->sys_names);
    Py_CLEAR(self->modules);
    Py_CLEAR(self->module);
    Py_CLEAR(self->qualname);
    Py_CLEAR(self->getstate);
    Py_CLEAR(self->reduce);
    Py_CLEAR(self->protocol);
    for (int i = 0; i < CLASSES; i++)
        forget_class(&self->classes[i]);
    return 0;
}

static void
writer_dealloc(StateWriter *self)
{
    free_object((PyObject *)self, (inquiry)writer_clear);
}

static PyObject *
writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *base, *layout, *compress, *extensions, *abc_meta, *dispatch, *value_types;
    Py_ssize_t compress_from;
    if (!PyArg_ParseTuple(args, "O!OOnO!O!O!O!:StateWriter", &PyType_Type, &base, &layout, &compress, &compress_from,
                          &PyDict_Type, &extensions, &PyType_Type, &abc_meta, &PyDict_Type, &dispatch,
                          &PyFrozenSet_Type, &value_types))
        return NULL;
    PyObject *module = PyType_GetModule(type);
    if (module == NULL)
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)base, persistent_type_of(module)))
        return PyErr_Format(PyExc_TypeError, "StateWriter() takes a class of persistent objects");
    StateWriter *self = (StateWriter *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->base = (PyTypeObject *)Py_NewRef(base);
    self->layout = Py_NewRef(layout);
    self->compress = Py_NewRef(compress);
    self->compress_from = compress_from;
    self->extensions = Py_NewRef(extensions);
    self->abc_meta = (PyTypeObject *)Py_NewRef(abc_meta);
    self->dispatch = Py_NewRef(dispatch);
    self->value_types = Py_NewRef(value_types);
    self->modules = PyUnicode_InternFromString("modules");
    self->module = PyUnicode_InternFromString("__module__");
    self->qualname = PyUnicode_InternFromString("__qualname__");
    self->getstate = PyUnicode_InternFromString("__getstate__");
    self->reduce = PyUnicode_InternFromString("__reduce_ex__");
    self->protocol = PyLong_FromLong(4);
    self->sys_names = names_of_sys();
    if (self->modules == NULL || self->module == NULL || self->qualname == NULL || self->getstate == NULL
        || self->reduce == NULL || self->protocol == NULL || self->sys_names == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMethodDef writer_methods[] = {
    {"record", (PyCFunction)(void (*)(void))writer_record, METH_FASTCALL,
     PyDoc_STR("record(self, obj, oid, connection, new_objects, take_in)\n--\n\n"
               "Return the record of an object; None if that is left to Python.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, "Makes the records of objects."},
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_traverse, writer_traverse},
    {Py_tp_clear, writer_clear},
    {Py_tp_methods, writer_methods},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "durus._persistent.StateWriter",
    .basicsize = sizeof(StateWriter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = writer_slots,
};

int
encode_exec(PyObject *module)
{
    return add_type(module, &writer_spec);
}
