/*
 * aio_suspend: what ends the wait, what does not, and that no wake-up is lost.
 *
 * Seen to fail: the waits of many threads for different requests, and for one of a thousand, on a library that wakes nobody at a
 * completion; those that a handler interrupts on one that never says EINTR; the one that a handler with SA_RESTART resumes on
 * one that always does; time-outs on one that does not look whether they have passed.
 */
#include "check.h"

/* <aio.h> promises the compiler that no list is NULL; old callers pass one with a count of zero. */
static const struct aiocb *const *volatile no_list;

/* A request that is in progress until let_go. */
struct pending {
    struct aiocb cb;
    int ends[2];
    char byte;
};

static void start(struct pending *pending)
{
    pending_read(&pending->cb, pending->ends, &pending->byte, 1);
    CHECK_EQ(aio_read(&pending->cb), 0);
}

static void let_go(struct pending *pending)
{
    CHECK_EQ(write(pending->ends[1], "g", 1), 1);
}

static void *let_go_later(void *argument)
{
    nap(50);
    let_go(argument);
    return NULL;
}

static int suspend_one(const struct aiocb *cb, const struct timespec *limit)
{
    const struct aiocb *list[1] = { cb };

    return aio_suspend(list, 1, limit);
}

CASE(a_completed_request_ends_the_wait_at_once)
{
    struct timespec zero = { 0, 0 };
    int fd = temporary_file(0);
    struct pending other;
    struct aiocb cb;

    start(&other);
    prepare(&cb, fd, "done", 4, 0);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 4);
    const struct aiocb *list[3] = { &other.cb, &cb, &other.cb };
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(suspend_one(&cb, NULL), 0);
        CHECK_EQ(suspend_one(&cb, &zero), 0);
        CHECK_EQ(aio_suspend(list, 3, NULL), 0);
        CHECK_EQ(aio_suspend(list, 3, &zero), 0);
    }
    CHECK_EQ(aio_error(&other.cb), EINPROGRESS);
}

CASE(a_failed_request_ends_the_wait_too)
{
    struct aiocb cb;

    prepare(&cb, -1, &cb, 1, 0);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(suspend_one(&cb, NULL), 0);
    CHECK_EQ(aio_error(&cb), EBADF);
}

CASE(NULL_entries_are_ignored)
{
    struct timespec short_time = { 0, 30 * 1000 * 1000 };
    struct pending pending;
    const struct aiocb *list[5] = { NULL, NULL, &pending.cb, NULL, NULL };

    start(&pending);
    CHECK_FAILS(aio_suspend(list, 5, &short_time), EAGAIN);
    pthread_t thread = start_thread(let_go_later, &pending);
    CHECK_EQ(aio_suspend(list, 5, NULL), 0);
    CHECK_EQ(aio_error(&pending.cb), 0);
    join_thread(thread);
}

CASE(nothing_to_wait_for_ends_at_once)
{
    struct timespec second = { 1, 0 };
    const struct aiocb *list[3] = { NULL, NULL, NULL };

    CHECK_EQ(aio_suspend(list, 3, NULL), 0);
    CHECK_EQ(aio_suspend(list, 3, &second), 0);
    CHECK_EQ(aio_suspend(list, 0, NULL), 0);
    CHECK_EQ(aio_suspend(no_list, 0, NULL), 0);
    CHECK_EQ(aio_suspend(no_list, 0, &second), 0);
}

CASE(a_time_out_gives_EAGAIN_and_not_too_soon)
{
    struct timespec zero = { 0, 0 }, limit = { 0, 120 * 1000 * 1000 };
    struct pending pending;

    start(&pending);
    CHECK_FAILS(suspend_one(&pending.cb, &zero), EAGAIN);
    double before = now();
    CHECK_FAILS(suspend_one(&pending.cb, &limit), EAGAIN);
    CHECK(now() - before >= 0.119);
    let_go(&pending);
    CHECK_EQ(finish(&pending.cb), 1);
}

static void completion_ends_the_wait(const struct timespec *limit)
{
    struct pending pending;

    start(&pending);
    pthread_t thread = start_thread(let_go_later, &pending);
    CHECK_EQ(suspend_one(&pending.cb, limit), 0);
    CHECK_EQ(aio_error(&pending.cb), 0);
    join_thread(thread);
}

CASE(a_completion_ends_a_wait_with_time_out)
{
    struct timespec minute = { 60, 999999999 };

    completion_ends_the_wait(&minute);
}

DEFECT(a_time_out_beyond_all_clocks_waits, "libc's sum of it and the present overflows")
{
    struct timespec forever = { INT64_MAX, 999999999 };

    completion_ends_the_wait(&forever);
}

DEFECT(bad_nanoseconds_give_EINVAL, "libc aborts the program, or takes them for a time")
{
    static const long nanoseconds[] = { LONG_MAX, 1000000000, -1, LONG_MIN };
    struct pending pending;

    start(&pending);
    for (int i = 0; i < 4; i++) {
        struct timespec limit = { 1, nanoseconds[i] };

        CHECK_FAILS(suspend_one(&pending.cb, &limit), EINVAL);
    }
    let_go(&pending);
    CHECK_EQ(finish(&pending.cb), 1);
}

DIFFERS(negative_seconds_give_EINVAL, "libc takes them for a time that has passed")
{
    struct timespec limits[] = { { -1, 0 }, { INT64_MIN, 0 }, { -1, 999999999 } };
    struct pending pending;

    start(&pending);
    for (int i = 0; i < 3; i++)
        CHECK_FAILS(suspend_one(&pending.cb, &limits[i]), EINVAL);
    let_go(&pending);
    CHECK_EQ(finish(&pending.cb), 1);
}

CASE(a_negative_count_gives_EINVAL)
{
    struct aiocb cb;
    const struct aiocb *list[1] = { &cb };

    memset(&cb, 0, sizeof cb);
    CHECK_FAILS(aio_suspend(list, -1, NULL), EINVAL);
    CHECK_FAILS(aio_suspend(list, INT_MIN, NULL), EINVAL);
    CHECK_FAILS(aio_suspend(no_list, -1, NULL), EINVAL);
}

/* ---- Signals ---- */

static volatile sig_atomic_t handled;
static volatile int returned;

static void on_interrupt(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    handled++;
}

/* Sends signals to the waiting thread until it returns, as the first may come before the wait. */
static void *interrupt(void *thread)
{
    while (!returned) {
        nap(10);
        pthread_kill(*(pthread_t *)thread, SIGUSR1);
    }
    return NULL;
}

static void interrupted_wait(int flags, const struct timespec *limit)
{
    pthread_t self = pthread_self();
    struct pending pending;

    start(&pending);
    on_signal(SIGUSR1, on_interrupt, flags);
    pthread_t thread = start_thread(interrupt, &self);
    CHECK_FAILS(suspend_one(&pending.cb, limit), EINTR);
    CHECK(handled > 0);
    returned = 1;
    join_thread(thread);
    CHECK_EQ(aio_error(&pending.cb), EINPROGRESS);
    let_go(&pending);
    CHECK_EQ(finish(&pending.cb), 1);
}

CASE(a_handler_interrupts_the_wait)
{
    interrupted_wait(0, NULL);
}

CASE(a_handler_interrupts_a_wait_with_time_out)
{
    struct timespec minute = { 60, 0 };

    interrupted_wait(0, &minute);
}

CASE(a_handler_with_SA_RESTART_interrupts_a_wait_with_time_out)
{
    struct timespec minute = { 60, 0 };

    interrupted_wait(SA_RESTART, &minute);
}

struct restarted {
    struct pending pending;
    pthread_t waiter;
};

/* Signals come in the whole time; data comes after ten of them. */
static void *interrupt_ten_times(void *argument)
{
    struct restarted *shared = argument;

    while (handled < 10) {
        pthread_kill(shared->waiter, SIGUSR1);
        nap(5);
    }
    let_go(&shared->pending);
    return NULL;
}

CASE(a_handler_with_SA_RESTART_resumes_a_wait_without_time_out)
{
    struct restarted shared;

    shared.waiter = pthread_self();
    start(&shared.pending);
    on_signal(SIGUSR1, on_interrupt, SA_RESTART);
    pthread_t thread = start_thread(interrupt_ten_times, &shared);
    CHECK_EQ(suspend_one(&shared.pending.cb, NULL), 0);
    CHECK(handled >= 10);
    CHECK_EQ(aio_error(&shared.pending.cb), 0);
    join_thread(thread);
}

CASE(an_ignored_signal_does_not_interrupt)
{
    struct timespec limit = { 0, 200 * 1000 * 1000 };
    pthread_t self = pthread_self();
    struct pending pending;

    signal(SIGUSR1, SIG_IGN);
    start(&pending);
    pthread_t thread = start_thread(interrupt, &self);
    CHECK_FAILS(suspend_one(&pending.cb, &limit), EAGAIN);
    returned = 1;
    join_thread(thread);
}

CASE(a_blocked_signal_does_not_interrupt)
{
    struct timespec limit = { 0, 200 * 1000 * 1000 };
    struct pending pending;

    on_signal(SIGUSR1, on_interrupt, 0);
    block_signal(SIGUSR1);
    start(&pending);
    raise(SIGUSR1);
    CHECK_FAILS(suspend_one(&pending.cb, &limit), EAGAIN);
    CHECK_EQ(handled, 0);
    sigset_t mask;
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &mask), 0);
    CHECK_EQ(sigismember(&mask, SIGUSR1), 1);
    CHECK_EQ(sigismember(&mask, SIGUSR2), 0);
}

/* ---- Many waiters ---- */

#define WAITERS 16

static void *wait_for(void *cb)
{
    while (aio_error(cb) == EINPROGRESS)
        CHECK_EQ(suspend_one(cb, NULL), 0);
    CHECK_EQ(aio_error(cb), 0);
    CHECK_EQ(aio_return(cb), 1);
    return NULL;
}

CASE(many_threads_wait_for_the_same_request)
{
    struct pending pending;
    pthread_t threads[WAITERS];

    for (int round = 0; round < 20; round++) {
        start(&pending);
        for (int i = 0; i < WAITERS; i++)
            threads[i] = start_thread(wait_for, &pending.cb);
        if (round % 2 == 0)
            nap(10);
        let_go(&pending);
        for (int i = 0; i < WAITERS; i++)
            join_thread(threads[i]);
        close(pending.ends[0]);
        close(pending.ends[1]);
    }
}

CASE(many_threads_wait_for_different_requests)
{
    static struct pending pendings[WAITERS];
    pthread_t threads[WAITERS];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < WAITERS; i++) {
            start(&pendings[i]);
            threads[i] = start_thread(wait_for, &pendings[i].cb);
        }
        if (round % 2 == 0)
            nap(10);
        /* The waiters end one by one, and not in the order in which they came. */
        for (int i = 0; i < WAITERS; i++) {
            int which = (i * 7 + round) % WAITERS;

            let_go(&pendings[which]);
            if (round % 4 < 2)
                join_thread(threads[which]);
        }
        for (int i = 0; i < WAITERS; i++) {
            if (round % 4 >= 2)
                join_thread(threads[i]);
            close(pendings[i].ends[0]);
            close(pendings[i].ends[1]);
        }
    }
}

/* A waiter that goes because of its time-out or its own request leaves the others waiting, not stranded. */
static void *give_up_soon(void *cb)
{
    struct timespec limit = { 0, 10 * 1000 * 1000 };

    CHECK_FAILS(suspend_one(cb, &limit), EAGAIN);
    return NULL;
}

CASE(waiters_that_time_out_strand_nobody)
{
    struct pending pending;

    for (int round = 0; round < 20; round++) {
        pthread_t impatient[4], patient[4];

        start(&pending);
        for (int i = 0; i < 4; i++) {
            impatient[i] = start_thread(give_up_soon, &pending.cb);
            patient[i] = start_thread(wait_for, &pending.cb);
        }
        for (int i = 0; i < 4; i++)
            join_thread(impatient[i]);
        let_go(&pending);
        for (int i = 0; i < 4; i++)
            join_thread(patient[i]);
        close(pending.ends[0]);
        close(pending.ends[1]);
    }
}

CASE(one_of_a_thousand_ends_the_wait)
{
    enum { MANY = 1000 };
    static char bytes[MANY];
    static struct aiocb requests[MANY];
    static const struct aiocb *list[MANY];
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], ends[0], &bytes[i], 1, 0);
        CHECK_EQ(aio_read(&requests[i]), 0);
        list[i] = &requests[i];
    }
    /* Served in the order of the calls, wherever they stand in the list. */
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(write(ends[1], "x", 1), 1);
        CHECK_EQ(aio_suspend(list, MANY, NULL), 0);
        CHECK_EQ(await(&requests[i]), 0);
        list[i] = NULL;
    }
    CHECK_EQ(aio_suspend(list, MANY, NULL), 0);
}

CASE(the_same_request_twice_in_one_list)
{
    struct pending pending;
    const struct aiocb *list[3] = { &pending.cb, &pending.cb, &pending.cb };

    start(&pending);
    pthread_t thread = start_thread(let_go_later, &pending);
    CHECK_EQ(aio_suspend(list, 3, NULL), 0);
    CHECK_EQ(aio_error(&pending.cb), 0);
    join_thread(thread);
}

/* ---- Submitting threads ---- */

static void *submit_and_end(void *argument)
{
    start(argument);
    return NULL;
}

CASE(a_request_outlives_the_thread_that_submitted_it)
{
    struct pending pending;

    join_thread(start_thread(submit_and_end, &pending));
    CHECK_EQ(aio_error(&pending.cb), EINPROGRESS);
    pthread_t thread = start_thread(let_go_later, &pending);
    CHECK_EQ(suspend_one(&pending.cb, NULL), 0);
    CHECK_EQ(aio_return(&pending.cb), 1);
    join_thread(thread);
}

#define SUBMITTERS 8
#define REQUESTS_EACH 500

/* Each thread has a file of its own, keeps eight requests in flight, and waits for its own only. */
static void *busy(void *argument)
{
    enum { DEPTH = 8, SIZE = 512 };
    int fd = *(int *)argument;
    static __thread unsigned char memory[DEPTH][SIZE];
    struct aiocb requests[DEPTH];
    const struct aiocb *list[DEPTH];

    for (int round = 0; round < REQUESTS_EACH / DEPTH; round++) {
        int left = DEPTH;

        for (int i = 0; i < DEPTH; i++) {
            pattern(memory[i], SIZE, (unsigned)(round * DEPTH + i));
            prepare(&requests[i], fd, memory[i], SIZE, (round * DEPTH + i) * SIZE);
            CHECK_EQ(aio_write(&requests[i]), 0);
            list[i] = &requests[i];
        }
        while (left > 0) {
            CHECK_EQ(aio_suspend(list, DEPTH, NULL), 0);
            for (int i = 0; i < DEPTH; i++) {
                if (list[i] != NULL && aio_error(list[i]) != EINPROGRESS) {
                    CHECK_EQ(aio_return(&requests[i]), SIZE);
                    list[i] = NULL;
                    left--;
                }
            }
        }
    }
    return NULL;
}

CASE(many_threads_submit_and_wait_at_once)
{
    static int descriptors[SUBMITTERS];
    pthread_t threads[SUBMITTERS];

    for (int i = 0; i < SUBMITTERS; i++) {
        descriptors[i] = temporary_file(0);
        threads[i] = start_thread(busy, &descriptors[i]);
    }
    for (int i = 0; i < SUBMITTERS; i++)
        join_thread(threads[i]);
}
