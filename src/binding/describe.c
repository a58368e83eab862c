/*
 * What works and keys are, told without the interpreter.
 *
 * The watcher (core/watch.c) runs no Python code and never waits for the GIL: whoever has it may be what
 * one wants to know about. So it reads objects as they lie in memory, while others may change or
 * free them. The kernel copies what it reads (process_vm_readv), and says no where the interpreter would
 * crash. A callable that the work still has after it was read was there all the time; what a key's works
 * have isn't given back while the queue is locked. In the worst case a text is wrong for one look.
 *
 * Where an object's parts are is seen once from samples, with the GIL, since the limited API doesn't
 * tell, and versions differ.
 */
#define _GNU_SOURCE
#include "describe.h"
#include "keys.h"
#include "operations.h"
#include "package.h"
#include "safepoint.h"
#include "work.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEKED = 256, LAYOUTS = 16, DEPTH = 6, ITEMS = 4, STRING = 120 };

/* Where objects of a type have what describes them; 0: nowhere. */
static struct layout {
	const PyTypeObject *type;
	unsigned part[IOWQ_PARTS];
} layouts[LAYOUTS];
static unsigned nr_layouts;

/* How strings of 1 (ASCII), 1, 2 and 4 bytes a character are told apart, and where they begin. */
enum { ASCII };
static struct {
	uint32_t state;
	unsigned width, begin;
} kinds[4];
static uint32_t kind_bits; /* of a string's state */
static unsigned bytes_begin, tuple_begin;
static bool sign_is_size; /* of an int: up to 3.11 */

enum { STRING_LENGTH = sizeof(PyObject), STRING_STATE = sizeof(PyObject) + 16 };

/* ---- reading memory */

struct text {
	char *end;
	size_t left; /* without the NUL */
};

/* The beginning of an object, as far as it could be read. */
struct peeked {
	const char *address;
	const PyTypeObject *type;
	size_t size;
	char memory[PEEKED];
};

static size_t peek(const void *address, void *to, size_t size)
{
	struct iovec local = { to, size }, remote = { (void *)(uintptr_t)address, size };
	ssize_t count = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

	return count < 0 ? 0 : (size_t)count;
}

static const void *word_at(const struct peeked *object, size_t offset)
{
	const void *word = NULL;

	if (offset + sizeof(word) <= object->size)
		memcpy(&word, object->memory + offset, sizeof(word));
	return word;
}

static bool peek_object(const void *address, struct peeked *object)
{
	object->address = address;
	object->size = address ? peek(address, object->memory, PEEKED) : 0;
	object->type = word_at(object, offsetof(PyObject, ob_type));
	return object->type;
}

static void write_text(struct text *text, const char *format, ...)
{
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text->end, text->left + 1, format, args);
	va_end(args);
	if (length < 0)
		return;
	if ((size_t)length > text->left)
		length = (int)text->left;
	text->end += length;
	text->left -= (size_t)length;
}

static void write_byte(struct text *text, uint32_t byte)
{
	if (!text->left)
		return;
	*text->end++ = (char)byte;
	*text->end = '\0';
	text->left--;
}

static void write_character(struct text *text, uint32_t c)
{
	if (c < 0x80) {
		write_byte(text, c < 0x20 || c == 0x7f ? '?' : c);
		return;
	}
	if (c < 0x800) {
		write_byte(text, 0xc0 | c >> 6);
	} else if (c < 0x10000) {
		write_byte(text, 0xe0 | c >> 12);
		write_byte(text, 0x80 | (c >> 6 & 0x3f));
	} else {
		write_byte(text, 0xf0 | c >> 18);
		write_byte(text, 0x80 | (c >> 12 & 0x3f));
		write_byte(text, 0x80 | (c >> 6 & 0x3f));
	}
	write_byte(text, 0x80 | (c & 0x3f));
}

/* ---- strings, bytes, numbers */

/* Those that lie behind an object's head, from begin on. */
static void write_characters(struct text *text, const struct peeked *object, size_t begin, size_t length,
			     unsigned width)
{
	char memory[STRING * 4];
	const char *from = object->memory + begin;
	size_t count;

	count = length = length < STRING ? length : STRING;
	if (begin + length * width > object->size) { /* the text goes on behind what was read */
		count = peek(object->address + begin, memory, length * width) / width;
		from = memory;
	}
	for (size_t i = 0; i < count; i++) {
		uint32_t c = 0;

		memcpy(&c, from + i * width, width); /* little-endian, as all that it is built for */
		write_character(text, c);
	}
}

/* Returns whether it is a string. */
static bool write_string(struct text *text, const void *address)
{
	struct peeked object;
	uint32_t state;

	if (!peek_object(address, &object) || object.type != &PyUnicode_Type)
		return false;
	state = (uint32_t)(uintptr_t)word_at(&object, STRING_STATE) & kind_bits;
	for (unsigned i = 0; i < 4; i++)
		if (state == kinds[i].state) {
			write_characters(text, &object, kinds[i].begin,
					 (size_t)word_at(&object, STRING_LENGTH), kinds[i].width);
			break;
		}
	return true;
}

static void write_int(struct text *text, const struct peeked *object)
{
	intptr_t size = (intptr_t)word_at(object, sizeof(PyObject));
	unsigned digits = (unsigned)(sign_is_size ? (size < 0 ? -size : size) : size >> 3);
	bool negative = sign_is_size ? size < 0 : (size & 3) == 2;
	uint64_t value = 0;

	for (unsigned i = 0; i < digits && i < 2; i++) {
		uint32_t digit;

		memcpy(&digit, object->memory + sizeof(PyVarObject) + i * sizeof(digit), sizeof(digit));
		value |= (uint64_t)digit << (30 * i);
	}
	if (digits > 2)
		write_text(text, "an int at %p", (const void *)object->address);
	else
		write_text(text, "%s%llu", negative ? "-" : "", (unsigned long long)value);
}

static void write_type_name(struct text *text, const PyTypeObject *type)
{
	char name[80] = "";
	const char *address = NULL;

	/* tp_name is what comes first behind the head of any type */
	peek((const char *)type + sizeof(PyVarObject), &address, sizeof(address));
	if (address)
		peek(address, name, sizeof(name) - 1);
	write_text(text, "%s", *name ? name : "?");
}

/* ---- objects: a key, as its repr() would be */

static const struct layout *layout_of(const PyTypeObject *type)
{
	for (unsigned i = 0; i < nr_layouts; i++)
		if (layouts[i].type == type)
			return &layouts[i];
	return NULL;
}

static const void *part_of(const struct peeked *object, enum iowq_part part)
{
	const struct layout *layout = layout_of(object->type);

	return layout && layout->part[part] ? word_at(object, layout->part[part]) : NULL;
}

static void write_object(struct text *text, const void *address, int depth);

static void write_tuple(struct text *text, const struct peeked *object, int depth)
{
	size_t count = (size_t)word_at(object, sizeof(PyObject));

	write_text(text, "(");
	for (size_t i = 0; i < count && i < ITEMS; i++) {
		write_text(text, i ? ", " : "");
		write_object(text, word_at(object, tuple_begin + i * sizeof(PyObject *)), depth - 1);
	}
	write_text(text, count > ITEMS ? ", ...)" : count == 1 ? ",)" : ")");
}

static void write_other(struct text *text, const struct peeked *object)
{
	const void *string = part_of(object, IOWQ_PART_TEXT);

	if (!string)
		write_text(text, "<");
	write_type_name(text, object->type);
	if (string) {
		write_text(text, "('");
		write_string(text, string);
		write_text(text, "')");
	} else {
		write_text(text, " object at %p>", (const void *)object->address);
	}
}

static void write_object(struct text *text, const void *address, int depth)
{
	struct peeked object;

	if (address == Py_None || address == Py_True || address == Py_False) {
		write_text(text, address == Py_None ? "None" : address == Py_True ? "True" : "False");
	} else if (!depth || !peek_object(address, &object)) {
		write_text(text, "...");
	} else if (object.type == &PyUnicode_Type) {
		write_text(text, "'");
		write_string(text, address);
		write_text(text, "'");
	} else if (object.type == &PyBytes_Type) {
		write_text(text, "b'");
		write_characters(text, &object, bytes_begin, (size_t)word_at(&object, sizeof(PyObject)), 1);
		write_text(text, "'");
	} else if (object.type == &PyLong_Type) {
		write_int(text, &object);
	} else if (object.type == &PyTuple_Type) {
		write_tuple(text, &object, depth);
	} else {
		write_other(text, &object);
	}
}

/* ---- callables, by their names */

static bool write_string_and_dot(struct text *text, const void *string)
{
	bool is_string = string && write_string(text, string);

	write_text(text, is_string ? "." : "");
	return is_string;
}

static void write_c_function(struct text *text, const struct peeked *object)
{
	const char *const *definition = word_at(object, sizeof(PyObject)), *name = NULL;
	char copy[60] = "";

	peek(definition, &name, sizeof(name)); /* PyMethodDef's first */
	if (name)
		peek(name, copy, sizeof(copy) - 1);
	write_string_and_dot(text, part_of(object, IOWQ_PART_MODULE));
	write_text(text, "%s", copy);
}

static void write_callable(struct text *text, const void *address, int depth)
{
	struct peeked object;
	const void *name, *target;

	if (!depth || !peek_object(address, &object))
		return;
	name = part_of(&object, IOWQ_PART_NAME);
	target = part_of(&object, IOWQ_PART_TARGET);
	if (name) {
		write_string_and_dot(text, part_of(&object, IOWQ_PART_MODULE));
		write_string(text, name);
	} else if (target) {
		write_callable(text, target, depth - 1);
	} else if (object.type == &PyCFunction_Type) {
		write_c_function(text, &object);
	} else if (object.type == &PyType_Type) {
		write_type_name(text, (const PyTypeObject *)address);
	} else {
		write_type_name(text, object.type);
		write_text(text, ".__call__");
	}
}

/* ---- the core's hooks. The queue is locked: the work is there, but goes on */

static const void *peek_field(const struct iowq_work *work, size_t offset)
{
	const void *value = NULL;

	peek((const char *)work + offset, &value, sizeof(value));
	return value;
}

static int64_t peek_started(const struct iowq_work *work)
{
	const char *thread = peek_field(work, offsetof(struct iowq_work, thread));
	int64_t started = 0;

	if (thread)
		peek(thread + offsetof(struct iowq_thread, started), &started, sizeof(started));
	return started;
}

static void describe_operation(const struct io_wq_work *work, char *text, size_t size)
{
	static const char *const names[] = {
		"read", "write", "open", "close", "stat", "sync", "allocate", "truncate", "rename",
		"unlink", "copy", "send", "read a file", "write a file",
	};
	const struct io_wq_io *io = container_of(work, struct io_wq_io, work);
	unsigned kind = io->kind;

	snprintf(text, size, "iowq.files: %s", kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "?");
}

static int64_t describe_work(const struct io_wq_work *io_work, char *text, size_t size)
{
	const struct iowq_work *work = container_of(io_work, const struct iowq_work, work);
	struct text to = { text, size - 1 };
	const void *fn;

	if (io_work->func != iowq_call_work) {
		describe_operation(io_work, text, size);
		return 0;
	}
	fn = peek_field(work, offsetof(struct iowq_work, fn));
	write_callable(&to, fn, DEPTH);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (fn != peek_field(work, offsetof(struct iowq_work, fn)))
		*text = '\0'; /* it has just ended */
	return peek_started(work);
}

static void describe_key(const struct io_wq_work *work, char *text, size_t size)
{
	struct text to = { text, size - 1 };

	if (work->func == iowq_call_work)
		write_object(&to, iowq_peek_key(work->key.id, peek).key, 3);
	else
		write_text(&to, "a file at %p", work->key.id);
}

static unsigned count_key(const struct io_wq_work *work)
{
	return work->func == iowq_call_work ? iowq_peek_key(work->key.id, peek).works : 0;
}

/* ---- learning, with the GIL */

static size_t size_of(PyObject *object)
{
	PyObject *size = PyObject_CallMethod(object, "__sizeof__", NULL);
	size_t value = size ? PyLong_AsSize_t(size) : 0;

	Py_XDECREF(size);
	return value;
}

/* Two characters, which no cache has. */
static int learn_kind(unsigned i, const char *characters, unsigned width)
{
	PyObject *sample = PyUnicode_FromString(characters);

	if (!sample)
		return -1;
	memcpy(&kinds[i].state, (const char *)sample + STRING_STATE, sizeof(kinds[i].state));
	kinds[i].width = width;
	kinds[i].begin = (unsigned)size_of(sample) - 3 * width;
	Py_DECREF(sample);
	return 0;
}

/* Whether a string's state has there: how many bytes a character has, in 3 bits; whether it is in one
 * piece; whether it is ASCII. What is in the bits around that is nobody's. */
static bool is_kind_at(unsigned shift)
{
	for (unsigned i = 0; i < 4; i++)
		if ((kinds[i].state >> shift & 0x1f) != (kinds[i].width | 8 | (i == ASCII ? 16 : 0)))
			return false;
	return true;
}

/* Without what it looks for there are no names. */
static int learn_strings(void)
{
	unsigned shift = 0;

	if (learn_kind(ASCII, "a~", 1) || learn_kind(1, "\xc3\xa9\xc3\xa8", 1) ||
	    learn_kind(2, "\xc4\x81\xc4\x93", 2) ||
	    learn_kind(3, "\xf0\x9f\x98\x80\xf0\x9f\x98\x81", 4))
		return -1;
	while (shift < 27 && !is_kind_at(shift))
		shift++;
	kind_bits = 0x1fu << shift;
	for (unsigned i = 0; i < 4; i++)
		kinds[i].state = shift < 27 ? kinds[i].state & kind_bits : UINT32_MAX;
	return 0;
}

/* Returns where in its memory an object has this word; 0: nowhere. */
static unsigned find_word(PyObject *object, uintptr_t word)
{
	size_t size = size_of(object);

	for (size_t offset = sizeof(PyObject); offset + sizeof(word) <= size && offset < PEEKED;
	     offset += sizeof(word))
		if (*(const uintptr_t *)((const char *)object + offset) == word)
			return (unsigned)offset;
	return 0;
}

static int learn_others(void)
{
	PyObject *bytes = PyBytes_FromString("ab"), *number = PyLong_FromLong(1000);
	PyObject *tuple = number ? PyTuple_Pack(1, number) : NULL;
	int failed = !bytes || !tuple;

	if (!failed) {
		tuple_begin = find_word(tuple, (uintptr_t)number);
		bytes_begin = (unsigned)(PyBytes_AsString(bytes) - (const char *)bytes);
		sign_is_size = *(const intptr_t *)((const char *)number + sizeof(PyObject)) == 1;
	}
	Py_XDECREF(bytes);
	Py_XDECREF(tuple);
	Py_XDECREF(number);
	return failed ? -1 : 0;
}

static struct layout *new_layout(const PyTypeObject *type)
{
	struct layout *layout = (struct layout *)layout_of(type);

	if (layout || nr_layouts == LAYOUTS)
		return layout;
	layouts[nr_layouts].type = type;
	return &layouts[nr_layouts++];
}

void iowq_learn_part(uintptr_t sample_, uintptr_t part_object, enum iowq_part part)
{
	PyObject *sample = (PyObject *)sample_;
	struct layout *layout = new_layout(Py_TYPE(sample));

	if (layout)
		layout->part[part] = find_word(sample, part_object);
	PyErr_Clear();
}

int iowq_let_watch(void)
{
	static const struct io_wq_watch_hooks hooks = { describe_work, describe_key, count_key };

	if (learn_strings() || learn_others()) {
		PyErr_Clear();
		return -1;
	}
	io_wq_let_watch(&hooks);
	return 0;
}
