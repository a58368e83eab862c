/*
 * What guards the binding's state.
 *
 * In most builds of CPython that is the interpreter's lock (GIL): whoever is called by it has the lock,
 * until it calls it in its turn. Free-threaded builds (PEP 703) have none, and what is declared here
 * guards the same sections of code: a lock for each work, one for each event loop's mailbox, and one for
 * keys. With a GIL they are nothing, and cost nothing.
 *
 * A section calls no foreign code, and nothing that may wait, but the core, whose lock is the
 * innermost. So no thread stops with a lock held, be it for the collector or for a fork, which both
 * have all threads stop between two sections; and no section nests in another.
 *
 * Where a comment of the binding says "holds the GIL", read "may call the interpreter" there.
 */
#ifndef IOWQ_LOCKS_H
#define IOWQ_LOCKS_H

#include <Python.h>
#include <stdbool.h>

#ifdef Py_GIL_DISABLED

typedef PyMutex iowq_lock_t;
#define iowq_lock(lock) PyMutex_Lock(lock)
#define iowq_unlock(lock) PyMutex_Unlock(lock)

#else

typedef struct {
	char nothing[0];
} iowq_lock_t;
#define iowq_lock(lock) ((void)(lock))
#define iowq_unlock(lock) ((void)(lock))

#endif

/*
 * References that another thread gives back.
 *
 * Without a GIL an object's references are counted twice: those that the thread that made it takes
 * and gives back, at no cost, and those of all others, atomically. If another thread gives back what that
 * one has taken, it has to be told, at several times the cost, and only hears of it when it runs Python
 * code again: an idle worker would keep results alive. Works cross threads by nature. So what
 * crosses with them is counted as what others take.
 */
#ifdef Py_GIL_DISABLED

/* Takes a reference that another thread is going to give back. */
static inline void iowq_incref_for_other(PyObject *object)
{
	_Py_atomic_add_ssize(&object->ob_ref_shared, 1 << _Py_REF_SHARED_SHIFT);
}

/* The caller's reference, if it is the object's only one (NULL: there is no object), is another thread's
 * from now on. */
static inline void iowq_hand_over(PyObject *object)
{
	if (object && _Py_IsOwnedByCurrentThread(object) &&
	    _Py_atomic_load_uint32_relaxed(&object->ob_ref_local) == 1) {
		iowq_incref_for_other(object);
		Py_DECREF(object);
	}
}

#else

#define iowq_incref_for_other(object) Py_INCREF(object)
#define iowq_hand_over(object) ((void)(object))

#endif

/* ---- locks.c */

/* Whether one thread at a time runs Python code. A free-threaded build may have its GIL back, when a
 * module is imported that needs it: asked when a queue is made. */
bool iowq_has_gil(void);
void iowq_look_for_gil(void);

/* Calls step(arg) while no other thread runs Python code. It must not wait, nor run any. */
void iowq_call_alone(void (*step)(void *arg), void *arg);

#endif
