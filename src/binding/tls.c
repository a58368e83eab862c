/*
 * Reads and writes of the ssl module's, which hides errors.
 *
 * Before 3.11.9, and in 3.12.0 to 3.12.2, it takes any error of a read for the end of the
 * data (gh-115627), and in every version it polls again whatever error a poll returns. So
 * a hook (hooks.c) is around each of its calls that may block: meanwhile polls time out,
 * whoever made them (csrc/signal.c); and whatever the module makes of a call that
 * cancel has ended, its caller sees Cancelled.
 */
#include "hooks.h"
#include "safepoint.h"

static PyObject *tell_errors(const struct iowq_call *call)
{
	enum io_wq_section before = io_wq_section_begin(IO_WQ_SECTION_HIDES_ERRORS);
	PyObject *result = iowq_call_original(call);

	if (!io_wq_section_end(before))
		return result;
	Py_XDECREF(result);
	PyErr_Clear();
	return iowq_end_call(call->self);
}

int iowq_hook_tls(uintptr_t type_)
{
	PyObject *type = (PyObject *)type_;

	return iowq_hook(IOWQ_TLS_READ, type, "read", tell_errors) &&
	       iowq_hook(IOWQ_TLS_WRITE, type, "write", tell_errors) &&
	       iowq_hook(IOWQ_TLS_HANDSHAKE, type, "do_handshake", tell_errors) &&
	       iowq_hook(IOWQ_TLS_SHUTDOWN, type, "shutdown", tell_errors);
}
