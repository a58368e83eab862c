/* The page's memory: see io_wq_page.h. */
#define _GNU_SOURCE
#include "core/futex.h"
#include "core/watch.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Not in the headers of every C library. */
enum { CLOEXEC = 1, ALLOW_SEALING = 2, NOEXEC_SEAL = 8 };
enum { ADD_SEALS = 1033, SEAL_SEAL = 1, SEAL_SHRINK = 2, SEAL_GROW = 4 };

static int make_memfd(void)
{
#ifdef SYS_memfd_create
	long fd = syscall(SYS_memfd_create, IO_WQ_PAGE_NAME, CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = syscall(SYS_memfd_create, IO_WQ_PAGE_NAME, CLOEXEC | ALLOW_SEALING);
	return (int)fd;
#else
	errno = ENOSYS;
	return -1;
#endif
}

static int fail(struct io_shared_page *shared)
{
	int error = errno;

	if (shared->fd >= 0)
		close(shared->fd);
	return -error;
}

static void begin(struct io_wq_page *page)
{
	memcpy(page->magic, IO_WQ_PAGE_MAGIC, sizeof(page->magic));
	page->version = IO_WQ_PAGE_VERSION;
	page->size = sizeof(*page);
	page->pid = getpid();
}

/* Nobody can make it shorter, which would have whoever reads it die of SIGBUS. Its memory is
 * used from the first answer on. */
int io_page_open(struct io_shared_page *shared)
{
	struct stat status;
	void *memory;

	shared->fd = make_memfd();
	if (shared->fd < 0 || fchmod(shared->fd, 0600) ||
	    ftruncate(shared->fd, sizeof(struct io_wq_page)) || fstat(shared->fd, &status) ||
	    fcntl(shared->fd, ADD_SEALS, SEAL_SEAL | SEAL_SHRINK | SEAL_GROW))
		return fail(shared);
	memory = mmap(NULL, sizeof(struct io_wq_page), PROT_READ | PROT_WRITE, MAP_SHARED, shared->fd, 0);
	if (memory == MAP_FAILED)
		return fail(shared);
	madvise(memory, sizeof(struct io_wq_page), MADV_DONTFORK);
	shared->device = status.st_dev;
	shared->inode = status.st_ino;
	shared->page = memory;
	begin(shared->page);
	return 0;
}

/* Others may have closed the descriptor, as daemons close all, and have another by that number. */
static void close_own(const struct io_shared_page *shared)
{
	struct stat status;

	if (!fstat(shared->fd, &status) && status.st_dev == shared->device &&
	    status.st_ino == shared->inode)
		close(shared->fd);
}

void io_page_close(struct io_shared_page *shared)
{
	munmap(shared->page, sizeof(*shared->page));
	close_own(shared);
}

/* Which hasn't inherited the memory, but the descriptor. */
void io_page_close_in_child(struct io_shared_page *shared)
{
	close_own(shared);
}

void io_page_wait(struct io_wq_page *page, uint32_t answered, const uint32_t *ending)
{
	while (__atomic_load_n(&page->request, __ATOMIC_ACQUIRE) == answered &&
	       !__atomic_load_n(ending, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &page->request, FUTEX_WAIT, answered, NULL, NULL, 0);
}

static void ask(struct io_wq_page *page)
{
	__atomic_fetch_add(&page->request, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &page->request, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void io_page_end(struct io_wq_page *page)
{
	__atomic_store_n(&page->ended, 1, __ATOMIC_RELEASE);
	ask(page);
}

void io_wq_ask_page(void *page)
{
	ask(page);
}

/* What is used of an array only: the rest of the page's memory stays untouched. */
static void copy(struct io_wq_page_snapshot *to, const struct io_wq_page_snapshot *from)
{
	memcpy(to, from, offsetof(struct io_wq_page_snapshot, queues));
	memcpy(to->queues, from->queues, from->nr_queues * sizeof(from->queues[0]));
	memcpy(to->workers, from->workers, from->nr_workers * sizeof(from->workers[0]));
}

void io_page_write(struct io_wq_page *page, const struct io_wq_page_snapshot *snapshot,
		   uint32_t request)
{
	uint32_t sequence = __atomic_load_n(&page->sequence, __ATOMIC_RELAXED) | 1;

	__atomic_exchange_n(&page->sequence, sequence, __ATOMIC_SEQ_CST);
#ifndef __SANITIZE_THREAD__ /* which knows no fences; on some processors an exchange isn't enough */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
	copy(&page->snapshot, snapshot);
	__atomic_store_n(&page->sequence, sequence + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&page->answered, request, __ATOMIC_RELEASE);
}
