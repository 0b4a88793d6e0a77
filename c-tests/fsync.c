/*
 * aio_fsync is a barrier: it covers every write queued for the file before it, through whatever descriptor, fails with their
 * error, and holds up nothing that comes later.
 */
#include "tools/descriptors.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

enum { MIB = 1 << 20, BIG = 64 * MIB };

static void start_fsync(struct aiocb *cb, int fd, int operation)
{
    prepare(cb, fd, NULL, 0, 0);
    CHECK_EQ(aio_fsync(operation, cb), 0);
}

/* Once the barrier has ended, the writes before it must have too. */
static void check_barrier(int flags, int operation)
{
    enum { WRITES = 32 };
    static struct aiocb writes[WRITES];
    unsigned char *data = aligned(MIB), *got = aligned(MIB);
    struct aiocb barrier;
    int fd = temporary_file(flags);

    pattern(data, MIB, 5);
    for (int i = 0; i < WRITES; i++)
        start_write(&writes[i], fd, data, MIB, (off_t)i * MIB);
    start_fsync(&barrier, fd, operation);
    printf("%zd\n", finish(&barrier));
    for (int i = 0; i < WRITES; i++) {
        CHECK_EQ(aio_error(&writes[i]), 0);
        CHECK_EQ(aio_return(&writes[i]), MIB);
        CHECK_EQ(pread(fd, got, MIB, (off_t)i * MIB), MIB);
        CHECK(is_pattern(got, MIB, 5));
    }
}

CASE(sync_waits_for_buffered_writes) { check_barrier(0, O_SYNC); }
CASE(dsync_waits_for_buffered_writes) { check_barrier(0, O_DSYNC); }
CASE(sync_waits_for_direct_writes) { check_barrier(O_DIRECT, O_SYNC); }
CASE(dsync_waits_for_direct_writes) { check_barrier(O_DIRECT, O_DSYNC); }

/* The write is big enough to be at work still when a barrier that does not wait for it has ended. */
static void check_other_descriptor(int fd, int other)
{
    char *data = aligned(BIG);

    for (int round = 0; round < 5; round++) {
        struct aiocb writing, barrier;

        CHECK_EQ(ftruncate(fd, 0), 0);
        start_write(&writing, fd, data, BIG, 0);
        start_fsync(&barrier, other, round % 2 == 0 ? O_SYNC : O_DSYNC);
        CHECK_EQ(finish(&barrier), 0);
        CHECK_EQ(aio_error(&writing), 0);
        CHECK_EQ(aio_return(&writing), BIG);
    }
}

#define PER_DESCRIPTOR "its barrier knows only the writes of its own descriptor"

DEFECT(waits_for_writes_through_a_duplicate, PER_DESCRIPTOR)
{
    int fd = temporary_file(0);

    check_other_descriptor(fd, dup(fd));
}

DEFECT(waits_for_writes_through_another_open_file, PER_DESCRIPTOR)
{
    int fd = temporary_file(0);

    check_other_descriptor(fd, reopen(fd, O_RDWR));
}

DEFECT(barrier_of_a_read_only_descriptor_waits_for_writes, PER_DESCRIPTOR)
{
    int fd = temporary_file(0);

    check_other_descriptor(fd, reopen(fd, O_RDONLY));
}

CASE(several_barriers_each_wait_for_what_came_before)
{
    enum { BARRIERS = 16 };
    static struct aiocb writes[BARRIERS], barriers[BARRIERS];
    char *data = aligned(4 * MIB);
    int fd = temporary_file(0);

    for (int i = 0; i < BARRIERS; i++) {
        start_write(&writes[i], fd, data, 4 * MIB, (off_t)i * 4 * MIB);
        start_fsync(&barriers[i], fd, i % 2 == 0 ? O_SYNC : O_DSYNC);
    }
    for (int i = 0; i < BARRIERS; i++) {
        CHECK_EQ(finish(&barriers[i]), 0);
        for (int before = 0; before <= i; before++)
            CHECK_EQ(aio_error(&writes[before]), 0);
    }
}

CASE(barriers_through_several_descriptors_all_end)
{
    enum { ROUNDS = 400 };
    static struct aiocb writes[ROUNDS], barriers[ROUNDS];
    static char data[4096];
    int fds[4];

    fds[0] = temporary_file(0);
    for (int i = 1; i < 4; i++)
        fds[i] = reopen(fds[0], O_RDWR);
    for (int i = 0; i < ROUNDS; i++) {
        start_write(&writes[i], fds[i % 4], data, sizeof data, (off_t)i * 4096);
        start_fsync(&barriers[i], fds[(i + 1) % 4], O_DSYNC);
    }
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(finish(&barriers[i]), 0);
        CHECK_EQ(finish(&writes[i]), sizeof data);
    }
}

CASE(nothing_queued_is_no_reason_to_wait)
{
    struct aiocb barrier;
    int fd = temporary_file(0);

    for (int i = 0; i < 20; i++) {
        start_fsync(&barrier, fd, i % 2 == 0 ? O_SYNC : O_DSYNC);
        CHECK_EQ(finish(&barrier), 0);
    }
}

CASE(works_on_a_descriptor_for_reading_only)
{
    struct aiocb barrier;
    int fd = temporary_file(0);

    start_fsync(&barrier, reopen(fd, O_RDONLY), O_SYNC);
    printf("%d\n", await(&barrier));
}

CASE(pipe_cannot_be_synchronised)
{
    struct aiocb barrier;
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    start_fsync(&barrier, ends[1], O_SYNC);
    printf("%d\n", await(&barrier));
}

CASE(wrong_arguments_leave_the_aiocb_alone)
{
    struct aiocb barrier, copy;
    int fd = temporary_file(0);

    prepare(&barrier, fd, NULL, 0, 0);
    copy = barrier;
    CHECK_FAILS(aio_fsync(O_APPEND, &barrier), EINVAL);
    CHECK_FAILS(aio_fsync(-1, &barrier), EINVAL);
    CHECK_EQ(memcmp(&copy, &barrier, sizeof copy), 0);
    barrier.aio_fildes = 9999;
    copy = barrier;
    CHECK_FAILS(aio_fsync(O_SYNC, &barrier), EBADF);
    CHECK_EQ(memcmp(&copy, &barrier, sizeof copy), 0);
}

/* ---- Errors of the writes before ------------------------------------------------------------------ */

#define LIMIT (80LL * MIB)

/* SIGXFSZ has its default action, which would end the program. */
static void limit_file_size(off_t size)
{
    struct rlimit limit;

    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = (rlim_t)size;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CHECK(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
}

static void check_too_big(int flags)
{
    char *data = aligned(4096);
    struct aiocb cb;
    int fd = temporary_file(flags);

    limit_file_size(MIB);
    start_write(&cb, fd, data, 4096, 2 * MIB);
    CHECK_ENDS_WITH(&cb, EFBIG);
    printf("%zd\n", write_now(fd, data, 4096, 0));
}

CASE(buffered_write_past_the_size_limit_gives_EFBIG_and_no_signal) { check_too_big(0); }
CASE(direct_write_past_the_size_limit_gives_EFBIG_and_no_signal) { check_too_big(O_DIRECT); }

#define NO_ERROR "its barrier succeeds though a write before it failed"

/*
 * A big write goes first, so that the one which fails is still queued when the barrier is asked for. A machine that stalls in
 * between spoils a round; one good round must be had.
 */
static void check_inherited(int writer, int syncer, off_t bad_offset, int expected)
{
    char *data = aligned(BIG);
    int good_rounds = 0;

    for (int round = 0; round < 10 && good_rounds < 3; round++) {
        struct aiocb big, bad, barrier, later;

        start_write(&big, writer, data, BIG, 0);
        start_write(&bad, writer, data, 4096, bad_offset);
        int was_queued = aio_error(&bad) == EINPROGRESS;
        start_fsync(&barrier, syncer, round % 2 == 0 ? O_SYNC : O_DSYNC);
        was_queued = was_queued && aio_error(&big) == EINPROGRESS;
        CHECK_EQ(finish(&big), BIG);
        CHECK_ENDS_WITH(&bad, expected);
        if (was_queued) {
            CHECK_ENDS_WITH(&barrier, expected);
            good_rounds++;
        } else {
            await(&barrier);
        }
        /* The error is told once; it does not stay with the file. */
        start_fsync(&later, syncer, O_SYNC);
        CHECK_EQ(finish(&later), 0);
    }
    CHECK(good_rounds > 0);
}

DEFECT(fails_with_the_error_of_a_write_before_it, NO_ERROR)
{
    int fd = temporary_file(0);

    limit_file_size(LIMIT);
    check_inherited(fd, fd, LIMIT + MIB, EFBIG);
}

DEFECT(fails_with_the_error_of_a_write_through_another_descriptor, NO_ERROR)
{
    int fd = temporary_file(0);

    limit_file_size(LIMIT);
    check_inherited(fd, reopen(fd, O_RDONLY), LIMIT + MIB, EFBIG);
}

DEFECT(barrier_before_the_failing_write_succeeds, NO_ERROR)
{
    char *data = aligned(BIG);
    int fd = temporary_file(0), good_rounds = 0;

    limit_file_size(LIMIT);
    for (int round = 0; round < 10 && good_rounds == 0; round++) {
        struct aiocb big, first, bad, second;

        start_write(&big, fd, data, BIG, 0);
        start_fsync(&first, fd, O_DSYNC);
        start_write(&bad, fd, data, 4096, LIMIT + MIB);
        start_fsync(&second, fd, O_DSYNC);
        int was_queued = aio_error(&big) == EINPROGRESS && aio_error(&bad) == EINPROGRESS;
        CHECK_EQ(finish(&first), 0);
        CHECK_ENDS_WITH(&bad, EFBIG);
        int error = await(&second);
        if (was_queued) {
            CHECK_EQ(error, EFBIG);
            good_rounds++;
        }
        CHECK_EQ(finish(&big), BIG);
    }
    CHECK_EQ(good_rounds, 1);
}

DEFECT(barrier_that_fails_notifies_once, NO_ERROR)
{
    char *data = aligned(BIG);
    int fd = temporary_file(0), good_rounds = 0;

    limit_file_size(LIMIT);
    block_signal(SIGRTMIN);
    for (int round = 0; round < 10 && good_rounds == 0; round++) {
        struct aiocb big, bad, barrier;
        siginfo_t info;

        start_write(&big, fd, data, BIG, 0);
        start_write(&bad, fd, data, 4096, LIMIT + MIB);
        prepare(&barrier, fd, NULL, 0, 0);
        barrier.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
        barrier.aio_sigevent.sigev_signo = SIGRTMIN;
        int was_queued = aio_error(&bad) == EINPROGRESS;
        CHECK_EQ(aio_fsync(O_SYNC, &barrier), 0);
        was_queued = was_queued && aio_error(&big) == EINPROGRESS;
        CHECK(take_signal(SIGRTMIN, &info, 10000));
        int error = aio_error(&barrier);
        if (was_queued) {
            CHECK_EQ(error, EFBIG);
            good_rounds++;
        }
        CHECK(!take_signal(SIGRTMIN, &info, 50));
        CHECK_EQ(finish(&big), BIG);
        await(&bad);
    }
    CHECK_EQ(good_rounds, 1);
}

DEFECT(fails_for_want_of_space_as_the_write_before_it, NO_ERROR)
{
    char name[] = "small-XXXXXX", file[64];

    /* A small file system of this process's own: it goes with the process. */
    if (unshare(CLONE_NEWNS) == -1)
        SKIP("a private mount needs root");
    CHECK_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    CHECK(mkdtemp(name) != NULL);
    CHECK_EQ(mount("none", name, "tmpfs", 0, "size=64m"), 0);
    snprintf(file, sizeof file, "%s/file", name);
    int fd = open(file, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(unlink(file), 0);
    CHECK_EQ(umount2(name, MNT_DETACH), 0);
    CHECK_EQ(rmdir(name), 0);
    check_inherited(fd, fd, BIG, ENOSPC);
}
