/*
 * What a file handle has read ahead: bytes, or text, and where the handle is in them.
 *
 * `async for line in file` takes a line after the other from here, without a coroutine: the iterator is its
 * own awaitable, and has the line at hand. Only where no whole line is left, or the loop is to have a turn,
 * the handle's coroutine is called.
 */
#include "locks.h"
#include "operations.h"
#include "package.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

struct read_buffer {
	PyObject_HEAD
	PyTypeObject *type; /* constant: bytes or str, that of data */
	char has_lines;     /* constant: lines end in \n, and nothing else */
	char is_locked;     /* an operation of the handle is under way: what is here is its */
	iowq_lock_t lock;   /* guards all that follows */
	PyObject *data;
	Py_ssize_t begin, size;
};

struct line_iterator {
	PyObject_HEAD
	struct read_buffer *buffer;
	PyObject *refill; /* () -> a coroutine that returns the next line */
	PyObject *line;   /* to be given to whoever awaits it, or NULL */
};

static PyTypeObject *line_iterator_type;

/* ---- taking */

/* A part of the data that has been taken. */
struct part {
	PyObject *data; /* a reference, or NULL: nothing was taken */
	Py_ssize_t begin, end;
};

/* Takes what ends there. Locked. */
static struct part take_until(struct read_buffer *buffer, Py_ssize_t end)
{
	struct part part = { buffer->data, buffer->begin, end };

	Py_INCREF(part.data);
	buffer->begin = end;
	return part;
}

/* Returns it as an object of its own, a new reference, or NULL with an exception set. Takes the reference. */
static PyObject *make_object(struct part part)
{
	PyObject *object;

	if (!part.begin && part.end == PyObject_Size(part.data))
		return part.data;
	if (PyBytes_Check(part.data))
		object = PyBytes_FromStringAndSize(PyBytes_AsString(part.data) + part.begin, part.end - part.begin);
	else
		object = PyUnicode_Substring(part.data, part.begin, part.end);
	Py_DECREF(part.data);
	return object;
}

/* Returns where the next line ends, or a number < 1. Locked. */
static Py_ssize_t find_end_of_line(const struct read_buffer *buffer)
{
	const char *bytes, *found;

	if (!PyBytes_Check(buffer->data))
		return PyUnicode_FindChar(buffer->data, '\n', buffer->begin, buffer->size, 1) + 1;
	bytes = PyBytes_AsString(buffer->data);
	found = memchr(bytes + buffer->begin, '\n', (size_t)(buffer->size - buffer->begin));
	return found ? found + 1 - bytes : 0;
}

/* Takes a whole line, if there is one and the loop needs no turn before. Returns it, a new reference; NULL: there is
 * none, or with an exception set. */
static PyObject *take_line(struct read_buffer *buffer)
{
	struct part part = { NULL, 0, 0 };

	iowq_lock(&buffer->lock);
	if (buffer->has_lines && !buffer->is_locked && buffer->begin < buffer->size && !iowq_count_buffered_read()) {
		Py_ssize_t end = find_end_of_line(buffer);

		if (end > 0)
			part = take_until(buffer, end);
	}
	iowq_unlock(&buffer->lock);
	return part.data ? make_object(part) : NULL;
}

/* line() -> a whole line, or None */
static PyObject *line(PyObject *self, PyObject *unused)
{
	PyObject *taken = take_line((struct read_buffer *)self);

	(void)unused;
	return taken || PyErr_Occurred() ? taken : iowq_none();
}

/* take(count) -> so many, or None */
static PyObject *take(PyObject *self, PyObject *count_)
{
	struct read_buffer *buffer = (struct read_buffer *)self;
	Py_ssize_t count = PyLong_AsSsize_t(count_);
	struct part part = { NULL, 0, 0 };

	if (count == -1 && PyErr_Occurred())
		return NULL;
	iowq_lock(&buffer->lock);
	if (count >= 0 && !buffer->is_locked && count <= buffer->size - buffer->begin && !iowq_count_buffered_read())
		part = take_until(buffer, buffer->begin + count);
	iowq_unlock(&buffer->lock);
	return part.data ? make_object(part) : iowq_none();
}

/* is_free() -> whether nobody has locked it, and the loop needs no turn before; counts a read */
static PyObject *is_free(PyObject *self, PyObject *unused)
{
	struct read_buffer *buffer = (struct read_buffer *)self;
	bool answer;

	(void)unused;
	iowq_lock(&buffer->lock);
	answer = !buffer->is_locked && !iowq_count_buffered_read();
	iowq_unlock(&buffer->lock);
	return PyBool_FromLong(answer);
}

/* cut(count) -> so many, or as many as there are; for who has locked it */
static PyObject *cut(PyObject *self, PyObject *count_)
{
	struct read_buffer *buffer = (struct read_buffer *)self;
	Py_ssize_t count = PyLong_AsSsize_t(count_);
	struct part part;

	if (count == -1 && PyErr_Occurred())
		return NULL;
	iowq_lock(&buffer->lock);
	if (count < 0 || count > buffer->size - buffer->begin)
		count = buffer->size - buffer->begin;
	part = take_until(buffer, buffer->begin + count);
	iowq_unlock(&buffer->lock);
	return make_object(part);
}

/* fill(data): has this instead of what it had */
static PyObject *fill(PyObject *self, PyObject *data)
{
	struct read_buffer *buffer = (struct read_buffer *)self;
	Py_ssize_t size = PyObject_Size(data);
	PyObject *before;

	if (size < 0)
		return NULL;
	if (Py_TYPE(data) != buffer->type)
		return PyErr_Format(PyExc_TypeError, "not what the buffer is for: %R", Py_TYPE(data));
	Py_INCREF(data);
	iowq_lock(&buffer->lock);
	before = buffer->data;
	buffer->data = data;
	buffer->size = size;
	buffer->begin = 0;
	iowq_unlock(&buffer->lock);
	Py_DECREF(before);
	return iowq_none();
}

static Py_ssize_t count_left(PyObject *self)
{
	const struct read_buffer *buffer = (const struct read_buffer *)self;

	return buffer->size - buffer->begin;
}

/* owes_turn() -> whether the loop is to have a turn, which the caller gives it now */
static PyObject *owes_turn(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
	return PyBool_FromLong(iowq_take_turn());
}

/* lines(refill) -> an asynchronous iterator */
static PyObject *lines(PyObject *self, PyObject *refill)
{
	struct line_iterator *iterator = PyObject_New(struct line_iterator, line_iterator_type);

	if (!iterator)
		return NULL;
	Py_INCREF(self);
	Py_INCREF(refill);
	iterator->buffer = (struct read_buffer *)self;
	iterator->refill = refill;
	iterator->line = NULL;
	return (PyObject *)iterator;
}

/* ---- the buffer's type */

/* ReadBuffer(empty, has_lines) */
static PyObject *make_buffer(PyTypeObject *type, PyObject *args, PyObject *names)
{
	struct read_buffer *buffer;
	PyObject *empty;
	int has_lines;

	(void)names;
	if (!PyArg_ParseTuple(args, "Op", &empty, &has_lines))
		return NULL;
	if (!PyBytes_CheckExact(empty) && !PyUnicode_CheckExact(empty))
		return PyErr_Format(PyExc_TypeError, "bytes or str, not %R", Py_TYPE(empty));
	buffer = (struct read_buffer *)PyType_GenericNew(type, NULL, NULL);
	if (!buffer)
		return NULL;
	Py_INCREF(buffer->data = empty);
	buffer->type = Py_TYPE(empty);
	buffer->has_lines = (char)has_lines;
	return (PyObject *)buffer;
}

static void free_buffer(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	Py_XDECREF(((struct read_buffer *)self)->data);
	PyObject_Free(self);
	Py_DECREF(type);
}

PyObject *iowq_make_read_buffer_type(void)
{
	static PyMemberDef members[] = {
		{ "data", T_OBJECT, offsetof(struct read_buffer, data), READONLY, "What was read." },
		{ "begin", T_PYSSIZET, offsetof(struct read_buffer, begin), 0, "Where the handle is in it." },
		{ "is_locked", T_BOOL, offsetof(struct read_buffer, is_locked), 0, "Whether it is in use." },
		{ 0 },
	};
	static PyMethodDef methods[] = {
		{ "line", line, METH_NOARGS, "Takes a whole line; None: there is none." },
		{ "take", take, METH_O, "Takes so many; None: there are not as many." },
		{ "is_free", is_free, METH_NOARGS, "Whether it is in use by nobody, and the loop needs no turn." },
		{ "cut", cut, METH_O, "Takes so many, or what there is; -1: all." },
		{ "fill", fill, METH_O, "Has this instead of what it had." },
		{ "lines", lines, METH_O, "Returns an asynchronous iterator." },
		{ "owes_turn", owes_turn, METH_NOARGS, "Whether the loop is to have a turn now." },
		{ 0 },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "What a file handle has read ahead." },
		{ Py_tp_new, make_buffer },
		{ Py_tp_dealloc, free_buffer },
		{ Py_tp_members, members },
		{ Py_tp_methods, methods },
		{ Py_mp_length, count_left },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.ReadBuffer",
		.basicsize = sizeof(struct read_buffer),
		.flags = Py_TPFLAGS_DEFAULT,
		.slots = slots,
	};

	return PyType_FromSpec(&spec);
}

/* ---- the iterator */

/* A line that is at hand already is another's, who is about to await it. */
static PyObject *next_line(PyObject *self)
{
	struct line_iterator *iterator = (struct line_iterator *)self;

	if (!iterator->line) {
		iterator->line = take_line(iterator->buffer);
		if (iterator->line) {
			Py_INCREF(self);
			return self;
		}
		if (PyErr_Occurred())
			return NULL;
	}
	return PyObject_CallObject(iterator->refill, NULL);
}

static PySendResult give_line(PyObject *self, PyObject *value, PyObject **result)
{
	struct line_iterator *iterator = (struct line_iterator *)self;

	(void)value;
	*result = iterator->line;
	iterator->line = NULL;
	if (*result)
		return PYGEN_RETURN;
	PyErr_SetString(PyExc_RuntimeError, "a line was awaited already");
	return PYGEN_ERROR;
}

/* What give_line() says, for those who don't know that protocol. */
static PyObject *stop_with_line(PyObject *self)
{
	PyObject *result;

	if (give_line(self, NULL, &result) == PYGEN_RETURN) {
		PyErr_SetObject(PyExc_StopIteration, result);
		Py_DECREF(result);
	}
	return NULL;
}

static void free_iterator(PyObject *self)
{
	struct line_iterator *iterator = (struct line_iterator *)self;
	PyTypeObject *type = Py_TYPE(self);

	Py_DECREF(iterator->buffer);
	Py_DECREF(iterator->refill);
	Py_XDECREF(iterator->line);
	PyObject_Free(self);
	Py_DECREF(type);
}

PyObject *iowq_make_line_iterator_type(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "The lines of a file, and each an awaitable that has it at hand." },
		{ Py_tp_dealloc, free_iterator },
		{ Py_am_aiter, PyObject_SelfIter },
		{ Py_am_anext, next_line },
		{ Py_am_await, PyObject_SelfIter },
		{ Py_am_send, give_line },
		{ Py_tp_iter, PyObject_SelfIter },
		{ Py_tp_iternext, stop_with_line },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.LineIterator",
		.basicsize = sizeof(struct line_iterator),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	line_iterator_type = (PyTypeObject *)PyType_FromSpec(&spec);
	Py_XINCREF(line_iterator_type);
	return (PyObject *)line_iterator_type;
}
