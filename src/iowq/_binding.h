/* Works that call Python objects. Between the core, which knows no Python, and
 * the package, which sees these declarations through cffi. Python objects are
 * passed as their addresses, id(object). */

/* The memory belongs to the Work object that `object` is. */
struct iowq_work {
	struct io_wq_work work;
	uintptr_t object;
};

/* The module's functions that threads call; they must live for ever.
 * run(work), drop(work), thread_started(token: int, name: str), thread_ended(). */
void iowq_set_callables(uintptr_t run, uintptr_t drop, uintptr_t thread_started,
			uintptr_t thread_ended);

/* io_wq_create for works that call Python. token: given to thread_started. */
struct io_wq *iowq_create(unsigned concurrency, const char *name, unsigned idle_timeout_ms,
			  int cancel_signal, uintptr_t token);

/* The caller keeps object alive until run or drop is called with it. */
int iowq_enqueue(struct io_wq *wq, struct iowq_work *work, uintptr_t object);
int iowq_enqueue_hashed(struct io_wq *wq, struct iowq_work *work, uintptr_t object, uintptr_t val);

/* io_wq_cancel_work */
enum io_wq_cancel iowq_cancel(struct io_wq *wq, struct iowq_work *work);
