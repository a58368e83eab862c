/*
 * What of a file is in the page cache, where preadv2(RWF_NOWAIT) doesn't tell: overlay's files, say.
 *
 * mincore() tells it of a mapping; but it calls all pages resident that are of a file which neither is
 * the caller's own nor may be written by it.
 */
#define _GNU_SOURCE
#include "io/io.h"

#include <sys/mman.h>
#include <unistd.h>

enum { PAGES_MAX = 4096 };

static bool is_told_of(const struct stat *status)
{
	return S_ISREG(status->st_mode) && status->st_uid == geteuid();
}

static bool all_resident(void *mapping, size_t length, size_t page)
{
	unsigned char pages[PAGES_MAX];
	size_t count = (length + page - 1) / page;

	if (mincore(mapping, length, pages))
		return false;
	for (size_t i = 0; i < count; i++)
		if (!(pages[i] & 1))
			return false;
	return true;
}

bool io_is_resident(int fd, int64_t offset, size_t length)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	int64_t begin = offset - offset % (int64_t)page;
	struct stat status;
	void *mapping;
	bool answer;

	if (offset < 0 || fstat(fd, &status) || !is_told_of(&status))
		return false;
	if (offset >= status.st_size)
		return true;
	if ((int64_t)length > status.st_size - offset)
		length = (size_t)(status.st_size - offset);
	length += (size_t)(offset - begin);
	if (length > PAGES_MAX * page)
		return false;
	mapping = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, begin);
	if (mapping == MAP_FAILED)
		return false;
	answer = all_resident(mapping, length, page);
	munmap(mapping, length);
	return answer;
}
