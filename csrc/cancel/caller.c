/*
 * Who made a system call: callers that are known to take any error well.
 *
 * Most code gives up on an error it doesn't know. Some asserts that there are
 * none but EINTR and ends the process (pyzmq, uvloop), some tries again for ever
 * (gRPC). So a call's result is changed only where the first caller outside the
 * C library is in a shared object of the list below; elsewhere the call returns
 * EINTR, and no more. Of some libraries it is known what else helps.
 */
#define _GNU_SOURCE
#include "cancel/blocked_call.h"
#include "cancel/cancel.h"

#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <unwind.h>

enum { RULES_MAX = 128, OBJECTS_MAX = 8, RANGES_MAX = 1024, FRAMES_MAX = 32 };

/* Beginnings of file names: the interpreter, its extension modules, and libraries that
 * report what the system says, or don't. Rules that come later win: io_wq_judge_caller adds. */
static struct rule {
	const char *prefix;
	enum io_wq_caller caller;
} rules[RULES_MAX] = {
	{ "python", IO_WQ_CALLER_TRUSTED },    { "libpython", IO_WQ_CALLER_TRUSTED },
	{ "libffi", IO_WQ_CALLER_TRUSTED },    { "libssl", IO_WQ_CALLER_TRUSTED },
	{ "libcrypto", IO_WQ_CALLER_TRUSTED }, { "libcurl", IO_WQ_CALLER_TRUSTED },
	{ "_psycopg", IO_WQ_CALLER_TRUSTED },  { "libssh2", IO_WQ_CALLER_TRUSTED },
	{ "libldap", IO_WQ_CALLER_TRUSTED },   { "libgnutls", IO_WQ_CALLER_TRUSTED },
	/* its busy handler naps, and counts each nap as a whole one, however short it was */
	{ "libsqlite3", IO_WQ_CALLER_NAPS },   { "_sqlite3", IO_WQ_CALLER_NAPS },
};
static const void *trusted_objects[OBJECTS_MAX + 1]; /* io_wq_trust_object: an address in each */
static const char dynload[] = "/lib-dynload/"; /* where the interpreter's extensions are */
/* Passed through on the way from a call to its caller. */
static const char *const c_library[] = { "libc.", "libc-", "ld-", "libpthread", "libresolv",
					 "libnss", "linux-vdso", NULL };

enum { C_LIBRARY = -1 }; /* beside enum io_wq_caller */

struct range {
	uintptr_t begin, end;
	int kind;
};

/* Where the objects' code lies. Handlers read it at any time, so it is never
 * changed but replaced, and kept: there is one for each time that libraries
 * were loaded and work was cancelled after that. */
struct table {
	struct table *before;
	unsigned long long loads; /* of libraries, when this was made */
	unsigned count;
	struct range ranges[RANGES_MAX];
};
static struct table *current;
static pthread_mutex_t refresh_lock = PTHREAD_MUTEX_INITIALIZER;

static bool begins_with_any(const char *name, const char *const *prefixes)
{
	for (; *prefixes; prefixes++)
		if (!strncmp(name, *prefixes, strlen(*prefixes)))
			return true;
	return false;
}

static bool contains(const struct dl_phdr_info *info, const void *address)
{
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		uintptr_t offset = (uintptr_t)address - info->dlpi_addr - header->p_vaddr;

		if (header->p_type == PT_LOAD && offset < header->p_memsz)
			return true;
	}
	return false;
}

static bool is_trusted_object(const struct dl_phdr_info *info)
{
	for (const void **address = trusted_objects; *address; address++)
		if (contains(info, *address))
			return true;
	return false;
}

static int kind_of(const struct dl_phdr_info *info, const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	const struct rule *found = NULL;

	if (begins_with_any(name, c_library))
		return C_LIBRARY;
	for (const struct rule *rule = rules; rule < rules + RULES_MAX && rule->prefix; rule++)
		if (!strncmp(name, rule->prefix, strlen(rule->prefix)))
			found = rule;
	if (found)
		return found->caller;
	return is_trusted_object(info) || strstr(path, dynload) ? IO_WQ_CALLER_TRUSTED
								: IO_WQ_CALLER_UNKNOWN;
}

static int add_ranges(struct dl_phdr_info *info, size_t size, void *data)
{
	struct table *table = data;
	char program[256];
	const char *path = info->dlpi_name;
	int kind;

	(void)size;
	table->loads = info->dlpi_adds;
	if (!*path) { /* the program itself */
		ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);

		program[length > 0 ? length : 0] = '\0';
		path = program;
	}
	kind = kind_of(info, path);
	for (int i = 0; i < info->dlpi_phnum && table->count < RANGES_MAX; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		struct range *range = &table->ranges[table->count];

		if (header->p_type != PT_LOAD || !(header->p_flags & PF_X))
			continue;
		range->begin = info->dlpi_addr + header->p_vaddr;
		range->end = range->begin + header->p_memsz;
		range->kind = kind;
		table->count++;
	}
	return 0;
}

static int count_loads(struct dl_phdr_info *info, size_t size, void *data)
{
	(void)size;
	*(unsigned long long *)data = info->dlpi_adds;
	return 1; /* the first one tells it */
}

/* Also has the unwinder do what it does the first time, outside of a handler. */
static void make_table(void)
{
	struct table *table = calloc(1, sizeof(*table));

	if (!table)
		return; /* the old one serves: what was loaded since is not trusted */
	table->before = current;
	dl_iterate_phdr(add_ranges, table);
	__atomic_store_n(&current, table, __ATOMIC_RELEASE);
	io_caller_of(&(struct io_blocked_call){ 0 });
}

/* Looks up which objects are loaded now, if that has changed. Not for handlers. */
void io_callers_refresh(void)
{
	unsigned long long loads = 0;

	pthread_mutex_lock(&refresh_lock);
	dl_iterate_phdr(count_loads, &loads);
	if (!current || current->loads != loads)
		make_table();
	pthread_mutex_unlock(&refresh_lock);
}

/* A fork must not copy the lock while it is held. */
void io_callers_fork(bool before)
{
	if (before)
		pthread_mutex_lock(&refresh_lock);
	else
		pthread_mutex_unlock(&refresh_lock);
}

int io_wq_judge_caller(const char *prefix, enum io_wq_caller caller)
{
	struct rule *rule = rules;
	char *copy = strdup(prefix);

	if (!copy)
		return -ENOMEM;
	pthread_mutex_lock(&refresh_lock);
	while (rule < rules + RULES_MAX && rule->prefix)
		rule++;
	if (rule < rules + RULES_MAX) {
		*rule = (struct rule){ copy, caller };
		make_table();
	}
	pthread_mutex_unlock(&refresh_lock);
	if (rule < rules + RULES_MAX)
		return 0;
	free(copy);
	return -ENOSPC;
}

int io_wq_trust_object(const void *address)
{
	unsigned count = 0;

	pthread_mutex_lock(&refresh_lock);
	while (trusted_objects[count] && trusted_objects[count] != address)
		count++;
	if (count < OBJECTS_MAX) {
		trusted_objects[count] = address;
		make_table();
	}
	pthread_mutex_unlock(&refresh_lock);
	return count < OBJECTS_MAX ? 0 : -ENOSPC;
}

/* ---- in a handler */

#ifndef __GLIBC__ /* who has musl may have no libgcc_s: then no caller is known */
#pragma weak _Unwind_Backtrace
#pragma weak _Unwind_GetIP
#endif

static void walk_stack(_Unwind_Trace_Fn visit, void *data)
{
#ifndef __GLIBC__
	if (!_Unwind_Backtrace)
		return;
#endif
	_Unwind_Backtrace(visit, data);
}

static int look_up(uintptr_t ip)
{
	const struct table *table = __atomic_load_n(&current, __ATOMIC_ACQUIRE);

	for (unsigned i = 0; table && i < table->count; i++)
		if (ip >= table->ranges[i].begin && ip < table->ranges[i].end)
			return table->ranges[i].kind;
	return IO_WQ_CALLER_UNKNOWN;
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
	walk->kind = look_up(ip);
	return walk->kind == C_LIBRARY ? _URC_NO_REASON : _URC_END_OF_STACK;
}

/* Who made this call, on the thread whose handler this is. */
enum io_wq_caller io_caller_of(const struct io_blocked_call *call)
{
	struct walk walk = { .pc = call->pc, .kind = IO_WQ_CALLER_UNKNOWN };

	walk_stack(find_caller, &walk);
	return walk.kind == C_LIBRARY ? IO_WQ_CALLER_UNKNOWN : (enum io_wq_caller)walk.kind;
}

/* ---- can this machine do it */

static _Unwind_Reason_Code leave_c_library(struct _Unwind_Context *context, void *data)
{
	int kind = look_up(_Unwind_GetIP(context)), *last = data;
	bool left = *last == C_LIBRARY && kind != C_LIBRARY;

	*last = left ? IO_WQ_CALLER_TRUSTED : kind;
	return left ? _URC_END_OF_STACK : _URC_NO_REASON;
}

/* The C library calls this. */
static int compare(const void *key, const void *element)
{
	(void)element;
	walk_stack(leave_c_library, *(int *const *)key);
	return 0;
}

/* Whether the way from a function of the C library to its caller can be found: not
 * if the library was built without tables for it, as musl is. */
bool io_callers_can_be_found(void)
{
	int last = IO_WQ_CALLER_UNKNOWN, *key = &last;

	io_callers_refresh();
	bsearch(&key, "", 1, 1, compare);
	return last == IO_WQ_CALLER_TRUSTED;
}
