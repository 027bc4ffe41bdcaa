/* Loads states, in C: what ObjectReader.load_state() of serialize.py does with a record in the usual case.

   A StateReader takes a ghost and its record. It gives the ghost its state and says True; or it says False and has
   done nothing, where anything is unusual, and then the Python, which is the reference, does all of it and finds the
   words for what is wrong. So nothing here reports an error of the data.

   Usual is a record whose class pickle has the GLOBAL form [REC-10] and names the class of the ghost, with a state
   pickle made of the opcodes in step(). No code of an application runs meanwhile: keys of dicts and items of sets are
   values of Python's own types, all names are looked up in modules that are loaded, nothing but dates, times, Decimals
   and bytes is made by a call, and what a class does with its state by itself is left to the Python. (A finalizer can run
   whenever memory is taken, and can come back here. What is borrowed over such a moment is held.) */

#include "_persistent.h"

#include <structmember.h>

enum { MAX_MARKS = 64, MAX_KEY_DEPTH = 8, MAX_PARTS = 100, FEW = 32, MAX_TEXT = 40, TEXT_BITS = 8 };

/* What a class pickle means, and how its objects take their states. */
typedef struct {
    PyObject *module; /* two names */
    PyObject *name;
    Py_ssize_t memo; /* the number by which the state may refer to the class, -1 if there is none */
    PyTypeObject *type;
    unsigned int version; /* of the type when it was asked for its layout */
    PyObject *layout;     /* () if the state is the __dict__, a tuple of all slots, or None for what Python does */
} Class;

/* A text that was read, which the states that have the same share. */
typedef struct {
    PyObject *text;
    unsigned long long decoder; /* the number of the one that has used it last */
} Text;

typedef struct {
    PyObject_HEAD
    PyObject *connection;
    Cache *cache;
    PyTypeObject *base;       /* PersistentObject */
    PyObject *layout_of;      /* a function of Python: the layout of a class */
    PyObject *decompress;     /* a function of Python: the state pickle of a stored form */
    PyObject *renamed;        /* the modules of Python 2 that pickle renames for protocols 0 to 2 */
    PyObject *encode;         /* _codecs.encode(), by which protocol 2 makes bytes */
    PyObject *value_types;    /* a frozenset of types that may be called with plain arguments */
    PyObject *sys_names;      /* the names of the module sys, and the name `modules` */
    PyObject *modules;
    PyObject *durus_error;
    PyObject *indices; /* a dict: the index of each class pickle that was met */
    Class *classes;
    Py_ssize_t class_count;
    PyObject *last_pickle; /* the most recent class pickle, and its index */
    Py_ssize_t last_index;
    Text *texts; /* two tables, of names and of others; NULL before the first */
    unsigned long long decoders;
} StateReader;

/* Growing arrays of objects. */
typedef struct {
    PyObject **items;
    Py_ssize_t size, room;
    PyObject *few[FEW];
} Vector;

static void
vector_init(Vector *vector)
{
    vector->items = vector->few;
    vector->size = 0;
    vector->room = FEW;
}

static int
vector_reserve(Vector *vector, Py_ssize_t room)
{
    if (room <= vector->room)
        return 0;
    room += room / 2;
    PyObject **old = vector->items == vector->few ? NULL : vector->items;
    PyObject **items = PyMem_Realloc(old, room * sizeof(*items));
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (old == NULL)
        memcpy(items, vector->few, vector->size * sizeof(*items));
    vector->items = items;
    vector->room = room;
    return 0;
}

/* Drops the items from `size` on. */
static void
vector_cut(Vector *vector, Py_ssize_t size)
{
    while (vector->size > size)
        Py_XDECREF(vector->items[--vector->size]);
}

static void
vector_free(Vector *vector)
{
    vector_cut(vector, 0);
    if (vector->items != vector->few)
        PyMem_Free(vector->items);
}

typedef struct {
    const unsigned char *at, *end;
    unsigned long long number; /* of all those of the reader */
    int protocol;
    Vector stack;
    Vector memo; /* NULL where nothing was put */
    Py_ssize_t memo_count;
    Py_ssize_t marks[MAX_MARKS];
    int mark_count;
} Decoder;

/* Where a function below returns 0 without an exception, something is unusual. */

/* Takes over the reference. */
static int
push(Decoder *decoder, PyObject *value)
{
    if (value == NULL)
        return 0;
    if (vector_reserve(&decoder->stack, decoder->stack.size + 1) < 0) {
        Py_DECREF(value);
        return 0;
    }
    decoder->stack.items[decoder->stack.size++] = value;
    return 1;
}

/* Returns the lowest place that belongs to what follows the last mark. */
static Py_ssize_t
fence(Decoder *decoder)
{
    return decoder->mark_count ? decoder->marks[decoder->mark_count - 1] : 0;
}

/* Returns whether there are this many values after the last mark. */
static int
has_values(Decoder *decoder, Py_ssize_t count)
{
    return decoder->stack.size - fence(decoder) >= count;
}

static PyObject *
top(Decoder *decoder)
{
    return decoder->stack.items[decoder->stack.size - 1];
}

/* Puts a value in place of the values from `start` on. */
static int
replace(Decoder *decoder, Py_ssize_t start, PyObject *value)
{
    if (value == NULL)
        return 0;
    vector_cut(&decoder->stack, start);
    return push(decoder, value);
}

static int
put(Decoder *decoder, size_t index)
{
    /* A memo has no more entries than the pickle has bytes; of those with other numbers Python makes what it can. Entries
       that are empty don't count here: each would let the next numbers be larger. */
    Vector *memo = &decoder->memo;
    if (!has_values(decoder, 1) || index > (size_t)(decoder->end - decoder->at) + decoder->memo_count + FEW)
        return 0;
    if (vector_reserve(memo, (Py_ssize_t)index + 1) < 0)
        return 0;
    while (memo->size <= (Py_ssize_t)index)
        memo->items[memo->size++] = NULL;
    PyObject *before = memo->items[index];
    memo->items[index] = Py_NewRef(top(decoder));
    if (before == NULL)
        decoder->memo_count++;
    Py_XDECREF(before);
    return 1;
}

static int
get(Decoder *decoder, size_t index)
{
    if (index >= (size_t)decoder->memo.size || decoder->memo.items[index] == NULL)
        return 0;
    return push(decoder, Py_NewRef(decoder->memo.items[index]));
}

static unsigned long long
number(const unsigned char *at, int bytes)
{
    unsigned long long value = 0;
    while (bytes-- > 0)
        value = value << 8 | at[bytes];
    return value;
}

/* Reads a number of this many bytes, which say how long what follows is; returns where that begins, NULL if it is not
   there. */
static const unsigned char *
take(Decoder *decoder, int bytes, size_t *length)
{
    if (decoder->end - decoder->at < bytes)
        return NULL;
    unsigned long long found = number(decoder->at, bytes);
    const unsigned char *start = decoder->at + bytes;
    if (found > (unsigned long long)(decoder->end - start))
        return NULL;
    *length = (size_t)found;
    decoder->at = start + *length;
    return start;
}

/* Returns whether what comes next is likely to be the name of an attribute. */
static int
is_at_name(const Decoder *decoder)
{
    Py_ssize_t size = decoder->stack.size;
    return decoder->mark_count == 0 ? size == 1 : decoder->mark_count == 1 && decoder->marks[0] == 1 && size % 2 == 1;
}

/* Returns where a text of 2 bytes or more is kept, NULL without memory. */
static Text *
place_of_text(StateReader *reader, const unsigned char *start, size_t length, int is_name)
{
    size_t some = length < 8 ? length : 8;
    uint64_t first = 0, last = 0;
    if (reader->texts == NULL)
        reader->texts = PyMem_Calloc(2 << TEXT_BITS, sizeof(Text));
    if (reader->texts == NULL)
        return NULL;
    memcpy(&first, start, some);
    memcpy(&last, start + length - some, some);
    uint64_t hash = (first ^ last * UINT64_C(0xD6E8FEB86659FD93) ^ length) * UINT64_C(0x9E3779B97F4A7C15);
    return &reader->texts[hash >> (64 - TEXT_BITS) | (uint64_t)is_name << TEXT_BITS];
}

static PyObject *
make_text(const unsigned char *start, size_t length)
{
    return PyUnicode_DecodeUTF8((const char *)start, (Py_ssize_t)length, "surrogatepass");
}

/* Returns a short text: the one in memory if an other state has it. In one state, texts that are stored apart stay apart, so
   that it is stored again as it was. */
static PyObject *
short_text(StateReader *reader, Decoder *decoder, const unsigned char *start, size_t length)
{
    int is_name = is_at_name(decoder);
    Text *place = place_of_text(reader, start, length, is_name);
    int is_free = place != NULL && place->decoder != decoder->number;
    if (is_free && place->text != NULL && (size_t)PyUnicode_GET_LENGTH(place->text) == length
        && memcmp(PyUnicode_1BYTE_DATA(place->text), start, length) == 0) {
        place->decoder = decoder->number;
        return Py_NewRef(place->text);
    }
    PyObject *text = make_text(start, length);
    if (is_free && text != NULL && PyUnicode_IS_ASCII(text)) {
        if (is_name)
            PyUnicode_InternInPlace(&text);
        Py_XSETREF(place->text, Py_NewRef(text));
        place->decoder = decoder->number;
    }
    return text;
}

static int
read_text(StateReader *reader, Decoder *decoder, int bytes)
{
    size_t length;
    const unsigned char *start = take(decoder, bytes, &length);
    if (start == NULL)
        return 0;
    int is_short = length > 1 && length <= MAX_TEXT; /* Python itself shares those of one character */
    return push(decoder, is_short ? short_text(reader, decoder, start, length) : make_text(start, length));
}

static int
read_bytes(Decoder *decoder, int bytes)
{
    size_t length;
    const unsigned char *start = take(decoder, bytes, &length);
    return start != NULL && push(decoder, PyBytes_FromStringAndSize((const char *)start, (Py_ssize_t)length));
}

static int
read_int(Decoder *decoder, int bytes)
{
    if (decoder->end - decoder->at < bytes)
        return 0;
    long value = (long)number(decoder->at, bytes);
    decoder->at += bytes;
    return push(decoder, PyLong_FromLong(bytes == 4 ? (int32_t)value : value));
}

static int
read_long(Decoder *decoder)
{
    size_t length;
    const unsigned char *start = take(decoder, 1, &length);
    if (start == NULL || length > 8)
        return 0;
    unsigned long long value = 0;
    for (size_t i = 0; i < 8; i++) {
        unsigned char byte = i < length ? start[i] : length && start[length - 1] & 0x80 ? 0xff : 0;
        value |= (unsigned long long)byte << (8 * i);
    }
    return push(decoder, PyLong_FromLongLong((long long)value));
}

static int
read_float(Decoder *decoder)
{
    if (decoder->end - decoder->at < 8)
        return 0;
    double value = PyFloat_Unpack8((const char *)decoder->at, 0);
    decoder->at += 8;
    return (value != -1.0 || !PyErr_Occurred()) && push(decoder, PyFloat_FromDouble(value));
}

static int
make_tuple(Decoder *decoder, Py_ssize_t start)
{
    Py_ssize_t count = decoder->stack.size - start;
    PyObject *result = PyTuple_New(count);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++)
        PyTuple_SET_ITEM(result, i, Py_NewRef(decoder->stack.items[start + i]));
    return replace(decoder, start, result);
}

static int
has_plain_parts(PyObject *key, int depth, int *parts)
{
    if (++*parts > MAX_PARTS)
        return 0;
    if (PyUnicode_CheckExact(key) || PyLong_CheckExact(key) || PyBytes_CheckExact(key) || PyFloat_CheckExact(key)
        || PyBool_Check(key) || key == Py_None)
        return 1;
    if (!PyTuple_CheckExact(key) || depth == MAX_KEY_DEPTH)
        return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); i++)
        if (!has_plain_parts(PyTuple_GET_ITEM(key, i), depth + 1, parts))
            return 0;
    return 1;
}

/* Returns whether the hash and the comparison of a key run no code of an application, and take no long time. */
static int
is_plain_key(PyObject *key)
{
    int parts = 0;
    return has_plain_parts(key, 0, &parts);
}

/* The three below add the values from `start` on to the container below them. */

static int
append_items(Decoder *decoder, Py_ssize_t start)
{
    PyObject *list = decoder->stack.items[start - 1];
    if (!PyList_CheckExact(list))
        return 0;
    for (Py_ssize_t i = start; i < decoder->stack.size; i++)
        if (PyList_Append(list, decoder->stack.items[i]) < 0)
            return 0;
    vector_cut(&decoder->stack, start);
    return 1;
}

static int
set_items(Decoder *decoder, Py_ssize_t start)
{
    PyObject *dict = decoder->stack.items[start - 1];
    if (!PyDict_CheckExact(dict) || (decoder->stack.size - start) % 2)
        return 0;
    for (Py_ssize_t i = start; i < decoder->stack.size; i += 2)
        if (!is_plain_key(decoder->stack.items[i])
            || PyDict_SetItem(dict, decoder->stack.items[i], decoder->stack.items[i + 1]) < 0)
            return 0;
    vector_cut(&decoder->stack, start);
    return 1;
}

static int
add_items(Decoder *decoder, Py_ssize_t start)
{
    PyObject *set = decoder->stack.items[start - 1];
    if (!PySet_CheckExact(set))
        return 0;
    for (Py_ssize_t i = start; i < decoder->stack.size; i++)
        if (!is_plain_key(decoder->stack.items[i]) || PySet_Add(set, decoder->stack.items[i]) < 0)
            return 0;
    vector_cut(&decoder->stack, start);
    return 1;
}

static int
make_frozenset(Decoder *decoder, Py_ssize_t start)
{
    for (Py_ssize_t i = start; i < decoder->stack.size; i++)
        if (!is_plain_key(decoder->stack.items[i]))
            return 0;
    if (!make_tuple(decoder, start))
        return 0;
    return replace(decoder, start, PyFrozenSet_New(top(decoder)));
}

PyObject *
find_loaded(PyObject *sys_names, PyObject *modules_name, PyObject *module_name, PyObject *name)
{
    PyObject *modules = PyDict_GetItemWithError(sys_names, modules_name); /* another dict may stand there */
    PyObject *module = modules != NULL && PyDict_CheckExact(modules) ? PyDict_GetItemWithError(modules, module_name) : NULL;
    if (module == NULL || !PyModule_CheckExact(module))
        return NULL;
    return PyDict_GetItemWithError(PyModule_GetDict(module), name);
}

/* Puts a class in place of the values from `start` on. */
static int
make_class(StateReader *reader, Decoder *decoder, Py_ssize_t start, PyObject *module, PyObject *name)
{
    if (module == NULL || name == NULL || !PyUnicode_CheckExact(module) || !PyUnicode_CheckExact(name))
        return 0;
    if (decoder->protocol < 3) {
        int is_renamed = PySet_Contains(reader->renamed, module);
        if (is_renamed != 0)
            return 0;
    }
    PyObject *found = find_loaded(reader->sys_names, reader->modules, module, name);
    if (found == NULL || (!PyType_Check(found) && found != reader->encode))
        return 0;
    Py_INCREF(found);
    if (PySys_Audit("pickle.find_class", "OO", module, name) < 0) {
        Py_DECREF(found);
        return 0;
    }
    return replace(decoder, start, found);
}

int
is_value_type(PyObject *type, PyObject *value_types, PyObject *sys_names, PyObject *modules)
{
    if (!PyType_CheckExact(type)) /* the hash of a type may be that of a metaclass */
        return 0;
    if (PySet_Contains(value_types, type) == 1)
        return 1;
    if (strcmp(((PyTypeObject *)type)->tp_name, "decimal.Decimal") != 0)
        return 0;
    PyObject *module = PyUnicode_FromString("_decimal");
    PyObject *name = module == NULL ? NULL : PyUnicode_FromString("Decimal");
    int result = name != NULL && find_loaded(sys_names, modules, module, name) == type;
    Py_XDECREF(module);
    Py_XDECREF(name);
    return result;
}

/* Returns whether a call may get these arguments: values as in keys, and those that such a call has made. */
static int
are_plain_arguments(StateReader *reader, PyObject *arguments)
{
    if (!PyTuple_CheckExact(arguments) || PyTuple_GET_SIZE(arguments) > MAX_PARTS)
        return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(arguments); i++) {
        PyObject *argument = PyTuple_GET_ITEM(arguments, i);
        if (!is_plain_key(argument)
            && !is_value_type((PyObject *)Py_TYPE(argument), reader->value_types, reader->sys_names, reader->modules))
            return 0;
    }
    return 1;
}

/* Does the calls by which bytes of protocol 2 are made, and values of some types. */
static int
call(StateReader *reader, Decoder *decoder)
{
    if (!has_values(decoder, 2))
        return 0;
    Py_ssize_t start = decoder->stack.size - 2;
    PyObject *function = decoder->stack.items[start], *arguments = top(decoder);
    if (!are_plain_arguments(reader, arguments))
        return 0;
    if (function == reader->encode) {
        PyObject *text = PyTuple_GET_SIZE(arguments) == 2 ? PyTuple_GET_ITEM(arguments, 0) : NULL;
        PyObject *encoding = text == NULL ? NULL : PyTuple_GET_ITEM(arguments, 1);
        if (text == NULL || !PyUnicode_CheckExact(text) || !PyUnicode_CheckExact(encoding)
            || PyUnicode_CompareWithASCIIString(encoding, "latin1") != 0)
            return 0;
        return replace(decoder, start, PyUnicode_AsLatin1String(text));
    }
    if (!is_value_type(function, reader->value_types, reader->sys_names, reader->modules))
        return 0;
    return replace(decoder, start, PyObject_CallObject(function, arguments));
}

/* Returns the end of the line that begins at `at`, NULL if it has none or is empty. */
static const unsigned char *
line_end(const unsigned char *at, const unsigned char *end)
{
    const unsigned char *found = memchr(at, '\n', end - at);
    return found == at ? NULL : found;
}

static PyObject *
text_between(const unsigned char *start, const unsigned char *end)
{
    return PyUnicode_DecodeUTF8((const char *)start, end - start, NULL);
}

static int
read_global(StateReader *reader, Decoder *decoder)
{
    const unsigned char *module_end = line_end(decoder->at, decoder->end);
    const unsigned char *name_end = module_end == NULL ? NULL : line_end(module_end + 1, decoder->end);
    if (name_end == NULL)
        return 0;
    PyObject *module = text_between(decoder->at, module_end);
    PyObject *name = module == NULL ? NULL : text_between(module_end + 1, name_end);
    decoder->at = name_end + 1;
    int result = make_class(reader, decoder, decoder->stack.size, module, name);
    Py_XDECREF(module);
    Py_XDECREF(name);
    return result;
}

static int
read_stack_global(StateReader *reader, Decoder *decoder)
{
    if (!has_values(decoder, 2))
        return 0;
    Py_ssize_t start = decoder->stack.size - 2;
    return make_class(reader, decoder, start, decoder->stack.items[start], decoder->stack.items[start + 1]);
}

/* Stands for a part of ObjectReader.get_referenced: returns the object of an oid, which becomes a new ghost of the class
   if it is not in memory. */
static PyObject *
referenced(StateReader *reader, uint64_t oid, PyObject *type)
{
    PyObject *found = cached_object(reader->cache, oid);
    if (found != NULL)
        return found;
    if (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, reader->base))
        return NULL;
    PyObject *ghost = make_ghost((PyTypeObject *)type, oid, (Connection *)reader->connection);
    /* Once more: a finalizer may have run meanwhile, and made the object. */
    found = ghost == NULL ? NULL : cached_object(reader->cache, oid);
    if (found != NULL)
        Py_SETREF(ghost, found);
    else if (ghost != NULL && cache_object(reader->cache, oid, (Persistent *)ghost, 1) < 0)
        Py_CLEAR(ghost);
    return ghost;
}

static int
read_reference(StateReader *reader, Decoder *decoder)
{
    PyObject *pair = has_values(decoder, 1) ? top(decoder) : NULL;
    if (pair == NULL || !PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2)
        return 0;
    uint64_t oid;
    if (!PyBytes_CheckExact(PyTuple_GET_ITEM(pair, 0)) || !read_oid(PyTuple_GET_ITEM(pair, 0), &oid))
        return 0;
    return replace(decoder, decoder->stack.size - 1, referenced(reader, oid, PyTuple_GET_ITEM(pair, 1)));
}

/* Does what one opcode says. The names of the opcodes are those of pickle.py. */
static int
step(StateReader *reader, Decoder *decoder, unsigned char opcode)
{
    size_t length;
    Py_ssize_t size = decoder->stack.size, mark;
    switch (opcode) {
    case 0x80: /* PROTO */
        if (decoder->at == decoder->end || *decoder->at < 2 || *decoder->at > 5)
            return 0;
        decoder->protocol = *decoder->at++;
        return 1;
    case 0x95: /* FRAME */
        if (take(decoder, 8, &length) == NULL)
            return 0;
        decoder->at -= length;
        return 1;
    case '(': /* MARK */
        if (decoder->mark_count == MAX_MARKS)
            return 0;
        decoder->marks[decoder->mark_count++] = size;
        return 1;
    case 'N': /* NONE */
        return push(decoder, Py_NewRef(Py_None));
    case 0x88: /* NEWTRUE */
        return push(decoder, Py_NewRef(Py_True));
    case 0x89: /* NEWFALSE */
        return push(decoder, Py_NewRef(Py_False));
    case 'J': /* BININT */
        return read_int(decoder, 4);
    case 'K': /* BININT1 */
        return read_int(decoder, 1);
    case 'M': /* BININT2 */
        return read_int(decoder, 2);
    case 0x8a: /* LONG1 */
        return read_long(decoder);
    case 'G': /* BINFLOAT */
        return read_float(decoder);
    case 'C': /* SHORT_BINBYTES */
        return read_bytes(decoder, 1);
    case 'B': /* BINBYTES */
        return read_bytes(decoder, 4);
    case 0x8c: /* SHORT_BINUNICODE */
        return read_text(reader, decoder, 1);
    case 'X': /* BINUNICODE */
        return read_text(reader, decoder, 4);
    case '}': /* EMPTY_DICT */
        return push(decoder, PyDict_New());
    case ']': /* EMPTY_LIST */
        return push(decoder, PyList_New(0));
    case ')': /* EMPTY_TUPLE */
        return push(decoder, PyTuple_New(0));
    case 0x8f: /* EMPTY_SET */
        return push(decoder, PySet_New(NULL));
    case 0x85: /* TUPLE1, 2, 3 */
    case 0x86:
    case 0x87:
        return has_values(decoder, opcode - 0x84) && make_tuple(decoder, size - (opcode - 0x84));
    case 'a': /* APPEND */
        return has_values(decoder, 2) && append_items(decoder, size - 1);
    case 's': /* SETITEM */
        return has_values(decoder, 3) && set_items(decoder, size - 2);
    case 't':  /* TUPLE */
    case 0x91: /* FROZENSET */
    case 'e':  /* APPENDS */
    case 'u':  /* SETITEMS */
    case 0x90: /* ADDITEMS */
        if (decoder->mark_count == 0)
            return 0;
        mark = decoder->marks[--decoder->mark_count];
        if (opcode == 't')
            return make_tuple(decoder, mark);
        if (opcode == 0x91)
            return make_frozenset(decoder, mark);
        if (mark <= fence(decoder)) /* there is no container below the mark */
            return 0;
        return opcode == 'e' ? append_items(decoder, mark)
            : opcode == 'u'  ? set_items(decoder, mark)
                             : add_items(decoder, mark);
    case 0x94: /* MEMOIZE */
        return put(decoder, (size_t)decoder->memo_count);
    case 'q': /* BINPUT */
    case 'h': /* BINGET */
    case 'r': /* LONG_BINPUT */
    case 'j': /* LONG_BINGET */
        length = opcode == 'q' || opcode == 'h' ? 1 : 4;
        if ((size_t)(decoder->end - decoder->at) < length)
            return 0;
        decoder->at += length;
        size_t index = (size_t)number(decoder->at - length, (int)length);
        return opcode == 'q' || opcode == 'r' ? put(decoder, index) : get(decoder, index);
    case 'c': /* GLOBAL */
        return read_global(reader, decoder);
    case 0x93: /* STACK_GLOBAL */
        return read_stack_global(reader, decoder);
    case 'R': /* REDUCE */
        return call(reader, decoder);
    case 'Q': /* BINPERSID */
        return read_reference(reader, decoder);
    default:
        return 0;
    }
}

/* Returns the value of a pickle that ends at the end of the data, NULL where anything is unusual. */
static PyObject *
decode(StateReader *reader, Decoder *decoder)
{
    if (decoder->at == decoder->end || *decoder->at != 0x80)
        return NULL;
    while (decoder->at < decoder->end) {
        unsigned char opcode = *decoder->at++;
        if (opcode == '.') {
            int is_whole = decoder->at == decoder->end && decoder->stack.size == 1 && decoder->mark_count == 0;
            return is_whole ? decoder->stack.items[--decoder->stack.size] : NULL;
        }
        if (!step(reader, decoder, opcode))
            return NULL;
    }
    return NULL;
}

/* Classes */

/* Keeps a class pickle that was not met before; returns its index, -1 where it is unusual. */
static Py_ssize_t
add_class(StateReader *reader, PyObject *pickle, const unsigned char *module_end, const unsigned char *name_end)
{
    const unsigned char *start = (const unsigned char *)PyBytes_AS_STRING(pickle);
    Py_ssize_t result = -1, memo = -1;
    if (name_end[1] != '.')
        memo = name_end[1] == 0x94 ? 0 : (Py_ssize_t)number(name_end + 2, name_end[1] == 'q' ? 1 : 4);
    PyObject *module = text_between(start + 3, module_end);
    PyObject *name = module == NULL ? NULL : text_between(module_end + 1, name_end);
    PyObject *index = name == NULL ? NULL : PyLong_FromSsize_t(reader->class_count);
    if (index != NULL && (start[1] >= 3 || PySet_Contains(reader->renamed, module) == 0)) {
        Class *classes = PyMem_Realloc(reader->classes, (reader->class_count + 1) * sizeof(*classes));
        if (classes == NULL)
            PyErr_NoMemory();
        else {
            reader->classes = classes;
            if (PyDict_SetItem(reader->indices, pickle, index) == 0) {
                classes[reader->class_count] = (Class){Py_NewRef(module), Py_NewRef(name), .memo = memo};
                result = reader->class_count++;
            }
        }
    }
    Py_XDECREF(module);
    Py_XDECREF(name);
    Py_XDECREF(index);
    return result;
}

/* Finds the class pickle at the start of the data of a record. Sets where it ends, and returns its index, -1 where it
   is unusual. */
static Py_ssize_t
find_class(StateReader *reader, const unsigned char *data, const unsigned char *end, const unsigned char **pickle_end)
{
    if (reader->last_pickle != NULL) {
        Py_ssize_t size = PyBytes_GET_SIZE(reader->last_pickle);
        if (end - data >= size && memcmp(data, PyBytes_AS_STRING(reader->last_pickle), size) == 0) {
            *pickle_end = data + size;
            return reader->last_index;
        }
    }
    if (end - data < 3 || data[0] != 0x80 || data[1] < 2 || data[1] > 5 || data[2] != 'c')
        return -1;
    const unsigned char *module_end = line_end(data + 3, end);
    const unsigned char *name_end = module_end == NULL ? NULL : line_end(module_end + 1, end);
    if (name_end == NULL || end - name_end < 2)
        return -1;
    Py_ssize_t memo_size = name_end[1] == 'q' ? 2 : name_end[1] == 'r' ? 5 : name_end[1] == 0x94 ? 1 : 0;
    if (end - name_end < memo_size + 2 || name_end[memo_size + 1] != '.')
        return -1;
    *pickle_end = name_end + memo_size + 2;
    PyObject *pickle = PyBytes_FromStringAndSize((const char *)data, *pickle_end - data);
    if (pickle == NULL)
        return -1;
    Py_ssize_t shift = (const unsigned char *)PyBytes_AS_STRING(pickle) - data;
    PyObject *known = PyDict_GetItemWithError(reader->indices, pickle);
    Py_ssize_t index = -1;
    if (known != NULL)
        index = PyLong_AsSsize_t(known);
    else if (!PyErr_Occurred())
        index = add_class(reader, pickle, module_end + shift, name_end + shift);
    if (index >= 0) {
        reader->last_index = index;
        Py_XSETREF(reader->last_pickle, Py_NewRef(pickle));
    }
    Py_DECREF(pickle);
    return index;
}

int
is_slot_of(PyTypeObject *type, PyObject *slot)
{
    return Py_IS_TYPE(slot, &PyMemberDescr_Type) && PyType_IsSubtype(type, PyDescr_TYPE(slot))
        && ((PyMemberDescrObject *)slot)->d_member->type == T_OBJECT_EX;
}

/* Returns what comes of an exception of a call of Python: -1 if the caller is to get it, for it comes from outside; 0 for
   an error of Durus, which the Python meets again. */
static int
after_call(StateReader *reader)
{
    return PyErr_ExceptionMatches(reader->durus_error) ? 0 : -1;
}

/* Returns how objects of a class take their states, a new reference, or NULL. It may call Python. */
static PyObject *
layout_of(StateReader *reader, Py_ssize_t index, PyTypeObject *type)
{
    Class *known = &reader->classes[index];
    if (known->type == type && known->layout != NULL && known->version != 0 && known->version == type->tp_version_tag)
        return Py_NewRef(known->layout);
    PyObject *layout = PyObject_CallOneArg(reader->layout_of, (PyObject *)type);
    if (layout == NULL)
        return NULL;
    for (Py_ssize_t i = 0; PyTuple_CheckExact(layout) && i < PyTuple_GET_SIZE(layout); i++)
        if (!is_slot_of(type, PyTuple_GET_ITEM(layout, i)))
            Py_SETREF(layout, Py_NewRef(Py_None));
    known = &reader->classes[index]; /* there may be more of them now, in another place */
    PyObject *old_type = (PyObject *)known->type, *old_layout = known->layout;
    known->type = (PyTypeObject *)Py_NewRef(type);
    known->layout = Py_NewRef(layout);
    known->version = type->tp_version_tag; /* 0 if the type has none: then it is asked again */
    Py_XDECREF(old_type);
    Py_XDECREF(old_layout);
    return layout;
}

/* States */

PyObject **
slot_place(PyObject *obj, PyObject *slot)
{
    return (PyObject **)((char *)obj + ((PyMemberDescrObject *)slot)->d_member->offset);
}

static PyObject *
slot_named(PyObject *slots, PyObject *name)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(slots); i++) {
        PyObject *slot = PyTuple_GET_ITEM(slots, i);
        PyObject *own = PyDescr_NAME(slot);
        if (own == name || PyUnicode_Compare(own, name) == 0)
            return slot;
    }
    return NULL;
}

/* Puts a state into the slots of an object; 0 where that is unusual, and then the object is as it was. */
static int
fill_slots(PyObject *obj, PyObject *slots, PyObject *state)
{
    Py_ssize_t place = 0;
    PyObject *name, *value;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(slots); i++)
        if (*slot_place(obj, PyTuple_GET_ITEM(slots, i)) != NULL)
            return 0;
    while (PyDict_Next(state, &place, &name, &value))
        if (!PyUnicode_CheckExact(name) || slot_named(slots, name) == NULL)
            return 0;
    place = 0;
    while (PyDict_Next(state, &place, &name, &value))
        *slot_place(obj, slot_named(slots, name)) = Py_NewRef(value);
    return 1;
}

/* Whether a state can become the __dict__ as it is: nobody else has it, and its names are those that all objects share. */
static int
is_ready_as_dict(PyObject *state)
{
    Py_ssize_t place = 0;
    PyObject *name;
    int is_ready = Py_REFCNT(state) == 1;
    while (is_ready && PyDict_Next(state, &place, &name, NULL))
        is_ready = PyUnicode_CheckExact(name) && PyUnicode_CHECK_INTERNED(name);
    return is_ready;
}

/* Gives an object its __dict__. */
static int
fill_dict(PyObject *obj, PyObject *state)
{
    return is_ready_as_dict(state) ? PyObject_GenericSetDict(obj, state, NULL) : adopt_state(obj, state);
}

/* Stands for a part of take_state: gives a ghost its state; 0 where that is unusual. */
static int
give_state(Persistent *obj, PyObject *layout, PyObject *state)
{
    if (!PyDict_CheckExact(state))
        return 0;
    if (obj->status != GHOST) /* a finalizer has used the object, which loaded it */
        return 1;
    if (PyTuple_GET_SIZE(layout) == 0 ? fill_dict((PyObject *)obj, state) < 0
                                      : !fill_slots((PyObject *)obj, layout, state))
        return 0;
    obj->status = SAVED;
    return 1;
}

/* Decodes a state and gives it to the object. */
static int
load_state(StateReader *reader, Persistent *obj, PyObject *layout, Decoder *decoder)
{
    PyObject *state = decode(reader, decoder);
    vector_cut(&decoder->memo, 0);
    int result = state != NULL && give_state(obj, layout, state);
    Py_XDECREF(state);
    return result;
}

static int
load_stored_state(StateReader *reader, Persistent *obj, PyObject *layout, Decoder *decoder)
{
    if (decoder->at == decoder->end || *decoder->at != 'x')
        return load_state(reader, obj, layout, decoder);
    PyObject *stored = PyBytes_FromStringAndSize((const char *)decoder->at, decoder->end - decoder->at);
    if (stored == NULL)
        return 0;
    PyObject *pickle = PyObject_CallOneArg(reader->decompress, stored);
    Py_DECREF(stored);
    if (pickle == NULL)
        return after_call(reader);
    int result = 0;
    if (PyBytes_CheckExact(pickle)) {
        decoder->at = (const unsigned char *)PyBytes_AS_STRING(pickle);
        decoder->end = decoder->at + PyBytes_GET_SIZE(pickle);
        result = load_state(reader, obj, layout, decoder);
    }
    Py_DECREF(pickle);
    return result;
}

/* Returns where the data of a record ends, NULL if its lengths do not fit. [REC-4] */
static const unsigned char *
data_end(const unsigned char *record, size_t size)
{
    if (size < 12)
        return NULL;
    size_t data_size = (size_t)record[8] << 24 | (size_t)record[9] << 16 | (size_t)record[10] << 8 | record[11];
    if (data_size == 0 || data_size > size - 12 || (size - 12 - data_size) % 8)
        return NULL;
    return record + 12 + data_size;
}

/* Stands for a part of ObjectReader.load_state: see above. */
static int
load_record(StateReader *reader, PyObject *object, PyObject *record)
{
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(record) + 12, *state_start;
    const unsigned char *end = data_end(data - 12, (size_t)PyBytes_GET_SIZE(record));
    Py_ssize_t index = end == NULL ? -1 : find_class(reader, data, end, &state_start);
    if (index < 0)
        return 0;
    PyTypeObject *type = Py_TYPE(object);
    PyObject *named = find_loaded(reader->sys_names, reader->modules, reader->classes[index].module,
                                  reader->classes[index].name);
    if (named != (PyObject *)type || ((Persistent *)object)->status != GHOST)
        return 0;
    PyObject *layout = layout_of(reader, index, type);
    if (layout == NULL)
        return after_call(reader);
    if (!PyTuple_CheckExact(layout)) {
        Py_DECREF(layout);
        return 0;
    }
    Decoder decoder = {.at = state_start, .end = end, .number = ++reader->decoders};
    vector_init(&decoder.stack);
    vector_init(&decoder.memo);
    Py_ssize_t memo = reader->classes[index].memo;
    int is_ready = memo < 0 || (push(&decoder, Py_NewRef(type)) && put(&decoder, (size_t)memo));
    vector_cut(&decoder.stack, 0);
    int result = is_ready ? load_stored_state(reader, (Persistent *)object, layout, &decoder) : 0;
    vector_free(&decoder.stack);
    vector_free(&decoder.memo);
    Py_DECREF(layout);
    return result;
}

/* Stands for ObjectReader.load_record: False where that continues in Python. */
static PyObject *
reader_load(StateReader *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyObject_TypeCheck(args[0], self->base) || !PyBytes_CheckExact(args[1]) || self->cache == NULL) {
        PyErr_SetString(PyExc_TypeError, "load() takes a persistent object and a record");
        return NULL;
    }
    Persistent *obj = (Persistent *)args[0];
    PyObject *type = Py_NewRef(Py_TYPE(obj)); /* what is called may give the object another one */
    int result = load_record(self, args[0], args[1]);
    Py_DECREF(type);
    if (result > 0 && obj->has_oid && cache_object(self->cache, obj->oid, obj, 0) < 0)
        return NULL;
    if (result < 0)
        return NULL;
    if (result == 0 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear(); /* bytes that are not text, or no memory left: Python meets it again */
    }
    return PyBool_FromLong(result);
}

static int
reader_traverse(StateReader *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->connection);
    Py_VISIT(self->cache);
    Py_VISIT(self->base);
    Py_VISIT(self->layout_of);
    Py_VISIT(self->decompress);
    Py_VISIT(self->encode);
    Py_VISIT(self->value_types);
    Py_VISIT(self->durus_error);
    for (Py_ssize_t i = 0; i < self->class_count; i++) {
        Py_VISIT(self->classes[i].type);
        Py_VISIT(self->classes[i].layout);
    }
    return 0;
}

static int
reader_clear(StateReader *self)
{
    Py_CLEAR(self->connection);
    Py_CLEAR(self->cache);
    Py_CLEAR(self->base);
    Py_CLEAR(self->layout_of);
    Py_CLEAR(self->decompress);
    Py_CLEAR(self->renamed);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->value_types);
    Py_CLEAR(self->sys_names);
    Py_CLEAR(self->modules);
    Py_CLEAR(self->durus_error);
    Py_CLEAR(self->indices);
    Py_CLEAR(self->last_pickle);
    while (self->class_count > 0) {
        Class old = self->classes[--self->class_count];
        Py_XDECREF(old.module);
        Py_XDECREF(old.name);
        Py_XDECREF(old.type);
        Py_XDECREF(old.layout);
    }
    PyMem_Free(self->classes);
    self->classes = NULL;
    for (size_t i = 0; self->texts != NULL && i < (size_t)2 << TEXT_BITS; i++)
        Py_CLEAR(self->texts[i].text);
    return 0;
}

static void
reader_dealloc(StateReader *self)
{
    Text *texts = self->texts;
    free_object((PyObject *)self, (inquiry)reader_clear);
    PyMem_Free(texts);
}

static PyObject *
reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *connection, *cache, *base, *layout_of, *decompress, *renamed, *encode;
    PyObject *value_types, *durus_error;
    PyObject *module = PyType_GetModule(type);
    if (module == NULL
        || !PyArg_ParseTuple(args, "O!O!O!OOO!OO!O:StateReader", connection_type_of(module), &connection,
                             cache_type_of(module), &cache, &PyType_Type, &base, &layout_of, &decompress,
                             &PyFrozenSet_Type, &renamed, &encode, &PyFrozenSet_Type, &value_types, &durus_error))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)base, persistent_type_of(module)))
        return PyErr_Format(PyExc_TypeError, "StateReader() takes a class of persistent objects");
    StateReader *self = (StateReader *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->connection = Py_NewRef(connection);
    self->cache = (Cache *)Py_NewRef(cache);
    self->base = (PyTypeObject *)Py_NewRef(base);
    self->layout_of = Py_NewRef(layout_of);
    self->decompress = Py_NewRef(decompress);
    self->renamed = Py_NewRef(renamed);
    self->encode = Py_NewRef(encode);
    self->value_types = Py_NewRef(value_types);
    self->durus_error = Py_NewRef(durus_error);
    self->indices = PyDict_New();
    self->modules = PyUnicode_InternFromString("modules");
    self->sys_names = names_of_sys();
    if (self->indices == NULL || self->modules == NULL || self->sys_names == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMethodDef reader_methods[] = {
    {"load", (PyCFunction)(void (*)(void))reader_load, METH_FASTCALL,
     PyDoc_STR("load(self, obj, record)\n--\n\nGive a ghost the state in its record, and have the cache hold it; False if that is left to Python.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, "Loads the states of the objects of one connection."},
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_traverse, reader_traverse},
    {Py_tp_clear, reader_clear},
    {Py_tp_methods, reader_methods},
    {0, NULL},
};

static PyType_Spec reader_spec = {
    .name = "durus._persistent.StateReader",
    .basicsize = sizeof(StateReader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = reader_slots,
};

int
states_exec(PyObject *module)
{
    return add_type(module, &reader_spec);
}
