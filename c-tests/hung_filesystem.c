/*
 * A file system that does not answer, as a network file system whose server is gone: only who waits for its files may
 * wait. tests/slow_fuse.rs mounts it, and names its directory in AIO_TEST_GATED_DIR: making the file `close-data` there
 * stops its answers to reads, writes and fsyncs, `close-all` those to questions about files too, `open` lets all go on.
 *
 * Seen to fail: with a statx that asks the server, without AT_STATX_DONT_SYNC, the four cases of a file system that answers
 * nothing; with a waiter that runs its write itself whatever the file lies on,
 * waiter_for_a_hung_write_hears_of_another_request; helpers_of_a_hung_file_system_end_while_others_have_work with helpers
 * that end only after sleeping for a second; helper_that_was_refused_comes_later where it is asked for again only with the next job.
 */
#include "resources.h"
#include "tools/descriptors.h"

#include <sys/eventfd.h>

enum { MIB = 1 << 20 };

static const char *gated_directory(void)
{
    const char *directory = getenv("AIO_TEST_GATED_DIR");

    if (directory == NULL)
        SKIP("tests/slow_fuse.rs mounts the file system for this");
    return directory;
}

static int make_file(const char *name, int flags)
{
    char path[PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", gated_directory(), name);
    int fd = open(path, O_CREAT | flags, 0600);
    CHECK(fd >= 0);
    return fd;
}

static void gate(const char *order)
{
    close(make_file(order, O_WRONLY));
}

/* A file of a pattern, on the gated file system and not in the cache. */
static int cold_file(const char *name, size_t size, int flags)
{
    unsigned char *data = aligned(size);
    int fd = make_file(name, O_RDWR);

    pattern(data, size, 1);
    feed(fd, data, size);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    free(data);
    if (flags != 0) {
        close(fd);
        fd = make_file(name, O_RDWR | flags);
    }
    return fd;
}

static void check_pipe_works(void)
{
    int ends[2];
    char byte;
    struct aiocb cb;

    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    feed(ends[1], "x", 1);
    CHECK_EQ(finish(&cb), 1);
}

/* Files and pipes elsewhere are served meanwhile. */
static void check_others_go_on(void)
{
    struct aiocb barrier;

    for (int i = 0; i < 3; i++) {
        int fd = temporary_file(i == 2 ? O_DIRECT : 0);
        char *block = aligned(4096);

        CHECK_EQ(write_now(fd, block, 4096, 0), 4096);
        prepare(&barrier, fd, NULL, 0, 0);
        CHECK_EQ(aio_fsync(O_DSYNC, &barrier), 0);
        CHECK_EQ(finish(&barrier), 0);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        CHECK_EQ(read_now(fd, block, 4096, 0), 4096);
        close(fd);
    }
    check_pipe_works();
}

static void check_reads(int flags, size_t each, const char *order)
{
    enum { READS = 100 };
    static struct aiocb cbs[READS];
    unsigned char *got = aligned(READS * each);
    int fd = cold_file("data", READS * each, flags);

    gate(order);
    for (int i = 0; i < READS; i++)
        start_read(&cbs[i], fd, got + i * each, each, (off_t)(i * each));
    check_others_go_on();
    for (int i = 0; i < READS; i++)
        CHECK_EQ(aio_error(&cbs[i]), EINPROGRESS);
    gate("open");
    for (int i = 0; i < READS; i++)
        CHECK_EQ(finish(&cbs[i]), each);
    CHECK(is_pattern(got, READS * each, 1));
}

CASE(hung_reads) { check_reads(0, 4096, "close-data"); }
CASE(hung_big_reads) { check_reads(0, MIB / 2, "close-data"); }
CASE(hung_direct_reads) { check_reads(O_DIRECT, 4096, "close-data"); }
/* Not even fstat(2) is answered. */
CASE(reads_of_a_file_system_that_answers_nothing) { check_reads(0, 4096, "close-all"); }
CASE(direct_reads_of_a_file_system_that_answers_nothing) { check_reads(O_DIRECT, 4096, "close-all"); }

static void check_writes(int flags, const char *order)
{
    enum { WRITES = 100, EACH = 4096 };
    static struct aiocb cbs[WRITES], barrier;
    unsigned char *data = aligned(WRITES * EACH), *got = aligned(WRITES * EACH);
    int fd = make_file("data", O_RDWR | flags);

    pattern(data, WRITES * EACH, 2);
    gate(order);
    for (int i = 0; i < WRITES; i++)
        start_write(&cbs[i], fd, data + i * EACH, EACH, (off_t)i * EACH);
    prepare(&barrier, fd, NULL, 0, 0);
    CHECK_EQ(aio_fsync(O_SYNC, &barrier), 0);
    check_others_go_on();
    CHECK_EQ(aio_error(&cbs[WRITES - 1]), EINPROGRESS);
    CHECK_EQ(aio_error(&barrier), EINPROGRESS);
    gate("open");
    CHECK_EQ(finish(&barrier), 0);
    for (int i = 0; i < WRITES; i++) {
        CHECK_EQ(aio_error(&cbs[i]), 0);
        CHECK_EQ(aio_return(&cbs[i]), EACH);
    }
    CHECK_EQ(pread(fd, got, WRITES * EACH, 0), WRITES * EACH);
    CHECK(is_pattern(got, WRITES * EACH, 2));
}

CASE(hung_writes_and_barrier) { check_writes(0, "close-data"); }
CASE(hung_direct_writes_and_barrier) { check_writes(O_DIRECT, "close-data"); }
CASE(writes_to_a_file_system_that_answers_nothing) { check_writes(0, "close-all"); }
CASE(direct_writes_to_a_file_system_that_answers_nothing) { check_writes(O_DIRECT, "close-all"); }

DEFECT(a_hundred_hung_files_do_not_hold_up_others, "each of them keeps one of at most twenty threads")
{
    enum { FILES = 100 };
    static struct aiocb cbs[FILES];
    static char buffers[FILES][64], name[32];
    int fds[FILES];

    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "data-%d", i);
        fds[i] = cold_file(name, 8192, 0);
    }
    gate("close-data");
    for (int i = 0; i < FILES; i++) {
        if (i % 2 == 0)
            start_read(&cbs[i], fds[i], buffers[i], 64, 0);
        else
            start_write(&cbs[i], fds[i], buffers[i], 64, 0);
    }
    nap(100);
    check_others_go_on();
    gate("open");
    for (int i = 0; i < FILES; i++)
        CHECK_EQ(finish(&cbs[i]), 64);
}

/*
 * Each hung file keeps a helper. Afterwards all but two have nothing to do and end, also while those two are called thousands of
 * times a second, so that none of the others ever sleeps long.
 */
DEFECT(helpers_of_a_hung_file_system_end_while_others_have_work, "its threads are called in turn, too, and stay")
{
    enum { FILES = 40 };
    static struct aiocb cbs[FILES];
    static char buffers[FILES][64], name[32];
    int fds[FILES], before = thread_count();

    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "data-%d", i);
        fds[i] = cold_file(name, 8192, 0);
    }
    gate("close-data");
    for (int i = 0; i < FILES; i++)
        start_read(&cbs[i], fds[i], buffers[i], 64, 0);
    nap(1500);
    int most = thread_count() - before;
    gate("open");
    for (int i = 0; i < FILES; i++)
        CHECK_EQ(finish(&cbs[i]), 64);
    CHECK(most > 10);

    int fd = temporary_file(0);
    block_signal(SIGUSR1);
    time_t limit = time(NULL) + 10;
    for (off_t end = 0; thread_count() > before + 4 && time(NULL) < limit; end++) {
        struct aiocb cb;

        /* A helper is called for it at once: it extends its file, and is to be notified. */
        prepare(&cb, fd, "x", 1, end);
        cb.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
        cb.aio_sigevent.sigev_signo = SIGUSR1;
        CHECK_EQ(aio_write(&cb), 0);
        CHECK(take_signal(SIGUSR1, NULL, 5000));
        CHECK_EQ(finish(&cb), 1);
    }
    CHECK(thread_count() <= before + 4);
}

/*
 * The helper that stands by cannot be started when the first one goes to what hangs; what is queued then is done as soon as
 * there is memory for a thread again, though nothing is submitted any more.
 */
DEFECT(helper_that_was_refused_comes_later, "a thread that is refused is asked for again with the next request only")
{
    char buffer[64], block[64] = "";
    int fd = cold_file("data", MIB, 0), elsewhere = temporary_file(0);
    struct aiocb hung, queued;

    block_signal(SIGUSR1);
    prepare(&queued, elsewhere, block, sizeof block, 0);
    queued.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    queued.aio_sigevent.sigev_signo = SIGUSR1;
    /* So that the library has its memory and its first two threads. */
    check_pipe_works();
    gate("close-data");
    /* For requests, but not for a thread's stack. */
    limit(RLIMIT_AS, address_space() + (64 << 10));
    start_read(&hung, fd, buffer, sizeof buffer, 0);
    nap(100);
    CHECK_EQ(aio_write(&queued), 0);
    CHECK(!take_signal(SIGUSR1, NULL, 100));
    limit(RLIMIT_AS, RLIM_INFINITY);
    CHECK(take_signal(SIGUSR1, NULL, 3000));
    CHECK_EQ(finish(&queued), sizeof block);
    CHECK_EQ(aio_error(&hung), EINPROGRESS);
    gate("open");
    CHECK_EQ(finish(&hung), sizeof buffer);
}

/* ---- Who waits for a hung file and for something else --------------------------------------------- */

static void *feed_later(void *argument)
{
    nap(100);
    feed(*(int *)argument, "x", 1);
    return NULL;
}

static void wait_for_either(int is_write)
{
    char buffer[64] = "", byte;
    struct aiocb hung, pipe_read;
    const struct aiocb *list[2] = { &hung, &pipe_read };
    int fd = cold_file("data", MIB, 0), ends[2];

    pending_read(&pipe_read, ends, &byte, 1);
    gate("close-data");
    if (is_write)
        start_write(&hung, fd, buffer, sizeof buffer, 0);
    else
        start_read(&hung, fd, buffer, sizeof buffer, 0);
    CHECK_EQ(aio_read(&pipe_read), 0);
    pthread_t feeder = start_thread(feed_later, &ends[1]);
    /* Who waits may do work, but never work that keeps it from hearing of the other. */
    CHECK_EQ(aio_suspend(list, 2, NULL), 0);
    CHECK_EQ(aio_error(&pipe_read), 0);
    CHECK_EQ(aio_error(&hung), EINPROGRESS);
    gate("open");
    CHECK_EQ(finish(&hung), sizeof buffer);
    join_thread(feeder);
}

CASE(waiter_for_a_hung_read_hears_of_another_request) { wait_for_either(0); }
CASE(waiter_for_a_hung_write_hears_of_another_request) { wait_for_either(1); }

CASE(wait_for_a_hung_read_times_out)
{
    struct timespec limit = { 0, 50 * 1000 * 1000 };
    char buffer[64];
    struct aiocb hung;
    const struct aiocb *list[1] = { &hung };
    int fd = cold_file("data", MIB, 0);

    gate("close-data");
    start_read(&hung, fd, buffer, sizeof buffer, 0);
    CHECK_FAILS(aio_suspend(list, 1, &limit), EAGAIN);
    gate("open");
    CHECK_EQ(finish(&hung), sizeof buffer);
}

static void ignore(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)info;
    (void)context;
}

static void *wait_until_interrupted(void *argument)
{
    const struct aiocb *list[1] = { argument };

    errno = 0;
    return (void *)(intptr_t)(aio_suspend(list, 1, NULL) == -1 ? errno : 0);
}

static void interrupt_waiter(int is_write)
{
    char buffer[64] = "";
    struct aiocb hung;
    int fd = cold_file("data", MIB, 0);

    on_signal(SIGUSR1, ignore, 0);
    gate("close-data");
    if (is_write)
        start_write(&hung, fd, buffer, sizeof buffer, 0);
    else
        start_read(&hung, fd, buffer, sizeof buffer, 0);
    pthread_t waiter = start_thread(wait_until_interrupted, &hung);
    nap(100);
    CHECK_EQ(pthread_kill(waiter, SIGUSR1), 0);
    CHECK_EQ((intptr_t)join_thread(waiter), EINTR);
    CHECK_EQ(aio_error(&hung), EINPROGRESS);
    gate("open");
    CHECK_EQ(finish(&hung), sizeof buffer);
}

CASE(waiter_for_a_hung_read_is_interrupted_by_a_signal) { interrupt_waiter(0); }
CASE(waiter_for_a_hung_write_is_interrupted_by_a_signal) { interrupt_waiter(1); }

CASE(waiter_for_a_hung_read_can_be_cancelled)
{
    char buffer[64];
    struct aiocb hung;
    int fd = cold_file("data", MIB, 0);

    gate("close-data");
    start_read(&hung, fd, buffer, sizeof buffer, 0);
    pthread_t waiter = start_thread(wait_until_interrupted, &hung);
    nap(50);
    CHECK_EQ(pthread_cancel(waiter), 0);
    CHECK(join_thread(waiter) == PTHREAD_CANCELED);
    CHECK_EQ(aio_error(&hung), EINPROGRESS);
    gate("open");
    CHECK_EQ(finish(&hung), sizeof buffer);
}

/* ---- Cancelling ----------------------------------------------------------------------------------- */

/* The first write runs and cannot be stopped; the second waits behind it and can. */
CASE(running_write_is_not_cancelled_and_the_one_behind_it_is)
{
    char buffer[64] = "first", second[64] = "second";
    struct aiocb running, queued;
    int fd = cold_file("data", MIB, 0);

    gate("close-data");
    start_write(&running, fd, buffer, sizeof buffer, 0);
    start_write(&queued, fd, second, sizeof second, 4096);
    nap(100);
    CHECK_EQ(aio_cancel(fd, &running), AIO_NOTCANCELED);
    CHECK_EQ(aio_error(&running), EINPROGRESS);
    CHECK_EQ(aio_cancel(fd, &queued), AIO_CANCELED);
    CHECK_EQ(aio_error(&queued), ECANCELED);
    start_write(&queued, fd, second, sizeof second, 4096);
    nap(20);
    /* Of all requests of the descriptor one could not be cancelled. */
    CHECK_EQ(aio_cancel(fd, NULL), AIO_NOTCANCELED);
    CHECK_EQ(aio_error(&queued), ECANCELED);
    CHECK_EQ(aio_error(&running), EINPROGRESS);
    gate("open");
    CHECK_EQ(finish(&running), sizeof buffer);
    CHECK_EQ(pread(fd, buffer, sizeof buffer, 4096), sizeof buffer);
    CHECK(strcmp(buffer, "second") != 0);
}
