/* Reads the usual pickles of states for exports, as _Machine of records/plain.py does. It makes values of Python's own types
   and of Form, which is a dict; it imports nothing, and calls only what it is given. Where a pickle is not of the usual kind
   it gives up, and the machine in Python runs all of it. Nothing is kept. */

#include "_persistent.h"
#include <math.h>

enum { MAX_KEY = 100, MAX_DEPTH = 150, MAX_MARKS = 200, OID_SIZE = 8 };
/* MAX_KEY and MAX_DEPTH of records/plain_forms.py; more marks are not usual. */

typedef struct {
    PyObject **items;
    Py_ssize_t size, capacity;
} Values;

typedef struct {
    const unsigned char *at, *end;
    Values stack, memo;
    Py_ssize_t marks[MAX_MARKS];
    int mark_count;
    /* What plain.py gives. */
    PyObject *form_type, *class_text, *result_of, *key_tuple, *key_class, *key_ref, *key_of_class, *key_dict, *key_set,
        *key_frozenset;
} Machine;

/* Functions that return an int return -1 where they give up, with an exception or without. */

static int
add(Values *values, PyObject *value) /* which is taken over, NULL after an error */
{
    if (value == NULL)
        return -1;
    if (values->size == values->capacity) {
        Py_ssize_t capacity = values->capacity ? 2 * values->capacity : 32;
        PyObject **items = PyMem_Realloc(values->items, (size_t)capacity * sizeof(PyObject *));
        if (items == NULL) {
            Py_DECREF(value);
            PyErr_NoMemory();
            return -1;
        }
        values->items = items;
        values->capacity = capacity;
    }
    values->items[values->size++] = value;
    return 0;
}

static void
drop(Values *values, Py_ssize_t size)
{
    while (values->size > size)
        Py_DECREF(values->items[--values->size]);
}

/* The stack */

static Py_ssize_t
fence(Machine *machine) /* below which no step but those that take a mark may reach */
{
    return machine->mark_count ? machine->marks[machine->mark_count - 1] : 0;
}

static int
has(Machine *machine, Py_ssize_t count)
{
    return machine->stack.size - fence(machine) >= count;
}

static PyObject * /* borrowed */
top(Machine *machine)
{
    return has(machine, 1) ? machine->stack.items[machine->stack.size - 1] : NULL;
}

/* Takes the last mark away, and returns what is below the values after it, borrowed, or NULL. */
static PyObject *
unmark(Machine *machine, Py_ssize_t *start)
{
    if (machine->mark_count == 0)
        return NULL;
    *start = machine->marks[--machine->mark_count];
    return *start > fence(machine) ? machine->stack.items[*start - 1] : NULL;
}

/* Makes a list of the values from `start` on, which leave the stack. */
static PyObject *
take_from(Machine *machine, Py_ssize_t start)
{
    Py_ssize_t count = machine->stack.size - start;
    PyObject *list = PyList_New(count);
    if (list == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++)
        PyList_SET_ITEM(list, i, machine->stack.items[start + i]);
    machine->stack.size = start;
    return list;
}

/* Forms */

static PyObject *
new_form(Machine *machine, PyObject *key, PyObject *value) /* which is taken over */
{
    PyObject *form = value == NULL ? NULL : PyObject_CallNoArgs(machine->form_type);
    if (form != NULL && PyDict_SetItem(form, key, value) < 0)
        Py_CLEAR(form);
    Py_XDECREF(value);
    return form;
}

static PyObject * /* borrowed; NULL if it is not a form with this key */
in_form(Machine *machine, PyObject *value, PyObject *key)
{
    return Py_IS_TYPE(value, (PyTypeObject *)machine->form_type) ? PyDict_GetItemWithError(value, key) : NULL;
}

static int
push_tuple(Machine *machine, Py_ssize_t start)
{
    return start < fence(machine)
        ? -1
        : add(&machine->stack, new_form(machine, machine->key_tuple, take_from(machine, start)));
}

/* Returns whether a name may be repeated without being counted. [EXP-10] */
static int
is_short_name(PyObject *name)
{
    return PyUnicode_CheckExact(name) && PyUnicode_GET_LENGTH(name) <= MAX_KEY;
}

/* Stands for Context.name. */
static int
push_name(Machine *machine, PyObject *module, PyObject *qualname)
{
    if (!PyUnicode_CheckExact(module) || !PyUnicode_CheckExact(qualname))
        return -1;
    PyObject *name = PyObject_CallFunctionObjArgs(machine->class_text, module, qualname, NULL);
    if (name == NULL)
        return -1;
    if (!is_short_name(name)) {
        Py_DECREF(name);
        return -1;
    }
    return add(&machine->stack, new_form(machine, machine->key_class, name));
}

/* Stands for reference. */
static int
make_reference(Machine *machine)
{
    PyObject *pair = top(machine), *parts = pair == NULL ? NULL : in_form(machine, pair, machine->key_tuple);
    if (parts == NULL || PyList_GET_SIZE(parts) != 2)
        return -1;
    PyObject *oid = PyList_GET_ITEM(parts, 0), *name = in_form(machine, PyList_GET_ITEM(parts, 1), machine->key_class);
    if (name == NULL || !PyBytes_CheckExact(oid) || PyBytes_GET_SIZE(oid) != OID_SIZE)
        return -1;
    unsigned long long number = 0;
    for (int i = 0; i < OID_SIZE; i++)
        number = number << 8 | (unsigned char)PyBytes_AS_STRING(oid)[i];
    PyObject *form = new_form(machine, machine->key_ref, PyLong_FromUnsignedLongLong(number));
    if (form != NULL && PyDict_SetItem(form, machine->key_of_class, name) < 0)
        Py_CLEAR(form);
    drop(&machine->stack, machine->stack.size - 1);
    return add(&machine->stack, form);
}

/* Dicts */

static PyObject *
new_pair(PyObject *key, PyObject *value)
{
    PyObject *pair = PyList_New(2);
    if (pair != NULL) {
        PyList_SET_ITEM(pair, 0, Py_NewRef(key));
        PyList_SET_ITEM(pair, 1, Py_NewRef(value));
    }
    return pair;
}

static int
append_pair(PyObject *pairs, PyObject *key, PyObject *value)
{
    PyObject *pair = new_pair(key, value);
    int result = pair == NULL ? -1 : PyList_Append(pairs, pair);
    Py_XDECREF(pair);
    return result;
}

/* Makes the items of a dict a list of pairs in it; returns the list, borrowed. */
static PyObject *
make_odd(Machine *machine, PyObject *dict)
{
    PyObject *pairs = PyList_New(0), *key, *value;
    Py_ssize_t at = 0;
    while (pairs != NULL && PyDict_Next(dict, &at, &key, &value)) {
        if (append_pair(pairs, key, value) < 0)
            Py_CLEAR(pairs);
    }
    if (pairs == NULL)
        return NULL;
    PyDict_Clear(dict);
    int result = PyDict_SetItem(dict, machine->key_dict, pairs);
    Py_DECREF(pairs);
    return result < 0 ? NULL : pairs;
}

static int
is_plain_key(PyObject *key)
{
    if (!PyUnicode_CheckExact(key) || PyUnicode_GET_LENGTH(key) > MAX_KEY)
        return 0;
    return PyUnicode_GET_LENGTH(key) == 0 || PyUnicode_READ_CHAR(key, 0) != '$';
}

/* Stands for set_items: the values from `start` on are keys and values in turn. */
static int
set_items(Machine *machine, PyObject *target, Py_ssize_t start)
{
    if (target == NULL || !PyDict_CheckExact(target) || (machine->stack.size - start) % 2)
        return -1;
    PyObject *pairs = PyDict_GetItemWithError(target, machine->key_dict);
    for (Py_ssize_t at = start; at < machine->stack.size; at += 2) {
        PyObject *key = machine->stack.items[at], *value = machine->stack.items[at + 1];
        if (pairs == NULL && is_plain_key(key)) {
            if (PyDict_SetItem(target, key, value) < 0)
                return -1;
            continue;
        }
        if (pairs == NULL && (pairs = make_odd(machine, target)) == NULL)
            return -1;
        if (append_pair(pairs, key, value) < 0)
            return -1;
    }
    drop(&machine->stack, start);
    return 0;
}

/* Stands for append: the values from `start` on. */
static int
append_items(Machine *machine, PyObject *target, Py_ssize_t start)
{
    if (target == NULL || !PyList_CheckExact(target))
        return -1;
    for (Py_ssize_t at = start; at < machine->stack.size; at++)
        if (PyList_Append(target, machine->stack.items[at]) < 0)
            return -1;
    drop(&machine->stack, start);
    return 0;
}

/* Steps with arguments */

static const unsigned char *
take(Machine *machine, uint64_t size)
{
    if (size > (uint64_t)(machine->end - machine->at))
        return NULL;
    machine->at += size;
    return machine->at - size;
}

static int
take_number(Machine *machine, int size, uint64_t *number)
{
    const unsigned char *bytes = take(machine, (uint64_t)size);
    if (bytes == NULL)
        return -1;
    for (*number = 0; size-- > 0;)
        *number = *number << 8 | bytes[size];
    return 0;
}

static int
push_int(Machine *machine, int size)
{
    uint64_t number;
    return take_number(machine, size, &number) < 0 ? -1 : add(&machine->stack, PyLong_FromUnsignedLongLong(number));
}

static int
push_signed(Machine *machine, int size) /* of which each is below 2^53 */
{
    uint64_t number;
    if (size > 6 || take_number(machine, size, &number) < 0)
        return -1;
    uint64_t sign = size ? (uint64_t)1 << (8 * size - 1) : 0;
    return add(&machine->stack, PyLong_FromLongLong((long long)(number ^ sign) - (long long)sign));
}

static int
push_float(Machine *machine)
{
    const unsigned char *bytes = take(machine, 8);
    if (bytes == NULL)
        return -1;
    double value = PyFloat_Unpack8((const char *)bytes, 0);
    return isfinite(value) ? add(&machine->stack, PyFloat_FromDouble(value)) : -1;
}

static PyObject *
text_of(const unsigned char *bytes, Py_ssize_t size)
{
    return PyUnicode_DecodeUTF8((const char *)bytes, size, "surrogatepass");
}

static int
push_text(Machine *machine, int size_of_size)
{
    uint64_t size;
    const unsigned char *bytes = take_number(machine, size_of_size, &size) < 0 ? NULL : take(machine, size);
    return bytes == NULL ? -1 : add(&machine->stack, text_of(bytes, (Py_ssize_t)size));
}

static int
push_bytes(Machine *machine, int size_of_size)
{
    uint64_t size;
    const unsigned char *bytes = take_number(machine, size_of_size, &size) < 0 ? NULL : take(machine, size);
    return bytes == NULL
        ? -1
        : add(&machine->stack, PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size));
}

static PyObject *
take_line(Machine *machine)
{
    const unsigned char *start = machine->at, *end = memchr(start, '\n', (size_t)(machine->end - start));
    if (end == NULL)
        return NULL;
    machine->at = end + 1;
    return PyUnicode_DecodeUTF8((const char *)start, end - start, NULL);
}

static int
push_global(Machine *machine)
{
    PyObject *module = take_line(machine), *qualname = module == NULL ? NULL : take_line(machine);
    int result = qualname == NULL ? -1 : push_name(machine, module, qualname);
    Py_XDECREF(module);
    Py_XDECREF(qualname);
    return result;
}

static int
push_stack_global(Machine *machine)
{
    if (!has(machine, 2))
        return -1;
    Values *stack = &machine->stack;
    PyObject *qualname = stack->items[--stack->size], *module = stack->items[--stack->size];
    int result = push_name(machine, module, qualname);
    Py_DECREF(module);
    Py_DECREF(qualname);
    return result;
}

/* Returns whether a value that is used again can be left as it is: no number is needed for it. [EXP-9] */
static int
is_never_shared(Machine *machine, PyObject *value)
{
    if (PyUnicode_CheckExact(value))
        return PyUnicode_GET_LENGTH(value) <= MAX_KEY;
    if (PyBytes_CheckExact(value))
        return PyBytes_GET_SIZE(value) <= MAX_KEY;
    return in_form(machine, value, machine->key_class) != NULL || in_form(machine, value, machine->key_ref) != NULL;
}

static int
push_from_memo(Machine *machine, int size)
{
    uint64_t number;
    if (take_number(machine, size, &number) < 0 || number >= (uint64_t)machine->memo.size)
        return -1;
    PyObject *value = machine->memo.items[number];
    return is_never_shared(machine, value) ? add(&machine->stack, Py_NewRef(value)) : -1;
}

static int
push_result(Machine *machine)
{
    if (!has(machine, 2))
        return -1;
    Values *stack = &machine->stack;
    PyObject *arguments = stack->items[--stack->size], *function = stack->items[--stack->size];
    PyObject *result = PyObject_CallFunctionObjArgs(machine->result_of, function, arguments, NULL);
    Py_DECREF(function);
    Py_DECREF(arguments);
    PyObject *name = result == NULL ? NULL : in_form(machine, result, machine->key_class);
    if (name != NULL && !is_short_name(name)) {
        Py_DECREF(result);
        return -1;
    }
    return add(stack, result);
}

static int
add_to_set(Machine *machine)
{
    Py_ssize_t start;
    PyObject *set = unmark(machine, &start);
    return set == NULL ? -1 : append_items(machine, in_form(machine, set, machine->key_set), start);
}

/* Stands for a part of _Machine.load. The names of the opcodes are those of pickle.py. */
static int
run_step(Machine *machine, unsigned char opcode)
{
    Values *stack = &machine->stack;
    PyObject *target;
    Py_ssize_t start;
    switch (opcode) {
    case 0x8c: /* SHORT_BINUNICODE, BINUNICODE */
        return push_text(machine, 1);
    case 'X':
        return push_text(machine, 4);
    case 0x94: /* MEMOIZE */
        return (target = top(machine)) == NULL ? -1 : add(&machine->memo, Py_NewRef(target));
    case 'K': /* BININT1, BININT2, BININT, LONG1 */
        return push_int(machine, 1);
    case 'M':
        return push_int(machine, 2);
    case 'J':
        return push_signed(machine, 4);
    case 0x8a:
        return machine->at < machine->end ? push_signed(machine, *machine->at++) : -1;
    case 'G': /* BINFLOAT */
        return push_float(machine);
    case 'h': /* BINGET, LONG_BINGET */
        return push_from_memo(machine, 1);
    case 'j':
        return push_from_memo(machine, 4);
    case 'C': /* SHORT_BINBYTES, BINBYTES */
        return push_bytes(machine, 1);
    case 'B':
        return push_bytes(machine, 4);
    case '(': /* MARK */
        if (machine->mark_count == MAX_MARKS)
            return -1;
        machine->marks[machine->mark_count++] = stack->size;
        return 0;
    case 'N': /* NONE, NEWTRUE, NEWFALSE */
        return add(stack, Py_NewRef(Py_None));
    case 0x88:
        return add(stack, Py_NewRef(Py_True));
    case 0x89:
        return add(stack, Py_NewRef(Py_False));
    case '}': /* EMPTY_DICT, SETITEMS, SETITEM */
        return add(stack, PyDict_New());
    case 'u':
        target = unmark(machine, &start);
        return set_items(machine, target, start);
    case 's':
        return has(machine, 3) ? set_items(machine, stack->items[stack->size - 3], stack->size - 2) : -1;
    case ']': /* EMPTY_LIST, APPENDS, APPEND */
        return add(stack, PyList_New(0));
    case 'e':
        target = unmark(machine, &start);
        return append_items(machine, target, start);
    case 'a':
        return has(machine, 2) ? append_items(machine, stack->items[stack->size - 2], stack->size - 1) : -1;
    case ')': /* EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE */
    case 0x85:
    case 0x86:
    case 0x87:
        return push_tuple(machine, stack->size - (opcode == ')' ? 0 : opcode - 0x84));
    case 't':
        if (machine->mark_count == 0)
            return -1;
        return push_tuple(machine, machine->marks[--machine->mark_count]);
    case 0x8f: /* EMPTY_SET, ADDITEMS, FROZENSET */
        return add(stack, new_form(machine, machine->key_set, PyList_New(0)));
    case 0x90:
        return add_to_set(machine);
    case 0x91:
        if (machine->mark_count == 0)
            return -1;
        start = machine->marks[--machine->mark_count];
        return add(stack, new_form(machine, machine->key_frozenset, take_from(machine, start)));
    case 'c': /* GLOBAL, STACK_GLOBAL */
        return push_global(machine);
    case 0x93:
        return push_stack_global(machine);
    case 'Q': /* BINPERSID */
        return make_reference(machine);
    case 'R': /* REDUCE */
        return push_result(machine);
    case 0x95: /* FRAME */
        return take(machine, 8) == NULL ? -1 : 0;
    default:
        return -1;
    }
}

/* Stands for check_depth. Whether a value, of which no part occurs twice, is nested in no more than `depth` levels. */
static int
is_flat(PyObject *value, int depth)
{
    PyObject *key, *part;
    Py_ssize_t at = 0;
    int is_dict = PyDict_Check(value), is_list = PyList_Check(value);
    if (depth == 0 && (is_dict || is_list))
        return 0;
    while (is_dict && PyDict_Next(value, &at, &key, &part))
        if (!is_flat(part, depth - 1))
            return 0;
    while (is_list && at < PyList_GET_SIZE(value))
        if (!is_flat(PyList_GET_ITEM(value, at++), depth - 1))
            return 0;
    return 1;
}

/* Runs a pickle of protocol 4 or 5 to its end, which must be that of the bytes; returns its value, or NULL. */
static PyObject *
run(Machine *machine)
{
    const unsigned char *start = take(machine, 2);
    if (start == NULL || start[0] != 0x80 || start[1] < 4 || start[1] > 5)
        return NULL;
    while (machine->at < machine->end) {
        unsigned char opcode = *machine->at++;
        if (opcode == '.') {
            int is_end = machine->at == machine->end && machine->stack.size == 1 && machine->mark_count == 0;
            return is_end && is_flat(machine->stack.items[0], MAX_DEPTH) ? Py_NewRef(machine->stack.items[0]) : NULL;
        }
        if (run_step(machine, opcode) < 0)
            return NULL;
    }
    return NULL;
}

/* Stands for usual_state. */
PyObject *
usual_state(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer pickle;
    Machine machine = {0};
    if (!PyArg_ParseTuple(args, "y*(OOOUUUUUUU):usual_state", &pickle, &machine.form_type, &machine.class_text,
                          &machine.result_of, &machine.key_tuple, &machine.key_class, &machine.key_ref,
                          &machine.key_of_class, &machine.key_dict, &machine.key_set, &machine.key_frozenset))
        return NULL;
    machine.at = pickle.buf;
    machine.end = machine.at + pickle.len;
    PyObject *value = PyType_Check(machine.form_type) ? run(&machine) : NULL;
    drop(&machine.stack, 0);
    drop(&machine.memo, 0);
    PyMem_Free(machine.stack.items);
    PyMem_Free(machine.memo.items);
    PyBuffer_Release(&pickle);
    if (value != NULL)
        return value;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) /* an interrupt */
            return NULL;
        PyErr_Clear(); /* the machine in Python says what is wrong */
    }
    Py_RETURN_NONE;
}
