/*
 * Who made a system call, where the C library has no unwinding tables: musl.
 *
 * Nothing tells there where the frames of its functions end. But whoever calls func, or a function
 * that is known to make system calls, says so before (io_wq_stack_begin). All that runs below
 * has its return addresses on the stack, between there and the system call; so has whoever called
 * the C library. Every word in between is looked at: those that lie in an object's code may be
 * return addresses, or may have been, of calls that are long over, or mean something else. If the
 * C library's and those of one kind of caller are all that there are, the caller is of that kind.
 * (Of two kinds, if what is done to the calls of one is well for the other, too.)
 * That is why this is safe: what else lies on the stack can only hide the caller. It never
 * shows a wrong one, since the true one's address is among those that were seen.
 *
 * That holds
 * - where `call` puts the return address on the stack: on x86-64. Elsewhere no caller is known.
 * - if the system call's own instruction is looked at, too: a library may have made it without
 *   the C library.
 * - if all objects are known that were loaded when the call was made: io_callers_are_known.
 * - for code that a file has. That which was compiled at run time lies in no object, and isn't
 *   seen. The library that calls it is, and of no known kind; so is ctypes here, which may, too.
 *   (If the interpreter calls it, it passes for a part of that.)
 * - on one stack. A thread's memory for it is in one piece, and what is more than LOOKED_AT below
 *   its mark isn't looked at.
 *
 * To hide fewer callers, the stack is wiped where those frames will be.
 */
#define _GNU_SOURCE
#include "cancel/blocked_call.h"
#include "cancel/caller.h"
#include "cancel/cancel.h"

#include <stdlib.h>
#include <string.h>

#if !defined(__GLIBC__) && defined(__x86_64__)
enum { WIPED = 2048, LOOKED_AT = 65536 }; /* bytes */
enum { KINDS = IO_CALLER_CUT_OFF_OR_TRUSTED + 1 };

static _Thread_local struct io_wq_stack stack;

/* The calling function's call of this one, and its next, leave their return addresses in the same
 * place: what is called next has its frames below that. */
__attribute__((noinline)) void io_wq_stack_begin(struct io_wq_stack *before, const void *own)
{
	const uintptr_t *frame = __builtin_frame_address(0);
	unsigned char wiped[WIPED];

	memset(wiped, 0, sizeof(wiped));
	__asm__ volatile("" : : "r"(wiped) : "memory"); /* it is not for nothing */
	*before = stack;
	stack = (struct io_wq_stack){ (uintptr_t)(frame + 1), (uintptr_t)own };
}

void io_wq_stack_end(const struct io_wq_stack *before)
{
	stack = *before;
}

/* Whether the frames from there on are below the mark. */
static bool is_below_mark(uintptr_t sp)
{
	return sp < stack.end && stack.end - sp <= LOOKED_AT && sp % sizeof(uintptr_t) == 0;
}

/* What is well for a caller of either kind: who takes any error well does so if its connection
 * is cut off, too, or if its naps are interrupted instead. */
static int either(int one, int other)
{
	if (one == IO_CALLER_C_LIBRARY || one == other)
		return other;
	switch (one * KINDS + other) {
	case IO_WQ_CALLER_TRUSTED * KINDS + IO_WQ_CALLER_NAPS:
	case IO_WQ_CALLER_NAPS * KINDS + IO_WQ_CALLER_TRUSTED:
		return IO_WQ_CALLER_NAPS;
	case IO_WQ_CALLER_TRUSTED * KINDS + IO_WQ_CALLER_CUT_OFF:
	case IO_WQ_CALLER_CUT_OFF * KINDS + IO_WQ_CALLER_TRUSTED:
	case IO_CALLER_CUT_OFF_OR_TRUSTED * KINDS + IO_WQ_CALLER_TRUSTED:
	case IO_CALLER_CUT_OFF_OR_TRUSTED * KINDS + IO_WQ_CALLER_CUT_OFF:
		return IO_CALLER_CUT_OFF_OR_TRUSTED;
	default:
		return IO_WQ_CALLER_UNKNOWN;
	}
}

/* Notes what may be a return address: the instruction before it was the call. Returns whether
 * the caller may still be known. */
static bool note(int *caller, uintptr_t address)
{
	const struct io_code *code = io_code_at(address - 1);

	if (code && code->kind != IO_CALLER_C_LIBRARY && code != io_code_at(stack.own))
		*caller = either(*caller, code->kind);
	return *caller != IO_WQ_CALLER_UNKNOWN;
}

/* Who made this call, on the thread whose handler this is. */
int io_caller_of(const struct io_blocked_call *call)
{
	int caller = IO_CALLER_C_LIBRARY;

	if (!is_below_mark(call->sp) || !io_code_at(call->pc - 1) || !note(&caller, call->pc))
		return IO_WQ_CALLER_UNKNOWN;
	for (const uintptr_t *word = (const uintptr_t *)call->sp; word < (const uintptr_t *)stack.end; word++)
		if (!note(&caller, *word))
			return IO_WQ_CALLER_UNKNOWN;
	return caller == IO_CALLER_C_LIBRARY ? IO_WQ_CALLER_UNKNOWN : caller;
}

/* ---- can this machine do it */

/* The C library calls this, and is to be found on the stack. */
static int compare(const void *key, const void *element)
{
	bool *found = *(bool *const *)key;

	(void)element;
	for (const uintptr_t *word = __builtin_frame_address(0); word < (const uintptr_t *)stack.end; word++) {
		const struct io_code *code = io_code_at(*word - 1);

		*found |= code && code->kind == IO_CALLER_C_LIBRARY;
	}
	return 0;
}

bool io_callers_can_be_found(void)
{
	struct io_wq_stack before;
	bool found = false, *key = &found;

	io_callers_refresh();
	io_wq_stack_begin(&before, NULL);
	bsearch(&key, "", 1, 1, compare);
	io_wq_stack_end(&before);
	return found;
}
#else /* nothing is read off the stack */
void io_wq_stack_begin(struct io_wq_stack *before, const void *own)
{
	(void)before;
	(void)own;
}

void io_wq_stack_end(const struct io_wq_stack *before)
{
	(void)before;
}

#ifndef __GLIBC__
int io_caller_of(const struct io_blocked_call *call)
{
	(void)call;
	return IO_WQ_CALLER_UNKNOWN;
}

bool io_callers_can_be_found(void)
{
	return false;
}
#endif
#endif
