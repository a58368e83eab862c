/*
 * Exact keys: which of a queue's keys have unfinished work.
 *
 * The core compares values, not objects: equal keys must be given to it as one value, and
 * different keys as different ones. That value is the address of the key's use, which is in
 * the table while the key has unfinished work, and lives as long as the core may have its
 * address: as long as its works.
 *
 * Keys are compared by the thread that enqueues only, and nothing is changed before they have
 * answered: their __eq__ may raise, block or enqueue more work. If the table has changed
 * meanwhile, it is searched anew. (As dicts do.) When a key is removed, on a worker, none of its
 * methods is called.
 *
 * One lock guards all tables and uses, where there is no GIL (locks.h). A use's table, key and
 * hash are asked for under it only; while the key's methods run, the use is held.
 */
#include "keys.h"
#include "locks.h"
#include "work.h"

#include <stdlib.h>

struct table {
	PyObject_HEAD
	struct iowq_key_use **buckets;
	unsigned bits;
	Py_ssize_t count;
	unsigned long version; /* changes with each use that comes or goes */
};

struct iowq_key_use {
	struct iowq_key_use *next, **link;
	struct table *table; /* that it is in, or NULL */
	Py_hash_t hash;
	PyObject *key;       /* NULL: it has no unfinished work any more */
	Py_ssize_t works;    /* unfinished */
	Py_ssize_t holders;  /* works that have its address, and searches */
};

enum { MIN_BITS = 4 };

static iowq_lock_t lock;

static struct iowq_key_use **bucket_of(const struct table *table, Py_hash_t hash)
{
	return &table->buckets[(uint64_t)hash * 0x9E3779B97F4A7C15ull >> (64 - table->bits)];
}

static void link_use(struct table *table, struct iowq_key_use *use)
{
	struct iowq_key_use **bucket = bucket_of(table, use->hash);

	use->next = *bucket;
	use->link = bucket;
	if (use->next)
		use->next->link = &use->next;
	*bucket = use;
}

static void unlink_use(struct iowq_key_use *use)
{
	*use->link = use->next;
	if (use->next)
		use->next->link = use->link;
}

/* Without memory it stays as it is: slower, never wrong. */
static void grow(struct table *table)
{
	struct iowq_key_use **former = table->buckets;
	size_t size = (size_t)1 << table->bits;
	struct iowq_key_use **bigger = calloc(2 * size, sizeof(*bigger));

	if (!bigger)
		return;
	table->buckets = bigger;
	table->bits++;
	for (size_t i = 0; i < size; i++)
		for (struct iowq_key_use *use = former[i], *next; use; use = next) {
			next = use->next;
			link_use(table, use);
		}
	free(former);
}

/* Returns a use for a key that has none, held by the caller; or NULL without memory. Locked. */
static struct iowq_key_use *add(struct table *table, PyObject *key, Py_hash_t hash)
{
	struct iowq_key_use *use = malloc(sizeof(*use));

	if (!use)
		return NULL;
	if (table->count >= (Py_ssize_t)1 << table->bits)
		grow(table);
	*use = (struct iowq_key_use){ .table = table, .hash = hash, .key = key, .holders = 1 };
	Py_INCREF(key);
	link_use(table, use);
	table->count++;
	table->version++;
	return use;
}

/* Locked. */
static void put_use(struct iowq_key_use *use)
{
	if (!--use->holders)
		free(use);
}

void iowq_put_key_use(struct iowq_key_use *use)
{
	iowq_lock(&lock);
	put_use(use);
	iowq_unlock(&lock);
}

/* The last work of a key has ended. Returns the key, whose reference is the caller's now: to give it
 * back may run foreign code. Locked. */
static PyObject *forget(struct iowq_key_use *use)
{
	PyObject *key = use->key;

	if (use->table) {
		unlink_use(use);
		use->table->count--;
		use->table->version++;
		use->table = NULL;
	}
	use->key = NULL;
	return key;
}

/* Whether a use, which is held, is the key's: 1, 0, or -1 with an exception set. Locked; unlocks
 * meanwhile. */
static int is_of(struct iowq_key_use *use, PyObject *key)
{
	PyObject *own = use->key;
	int answer;

	if (own == key)
		return 1;
	Py_INCREF(own);
	iowq_unlock(&lock);
	answer = PyObject_RichCompareBool(own, key, Py_EQ);
	Py_DECREF(own);
	iowq_lock(&lock);
	return answer;
}

/* Returns the key's use, held by the caller, or NULL; with failed set: and an exception. Locked, but for
 * what the key's methods do. */
static struct iowq_key_use *find(struct table *table, PyObject *key, Py_hash_t hash, bool *failed)
{
	struct iowq_key_use *use = *bucket_of(table, hash);

	while (use) {
		struct iowq_key_use *next;
		unsigned long version = table->version;
		int answer = 0;

		use->holders++;
		if (use->hash == hash)
			answer = is_of(use, key);
		if (answer > 0 && use->key)
			return use;
		next = use->next;
		put_use(use);
		*failed = answer < 0;
		if (*failed)
			return NULL;
		use = version == table->version ? next : *bucket_of(table, hash);
	}
	return NULL;
}

struct iowq_key_use *iowq_find_key(PyObject *table, PyObject *key, Py_hash_t hash)
{
	struct iowq_key_use *use;
	bool failed = false;

	iowq_lock(&lock);
	use = find((struct table *)table, key, hash, &failed);
	iowq_unlock(&lock);
	return use;
}

int iowq_acquire_key(PyObject *table, PyObject *key, Py_hash_t hash, struct iowq_work *work)
{
	struct iowq_key_use *use;
	bool failed = false;

	iowq_lock(&lock);
	use = find((struct table *)table, key, hash, &failed);
	if (!use && !failed)
		use = add((struct table *)table, key, hash);
	if (use)
		use->works++;
	iowq_unlock(&lock);
	if (!use && !failed)
		PyErr_NoMemory();
	work->key_use = use;
	work->key_held = use != NULL;
	return use ? 0 : -1;
}

void iowq_release_key(struct iowq_work *work)
{
	PyObject *key = NULL;

	if (!work->key_held)
		return;
	work->key_held = false;
	iowq_lock(&lock);
	if (!--work->key_use->works)
		key = forget(work->key_use);
	iowq_unlock(&lock);
	Py_XDECREF(key);
}

void iowq_give_key_back(struct iowq_work *work)
{
	iowq_release_key(work);
	iowq_put_key_use(work->key_use);
	work->key_use = NULL;
}

struct iowq_peeked_key iowq_peek_key(const void *use_,
				     size_t (*peek)(const void *address, void *to, size_t size))
{
	struct iowq_key_use use;

	if (peek(use_, &use, sizeof(use)) != sizeof(use) || use.works < 0)
		return (struct iowq_peeked_key){ 0 };
	return (struct iowq_peeked_key){ use.key, (unsigned)use.works };
}

/* ---- the type */

static PyObject *new_table(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	struct table *table = (struct table *)PyType_GenericAlloc(type, 0);

	(void)args;
	(void)kwargs;
	if (!table)
		return NULL;
	table->bits = MIN_BITS;
	table->buckets = calloc((size_t)1 << MIN_BITS, sizeof(*table->buckets));
	if (table->buckets)
		return (PyObject *)table;
	Py_DECREF(table);
	return PyErr_NoMemory();
}

/* What is left in it is of works that stayed in the parent of a forked child. */
static void free_table(PyObject *self)
{
	struct table *table = (struct table *)self;
	PyTypeObject *type = Py_TYPE(self);

	iowq_lock(&lock);
	for (size_t i = 0; table->buckets && i < (size_t)1 << table->bits; i++)
		for (struct iowq_key_use *use = table->buckets[i]; use; use = use->next)
			use->table = NULL;
	iowq_unlock(&lock);
	free(table->buckets);
	PyObject_Free(self);
	Py_DECREF(type);
}

static Py_ssize_t length(PyObject *self)
{
	struct table *table = (struct table *)self;
	Py_ssize_t count;

	iowq_lock(&lock);
	count = table->count;
	iowq_unlock(&lock);
	return count;
}

PyObject *iowq_make_key_table_type(void)
{
	static PyType_Slot slots[] = {
		{ Py_tp_doc, "The keys of one queue that have unfinished work; len() is their number." },
		{ Py_tp_new, new_table },
		{ Py_tp_dealloc, free_table },
		{ Py_sq_length, length },
		{ 0, NULL },
	};
	static PyType_Spec spec = {
		.name = "iowq._native.KeyTable",
		.basicsize = sizeof(struct table),
		.flags = Py_TPFLAGS_DEFAULT,
		.slots = slots,
	};

	return PyType_FromSpec(&spec);
}
