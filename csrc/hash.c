/*
 * Hashed work: which values have work, and who waits behind whom.
 *
 * A value is in the table while work of it is runnable or running, which is at
 * most one at a time: its holder. Every later work of the value waits in the
 * holder's list and is in no run queue, so that finding the next runnable work
 * never walks past work that can't run, however much of it there is.
 *
 * Nothing is allocated per value: the table links the struct io_wq_value that
 * is embedded in the holder. That is the work itself while it is runnable, its
 * worker while it runs (the work's memory is its owner's the moment func has
 * returned), then the next work in line. Holders replace each other in O(1).
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

enum { MIN_BITS = 4 };

static struct io_wq_value **bucket_of(const struct io_wq_values *values, const void *val)
{
	/* Knuth's multiplicative hash: pointers differ in their middle bits */
	uint64_t hash = (uint64_t)(uintptr_t)val * 0x9E3779B97F4A7C15ull;

	return &values->buckets[hash >> (64 - values->bits)];
}

static void link_value(struct io_wq_values *values, struct io_wq_value *value)
{
	struct io_wq_value **bucket = bucket_of(values, value->val);

	value->next = *bucket;
	value->link = bucket;
	if (value->next)
		value->next->link = &value->next;
	*bucket = value;
}

/* Doubles the table. Without memory it stays as it is: slower, never wrong. */
static void grow(struct io_wq_values *values)
{
	struct io_wq_values bigger = { .bits = values->bits + 1, .count = values->count };

	bigger.buckets = calloc((size_t)1 << bigger.bits, sizeof(*bigger.buckets));
	if (!bigger.buckets)
		return;
	for (size_t i = 0; i < (size_t)1 << values->bits; i++)
		for (struct io_wq_value *value = values->buckets[i], *next; value; value = next) {
			next = value->next;
			link_value(&bigger, value);
		}
	free(values->buckets);
	*values = bigger;
}

int io_wq_values_init(struct io_wq_values *values)
{
	values->bits = MIN_BITS;
	values->count = 0;
	values->buckets = calloc((size_t)1 << MIN_BITS, sizeof(*values->buckets));
	return values->buckets ? 0 : -ENOMEM;
}

void io_wq_values_free(struct io_wq_values *values)
{
	free(values->buckets);
}

/* Returns true if work (its value.val is set) now waits behind work of the same
 * value, false if it holds the value and is runnable. */
bool io_wq_values_join(struct io_wq_values *values, struct io_wq_work *work)
{
	struct io_wq_value *value;

	for (value = *bucket_of(values, work->value.val); value; value = value->next)
		if (value->val == work->value.val) {
			list_add_tail(&work->list, &value->waiting);
			return true;
		}
	if (values->count >= (size_t)1 << values->bits)
		grow(values);
	list_init(&work->value.waiting);
	link_value(values, &work->value);
	values->count++;
	return false;
}

/* The holder's place in the table, and those who wait behind it, go over from
 * old to new. */
void io_wq_values_replace(struct io_wq_value *old, struct io_wq_value *new)
{
	new->val = old->val;
	new->next = old->next;
	new->link = old->link;
	*new->link = new;
	if (new->next)
		new->next->link = &new->next;
	list_init(&new->waiting);
	list_splice_tail(&old->waiting, &new->waiting);
}

/* The holder is done. Returns the next work in line, which holds the value now
 * and is to be made runnable, or NULL if the value has no more work. */
struct io_wq_work *io_wq_values_leave(struct io_wq_values *values, struct io_wq_value *value)
{
	struct io_wq_work *work;

	if (list_empty(&value->waiting)) {
		*value->link = value->next;
		if (value->next)
			value->next->link = value->link;
		values->count--;
		return NULL;
	}
	work = container_of(value->waiting.next, struct io_wq_work, list);
	list_del(&work->list);
	io_wq_values_replace(value, &work->value);
	return work;
}
