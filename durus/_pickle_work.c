/* Tells which pickles exceed no limit beyond doubt [REC-33] to [REC-35]. It says False where anything is unusual; then
   check_work() of records/pickle_work.py, which is the reference, finds out and has the words. */

#include "_persistent.h"

enum { MOST_MARKS = 64, DEEPEST = 1000, SMALL_MEMO = 1 << 16, FEW = 64 };

/* What hashing a value takes, as _Weight in Python. No parts: nothing is there. */
typedef struct {
    uint32_t parts, depth;
} Weight;

static const Weight PLAIN = {1, 0};

typedef struct {
    Weight *items;
    size_t size, room;
    Weight few[FEW];
} Weights;

typedef struct {
    const unsigned char *at, *end;
    size_t length;
    uint64_t work, most;
    Weights stack, memo;
    size_t memo_count;
    size_t marks[MOST_MARKS];
    int mark_count;
} Machine;

static void
weights_init(Weights *weights)
{
    weights->items = weights->few;
    weights->size = 0;
    weights->room = FEW;
}

static void
weights_free(Weights *weights)
{
    if (weights->items != weights->few)
        PyMem_Free(weights->items);
}

/* Where a function below returns 0, the pickle is not harmless beyond doubt. */

static int
reserve(Weights *weights, size_t size)
{
    if (size <= weights->room)
        return 1;
    Weight *old = weights->items == weights->few ? NULL : weights->items;
    Weight *items = PyMem_Realloc(old, (size + size / 2) * sizeof(*items));
    if (items == NULL)
        return 0;
    if (old == NULL)
        memcpy(items, weights->few, weights->size * sizeof(*items));
    weights->items = items;
    weights->room = size + size / 2;
    return 1;
}

static int
push(Machine *machine, Weight weight)
{
    if (!reserve(&machine->stack, machine->stack.size + 1))
        return 0;
    machine->stack.items[machine->stack.size++] = weight;
    return 1;
}

static int
has_values(Machine *machine, size_t count)
{
    return machine->stack.size - (machine->mark_count ? machine->marks[machine->mark_count - 1] : 0) >= count;
}

static int
pop(Machine *machine, size_t count)
{
    if (!has_values(machine, count))
        return 0;
    machine->stack.size -= count;
    return 1;
}

static int
skip(Machine *machine, uint64_t count)
{
    if (count > (uint64_t)(machine->end - machine->at))
        return 0;
    machine->at += count;
    return 1;
}

static int
take_number(Machine *machine, int size, uint64_t *number)
{
    const unsigned char *at = machine->at;
    if (!skip(machine, (uint64_t)size))
        return 0;
    for (*number = 0; size-- > 0;)
        *number = *number << 8 | at[size];
    return 1;
}

/* Adds weights as long as they stay far from what their type can hold. */
static int
add(uint64_t *sum, uint64_t more)
{
    *sum += more;
    return *sum < (uint64_t)1 << 31;
}

static int
hash(Machine *machine, Weight key)
{
    machine->work += key.parts;
    return key.depth <= DEEPEST && machine->work <= machine->most;
}

/* Puts a tuple or a frozenset in the place of the values from `start` on. */
static int
collect(Machine *machine, size_t start, int is_frozenset)
{
    uint64_t parts = 1;
    uint32_t depth = 0;
    for (size_t i = start; i < machine->stack.size; i++) {
        Weight part = machine->stack.items[i];
        if ((is_frozenset && !hash(machine, part)) || !add(&parts, part.parts - is_frozenset))
            return 0;
        if (!is_frozenset && part.depth >= depth)
            depth = part.depth + 1;
    }
    int is_empty = start == machine->stack.size;
    machine->stack.size = start;
    return push(machine, is_empty ? PLAIN : (Weight){(uint32_t)parts, is_frozenset ? 0 : depth ? depth : 1});
}

static int
hash_from(Machine *machine, size_t start, size_t step)
{
    for (size_t i = start; i < machine->stack.size; i += step)
        if (!hash(machine, machine->stack.items[i]))
            return 0;
    machine->stack.size = start;
    return 1;
}

static int
put(Machine *machine, uint64_t number)
{
    Weights *memo = &machine->memo;
    if (!has_values(machine, 1) || (number >= SMALL_MEMO && number >= machine->length)
        || !reserve(memo, (size_t)number + 1))
        return 0;
    while (memo->size <= number)
        memo->items[memo->size++] = (Weight){0, 0};
    if (memo->items[number].parts == 0)
        machine->memo_count++;
    memo->items[number] = machine->stack.items[machine->stack.size - 1];
    return 1;
}

static int
get(Machine *machine, uint64_t number)
{
    return number < machine->memo.size && machine->memo.items[number].parts != 0
        && push(machine, machine->memo.items[number]);
}

static int
skip_line(Machine *machine)
{
    const unsigned char *found = memchr(machine->at, '\n', (size_t)(machine->end - machine->at));
    if (found != NULL)
        machine->at = found + 1;
    return found != NULL;
}

static int
after_mark(Machine *machine, unsigned char opcode)
{
    if (machine->mark_count == 0)
        return 0;
    size_t start = machine->marks[--machine->mark_count];
    switch (opcode) {
    case 't':  /* TUPLE */
    case 0x91: /* FROZENSET */
        return collect(machine, start, opcode == 0x91);
    case 'd': /* DICT */
        return hash_from(machine, start, 2) && push(machine, PLAIN);
    case 'u':  /* SETITEMS */
    case 0x90: /* ADDITEMS */
        return hash_from(machine, start, opcode == 'u' ? 2 : 1) && has_values(machine, 1);
    }
    if (opcode == 'o' && start == machine->stack.size) /* OBJ, without a class */
        return 0;
    machine->stack.size = start;
    return opcode == '1' ? 1 : opcode == 'e' ? has_values(machine, 1) : push(machine, PLAIN);
}

/* Does what one opcode says. The names of the opcodes are those of pickle.py. */
static int
step(Machine *machine, unsigned char opcode)
{
    uint64_t number;
    switch (opcode) {
    case 0x80: /* PROTO */
        return skip(machine, 1);
    case 0x95: /* FRAME */
        return take_number(machine, 8, &number) && number <= (uint64_t)(machine->end - machine->at);
    case 'N':  /* NONE */
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
    case '}':  /* EMPTY_DICT */
    case ']':  /* EMPTY_LIST */
    case ')':  /* EMPTY_TUPLE */
    case 0x8f: /* EMPTY_SET */
        return push(machine, PLAIN);
    case 'K':  /* BININT1 */
    case 0x82: /* EXT1 */
        return skip(machine, 1) && push(machine, PLAIN);
    case 'M':  /* BININT2 */
    case 0x83: /* EXT2 */
        return skip(machine, 2) && push(machine, PLAIN);
    case 'J':  /* BININT */
    case 0x84: /* EXT4 */
        return skip(machine, 4) && push(machine, PLAIN);
    case 'G': /* BINFLOAT */
        return skip(machine, 8) && push(machine, PLAIN);
    case 'C':  /* SHORT_BINBYTES */
    case 'U':  /* SHORT_BINSTRING */
    case 0x8c: /* SHORT_BINUNICODE */
        return take_number(machine, 1, &number) && skip(machine, number) && push(machine, PLAIN);
    case 'B': /* BINBYTES */
    case 'T': /* BINSTRING */
    case 'X': /* BINUNICODE */
        return take_number(machine, 4, &number) && skip(machine, number) && push(machine, PLAIN);
    case 0x8d: /* BINUNICODE8 */
    case 0x8e: /* BINBYTES8 */
    case 0x96: /* BYTEARRAY8 */
        return take_number(machine, 8, &number) && skip(machine, number) && push(machine, PLAIN);
    case 0x8a: /* LONG1 */
    case 0x8b: /* LONG4 */
        return take_number(machine, opcode == 0x8a ? 1 : 4, &number) && skip(machine, number)
            && push(machine, (Weight){(uint32_t)(3 + number / 4), 0});
    case 'c': /* GLOBAL */
        return skip_line(machine) && skip_line(machine) && push(machine, PLAIN);
    case '(': /* MARK */
        if (machine->mark_count == MOST_MARKS)
            return 0;
        machine->marks[machine->mark_count++] = machine->stack.size;
        return 1;
    case '0': /* POP, of a mark too */
        if (machine->mark_count && machine->marks[machine->mark_count - 1] == machine->stack.size) {
            machine->mark_count--;
            return 1;
        }
        return pop(machine, 1);
    case '2': /* DUP */
        return has_values(machine, 1) && push(machine, machine->stack.items[machine->stack.size - 1]);
    case 0x85: /* TUPLE1, 2, 3 */
    case 0x86:
    case 0x87:
        return has_values(machine, opcode - 0x84u) && collect(machine, machine->stack.size - (opcode - 0x84u), 0);
    case 's': /* SETITEM */
        return has_values(machine, 3) && hash(machine, machine->stack.items[machine->stack.size - 2]) && pop(machine, 2);
    case 'a': /* APPEND */
    case 'b': /* BUILD */
        return has_values(machine, 2) && pop(machine, 1);
    case 't':  /* TUPLE */
    case 'l':  /* LIST */
    case 'd':  /* DICT */
    case 'e':  /* APPENDS */
    case 'u':  /* SETITEMS */
    case 'o':  /* OBJ */
    case '1':  /* POP_MARK */
    case 0x90: /* ADDITEMS */
    case 0x91: /* FROZENSET */
        return after_mark(machine, opcode);
    case 'R':  /* REDUCE */
    case 0x81: /* NEWOBJ */
    case 0x93: /* STACK_GLOBAL */
        return pop(machine, 2) && push(machine, PLAIN);
    case 0x92: /* NEWOBJ_EX */
        return pop(machine, 3) && push(machine, PLAIN);
    case 'Q': /* BINPERSID */
        return pop(machine, 1) && push(machine, PLAIN);
    case 0x94: /* MEMOIZE */
        return put(machine, machine->memo_count);
    case 'q': /* BINPUT */
    case 'r': /* LONG_BINPUT */
        return take_number(machine, opcode == 'q' ? 1 : 4, &number) && put(machine, number);
    case 'h': /* BINGET */
    case 'j': /* LONG_BINGET */
        return take_number(machine, opcode == 'h' ? 1 : 4, &number) && get(machine, number);
    default:
        return 0;
    }
}

/* Stands for _follow. */
static int
follow(Machine *machine, int first_only)
{
    while (machine->at < machine->end) {
        unsigned char opcode = *machine->at++;
        if (opcode == '.') {
            if (first_only || machine->at == machine->end)
                return 1;
            machine->stack.size = 0;
            machine->mark_count = 0;
        } else if (!step(machine, opcode))
            return 0;
    }
    return 0;
}

PyObject *
pickles_fit(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0]) || !PyBool_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "fits() takes bytes and a bool");
        return NULL;
    }
    Machine machine;
    machine.at = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    machine.length = (size_t)PyBytes_GET_SIZE(args[0]);
    machine.end = machine.at + machine.length;
    machine.work = 0;
    machine.most = machine.length > 1000000 ? 100 * (uint64_t)machine.length : 100000000;
    machine.memo_count = 0;
    machine.mark_count = 0;
    weights_init(&machine.stack);
    weights_init(&machine.memo);
    int result = follow(&machine, args[1] == Py_True);
    weights_free(&machine.stack);
    weights_free(&machine.memo);
    return PyBool_FromLong(result);
}
