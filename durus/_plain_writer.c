/* Writes the usual states of an import, as _Writer of records/plain_writer.py does it, byte for byte. Usual are the
   values of JSON, references, tuples, sets, and dicts with any keys. Where a state has anything else, or is wrong, it
   gives up, and the Python, which is the reference, does all of it and words the error for what is wrong. The state is
   what the parser of JSON has just made: nobody else has it, and no container is in it twice. */

#include "_byte_buffer.h"
#include <math.h>

enum { MAX_NAMES = 16, MAX_DEPTH = 100 };

typedef struct {
    ByteBuffer steps;
    PyObject *refs;       /* a set of oids */
    PyObject *name_steps; /* a function of Python: the steps that name a class */
    PyObject *names[MAX_NAMES];
    unsigned int name_numbers[MAX_NAMES];
    int name_count, depth;
    unsigned int memo_count;
} Writer;

/* Functions that return an int return -1 where they give up, with an exception or without. */

static int
put_step(Writer *writer, unsigned char step)
{
    return put(&writer->steps, &step, 1);
}

/* Writes a step and its argument, a number of this many bytes with the lowest first. */
static int
put_number(Writer *writer, unsigned char step, unsigned long long number, int count)
{
    unsigned char *place = more(&writer->steps, 1 + count);
    if (place == NULL)
        return -1;
    *place++ = step;
    for (int i = 0; i < count; i++)
        *place++ = (unsigned char)(number >> (8 * i));
    return 0;
}

/* Stands for _Writer._note. */
static int
note(Writer *writer)
{
    writer->memo_count++;
    return put_step(writer, 0x94); /* MEMOIZE */
}

/* Stands for _text_step, _Writer._text. */
static int
put_text(Writer *writer, PyObject *text)
{
    Py_ssize_t size;
    const char *bytes = PyUnicode_AsUTF8AndSize(text, &size);
    if (bytes == NULL || size > MAX_BYTES)
        return -1;
    int done = size < 256 ? put_number(writer, 0x8C, (unsigned long long)size, 1)
                          : put_number(writer, 'X', (unsigned long long)size, 4);
    return done < 0 ? -1 : put(&writer->steps, bytes, size);
}

/* Stands for _Writer._int. */
static int
put_int(Writer *writer, PyObject *number)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow)
        return -1;
    if (0 <= value && value < 1 << 8)
        return put_number(writer, 'K', (unsigned long long)value, 1);
    if (0 <= value && value < 1 << 16)
        return put_number(writer, 'M', (unsigned long long)value, 2);
    if (INT32_MIN <= value && value <= INT32_MAX)
        return put_number(writer, 'J', (unsigned long long)value, 4);
    unsigned long long bits = (unsigned long long)(value >= 0 ? value : ~value);
    int length = 1;
    while (bits >> (8 * length - 1)) /* the highest bit is that of the sign */
        length++;
    unsigned char step[2] = {0x8A, (unsigned char)length};
    if (put(&writer->steps, step, sizeof(step)) < 0)
        return -1;
    return put_number(writer, (unsigned char)value, (unsigned long long)(value >> 8), length - 1); /* the lowest, and more */
}

static int
put_float(Writer *writer, double number)
{
    unsigned long long bits;
    unsigned char swapped[9] = {'G'};
    if (!isfinite(number))
        return -1;
    memcpy(&bits, &number, sizeof(bits));
    for (int i = 0; i < 8; i++)
        swapped[1 + i] = (unsigned char)(bits >> (56 - 8 * i));
    return put(&writer->steps, swapped, sizeof(swapped));
}

/* Stands for _Writer._name, _Writer._fetch. */
static int
put_name(Writer *writer, PyObject *cls)
{
    PyObject *steps = PyUnicode_CheckExact(cls) ? PyObject_CallOneArg(writer->name_steps, cls) : NULL;
    if (steps == NULL)
        return -1;
    if (!PyBytes_CheckExact(steps)) {
        Py_DECREF(steps);
        return -1;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(steps);
    for (int i = 0; i < writer->name_count; i++) {
        PyObject *known = writer->names[i];
        if (PyBytes_GET_SIZE(known) == size &&
            memcmp(PyBytes_AS_STRING(known), PyBytes_AS_STRING(steps), (size_t)size) == 0) {
            unsigned int number = writer->name_numbers[i];
            Py_DECREF(steps);
            return number < 256 ? put_number(writer, 'h', number, 1) : put_number(writer, 'j', number, 4);
        }
    }
    if (writer->name_count == MAX_NAMES) {
        Py_DECREF(steps);
        return -1;
    }
    writer->name_numbers[writer->name_count] = writer->memo_count++;
    writer->names[writer->name_count++] = steps;
    return put(&writer->steps, PyBytes_AS_STRING(steps), size);
}

/* Stands for _Writer._reference. */
static int
put_reference(Writer *writer, PyObject *number, PyObject *cls)
{
    int overflow = 1;
    long long value = PyLong_CheckExact(number) ? PyLong_AsLongLongAndOverflow(number, &overflow) : -1;
    if (overflow || value < 0) /* oids of 2^63 and more are not usual */
        return -1;
    unsigned char step[10] = {'C', 8};
    for (int i = 0; i < 8; i++)
        step[2 + i] = (unsigned char)((unsigned long long)value >> (56 - 8 * i));
    PyObject *oid = PyBytes_FromStringAndSize((char *)step + 2, 8);
    if (oid == NULL)
        return -1;
    int done = PySet_Add(writer->refs, oid);
    Py_DECREF(oid);
    if (done < 0 || put(&writer->steps, step, sizeof(step)) < 0 || put_name(writer, cls) < 0)
        return -1;
    return put(&writer->steps, "\x86Q", 2);
}

static int save(Writer *writer, PyObject *value);

/* Stands for _Writer._items. */
static int
put_items(Writer *writer, PyObject *items, unsigned char step)
{
    if (PyList_GET_SIZE(items) == 0)
        return 0;
    if (put_step(writer, '(') < 0)
        return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++)
        if (save(writer, PyList_GET_ITEM(items, i)) < 0)
            return -1;
    return put_step(writer, step);
}

/* Stands for _Writer._pairs. */
static int
put_pairs(Writer *writer, PyObject *pairs)
{
    if (PyList_GET_SIZE(pairs) == 0)
        return 0;
    if (put_step(writer, '(') < 0)
        return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pairs); i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        if (!PyList_CheckExact(pair) || PyList_GET_SIZE(pair) != 2 || save(writer, PyList_GET_ITEM(pair, 0)) < 0 ||
            save(writer, PyList_GET_ITEM(pair, 1)) < 0)
            return -1;
    }
    return put_step(writer, 'u');
}

/* Stands for a part of _Writer._dict, _Writer._dict_form, _Writer._set, _Writer._tuple, _Writer._gather. */
static int
put_form(Writer *writer, PyObject *form)
{
    PyObject *key, *value, *other_key, *other;
    Py_ssize_t next = 0;
    PyDict_Next(form, &next, &key, &value);
    if (PyUnicode_CompareWithASCIIString(key, "$ref") == 0) {
        if (PyDict_GET_SIZE(form) != 2 || !PyDict_Next(form, &next, &other_key, &other) ||
            !PyUnicode_CheckExact(other_key) || PyUnicode_CompareWithASCIIString(other_key, "class") != 0)
            return -1;
        return put_reference(writer, value, other);
    }
    if (PyDict_GET_SIZE(form) != 1 || !PyList_CheckExact(value))
        return -1;
    if (PyUnicode_CompareWithASCIIString(key, "$tuple") == 0) {
        if (PyList_GET_SIZE(value) == 0)
            return put_step(writer, ')');
        return put_items(writer, value, 't') < 0 ? -1 : note(writer);
    }
    if (PyUnicode_CompareWithASCIIString(key, "$dict") == 0)
        return put_step(writer, '}') < 0 || note(writer) < 0 ? -1 : put_pairs(writer, value);
    if (PyUnicode_CompareWithASCIIString(key, "$set") == 0)
        return put_step(writer, 0x8F) < 0 || note(writer) < 0 ? -1 : put_items(writer, value, 0x90);
    return -1;
}

static int
is_form_key(PyObject *key)
{
    return PyUnicode_GET_LENGTH(key) > 0 && PyUnicode_READ_CHAR(key, 0) == '$';
}

/* Stands for _Writer._dict. */
static int
put_dict(Writer *writer, PyObject *dict)
{
    PyObject *key, *value;
    Py_ssize_t next = 0;
    for (int is_first = 1; PyDict_Next(dict, &next, &key, &value); is_first = 0) {
        if (!PyUnicode_CheckExact(key))
            return -1;
        if (is_form_key(key))
            return is_first ? put_form(writer, dict) : -1;
        if (is_first && (put_step(writer, '}') < 0 || note(writer) < 0 || put_step(writer, '(') < 0))
            return -1;
        if (put_text(writer, key) < 0 || save(writer, value) < 0)
            return -1;
    }
    if (next == 0)
        return put_step(writer, '}') < 0 ? -1 : note(writer);
    return put_step(writer, 'u');
}

/* Stands for _Writer.save, _Writer._list. */
static int
save(Writer *writer, PyObject *value)
{
    if (PyUnicode_CheckExact(value))
        return put_text(writer, value);
    if (value == Py_None)
        return put_step(writer, 'N');
    if (PyBool_Check(value))
        return put_step(writer, value == Py_True ? 0x88 : 0x89);
    if (PyLong_CheckExact(value))
        return put_int(writer, value);
    if (PyFloat_CheckExact(value))
        return put_float(writer, PyFloat_AS_DOUBLE(value));
    if (writer->depth == MAX_DEPTH)
        return -1;
    writer->depth++;
    int done = -1;
    if (PyList_CheckExact(value))
        done = put_step(writer, ']') < 0 || note(writer) < 0 ? -1 : put_items(writer, value, 'e');
    else if (PyDict_CheckExact(value))
        done = put_dict(writer, value);
    writer->depth--;
    return done;
}

/* Stands for usual_steps. */
PyObject *
usual_steps(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *state, *steps = NULL;
    Writer writer;
    init_buffer(&writer.steps);
    writer.name_count = writer.depth = 0;
    writer.memo_count = 0;
    if (!PyArg_ParseTuple(args, "OO!O:usual_steps", &state, &PySet_Type, &writer.refs, &writer.name_steps))
        return NULL;
    if (put(&writer.steps, "\x80\x04", 2) == 0 && save(&writer, state) == 0 && put_step(&writer, '.') == 0)
        steps = PyBytes_FromStringAndSize((char *)writer.steps.bytes, writer.steps.size);
    for (int i = 0; i < writer.name_count; i++)
        Py_DECREF(writer.names[i]);
    free_buffer(&writer.steps);
    if (steps != NULL)
        return steps;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) /* an interrupt */
            return NULL;
        PyErr_Clear(); /* the Python says what is wrong */
    }
    Py_RETURN_NONE;
}
