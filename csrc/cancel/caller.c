/*
 * Who made a system call: callers that are known to take any error well.
 *
 * Most code gives up on an error it doesn't know. Some asserts that there are
 * none but EINTR and ends the process (pyzmq, uvloop), some tries again for ever
 * (gRPC). So a call's result is changed only where the first caller outside the
 * C library is in a shared object of the list below; elsewhere the call returns
 * EINTR, and no more. Of some libraries it is known what else helps.
 *
 * Which object that is, a handler finds by caller_unwind.c, or, on musl, by caller_stack.c.
 */
#define _GNU_SOURCE
#include "cancel/blocked_call.h"
#include "cancel/caller.h"
#include "cancel/cancel.h"

#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RULES_MAX = 128, OBJECTS_MAX = 8, CODES_MAX = 1024 };

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
#ifndef __GLIBC__ /* what they call may be code that no file has: caller_stack.c */
	{ "_ctypes", IO_WQ_CALLER_UNKNOWN },   { "libffi", IO_WQ_CALLER_UNKNOWN },
#endif
	/* its busy handler naps, and counts each nap as a whole one, however short it was */
	{ "libsqlite3", IO_WQ_CALLER_NAPS },   { "_sqlite3", IO_WQ_CALLER_NAPS },
};
static const void *trusted_objects[OBJECTS_MAX + 1]; /* io_wq_trust_object: an address in each */
static const char dynload[] = "/lib-dynload/"; /* where the interpreter's extensions are */
/* Passed through on the way from a call to its caller. The sanitizers' runtimes call the C library's
 * functions in its place. */
static const char *const c_library[] = { "libc.",   "libc-",     "ld-",		"libpthread",
					 "libresolv", "libnss",    "linux-vdso", "libasan.",
					 "libtsan.", "libclang_rt.", NULL };

/* Where the objects' code lies. Handlers read it at any time, so it is never
 * changed but replaced, and kept: there is one for each time that libraries
 * were loaded and work was cancelled after that. */
struct table {
	struct table *before;
	unsigned long long loads; /* of libraries, when this was made */
	unsigned count;
	bool is_full; /* and not all are in it */
	struct io_code codes[CODES_MAX];
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
		return IO_CALLER_C_LIBRARY;
	for (const struct rule *rule = rules; rule < rules + RULES_MAX && rule->prefix; rule++)
		if (!strncmp(name, rule->prefix, strlen(rule->prefix)))
			found = rule;
	if (found)
		return found->caller;
	return is_trusted_object(info) || strstr(path, dynload) ? IO_WQ_CALLER_TRUSTED
								: IO_WQ_CALLER_UNKNOWN;
}

static int add_codes(struct dl_phdr_info *info, size_t size, void *data)
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
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		struct io_code *code = &table->codes[table->count];

		if (header->p_type != PT_LOAD || !(header->p_flags & PF_X))
			continue;
		table->is_full = table->count == CODES_MAX;
		if (table->is_full)
			break;
		code->begin = info->dlpi_addr + header->p_vaddr;
		code->end = code->begin + header->p_memsz;
		code->kind = kind;
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
	dl_iterate_phdr(add_codes, table);
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

/* Whether the table has the code of all objects, as far as that matters: caller_stack.c can't tell
 * what it hasn't from data. Asked when a worker is blocked in a call: what is on its
 * stack was loaded before. (Nothing is locked: musl tells it with the first object.) */
bool io_callers_are_known(void)
{
#ifdef __GLIBC__
	return true;
#else
	const struct table *table = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
	unsigned long long loads = 0;

	dl_iterate_phdr(count_loads, &loads);
	return table && !table->is_full && table->loads == loads;
#endif
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

/* Which object has this address among its code, or NULL. */
const struct io_code *io_code_at(uintptr_t address)
{
	const struct table *table = __atomic_load_n(&current, __ATOMIC_ACQUIRE);

	for (unsigned i = 0; table && i < table->count; i++)
		if (address >= table->codes[i].begin && address < table->codes[i].end)
			return &table->codes[i];
	return NULL;
}
