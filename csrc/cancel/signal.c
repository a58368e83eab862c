/*
 * The cancel signal.
 *
 * It is sent to one worker, by rt_tgsigqueueinfo with the worker's address as
 * value, while the worker's cancelled work runs. The handler has no SA_RESTART,
 * so the system call that the work is blocked in returns EINTR. A signal that
 * arrives just before the call is entered is lost, so cancel.c repeats it until
 * the work has ended.
 *
 * Much code tries again on EINTR, CPython's own above all (PEP 475). So with
 * data.cancel_error the sender notes, before each signal, which call the worker
 * is blocked in; the handler, if it finds itself in the return of that very
 * call, by call number, arguments, stack and instruction pointer, changes the
 * call's result. After that the work is left in peace for the grace period: its
 * clean-up makes system calls too.
 *
 * At most one signal is on its way to a worker (sent and handled counts), and
 * a worker whose cancelled work has ended waits for that one before it begins
 * the next: no signal reaches a work that it wasn't meant for.
 */
#define _GNU_SOURCE
#include "cancel/cancel.h"
#include "core/futex.h"
#include "core/internal.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The handler reads it. glibc may allocate other models' thread-locals at the
 * first use, which a handler must not; musl allocates before, and has no static
 * space for libraries that are loaded late. */
#ifdef __GLIBC__
__attribute__((tls_model("initial-exec")))
#endif
_Thread_local struct io_worker *io_wq_current_worker;
#ifdef __GLIBC__
__attribute__((tls_model("initial-exec")))
#endif
_Thread_local struct io_worker *io_wq_current_guest;

/* What handled each signal before us: written before our handler is installed. */
static struct sigaction before[_NSIG];
static bool installed[_NSIG];
static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;

static void pass_on(int signal, siginfo_t *info, void *context)
{
	const struct sigaction *action = &before[signal];

	if (action->sa_flags & SA_SIGINFO)
		action->sa_sigaction(signal, info, context);
	else if (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN)
		action->sa_handler(signal);
}

/* What becomes of an interrupted call. */
enum end {
	REFUSED,    /* it sees EINTR: who made it takes no other error well */
	FAILED,     /* it sees an error */
	CUT_OFF,    /* it sees EINTR, and then that its peer is gone */
	CUT_SHORT,  /* it sees EINTR, and takes its time to be up */
};

/* Returns whether it was a connection. */
static bool cut_off(const struct io_blocked_call *call)
{
	return !shutdown(io_blocked_call_descriptor(call), SHUT_RDWR);
}

/* What a call ends with; error: the one that is wanted, 0 for a time-out. */
static enum end end_of(const struct io_worker *worker, enum io_wq_section section, int *error)
{
	const struct io_blocked_call *call = &worker->call;
	int caller;

	if (section == IO_WQ_SECTION_HIDES_ERRORS) {
		if (io_blocked_call_times_out(call))
			*error = 0;
		return FAILED;
	}
	caller = worker->callers_known ? io_caller_of(call) : IO_WQ_CALLER_UNKNOWN;
	if (caller == IO_WQ_CALLER_CUT_OFF && cut_off(call))
		return CUT_OFF;
	if (caller == IO_CALLER_CUT_OFF_OR_TRUSTED)
		cut_off(call);
	if (caller == IO_WQ_CALLER_NAPS && io_blocked_call_is_nap(call))
		return CUT_SHORT;
	return caller == IO_WQ_CALLER_UNKNOWN ? REFUSED : FAILED;
}

static void note_end(struct io_worker *worker, enum end end)
{
	if (end == REFUSED) {
		__atomic_store_n(&worker->call_refused, true, __ATOMIC_RELAXED);
		return;
	}
	__atomic_store_n(&worker->interrupted, true, __ATOMIC_RELAXED);
	if (end == CUT_SHORT)
		__atomic_add_fetch(&worker->naps, 1, __ATOMIC_RELAXED);
	else if (!worker->insisting)
		__atomic_store_n(&worker->interrupted_lately, true, __ATOMIC_RELEASE);
}

/* Ends the call that was to be interrupted. A wait for a lock is never made to fail; one that
 * whoever waits has declared, and that has a time limit anyhow, times out. */
static void end_call(struct io_worker *worker, void *context)
{
	const struct io_blocked_call *call = &worker->call;
	enum io_wq_section section = __atomic_load_n(&worker->section, __ATOMIC_RELAXED);
	int error = worker->pool->wq->data.cancel_error;
	enum end end;

	if (!__atomic_exchange_n(&worker->call_armed, false, __ATOMIC_ACQUIRE) ||
	    __atomic_load_n(&worker->shields, __ATOMIC_RELAXED) ||
	    !io_arch_is_interrupted(context, call))
		return;
	if (io_blocked_call_is_wait(call)) {
		if (section == IO_WQ_SECTION_WAIT && io_blocked_call_times_out(call))
			io_arch_set_error(context, ETIMEDOUT);
		return;
	}
	end = end_of(worker, section, &error);
	if (end == FAILED) {
		worker->section_ended |= section == IO_WQ_SECTION_HIDES_ERRORS;
		io_arch_set_error(context, error);
	}
	note_end(worker, end);
}

/* Whom the signal is for, or NULL: it isn't ours. */
static struct io_worker *receiver(const siginfo_t *info)
{
	struct io_worker *const mine[] = { io_wq_current_guest, io_wq_current_worker };

	for (int i = 0; i < 2; i++)
		if (mine[i] && info->si_code == SI_QUEUE && info->si_value.sival_ptr == mine[i])
			return mine[i];
	return NULL;
}

static void handler(int signal, siginfo_t *info, void *context)
{
	struct io_worker *worker = receiver(info);
	int saved_errno = errno;

	if (worker) {
		end_call(worker, context);
		__atomic_add_fetch(&worker->signals_handled, 1, __ATOMIC_RELEASE);
	} else {
		pass_on(signal, info, context);
	}
	errno = saved_errno;
}

static bool handler_is_ours(int signal)
{
	struct sigaction now;

	return sigaction(signal, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) &&
	       now.sa_sigaction == handler;
}

static int install(int signal)
{
	/* SA_ONSTACK: a library may run works on small stacks of its own */
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	if (installed[signal])
		return handler_is_ours(signal) ? signal : -EBUSY;
	sigemptyset(&action.sa_mask);
	if (sigaction(signal, NULL, &before[signal]) || sigaction(signal, &action, NULL))
		return -errno;
	installed[signal] = true;
	return signal;
}

/* A signal that nobody handles; the highest are debuggers' favourites. */
static int pick_free(void)
{
	struct sigaction now;

	for (int signal = SIGRTMAX - 2; signal >= SIGRTMIN; signal--)
		if (handler_is_ours(signal) ||
		    (!installed[signal] && sigaction(signal, NULL, &now) == 0 &&
		     !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL))
			return signal;
	return -EBUSY;
}

/* A fork must not copy the lock while it is held. */
void io_wq_signal_fork(bool before)
{
	if (before)
		pthread_mutex_lock(&install_lock);
	else
		pthread_mutex_unlock(&install_lock);
}

/* Installs the handler for the wanted signal, or for a free one if 0, once per
 * process and signal; it stays. Returns the signal, or -EINVAL, -EBUSY. */
int io_wq_signal_install(int wanted)
{
	int signal;

	if (wanted < 0 || wanted >= _NSIG || wanted == SIGKILL || wanted == SIGSTOP)
		return -EINVAL;
	pthread_mutex_lock(&install_lock);
	signal = wanted ? wanted : pick_free();
	if (signal > 0)
		signal = install(signal);
	pthread_mutex_unlock(&install_lock);
	return signal;
}

/* The calling thread accepts the signal, whatever mask it inherited. */
void io_wq_signal_unblock(int signal)
{
	io_wq_signal_accept(signal, true);
}

/* Whether the calling thread accepts the signal from now on; returns whether it did. */
bool io_wq_signal_accept(int signal, bool accepts)
{
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, signal);
	pthread_sigmask(accepts ? SIG_UNBLOCK : SIG_BLOCK, &set, &before);
	return !sigismember(&before, signal);
}

bool io_worker_has_signal_on_its_way(const struct io_worker *worker)
{
	return __atomic_load_n(&worker->signals_sent, __ATOMIC_SEQ_CST) !=
	       __atomic_load_n(&worker->signals_handled, __ATOMIC_ACQUIRE);
}

/* ---- sending */

/* Descriptors that one queue keeps open for its workers. */
#define CALL_FDS_MAX 64

static bool is_declared_wait(const struct io_worker *worker, const struct io_blocked_call *call)
{
	return __atomic_load_n(&worker->section, __ATOMIC_RELAXED) == IO_WQ_SECTION_WAIT &&
	       io_blocked_call_is_wait(call) && io_blocked_call_times_out(call);
}

/* Reads which call the worker is blocked in. Its file stays open for the next time, if not
 * too many are. Returns 1, 0: in none, or < 0: nobody can tell. Locked. */
static int read_call(struct io_worker *worker)
{
	struct io_wq *wq = worker->pool->wq;
	int fd = worker->call_fd, blocked;

	if (fd < 0)
		fd = io_blocked_call_open(worker->tid);
	if (fd < 0)
		return fd; /* for want of descriptors, or of /proc */
	blocked = io_blocked_call_read(fd, &worker->call);
	if (worker->call_fd < 0 && wq->call_fds < CALL_FDS_MAX) {
		worker->call_fd = fd;
		wq->call_fds++;
	} else if (worker->call_fd < 0) {
		close(fd);
	}
	return blocked;
}

/* Notes the call that the worker is blocked in, for the handler. Returns whether
 * a signal can do anything. Locked; no signal is on its way. */
static bool arm_call(struct io_worker *worker)
{
	const struct io_blocked_call *call = &worker->call;
	bool refused = __atomic_exchange_n(&worker->call_refused, false, __ATOMIC_RELAXED);
	int seen = read_call(worker);
	bool blocked = seen > 0, interruptible, waits;

	interruptible = blocked && io_blocked_call_is_interruptible(call);
	waits = blocked && is_declared_wait(worker, call);
	worker->callers_known = blocked && io_callers_are_known();
	worker->insisting = worker->pool->wq->data.cancel_insists &&
			    __atomic_load_n(&worker->interrupted, __ATOMIC_RELAXED);
	worker->needs_injection = !waits && (refused || !interruptible || worker->insisting);
	if (interruptible || (blocked && io_blocked_call_is_wait(call)))
		__atomic_store_n(&worker->call_armed, true, __ATOMIC_RELEASE);
	return blocked || seen < 0;
}

/* The thread ends: its file in /proc is of no more use. Locked. */
void io_worker_close_call(struct io_worker *worker)
{
	if (worker->call_fd < 0)
		return;
	close(worker->call_fd);
	worker->pool->wq->call_fds--;
}

/* Signals the worker, if none is on its way. A signal that can't be sent (the
 * limit on queued signals, a handler that was replaced) is left to the next
 * attempt. Locked. */
void io_worker_signal(struct io_worker *worker)
{
	int signal = worker->pool->wq->signal;
	siginfo_t info;

	if (!handler_is_ours(signal)) {
		worker->needs_injection = true;
		return;
	}
	if (io_worker_has_signal_on_its_way(worker))
		return;
	if (worker->pool->wq->data.cancel_error) {
		if (io_worker_is_in_grace(worker) || !arm_call(worker))
			return;
	}
	if (!worker->signalled_at)
		worker->signalled_at = monotonic_ns();
	memset(&info, 0, sizeof(info));
	info.si_signo = signal;
	info.si_code = SI_QUEUE;
	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_value.sival_ptr = worker;
	perturb();
	/* First counted, then read: who puts up a shield does it first, and reads then */
	__atomic_add_fetch(&worker->signals_sent, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&worker->shields, __ATOMIC_SEQ_CST) ||
	    (__atomic_load_n(&worker->wants_notice, __ATOMIC_SEQ_CST) &&
	     !__atomic_load_n(&worker->noticed, __ATOMIC_RELAXED)) ||
	    syscall(SYS_rt_tgsigqueueinfo, getpid(), worker->tid, signal, &info)) {
		__atomic_store_n(&worker->call_armed, false, __ATOMIC_RELAXED);
		__atomic_sub_fetch(&worker->signals_sent, 1, __ATOMIC_RELAXED);
	}
}

static bool signal_is_pending(int signal)
{
	sigset_t set;

	sigpending(&set);
	return sigismember(&set, signal);
}

/* Waits for the signal that may be on its way to this thread. It was sent under
 * the lock, so it is pending here by now, and the kernel delivers it on the way
 * out of a system call, unless the work has blocked it. If it is gone but wasn't
 * counted, somebody has put another handler in ours' place since it was sent. */
void io_worker_settle_signals(struct io_worker *worker)
{
	const struct timespec soon = { .tv_nsec = 1000 };
	struct io_wq *wq = worker->pool->wq;

	while (io_worker_has_signal_on_its_way(worker)) {
		io_wq_signal_unblock(wq->signal);
		nanosleep(&soon, NULL);
		io_wq_lock(wq);
		if (!signal_is_pending(wq->signal))
			__atomic_store_n(&worker->signals_handled, worker->signals_sent,
					 __ATOMIC_RELEASE);
		io_wq_unlock(wq);
	}
}

/* The same for a work, which may have blocked the signal, and finds it so after. */
void io_worker_settle_signals_within_work(struct io_worker *worker)
{
	sigset_t mask;

	if (!io_worker_has_signal_on_its_way(worker))
		return;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	io_worker_settle_signals(worker);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
}
