/* Hashed work: never in parallel, in order, no waiting across keys, O(1). */
#include "check.h"

struct account {
	unsigned inside;     /* works of this key that run now */
	unsigned last;       /* number of the last work of this key */
	unsigned violations;
};

struct transfer {
	struct io_wq_work work;
	struct account *account;
	unsigned number;
};

static void transfer_func(struct io_wq_work **work)
{
	struct transfer *transfer = (struct transfer *)*work;
	struct account *account = transfer->account;

	if (ADD(account->inside, 1) != 1 || transfer->number != account->last + 1)
		account->violations++;
	account->last = transfer->number; /* no atomic: TSan proves the order */
	if (transfer->number % 8 == 0) {
		io_wq_worker_sleeping();
		usleep(50);
		io_wq_worker_running();
	}
	__atomic_sub_fetch(&account->inside, 1, __ATOMIC_SEQ_CST);
}

enum { KEYS = 64, PER_VALUE = 200 };

static void serial_and_in_order_per_key(void)
{
	struct io_wq *wq = queue_new(16);
	struct account *accounts = calloc(KEYS, sizeof(*accounts));
	struct transfer *transfers = calloc(KEYS * PER_VALUE, sizeof(*transfers));

	for (unsigned i = 0; i < KEYS * PER_VALUE; i++) {
		INIT_IO_WORK(&transfers[i].work, transfer_func);
		transfers[i].account = &accounts[i % KEYS];
		transfers[i].number = i / KEYS + 1;
		io_wq_enqueue_hashed(wq, &transfers[i].work, transfers[i].account);
	}
	io_wq_flush(wq, -1);
	for (int i = 0; i < KEYS; i++)
		CHECK(accounts[i].last == PER_VALUE && !accounts[i].violations);
	io_wq_destroy(wq);
	free(accounts);
	free(transfers);
}

/* Linux' first io-wq folds keys into 64 bits, so some two of 200 would share one. */
static void different_keys_never_wait_for_each_other(void)
{
	enum { COUNT = 200 };
	struct io_wq *wq = queue_new(COUNT);
	struct task *tasks;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = tasks_new(COUNT, &gate, NULL);
	for (uintptr_t i = 0; i < COUNT; i++)
		io_wq_enqueue_hashed(wq, &tasks[i].work, (void *)(i << 6));
	for (int i = 0; i < COUNT; i++)
		WAIT_UNTIL(LOAD(tasks[i].begun)); /* all of them run at once */
	for (int i = 0; i < COUNT; i++)
		sem_post(&gate);
	io_wq_destroy(wq);
	free(tasks);
}

static void null_is_a_key(void)
{
	struct io_wq *wq = queue_new(4);
	struct task first, second, other;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue_hashed(wq, &task_init(&first, &gate, NULL)->work, NULL);
	io_wq_enqueue_hashed(wq, &task_init(&second, NULL, NULL)->work, NULL);
	io_wq_enqueue(wq, &task_init(&other, NULL, NULL)->work);
	WAIT_UNTIL(LOAD(other.ended));
	CHECK(!LOAD(second.begun));
	sem_post(&gate);
	io_wq_destroy(wq);
}

/* 100,000 works wait behind a busy key, and are never walked past: 100,000
 * steps of 100,000 each would take minutes. */
static void a_long_queue_costs_others_nothing(void)
{
	enum { WAITING = 100000 };
	struct io_wq *wq = queue_new(2);
	struct task blocker, *waiting = tasks_new(WAITING, NULL, NULL);
	struct task *others = tasks_new(WAITING, NULL, NULL);
	long long begun;
	sem_t gate;

	sem_init(&gate, 0, 0);
	io_wq_enqueue_hashed(wq, &task_init(&blocker, &gate, NULL)->work, wq);
	for (int i = 0; i < WAITING; i++)
		io_wq_enqueue_hashed(wq, &waiting[i].work, wq);
	begun = check_now_ms();
	for (int i = 0; i < WAITING; i++)
		io_wq_enqueue_hashed(wq, &others[i].work, &others[i % 1000]);
	WAIT_UNTIL(queue_stats(wq).pending == WAITING);
	CHECK(check_now_ms() - begun < 20000);
	sem_post(&gate);
	io_wq_flush(wq, -1);
	CHECK(waiting[WAITING - 1].ended == 1);
	io_wq_destroy(wq);
	free(waiting);
	free(others);
}

/* The head of a key, one in the middle, the last; the rest goes on. */
static void cancel_leaves_the_key_in_order(void)
{
	struct io_wq *wq = queue_new(1);
	struct task blocker, *tasks;
	unsigned counter = 0;
	sem_t gate;

	sem_init(&gate, 0, 0);
	tasks = tasks_new(5, NULL, &counter);
	io_wq_enqueue(wq, &task_init(&blocker, &gate, NULL)->work);
	for (int i = 0; i < 5; i++)
		io_wq_enqueue_hashed(wq, &tasks[i].work, wq);
	for (int i = 0; i < 5; i += 2)
		CHECK(io_wq_cancel_work(wq, &tasks[i].work) == IO_WQ_CANCEL_OK);
	CHECK(tasks[0].cancelled && tasks[2].cancelled && tasks[4].cancelled);
	sem_post(&gate);
	io_wq_flush(wq, -1);
	CHECK(tasks[1].begun == 4 && tasks[3].begun == 5);
	CHECK(!tasks[1].cancelled && !tasks[3].cancelled);
	io_wq_destroy(wq);
	free(tasks);
}

/* Enqueued on alternating CPUs, which tests/c/fake_numa.c makes two nodes. */
static void serial_and_in_order_across_nodes(void)
{
	struct io_wq *wq = queue_new(4);
	struct account account = { 0 };
	struct transfer *transfers = calloc(PER_VALUE, sizeof(*transfers));
	struct task *others = tasks_new(PER_VALUE, NULL, NULL);

	for (unsigned i = 0; i < PER_VALUE; i++) {
		run_on(i % 2);
		INIT_IO_WORK(&transfers[i].work, transfer_func);
		transfers[i].account = &account;
		transfers[i].number = i + 1;
		io_wq_enqueue_hashed(wq, &transfers[i].work, &account);
		io_wq_enqueue(wq, &others[i].work);
	}
	io_wq_flush(wq, -1);
	CHECK(account.last == PER_VALUE && !account.violations);
	for (int i = 0; i < PER_VALUE; i++)
		CHECK(others[i].ended == 1);
	io_wq_destroy(wq);
	free(transfers);
	free(others);
}

TEST_MAIN(TEST(serial_and_in_order_per_key), TEST(different_keys_never_wait_for_each_other),
	  TEST(null_is_a_key), TEST(a_long_queue_costs_others_nothing),
	  TEST(cancel_leaves_the_key_in_order), TEST(serial_and_in_order_across_nodes))
