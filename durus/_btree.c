/* The hot paths of durus/btree.py, in C: lookup, insert, delete, iteration, and ranges.

   btree.py is the reference.  The comment before a function here names the Python that it stands for, or a part of
   which; tests/twins.py finds it when one of the two is changed alone.  What is here does for trees of the usual kind
   what the Python does, step by step: it reads the same nodes in the same order, so that the same ones are loaded and
   count as accessed, and marks the same ones as changed.

   Usual means: keys of a type all of whose values have an order; nodes with the two slots of BNode, whose attributes
   nobody has intercepted, that hold a list of pairs and None or a list of nodes.  Wherever something else turns up,
   the outcome is ODD, and the Python does the whole call.  So there is no outcome ODD after the first change.

   Comparisons, loads, and finalizers of what is freed may run any code, which may change the tree.  So a node, and what
   it holds, is kept by a reference while it is used, and an index is checked against the list it is an index of.
   Between the last such call and the end of a change, of one node or of several, nothing else can run; where it can,
   _fill() of btree.py makes the change. [OBJ-54] [OBJ-55] */

#include "_persistent.h"

#include <structmember.h>

#define MAX_DEPTH 24 /* of a tree; deeper ones are for Python */
#define MAX_PAGES (5 * MAX_DEPTH)

enum outcome { ERROR = -1, BELOW = 0, FOUND = 1, ODD = 2 };
enum place { FIRST = 0, BEFORE = 1, AFTER = 2, LAST = 3 }; /* of a _Boundary */

/* Python, where it is asked for */

static PyObject *
call_reference(BTreeState *state, PyObject *self, const char *name, PyObject *const *args, Py_ssize_t count,
               PyObject *names)
{
    PyObject *method = state->tree_type == NULL ? NULL : PyObject_GetAttrString((PyObject *)state->tree_type, name);
    if (method == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "join_btree() was not called");
        return NULL;
    }
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    PyObject *result = NULL, **all = PyMem_Calloc((size_t)(1 + count + named), sizeof(PyObject *));
    if (all == NULL)
        PyErr_NoMemory();
    else {
        all[0] = self;
        for (Py_ssize_t i = 0; i < count + named; i++)
            all[1 + i] = args[i];
        result = PyObject_Vectorcall(method, all, (size_t)(1 + count), names);
    }
    PyMem_Free(all);
    Py_DECREF(method);
    return result;
}

static PyObject *
call_global(BTreeState *state, const char *name, PyObject *one, PyObject *two, PyObject *three)
{
    PyObject *function = PyMapping_GetItemString(state->globals, name);
    PyObject *result = function == NULL ? NULL : PyObject_CallFunctionObjArgs(function, one, two, three, NULL);
    Py_XDECREF(function);
    return result;
}

/* Takes the error that is set, with its traceback. */
static PyObject *
take_error(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
#endif
}

static void
set_error(PyObject *error) /* takes the reference */
{
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
}

/* Stands for BTree._explain: returns ERROR with an error that tells of the keys, or BELOW if there is no error. */
static enum outcome
explain(PyObject *self, PyObject *key)
{
    if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_ArithmeticError))
        return ERROR;
    PyObject *error = take_error();
    PyObject *told = PyObject_CallMethod(self, "_explain", "OO", key, error);
    Py_DECREF(error);
    Py_XDECREF(told);
    return told == NULL ? ERROR : BELOW;
}

/* Stands for a part of BTree._path_for_change: has a TypeError tell with which key another one can't be compared. */
static void
name_keys(PyObject *self, PyObject *key)
{
    PyObject *error = take_error();
    PyObject *told = PyObject_CallMethod(self, "_check_comparable", "(O)", key);
    if (told == NULL)
        Py_DECREF(error);
    else
        set_error(error);
    Py_XDECREF(told);
}

/* Keys */

/* A key that is looked for. Numbers of one digit and texts are compared here, all else by its own methods. */
typedef struct {
    PyObject *key;
    long long number;
    enum { OTHER, NUMBER, TEXT } kind;
} Probe;

static inline int
is_small(PyObject *key, long long *number)
{
    if (!PyLong_CheckExact(key))
        return 0;
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)key))
        return 0;
    *number = PyUnstable_Long_CompactValue((PyLongObject *)key);
#else
    Py_ssize_t size = Py_SIZE(key);
    if (size < -1 || size > 1)
        return 0;
    *number = size == 0 ? 0 : size * (long long)((PyLongObject *)key)->ob_digit[0];
#endif
    return 1;
}

/* Stands for _is_plain: returns if a key is of an ordered type, or a tuple of such keys; or -1. */
static int
is_plain(PyObject *key, PyObject *ordered)
{
    if (PyLong_CheckExact(key) || PyUnicode_CheckExact(key))
        return 1;
    if (!PyTuple_CheckExact(key))
        return PySet_Contains(ordered, (PyObject *)Py_TYPE(key));
    if (Py_EnterRecursiveCall(" in a key of a BTree"))
        return -1;
    int result = 1;
    for (Py_ssize_t index = 0; result == 1 && index < PyTuple_GET_SIZE(key); index++)
        result = is_plain(PyTuple_GET_ITEM(key, index), ordered);
    Py_LeaveRecursiveCall();
    return result;
}

/* Returns whether a key is plain, and makes it a probe; or -1. */
static int
make_probe(BTreeState *state, PyObject *key, Probe *probe)
{
    probe->key = key;
    probe->kind = OTHER;
    if (is_small(key, &probe->number)) {
        probe->kind = NUMBER;
        return 1;
    }
    if (PyUnicode_CheckExact(key)) {
        probe->kind = TEXT;
        return 1;
    }
    if (PyLong_CheckExact(key))
        return 1;
    PyObject *ordered = PyMapping_GetItemString(state->globals, "ORDERED_TYPES");
    if (ordered == NULL)
        return -1;
    int result = PyAnySet_Check(ordered) ? is_plain(key, ordered) : 0;
    Py_DECREF(ordered);
    return result;
}

/* Stands for _check_orderable: returns if a key is known to be equal to itself, and not less; else that is asked. */
static int
is_orderable(PyObject *key, int depth)
{
    if (PyLong_CheckExact(key) || PyUnicode_CheckExact(key) || PyBytes_CheckExact(key) || PyBool_Check(key))
        return 1;
    if (PyFloat_CheckExact(key))
        return PyFloat_AS_DOUBLE(key) == PyFloat_AS_DOUBLE(key);
    if (!PyTuple_CheckExact(key) || depth > 20)
        return 0;
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(key); index++)
        if (!is_orderable(PyTuple_GET_ITEM(key, index), depth + 1))
            return 0;
    return 1;
}

/* Sets *order to below 0, 0 or above 0, as another key is less than that of the probe, equal or greater; returns 0 if
   only their own methods can tell. */
static inline int
compare(const Probe *probe, PyObject *other, int *order)
{
    long long number;
    if (probe->kind == NUMBER && is_small(other, &number)) {
        *order = (number > probe->number) - (number < probe->number);
        return 1;
    }
    if (probe->kind == TEXT && PyUnicode_CheckExact(other)) {
        *order = PyUnicode_Compare(other, probe->key);
        return 1;
    }
    return 0;
}

static PyObject *
key_at(PyObject *items, Py_ssize_t index)
{
    PyObject *item = PySequence_GetItem(items, index);
    PyObject *key = item == NULL ? NULL : PySequence_GetItem(item, 0);
    Py_XDECREF(item);
    return key;
}

/* Stands for a part of _search. */
static int
is_equal(PyObject *one, PyObject *other) /* PyObject_RichCompareBool takes an object as equal to itself; NaN is not */
{
    PyObject *result = PyObject_RichCompare(one, other, Py_EQ);
    int is_true = result == NULL ? -1 : PyObject_IsTrue(result);
    Py_XDECREF(result);
    return is_true;
}

static inline int
is_pair(PyObject *items, Py_ssize_t index)
{
    return index < PyList_GET_SIZE(items) && PyTuple_CheckExact(PyList_GET_ITEM(items, index))
        && PyTuple_GET_SIZE(PyList_GET_ITEM(items, index)) > 0;
}

/* Has the keys in a leaf on their way from memory, all at once: of those above most are at hand. */
static inline void
fetch_keys(PyObject *items)
{
#if defined(__GNUC__)
    Py_ssize_t size = PyList_GET_SIZE(items);
    for (Py_ssize_t index = 0; index < size && size <= 64; index++)
        if (is_pair(items, index))
            __builtin_prefetch(PyTuple_GET_ITEM(PyList_GET_ITEM(items, index), 0));
#endif
}

/* Stands for _search: sets *index to that of the first item that is not below the key; FOUND if it is there, ODD if it
   has no order with the key of that item. */
static enum outcome
search(PyObject *items, const Probe *probe, Py_ssize_t *index)
{
    const Probe sought = *probe;
    Py_ssize_t low = 0, high = PyList_GET_SIZE(items), equal = -1;
    int is_told = 1; /* by compare(), of all keys */
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        int order, is_less;
        if (is_pair(items, middle) && compare(&sought, PyTuple_GET_ITEM(PyList_GET_ITEM(items, middle), 0), &order)) {
            is_less = order < 0;
            if (order == 0)
                equal = middle;
        } else {
            PyObject *other = key_at(items, middle);
            is_less = other == NULL ? -1 : PyObject_RichCompareBool(other, sought.key, Py_LT);
            Py_XDECREF(other);
            is_told = 0;
            if (is_less < 0)
                return ERROR;
        }
        if (is_less)
            low = middle + 1;
        else
            high = middle;
    }
    *index = low;
    if (is_told)
        return low == equal ? FOUND : BELOW;
    if (low == PyList_GET_SIZE(items))
        return BELOW;
    PyObject *other = key_at(items, low);
    int is_above = other == NULL ? -1 : PyObject_RichCompareBool(sought.key, other, Py_LT);
    int is_same = is_above == 0 ? is_equal(other, sought.key) : 0;
    Py_XDECREF(other);
    if (is_above < 0 || is_same < 0)
        return ERROR;
    return is_above ? BELOW : is_same ? FOUND : ODD;
}

/* Nodes */

typedef struct {
    PyObject *items; /* a list */
    PyObject *nodes; /* a list, or NULL in a leaf */
} Contents;

static inline void
drop(Contents *contents)
{
    Py_CLEAR(contents->items);
    Py_CLEAR(contents->nodes);
}

static inline PyObject *
slot_of(PyObject *obj, Py_ssize_t offset) /* borrowed */
{
    return *(PyObject **)((char *)obj + offset);
}

/* Whether nobody has intercepted the attributes of the nodes of a class. The answer for the last one is remembered,
   with the version of the class, which changes whenever it, or a base of it, is changed. */
static inline int
is_usual_node(BTreeState *state, PyTypeObject *type)
{
    if (type == state->usual_type && type->tp_version_tag != 0 && type->tp_version_tag == state->usual_version)
        return 1;
    if (type->tp_getattro != (getattrofunc)persistent_getattro
        || _PyType_Lookup(type, state->items) != state->items_slot
        || _PyType_Lookup(type, state->nodes) != state->nodes_slot || !PyType_IsSubtype(type, state->node_type))
        return 0;
    PyObject *degree = _PyType_Lookup(type, state->minimum_degree);
    int is_known = degree != NULL && PyLong_CheckExact(degree) && type->tp_dictoffset == 0;
    state->usual_degree = is_known ? PyLong_AsSsize_t(degree) : -1;
    PyErr_Clear();
    state->usual_notes = notes_by_itself(type);
    state->usual_type = type;
    state->usual_version = type->tp_version_tag;
    return 1;
}

/* Calls node._p_note_change(), of a node that was looked at. */
static inline int
note_change(BTreeState *state, PyObject *node)
{
    Persistent *self = (Persistent *)node;
    if (is_usual_node(state, Py_TYPE(node)) && !state->usual_notes
        && (self->connection == NULL || (is_fresh(self) && self->status == UNSAVED)))
        return 0;
    return call_note_change(node);
}

/* Reads both attributes of a node, so that it is loaded and counts as accessed: FOUND, ODD or ERROR. */
static enum outcome
look(BTreeState *state, PyObject *node, Contents *contents)
{
    contents->items = contents->nodes = NULL;
    if (!is_usual_node(state, Py_TYPE(node)))
        return ODD;
    if (!is_fresh((Persistent *)node) && use((Persistent *)node) < 0)
        return ERROR;
    PyObject *items = slot_of(node, state->items_offset), *nodes = slot_of(node, state->nodes_offset);
    if (items == NULL || !PyList_CheckExact(items) || nodes == NULL || (nodes != Py_None && !PyList_CheckExact(nodes)))
        return ODD;
    contents->items = Py_NewRef(items);
    contents->nodes = nodes == Py_None ? NULL : Py_NewRef(nodes);
    return FOUND;
}

/* Reads the root of a tree likewise, and sets *root. */
static enum outcome
look_at_tree(BTreeState *state, PyObject *self, PyObject **root)
{
    PyTypeObject *type = Py_TYPE(self);
    *root = NULL;
    if (state->tree_type == NULL || type->tp_getattro != (getattrofunc)persistent_getattro
        || _PyType_Lookup(type, state->root) != state->root_slot || !PyType_IsSubtype(type, state->tree_type))
        return ODD;
    if (!is_fresh((Persistent *)self) && use((Persistent *)self) < 0)
        return ERROR;
    *root = Py_XNewRef(slot_of(self, state->root_offset));
    return *root == NULL ? ODD : FOUND;
}

static inline PyObject *
item_at(PyObject *list, Py_ssize_t index) /* a new reference, or NULL with an IndexError */
{
    return Py_XNewRef(PyList_GetItem(list, index));
}

/* Sets *degree to node.minimum_degree, of a node that was looked at: FOUND, ODD or ERROR. */
static enum outcome
get_degree(BTreeState *state, PyObject *node, Py_ssize_t *degree)
{
    if (is_usual_node(state, Py_TYPE(node)) && state->usual_degree > 0 && state->usual_degree < PY_SSIZE_T_MAX / 4) {
        *degree = state->usual_degree;
        return FOUND;
    }
    PyObject *found = PyObject_GetAttr(node, state->minimum_degree);
    if (found == NULL)
        return ERROR;
    *degree = PyLong_CheckExact(found) ? PyLong_AsSsize_t(found) : -1;
    Py_DECREF(found);
    if (*degree < 1 || *degree > PY_SSIZE_T_MAX / 4) {
        PyErr_Clear();
        return ODD;
    }
    return FOUND;
}

/* A path: the nodes from the root to a key, each with the index in it to continue at. */
typedef struct {
    int count;
    struct {
        PyObject *node;
        Py_ssize_t index;
    } steps[MAX_DEPTH];
} Path;

static int
add_step(Path *path, PyObject *node, Py_ssize_t index) /* takes the reference; returns 0 where there is no room */
{
    if (path->count == MAX_DEPTH) {
        Py_DECREF(node);
        return 0;
    }
    path->steps[path->count].node = node;
    path->steps[path->count++].index = index;
    return 1;
}

static void
cut_path(Path *path, int count)
{
    while (path->count > count) {
        PyObject *node = path->steps[--path->count].node;
        path->steps[path->count].node = NULL;
        Py_DECREF(node);
    }
}

/* Stands for find_item: sets *item if the key is FOUND, BELOW if it is not there. */
static enum outcome
find_item(BTreeState *state, PyObject *root, const Probe *probe, PyObject **item)
{
    PyObject *node = Py_NewRef(root);
    for (;;) {
        Contents contents;
        Py_ssize_t index = 0;
        PyObject *next = NULL;
        enum outcome outcome = look(state, node, &contents);
        if (outcome == FOUND) {
            if (contents.nodes == NULL)
                fetch_keys(contents.items);
            outcome = search(contents.items, probe, &index);
        }
        if (outcome == FOUND) {
            *item = item_at(contents.items, index);
            outcome = *item == NULL ? ERROR : FOUND;
        } else if (outcome == BELOW && contents.nodes != NULL) {
            next = item_at(contents.nodes, index);
            outcome = next == NULL || PyErr_CheckSignals() < 0 ? ERROR : BELOW;
        }
        drop(&contents);
        Py_DECREF(node);
        if (outcome != BELOW || next == NULL) {
            Py_XDECREF(next);
            return outcome;
        }
        node = next;
    }
}

/* Stands for path_to: fills a path to the index of a key; FOUND if it is there, BELOW if the path ends in a leaf. */
static enum outcome
path_to(BTreeState *state, PyObject *root, const Probe *probe, Path *path)
{
    PyObject *node = Py_NewRef(root);
    for (;;) {
        Contents contents;
        Py_ssize_t index = 0;
        PyObject *next = NULL;
        enum outcome outcome = look(state, node, &contents);
        if (outcome == FOUND) {
            if (contents.nodes == NULL)
                fetch_keys(contents.items);
            outcome = search(contents.items, probe, &index);
        }
        if (outcome == BELOW && contents.nodes != NULL) {
            next = item_at(contents.nodes, index);
            outcome = next == NULL || PyErr_CheckSignals() < 0 ? ERROR : BELOW;
        }
        drop(&contents);
        if (outcome != BELOW && outcome != FOUND)
            Py_DECREF(node);
        else if (!add_step(path, node, index))
            outcome = ODD;
        if (outcome != BELOW || next == NULL) {
            Py_XDECREF(next);
            return outcome;
        }
        node = next;
    }
}

/* Reading */

/* Stands for BTree._find: sets *item if the key is FOUND. */
static enum outcome
find(BTreeState *state, PyObject *self, PyObject *key, PyObject **item)
{
    Probe probe;
    PyObject *root;
    int is_usual = make_probe(state, key, &probe);
    if (is_usual != 1)
        return is_usual < 0 ? ERROR : ODD;
    enum outcome outcome = look_at_tree(state, self, &root);
    if (outcome == FOUND)
        outcome = find_item(state, root, &probe, item);
    Py_XDECREF(root);
    return outcome == ERROR ? explain(self, key) : outcome;
}

static PyObject *
value_of(PyObject *item) /* takes the reference */
{
    PyObject *value = PySequence_GetItem(item, 1);
    Py_DECREF(item);
    return value;
}

static void
raise_key_error(PyObject *key)
{
    PyObject *error = PyObject_CallOneArg(PyExc_KeyError, key); /* else a tuple would be taken as its arguments */
    if (error != NULL)
        set_error(error);
}

/* Stands for BTree.__getitem__. */
static PyObject *
tree_subscript(PyObject *self, PyObject *key)
{
    PyObject *item = NULL;
    BTreeState *state = btree_state_of(self);
    switch (find(state, self, key, &item)) {
    case FOUND:
        return value_of(item);
    case BELOW:
        raise_key_error(key);
        return NULL;
    case ODD:
        return call_reference(state, self, "__getitem__", &key, 1, NULL);
    default:
        return NULL;
    }
}

/* Stands for BTree.get. */
static PyObject *
tree_get(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *item = NULL;
    BTreeState *state = btree_state_of(self);
    enum outcome outcome = names != NULL || count < 1 || count > 2 ? ODD : find(state, self, args[0], &item);
    switch (outcome) {
    case FOUND:
        return value_of(item);
    case BELOW:
        return Py_NewRef(count == 2 ? args[1] : Py_None);
    case ODD:
        return call_reference(state, self, "get", args, count, names);
    default:
        return NULL;
    }
}

/* Stands for BTree.__contains__. */
static int
tree_contains(PyObject *self, PyObject *key)
{
    PyObject *item = NULL, *result;
    BTreeState *state = btree_state_of(self);
    switch (find(state, self, key, &item)) {
    case FOUND:
        Py_DECREF(item);
        return 1;
    case BELOW:
        return 0;
    case ODD:
        result = call_reference(state, self, "__contains__", &key, 1, NULL);
        int is_there = result == NULL ? -1 : PyObject_IsTrue(result);
        Py_XDECREF(result);
        return is_there;
    default:
        return -1;
    }
}

/* Stands for BTree._path_to. */
static enum outcome
path_to_key(BTreeState *state, PyObject *self, PyObject *key, Path *path)
{
    Probe probe;
    PyObject *root;
    int is_usual = make_probe(state, key, &probe);
    if (is_usual != 1)
        return is_usual < 0 ? ERROR : ODD;
    enum outcome outcome = look_at_tree(state, self, &root);
    if (outcome == FOUND)
        outcome = path_to(state, root, &probe, path);
    Py_XDECREF(root);
    return outcome == ERROR ? explain(self, key) : outcome;
}

/* Stands for BTree._note_change_of_node. */
static PyObject *
tree_note_change_of_node(PyObject *self, PyObject *key)
{
    Path path = {0};
    PyObject *result = NULL;
    BTreeState *state = btree_state_of(self);
    switch (path_to_key(state, self, key, &path)) {
    case FOUND:
        if (call_note_change(path.steps[path.count - 1].node) == 0)
            result = Py_NewRef(Py_None);
        break;
    case BELOW:
        raise_key_error(key);
        break;
    case ODD:
        result = call_reference(state, self, "_note_change_of_node", &key, 1, NULL);
        break;
    default:
        break;
    }
    cut_path(&path, 0);
    return result;
}

/* Writing */

/* Stands for BTree._take_count: sets *count, NULL if none is kept. */
static int
take_count(BTreeState *state, PyObject *self, PyObject **count)
{
    PyObject **slot = (PyObject **)((char *)self + state->count_offset);
    *count = NULL;
    if (!is_fresh((Persistent *)self) && use((Persistent *)self) < 0)
        return -1;
    if (*slot == NULL || *slot == Py_None)
        return 0;
    *count = *slot;
    *slot = Py_NewRef(Py_None);
    return 0;
}

/* Stands for BTree._give_count_back: takes the reference, which may be NULL. */
static int
give_count_back(BTreeState *state, PyObject *self, PyObject *count, long change)
{
    if (count == NULL)
        return 0;
    PyObject *value = PyObject_GetAttr(count, state->value), *by = PyLong_FromLong(change);
    PyObject *sum = value == NULL || by == NULL ? NULL : PyNumber_Add(value, by);
    int result = sum == NULL ? -1 : PyObject_SetAttr(count, state->value, sum);
    Py_XDECREF(value);
    Py_XDECREF(by);
    Py_XDECREF(sum);
    if (result < 0) {
        Py_DECREF(count);
        return -1;
    }
    PyObject **slot = (PyObject **)((char *)self + state->count_offset), *before = *slot;
    *slot = count;
    Py_XDECREF(before);
    return 0;
}

/* What a node is to hold after a change of several nodes, as _Page says. */
typedef struct {
    PyObject *node;
    Contents contents;
} Page;

typedef struct {
    int count;
    Page pages[MAX_PAGES];
} Pages;

static void
drop_pages(Pages *pages)
{
    while (pages->count > 0) {
        Page *page = &pages->pages[--pages->count];
        drop(&page->contents);
        Py_CLEAR(page->node);
    }
}

static Page *
known_page(Pages *pages, PyObject *node)
{
    for (int i = 0; i < pages->count; i++)
        if (pages->pages[i].node == node)
            return &pages->pages[i];
    return NULL;
}

/* Stands for _Page.__init__: sets *page to that of a node, which is made if there is none: FOUND, ODD or ERROR. */
static enum outcome
page_of(BTreeState *state, Pages *pages, PyObject *node, Page **page)
{
    *page = known_page(pages, node);
    if (*page != NULL)
        return FOUND;
    if (pages->count == MAX_PAGES)
        return ODD;
    Contents contents;
    enum outcome outcome = look(state, node, &contents);
    if (outcome != FOUND)
        return outcome;
    Page new = {NULL, {PyList_GetSlice(contents.items, 0, PY_SSIZE_T_MAX), NULL}};
    if (contents.nodes != NULL)
        new.contents.nodes = PyList_GetSlice(contents.nodes, 0, PY_SSIZE_T_MAX);
    int is_made = new.contents.items != NULL && (contents.nodes == NULL || new.contents.nodes != NULL);
    drop(&contents);
    if (!is_made) {
        drop(&new.contents);
        return ERROR;
    }
    new.node = Py_NewRef(node);
    *page = &pages->pages[pages->count++];
    **page = new;
    return FOUND;
}

static int
is_same_list(PyObject *one, PyObject *other) /* NULL is an empty one */
{
    Py_ssize_t size = one == NULL ? 0 : PyList_GET_SIZE(one);
    if (size != (other == NULL ? 0 : PyList_GET_SIZE(other)))
        return 0;
    for (Py_ssize_t i = 0; i < size; i++)
        if (PyList_GET_ITEM(one, i) != PyList_GET_ITEM(other, i))
            return 0;
    return 1;
}

/* Stands for _Page.is_changed: FOUND if it is, BELOW if not. */
static enum outcome
is_changed(BTreeState *state, Page *page)
{
    Contents old;
    enum outcome outcome = look(state, page->node, &old);
    if (outcome == FOUND && is_same_list(page->contents.items, old.items)
        && is_same_list(page->contents.nodes, old.nodes))
        outcome = BELOW;
    drop(&old);
    return outcome;
}

/* Returns a new node that holds this. */
static PyObject *
new_node(BTreeState *state, PyTypeObject *type, const Contents *contents)
{
    PyObject *nodes = contents->nodes == NULL ? Py_None : contents->nodes;
    if (type->tp_new == persistent_new && Py_TYPE(type)->tp_call == PyType_Type.tp_call
        && _PyType_Lookup(type, state->init) == state->node_init
        && _PyType_Lookup(type, state->setattr) == state->node_setattr) {
        PyObject *node = type->tp_new(type, state->no_args, NULL);
        if (node != NULL) {
            *(PyObject **)((char *)node + state->items_offset) = Py_NewRef(contents->items);
            *(PyObject **)((char *)node + state->nodes_offset) = Py_NewRef(nodes);
        }
        return node;
    }
    PyObject *node = PyObject_CallNoArgs((PyObject *)type);
    if (node != NULL
        && (PyObject_SetAttr(node, state->items, contents->items) < 0
            || PyObject_SetAttr(node, state->nodes, nodes) < 0))
        Py_CLEAR(node);
    return node;
}

/* Stands for _copied. */
static PyObject *
copied(BTreeState *state, Page *page, Pages *pages, int depth)
{
    if (depth > MAX_DEPTH + 1) {
        PyErr_SetString(PyExc_RecursionError, "the nodes of a BTree form a circle");
        return NULL;
    }
    for (Py_ssize_t i = 0; page->contents.nodes != NULL && i < PyList_GET_SIZE(page->contents.nodes); i++) {
        Page *below = known_page(pages, PyList_GET_ITEM(page->contents.nodes, i));
        if (below == NULL)
            continue;
        PyObject *child = copied(state, below, pages, depth + 1);
        if (child == NULL || PyList_SetItem(page->contents.nodes, i, child) < 0)
            return NULL;
    }
    return new_node(state, Py_TYPE(page->node), &page->contents);
}

/* Stands for a part of BTree._put: puts copies into the tree, which was never stored. */
static enum outcome
put_copies(BTreeState *state, PyObject *self, const Path *path, Pages *pages, PyObject *new, PyObject *root,
           PyObject **count)
{
    PyObject *top = Py_XNewRef(root), *copy = NULL;
    Page *page = NULL, *first = NULL;
    enum outcome outcome = top != NULL ? FOUND : look_at_tree(state, self, &top);
    if (outcome == FOUND)
        outcome = page_of(state, pages, top, &first);
    for (int i = 0; outcome == FOUND && i < path->count; i++)
        outcome = page_of(state, pages, path->steps[i].node, &page);
    for (Py_ssize_t i = 0; outcome == FOUND && i < PyList_GET_SIZE(new); i++)
        outcome = page_of(state, pages, PyList_GET_ITEM(new, i), &page);
    if (outcome == FOUND) {
        copy = copied(state, first, pages, 0);
        if (copy == NULL)
            outcome = ERROR;
        else if (take_count(state, self, count) < 0 || PyObject_SetAttr(self, state->root, copy) < 0)
            outcome = ERROR;
    }
    Py_XDECREF(copy);
    Py_XDECREF(top);
    return outcome;
}

/* Takes the pages of nodes that do not change, or are gone, from those that are to be put into their nodes. */
static enum outcome
keep_changed(BTreeState *state, Pages *pages, PyObject *gone)
{
    int kept = 0;
    enum outcome outcome = FOUND;
    for (int i = 0; i < pages->count && outcome == FOUND; i++) {
        Page *page = &pages->pages[i];
        int is_gone = 0;
        for (Py_ssize_t j = 0; j < PyList_GET_SIZE(gone); j++)
            is_gone |= PyList_GET_ITEM(gone, j) == page->node;
        outcome = is_gone ? BELOW : is_changed(state, page);
        if (outcome == FOUND) {
            Page changed = *page;
            *page = pages->pages[kept];
            pages->pages[kept++] = changed;
        } else if (outcome == BELOW)
            outcome = FOUND;
    }
    for (; outcome == FOUND && pages->count > kept; pages->count--) {
        drop(&pages->pages[pages->count - 1].contents);
        Py_CLEAR(pages->pages[pages->count - 1].node);
    }
    return outcome;
}

static int
is_changed_here(PyObject *obj) /* so that what is put into it is stored */
{
    return ((Persistent *)obj)->connection == NULL || ((Persistent *)obj)->status == UNSAVED;
}

/* Stands for _fill: that is called only if setting an attribute may do more than note a change and set it. Here all
   changes are noted first.  Then nothing runs until all of them are made, so there is nothing to be interrupted. */
static enum outcome
fill(BTreeState *state, PyObject *self, Pages *pages, PyObject *root)
{
    int is_usual = root == NULL || _PyType_Lookup(Py_TYPE(self), state->setattr) == state->node_setattr;
    for (int i = 0; is_usual && i < pages->count; i++) {
        PyTypeObject *type = Py_TYPE(pages->pages[i].node);
        is_usual = is_usual_node(state, type) && _PyType_Lookup(type, state->setattr) == state->node_setattr;
    }
    if (is_usual) {
        for (int i = 0; i < pages->count; i++)
            if (change((Persistent *)pages->pages[i].node) < 0)
                return ERROR;
        if (root != NULL && change((Persistent *)self) < 0)
            return ERROR;
        is_usual = root == NULL || is_changed_here(self);
        for (int i = 0; is_usual && i < pages->count; i++)
            is_usual = is_changed_here(pages->pages[i].node);
    }
    if (is_usual) {
        for (int i = 0; i < pages->count; i++) {
            Page *page = &pages->pages[i];
            PyObject **items = (PyObject **)((char *)page->node + state->items_offset), *old = *items;
            *items = page->contents.items;
            page->contents.items = old; /* to be dropped when all is done */
            PyObject **nodes = (PyObject **)((char *)page->node + state->nodes_offset);
            old = *nodes;
            *nodes = page->contents.nodes == NULL ? Py_NewRef(Py_None) : page->contents.nodes;
            page->contents.nodes = old;
        }
        if (root != NULL) {
            PyObject **slot = (PyObject **)((char *)self + state->root_offset), *old = *slot;
            *slot = Py_NewRef(root);
            Py_XDECREF(old);
        }
        return FOUND;
    }
    PyObject *changes = PyList_New(0), *done = NULL;
    enum outcome outcome = changes == NULL ? ERROR : FOUND;
    for (int i = 0; i < pages->count && outcome == FOUND; i++) {
        Page *page = &pages->pages[i];
        PyObject *nodes = page->contents.nodes == NULL ? Py_None : page->contents.nodes;
        PyObject *change = PyTuple_Pack(3, page->node, page->contents.items, nodes);
        outcome = change == NULL || PyList_Append(changes, change) < 0 ? ERROR : FOUND;
        Py_XDECREF(change);
    }
    if (outcome == FOUND)
        done = call_global(state, "_fill", self, changes, root == NULL ? Py_None : root);
    Py_XDECREF(changes);
    Py_XDECREF(done);
    return done == NULL ? ERROR : FOUND;
}

/* Stands for BTree._put. */
static enum outcome
put(BTreeState *state, PyObject *self, const Path *path, Pages *pages, PyObject *new, PyObject *gone, long change,
    PyObject *root)
{
    PyObject *count = NULL;
    enum outcome outcome;
    if (((Persistent *)self)->connection == NULL)
        outcome = put_copies(state, self, path, pages, new, root, &count);
    else if ((outcome = keep_changed(state, pages, gone)) == FOUND)
        outcome = take_count(state, self, &count) < 0 ? ERROR : fill(state, self, pages, root);
    if (outcome != FOUND || count == NULL) {
        Py_XDECREF(count);
        return outcome;
    }
    for (Py_ssize_t i = 0; outcome == FOUND && i < PyList_GET_SIZE(new); i++) {
        PyObject *done = PyObject_CallMethod(count, "note", "(O)", PyList_GET_ITEM(new, i));
        outcome = done == NULL ? ERROR : FOUND;
        Py_XDECREF(done);
    }
    for (Py_ssize_t i = 0; outcome == FOUND && i < PyList_GET_SIZE(gone); i++) {
        PyObject *done = PyObject_CallMethod(count, "forget", "(O)", PyList_GET_ITEM(gone, i));
        outcome = done == NULL ? ERROR : FOUND;
        Py_XDECREF(done);
    }
    if (outcome != FOUND) {
        Py_DECREF(count);
        return ERROR;
    }
    return give_count_back(state, self, count, change) < 0 ? ERROR : FOUND;
}

/* Stands for a part of BTree._insert_and_split: splits a page. Sets *right to a new node with what comes after the
   middle item, and *item to that one. */
static enum outcome
split(BTreeState *state, Page *page, PyObject **item, PyObject **right)
{
    Contents *left = &page->contents, rest = {NULL, NULL};
    Py_ssize_t size = PyList_GET_SIZE(left->items), middle = size / 2;
    *right = NULL;
    Py_XSETREF(*item, Py_NewRef(PyList_GET_ITEM(left->items, middle)));
    rest.items = PyList_GetSlice(left->items, middle + 1, size);
    if (left->nodes != NULL)
        rest.nodes = PyList_GetSlice(left->nodes, middle + 1, PY_SSIZE_T_MAX);
    if (rest.items != NULL && (left->nodes == NULL || rest.nodes != NULL)
        && PyList_SetSlice(left->items, middle, size, NULL) == 0
        && (left->nodes == NULL || PyList_SetSlice(left->nodes, middle + 1, PY_SSIZE_T_MAX, NULL) == 0))
        *right = new_node(state, Py_TYPE(page->node), &rest);
    drop(&rest);
    return *right == NULL ? ERROR : FOUND;
}

/* Stands for a part of BTree._insert_and_split: makes the root above one that was split. */
static PyObject *
new_root(BTreeState *state, PyObject *self, PyObject *item, PyObject *right)
{
    PyObject *old;
    Contents contents = {PyList_New(1), PyList_New(2)};
    PyObject *root = NULL;
    if (contents.items != NULL && contents.nodes != NULL && look_at_tree(state, self, &old) == FOUND) {
        PyList_SET_ITEM(contents.items, 0, Py_NewRef(item));
        PyList_SET_ITEM(contents.nodes, 0, old);
        PyList_SET_ITEM(contents.nodes, 1, Py_NewRef(right));
        root = new_node(state, Py_TYPE(old), &contents);
    } else if (!PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "the tree has no root");
    drop(&contents);
    return root;
}

/* Stands for BTree._insert_and_split. */
static enum outcome
insert_and_split(BTreeState *state, PyObject *self, const Path *path, PyObject *pair)
{
    Pages pages;
    pages.count = 0;
    PyObject *item = Py_NewRef(pair), *new = PyList_New(0), *gone = PyList_New(0), *root = NULL;
    enum outcome outcome = new == NULL || gone == NULL ? ERROR : FOUND;
    int is_full = 1;
    for (int level = path->count - 1; level >= 0 && is_full && outcome == FOUND; level--) {
        Page *page;
        Py_ssize_t index = path->steps[level].index, degree, splits = PyList_GET_SIZE(new);
        outcome = page_of(state, &pages, path->steps[level].node, &page);
        if (outcome == FOUND)
            outcome = get_degree(state, page->node, &degree);
        if (outcome == FOUND && splits > 0 && page->contents.nodes == NULL)
            outcome = ODD;
        if (outcome != FOUND)
            break;
        if (PyList_Insert(page->contents.items, index, item) < 0
            || (splits > 0 && PyList_Insert(page->contents.nodes, index + 1, PyList_GET_ITEM(new, splits - 1)) < 0)) {
            outcome = ERROR;
            break;
        }
        is_full = PyList_GET_SIZE(page->contents.items) >= 2 * degree;
        if (is_full) {
            PyObject *right;
            outcome = split(state, page, &item, &right);
            if (outcome == FOUND && PyList_Append(new, right) < 0)
                outcome = ERROR;
            Py_XDECREF(right);
        }
    }
    if (outcome == FOUND && is_full) {
        root = new_root(state, self, item, PyList_GET_ITEM(new, PyList_GET_SIZE(new) - 1));
        outcome = root == NULL || PyList_Append(new, root) < 0 ? ERROR : FOUND;
    }
    if (outcome == FOUND)
        outcome = put(state, self, path, &pages, new, gone, 1, root);
    drop_pages(&pages);
    Py_XDECREF(root);
    Py_XDECREF(item);
    Py_XDECREF(new);
    Py_XDECREF(gone);
    return outcome;
}

/* Stands for BTree._path_for_change. */
static enum outcome
path_for_change(BTreeState *state, PyObject *self, PyObject *key, Path *path)
{
    Probe probe;
    PyObject *root;
    int is_usual = make_probe(state, key, &probe);
    if (is_usual != 1)
        return is_usual < 0 ? ERROR : ODD;
    if (!is_orderable(key, 0)) {
        PyObject *checked = call_global(state, "_check_orderable", key, NULL, NULL);
        if (checked == NULL)
            return ERROR;
        Py_DECREF(checked);
    }
    enum outcome outcome = look_at_tree(state, self, &root);
    if (outcome == FOUND)
        outcome = path_to(state, root, &probe, path);
    Py_XDECREF(root);
    if (outcome == ERROR && PyErr_ExceptionMatches(PyExc_TypeError))
        name_keys(self, key);
    return outcome;
}

/* Returns an item, which the collector of cyclic garbage need not look at if neither part of it can be in a cycle. */
static PyObject *
new_item(PyObject *key, PyObject *value)
{
    PyObject *item = PyTuple_Pack(2, key, value);
    if (item != NULL && !PyObject_IS_GC(key) && !PyObject_IS_GC(value))
        PyObject_GC_UnTrack(item);
    return item;
}

/* Stands for a part of BTree.__setitem__. */
static int
replace_value(PyObject *items, Py_ssize_t index, PyObject *value)
{
    PyObject *key = key_at(items, index);
    PyObject *item = key == NULL ? NULL : new_item(key, value);
    Py_XDECREF(key);
    return item == NULL ? -1 : PyList_SetItem(items, index, item);
}

/* Stands for BTree.__setitem__. */
static enum outcome
set_item(BTreeState *state, PyObject *self, PyObject *key, PyObject *value)
{
    Path path;
    path.count = 0;
    Contents contents = {NULL, NULL};
    PyObject *pair = NULL, *count;
    Py_ssize_t degree;
    enum outcome found = path_for_change(state, self, key, &path), outcome = found;
    if (found == FOUND || found == BELOW) {
        PyObject *node = path.steps[path.count - 1].node;
        Py_ssize_t index = path.steps[path.count - 1].index;
        outcome = look(state, node, &contents);
        if (outcome == FOUND && found == FOUND)
            outcome = note_change(state, node) < 0 || replace_value(contents.items, index, value) < 0 ? ERROR : FOUND;
        else if (outcome == FOUND && (outcome = get_degree(state, node, &degree)) == FOUND) {
            pair = new_item(key, value);
            if (pair == NULL)
                outcome = ERROR;
            else if (PyList_GET_SIZE(contents.items) >= 2 * degree - 1)
                outcome = insert_and_split(state, self, &path, pair);
            else if (note_change(state, node) < 0)
                outcome = ERROR;
            else {
                if (take_count(state, self, &count) < 0)
                    outcome = ERROR;
                else if (PyList_Insert(contents.items, index, pair) < 0) {
                    Py_XDECREF(count);
                    outcome = ERROR;
                } else if (give_count_back(state, self, count, 1) < 0)
                    outcome = ERROR;
            }
        }
    }
    Py_XDECREF(pair);
    drop(&contents);
    cut_path(&path, 0);
    return outcome;
}

/* Deleting */

static int
pop_at(PyObject *list, Py_ssize_t index) /* which is in the list */
{
    return PyList_SetSlice(list, index, index + 1, NULL);
}

/* Stands for a part of BTree._delete_and_rebalance: moves an item, and the child after it, from the left page through
   the parent to the right one, or back. */
static int
rotate(Page *parent, Py_ssize_t index, Page *from, Page *to, int is_from_left)
{
    PyObject *items = from->contents.items, *nodes = from->contents.nodes;
    Py_ssize_t at = is_from_left ? PyList_GET_SIZE(items) - 1 : 0;
    Py_ssize_t where = is_from_left ? 0 : PyList_GET_SIZE(to->contents.items);
    PyObject *moved = Py_NewRef(PyList_GET_ITEM(items, at));
    if (PyList_Insert(to->contents.items, where, PyList_GET_ITEM(parent->contents.items, index)) < 0) {
        Py_DECREF(moved);
        return -1;
    }
    if (PyList_SetItem(parent->contents.items, index, moved) < 0 || pop_at(items, at) < 0)
        return -1;
    if (to->contents.nodes == NULL)
        return 0;
    at = is_from_left ? PyList_GET_SIZE(nodes) - 1 : 0;
    where = is_from_left ? 0 : PyList_GET_SIZE(to->contents.nodes);
    return PyList_Insert(to->contents.nodes, where, PyList_GET_ITEM(nodes, at)) < 0 ? -1 : pop_at(nodes, at);
}

static int
extend(PyObject *list, PyObject *more)
{
    return PyList_SetSlice(list, PyList_GET_SIZE(list), PyList_GET_SIZE(list), more);
}

/* Stands for _merge: the empty page is that of the right node. */
static int
merge(Page *parent, Py_ssize_t index, Page *left, Page *right)
{
    if (PyList_Append(left->contents.items, PyList_GET_ITEM(parent->contents.items, index)) < 0
        || pop_at(parent->contents.items, index) < 0 || extend(left->contents.items, right->contents.items) < 0
        || (left->contents.nodes != NULL && extend(left->contents.nodes, right->contents.nodes) < 0))
        return -1;
    return pop_at(parent->contents.nodes, index + 1);
}

/* Stands for a part of BTree._delete_and_rebalance: gives a page what it lacks, FOUND, BELOW if it lacks nothing. */
static enum outcome
fill_up(BTreeState *state, Pages *pages, Page *parent, Py_ssize_t index, Page *child, PyObject *gone)
{
    Py_ssize_t degree;
    Page *left = NULL, *right = NULL;
    enum outcome outcome = get_degree(state, child->node, &degree);
    if (outcome != FOUND)
        return outcome;
    if (PyList_GET_SIZE(child->contents.items) >= degree - 1)
        return BELOW;
    PyObject *nodes = parent->contents.nodes;
    if (nodes == NULL || PyList_GET_SIZE(nodes) != PyList_GET_SIZE(parent->contents.items) + 1
        || index >= PyList_GET_SIZE(nodes))
        return ODD;
    if (index > 0) {
        outcome = page_of(state, pages, PyList_GET_ITEM(nodes, index - 1), &left);
        if (outcome != FOUND)
            return outcome;
        if ((left->contents.nodes == NULL) != (child->contents.nodes == NULL)
            || (left->contents.nodes != NULL && PyList_GET_SIZE(left->contents.nodes) == 0))
            return ODD;
        if (PyList_GET_SIZE(left->contents.items) >= degree)
            return rotate(parent, index - 1, left, child, 1) < 0 ? ERROR : FOUND;
    }
    if (index < PyList_GET_SIZE(parent->contents.items)) {
        outcome = page_of(state, pages, PyList_GET_ITEM(nodes, index + 1), &right);
        if (outcome != FOUND)
            return outcome;
        if ((right->contents.nodes == NULL) != (child->contents.nodes == NULL)
            || (right->contents.nodes != NULL && PyList_GET_SIZE(right->contents.nodes) == 0))
            return ODD;
        if (PyList_GET_SIZE(right->contents.items) >= degree)
            return rotate(parent, index, right, child, 0) < 0 ? ERROR : FOUND;
    }
    if (left != NULL)
        return merge(parent, index - 1, left, child) < 0 || PyList_Append(gone, child->node) < 0 ? ERROR : FOUND;
    if (right != NULL)
        return merge(parent, index, child, right) < 0 || PyList_Append(gone, right->node) < 0 ? ERROR : FOUND;
    return FOUND;
}

/* Stands for a part of BTree._delete_and_rebalance: takes the item at the end of a path out of its page. One that is
   not in a leaf is replaced by the last one before it, to which the path is made longer. */
static enum outcome
take_out(BTreeState *state, Path *path, Pages *pages)
{
    Page *page, *leaf;
    Py_ssize_t index = path->steps[path->count - 1].index;
    enum outcome outcome = page_of(state, pages, path->steps[path->count - 1].node, &page);
    if (outcome != FOUND)
        return outcome;
    if (page->contents.nodes == NULL)
        return PySequence_DelItem(page->contents.items, index) < 0 ? ERROR : FOUND;
    PyObject *node = item_at(page->contents.nodes, index);
    for (;;) {
        Contents contents;
        if (node == NULL)
            return ERROR;
        outcome = look(state, node, &contents);
        if (outcome != FOUND) {
            Py_DECREF(node);
            return outcome;
        }
        PyObject *next = contents.nodes == NULL ? NULL : item_at(contents.nodes, PyList_GET_SIZE(contents.nodes) - 1);
        int is_leaf = contents.nodes == NULL, is_added = add_step(path, node, PyList_GET_SIZE(contents.items));
        drop(&contents);
        if (!is_added) {
            Py_XDECREF(next);
            PyErr_Clear(); /* of what has no children, which Python finds, too */
            return ODD;
        }
        if (is_leaf)
            break;
        node = next;
    }
    outcome = page_of(state, pages, path->steps[path->count - 1].node, &leaf);
    if (outcome != FOUND)
        return outcome;
    Py_ssize_t last = PyList_GET_SIZE(leaf->contents.items) - 1;
    if (last < 0)
        return ODD;
    if (PyList_SetItem(page->contents.items, index, Py_NewRef(PyList_GET_ITEM(leaf->contents.items, last))) < 0)
        return ERROR;
    return pop_at(leaf->contents.items, last) < 0 ? ERROR : FOUND;
}

/* Stands for BTree._delete_and_rebalance. */
static enum outcome
delete_and_rebalance(BTreeState *state, PyObject *self, Path *path)
{
    Pages pages;
    pages.count = 0;
    Page *page = NULL;
    PyObject *new = PyList_New(0), *gone = PyList_New(0), *root = NULL, *old = NULL;
    enum outcome outcome = new == NULL || gone == NULL ? ERROR : FOUND;
    for (int level = 0; outcome == FOUND && level < path->count; level++)
        outcome = page_of(state, &pages, path->steps[level].node, &page);
    if (outcome == FOUND)
        outcome = take_out(state, path, &pages);
    for (int level = path->count - 1; outcome == FOUND && level > 0; level--) {
        Page *parent, *child = NULL;
        outcome = page_of(state, &pages, path->steps[level - 1].node, &parent);
        if (outcome == FOUND)
            outcome = page_of(state, &pages, path->steps[level].node, &child);
        if (outcome == FOUND)
            outcome = fill_up(state, &pages, parent, path->steps[level - 1].index, child, gone);
    }
    if (outcome == BELOW)
        outcome = FOUND;
    if (outcome == FOUND)
        outcome = look_at_tree(state, self, &old);
    if (outcome == FOUND)
        outcome = page_of(state, &pages, old, &page);
    if (outcome == FOUND && PyList_GET_SIZE(page->contents.items) == 0 && page->contents.nodes != NULL) {
        root = item_at(page->contents.nodes, 0);
        outcome = root == NULL ? ERROR : PyList_Append(gone, old) < 0 ? ERROR : FOUND;
    }
    if (outcome == FOUND)
        outcome = put(state, self, path, &pages, new, gone, -1, root);
    drop_pages(&pages);
    Py_XDECREF(old);
    Py_XDECREF(root);
    Py_XDECREF(new);
    Py_XDECREF(gone);
    return outcome;
}

/* Stands for BTree.__delitem__. */
static enum outcome
delete_item(BTreeState *state, PyObject *self, PyObject *key)
{
    Path path;
    path.count = 0;
    Contents contents = {NULL, NULL};
    PyObject *count;
    Py_ssize_t degree;
    enum outcome outcome = path_to_key(state, self, key, &path);
    if (outcome == BELOW) {
        raise_key_error(key);
        outcome = ERROR;
    } else if (outcome == FOUND) {
        PyObject *node = path.steps[path.count - 1].node;
        Py_ssize_t index = path.steps[path.count - 1].index;
        outcome = look(state, node, &contents);
        if (outcome == FOUND)
            outcome = get_degree(state, node, &degree);
        if (outcome == FOUND && contents.nodes == NULL
            && (path.count == 1 || PyList_GET_SIZE(contents.items) >= degree)) {
            if (note_change(state, node) < 0)
                outcome = ERROR;
            else {
                if (take_count(state, self, &count) < 0)
                    outcome = ERROR;
                else if (PySequence_DelItem(contents.items, index) < 0) {
                    Py_XDECREF(count);
                    outcome = ERROR;
                } else if (give_count_back(state, self, count, -1) < 0)
                    outcome = ERROR;
            }
        } else if (outcome == FOUND)
            outcome = delete_and_rebalance(state, self, &path);
    }
    drop(&contents);
    cut_path(&path, 0);
    return outcome;
}

/* Stands for BTree.__setitem__, BTree.__delitem__. */
static int
tree_ass_subscript(PyObject *self, PyObject *key, PyObject *value)
{
    BTreeState *state = btree_state_of(self);
    PyObject *const args[] = {key, value};
    PyObject *done;
    switch (value == NULL ? delete_item(state, self, key) : set_item(state, self, key, value)) {
    case ODD:
        done = value == NULL ? call_reference(state, self, "__delitem__", args, 1, NULL)
                             : call_reference(state, self, "__setitem__", args, 2, NULL);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    case ERROR:
        return -1;
    default:
        return 0;
    }
}

/* Iteration */

typedef struct {
    enum place place;
    PyObject *key;
} Boundary;

/* The iterator over items that BTree._gen() returns. */
typedef struct {
    PyObject_HEAD
    PyObject *tree;
    Boundary start;
    Boundary end;
    PyObject *run;    /* the items of a leaf, and the one after it; NULL before the first, and at the end */
    Py_ssize_t index; /* in the run, of the item to give next */
    Py_ssize_t stop;  /* that before which it ends; after which, if it goes backward */
    PyObject *rest;   /* the generator that continues from here, where something is odd */
    char is_backward;
    char is_begun;
    char is_running;
    char is_done;
    Path path;
} Items;

static PyObject *
boundary_object(BTreeState *state, const Boundary *boundary)
{
    PyObject *place = PyLong_FromLong(boundary->place);
    PyObject *key = boundary->key == NULL ? Py_None : boundary->key;
    PyObject *result = place == NULL ? NULL : call_global(state, "_Boundary", place, key, NULL);
    Py_XDECREF(place);
    return result;
}

/* Stands for _Boundary.index_in, _index_of: returns -1 with an error. */
static Py_ssize_t
index_in(BTreeState *state, const Boundary *boundary, PyObject *items)
{
    Probe probe;
    Py_ssize_t index = 0;
    if (boundary->place == FIRST)
        return 0;
    if (boundary->place == LAST)
        return PyList_GET_SIZE(items);
    int is_usual = make_probe(state, boundary->key, &probe);
    enum outcome outcome = is_usual < 0 ? ERROR : is_usual ? search(items, &probe, &index) : ODD;
    if (outcome == ERROR)
        return -1;
    if (outcome != ODD)
        return index + (outcome == FOUND && boundary->place == AFTER);
    PyObject *object = boundary_object(state, boundary);
    PyObject *found = object == NULL ? NULL : PyObject_CallMethod(object, "index_in", "(O)", items);
    index = found == NULL ? -1 : PyLong_AsSsize_t(found);
    Py_XDECREF(found);
    Py_XDECREF(object);
    return index;
}

/* Stands for BTree._path_of. */
static enum outcome
path_of(BTreeState *state, PyObject *tree, const Boundary *boundary, Path *path)
{
    PyObject *node;
    cut_path(path, 0);
    enum outcome outcome = look_at_tree(state, tree, &node);
    while (outcome == FOUND && node != NULL) {
        Contents contents;
        PyObject *next = NULL;
        outcome = look(state, node, &contents);
        Py_ssize_t index = outcome == FOUND ? index_in(state, boundary, contents.items) : 0;
        if (index < 0)
            outcome = ERROR;
        if (outcome == FOUND && contents.nodes != NULL) {
            next = item_at(contents.nodes, index);
            outcome = next == NULL ? ERROR : FOUND;
        }
        drop(&contents);
        if (outcome == FOUND)
            outcome = add_step(path, node, index) ? FOUND : ODD;
        else
            Py_DECREF(node);
        node = next;
    }
    if (outcome != FOUND) {
        Py_XDECREF(node);
        cut_path(path, 0);
    }
    return outcome;
}

/* Stands for BTree._path_past: FOUND, BELOW if the path was changed; then, and for ODD and ERROR, there is no path. */
static enum outcome
path_past(BTreeState *state, PyObject *tree, Path *path, PyObject *item, int is_backward)
{
    PyObject *node;
    Contents contents = {NULL, NULL};
    PyObject *next = NULL;
    enum outcome outcome = look_at_tree(state, tree, &node);
    for (int step = 0; outcome == FOUND && step < path->count; step++) {
        Py_ssize_t index = path->steps[step].index;
        if (node != path->steps[step].node) {
            outcome = BELOW;
            break;
        }
        drop(&contents);
        outcome = look(state, node, &contents);
        if (outcome == FOUND && (contents.nodes == NULL || index > PyList_GET_SIZE(contents.items)))
            outcome = BELOW;
        if (outcome != FOUND)
            break;
        if (step + 1 == path->count) {
            Py_ssize_t at = is_backward ? index - 1 : index;
            if (at < 0 || at >= PyList_GET_SIZE(contents.items)) {
                outcome = BELOW;
                break;
            }
            if (!is_pair(contents.items, at) || !PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) == 0) {
                outcome = ODD;
                break;
            }
            PyObject *here = Py_NewRef(PyTuple_GET_ITEM(PyList_GET_ITEM(contents.items, at), 0));
            int is_same = here == PyTuple_GET_ITEM(item, 0) ? 1 : is_equal(here, PyTuple_GET_ITEM(item, 0));
            Py_DECREF(here);
            if (is_same != 1) {
                outcome = is_same < 0 ? ERROR : BELOW;
                break;
            }
            path->steps[step].index = index = is_backward ? at : at + 1;
        }
        next = item_at(contents.nodes, index);
        Py_DECREF(node);
        node = next;
        outcome = node == NULL ? ERROR : FOUND;
    }
    while (outcome == FOUND && node != NULL) {
        drop(&contents);
        outcome = look(state, node, &contents);
        if (outcome != FOUND)
            break;
        Py_ssize_t index = is_backward ? PyList_GET_SIZE(contents.items) : 0;
        next = contents.nodes == NULL ? NULL : item_at(contents.nodes, index);
        if (contents.nodes != NULL && next == NULL)
            outcome = ERROR;
        if (!add_step(path, node, index) && outcome == FOUND)
            outcome = ODD;
        node = next;
    }
    drop(&contents);
    Py_XDECREF(node);
    if (outcome != FOUND)
        cut_path(path, 0);
    return outcome;
}

/* Stands for _leaf_run: sets *run. */
static enum outcome
leaf_run(BTreeState *state, Path *path, int is_backward, PyObject **run)
{
    Contents contents;
    Py_ssize_t index = path->steps[path->count - 1].index;
    *run = NULL;
    enum outcome outcome = look(state, path->steps[path->count - 1].node, &contents);
    if (outcome != FOUND)
        return outcome;
    *run = is_backward ? PyList_GetSlice(contents.items, 0, index)
                       : PyList_GetSlice(contents.items, index, PY_SSIZE_T_MAX);
    drop(&contents);
    cut_path(path, path->count - 1);
    outcome = *run == NULL ? ERROR : FOUND;
    while (outcome == FOUND && path->count > 0) {
        index = path->steps[path->count - 1].index;
        outcome = look(state, path->steps[path->count - 1].node, &contents);
        if (outcome != FOUND)
            break;
        Py_ssize_t at = is_backward ? index - 1 : index;
        if (is_backward ? index > 0 : index < PyList_GET_SIZE(contents.items)) {
            if (at >= PyList_GET_SIZE(contents.items))
                outcome = ODD;
            else if (PyList_Insert(*run, is_backward ? 0 : PY_SSIZE_T_MAX, PyList_GET_ITEM(contents.items, at)) < 0)
                outcome = ERROR;
            drop(&contents);
            break;
        }
        drop(&contents);
        cut_path(path, path->count - 1);
    }
    if (outcome != FOUND)
        Py_CLEAR(*run);
    return outcome;
}

/* Leaves the rest to a generator of Python, which begins at a boundary. */
static enum outcome
leave_to_reference(BTreeState *state, Items *self, const Boundary *from)
{
    PyObject *start = boundary_object(state, from), *end = start == NULL ? NULL : boundary_object(state, &self->end);
    PyObject *const args[] = {start, end, self->is_backward ? Py_True : Py_False};
    if (end != NULL)
        self->rest = call_reference(state, self->tree, "_gen", args, 3, NULL);
    Py_XDECREF(start);
    Py_XDECREF(end);
    cut_path(&self->path, 0);
    Py_CLEAR(self->run);
    return self->rest == NULL ? ERROR : ODD;
}

/* Stands for BTree._gen: makes the next run that has an item to give: FOUND, BELOW if there is none, ODD if `rest` goes
   on, or ERROR. */
static enum outcome
next_run(BTreeState *state, Items *self)
{
    for (;;) {
        enum outcome outcome;
        PyObject *run, *item = NULL;
        Boundary from = self->start;
        if (!self->is_begun) {
            self->is_begun = 1;
            outcome = path_of(state, self->tree, &from, &self->path);
        } else {
            Py_ssize_t size = PyList_GET_SIZE(self->run);
            if ((self->is_backward ? self->stop > 0 : self->stop < size) || self->path.count == 0 || size == 0)
                return BELOW;
            item = Py_NewRef(PyList_GET_ITEM(self->run, self->is_backward ? 0 : size - 1));
            if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) == 0) {
                PyErr_SetString(PyExc_TypeError, "the items of a BTree must be tuples of key and value");
                Py_DECREF(item);
                return ERROR;
            }
            from.place = self->is_backward ? BEFORE : AFTER;
            from.key = PyTuple_GET_ITEM(item, 0);
            outcome = path_past(state, self->tree, &self->path, item, self->is_backward);
            if (outcome == BELOW)
                outcome = path_of(state, self->tree, &from, &self->path);
        }
        if (outcome == FOUND)
            outcome = leaf_run(state, &self->path, self->is_backward, &run);
        if (outcome == FOUND) {
            Py_XSETREF(self->run, run);
            self->stop = index_in(state, &self->end, run);
            self->index = self->is_backward ? PyList_GET_SIZE(run) : 0;
            if (self->stop < 0)
                outcome = ERROR;
        } else if (outcome == ODD)
            outcome = leave_to_reference(state, self, &from);
        if (outcome != ERROR && PyErr_CheckSignals() < 0)
            outcome = ERROR;
        Py_XDECREF(item);
        if (outcome != FOUND || (self->is_backward ? self->index > self->stop : self->index < self->stop))
            return outcome;
    }
}

/* Stands for a part of BTree._gen: has a TypeError tell of keys that can't be compared. */
static void
name_boundaries(Items *self)
{
    for (int i = 0; i < 2; i++) {
        Boundary *boundary = i == 0 ? &self->start : &self->end;
        if (boundary->place != FIRST && boundary->place != LAST && PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyObject *error = take_error();
            PyObject *told = PyObject_CallMethod(self->tree, "_check_comparable", "(O)", boundary->key);
            if (told == NULL) {
                Py_DECREF(error);
                return;
            }
            Py_DECREF(told);
            set_error(error);
        }
    }
}

static inline int
has_next(const Items *self) /* in the run */
{
    return self->run != NULL && (self->is_backward ? self->index > self->stop : self->index < self->stop);
}

/* Stands for BTree._gen. */
static PyObject *
items_next(Items *self)
{
    PyObject *result = NULL;
    if (self->is_running) {
        PyErr_SetString(PyExc_ValueError, "generator already executing");
        return NULL;
    }
    if (self->is_done)
        return NULL;
    if (!has_next(self)) {
        enum outcome outcome = ODD;
        self->is_running = 1;
        if (self->rest == NULL) {
            outcome = next_run(btree_state_of((PyObject *)self), self);
            if (outcome == ERROR && PyErr_ExceptionMatches(PyExc_TypeError))
                name_boundaries(self);
        }
        if (outcome == ODD)
            result = PyIter_Next(self->rest);
        self->is_running = 0;
        if (outcome != FOUND) {
            if (result == NULL) {
                self->is_done = 1;
                Py_CLEAR(self->run);
                Py_CLEAR(self->rest);
                cut_path(&self->path, 0);
            }
            return result;
        }
    }
    Py_ssize_t index = self->is_backward ? --self->index : self->index++;
    return Py_NewRef(PyList_GET_ITEM(self->run, index));
}

/* Ends an iteration, as the method of a generator does. */
static PyObject *
items_close(Items *self, PyObject *Py_UNUSED(ignored))
{
    if (self->is_running) {
        PyErr_SetString(PyExc_ValueError, "generator already executing");
        return NULL;
    }
    self->is_done = 1;
    Py_CLEAR(self->run);
    Py_CLEAR(self->rest);
    cut_path(&self->path, 0);
    Py_RETURN_NONE;
}

static int
items_traverse(Items *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->tree);
    Py_VISIT(self->start.key);
    Py_VISIT(self->end.key);
    Py_VISIT(self->run);
    Py_VISIT(self->rest);
    for (int i = 0; i < self->path.count; i++)
        Py_VISIT(self->path.steps[i].node);
    return 0;
}

static int
items_clear(Items *self)
{
    self->is_done = 1;
    Py_CLEAR(self->run);
    Py_CLEAR(self->rest);
    cut_path(&self->path, 0);
    Py_CLEAR(self->tree);
    Py_CLEAR(self->start.key);
    Py_CLEAR(self->end.key);
    return 0;
}

static void
items_dealloc(Items *self)
{
    free_object((PyObject *)self, (inquiry)items_clear);
}

static PyObject *
new_items(BTreeState *state, PyObject *tree, Boundary start, Boundary end, int is_backward)
{
    Items *self = (Items *)state->items_type->tp_alloc(state->items_type, 0);
    if (self == NULL)
        return NULL;
    self->tree = Py_NewRef(tree);
    self->start = start;
    self->end = end;
    Py_XINCREF(start.key);
    Py_XINCREF(end.key);
    self->is_backward = (char)is_backward;
    return (PyObject *)self;
}

static PyMethodDef items_methods[] = {
    {"close", (PyCFunction)items_close, METH_NOARGS, PyDoc_STR("close($self)\n--\n\nEnd the iteration.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot items_slots[] = {
    {Py_tp_dealloc, items_dealloc}, {Py_tp_traverse, items_traverse}, {Py_tp_clear, items_clear},
    {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, items_next}, {Py_tp_methods, items_methods}, {0, NULL},
};

static PyType_Spec items_spec = {
    .name = "durus._persistent.BTreeItems",
    .basicsize = sizeof(Items),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = items_slots,
};

/* Takes the place and the key of a _Boundary, which lives as long as the caller holds it. */
static int
take_boundary(PyObject *object, Boundary *boundary)
{
    long place = -1;
    if (PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 2)
        place = PyLong_AsLong(PyTuple_GET_ITEM(object, 0));
    if (place < FIRST || place > LAST) {
        PyErr_SetString(PyExc_TypeError, "a boundary must be a _Boundary");
        return -1;
    }
    boundary->place = (enum place)place;
    boundary->key = PyTuple_GET_ITEM(object, 1);
    return 0;
}

/* Stands for BTree._gen: makes the iterator. */
static PyObject *
tree_gen(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Boundary start, end;
    int is_backward = count == 3 ? PyObject_IsTrue(args[2]) : 0;
    if (count < 2 || count > 3)
        return PyErr_Format(PyExc_TypeError, "_gen() takes two boundaries and a bool");
    if (is_backward < 0 || take_boundary(args[0], &start) < 0 || take_boundary(args[1], &end) < 0)
        return NULL;
    return new_items(btree_state_of(self), self, start, end, is_backward);
}

/* Stands for BTree._range. */
static PyObject *
tree_range(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    BTreeState *state = btree_state_of(self);
    Probe start, end;
    int order;
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "_range() takes two keys, and a bool for each");
    int is_usual = make_probe(state, args[0], &start);
    if (is_usual == 1)
        is_usual = make_probe(state, args[1], &end);
    if (is_usual == 1 && !compare(&start, args[1], &order)) {
        int is_less = PyObject_RichCompareBool(args[1], args[0], Py_LT);
        if (is_less < 0 && !PyErr_ExceptionMatches(PyExc_TypeError))
            return NULL;
        PyErr_Clear();
        order = -is_less;
        is_usual = is_less >= 0;
    }
    if (is_usual != 1)
        return is_usual < 0 ? NULL : call_reference(state, self, "_range", args, count, NULL);
    int is_start_closed = PyObject_IsTrue(args[2]), is_end_closed = PyObject_IsTrue(args[3]);
    if (is_start_closed < 0 || is_end_closed < 0)
        return NULL;
    int is_backward = order < 0;
    Boundary from = {is_start_closed == is_backward ? AFTER : BEFORE, args[0]};
    Boundary to = {is_end_closed == is_backward ? BEFORE : AFTER, args[1]};
    return new_items(state, self, from, to, is_backward);
}

/* Parts of items */

/* The iterator that keys_of() and values_of() return. */
typedef struct {
    PyObject_HEAD
    PyObject *items; /* NULL at the end */
    Py_ssize_t part;
} Parts;

/* Stands for a part of _keys_of, _values_of. */
static PyObject *
part_of(PyObject *item, Py_ssize_t part)
{
    if (PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 2)
        return Py_NewRef(PyTuple_GET_ITEM(item, part));
    PyObject *parts = PySequence_Tuple(item), *result = NULL;
    if (parts == NULL)
        return NULL;
    if (PyTuple_GET_SIZE(parts) < 2)
        PyErr_Format(PyExc_ValueError, "not enough values to unpack (expected 2, got %zd)", PyTuple_GET_SIZE(parts));
    else if (PyTuple_GET_SIZE(parts) > 2)
        PyErr_SetString(PyExc_ValueError, "too many values to unpack (expected 2)");
    else
        result = Py_NewRef(PyTuple_GET_ITEM(parts, part));
    Py_DECREF(parts);
    return result;
}

/* Stands for _keys_of, _values_of. */
static PyObject *
parts_next(Parts *self)
{
    if (self->items == NULL)
        return NULL;
    PyObject *items = Py_NewRef(self->items), *item = Py_TYPE(items)->tp_iternext(items);
    PyObject *result = item == NULL ? NULL : part_of(item, self->part);
    Py_XDECREF(item);
    Py_DECREF(items);
    if (result == NULL)
        Py_CLEAR(self->items);
    return result;
}

/* Ends an iteration, as the method of a generator does. */
static PyObject *
parts_close(Parts *self, PyObject *Py_UNUSED(ignored))
{
    Py_CLEAR(self->items);
    Py_RETURN_NONE;
}

static int
parts_traverse(Parts *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->items);
    return 0;
}

static int
parts_clear(Parts *self)
{
    Py_CLEAR(self->items);
    return 0;
}

static void
parts_dealloc(Parts *self)
{
    free_object((PyObject *)self, (inquiry)parts_clear);
}

static PyMethodDef parts_methods[] = {
    {"close", (PyCFunction)parts_close, METH_NOARGS, PyDoc_STR("close($self)\n--\n\nEnd the iteration.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot parts_slots[] = {
    {Py_tp_dealloc, parts_dealloc}, {Py_tp_traverse, parts_traverse}, {Py_tp_clear, parts_clear},
    {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, parts_next}, {Py_tp_methods, parts_methods}, {0, NULL},
};

static PyType_Spec parts_spec = {
    .name = "durus._persistent.BTreeParts",
    .basicsize = sizeof(Parts),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = parts_slots,
};

static PyObject *
parts_of(PyObject *module, PyObject *items, Py_ssize_t part)
{
    BTreeState *state = btree_state_of_module(module);
    PyObject *iterator = PyObject_GetIter(items);
    Parts *self = iterator == NULL ? NULL : (Parts *)state->parts_type->tp_alloc(state->parts_type, 0);
    if (self == NULL) {
        Py_XDECREF(iterator);
        return NULL;
    }
    self->items = iterator;
    self->part = part;
    return (PyObject *)self;
}

static PyObject *
keys_of(PyObject *module, PyObject *items)
{
    return parts_of(module, items, 0);
}

static PyObject *
values_of(PyObject *module, PyObject *items)
{
    return parts_of(module, items, 1);
}

/* Building */

/* Stands for _ascends. */
static PyObject *
ascends(PyObject *module, PyObject *items)
{
    Probe before = {NULL, 0, OTHER};
    if (!PyList_CheckExact(items))
        Py_RETURN_FALSE;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(items); index++) {
        PyObject *item = PyList_GET_ITEM(items, index);
        int order;
        if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 2)
            Py_RETURN_FALSE;
        Probe probe = {PyTuple_GET_ITEM(item, 0), 0, OTHER};
        if (is_small(probe.key, &probe.number))
            probe.kind = NUMBER;
        else if (PyUnicode_CheckExact(probe.key))
            probe.kind = TEXT;
        if (probe.kind == OTHER || (before.key != NULL && (!compare(&before, probe.key, &order) || order <= 0)))
            Py_RETURN_FALSE;
        before = probe;
    }
    Py_RETURN_TRUE;
}

/* The base class of BTree */

static PyMethodDef tree_methods[] = {
    {"get", (PyCFunction)(void (*)(void))tree_get, METH_FASTCALL | METH_KEYWORDS,
     "get($self, key, default=None)\n--\n\n"},
    {"_gen", (PyCFunction)(void (*)(void))tree_gen, METH_FASTCALL, NULL},
    {"_range", (PyCFunction)(void (*)(void))tree_range, METH_FASTCALL, NULL},
    {"_note_change_of_node", tree_note_change_of_node, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot tree_slots[] = {
    {Py_tp_methods, tree_methods},
    {Py_mp_subscript, tree_subscript},
    {Py_mp_ass_subscript, tree_ass_subscript},
    {Py_sq_contains, tree_contains},
    {0, NULL},
};

static PyType_Spec tree_spec = {
    .name = "durus._persistent.BTreeBase",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = tree_slots,
};

/* The module */

static int
take_slot(PyObject *type, PyObject *name, PyObject **slot, Py_ssize_t *offset)
{
    PyObject *found = PyObject_GetAttr(type, name);
    if (found == NULL)
        return -1;
    PyMemberDef *member = Py_IS_TYPE(found, &PyMemberDescr_Type) ? ((PyMemberDescrObject *)found)->d_member : NULL;
    if (member == NULL || member->type != T_OBJECT_EX) {
        PyErr_Format(PyExc_TypeError, "%U must be a slot", name);
        Py_DECREF(found);
        return -1;
    }
    Py_XSETREF(*slot, found);
    *offset = member->offset;
    return 0;
}

static PyObject *
join_btree(PyObject *module, PyObject *globals)
{
    BTreeState *state = btree_state_of_module(module);
    if (!PyDict_Check(globals))
        return PyErr_Format(PyExc_TypeError, "join_btree() takes the globals of btree.py");
    PyObject *node_type = PyMapping_GetItemString(globals, "BNode");
    PyObject *tree_type = PyMapping_GetItemString(globals, "BTree");
    PyObject *count_name = PyUnicode_InternFromString("_p_count"), *result = NULL;
    if (node_type == NULL || tree_type == NULL || count_name == NULL)
        goto done;
    if (!PyType_Check(node_type) || !PyType_Check(tree_type)) {
        PyErr_SetString(PyExc_TypeError, "BNode and BTree must be classes");
        goto done;
    }
    if (take_slot(node_type, state->items, &state->items_slot, &state->items_offset) < 0
        || take_slot(node_type, state->nodes, &state->nodes_slot, &state->nodes_offset) < 0
        || take_slot(tree_type, state->root, &state->root_slot, &state->root_offset) < 0
        || take_slot(tree_type, count_name, &state->count_slot, &state->count_offset) < 0)
        goto done;
    Py_XSETREF(state->node_init, PyObject_GetAttr(node_type, state->init));
    Py_XSETREF(state->node_setattr, PyObject_GetAttr(node_type, state->setattr));
    if (state->node_init == NULL || state->node_setattr == NULL)
        goto done;
    Py_XSETREF(state->globals, Py_NewRef(globals));
    Py_XSETREF(state->node_type, (PyTypeObject *)Py_NewRef(node_type));
    Py_XSETREF(state->tree_type, (PyTypeObject *)Py_NewRef(tree_type));
    result = Py_NewRef(Py_None);
done:
    Py_XDECREF(node_type);
    Py_XDECREF(tree_type);
    Py_XDECREF(count_name);
    return result;
}

static PyMethodDef functions[] = {
    {"join_btree", join_btree, METH_O, PyDoc_STR("Take the classes and functions of btree.py, by its globals.")},
    {"keys_of", keys_of, METH_O, PyDoc_STR("Return an iterator over the keys of items.")},
    {"values_of", values_of, METH_O, PyDoc_STR("Return an iterator over the values of items.")},
    {"ascends", ascends, METH_O, PyDoc_STR("Return whether items have keys of one simple type, which ascend.")},
    {NULL, NULL, 0, NULL},
};

int
btree_traverse(BTreeState *state, visitproc visit, void *arg)
{
    Py_VISIT(state->node_type);
    Py_VISIT(state->items_slot);
    Py_VISIT(state->nodes_slot);
    Py_VISIT(state->node_init);
    Py_VISIT(state->node_setattr);
    Py_VISIT(state->tree_type);
    Py_VISIT(state->root_slot);
    Py_VISIT(state->count_slot);
    Py_VISIT(state->globals);
    Py_VISIT(state->items_type);
    Py_VISIT(state->parts_type);
    return 0;
}

void
btree_clear(BTreeState *state)
{
    Py_CLEAR(state->node_type);
    Py_CLEAR(state->items_slot);
    Py_CLEAR(state->nodes_slot);
    Py_CLEAR(state->node_init);
    Py_CLEAR(state->node_setattr);
    Py_CLEAR(state->tree_type);
    Py_CLEAR(state->root_slot);
    Py_CLEAR(state->count_slot);
    Py_CLEAR(state->globals);
    Py_CLEAR(state->items_type);
    Py_CLEAR(state->parts_type);
    Py_CLEAR(state->no_args);
    Py_CLEAR(state->items);
    Py_CLEAR(state->nodes);
    Py_CLEAR(state->root);
    Py_CLEAR(state->init);
    Py_CLEAR(state->setattr);
    Py_CLEAR(state->minimum_degree);
    Py_CLEAR(state->value);
}

int
btree_exec(PyObject *module)
{
    BTreeState *state = btree_state_of_module(module);
    const struct {
        PyObject **where;
        const char *text;
    } names[] = {
        {&state->items, "items"},
        {&state->nodes, "nodes"},
        {&state->root, "root"},
        {&state->init, "__init__"},
        {&state->setattr, "__setattr__"},
        {&state->minimum_degree, "minimum_degree"},
        {&state->value, "value"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        *names[i].where = PyUnicode_InternFromString(names[i].text);
        if (*names[i].where == NULL)
            return -1;
    }
    state->no_args = PyTuple_New(0);
    state->items_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &items_spec, NULL);
    state->parts_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &parts_spec, NULL);
    if (state->no_args == NULL || state->items_type == NULL || state->parts_type == NULL)
        return -1;
    PyObject *tree_base = PyType_FromModuleAndSpec(module, &tree_spec, NULL);
    int result = tree_base == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)tree_base);
    Py_XDECREF(tree_base);
    return result < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
