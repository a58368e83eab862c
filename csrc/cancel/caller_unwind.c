/* Who made a system call, where the C library has unwinding tables: glibc's has. */
#define _GNU_SOURCE
#include <features.h> /* __GLIBC__ */
#ifdef __GLIBC__
#include "cancel/blocked_call.h"
#include "cancel/caller.h"
#include "cancel/cancel.h"

#include <stdlib.h>
#include <unwind.h>

enum { FRAMES_MAX = 32 };

static int kind_at(uintptr_t ip)
{
	const struct io_code *code = io_code_at(ip);

	return code ? code->kind : IO_WQ_CALLER_UNKNOWN;
}

struct walk {
	uintptr_t pc; /* of the call: frames above it are the handler's */
	bool below;   /* the walk has come past it */
	unsigned frames;
	int kind;
};

static _Unwind_Reason_Code find_caller(struct _Unwind_Context *context, void *data)
{
	struct walk *walk = data;
	uintptr_t ip = _Unwind_GetIP(context);

	if (++walk->frames > FRAMES_MAX)
		return _URC_END_OF_STACK;
	walk->below |= ip == walk->pc;
	if (!walk->below)
		return _URC_NO_REASON;
	walk->kind = kind_at(ip);
	return walk->kind == IO_CALLER_C_LIBRARY ? _URC_NO_REASON : _URC_END_OF_STACK;
}

/* Who made this call, on the thread whose handler this is. */
int io_caller_of(const struct io_blocked_call *call)
{
	struct walk walk = { .pc = call->pc, .kind = IO_WQ_CALLER_UNKNOWN };

	_Unwind_Backtrace(find_caller, &walk);
	return walk.kind == IO_CALLER_C_LIBRARY ? IO_WQ_CALLER_UNKNOWN : walk.kind;
}

/* ---- can this machine do it */

static _Unwind_Reason_Code leave_c_library(struct _Unwind_Context *context, void *data)
{
	int kind = kind_at(_Unwind_GetIP(context)), *last = data;
	bool left = *last == IO_CALLER_C_LIBRARY && kind != IO_CALLER_C_LIBRARY;

	*last = left ? IO_WQ_CALLER_TRUSTED : kind;
	return left ? _URC_END_OF_STACK : _URC_NO_REASON;
}

/* The C library calls this. */
static int compare(const void *key, const void *element)
{
	(void)element;
	_Unwind_Backtrace(leave_c_library, *(int *const *)key);
	return 0;
}

/* Whether the way from a function of the C library to its caller can be found. */
bool io_callers_can_be_found(void)
{
	int last = IO_WQ_CALLER_UNKNOWN, *key = &last;

	io_callers_refresh();
	bsearch(&key, "", 1, 1, compare);
	return last == IO_WQ_CALLER_TRUSTED;
}
#else
typedef int io_caller_unwind_is_not_for_this_c_library;
#endif
