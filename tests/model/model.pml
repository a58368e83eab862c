/*
 * How workers wake each other, for the model checker SPIN: the queue as in csrc, and a
 * program that uses it. tests/model/test_model_checker.py says with which sizes, and what
 * must be found when a step is left out (BREAK_...).
 *
 * Every run ends with the queue's end. So whoever sleeps for ever, be it a worker,
 * somebody who was refused, or somebody who waits for the threads, is an invalid end
 * state. That takes no fairness, but that of the scheduler, and that a tick is longer
 * than what the others need to go on.
 *
 * One queue with one pool: pools share the lock, admission and the end, and what one
 * without workers gives away. No keys, no flushes, no signals.
 */
#ifndef SLOTS
#define SLOTS 3 /* memory for workers, kept for new ones */
#endif
#ifndef LIMIT
#define LIMIT SLOTS
#endif
#ifndef WORKS
#define WORKS 3
#endif
#ifndef BLOCKERS
#define BLOCKERS 0
#endif
#ifndef PRODUCERS
#define PRODUCERS 1
#endif
#ifndef MAX_PENDING
#define MAX_PENDING WORKS
#endif
#ifndef FAILURES
#define FAILURES 0
#endif

#define NONE 255

#include "futex.pml"
#include "queue.pml"
#include "works.pml"
#include "worker.pml"
#include "program.pml"
