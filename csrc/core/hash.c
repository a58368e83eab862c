/*
 * Hashed work: which keys have work, and who waits behind whom.
 *
 * A key is in the table while work of it is runnable or running, which is at
 * most one at a time: its holder. Every later work of the key waits in the
 * holder's list and is in no run queue, so that finding the next runnable work
 * never walks past work that can't run, however much of it there is.
 *
 * Nothing is allocated per key: the table links the struct io_wq_key that
 * is embedded in the holder. That is the work itself while it is runnable, its
 * worker while it runs (the work's memory is its owner's the moment func has
 * returned), then the next work in line. Holders replace each other in O(1).
 */
#define _GNU_SOURCE
#include "core/internal.h"

#include <errno.h>
#include <stdlib.h>

enum { MIN_BITS = 4 };

static struct io_wq_key **bucket_of(const struct io_wq_keys *keys, const void *id)
{
	/* Knuth's multiplicative hash: pointers differ in their middle bits */
	uint64_t hash = (uint64_t)(uintptr_t)id * 0x9E3779B97F4A7C15ull;

	return &keys->buckets[hash >> (64 - keys->bits)];
}

static void link_key(struct io_wq_keys *keys, struct io_wq_key *key)
{
	struct io_wq_key **bucket = bucket_of(keys, key->id);

	key->next = *bucket;
	key->link = bucket;
	if (key->next)
		key->next->link = &key->next;
	*bucket = key;
}

/* Doubles the table. Without memory it stays as it is: slower, never wrong. */
static void grow(struct io_wq_keys *keys)
{
	struct io_wq_keys bigger = { .bits = keys->bits + 1, .count = keys->count };

	bigger.buckets = calloc((size_t)1 << bigger.bits, sizeof(*bigger.buckets));
	if (!bigger.buckets)
		return;
	for (size_t i = 0; i < (size_t)1 << keys->bits; i++)
		for (struct io_wq_key *key = keys->buckets[i], *next; key; key = next) {
			next = key->next;
			link_key(&bigger, key);
		}
	free(keys->buckets);
	*keys = bigger;
}

int io_wq_keys_init(struct io_wq_keys *keys)
{
	keys->bits = MIN_BITS;
	keys->count = 0;
	keys->buckets = calloc((size_t)1 << MIN_BITS, sizeof(*keys->buckets));
	return keys->buckets ? 0 : -ENOMEM;
}

void io_wq_keys_free(struct io_wq_keys *keys)
{
	free(keys->buckets);
}

/* Returns true if work (its key.id is set) now waits behind work of the same
 * key, false if it holds the key and is runnable. */
bool io_wq_keys_join(struct io_wq_keys *keys, struct io_wq_work *work)
{
	struct io_wq_key *key;

	for (key = *bucket_of(keys, work->key.id); key; key = key->next)
		if (key->id == work->key.id) {
			list_add_tail(&work->list, &key->waiting);
			return true;
		}
	if (keys->count >= (size_t)1 << keys->bits)
		grow(keys);
	list_init(&work->key.waiting);
	link_key(keys, &work->key);
	keys->count++;
	return false;
}

/* The holder's entry in the table, and those who wait behind it, go over from
 * old to new. */
void io_wq_keys_replace(struct io_wq_key *old, struct io_wq_key *new)
{
	new->id = old->id;
	new->next = old->next;
	new->link = old->link;
	*new->link = new;
	if (new->next)
		new->next->link = &new->next;
	list_init(&new->waiting);
	list_splice_tail(&old->waiting, &new->waiting);
}

/* The holder is done. Returns the next work in line, which holds the key now
 * and is to be made runnable, or NULL if the key has no more work. */
struct io_wq_work *io_wq_keys_leave(struct io_wq_keys *keys, struct io_wq_key *key)
{
	struct io_wq_work *work;

	if (list_empty(&key->waiting)) {
		*key->link = key->next;
		if (key->next)
			key->next->link = key->link;
		keys->count--;
		return NULL;
	}
	work = container_of(key->waiting.next, struct io_wq_work, list);
	list_del(&work->list);
	io_wq_keys_replace(key, &work->key);
	return work;
}
