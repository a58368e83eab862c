/*
 * What Debian's static libraries want of glibc, and musl doesn't have.
 *
 * They are made for glibc, of which they use little that isn't POSIX's: the checks of
 * _FORTIFY_SOURCE, a name for fcntl, and contexts, which OpenSSL's asynchronous jobs need, and
 * nobody here. So they serve an interpreter that is made for musl, in tests.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <syslog.h>

void *__memcpy_chk(void *to, const void *from, size_t size, size_t room)
{
	return size > room ? abort(), NULL : memcpy(to, from, size);
}

void *__memset_chk(void *to, int byte, size_t size, size_t room)
{
	return size > room ? abort(), NULL : memset(to, byte, size);
}

char *__strcat_chk(char *to, const char *from, size_t room)
{
	return strlen(to) + strlen(from) >= room ? abort(), NULL : strcat(to, from);
}

long __fdelt_chk(long fd)
{
	return fd < 0 || fd >= FD_SETSIZE ? abort(), 0 : fd / (8 * (long)sizeof(long));
}

int __vsnprintf_chk(char *to, size_t size, int flag, size_t room, const char *format, va_list values)
{
	(void)flag;
	return size > room ? abort(), 0 : vsnprintf(to, size, format, values);
}

int __snprintf_chk(char *to, size_t size, int flag, size_t room, const char *format, ...)
{
	va_list values;
	int length;

	va_start(values, format);
	length = __vsnprintf_chk(to, size, flag, room, format, values);
	va_end(values);
	return length;
}

int __sprintf_chk(char *to, int flag, size_t room, const char *format, ...)
{
	va_list values;
	int length;

	va_start(values, format);
	length = __vsnprintf_chk(to, room, flag, room, format, values);
	va_end(values);
	return length;
}

int __vfprintf_chk(FILE *file, int flag, const char *format, va_list values)
{
	(void)flag;
	return vfprintf(file, format, values);
}

int __fprintf_chk(FILE *file, int flag, const char *format, ...)
{
	va_list values;
	int length;

	va_start(values, format);
	length = __vfprintf_chk(file, flag, format, values);
	va_end(values);
	return length;
}

void __syslog_chk(int priority, int flag, const char *format, ...)
{
	va_list values;

	(void)flag;
	va_start(values, format);
	vsyslog(priority, format, values);
	va_end(values);
}

int fcntl64(int fd, int command, long argument)
{
	return fcntl(fd, command, argument);
}

int getcontext(void *context)
{
	(void)context;
	errno = ENOSYS;
	return -1;
}

int setcontext(const void *context)
{
	(void)context;
	errno = ENOSYS;
	return -1;
}

void makecontext(void *context, void (*function)(void), int count, ...)
{
	(void)context;
	(void)function;
	(void)count;
	abort();
}
