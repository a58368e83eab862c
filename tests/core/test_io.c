/* I/O works: what they move, where they are tried, how they end. On real files, pipes and devices. */
#include "check.h"
#include "io/io.h"
#include "io_wq_io.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

enum { SIZE = 100000 };

static char folder[] = "/tmp/iowq-io-XXXXXX";
static char written[SIZE], got[SIZE + 1];
static struct io_wq *wq;

static void remove_folder(void)
{
	char command[sizeof(folder) + 8];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	if (system(command))
		rmdir(folder); /* the emulated machine has no shell, and ends */
}

/* All tests begin with it. */
static void set_up(void)
{
	CHECK(mkdtemp(folder));
	atexit(remove_folder);
	for (int i = 0; i < SIZE; i++)
		written[i] = (char)(i * 7 + i / 251);
	wq = queue_new(8);
}

static const char *path_of(const char *name)
{
	static char paths[4][sizeof(folder) + 32];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static int64_t run(struct io_wq_io *io)
{
	CHECK(io_wq_enqueue_io(wq, io, NULL) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	return io->result;
}

static int64_t try_or_run(struct io_wq_io *io)
{
	return io_wq_try_io(io) ? io->result : run(io);
}

/* A new file with SIZE bytes. */
static int new_file(const char *name)
{
	int fd = open(path_of(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	CHECK(fd >= 0 && write(fd, written, SIZE) == SIZE);
	io_file_learn(fd);
	return fd;
}

static unsigned count_descriptors(void)
{
	DIR *all = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(all))
		count++;
	closedir(all);
	return count;
}

/* Whether what is in memory of this file can be read in place. */
static bool can_be_tried(int fd)
{
	struct iovec one = { got, 1 };

	return io_file_look(fd).file_system != IO_FS_UNKNOWN || io_call_preadv(fd, &one, 1, 0, RWF_NOWAIT) == 1;
}

static void bytes_go_where_they_should(void)
{
	struct iovec parts[3] = { { got, 10 }, { got + 10, 0 }, { got + 10, SIZE - 10 } };
	struct io_wq_io io;
	int fd;

	set_up();
	fd = open(path_of("file"), O_RDWR | O_CREAT, 0600);
	io_wq_prep_pwrite(&io, fd, written + 50, SIZE - 50, 50);
	CHECK(run(&io) == SIZE - 50);
	io_wq_prep_pwrite(&io, fd, written, 50, 0);
	CHECK(run(&io) == 50);
	io_wq_prep_preadv(&io, fd, parts, 3, 0);
	CHECK(run(&io) == SIZE && !memcmp(got, written, SIZE));
	io_wq_prep_pwritev(&io, fd, parts, 3, SIZE);
	CHECK(run(&io) == SIZE);
	memset(got, 0, SIZE);
	io_wq_prep_pread(&io, fd, got, SIZE, SIZE);
	CHECK(run(&io) == SIZE && !memcmp(got, written, SIZE));
	io_wq_destroy(wq);
}

static void reads_end_where_the_file_does(void)
{
	struct io_wq_io io;
	int fd;

	set_up();
	fd = new_file("file");
	for (int in_place = 0; in_place < 2; in_place++) {
		int64_t (*go)(struct io_wq_io *) = in_place ? try_or_run : run;

		io_wq_prep_pread(&io, fd, got, SIZE, SIZE - 10);
		CHECK(go(&io) == 10 && !memcmp(got, written + SIZE - 10, 10));
		io_wq_prep_pread(&io, fd, got, SIZE, SIZE);
		CHECK(go(&io) == 0);
		io_wq_prep_pread(&io, fd, got, 0, 0);
		CHECK(go(&io) == 0);
		CHECK(lseek(fd, SIZE - 30, SEEK_SET) == SIZE - 30);
		io_wq_prep_pread(&io, fd, got, 20, -1);
		CHECK(go(&io) == 20 && !memcmp(got, written + SIZE - 30, 20));
		io_wq_prep_pread(&io, fd, got, 20, -1);
		CHECK(go(&io) == 10);
	}
	io_wq_destroy(wq);
}

static void what_is_in_memory_needs_no_worker(void)
{
	struct stat status;
	struct io_wq_io io;
	int fd, folder_fd;

	set_up();
	fd = new_file("file");
	if (!can_be_tried(fd))
		return; /* nothing tells, on kernels before 6.8, of a file system in memory */
	io_wq_prep_pread(&io, fd, got, SIZE, 0);
	CHECK(io_wq_try_io(&io) && io.result == SIZE && !memcmp(got, written, SIZE));
	io_wq_prep_pread(&io, fd, got, SIZE, 10);
	CHECK(io_wq_try_io(&io) && io.result == SIZE - 10);
	if (io_file_look(fd).file_system != IO_FS_UNKNOWN) {
		io_wq_prep_openat(&io, AT_FDCWD, path_of("file"), O_RDONLY | O_CLOEXEC, 0);
		CHECK(io_wq_try_io(&io) && io.result >= 0);
		CHECK((fcntl((int)io.result, F_GETFL) & (O_NONBLOCK | O_ACCMODE)) == O_RDONLY);
		CHECK(fcntl((int)io.result, F_GETFD) == FD_CLOEXEC);
		io_wq_prep_close(&io, (int)io.result);
		CHECK(io_wq_try_io(&io) && io.result == 0);
		io_wq_prep_fstatat(&io, AT_FDCWD, path_of("file"), &status, 0);
		CHECK(io_wq_try_io(&io) && io.result == 0 && status.st_size == SIZE);
		io_wq_prep_fstatat(&io, fd, "", &status, AT_EMPTY_PATH);
		CHECK(io_wq_try_io(&io) && io.result == 0 && status.st_size == SIZE);
		io_wq_prep_read_file(&io, AT_FDCWD, path_of("file"));
		CHECK(io_wq_try_io(&io) && io.result == SIZE && !memcmp(io.data, written, SIZE));
		free(io.data);
		folder_fd = open(folder, O_RDONLY);
		io_wq_prep_read_file(&io, folder_fd, "file");
		CHECK(io_wq_try_io(&io) && io.result == SIZE);
		free(io.data);
	}
	CHECK(queue_stats(wq).enqueued == 0);
	io_wq_destroy(wq);
}

static void a_file_in_memory_is_written_in_place(void)
{
	int fd = memfd_create("iowq", MFD_CLOEXEC);
	struct io_wq_io io;

	set_up();
	io_wq_prep_pwrite(&io, fd, written, SIZE, 0);
	CHECK(!io_wq_try_io(&io)); /* nobody knows yet what it is */
	CHECK(run(&io) == SIZE);
	if (io_file_look(fd).file_system == IO_FS_UNKNOWN)
		return; /* nor may know, before Linux 6.8 */
	io_wq_prep_pwrite(&io, fd, written, SIZE, SIZE);
	CHECK(io_wq_try_io(&io) && io.result == SIZE);
	io_wq_prep_pread(&io, fd, got, SIZE, SIZE);
	CHECK(io_wq_try_io(&io) && io.result == SIZE && !memcmp(got, written, SIZE));
	io_wq_prep_fsync(&io, fd);
	CHECK(io_wq_try_io(&io) && io.result == 0);
	io_wq_destroy(wq);
}

static void what_is_on_the_disk_is_left_to_a_worker(void)
{
	struct io_wq_io io;
	int fd;

	set_up();
	fd = new_file("file");
	CHECK(io_is_resident(fd, 0, SIZE) && io_is_resident(fd, 5000, 10) && io_is_resident(fd, SIZE, 10));
	CHECK(geteuid() || (!fchown(fd, 12345, 0) && !io_is_resident(fd, 0, SIZE) && !fchown(fd, 0, 0)));
	CHECK(!fsync(fd) && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	if (io_file_look(fd).file_system == IO_FS_MEMORY || io_is_resident(fd, 0, SIZE))
		return; /* this one is never anywhere else */
	io_wq_prep_pread(&io, fd, got, SIZE, 0);
	CHECK(!io_wq_try_io(&io));
	CHECK(run(&io) == SIZE && !memcmp(got, written, SIZE));
	CHECK(io_is_resident(fd, 0, SIZE));
	CHECK(!posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	io_wq_prep_read_file(&io, AT_FDCWD, path_of("file"));
	CHECK(!io_wq_try_io(&io) && !io.data);
	CHECK(run(&io) == SIZE && !memcmp(io.data, written, SIZE));
	free(io.data);
	io_wq_destroy(wq);
}

static void errors_are_results(void)
{
	struct rlimit limit = { SIZE / 2, RLIM_INFINITY };
	struct stat status;
	struct io_wq_io io;
	int fd;

	set_up();
	io_wq_prep_pread(&io, -1, got, 1, 0);
	CHECK(try_or_run(&io) == -EBADF);
	io_wq_prep_pread(&io, open("/dev/full", O_WRONLY), got, 1, 0);
	CHECK(try_or_run(&io) == -EBADF);
	io_wq_prep_pwrite(&io, open("/dev/full", O_WRONLY), written, SIZE, 0);
	CHECK(try_or_run(&io) == -ENOSPC);
	for (int i = 0; i < 2; i++) { /* the second time the kernel knows that there is none */
		io_wq_prep_openat(&io, AT_FDCWD, path_of("none"), O_RDONLY, 0);
		CHECK(try_or_run(&io) == -ENOENT);
		io_wq_prep_fstatat(&io, AT_FDCWD, path_of("none"), &status, 0);
		CHECK(try_or_run(&io) == -ENOENT);
		io_wq_prep_read_file(&io, AT_FDCWD, path_of("none"));
		CHECK(try_or_run(&io) == -ENOENT && !io.data);
	}
	io_wq_prep_read_file(&io, AT_FDCWD, folder);
	CHECK(try_or_run(&io) == -EISDIR && !io.data);
	io_wq_prep_close(&io, -1);
	CHECK(try_or_run(&io) == -EBADF);
	for (int bad = -1; bad > -200; bad--) {
		io_wq_prep_fstatat(&io, bad, "", &status, AT_EMPTY_PATH);
		CHECK(bad == AT_FDCWD || try_or_run(&io) == -EBADF);
	}
	signal(SIGXFSZ, SIG_IGN);
	fd = open(path_of("limited"), O_RDWR | O_CREAT, 0600);
	CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
	io_wq_prep_pwrite(&io, fd, written, SIZE, 0);
	CHECK(try_or_run(&io) == SIZE / 2); /* what was written before the error */
	io_wq_prep_write_file(&io, AT_FDCWD, path_of("whole"), written, SIZE, O_TRUNC, 0600);
	CHECK(try_or_run(&io) == -EFBIG);
	io_wq_destroy(wq);
}

static void whole_files(void)
{
	struct io_wq_io io;
	struct stat status;

	set_up();
	io_wq_prep_write_file(&io, AT_FDCWD, path_of("whole"), written, SIZE, O_TRUNC, 0640);
	CHECK(try_or_run(&io) == SIZE);
	CHECK(!stat(path_of("whole"), &status) && status.st_size == SIZE && !(status.st_mode & 037));
	io_wq_prep_write_file(&io, AT_FDCWD, path_of("whole"), written, SIZE, O_APPEND, 0640);
	CHECK(try_or_run(&io) == SIZE);
	io_wq_prep_read_file(&io, AT_FDCWD, path_of("whole"));
	CHECK(run(&io) == 2 * SIZE && !memcmp(io.data, written, SIZE));
	CHECK(!memcmp((char *)io.data + SIZE, written, SIZE));
	free(io.data);
	io_wq_prep_write_file(&io, AT_FDCWD, path_of("whole"), NULL, 0, O_TRUNC, 0);
	CHECK(try_or_run(&io) == 0);
	io_wq_prep_read_file(&io, AT_FDCWD, path_of("whole"));
	CHECK(try_or_run(&io) == 0);
	free(io.data);
	io_wq_prep_write_file(&io, AT_FDCWD, path_of("whole"), NULL, 0, O_EXCL, 0);
	CHECK(try_or_run(&io) == -EEXIST);
	io_wq_prep_read_file(&io, AT_FDCWD, "/proc/self/smaps"); /* says that it is empty */
	CHECK(try_or_run(&io) > 4096);
	free(io.data);
	io_wq_destroy(wq);
}

static void of_a_pipe_there_is_what_there_is(void)
{
	struct io_wq_io io, whole;
	int ends[2], unread;

	set_up();
	CHECK(!pipe(ends) && write(ends[1], "12345", 5) == 5);
	io_wq_prep_pread(&io, ends[0], got, SIZE, -1);
	CHECK(!io_wq_try_io(&io)); /* who came before may wait for it */
	CHECK(run(&io) == 5);
	io_wq_prep_pread(&io, ends[0], got, SIZE, -1);
	CHECK(!io_wq_try_io(&io));
	CHECK(io_wq_enqueue_io(wq, &io, NULL) == 0);
	WAIT_UNTIL(queue_stats(wq).blocked == 1);
	CHECK(write(ends[1], "67", 2) == 2);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0 && io.result == 2);
	CHECK(!mkfifo(path_of("fifo"), 0600));
	for (int i = 0; i < 3; i++) {
		io_wq_prep_read_file(&whole, AT_FDCWD, path_of("fifo"));
		CHECK(!io_wq_try_io(&whole));
		io_wq_prep_openat(&io, AT_FDCWD, path_of("fifo"), O_RDONLY, 0);
		CHECK(!io_wq_try_io(&io)); /* nor seen by who writes */
		CHECK(open(path_of("fifo"), O_WRONLY | O_NONBLOCK) == -1 && errno == ENXIO);
	}
	CHECK(io_wq_enqueue_io(wq, &whole, NULL) == 0);
	ends[1] = open(path_of("fifo"), O_WRONLY);
	CHECK(write(ends[1], written, 10) == 10);
	WAIT_UNTIL(!ioctl(ends[1], FIONREAD, &unread) && !unread);
	CHECK(write(ends[1], written + 10, 50000) == 50000);
	close(ends[1]);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(whole.result == 50010 && !memcmp(whole.data, written, 50010));
	free(whole.data);
	io_wq_destroy(wq);
}

static void cancel_ends_what_waits(void)
{
	struct io_wq_io reads[20], io;
	int ends[2];

	set_up();
	for (int i = 0; i < 20; i++) { /* of one pipe they would wait for each other */
		CHECK(!pipe(ends));
		io_wq_prep_pread(&reads[i], ends[0], got, 1, -1);
		CHECK(io_wq_enqueue_io(wq, &reads[i], NULL) == 0);
	}
	WAIT_UNTIL(queue_stats(wq).blocked == 20); /* more than bounded works may be */
	io_wq_prep_pread(&io, new_file("file"), got, 10, 0);
	CHECK(io_wq_enqueue_io(wq, &io, NULL) == 0);
	WAIT_UNTIL(queue_stats(wq).finished == 1);
	for (int i = 0; i < 20; i++)
		CHECK(io_wq_cancel_work(wq, &reads[i].work) == IO_WQ_CANCEL_RUNNING);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0 && io.result == 10);
	for (int i = 0; i < 20; i++)
		CHECK(reads[i].result == -ECANCELED);
	CHECK(write(ends[1], "1", 1) == 1);
	io_wq_prep_pread(&io, ends[0], got, 10, -1);
	CHECK(try_or_run(&io) == 1);
	io_wq_destroy(wq);
}

/* The next reader gets it, whenever cancel comes. */
static void what_comes_after_cancel_is_the_next_ones(void)
{
	struct io_wq_io first, next;
	char byte;
	int ends[2];

	set_up();
	CHECK(!pipe(ends));
	for (int i = 0; i < 2000; i++) {
		io_wq_prep_pread(&first, ends[0], got, 1, -1);
		io_wq_prep_pread(&next, ends[0], &byte, 1, -1);
		CHECK(!io_wq_enqueue_io(wq, &first, NULL) && !io_wq_enqueue_io(wq, &next, NULL));
		for (int spins = i % 100; spins; spins--)
			sched_yield();
		io_wq_cancel_work(wq, &first.work);
		CHECK(write(ends[1], "x", 1) == 1);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		CHECK(first.result == -ECANCELED && next.result == 1 && byte == 'x');
	}
	io_wq_destroy(wq);
}

static void read_all(int fd, int count)
{
	for (ssize_t part; count; count -= (int)part)
		WAIT_UNTIL((part = read(fd, got, (size_t)count)) > 0);
}

static void a_non_blocking_stream_is_waited_for(void)
{
	struct io_wq_io io;
	int ends[2], full;

	set_up();
	CHECK(!pipe2(ends, O_NONBLOCK));
	full = fcntl(ends[0], F_SETPIPE_SZ, SIZE / 2);
	CHECK(full > 0 && full < SIZE);
	io_wq_prep_pread(&io, ends[0], got, SIZE, -1);
	CHECK(!io_wq_try_io(&io) && !io_wq_enqueue_io(wq, &io, NULL));
	WAIT_UNTIL(queue_stats(wq).blocked == 1);
	CHECK(write(ends[1], "12345", 5) == 5);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0 && io.result == 5);
	for (int sends = 0; sends < 2; sends++) {
		for (int cancels = 0; cancels < 2; cancels++) {
			if (sends)
				io_wq_prep_sendfile(&io, ends[1], new_file("file"), 0, SIZE);
			else
				io_wq_prep_pwrite(&io, ends[1], written, SIZE, -1);
			CHECK(!io_wq_enqueue_io(wq, &io, NULL));
			WAIT_UNTIL(queue_stats(wq).blocked == 1);
			if (cancels)
				CHECK(io_wq_cancel_work(wq, &io.work) == IO_WQ_CANCEL_RUNNING);
			else
				read_all(ends[0], SIZE);
			CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
			CHECK(io.result == (cancels ? full : SIZE));
			if (cancels)
				read_all(ends[0], full);
		}
	}
	io_wq_destroy(wq);
}

static void who_reads_a_pipe_waits_for_who_came_before(void)
{
	struct io_wq_io reads[3];
	char bytes[3] = "";
	int ends[2];

	set_up();
	CHECK(!pipe(ends));
	for (int round = 0; round < 100; round++) {
		for (int i = 0; i < 3; i++) {
			io_wq_prep_pread(&reads[i], ends[0], &bytes[i], 1, -1);
			CHECK(!io_wq_enqueue_io(wq, &reads[i], NULL));
		}
		CHECK(write(ends[1], "x", 1) == 1);
		WAIT_UNTIL(queue_stats(wq).finished + queue_stats(wq).cancelled == 3 * (uint64_t)round + 1);
		CHECK(io_wq_cancel_work(wq, &reads[1].work) != IO_WQ_CANCEL_NOTFOUND);
		CHECK(write(ends[1], "y", 1) == 1);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		CHECK(reads[0].result == 1 && reads[1].result == -ECANCELED && reads[2].result == 1);
		CHECK(bytes[0] == 'x' && bytes[2] == 'y');
	}
	io_wq_destroy(wq);
}

static void what_was_pending_does_nothing_but_closes(void)
{
	struct io_wq_io write_one, close_one;
	struct stat status;
	struct task task;
	sem_t gate;
	int fd;

	set_up();
	sem_init(&gate, 0, 0);
	fd = open(path_of("file"), O_RDWR | O_CREAT, 0600);
	CHECK(io_wq_enqueue_hashed(wq, &task_init(&task, &gate, NULL)->work, &fd) == 0);
	io_wq_prep_pwrite(&write_one, fd, written, SIZE, 0);
	io_wq_prep_close(&close_one, fd);
	CHECK(io_wq_enqueue_io(wq, &write_one, &fd) == 0 && io_wq_enqueue_io(wq, &close_one, &fd) == 0);
	io_wq_cancel_pending(wq);
	CHECK(write_one.result == -ECANCELED && close_one.result == 0);
	CHECK(fcntl(fd, F_GETFD) == -1 && !stat(path_of("file"), &status) && status.st_size == 0);
	sem_post(&gate);
	io_wq_destroy(wq);
}

static void *open_other_end(void *path)
{
	int fd;

	WAIT_UNTIL((fd = open(path, O_WRONLY | O_NONBLOCK)) >= 0 || LOAD(got[0]));
	if (fd >= 0)
		close(fd);
	return NULL;
}

/* Whoever comes first, the writer that opens the other end or cancel: no descriptor is lost. */
static void a_cancelled_open_closes_what_it_has_opened(void)
{
	unsigned before;
	struct io_wq_io io;
	pthread_t writer;
	char path[64];

	set_up();
	snprintf(path, sizeof(path), "%s", path_of("fifo"));
	CHECK(!mkfifo(path, 0600));
	before = count_descriptors();
	for (int i = 0; i < 200; i++) {
		io_wq_prep_openat(&io, AT_FDCWD, path, O_RDONLY, 0);
		CHECK(io_wq_enqueue_io(wq, &io, NULL) == 0);
		got[0] = 0;
		CHECK(!pthread_create(&writer, NULL, open_other_end, path));
		for (int spins = i * 100; spins; spins--)
			sched_yield();
		io_wq_cancel_work(wq, &io.work);
		CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
		ADD(got[0], 1);
		pthread_join(writer, NULL);
		if (io.result >= 0)
			CHECK(!close((int)io.result));
		else
			CHECK(io.result == -ECANCELED);
	}
	io_wq_destroy(wq);
	CHECK(count_descriptors() <= before);
}

static void works_of_a_key_write_in_order(void)
{
	enum { COUNT = 5000 };
	struct io_wq_io *ios = calloc(COUNT, sizeof(*ios));
	int fd, numbers[COUNT], read_back[COUNT];

	set_up();
	fd = open(path_of("file"), O_RDWR | O_CREAT | O_APPEND, 0600);
	for (int i = 0; i < COUNT; i++) {
		numbers[i] = i;
		io_wq_prep_pwrite(&ios[i], fd, &numbers[i], sizeof(int), -1);
		CHECK(io_wq_enqueue_io(wq, &ios[i], &fd) == 0);
	}
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(pread(fd, read_back, sizeof(read_back), 0) == sizeof(read_back));
	CHECK(!memcmp(numbers, read_back, sizeof(numbers)));
	free(ios);
	io_wq_destroy(wq);
}

static void files_are_copied(void)
{
	struct io_wq_io io;
	int from, to;

	set_up();
	from = new_file("from");
	to = open(path_of("to"), O_RDWR | O_CREAT, 0600);
	io_wq_prep_copy_file_range(&io, from, 0, to, 10, SIZE);
	CHECK(try_or_run(&io) == SIZE && pread(to, got, SIZE, 10) == SIZE && !memcmp(got, written, SIZE));
	io_wq_prep_copy_file_range(&io, from, SIZE - 5, to, 0, SIZE);
	CHECK(try_or_run(&io) == 5);
	CHECK(!ftruncate(to, 0));
	io_wq_prep_sendfile(&io, to, from, 0, 2 * SIZE);
	CHECK(try_or_run(&io) == SIZE && pread(to, got, SIZE, 0) == SIZE && !memcmp(got, written, SIZE));
	io_wq_prep_sendfile(&io, to, -1, 0, SIZE);
	CHECK(try_or_run(&io) == -EBADF);
	io_wq_destroy(wq);
}

static void files_are_changed(void)
{
	char old_path[64], new_path[64];
	struct stat status;
	struct io_wq_io io;
	int fd;

	set_up();
	fd = new_file("old");
	snprintf(old_path, sizeof(old_path), "%s", path_of("old"));
	snprintf(new_path, sizeof(new_path), "%s", path_of("new"));
	io_wq_prep_ftruncate(&io, fd, 10);
	CHECK(try_or_run(&io) == 0 && !fstat(fd, &status) && status.st_size == 10);
	io_wq_prep_fallocate(&io, fd, 0, 0, 5000);
	CHECK(try_or_run(&io) == 0 && !fstat(fd, &status) && status.st_size == 5000);
	io_wq_prep_fsync(&io, fd);
	CHECK(try_or_run(&io) == 0);
	io_wq_prep_fdatasync(&io, fd);
	CHECK(try_or_run(&io) == 0);
	io_wq_prep_renameat(&io, AT_FDCWD, old_path, AT_FDCWD, new_path);
	CHECK(try_or_run(&io) == 0 && access(old_path, F_OK) && !access(new_path, F_OK));
	io_wq_prep_fstatat(&io, AT_FDCWD, new_path, &status, 0);
	CHECK(try_or_run(&io) == 0 && status.st_size == 5000);
	CHECK(!symlink("nowhere", old_path));
	io_wq_prep_fstatat(&io, AT_FDCWD, old_path, &status, AT_SYMLINK_NOFOLLOW);
	CHECK(try_or_run(&io) == 0 && S_ISLNK(status.st_mode));
	io_wq_prep_unlinkat(&io, AT_FDCWD, new_path, 0);
	CHECK(try_or_run(&io) == 0 && access(new_path, F_OK));
	io_wq_destroy(wq);
}

/* What comes after the one that fails does nothing; others of the key do. */
static void a_link_breaks_at_the_first_failure(void)
{
	struct rlimit limit = { SIZE / 2, RLIM_INFINITY };
	struct io_wq_io linked[4], other;
	uint32_t link = 0;
	int fd;

	set_up();
	signal(SIGXFSZ, SIG_IGN);
	fd = open(path_of("linked"), O_RDWR | O_CREAT, 0600);
	CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
	for (int i = 0; i < 4; i++) {
		io_wq_prep_pwrite(&linked[i], fd, written, SIZE / 3, i * (SIZE / 3));
		CHECK(linked[i].result == -EINPROGRESS);
		linked[i].link = &link;
		CHECK(io_wq_enqueue_io(wq, &linked[i], &fd) == 0);
	}
	io_wq_prep_pwrite(&other, fd, "x", 1, 0);
	CHECK(io_wq_enqueue_io(wq, &other, &fd) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(linked[0].result == SIZE / 3 && !linked[0].error);
	CHECK(linked[1].result == SIZE / 2 - SIZE / 3 && linked[1].error == EFBIG); /* a part */
	for (int i = 2; i < 4; i++)
		CHECK(linked[i].result == -ECANCELED && linked[i].error == ECANCELED && !linked[i].done);
	CHECK(LOAD(link) && other.result == 1);
	CHECK(io_wq_try_io(&linked[3]) && linked[3].result == -ECANCELED); /* nor in place */
	__atomic_store_n(&link, 0, __ATOMIC_SEQ_CST);
	io_wq_prep_pread(&other, -1, got, 1, 0);
	other.link = &link;
	CHECK(try_or_run(&other) == -EBADF && other.error == EBADF && LOAD(link));
	io_wq_destroy(wq);
}

TEST_MAIN(TEST(bytes_go_where_they_should), TEST(reads_end_where_the_file_does),
	  TEST(what_is_in_memory_needs_no_worker), TEST(a_file_in_memory_is_written_in_place),
	  TEST(what_is_on_the_disk_is_left_to_a_worker), TEST(errors_are_results), TEST(whole_files),
	  TEST(of_a_pipe_there_is_what_there_is), TEST(cancel_ends_what_waits), TEST(what_comes_after_cancel_is_the_next_ones),
	  TEST(who_reads_a_pipe_waits_for_who_came_before), TEST(a_non_blocking_stream_is_waited_for),
	  TEST(what_was_pending_does_nothing_but_closes),
	  TEST(a_cancelled_open_closes_what_it_has_opened), TEST(works_of_a_key_write_in_order),
	  TEST(files_are_copied), TEST(files_are_changed),
	  TEST(a_link_breaks_at_the_first_failure))
