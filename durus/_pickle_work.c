/* Whether the numbers in pickles are in their limits, and whether their steps change only what they make, as fits()
   of records/pickle_work.py does. */

#include "_persistent.h"

enum { FEW = 1024, SHORT_NUMBERS = 256 };

/* What is known of a value on the stack or in the memo. NOTHING is where the memo has no entry. */
enum { NOTHING, IS_MADE, IS_FOUND, A_MARK };

typedef struct {
    const unsigned char *at, *end;
    uint64_t size;
    unsigned char *stack; /* has room for one item for each byte */
    unsigned char *memo;  /* has room for `size` entries, and for those of short numbers */
    size_t height, memo_count;
} Pickles;

static int
skip(Pickles *pickles, uint64_t count)
{
    if (count > (uint64_t)(pickles->end - pickles->at))
        return 0;
    pickles->at += count;
    return 1;
}

static int
take_number(Pickles *pickles, int size, uint64_t *number)
{
    const unsigned char *at = pickles->at;
    if (!skip(pickles, (uint64_t)size))
        return 0;
    for (*number = 0; size-- > 0;)
        *number = *number << 8 | at[size];
    return 1;
}

static int
skip_counted(Pickles *pickles, int size)
{
    uint64_t count;
    return take_number(pickles, size, &count) && skip(pickles, count);
}

static int
skip_line(Pickles *pickles)
{
    const unsigned char *found = memchr(pickles->at, '\n', (size_t)(pickles->end - pickles->at));
    if (found != NULL)
        pickles->at = found + 1;
    return found != NULL;
}

/* Goes to the end of a step. Returns 0 where its number is too large, or the step is not a usual one. The names of the
   opcodes are those of pickle.py. */
static int
skip_step(Pickles *pickles, unsigned char opcode)
{
    uint64_t number;
    switch (opcode) {
    case '(': /* MARK and others without an argument */
    case '0':
    case '1':
    case '2':
    case 'N':
    case 'Q':
    case 'R':
    case ')':
    case ']':
    case '}':
    case 'a':
    case 'b':
    case 'd':
    case 'e':
    case 'l':
    case 'o':
    case 's':
    case 't':
    case 'u':
    case 0x81: /* NEWOBJ */
    case 0x85: /* TUPLE1, TUPLE2, TUPLE3, NEWTRUE, NEWFALSE */
    case 0x86:
    case 0x87:
    case 0x88:
    case 0x89:
    case 0x8f: /* EMPTY_SET, ADDITEMS, FROZENSET, NEWOBJ_EX, STACK_GLOBAL, MEMOIZE */
    case 0x90:
    case 0x91:
    case 0x92:
    case 0x93:
    case 0x94:
    case 0x97: /* NEXT_BUFFER, READONLY_BUFFER */
    case 0x98:
        return 1;
    case 'K': /* BININT1, BINPUT, BINGET, PROTO, EXT1 */
    case 'q':
    case 'h':
    case 0x80:
    case 0x82:
        return skip(pickles, 1);
    case 'M': /* BININT2, EXT2 */
    case 0x83:
        return skip(pickles, 2);
    case 'J': /* BININT, EXT4 */
    case 0x84:
        return skip(pickles, 4);
    case 'G': /* BINFLOAT */
        return skip(pickles, 8);
    case 'C': /* SHORT_BINBYTES, SHORT_BINSTRING, SHORT_BINUNICODE, LONG1 */
    case 'U':
    case 0x8c:
    case 0x8a:
        return skip_counted(pickles, 1);
    case 'B': /* BINBYTES, BINSTRING, BINUNICODE, LONG4 */
    case 'T':
    case 'X':
    case 0x8b:
        return skip_counted(pickles, 4);
    case 0x8d: /* BINUNICODE8, BINBYTES8, BYTEARRAY8 */
    case 0x8e:
    case 0x96:
        return skip_counted(pickles, 8);
    case 'c': /* GLOBAL */
        return skip_line(pickles) && skip_line(pickles);
    case 0x95: /* FRAME */
        return take_number(pickles, 8, &number) && number <= (uint64_t)(pickles->end - pickles->at);
    case 'r': /* LONG_BINPUT, LONG_BINGET */
    case 'j':
        return take_number(pickles, 4, &number) && number < pickles->size;
    default:
        return 0;
    }
}

/* Returns the number in the step that has just been skipped. */
static size_t
number_in(const Pickles *pickles, unsigned char opcode)
{
    const unsigned char *at = pickles->at;
    return opcode == 'q' || opcode == 'h' ? at[-1] : at[-4] | at[-3] << 8 | at[-2] << 16 | (size_t)at[-1] << 24;
}

static unsigned char
top(const Pickles *pickles)
{
    return pickles->height == 0 ? IS_MADE : pickles->stack[pickles->height - 1];
}

static void
put(Pickles *pickles, size_t number)
{
    pickles->memo_count += pickles->memo[number] == NOTHING;
    pickles->memo[number] = top(pickles);
}

static int
replace(Pickles *pickles, size_t count, unsigned char kind)
{
    pickles->height -= count < pickles->height ? count : pickles->height;
    pickles->stack[pickles->height++] = kind;
    return 1;
}

/* Drops everything from the last mark on, or everything; returns whether there was a value. */
static int
pop_mark(Pickles *pickles)
{
    size_t height = pickles->height, mark = height;
    while (mark > 0 && pickles->stack[mark - 1] != A_MARK)
        mark--;
    pickles->height = mark == 0 ? 0 : mark - 1;
    return mark < height;
}

/* Drops values; returns whether the one below them may be changed. */
static int
may_change(Pickles *pickles, size_t values)
{
    pickles->height -= values < pickles->height ? values : pickles->height;
    return pickles->height == 0 || top(pickles) != IS_FOUND;
}

/* Does to the stack and the memo what a step does. Returns 0 where it changes what the pickle did not make. */
static int
follow_step(Pickles *pickles, unsigned char opcode)
{
    switch (opcode) {
    case '(':
        return replace(pickles, 0, A_MARK);
    case '0':
        pickles->height -= pickles->height > 0;
        return 1;
    case '1':
        pop_mark(pickles);
        return 1;
    case '2':
        if (pickles->height > 0)
            replace(pickles, 0, top(pickles));
        return 1;
    case 'q':
    case 'r':
        put(pickles, number_in(pickles, opcode));
        return 1;
    case 0x94:
        put(pickles, pickles->memo_count);
        return 1;
    case 'h':
    case 'j':
        return replace(pickles, 0, pickles->memo[number_in(pickles, opcode)] == IS_FOUND ? IS_FOUND : IS_MADE);
    case 'a':
    case 'b':
        return may_change(pickles, 1);
    case 's':
        return may_change(pickles, 2);
    case 'e':
    case 'u':
    case 0x90:
        return !pop_mark(pickles) || may_change(pickles, 0);
    case 'd':
    case 'l':
    case 'o':
    case 't':
    case 0x91:
        pop_mark(pickles);
        return replace(pickles, 0, IS_MADE);
    case 'c':
    case 0x82:
    case 0x83:
    case 0x84:
        return replace(pickles, 0, IS_FOUND);
    case 'Q':
        return replace(pickles, 1, IS_FOUND);
    case 0x93:
        return replace(pickles, 2, IS_FOUND);
    case 0x85:
    case 0x98:
        return replace(pickles, 1, IS_MADE);
    case 'R':
    case 0x81:
    case 0x86:
        return replace(pickles, 2, IS_MADE);
    case 0x87:
    case 0x92:
        return replace(pickles, 3, IS_MADE);
    case 0x80: /* PROTO, FRAME */
    case 0x95:
        return 1;
    default:
        return replace(pickles, 0, IS_MADE);
    }
}

static int
all_fit(Pickles *pickles, int first_only)
{
    while (pickles->at < pickles->end) {
        unsigned char opcode = *pickles->at++;
        if (opcode != '.') {
            if (!skip_step(pickles, opcode) || !follow_step(pickles, opcode))
                return 0;
        } else if (first_only || pickles->at == pickles->end)
            return 1;
        else
            pickles->height = 0;
    }
    return 0;
}

/* Stands for fits. */
PyObject *
pickles_fit(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0]) || !PyBool_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "fits() takes bytes and a bool");
        return NULL;
    }
    unsigned char few[FEW];
    size_t size = (size_t)PyBytes_GET_SIZE(args[0]);
    size_t entries = size < SHORT_NUMBERS ? SHORT_NUMBERS : size;
    unsigned char *room = size + entries <= FEW ? few : PyMem_Malloc(size + entries);
    if (room == NULL)
        return PyErr_NoMemory();
    memset(room, NOTHING, entries);
    Pickles pickles = {.size = size, .memo = room, .stack = room + entries};
    pickles.at = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    pickles.end = pickles.at + size;
    int result = all_fit(&pickles, args[1] == Py_True);
    if (room != few)
        PyMem_Free(room);
    return PyBool_FromLong(result);
}
