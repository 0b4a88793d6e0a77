/*
 * No submitting call does or awaits the I/O that it asks for. One that awaits it sleeps, and one that does it copies: so it is
 * counted how often the calls slept, and what share they had of the processor time that the process used until the end. Both
 * are the caller's own, however busy the machine is; of several rounds the best counts, as others can only add to them.
 *
 * Seen to fail: without RWF_NOWAIT, cold_reads, buffered_writes and the list; when large requests besides are the caller's too,
 * buffered_write, cold_read and mostly_cold_read; when those that append, that are synchronous or that extend a file are as well,
 * appending_write, synchronous_writes and the extending direct ones.
 */
// timeout: 60
#include "tools/descriptors.h"

#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>

enum { MIB = 1 << 20, SIZE = 64 * MIB, ROUNDS = 12 };

/* What the calls of one round cost, and then what all of it cost. */
struct effort {
    long sleeps;
    double caller;
    double process;
};

/* The work is a copy. Of a direct transfer no processor does much, and what is cached by now the caller may well read itself. */
static int is_copy;
static long least_sleeps = LONG_MAX;
static double least_share = 1;

static double processor_time(clockid_t clock)
{
    struct timespec time;

    CHECK_EQ(clock_gettime(clock, &time), 0);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static long sleeps_until_now(void)
{
    struct rusage usage;

    CHECK_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
    return usage.ru_nvcsw;
}

/* Before the calls. */
static struct effort begin(void)
{
    return (struct effort) { sleeps_until_now(), processor_time(CLOCK_THREAD_CPUTIME_ID),
                             processor_time(CLOCK_PROCESS_CPUTIME_ID) };
}

/* After the calls, before their ends are awaited. */
static void called(struct effort *effort)
{
    effort->caller = processor_time(CLOCK_THREAD_CPUTIME_ID) - effort->caller;
    effort->sleeps = sleeps_until_now() - effort->sleeps;
}

/* After all has ended. */
static void ended(struct effort *effort)
{
    effort->process = processor_time(CLOCK_PROCESS_CPUTIME_ID) - effort->process;
    if (effort->sleeps < least_sleeps)
        least_sleeps = effort->sleeps;
    /* What takes no time anyhow shows nothing. */
    if (!is_copy || effort->process < 0.005)
        least_share = 0;
    else if (effort->caller / effort->process < least_share)
        least_share = effort->caller / effort->process;
}

static int is_good_enough(void)
{
    return least_sleeps == 0 && least_share < 0.1;
}

/* Calls that await what they ask for sleep for each, and calls that do it have a share of nearly all. */
static void check_effort(int count)
{
    if (least_sleeps >= (count + 1) / 2)
        FAIL("the calls slept at least %ld times over %d requests", least_sleeps, count);
    if (least_share > 0.85)
        FAIL("the calls had at least %.0f %% of the processor time", least_share * 100);
}

/* On a file system that is memory, a small request is a short copy, which may as well happen in the call. */
static void needs_a_disk(int fd)
{
    if (fcntl(fd, F_GET_SEALS) != -1)
        SKIP("this file system is memory");
}

/* Starts the requests one by one and waits for all of them. */
static void observe_requests(struct aiocb *cbs, int count, int is_write, ssize_t each)
{
    struct effort effort = begin();

    for (int i = 0; i < count; i++)
        CHECK_EQ(is_write ? aio_write(&cbs[i]) : aio_read(&cbs[i]), 0);
    called(&effort);
    for (int i = 0; i < count; i++)
        CHECK_EQ(finish(&cbs[i]), each);
    ended(&effort);
}

/* Splits 64 MiB in so many requests. */
static void prepare_all(struct aiocb *cbs, int count, int fd, char *data)
{
    for (int i = 0; i < count; i++)
        prepare(&cbs[i], fd, data + (size_t)i * (SIZE / count), SIZE / count, (off_t)i * (SIZE / count));
}

static struct aiocb cbs[64];

static void check_writes(int flags, int count, void (*reset)(int fd))
{
    char *data = aligned(SIZE);
    int fd = temporary_file(flags);

    if (count > 1)
        needs_a_disk(fd);
    is_copy = (flags & O_DIRECT) == 0;
    memset(data, 'w', SIZE);
    for (int round = 0; round < ROUNDS && !is_good_enough(); round++) {
        reset(fd);
        prepare_all(cbs, count, fd, data);
        observe_requests(cbs, count, 1, SIZE / count);
    }
    check_effort(count);
}

static void make_empty(int fd)
{
    CHECK_EQ(ftruncate(fd, 0), 0);
}

static void make_hole(int fd)
{
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(ftruncate(fd, SIZE), 0);
}

CASE(buffered_write) { check_writes(0, 1, make_empty); }
CASE(buffered_writes) { check_writes(0, 64, make_empty); }
CASE(extending_direct_write) { check_writes(O_DIRECT, 1, make_empty); }
CASE(extending_direct_writes) { check_writes(O_DIRECT, 64, make_empty); }
CASE(hole_filling_direct_write) { check_writes(O_DIRECT, 1, make_hole); }
CASE(hole_filling_direct_writes) { check_writes(O_DIRECT, 64, make_hole); }
CASE(appending_write) { check_writes(O_APPEND, 1, make_empty); }
CASE(synchronous_writes) { check_writes(O_DSYNC, 16, make_empty); }

/* Empties the page cache of the file; a file system that lives in the cache cannot do that. */
static void make_cold(int fd)
{
    char byte;
    struct iovec vector = { &byte, 1 };

    CHECK_EQ(fdatasync(fd), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    /* No read-ahead beyond what is asked for, which the next request would find there. */
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
    if (preadv2(fd, &vector, 1, SIZE / 2, RWF_NOWAIT) != -1)
        SKIP("this file system keeps its files in memory");
    if (errno == EOPNOTSUPP)
        SKIP("this file system does not tell what is cached");
}

static int big_file(void)
{
    char *data = aligned(SIZE);
    int fd = temporary_file(0);

    memset(data, 'r', SIZE);
    feed(fd, data, SIZE);
    free(data);
    return fd;
}

static void check_cold_reads(int count)
{
    char *got = aligned(SIZE);
    int fd = big_file();

    for (int round = 0; round < ROUNDS && !is_good_enough(); round++) {
        make_cold(fd);
        memset(got, 0, SIZE);
        prepare_all(cbs, count, fd, got);
        observe_requests(cbs, count, 0, SIZE / count);
        CHECK(is_filled(got, SIZE, 'r'));
    }
    check_effort(count);
}

CASE(cold_read) { check_cold_reads(1); }
CASE(cold_reads) { check_cold_reads(64); }

/* Half of the first block is all that is cached. */
CASE(mostly_cold_read)
{
    char *got = aligned(SIZE);
    int fd = big_file();

    for (int round = 0; round < ROUNDS && !is_good_enough(); round++) {
        make_cold(fd);
        CHECK_EQ(pread(fd, got, 1, 0), 1);
        memset(got, 0, SIZE);
        prepare_all(cbs, 1, fd, got);
        observe_requests(cbs, 1, 0, SIZE);
        CHECK(is_filled(got, SIZE, 'r'));
    }
    check_effort(1);
}

CASE(list_of_cold_reads_and_buffered_writes)
{
    struct aiocb *list[64];
    char *data = aligned(SIZE);
    int source = big_file(), target = temporary_file(0);

    for (int round = 0; round < ROUNDS && !is_good_enough(); round++) {
        make_cold(source);
        CHECK_EQ(ftruncate(target, 0), 0);
        prepare_all(cbs, 64, source, data);
        for (int i = 0; i < 64; i++) {
            list[i] = &cbs[i];
            cbs[i].aio_lio_opcode = i % 2 == 0 ? LIO_READ : LIO_WRITE;
            if (i % 2 != 0)
                cbs[i].aio_fildes = target;
        }
        struct effort effort = begin();
        CHECK_EQ(lio_listio(LIO_NOWAIT, list, 64, NULL), 0);
        called(&effort);
        for (int i = 0; i < 64; i++)
            CHECK_EQ(finish(&cbs[i]), SIZE / 64);
        ended(&effort);
    }
    check_effort(32);
}

CASE(barrier_over_unwritten_data)
{
    char *data = aligned(SIZE);
    int fd = temporary_file(0);

    needs_a_disk(fd);
    for (int round = 0; round < ROUNDS && !is_good_enough(); round++) {
        struct aiocb barrier;

        memset(data, round, SIZE);
        CHECK_EQ(pwrite(fd, data, SIZE, 0), SIZE);
        prepare(&barrier, fd, NULL, 0, 0);
        struct effort effort = begin();
        CHECK_EQ(aio_fsync(O_SYNC, &barrier), 0);
        called(&effort);
        CHECK_EQ(finish(&barrier), 0);
        ended(&effort);
    }
    check_effort(1);
}

/* aio_cancel does not wait for the work that it could not stop either. */
CASE(cancelling_what_runs)
{
    char *data = aligned(SIZE);
    int fd = temporary_file(0), seen = 0;

    for (int round = 0; round < ROUNDS && !is_good_enough(); round++) {
        struct aiocb cb;
        struct stat status;

        CHECK_EQ(ftruncate(fd, 0), 0);
        start_write(&cb, fd, data, SIZE, 0);
        /* The file grows while it is written. */
        do
            CHECK_EQ(fstat(fd, &status), 0);
        while (status.st_size == 0 && aio_error(&cb) == EINPROGRESS);
        struct effort effort = begin();
        int answer = aio_cancel(fd, &cb);
        called(&effort);
        int error = await(&cb);
        if (answer == AIO_NOTCANCELED) {
            CHECK_EQ(error, 0);
            ended(&effort);
            seen++;
        }
    }
    CHECK(seen > 0);
    check_effort(1);
}
