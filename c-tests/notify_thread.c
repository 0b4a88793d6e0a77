/*
 * Completions told by callbacks (SIGEV_THREAD): each exactly once, after the status, in a thread as it was asked for.
 *
 * Seen to fail: callbacks that block or call pthread_exit on a library that runs them in its completion thread; the mask, and
 * the attributes, on one that leaves the mask as it is.
 */
#include "check.h"

#include <semaphore.h>
#include <sys/resource.h>
#include <sys/wait.h>

static volatile int callbacks;

static void count_callback(void)
{
    __atomic_fetch_add(&callbacks, 1, __ATOMIC_SEQ_CST);
}

static void with_callback(struct aiocb *cb, void (*function)(union sigval), void *value)
{
    memset(&cb->aio_sigevent, 0, sizeof cb->aio_sigevent);
    cb->aio_sigevent.sigev_notify = SIGEV_THREAD;
    cb->aio_sigevent.sigev_notify_function = function;
    cb->aio_sigevent.sigev_value.sival_ptr = value;
}

static void free_all(union sigval value)
{
    struct aiocb *cb = value.sival_ptr;

    CHECK(aio_error(cb) != EINPROGRESS);
    free((void *)cb->aio_buf);
    memset(cb, 0xDD, sizeof *cb);
    free(cb);
    count_callback();
}

CASE(the_callback_may_free_the_aiocb)
{
    enum { MANY = 400 };
    int files[] = { temporary_file(0), temporary_file(O_DIRECT), -1 };

    for (int i = 0; i < MANY; i++) {
        struct aiocb *cb = malloc(sizeof *cb);

        prepare(cb, files[i % 3], aligned(4096), 4096, 0);
        with_callback(cb, free_all, cb);
        CHECK_EQ(i % 2 == 0 ? aio_write(cb) : aio_read(cb), 0);
        if (i % 16 == 15)
            WAIT_UNTIL(callbacks == i + 1);
    }
    WAIT_UNTIL(callbacks == MANY);
    nap(20);
    CHECK_EQ(callbacks, MANY);
}

static sigset_t callback_mask;
static int callback_detached;
static size_t callback_stack;
static pthread_t callback_thread;

static void look_around(union sigval value)
{
    pthread_attr_t attributes;

    CHECK(value.sival_ptr == &callback_mask);
    callback_thread = pthread_self();
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &callback_mask), 0);
    CHECK_EQ(pthread_getattr_np(pthread_self(), &attributes), 0);
    CHECK_EQ(pthread_attr_getdetachstate(&attributes, &callback_detached), 0);
    CHECK_EQ(pthread_attr_getstacksize(&attributes, &callback_stack), 0);
    pthread_attr_destroy(&attributes);
    count_callback();
}

static void call_back(int fd, pthread_attr_t *attributes)
{
    int before = callbacks;
    struct aiocb cb;

    sigfillset(&callback_mask);
    prepare(&cb, fd, "t", 1, 0);
    with_callback(&cb, look_around, &callback_mask);
    cb.aio_sigevent.sigev_notify_attributes = attributes;
    CHECK_EQ(aio_write(&cb), 0);
    WAIT_UNTIL(callbacks == before + 1);
    CHECK_EQ(aio_error(&cb), 0);
}

static void expect_empty_mask(void)
{
    for (int signo = 1; signo <= SIGRTMAX; signo++)
        if (sigismember(&callback_mask, signo) == 1)
            FAIL("signal %d is blocked in the callback", signo);
}

CASE(the_callback_runs_in_a_detached_thread_with_an_empty_mask)
{
    int fd = temporary_file(0);

    call_back(fd, NULL);
    CHECK(!pthread_equal(callback_thread, pthread_self()));
    CHECK_EQ(callback_detached, PTHREAD_CREATE_DETACHED);
    expect_empty_mask();
    /* Whatever the submitting thread has blocked. */
    block_signal(SIGUSR1);
    block_signal(SIGRTMIN);
    call_back(fd, NULL);
    expect_empty_mask();
}

CASE(the_callback_has_the_given_attributes)
{
    int fd = temporary_file(0);
    pthread_attr_t attributes;

    CHECK_EQ(pthread_attr_init(&attributes), 0);
    CHECK_EQ(pthread_attr_setstacksize(&attributes, 3 << 20), 0);
    call_back(fd, &attributes);
    CHECK_EQ(callback_detached, PTHREAD_CREATE_JOINABLE);
    CHECK_EQ(callback_stack, 3 << 20);
    expect_empty_mask();
    CHECK_EQ(pthread_join(callback_thread, NULL), 0);
    CHECK_EQ(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED), 0);
    CHECK_EQ(pthread_attr_setstacksize(&attributes, 5 << 20), 0);
    call_back(fd, &attributes);
    CHECK_EQ(callback_detached, PTHREAD_CREATE_DETACHED);
    CHECK_EQ(callback_stack, 5 << 20);
}

static void leave(union sigval value)
{
    (void)value;
    count_callback();
    pthread_exit(NULL);
}

CASE(the_callback_may_call_pthread_exit)
{
    enum { MANY = 50 };
    static struct aiocb requests[MANY];
    int fd = temporary_file(0);

    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], fd, "e", 1, i);
        with_callback(&requests[i], leave, NULL);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    WAIT_UNTIL(callbacks == MANY);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&requests[i]), 1);
    CHECK_EQ(write_now(fd, "after", 5, 0), 5);
}

static sem_t callback_may_go;

static void stay(union sigval value)
{
    (void)value;
    count_callback();
    while (sem_wait(&callback_may_go) == -1)
        continue;
    count_callback();
}

static void come_and_go(union sigval value)
{
    (void)value;
    count_callback();
}

CASE(a_callback_that_blocks_holds_back_nobody)
{
    enum { BLOCKED = 40, OTHERS = 40 };
    static struct aiocb requests[BLOCKED + OTHERS];
    int files[] = { temporary_file(0), temporary_file(O_DIRECT) };
    unsigned char *block = aligned(4096);

    sem_init(&callback_may_go, 0, 0);
    for (int i = 0; i < BLOCKED; i++) {
        prepare(&requests[i], files[i % 2], block, 4096, 0);
        with_callback(&requests[i], stay, NULL);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    WAIT_UNTIL(callbacks == BLOCKED);
    for (int i = BLOCKED; i < BLOCKED + OTHERS; i++) {
        prepare(&requests[i], files[i % 2], block, 4096, 0);
        with_callback(&requests[i], come_and_go, NULL);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    WAIT_UNTIL(callbacks == BLOCKED + OTHERS);
    CHECK_EQ(write_now(files[0], "still", 5, 0), 5);
    for (int i = 0; i < BLOCKED; i++)
        sem_post(&callback_may_go);
    WAIT_UNTIL(callbacks == 2 * BLOCKED + OTHERS);
}

/* A server's style: each callback submits the next request. */
static int chain_fd;

static void submit_next(union sigval value)
{
    struct aiocb *cb = value.sival_ptr;

    CHECK_EQ(aio_error(cb), 0);
    CHECK_EQ(aio_return(cb), 1);
    if (cb->aio_offset < 100) {
        prepare(cb, chain_fd, "c", 1, cb->aio_offset + 1);
        with_callback(cb, submit_next, cb);
        CHECK_EQ(aio_write(cb), 0);
    }
    count_callback();
}

CASE(the_callback_may_submit)
{
    struct aiocb cb;

    chain_fd = temporary_file(0);
    prepare(&cb, chain_fd, "c", 1, 1);
    with_callback(&cb, submit_next, &cb);
    CHECK_EQ(aio_write(&cb), 0);
    WAIT_UNTIL(callbacks == 100);
}

DEFECT(a_thread_limit_delays_the_callback, "libc's forgets the callback")
{
    enum { MANY = 10 };
    static struct aiocb requests[MANY];
    int fd = temporary_file(0);
    struct rlimit limit, none;

    if (geteuid() != 0)
        SKIP("only root can become the user whose threads are limited");
    CHECK_EQ(write_now(fd, "warm", 4, 0), 4);
    CHECK_EQ(setresgid(64321, 64321, 64321), 0);
    CHECK_EQ(setresuid(64321, 64321, 64321), 0);
    CHECK_EQ(getrlimit(RLIMIT_NPROC, &limit), 0);
    none = limit;
    none.rlim_cur = 1;
    CHECK_EQ(setrlimit(RLIMIT_NPROC, &none), 0);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], fd, "l", 1, i);
        with_callback(&requests[i], come_and_go, NULL);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&requests[i]), 1);
    nap(50);
    CHECK_EQ(setrlimit(RLIMIT_NPROC, &limit), 0);
    WAIT_UNTIL(callbacks == MANY);
}

static void take_no_notice(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
}

static void with_signal(struct aiocb *cb, int signo)
{
    cb->aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    cb->aio_sigevent.sigev_signo = signo;
}

/*
 * The threads of the program take no signals for now: whoever asked for a callback shall not wait for that. (A callback
 * itself takes them: its mask is empty.)
 */
CASE(a_full_signal_queue_holds_back_no_callback)
{
    enum { MANY = 100 };
    static struct aiocb requests[MANY];
    struct rlimit limit;
    int fd = temporary_file(0);

    on_signal(SIGRTMIN, take_no_notice, 0);
    block_signal(SIGRTMIN);
    CHECK_EQ(getrlimit(RLIMIT_SIGPENDING, &limit), 0);
    limit.rlim_cur = 10;
    CHECK_EQ(setrlimit(RLIMIT_SIGPENDING, &limit), 0);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], fd, "f", 1, i);
        if (i < MANY / 2)
            with_signal(&requests[i], SIGRTMIN);
        else
            with_callback(&requests[i], come_and_go, NULL);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    WAIT_UNTIL(callbacks == MANY - MANY / 2);
}

/* ---- What one callback leaves to the next --------------------------------------------------------- */

/* Runs a callback, and waits until it has returned to where a next one may begin in its thread. */
static void run_callback(int fd, void (*function)(union sigval), void *value)
{
    int before = callbacks;
    struct aiocb cb;

    prepare(&cb, fd, "c", 1, 0);
    with_callback(&cb, function, value);
    CHECK_EQ(aio_write(&cb), 0);
    WAIT_UNTIL(callbacks > before);
    nap(5);
}

/* Rounding of floating-point arithmetic, in MXCSR. */
enum { ROUND_UP = 0x4000 };

static void set_a_stack(union sigval value)
{
    stack_t stack = { .ss_sp = value.sival_ptr, .ss_size = 64 << 10 };

    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    count_callback();
}

static void make_a_mess(union sigval value)
{
    (void)value;
    CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL), 0);
    CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL), 0);
#ifdef __x86_64__
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | ROUND_UP);
#endif
    count_callback();
}

static void look_for_a_mess(union sigval value)
{
    stack_t stack;
    int before;

    (void)value;
    CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before), 0);
    CHECK_EQ(before, PTHREAD_CANCEL_ENABLE);
    CHECK_EQ(pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &before), 0);
    CHECK_EQ(before, PTHREAD_CANCEL_DEFERRED);
    CHECK_EQ(sigaltstack(NULL, &stack), 0);
    CHECK_EQ(stack.ss_flags, SS_DISABLE);
#ifdef __x86_64__
    CHECK_EQ(__builtin_ia32_stmxcsr() & ROUND_UP, 0);
#endif
    count_callback();
}

/* Seen to fail: each of them, when a thread is used again as it is. */
CASE(a_callback_begins_as_in_a_new_thread)
{
    int fd = temporary_file(0);
    char *stack = malloc(64 << 10);

    run_callback(fd, make_a_mess, NULL);
    run_callback(fd, look_for_a_mess, NULL);
    run_callback(fd, set_a_stack, stack);
    run_callback(fd, look_for_a_mess, NULL);
}

static volatile pthread_t to_be_cancelled;

static void wait_to_be_cancelled(union sigval value)
{
    to_be_cancelled = pthread_self();
    while (*(volatile int *)value.sival_ptr == 0)
        continue;
    count_callback();
}

static void sleep_and_count(union sigval value)
{
    (void)value;
    nap(1);
    count_callback();
}

/* Seen to fail, by waiting for the second callback, in the same way. */
CASE(a_cancellation_in_vain_is_not_the_next_callbacks)
{
    int fd = temporary_file(0);
    volatile int is_cancelled = 0;
    struct aiocb cb;

    prepare(&cb, fd, "c", 1, 0);
    with_callback(&cb, wait_to_be_cancelled, (void *)&is_cancelled);
    CHECK_EQ(aio_write(&cb), 0);
    WAIT_UNTIL(to_be_cancelled != 0);
    pthread_cancel(to_be_cancelled);
    is_cancelled = 1;
    WAIT_UNTIL(callbacks == 1);
    nap(5);
    run_callback(fd, sleep_and_count, NULL);
}

static volatile pid_t forked;

static void fork_and_return(union sigval value)
{
    pid_t child = fork();

    (void)value;
    CHECK(child >= 0);
    if (child != 0) {
        forked = child;
        count_callback();
    }
}

/*
 * The child of a callback returns from it: its only thread ends, and with it the child. Seen to fail, by a second's delay,
 * when it waits for another callback.
 */
CASE(a_child_of_a_callback_ends_with_it)
{
    int fd = temporary_file(0);

    for (int round = 0; round < 3; round++) {
        int ended = 0;

        run_callback(fd, fork_and_return, NULL);
        /* Long before the second for which a thread without work stays. */
        for (int i = 0; i < 80 && !ended; i++) {
            ended = waitpid(forked, NULL, WNOHANG) == forked;
            nap(10);
        }
        if (!ended) {
            kill(forked, SIGKILL);
            FAIL("the child waits for something");
        }
    }
}
