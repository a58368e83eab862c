/* Whose code is where: what caller.c tells those who look for a system call's caller. */
#ifndef IO_WQ_CALLER_H
#define IO_WQ_CALLER_H

#include <stdint.h>

enum { IO_CALLER_C_LIBRARY = -1 }; /* beside enum io_wq_caller */

/* A part of a loaded object's code. */
struct io_code {
	uintptr_t begin, end;
	int kind; /* enum io_wq_caller, or the above */
};

const struct io_code *io_code_at(uintptr_t address);

#endif
