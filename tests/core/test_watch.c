/* The page: what others see of a process's queues, and that nothing of it stays. */
#include "check.h"
#include "io_wq_page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { STARTED = 12345 };

static int64_t describe_work(const struct io_wq_work *work, char *text, size_t size)
{
	snprintf(text, size, "task %s", work->flags & IO_WQ_WORK_HASHED ? "with a key" : "without");
	return STARTED;
}

static void describe_key(const struct io_wq_work *work, char *text, size_t size)
{
	snprintf(text, size, "key %lu", (unsigned long)(uintptr_t)work->key.id);
}

static const struct io_wq_watch_hooks hooks = { describe_work, describe_key, NULL };

/* ---- one who looks. A mapping of its own, as another process has */

/* Returns the descriptor of this process's page, or -1. */
static int find_page(void)
{
	const char *const name = "/memfd:" IO_WQ_PAGE_NAME " ";
	DIR *all = opendir("/proc/self/fd");
	int found = -1;

	CHECK(all);
	for (struct dirent *entry; found < 0 && (entry = readdir(all));) {
		char path[300], target[100] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
		if (readlink(path, target, sizeof(target) - 1) > 0 && !strncmp(target, name, strlen(name)))
			found = atoi(entry->d_name);
	}
	closedir(all);
	return found;
}

static struct io_wq_page *open_page(void)
{
	char path[100];
	struct io_wq_page *page;
	int fd = find_page();

	CHECK(fd >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(page != MAP_FAILED);
	close(fd);
	CHECK(!memcmp(page->magic, IO_WQ_PAGE_MAGIC, sizeof(page->magic)));
	CHECK(page->version == IO_WQ_PAGE_VERSION && page->size == sizeof(*page));
	CHECK(page->pid == getpid());
	return page;
}

static void close_page(struct io_wq_page *page)
{
	munmap(page, sizeof(*page));
}

static const struct io_wq_page_snapshot *look(struct io_wq_page *page)
{
	uint32_t request;

	io_wq_ask_page(page);
	request = LOAD(page->request);
	WAIT_UNTIL(LOAD(page->answered) == request);
	CHECK(LOAD(page->sequence) % 2 == 0);
	return &page->snapshot;
}

/* ---- the tests */

static void what_runs_and_what_is_pending_is_seen(void)
{
	struct io_wq *wq;
	const struct io_wq_data data = { .name = "seen", .unbounded = 7 };
	struct task *tasks = tasks_new(5, NULL, NULL);
	const struct io_wq_page_snapshot *snapshot;
	const struct io_wq_page_queue *queue;
	const struct io_wq_page_worker *worker;
	struct io_wq_page *page;
	struct task first;
	sem_t gate;

	io_wq_let_watch(&hooks);
	sem_init(&gate, 0, 0);
	wq = io_wq_create(1, &data);
	CHECK(wq);
	CHECK(io_wq_enqueue_hashed(wq, &task_init(&first, &gate, NULL)->work, (void *)3) == 0);
	for (int i = 0; i < 5; i++)
		CHECK(io_wq_enqueue_hashed(wq, &tasks[i].work, (void *)3) == 0);
	WAIT_UNTIL(LOAD(first.begun));
	page = open_page();
	WAIT_UNTIL(!strcmp(look(page)->workers[0].call, "a wait for a lock (futex)"));
	snapshot = look(page);
	CHECK(snapshot->nr_queues == 1 && snapshot->nr_workers == 1);
	queue = &snapshot->queues[0];
	CHECK(!strcmp(queue->name, "seen"));
	CHECK(queue->enqueued == 6 && queue->started == 1 && queue->pending == 5);
	CHECK(queue->running == 1 && queue->max_workers == 1 && queue->max_unbounded == 7);
	CHECK(queue->keys == 1 && queue->keys_seen == 1 && queue->nr_longest == 1);
	CHECK(queue->longest[0].works == 6 && !strcmp(queue->longest[0].text, "key 3"));
	worker = &snapshot->workers[0];
	CHECK(worker->queue == queue->id && worker->tid && worker->started_ns == STARTED);
	CHECK(worker->flags & IO_WQ_PAGE_WORKING && worker->flags & IO_WQ_PAGE_HASHED);
	CHECK(!strcmp(worker->work, "task with a key") && !strcmp(worker->key, "key 3"));
	io_wq_cancel_work(wq, &first.work);
	CHECK(look(page)->workers[0].flags & IO_WQ_PAGE_CANCELLING);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	WAIT_UNTIL(look(page)->workers[0].flags == 0);
	CHECK(page->snapshot.queues[0].finished == 6 && page->snapshot.queues[0].keys == 0);
	close_page(page);
	io_wq_destroy(wq);
	free(tasks);
}

/* A page, and the thread that it needs, are there while there are workers. */
static void nothing_stays(void)
{
	unsigned threads = check_threads();
	struct io_wq *wq[2];
	struct task tasks[2];

	for (int round = 0; round < 3; round++) {
		struct io_wq_page *page;

		io_wq_let_watch(&hooks);
		for (int i = 0; i < 2; i++)
			wq[i] = queue_new(1);
		CHECK(find_page() < 0);
		for (int i = 0; i < 2; i++)
			CHECK(io_wq_enqueue(wq[i], &task_init(&tasks[i], NULL, NULL)->work) == 0);
		for (int i = 0; i < 2; i++)
			CHECK(io_wq_flush(wq[i], DEADLINE * 1000) == 0);
		page = open_page();
		CHECK(io_wq_stop(wq[0], DEADLINE * 1000) == 0);
		WAIT_UNTIL(look(page)->nr_queues == 1);
		CHECK(io_wq_stop(wq[1], DEADLINE * 1000) == 0);
		CHECK(find_page() < 0 && LOAD(page->ended));
		WAIT_UNTIL(check_threads() == threads); /* joined ones may be seen a while */
		close_page(page);
		for (int i = 0; i < 2; i++)
			io_wq_put(wq[i]);
	}
}

static void who_does_not_want_it_has_none(void)
{
	struct io_wq *wq = queue_new(1);
	struct task task;

	CHECK(io_wq_enqueue(wq, &task_init(&task, NULL, NULL)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(find_page() < 0);
	io_wq_destroy(wq);
}

/* More keys than are looked at with the queue locked once. */
static void the_longest_keys_are_seen(void)
{
	enum { KEYS = 2000, LONG = 15 };
	struct io_wq *wq;
	struct task *tasks = tasks_new(KEYS, NULL, NULL), *more = tasks_new(LONG * LONG, NULL, NULL);
	const struct io_wq_page_queue *queue;
	struct io_wq_page *page;
	struct task first;
	sem_t gate;

	io_wq_let_watch(&hooks);
	sem_init(&gate, 0, 0);
	wq = queue_new(1);
	CHECK(io_wq_enqueue(wq, &task_init(&first, &gate, NULL)->work) == 0);
	WAIT_UNTIL(LOAD(first.begun));
	for (uintptr_t i = 0; i < KEYS; i++)
		CHECK(io_wq_enqueue_hashed(wq, &tasks[i].work, (void *)i) == 0);
	for (uintptr_t i = 0, next = 0; i < LONG; i++)
		for (uintptr_t j = 0; j < i; j++, next++)
			CHECK(io_wq_enqueue_hashed(wq, &more[next].work, (void *)(i * 100)) == 0);
	page = open_page();
	queue = &look(page)->queues[0];
	CHECK(queue->keys == KEYS && queue->keys_seen == KEYS);
	CHECK(queue->nr_longest == IO_WQ_PAGE_KEYS);
	for (unsigned i = 0; i < IO_WQ_PAGE_KEYS; i++) {
		char text[60];

		snprintf(text, sizeof(text), "key %u", (LONG - 1 - i) * 100);
		CHECK(queue->longest[i].works == LONG - i && !strcmp(queue->longest[i].text, text));
	}
	close_page(page);
	sem_post(&gate);
	io_wq_destroy(wq);
	free(tasks);
	free(more);
}

static void *make_queues(void *stop)
{
	while (!LOAD(*(bool *)stop)) {
		struct io_wq *wq = queue_new(2);
		struct task tasks[3];

		for (int i = 0; i < 3; i++)
			CHECK(io_wq_enqueue_hashed(wq, &task_init(&tasks[i], NULL, NULL)->work, wq) == 0);
		io_wq_destroy(wq);
	}
	return NULL;
}

/* While queues come and go, and others run thousands of works. */
static void looks_disturb_nobody(void)
{
	enum { COUNT = 5000 };
	struct io_wq *wq;
	struct task *tasks = tasks_new(COUNT, NULL, NULL);
	struct io_wq_page *page;
	struct task first;
	bool stop = false;
	pthread_t thread;
	sem_t gate;

	io_wq_let_watch(&hooks);
	sem_init(&gate, 0, 0);
	wq = queue_new(3);
	CHECK(io_wq_enqueue(wq, &task_init(&first, &gate, NULL)->work) == 0);
	WAIT_UNTIL(LOAD(first.begun));
	page = open_page();
	CHECK(pthread_create(&thread, NULL, make_queues, &stop) == 0);
	for (unsigned i = 0; i < COUNT; i++) {
		CHECK(io_wq_enqueue_hashed(wq, &tasks[i].work, (void *)(uintptr_t)(i % 50)) == 0);
		if (i % 100 == 0) {
			const struct io_wq_page_queue *queue = &look(page)->queues[0];

			CHECK(queue->enqueued == i + 2);
			CHECK(queue->enqueued == queue->pending + queue->running + queue->finished);
		}
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	sem_post(&gate);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	close_page(page);
	io_wq_destroy(wq);
	free(tasks);
}

/* Who may write the page can't keep the process from going on. */
static void what_others_write_does_no_harm(void)
{
	struct io_wq *wq;
	struct io_wq_page *page;
	struct task task;

	io_wq_let_watch(&hooks);
	wq = queue_new(1);
	CHECK(io_wq_enqueue(wq, &task_init(&task, NULL, NULL)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	page = open_page();
	memset(&page->snapshot, 0xff, sizeof(page->snapshot));
	__atomic_store_n(&page->sequence, 0xffffffff, __ATOMIC_SEQ_CST);
	CHECK(look(page)->nr_queues == 1);
	memset(page, 0xff, sizeof(*page));
	io_wq_destroy(wq);
	CHECK(find_page() < 0);
	close_page(page);
}

static void its_size_is_fixed(void)
{
	struct io_wq *wq;
	struct task task;
	int fd;

	io_wq_let_watch(&hooks);
	wq = queue_new(1);
	CHECK(io_wq_enqueue(wq, &task_init(&task, NULL, NULL)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	fd = find_page();
	CHECK(ftruncate(fd, 0) == -1 && errno == EPERM);
	/* a daemon closes what it doesn't know, and gets the number for something else */
	CHECK(dup2(STDERR_FILENO, fd) == fd);
	io_wq_destroy(wq);
	CHECK(fcntl(fd, F_GETFD) >= 0);
	close(fd);
}

static void run_in_child(int inherited)
{
	struct io_wq *wq;
	struct task task;
	struct io_wq_page *page;

	CHECK(find_page() < 0 && fcntl(inherited, F_GETFD) == -1);
	wq = queue_new(1);
	CHECK(io_wq_enqueue(wq, &task_init(&task, NULL, NULL)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	page = open_page();
	CHECK(look(page)->nr_queues == 1 && page->snapshot.queues[0].enqueued == 1);
	close_page(page);
	io_wq_destroy(wq);
	CHECK(find_page() < 0);
	_exit(0);
}

static void a_child_has_its_own_page(void)
{
	struct io_wq *wq;
	struct io_wq_page *page;
	struct task task, *others = tasks_new(3, NULL, NULL);
	pid_t child;
	int status, fd;

	io_wq_let_watch(&hooks);
	wq = queue_new(1);
	for (int i = 0; i < 3; i++)
		CHECK(io_wq_enqueue(wq, &others[i].work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	page = open_page();
	fd = find_page();
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		free(others);
		close_page(page);
		run_in_child(fd);
	}
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(io_wq_enqueue(wq, &task_init(&task, NULL, NULL)->work) == 0);
	CHECK(io_wq_flush(wq, DEADLINE * 1000) == 0);
	CHECK(look(page)->queues[0].enqueued == 4);
	close_page(page);
	io_wq_destroy(wq);
	free(others);
}

TEST_MAIN(TEST(what_runs_and_what_is_pending_is_seen), TEST(nothing_stays),
	  TEST(who_does_not_want_it_has_none), TEST(the_longest_keys_are_seen),
	  TEST(looks_disturb_nobody), TEST(what_others_write_does_no_harm), TEST(its_size_is_fixed),
	  TEST(a_child_has_its_own_page))
