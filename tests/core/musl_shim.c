/* Debian's libgcc is made for glibc, and asks it for this: where an address'
 * object has its unwinding tables. (musl's own libc has none: the walk from a
 * handler ends there, so that no caller is trusted, and calls return EINTR.) */
#define _GNU_SOURCE
#include <link.h>
#include <stddef.h>

struct dl_find_object {
	unsigned long long flags;
	void *map_start, *map_end, *link_map, *eh_frame;
	unsigned long long reserved[7];
};
int _dl_find_object(void *address, struct dl_find_object *result);

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
	struct dl_find_object *result = data;
	char *begin = NULL, *end = NULL;

	(void)size;
	result->eh_frame = NULL;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		char *address = (char *)info->dlpi_addr + header->p_vaddr;

		if (header->p_type == PT_GNU_EH_FRAME)
			result->eh_frame = address;
		if (header->p_type == PT_LOAD && !begin)
			begin = address;
		if (header->p_type == PT_LOAD)
			end = address + header->p_memsz;
	}
	if ((char *)result->map_start < begin || (char *)result->map_start >= end || !result->eh_frame)
		return 0;
	result->map_start = begin;
	result->map_end = end;
	return 1;
}

int _dl_find_object(void *address, struct dl_find_object *result)
{
	result->flags = 0;
	result->map_start = address;
	return dl_iterate_phdr(visit, result) ? 0 : -1;
}
