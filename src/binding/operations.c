/*
 * Operations on files: struct io_wq_io inside an object of Python's.
 *
 * An operation is made, and tried in place by the thread of its loop. What might wait there is handed to a
 * worker of the operations' queue (inbox.c), which takes no GIL, and touches nothing of the object but
 * the core's struct and the memory that it points into. The object is kept until the worker has done
 * with it, whoever has lost interest by then. So its fields are the loop's thread's, but for io, which is the
 * worker's while the operation is under way.
 *
 * It can be awaited. One that was done in place gives its result at once; but after a row of those
 * the loop has a turn, so that others have theirs.
 */
#include "operations.h"
#include "package.h"

#include "core/futex.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	/* The most that is done in place in a row: so many operations, or bytes, which take some 200 us. */
	ROW_MAX = 64,
	ROW_BYTES = 1 << 20,
	/* Reads that needed no operation are cheaper: so many are done before the clock is looked at. */
	ROW_BUFFERED = 64,
	/* Bytes that it takes longer to copy than to let others have the GIL. */
	LONG_COPY = 1 << 16,
};

static PyTypeObject *operation_type;
static PyObject *stat_result; /* os.stat_result */
static PyObject *begin_turn;  /* () -> an iterator of what is to be yielded to the loop, for it to have a turn */

/* ---- making */

/* Returns one with nothing in it, or NULL with an exception set. */
static struct operation *make(void)
{
	struct operation *operation = PyObject_New(struct operation, operation_type);

	if (operation)
		memset((char *)operation + sizeof(PyObject), 0, sizeof(*operation) - sizeof(PyObject));
	return operation;
}

/* Returns one with a path, bytes that are kept, whose text is set; or NULL with an exception set. */
static struct operation *make_with_path(PyObject *path, char **text)
{
	struct operation *operation;

	if (PyBytes_AsStringAndSize(path, text, NULL))
		return NULL; /* no bytes, or one of them is zero */
	operation = make();
	if (operation)
		Py_INCREF(operation->kept[0] = path);
	return operation;
}

/* pread(fd, size, offset): into bytes of its own */
static PyObject *make_pread(PyObject *class, PyObject *const *args, Py_ssize_t count)
{
	long fd, size = -1;
	long long offset;
	struct operation *operation;

	(void)class;
	if (count != 3) {
		PyErr_SetString(PyExc_TypeError, "pread(fd, size, offset)");
		return NULL;
	}
	fd = PyLong_AsLong(args[0]);
	if (!PyErr_Occurred())
		size = PyLong_AsLong(args[1]);
	offset = PyErr_Occurred() ? 0 : PyLong_AsLongLong(args[2]);
	operation = PyErr_Occurred() ? NULL : make();
	if (!operation)
		return NULL;
	if (fd > INT_MAX || fd < INT_MIN) {
		Py_DECREF(operation);
		return PyErr_Format(PyExc_OverflowError, "fd must be an int of C, not %ld", fd);
	}
	if (size < 0 || offset < -1) {
		Py_DECREF(operation);
		return PyErr_Format(PyExc_ValueError, "size must be 0 or more, not %ld, and offset -1 or more, not %lld",
				    size, offset);
	}
	operation->bytes = PyBytes_FromStringAndSize(NULL, size);
	if (!operation->bytes) {
		Py_DECREF(operation);
		return NULL;
	}
	io_wq_prep_pread(&operation->io, (int)fd, PyBytes_AsString(operation->bytes), (size_t)size, offset);
	return (PyObject *)operation;
}

/* transfer(writes, fd, address, size, owner, offset, link, link_owner): owner keeps the memory where it is; link: the
 * address of a number that operations have in common (io_wq_io.h), or 0 */
static PyObject *make_transfer(PyObject *class, PyObject *args)
{
	unsigned long long address, link = 0;
	PyObject *owner, *link_owner = NULL;
	struct operation *operation;
	long long offset;
	Py_ssize_t size;
	int writes, fd;

	(void)class;
	if (!PyArg_ParseTuple(args, "piKnOL|KO", &writes, &fd, &address, &size, &owner, &offset, &link,
			      &link_owner))
		return NULL;
	operation = make();
	if (!operation)
		return NULL;
	Py_INCREF(operation->kept[0] = owner);
	if (writes)
		io_wq_prep_pwrite(&operation->io, fd, (void *)(uintptr_t)address, (size_t)size, offset);
	else
		io_wq_prep_pread(&operation->io, fd, (void *)(uintptr_t)address, (size_t)size, offset);
	operation->io.link = (uint32_t *)(uintptr_t)link;
	Py_XINCREF(operation->kept[1] = link_owner);
	return (PyObject *)operation;
}

/* open(folder, path, flags, mode) */
static PyObject *make_open(PyObject *class, PyObject *args)
{
	struct operation *operation;
	int folder, flags, mode;
	PyObject *path;
	char *text;

	(void)class;
	if (!PyArg_ParseTuple(args, "iOii", &folder, &path, &flags, &mode) ||
	    !(operation = make_with_path(path, &text)))
		return NULL;
	io_wq_prep_openat(&operation->io, folder, text, flags, (mode_t)mode);
	return (PyObject *)operation;
}

/* close(fd) */
static PyObject *make_close(PyObject *class, PyObject *args)
{
	struct operation *operation;
	int fd;

	(void)class;
	if (!PyArg_ParseTuple(args, "i", &fd) || !(operation = make()))
		return NULL;
	io_wq_prep_close(&operation->io, fd);
	return (PyObject *)operation;
}

/* For those that take (folder, path, flags). */
static struct operation *make_at(PyObject *args, int *folder, char **text, int *flags)
{
	PyObject *path;

	return PyArg_ParseTuple(args, "iOi", folder, &path, flags) ? make_with_path(path, text) : NULL;
}

/* stat(folder, path, flags) */
static PyObject *make_stat(PyObject *class, PyObject *args)
{
	struct operation *operation;
	int folder, flags;
	char *text;

	(void)class;
	operation = make_at(args, &folder, &text, &flags);
	if (!operation)
		return NULL;
	io_wq_prep_fstatat(&operation->io, folder, text, &operation->status, flags);
	return (PyObject *)operation;
}

/* sync(fd, data_only) */
static PyObject *make_sync(PyObject *class, PyObject *args)
{
	struct operation *operation;
	int fd, data_only;

	(void)class;
	if (!PyArg_ParseTuple(args, "ip", &fd, &data_only) || !(operation = make()))
		return NULL;
	if (data_only)
		io_wq_prep_fdatasync(&operation->io, fd);
	else
		io_wq_prep_fsync(&operation->io, fd);
	return (PyObject *)operation;
}

/* truncate(fd, length) */
static PyObject *make_truncate(PyObject *class, PyObject *args)
{
	struct operation *operation;
	long long length;
	int fd;

	(void)class;
	if (!PyArg_ParseTuple(args, "iL", &fd, &length) || !(operation = make()))
		return NULL;
	io_wq_prep_ftruncate(&operation->io, fd, length);
	return (PyObject *)operation;
}

/* rename(old_path, new_path) */
static PyObject *make_rename(PyObject *class, PyObject *args)
{
	PyObject *old_path, *new_path;
	struct operation *operation;
	char *old_text, *new_text;

	(void)class;
	if (!PyArg_ParseTuple(args, "OO", &old_path, &new_path) ||
	    PyBytes_AsStringAndSize(new_path, &new_text, NULL) ||
	    !(operation = make_with_path(old_path, &old_text)))
		return NULL;
	Py_INCREF(operation->kept[1] = new_path);
	io_wq_prep_renameat(&operation->io, AT_FDCWD, old_text, AT_FDCWD, new_text);
	return (PyObject *)operation;
}

/* unlink(folder, path, flags) */
static PyObject *make_unlink(PyObject *class, PyObject *args)
{
	struct operation *operation;
	int folder, flags;
	char *text;

	(void)class;
	operation = make_at(args, &folder, &text, &flags);
	if (!operation)
		return NULL;
	io_wq_prep_unlinkat(&operation->io, folder, text, flags);
	return (PyObject *)operation;
}

/* copy(in_fd, in_offset, out_fd, out_offset, length) */
static PyObject *make_copy(PyObject *class, PyObject *args)
{
	long long in_offset, out_offset;
	struct operation *operation;
	int in_fd, out_fd;
	Py_ssize_t length;

	(void)class;
	if (!PyArg_ParseTuple(args, "iLiLn", &in_fd, &in_offset, &out_fd, &out_offset, &length) ||
	    !(operation = make()))
		return NULL;
	io_wq_prep_copy_file_range(&operation->io, in_fd, in_offset, out_fd, out_offset, (size_t)length);
	return (PyObject *)operation;
}

/* send_file(out_fd, in_fd, in_offset, length) */
static PyObject *make_send_file(PyObject *class, PyObject *args)
{
	struct operation *operation;
	int in_fd, out_fd;
	long long in_offset;
	Py_ssize_t length;

	(void)class;
	if (!PyArg_ParseTuple(args, "iiLn", &out_fd, &in_fd, &in_offset, &length) || !(operation = make()))
		return NULL;
	io_wq_prep_sendfile(&operation->io, out_fd, in_fd, in_offset, (size_t)length);
	return (PyObject *)operation;
}

/* read_file(folder, path) */
static PyObject *make_read_file(PyObject *class, PyObject *args)
{
	struct operation *operation;
	PyObject *path;
	int folder;
	char *text;

	(void)class;
	if (!PyArg_ParseTuple(args, "iO", &folder, &path) || !(operation = make_with_path(path, &text)))
		return NULL;
	io_wq_prep_read_file(&operation->io, folder, text);
	return (PyObject *)operation;
}

/* write_file(folder, path, address, size, owner, flags, mode): owner keeps the memory where it is */
static PyObject *make_write_file(PyObject *class, PyObject *args)
{
	unsigned long long address;
	struct operation *operation;
	PyObject *path, *owner;
	int folder, flags, mode;
	Py_ssize_t size;
	char *text;

	(void)class;
	if (!PyArg_ParseTuple(args, "iOKnOii", &folder, &path, &address, &size, &owner, &flags, &mode) ||
	    !(operation = make_with_path(path, &text)))
		return NULL;
	Py_INCREF(operation->kept[1] = owner);
	io_wq_prep_write_file(&operation->io, folder, text, (void *)(uintptr_t)address, (size_t)size, flags,
			      (mode_t)mode);
	return (PyObject *)operation;
}

/* ---- doing */

static __thread unsigned row;     /* operations done in place since the loop had a turn */
static __thread size_t row_bytes; /* that they have moved */

/* Whether the loop is to have a turn after an operation that has moved so many bytes. */
static bool ends_row(size_t bytes)
{
	row_bytes += bytes;
	if (++row < ROW_MAX && row_bytes < ROW_BYTES)
		return false;
	row = 0;
	row_bytes = 0;
	return true;
}

#define ROW_NS (200 * NSEC_PER_USEC)

static __thread unsigned buffered_reads;
static __thread long long buffered_since;
static __thread bool owes_turn; /* after a row of buffered reads */

bool iowq_count_buffered_read(void)
{
	if (!owes_turn && ++buffered_reads % ROW_BUFFERED == 0)
		owes_turn = monotonic_ns() - buffered_since > ROW_NS;
	return owes_turn;
}

bool iowq_take_turn(void)
{
	if (!iowq_count_buffered_read())
		return false;
	owes_turn = false;
	buffered_since = monotonic_ns();
	return true;
}

/* attempt() -> whether it is done: in place, without a wait. */
static PyObject *attempt(PyObject *self, PyObject *unused)
{
	struct operation *operation = (struct operation *)self;
	int is_done;

	(void)unused;
	if (operation->io.length < LONG_COPY) {
		is_done = io_wq_try_io(&operation->io);
	} else {
		PyThreadState *state = PyEval_SaveThread();

		is_done = io_wq_try_io(&operation->io);
		PyEval_RestoreThread(state);
	}
	if (is_done)
		operation->owes_turn = ends_row(operation->io.done);
	return PyBool_FromLong(is_done);
}

/* run(): does it on the calling thread, which may wait. */
static PyObject *run(PyObject *self, PyObject *unused)
{
	struct operation *operation = (struct operation *)self;
	PyThreadState *state = PyEval_SaveThread();

	(void)unused;
	io_wq_do_io(&operation->io);
	PyEval_RestoreThread(state);
	return iowq_operation_result(operation);
}

/* stream() -> a key for what goes to, or comes from, the stream that it is done to; 0: no stream. */
static PyObject *get_stream(PyObject *self, PyObject *unused)
{
	(void)unused;
	return PyLong_FromUnsignedLongLong(io_wq_stream_key(&((struct operation *)self)->io));
}

/* ---- the result */

static PyObject *take_bytes(struct operation *operation)
{
	PyObject *bytes = operation->bytes, *fewer;

	operation->bytes = NULL;
	if (PyBytes_Size(bytes) == operation->io.result)
		return bytes;
	fewer = PyBytes_FromStringAndSize(PyBytes_AsString(bytes), (Py_ssize_t)operation->io.result);
	Py_DECREF(bytes);
	return fewer;
}

static PyObject *take_data(struct operation *operation)
{
	PyObject *bytes = PyBytes_FromStringAndSize(operation->io.data, (Py_ssize_t)operation->io.result);

	free(operation->io.data);
	operation->io.data = NULL;
	return bytes;
}

static long long in_ns(const struct timespec *when)
{
	return when->tv_sec * NSEC_PER_SEC + when->tv_nsec;
}

static double in_seconds(const struct timespec *when)
{
	return (double)when->tv_sec + 1e-9 * (double)when->tv_nsec;
}

/* Returns an os.stat_result. */
static PyObject *describe(const struct stat *status)
{
	const struct timespec *a = &status->st_atim, *m = &status->st_mtim, *c = &status->st_ctim;

	return PyObject_CallFunction(
		stat_result, "((IKKKIILLLLdddLLLLLK))", (unsigned)status->st_mode,
		(unsigned long long)status->st_ino, (unsigned long long)status->st_dev,
		(unsigned long long)status->st_nlink, (unsigned)status->st_uid, (unsigned)status->st_gid,
		(long long)status->st_size, (long long)a->tv_sec, (long long)m->tv_sec, (long long)c->tv_sec,
		in_seconds(a), in_seconds(m), in_seconds(c), in_ns(a), in_ns(m), in_ns(c),
		(long long)status->st_blksize, (long long)status->st_blocks,
		(unsigned long long)status->st_rdev);
}

/* Sets an OSError that names the paths. */
static PyObject *fail(const struct operation *operation)
{
	const char *path = operation->io.path, *other = operation->io.other_path;
	PyObject *name = path ? PyUnicode_DecodeFSDefault(path) : NULL;
	PyObject *other_name = other ? PyUnicode_DecodeFSDefault(other) : NULL;

	errno = (int)-operation->io.result;
	PyErr_SetFromErrnoWithFilenameObjects(PyExc_OSError, name, other_name);
	Py_XDECREF(name);
	Py_XDECREF(other_name);
	return NULL;
}

/* Returns it, a new reference, for the first time. */
static PyObject *make_result(struct operation *operation)
{
	if (operation->bytes)
		return take_bytes(operation);
	if (operation->io.kind == IO_WQ_IO_READ_FILE)
		return take_data(operation);
	if (operation->io.kind == IO_WQ_IO_STAT)
		return describe(&operation->status);
	return PyLong_FromLongLong(operation->io.result);
}

PyObject *iowq_operation_result(struct operation *operation)
{
	if (operation->io.result < 0)
		return fail(operation);
	if (!operation->result)
		operation->result = make_result(operation);
	Py_XINCREF(operation->result);
	return operation->result;
}

/* take() -> the descriptor that was opened, which is the caller's from now on. Else it is closed with the
 * operation, which nobody has heard of who could close it. */
static PyObject *take(PyObject *self, PyObject *unused)
{
	struct operation *operation = (struct operation *)self;

	(void)unused;
	operation->is_taken = true;
	return iowq_operation_result(operation);
}

static void drop_descriptor(struct operation *operation)
{
	if (operation->io.kind == IO_WQ_IO_OPEN && operation->io.result >= 0 && !operation->is_taken)
		close((int)operation->io.result);
}

/* check() -> None: it is under way; else the bytes that it has moved, and for which errno no more, or 0. */
static PyObject *check(PyObject *self, PyObject *unused)
{
	struct operation *operation = (struct operation *)self;

	(void)unused;
	if (__atomic_load_n(&operation->under_way, __ATOMIC_ACQUIRE))
		return iowq_none();
	return Py_BuildValue("ni", (Py_ssize_t)operation->io.done, operation->io.error);
}

/* wait(): until it has completed; the thread sleeps, and signals' handlers run. */
static PyObject *wait_for(PyObject *self, PyObject *unused)
{
	struct operation *operation = (struct operation *)self;
	uint32_t expected = 1;
	PyThreadState *state;
	int ret;

	(void)unused;
	__atomic_compare_exchange_n(&operation->under_way, &expected, 2, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	do {
		state = PyEval_SaveThread();
		ret = futex_wait_zero(&operation->under_way, WAIT_FOREVER);
		PyEval_RestoreThread(state);
	} while (ret && !PyErr_CheckSignals());
	return ret ? NULL : iowq_none();
}

/* ---- awaiting one that was done in place */

/* set_turn(begin): see begin_turn. */
static PyObject *set_turn(PyObject *unused, PyObject *begin)
{
	(void)unused;
	Py_INCREF(begin);
	Py_XDECREF(begin_turn);
	begin_turn = begin;
	return iowq_none();
}

/* Goes on with the loop's turn: PYGEN_RETURN, without a result, once it is over. */
static PySendResult go_on(struct operation *operation, PyObject *value, PyObject **result)
{
	PySendResult sent = PyIter_Send(operation->turn, value, result);

	if (sent == PYGEN_NEXT)
		return sent;
	Py_CLEAR(operation->turn);
	Py_CLEAR(*result);
	return sent;
}

static PySendResult send_turn(PyObject *self, PyObject *value, PyObject **result)
{
	struct operation *operation = (struct operation *)self;
	PySendResult sent = PYGEN_RETURN;

	if (operation->owes_turn) {
		operation->owes_turn = false;
		operation->turn = PyObject_CallNoArgs(begin_turn);
		if (!operation->turn)
			return PYGEN_ERROR;
	}
	if (operation->turn)
		sent = go_on(operation, value, result);
	if (sent != PYGEN_RETURN)
		return sent;
	*result = iowq_operation_result(operation);
	return *result ? PYGEN_RETURN : PYGEN_ERROR;
}

/* What send_turn() says, as a generator does: from 3.12 on, await doesn't know that protocol. */
static PyObject *send_to_turn(PyObject *self, PyObject *value)
{
	PyObject *result, *stop;

	switch (send_turn(self, value, &result)) {
	case PYGEN_NEXT:
		return result;
	case PYGEN_RETURN: /* an exception's argument: a tuple would be taken for several */
		stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL);
		Py_DECREF(result);
		if (stop)
			PyErr_SetObject(PyExc_StopIteration, stop);
		Py_XDECREF(stop);
		return NULL;
	default:
		return NULL;
	}
}

static PyObject *next_turn(PyObject *self)
{
	return send_to_turn(self, Py_None);
}

/* ---- the type */

/* submit(inbox, future, key): see iowq_submit_operation; key: 0 is none */
static PyObject *submit(PyObject *self, PyObject *args)
{
	PyObject *inbox, *future;
	unsigned long long key;

	if (!PyArg_ParseTuple(args, "OOK", &inbox, &future, &key) ||
	    iowq_submit_operation((struct operation *)self, inbox, future, (void *)(uintptr_t)key))
		return NULL;
	return iowq_none();
}

static PyObject *cancel(PyObject *self, PyObject *unused)
{
	(void)unused;
	return PyBool_FromLong(iowq_cancel_operation((struct operation *)self));
}

static PyObject *get_result(PyObject *self, PyObject *unused)
{
	(void)unused;
	return iowq_operation_result((struct operation *)self);
}

static void free_operation(PyObject *self)
{
	struct operation *operation = (struct operation *)self;
	PyTypeObject *type = Py_TYPE(self);

	drop_descriptor(operation);
	free(operation->io.data);
	Py_XDECREF(operation->kept[0]);
	Py_XDECREF(operation->kept[1]);
	Py_XDECREF(operation->bytes);
	Py_XDECREF(operation->result);
	Py_XDECREF(operation->future);
	Py_XDECREF(operation->turn);
	PyObject_Free(self);
	Py_DECREF(type);
}

PyObject *iowq_make_operation_type(void)
{
#define MAKER(name) { #name, make_##name, METH_VARARGS | METH_STATIC, NULL }
	static PyMethodDef methods[] = {
		{ "pread", (PyCFunction)(void (*)(void))make_pread, METH_FASTCALL | METH_STATIC, NULL },
		MAKER(transfer),
		MAKER(open),
		MAKER(close),
		MAKER(stat),
		MAKER(sync),
		MAKER(truncate),
		MAKER(rename),
		MAKER(unlink),
		MAKER(copy),
		MAKER(send_file),
		MAKER(read_file),
		MAKER(write_file),
		{ "attempt", attempt, METH_NOARGS, "Does it, if that needs no wait; returns whether it is done." },
		{ "submit", submit, METH_VARARGS, "submit(inbox, future, key): has a worker do it." },
		{ "stream", get_stream, METH_NOARGS, "Returns a key of the stream that it is done to, or 0." },
		{ "run", run, METH_NOARGS, "Does it, on the calling thread, and returns the result." },
		{ "cancel", cancel, METH_NOARGS,
		  "Ends it, if it is under way and can be ended; returns whether it is a stream's, and ends at once." },
		{ "send", send_to_turn, METH_O, "As a generator's." },
		{ "set_turn", set_turn, METH_O | METH_STATIC,
		  "set_turn(begin): begin() returns what to yield to the loop for it to have a turn." },
		{ "result", get_result, METH_NOARGS, "Returns the result." },
		{ "take", take, METH_NOARGS, "Returns a descriptor that is the caller's from now on." },
		{ "check", check, METH_NOARGS, "Returns what it has moved and an errno; None: it is under way." },
		{ "wait", wait_for, METH_NOARGS, "Waits until it is under way no more." },
		{ 0 },
	};
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "An operation on a file." },
		{ Py_tp_dealloc, free_operation },
		{ Py_am_await, PyObject_SelfIter },
		{ Py_am_send, send_turn },
		{ Py_tp_iter, PyObject_SelfIter },
		{ Py_tp_iternext, next_turn },
		{ Py_tp_methods, methods },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.Operation",
		.basicsize = sizeof(struct operation),
		.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
		.slots = slots,
	};

	PyObject *os = PyImport_ImportModule("os");

	stat_result = os ? PyObject_GetAttrString(os, "stat_result") : NULL;
	Py_XDECREF(os);
	if (!stat_result)
		return NULL;
	io_wq_trust_object((const void *)iowq_make_operation_type); /* an error is what it passes on */
	operation_type = (PyTypeObject *)PyType_FromSpec(&spec);
	Py_XINCREF(operation_type);
	return (PyObject *)operation_type;
}
