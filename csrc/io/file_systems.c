/*
 * Who is asked when a file is used: memory, a disk, or somebody who may never answer.
 *
 * To find out one must ask, and that may wait. So a worker does, once for each mount, and the
 * answer is remembered by the mount's number, which Linux gives to no other mount as long as it runs (since
 * 6.8; before that numbers are used again, and nothing is remembered).
 *
 * The table is small, has no lock and forgets: each entry is one atomic number.
 */
#define _GNU_SOURCE
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef SYS_statx
#if defined(__x86_64__)
#define SYS_statx 332
#else
#define SYS_statx 291
#endif
#endif

/* Of linux/stat.h, which can't be had together with every C library's. */
enum { DONT_SYNC = 0x4000, TYPE = 1, INODE = 0x100, MOUNT_ID_UNIQUE = 0x4000 };
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

struct known_status {
	uint32_t mask, block_size;
	uint64_t attributes;
	uint32_t links, user, group;
	uint16_t mode, unused;
	uint64_t inode, size, blocks, attributes_mask;
	uint64_t times[8];
	uint32_t devices[4];
	uint64_t mount_id;
	uint64_t more[13];
};
_Static_assert(sizeof(struct known_status) == 256, "as the kernel's");

enum { SLOTS = 64, KIND_BITS = 2 };

static uint64_t known[SLOTS]; /* mount_id << KIND_BITS | enum io_file_system; 0: none */

uint64_t io_identity_of(const struct stat *status)
{
	return status->st_ino ^ (uint64_t)minor(status->st_dev) << 40;
}

/* Where statx is forbidden. It may wait, for a process' file system. */
static void look_by_fstat(int fd, struct io_file *file)
{
	struct stat status;

	if (fstat(fd, &status))
		return;
	file->type = status.st_mode & S_IFMT;
	file->identity = io_identity_of(&status);
}

/* Returns the mount's number, or 0. */
static uint64_t look(int fd, struct io_file *file)
{
	struct known_status status = { 0 };

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | DONT_SYNC, TYPE | INODE | MOUNT_ID_UNIQUE, &status)) {
		if (errno == ENOSYS || errno == EPERM)
			look_by_fstat(fd, file);
		return 0;
	}
	file->type = status.mode & S_IFMT;
	file->identity = status.inode ^ (uint64_t)status.devices[3] << 40;
	return status.mask & MOUNT_ID_UNIQUE ? status.mount_id : 0;
}

static enum io_file_system recall(uint64_t mount)
{
	uint64_t entry = __atomic_load_n(&known[mount % SLOTS], __ATOMIC_RELAXED);

	return mount && entry >> KIND_BITS == mount ? entry & ((1 << KIND_BITS) - 1) : IO_FS_UNKNOWN;
}

struct io_file io_file_look(int fd)
{
	struct io_file file = { 0, 0, IO_FS_UNKNOWN };

	file.file_system = recall(look(fd, &file));
	return file;
}

bool io_is_stream(unsigned type)
{
	return type == S_IFIFO || type == S_IFCHR || type == S_IFSOCK;
}

static enum io_file_system ask(int fd)
{
	struct statfs system;

	if (fstatfs(fd, &system))
		return IO_FS_OTHER;
	switch ((unsigned long)system.f_type) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
		return IO_FS_MEMORY;
	case EXT4_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
	case BTRFS_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
	case OVERLAYFS_SUPER_MAGIC:
		return IO_FS_LOCAL;
	default:
		return IO_FS_OTHER;
	}
}

void io_file_learn(int fd)
{
	struct io_file file;
	uint64_t mount = look(fd, &file);

	if (mount && recall(mount) == IO_FS_UNKNOWN)
		__atomic_store_n(&known[mount % SLOTS], mount << KIND_BITS | ask(fd), __ATOMIC_RELAXED);
}
