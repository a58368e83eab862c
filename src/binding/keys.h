/* See keys.c. All functions hold the GIL. */
#ifndef IOWQ_KEYS_H
#define IOWQ_KEYS_H

#include <Python.h>

struct iowq_key_use;
struct iowq_work;

/* Returns the type KeyTable, a new reference; NULL with an exception set. */
PyObject *iowq_make_key_table_type(void);

/* Counts one more work of this key, and notes that in the work, which isn't queued yet. Returns 0; or
 * -1 with an exception set: that of the key's __eq__, or for want of memory. hash: the key's. */
int iowq_acquire_key(PyObject *table, PyObject *key, Py_hash_t hash, struct iowq_work *work);

/* The work has ended, or will not run: it counts no longer. Does nothing if it doesn't. */
void iowq_release_key(struct iowq_work *work);

/* The reverse of iowq_acquire_key, for a work that isn't queued yet. */
void iowq_give_key_back(struct iowq_work *work);

/* The core has no work of this use any more that it knows by its address. */
void iowq_put_key_use(struct iowq_key_use *use);

/* Returns the use of a key that has unfinished work, to be given back by iowq_put_key_use;
 * NULL: there is none, or with an exception set. */
struct iowq_key_use *iowq_find_key(PyObject *table, PyObject *key, Py_hash_t hash);

/* What a key's use has, read by peek(), without the lock. */
struct iowq_peeked_key {
	const void *key; /* NULL: none, or not known */
	unsigned works;  /* unfinished */
};
struct iowq_peeked_key iowq_peek_key(const void *use,
				     size_t (*peek)(const void *address, void *to, size_t size));

#endif
