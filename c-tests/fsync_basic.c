/*
 * aio_fsync: its arguments, and that it completes after the writes that it covers, with their error.
 *
 * Seen to fail: with a barrier that does not inherit the error of a write, it_fails_with_the_error_of_a_failed_write; with
 * one that does not wait for writes, that one and it_completes_after_direct_writes.
 */
#include "check.h"

#include <sys/resource.h>

CASE(both_kinds_succeed)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    CHECK_EQ(write_now(fd, "sync", 4, 0), 4);
    prepare(&cb, fd, NULL, 0, 0);
    CHECK_EQ(aio_fsync(O_SYNC, &cb), 0);
    CHECK_EQ(finish(&cb), 0);
    CHECK_EQ(aio_fsync(O_DSYNC, &cb), 0);
    CHECK_EQ(finish(&cb), 0);
}

/* The buffer, size, offset and priority of the aiocb mean nothing here. */
CASE(other_fields_are_ignored)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    prepare(&cb, fd, (void *)(uintptr_t)0xdead0000, SIZE_MAX, -77);
    cb.aio_reqprio = -12345;
    CHECK_EQ(aio_fsync(O_DSYNC, &cb), 0);
    CHECK_EQ(finish(&cb), 0);
}

static void refused(int operation, int fd, int error)
{
    struct aiocb cb, before;

    memset(&cb, 0xB7, sizeof cb);
    cb.aio_fildes = fd;
    before = cb;
    CHECK_FAILS(aio_fsync(operation, &cb), error);
    CHECK(memcmp(&cb, &before, sizeof cb) == 0);
}

CASE(another_operation_gives_EINVAL_and_leaves_the_aiocb)
{
    static const int operations[] = { 0, O_RDWR, O_APPEND, -1, INT_MAX, O_SYNC | O_APPEND, O_SYNC & ~O_DSYNC };
    int fd = temporary_file(0);

    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        refused(operations[i], fd, EINVAL);
}

CASE(a_bad_descriptor_gives_EBADF_and_leaves_the_aiocb)
{
    int fd = temporary_file(0);

    close(fd);
    refused(O_SYNC, fd, EBADF);
    refused(O_DSYNC, -1, EBADF);
    refused(O_SYNC, INT_MAX, EBADF);
}

CASE(a_bad_operation_is_told_before_a_bad_descriptor)
{
    refused(12345, -1, EINVAL);
}

CASE(a_descriptor_for_reading_only_will_do)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    CHECK_EQ(write_now(fd, "sync", 4, 0), 4);
    prepare(&cb, reopen(fd, O_RDONLY), NULL, 0, 0);
    CHECK_EQ(aio_fsync(O_SYNC, &cb), 0);
    CHECK_EQ(finish(&cb), 0);
}

static void show(const char *what, int fd)
{
    struct aiocb cb;

    prepare(&cb, fd, NULL, 0, 0);
    CHECK_EQ(aio_fsync(O_DSYNC, &cb), 0);
    int error = await(&cb);
    printf("%s: %s, %zd\n", what, error == 0 ? "success" : strerrorname_np(error), aio_return(&cb));
}

CASE(what_cannot_be_synchronized_ends_with_EINVAL)
{
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    show("the writing end of a pipe", ends[1]);
    show("a directory", open(test_directory(), O_RDONLY | O_DIRECTORY));
    show("/dev/null", open("/dev/null", O_RDWR));
}

/* Seen to fail with ECANCELED, which is for what was closed after the call. */
CASE(a_descriptor_for_a_path_only_ends_with_EBADF)
{
    show("O_PATH", open(test_directory(), O_PATH | O_DIRECTORY));
}

static volatile sig_atomic_t signals_seen;

static void count_signal(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    signals_seen++;
}

CASE(it_notifies_like_the_others)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    on_signal(SIGUSR1, count_signal, 0);
    prepare(&cb, fd, NULL, 0, 0);
    cb.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    cb.aio_sigevent.sigev_signo = SIGUSR1;
    CHECK_EQ(aio_fsync(O_SYNC, &cb), 0);
    CHECK_EQ(finish(&cb), 0);
    WAIT_UNTIL(signals_seen > 0);
    nap(20);
    CHECK_EQ(signals_seen, 1);
}

/* When it is done, every write queued before it is. */
static void comes_after_writes(int fd, int operation, int size)
{
    enum { WRITES = 64 };
    unsigned char *memory = aligned((size_t)WRITES * (size_t)size);
    struct aiocb writes[WRITES], sync;

    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < WRITES; i++) {
            prepare(&writes[i], fd, memory + i * size, (size_t)size, (off_t)(round * WRITES + i) * size);
            CHECK_EQ(aio_write(&writes[i]), 0);
        }
        prepare(&sync, fd, NULL, 0, 0);
        CHECK_EQ(aio_fsync(operation, &sync), 0);
        CHECK_EQ(finish(&sync), 0);
        for (int i = 0; i < WRITES; i++) {
            CHECK_EQ(aio_error(&writes[i]), 0);
            CHECK_EQ(aio_return(&writes[i]), size);
        }
    }
}

CASE(it_completes_after_buffered_writes)
{
    comes_after_writes(temporary_file(0), O_SYNC, 8192);
    comes_after_writes(temporary_file(0), O_DSYNC, 100);
}

CASE(it_completes_after_direct_writes)
{
    comes_after_writes(temporary_file(O_DIRECT), O_SYNC, 8192);
    comes_after_writes(temporary_file(O_DIRECT), O_DSYNC, 4096);
}

CASE(several_at_once)
{
    enum { ROUNDS = 16 };
    unsigned char *memory = aligned(ROUNDS * 4096);
    struct aiocb writes[ROUNDS], syncs[ROUNDS];
    int fd = temporary_file(0);

    for (int i = 0; i < ROUNDS; i++) {
        prepare(&writes[i], fd, memory + i * 4096, 4096, i * 4096);
        CHECK_EQ(aio_write(&writes[i]), 0);
        prepare(&syncs[i], fd, NULL, 0, 0);
        CHECK_EQ(aio_fsync(i % 2 == 0 ? O_SYNC : O_DSYNC, &syncs[i]), 0);
    }
    for (int i = ROUNDS - 1; i >= 0; i--) {
        CHECK_EQ(finish(&syncs[i]), 0);
        for (int j = 0; j <= i; j++)
            CHECK_EQ(aio_error(&writes[j]), 0);
    }
}

/* The data that an fsync promised is not there: it has to say so. */
DEFECT(it_fails_with_the_error_of_a_failed_write, "libc's reports success")
{
    enum { LARGE = 32 << 20 };
    unsigned char *memory = aligned(LARGE);
    struct rlimit limit = { LARGE, RLIM_INFINITY };
    int fd = temporary_file(0);
    struct aiocb good, bad, sync, later;

    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    /* The large write is under way while the other two are queued. */
    prepare(&good, fd, memory, LARGE, 0);
    prepare(&bad, fd, memory, 4096, LARGE);
    prepare(&sync, fd, NULL, 0, 0);
    CHECK_EQ(aio_write(&good), 0);
    CHECK_EQ(aio_write(&bad), 0);
    CHECK_EQ(aio_fsync(O_SYNC, &sync), 0);
    CHECK_EQ(await(&sync), EFBIG);
    CHECK_EQ(aio_return(&sync), -1);
    CHECK_EQ(aio_error(&bad), EFBIG);
    CHECK_EQ(aio_error(&good), 0);
    /* It has been told: the next one starts afresh. */
    prepare(&later, fd, NULL, 0, 0);
    CHECK_EQ(aio_fsync(O_DSYNC, &later), 0);
    CHECK_EQ(finish(&later), 0);
}
