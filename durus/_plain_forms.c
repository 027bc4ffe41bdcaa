/* Writes plain values as JSON, and finds the references in them, as records/plain_forms.py does it. Where a value is of no
   usual type, deeply nested, or very large, it gives up, and the Python, which is the reference, does all of it. */

#include "_byte_buffer.h"
#include <math.h>

enum { MAX_DEPTH = 200 };

/* Functions that return an int return -1 where they give up, with an exception or without. */

/* JSON */

/* Returns the letter after the backslash of a short escape, 0 if the character has none. */
static unsigned char
letter_of(Py_UCS4 character)
{
    switch (character) {
    case '"':
    case '\\':
        return (unsigned char)character;
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    case '\f':
        return 'f';
    case '\b':
        return 'b';
    default:
        return 0;
    }
}

static Py_ssize_t
size_in_json(Py_UCS4 character)
{
    if (letter_of(character))
        return 2;
    if (' ' <= character && character <= '~')
        return 1;
    return character < 0x10000 ? 6 : 12;
}

static unsigned char *
put_escape(unsigned char *place, unsigned int code)
{
    static const char digits[] = "0123456789abcdef";
    *place++ = '\\';
    *place++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4)
        *place++ = (unsigned char)digits[code >> shift & 15];
    return place;
}

static unsigned char *
put_character(unsigned char *place, Py_UCS4 character)
{
    switch (size_in_json(character)) {
    case 1:
        *place++ = (unsigned char)character;
        return place;
    case 2:
        *place++ = '\\';
        *place++ = letter_of(character);
        return place;
    case 6:
        return put_escape(place, character);
    default: /* two surrogates */
        character -= 0x10000;
        return put_escape(put_escape(place, 0xD800 | character >> 10), 0xDC00 | (character & 0x3FF));
    }
}

static int
put_text(ByteBuffer *json, PyObject *text)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(text), size = 2;
    int kind = PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    if (length > MAX_BYTES)
        return -1;
    for (Py_ssize_t i = 0; i < length; i++)
        size += size_in_json(PyUnicode_READ(kind, data, i));
    unsigned char *place = more(json, size);
    if (place == NULL)
        return -1;
    *place++ = '"';
    for (Py_ssize_t i = 0; i < length; i++)
        place = put_character(place, PyUnicode_READ(kind, data, i));
    *place = '"';
    return 0;
}

static int
put_int(ByteBuffer *json, PyObject *number)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    char digits[24];
    if (overflow) /* an oid of 2^63 or more is not usual */
        return -1;
    return put(json, digits, snprintf(digits, sizeof(digits), "%lld", value));
}

static int
put_float(ByteBuffer *json, double number)
{
    char *digits = isfinite(number) ? PyOS_double_to_string(number, 'r', 0, Py_DTSF_ADD_DOT_0, NULL) : NULL;
    int done = digits == NULL ? -1 : put(json, digits, (Py_ssize_t)strlen(digits));
    PyMem_Free(digits);
    return done;
}

/* Stands for a part of _bytes_form. */
static int
put_bytes(ByteBuffer *json, PyObject *value)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(value);
    Py_ssize_t size = PyBytes_GET_SIZE(value);
    if (size > MAX_BYTES / 2 || put(json, "{\"$bytes\": \"", 12) < 0)
        return -1;
    unsigned char *place = more(json, (size + 2) / 3 * 4);
    if (place == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < size; i += 3) {
        Py_ssize_t rest = size - i;
        unsigned int bits = (unsigned int)bytes[i] << 16;
        bits |= rest > 1 ? (unsigned int)bytes[i + 1] << 8 : 0;
        bits |= rest > 2 ? (unsigned int)bytes[i + 2] : 0;
        *place++ = (unsigned char)digits[bits >> 18];
        *place++ = (unsigned char)digits[bits >> 12 & 63];
        *place++ = (unsigned char)(rest > 1 ? digits[bits >> 6 & 63] : '=');
        *place++ = (unsigned char)(rest > 2 ? digits[bits & 63] : '=');
    }
    return put(json, "\"}", 2);
}

static int put_value(ByteBuffer *json, PyObject *value, int depth);

static int
put_list(ByteBuffer *json, PyObject *list, int depth)
{
    if (put(json, "[", 1) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++)
        if ((i && put(json, ", ", 2) < 0) || put_value(json, PyList_GET_ITEM(list, i), depth) < 0)
            return -1;
    return put(json, "]", 1);
}

static int
put_dict(ByteBuffer *json, PyObject *dict, int depth)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    int is_first = 1;
    if (put(json, "{", 1) < 0)
        return -1;
    while (PyDict_Next(dict, &at, &key, &value)) {
        if (!PyUnicode_CheckExact(key) || (!is_first && put(json, ", ", 2) < 0) || put_text(json, key) < 0 ||
            put(json, ": ", 2) < 0 || put_value(json, value, depth) < 0)
            return -1;
        is_first = 0;
    }
    return put(json, "}", 1);
}

static int
put_value(ByteBuffer *json, PyObject *value, int depth)
{
    if (PyUnicode_CheckExact(value))
        return put_text(json, value);
    if (value == Py_None)
        return put(json, "null", 4);
    if (PyBool_Check(value))
        return value == Py_True ? put(json, "true", 4) : put(json, "false", 5);
    if (PyLong_CheckExact(value))
        return put_int(json, value);
    if (PyFloat_CheckExact(value))
        return put_float(json, PyFloat_AS_DOUBLE(value));
    if (PyBytes_CheckExact(value))
        return put_bytes(json, value);
    if (depth == MAX_DEPTH)
        return -1;
    if (PyList_CheckExact(value))
        return put_list(json, value, depth + 1);
    return PyDict_Check(value) ? put_dict(json, value, depth + 1) : -1; /* a dict, or a Form, which is one */
}

/* Stands for usual_json. */
PyObject *
usual_json(PyObject *Py_UNUSED(module), PyObject *value)
{
    ByteBuffer json;
    init_buffer(&json);
    PyObject *text = put_value(&json, value, 0) < 0 ? NULL : PyUnicode_New(json.size, 127);
    if (text != NULL)
        memcpy(PyUnicode_DATA(text), json.bytes, (size_t)json.size);
    free_buffer(&json);
    if (text != NULL)
        return text;
    PyErr_Clear(); /* of memory, which the Python needs, too */
    Py_RETURN_NONE;
}

/* References */

typedef struct {
    PyObject *found; /* a list of pairs: path and reference */
    /* What plain_forms.py gives. */
    PyObject *form_type, *short_of, *key_ref;
} Search;

/* The way to a part. A path is made of it, once, when a reference is found there. */
typedef struct Step {
    struct Step *before;
    enum { ITEM, ATTRIBUTE, KEY, PAIR, KEY_OF_PAIR, SAME } kind;
    Py_ssize_t number; /* of an ITEM */
    PyObject *key;     /* of the others, borrowed */
    PyObject *path;    /* NULL if it is not made yet */
} Step;

static int find(Search *search, Step *step, PyObject *part, int has_attributes, int depth);

static int
is(PyObject *text, const char *other)
{
    return PyUnicode_CompareWithASCIIString(text, other) == 0;
}

/* Returns the path to a part, borrowed, or NULL. */
static PyObject *
path_of(Search *search, Step *step)
{
    PyObject *before, *text;
    if (step->path != NULL || (before = path_of(search, step->before)) == NULL)
        return step->path;
    switch (step->kind) {
    case ITEM:
        return step->path = PyUnicode_FromFormat("%U[%zd]", before, step->number);
    case ATTRIBUTE:
        return step->path = PyUnicode_FromFormat("%U.%U", before, step->key);
    case KEY:
        return step->path = PyUnicode_FromFormat("%U[%R]", before, step->key);
    case PAIR:
        text = PyObject_CallOneArg(search->short_of, step->key);
        step->path = text == NULL ? NULL : PyUnicode_FromFormat("%U[%S]", before, text);
        Py_XDECREF(text);
        return step->path;
    case KEY_OF_PAIR:
        return step->path = PyUnicode_FromFormat("%U key", before);
    default:
        return step->path = Py_NewRef(before);
    }
}

/* Looks into a part that is a step further, if it has parts. */
static int
find_at(Search *search, Step step, PyObject *part, int has_attributes, int depth)
{
    if (!PyList_CheckExact(part) && !PyDict_Check(part))
        return 0;
    int done = find(search, &step, part, has_attributes, depth + 1);
    Py_XDECREF(step.path);
    return done;
}

static int
find_in_list(Search *search, Step *before, PyObject *list, int depth)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        Step step = {before, ITEM, i, NULL, NULL};
        if (find_at(search, step, PyList_GET_ITEM(list, i), 0, depth) < 0)
            return -1;
    }
    return 0;
}

/* Looks into pairs of keys and values. */
static int
find_in_pairs(Search *search, Step *before, PyObject *pairs, int depth)
{
    for (Py_ssize_t i = 0; PyList_CheckExact(pairs) && i < PyList_GET_SIZE(pairs); i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        if (!PyList_CheckExact(pair) || PyList_GET_SIZE(pair) != 2)
            continue;
        PyObject *key = PyList_GET_ITEM(pair, 0);
        Step to_value = {before, PAIR, 0, key, NULL}, to_key = {before, KEY_OF_PAIR, 0, key, NULL};
        if (find_at(search, to_value, PyList_GET_ITEM(pair, 1), 0, depth) < 0 ||
            find_at(search, to_key, key, 0, depth) < 0)
            return -1;
    }
    return 0;
}

/* Stands for _steps. */
static int
find_in_dict(Search *search, Step *before, PyObject *dict, int has_attributes, int depth)
{
    int is_form = Py_IS_TYPE(dict, (PyTypeObject *)search->form_type);
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict, &at, &key, &value)) {
        int done;
        if (!PyUnicode_CheckExact(key))
            return -1;
        if (is(key, "$dict") || (is_form && is(key, "pairs")))
            done = find_in_pairs(search, before, value, depth);
        else {
            Step step = {before, is_form ? SAME : has_attributes ? ATTRIBUTE : KEY, 0, key, NULL};
            int holds_attributes = is_form && (is(key, "state") || (has_attributes && is(key, "$value")));
            done = find_at(search, step, value, holds_attributes, depth);
        }
        if (done < 0)
            return -1;
    }
    return 0;
}

/* Stands for _find. */
static int
find(Search *search, Step *step, PyObject *part, int has_attributes, int depth)
{
    if (depth == MAX_DEPTH)
        return -1;
    if (PyList_CheckExact(part))
        return find_in_list(search, step, part, depth);
    if (!PyDict_Check(part))
        return 0;
    int is_reference = Py_IS_TYPE(part, (PyTypeObject *)search->form_type) ? PyDict_Contains(part, search->key_ref) : 0;
    if (is_reference <= 0)
        return is_reference < 0 ? -1 : find_in_dict(search, step, part, has_attributes, depth);
    PyObject *path = path_of(search, step), *pair = path == NULL ? NULL : PyTuple_Pack(2, path, part);
    int done = pair == NULL ? -1 : PyList_Append(search->found, pair);
    Py_XDECREF(pair);
    return done;
}

/* Stands for usual_references. */
PyObject *
usual_references(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *state;
    Search search;
    if (!PyArg_ParseTuple(args, "O(OOU):usual_references", &state, &search.form_type, &search.short_of, &search.key_ref))
        return NULL;
    Step start = {NULL, SAME, 0, NULL, PyUnicode_FromString("")};
    search.found = start.path == NULL ? NULL : PyList_New(0);
    if (search.found != NULL && find(&search, &start, state, 1, 0) < 0)
        Py_CLEAR(search.found);
    Py_XDECREF(start.path);
    if (search.found != NULL)
        return search.found;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) /* an interrupt */
            return NULL;
        PyErr_Clear(); /* the Python says what is wrong */
    }
    Py_RETURN_NONE;
}
