/* Tells whether the numbers in pickles are in their limits, as fits() of records/pickle_work.py does. */

#include "_persistent.h"

enum { ALWAYS_ALLOWED = 1 << 16 }; /* memo entries */

typedef struct {
    const unsigned char *at, *end;
    uint64_t size;
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
        return take_number(pickles, 4, &number) && (number < ALWAYS_ALLOWED || number < pickles->size);
    default:
        return 0;
    }
}

/* Stands for fits. */
PyObject *
pickles_fit(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[0]) || !PyBool_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "fits() takes bytes and a bool");
        return NULL;
    }
    Pickles pickles;
    pickles.at = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    pickles.size = (uint64_t)PyBytes_GET_SIZE(args[0]);
    pickles.end = pickles.at + pickles.size;
    while (pickles.at < pickles.end) {
        unsigned char opcode = *pickles.at++;
        if (opcode != '.') {
            if (!skip_step(&pickles, opcode))
                Py_RETURN_FALSE;
        } else if (args[1] == Py_True || pickles.at == pickles.end)
            Py_RETURN_TRUE;
    }
    Py_RETURN_FALSE;
}
