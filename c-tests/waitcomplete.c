/*
 * aio_waitcomplete: whatever completes next, each request to one caller.
 */
#include "extensions.h"

enum { COUNT = 300 };
static struct aiocb requests[COUNT];
static unsigned char bytes[COUNT];
static struct timespec at_once = { 0, 0 };

static struct aiocb *next(ssize_t expected)
{
    struct timespec limit = { (time_t)DEADLINE_SECONDS, 0 };
    struct aiocb *done = NULL;

    ssize_t result = aio_waitcomplete(&done, &limit);
    if (result != expected)
        FAIL("aio_waitcomplete gives %zd, errno %d, for request %td", result, errno, done == NULL ? -1 : done - requests);
    return done;
}

static void nothing_more(void)
{
    struct aiocb *done = requests;

    CHECK_FAILS(aio_waitcomplete(&done, &at_once), EAGAIN);
    CHECK(done == NULL);
}

/* Fails when records are kept only from the first call on: these were complete before. */
EXTENSION(what_was_complete_before_is_served_in_order)
{
    int fd = temporary_file(0);

    for (int i = 0; i < COUNT; i++) {
        prepare(&requests[i], fd, &bytes[i], 1, i);
        CHECK_EQ(aio_write(&requests[i]), 0);
        CHECK_EQ(await(&requests[i]), 0);
    }
    for (int i = 0; i < COUNT; i++)
        CHECK(next(1) == &requests[i]);
    nothing_more();
    /* As often as asked, afterwards too. */
    CHECK_EQ(aio_return(&requests[7]), 1);
    nothing_more();
}

/* Fails when aio_return does not forget the record. */
EXTENSION(what_aio_return_gave_is_not_served)
{
    int fd = temporary_file(0);

    for (int i = 0; i < 10; i++) {
        prepare(&requests[i], fd, &bytes[i], 1, i);
        CHECK_EQ(aio_write(&requests[i]), 0);
        CHECK_EQ(await(&requests[i]), 0);
    }
    for (int i = 0; i < 10; i += 2)
        CHECK_EQ(aio_return(&requests[i]), 1);
    for (int i = 1; i < 10; i += 2)
        CHECK(next(1) == &requests[i]);
    nothing_more();
    /* Submitted again without having been returned: one request, served once. */
    for (int round = 0; round < 3; round++) {
        prepare(&requests[0], fd, &bytes[0], 1, 0);
        if (round > 0)
            memcpy((char *)&requests[0] + 96, (char *)&requests[1] + 96, 16);
        requests[1] = requests[0];
        CHECK_EQ(aio_write(&requests[0]), 0);
        CHECK_EQ(await(&requests[0]), 0);
        memcpy((char *)&requests[1] + 96, (char *)&requests[0] + 96, 16);
    }
    CHECK(next(1) == &requests[0]);
    nothing_more();
}

EXTENSION(errors_of_the_call)
{
    struct timespec bad = { 0, 1000000000 }, soon = { 0, 20000000 };
    struct aiocb *done = requests;
    double start = now();
    int ends[2];

    CHECK_FAILS(aio_waitcomplete(&done, NULL), EAGAIN);
    CHECK(done == NULL);
    CHECK_FAILS(aio_waitcomplete(NULL, &at_once), EFAULT);
    CHECK_FAILS(aio_waitcomplete(&done, &bad), EINVAL);
    pending_read(&requests[0], ends, bytes, 1);
    CHECK_EQ(aio_read(&requests[0]), 0);
    nothing_more();
    done = requests;
    CHECK_FAILS(aio_waitcomplete(&done, &soon), EAGAIN);
    CHECK(done == NULL);
    CHECK(now() - start >= 0.02);
}

EXTENSION(a_failed_request_gives_its_error)
{
    struct timespec limit = { (time_t)DEADLINE_SECONDS, 0 };
    struct aiocb *done = NULL;
    int ends[2];

    prepare(&requests[0], -1, bytes, 1, 0);
    CHECK_EQ(aio_read(&requests[0]), 0);
    CHECK_FAILS(aio_waitcomplete(&done, &limit), EBADF);
    CHECK(done == &requests[0]);
    pending_read(&requests[1], ends, bytes, 1);
    CHECK_EQ(aio_read(&requests[1]), 0);
    CHECK_EQ(aio_cancel(ends[0], &requests[1]), AIO_CANCELED);
    CHECK_FAILS(aio_waitcomplete(&done, &limit), ECANCELED);
    CHECK(done == &requests[1]);
    nothing_more();
}

static void *fill_pipe(void *ends)
{
    nap(50);
    CHECK_EQ(write(((int *)ends)[1], "x", 1), 1);
    return NULL;
}

static void *read_cached(void *fd)
{
    nap(50);
    prepare(&requests[1], *(int *)fd, &bytes[1], 1, 0);
    CHECK_EQ(aio_read(&requests[1]), 0);
    return NULL;
}

/* The second never touches the ring: fails, by hanging, when completing it does not wake who sleeps there. */
EXTENSION(a_sleeper_is_woken_by_any_completion)
{
    int ends[2], fd = temporary_file(0);
    pthread_t thread;

    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    pending_read(&requests[0], ends, bytes, 1);
    CHECK_EQ(aio_read(&requests[0]), 0);
    thread = start_thread(read_cached, &fd);
    CHECK(next(1) == &requests[1]);
    join_thread(thread);
    thread = start_thread(fill_pipe, ends);
    CHECK(next(1) == &requests[0]);
    join_thread(thread);
    nothing_more();
}

static int served[COUNT];

static void *serve(void *count)
{
    for (int i = 0; i < *(int *)count; i++)
        __atomic_add_fetch(&served[next(1) - requests], 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Fails when a record is handed out twice, or a sleeper misses one. */
EXTENSION(several_threads_share_the_completions)
{
    enum { THREADS = 4, ROUNDS = 20 };
    int share = COUNT / THREADS, fd = temporary_file(O_DIRECT);
    unsigned char *block = aligned(4096);
    pthread_t threads[THREADS];

    /* Until a process has used AIO there is nothing to wait for. */
    CHECK_EQ(write_now(fd, block, 4096, 0), 4096);
    for (int round = 0; round < ROUNDS; round++) {
        int ends[2];

        CHECK_EQ(pipe(ends), 0);
        for (int i = 0; i < THREADS; i++)
            threads[i] = start_thread(serve, &share);
        for (int i = 0; i < COUNT; i++) {
            if (i % 3 == 0)
                prepare(&requests[i], ends[0], &bytes[i], 1, 0);
            else
                prepare(&requests[i], reopen(fd, O_RDONLY), &bytes[i], 1, 0);
            CHECK_EQ(aio_read(&requests[i]), 0);
            if (i % 3 == 0)
                CHECK_EQ(write(ends[1], "x", 1), 1);
        }
        for (int i = 0; i < THREADS; i++)
            join_thread(threads[i]);
        for (int i = 0; i < COUNT; i++) {
            CHECK_EQ(served[i], round + 1);
            if (i % 3 != 0)
                close(requests[i].aio_fildes);
        }
        close(ends[0]);
        close(ends[1]);
    }
    nothing_more();
}

/* Beside it aio_suspend waits for the same. */
EXTENSION(beside_aio_suspend)
{
    const struct aiocb *list[1] = { &requests[0] };
    int ends[2];
    pthread_t thread;

    pending_read(&requests[0], ends, bytes, 1);
    CHECK_EQ(aio_read(&requests[0]), 0);
    thread = start_thread(fill_pipe, ends);
    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_error(&requests[0]), 0);
    CHECK(next(1) == &requests[0]);
    join_thread(thread);
}

static void nothing(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
}

static void *disturb(void *thread)
{
    nap(50);
    pthread_kill(*(pthread_t *)thread, SIGUSR1);
    return NULL;
}

EXTENSION(a_handler_interrupts_it)
{
    struct timespec limit = { (time_t)DEADLINE_SECONDS, 0 };
    struct aiocb *done = requests;
    pthread_t self = pthread_self(), thread;
    int ends[2];

    on_signal(SIGUSR1, nothing, 0);
    pending_read(&requests[0], ends, bytes, 1);
    CHECK_EQ(aio_read(&requests[0]), 0);
    thread = start_thread(disturb, &self);
    CHECK_FAILS(aio_waitcomplete(&done, &limit), EINTR);
    CHECK(done == NULL);
    join_thread(thread);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK(next(1) == &requests[0]);
}

static void *wait_for_ever(void *done)
{
    aio_waitcomplete(done, NULL);
    FAIL("a wait for nothing has ended");
}

/* Fails, by hanging, when the cancelled one stays the leader. */
EXTENSION(it_is_a_cancellation_point)
{
    static struct aiocb *done;
    int ends[2];

    pending_read(&requests[0], ends, bytes, 1);
    CHECK_EQ(aio_read(&requests[0]), 0);
    for (int round = 0; round < 50; round++) {
        pthread_t thread = start_thread(wait_for_ever, &done);

        nap(round % 5);
        CHECK_EQ(pthread_cancel(thread), 0);
        CHECK(join_thread(thread) == PTHREAD_CANCELED);
    }
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK(next(1) == &requests[0]);
    nothing_more();
}

/* A child begins anew: nothing of its parent's is served. */
EXTENSION(a_child_is_served_its_own)
{
    int fd = temporary_file(0), status;
    pid_t child;

    prepare(&requests[0], fd, bytes, 1, 0);
    CHECK_EQ(aio_write(&requests[0]), 0);
    CHECK_EQ(await(&requests[0]), 0);
    child = fork();
    if (child == 0) {
        prepare(&requests[1], fd, bytes, 1, 5);
        CHECK_EQ(aio_write(&requests[1]), 0);
        CHECK(next(1) == &requests[1]);
        nothing_more();
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK(next(1) == &requests[0]);
}
