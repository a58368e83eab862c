/* Intrusive doubly linked lists, after Linux' <linux/list.h>: a head is a node
 * of a ring, and an empty list points at itself. */
#ifndef IO_WQ_LIST_H
#define IO_WQ_LIST_H

#include "io_wq.h"

#include <stdbool.h>

#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static inline void list_init(struct io_wq_list *list)
{
	list->next = list->prev = list;
}

static inline bool list_empty(const struct io_wq_list *list)
{
	return list->next == list;
}

static inline void list_insert(struct io_wq_list *node, struct io_wq_list *prev,
			       struct io_wq_list *next)
{
	node->prev = prev;
	node->next = next;
	prev->next = next->prev = node;
}

static inline void list_add(struct io_wq_list *node, struct io_wq_list *list)
{
	list_insert(node, list, list->next);
}

static inline void list_add_tail(struct io_wq_list *node, struct io_wq_list *list)
{
	list_insert(node, list->prev, list);
}

static inline void list_del(struct io_wq_list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

/* Moves all of from behind all of to; from is empty then. */
static inline void list_splice_tail(struct io_wq_list *from, struct io_wq_list *to)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_for_each(node, list) \
	for (struct io_wq_list *node = (list)->next; node != (list); node = node->next)

/* The same, where the body may take node off the list. */
#define list_for_each_safe(node, list) \
	for (struct io_wq_list *node = (list)->next, *node##_next = node->next; node != (list); \
	     node = node##_next, node##_next = node->next)

#endif
