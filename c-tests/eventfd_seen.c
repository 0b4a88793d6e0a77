/*
 * SIGEV_AIO_EVENTFD: what was counted can be seen, whichever thread takes completions out of the ring, and is counted once.
 * What was put back to see each case fail stands in its comment.
 *
 * Seen to fail: with nothing done about a leader that has the event, all cases but what_a_helper_finishes_is_counted_once;
 * with the kernel's count of a write that bounced not taken back, that one.
 */
#include "extensions.h"
#include <sys/eventfd.h>

enum { ROUNDS = 3000 };
static int counter, file;
static unsigned char *block;

/* A direct read that tells the eventfd, and another request that keeps the completion thread at the ring. */
static void begin(void)
{
    static struct aiocb other;
    static unsigned char byte;
    int ends[2];

    counter = eventfd(0, EFD_CLOEXEC);
    CHECK(counter >= 0);
    file = temporary_file(O_DIRECT);
    block = aligned(4096);
    CHECK_EQ(pwrite(file, block, 4096, 0), 4096);
    CHECK_EQ(pipe(ends), 0);
    prepare(&other, ends[0], &byte, 1, 0);
    other.aio_sigevent.sigev_notify = SIGEV_AIO_EVENTFD;
    other.aio_sigevent.sigev_signo = eventfd(0, EFD_CLOEXEC);
    CHECK_EQ(aio_read(&other), 0);
}

static void read_and_be_told(struct aiocb *cb)
{
    uint64_t count;

    prepare(cb, file, block, 4096, 0);
    cb->aio_sigevent.sigev_notify = SIGEV_AIO_EVENTFD;
    cb->aio_sigevent.sigev_signo = counter;
    CHECK_EQ(aio_read(cb), 0);
    CHECK_EQ(read(counter, &count, sizeof count), sizeof count);
    CHECK_EQ(count, 1);
}

/*
 * Each fails when the calls do not wait for the thread that is taking the completion (`told`): the count goes up in the
 * kernel, and that thread has not stored the status yet.
 */
EXTENSION(aio_error_sees_what_was_counted)
{
    struct aiocb cb;

    begin();
    for (int i = 0; i < ROUNDS; i++) {
        read_and_be_told(&cb);
        CHECK_EQ(aio_error(&cb), 0);
        CHECK_EQ(aio_return(&cb), 4096);
    }
}

EXTENSION(aio_return_sees_what_was_counted)
{
    struct aiocb cb;

    begin();
    for (int i = 0; i < ROUNDS; i++) {
        read_and_be_told(&cb);
        CHECK_EQ(aio_return(&cb), 4096);
    }
}

EXTENSION(aio_suspend_sees_what_was_counted)
{
    static struct timespec at_once = { 0, 0 };
    struct aiocb cb;
    const struct aiocb *list[1] = { &cb };

    begin();
    for (int i = 0; i < ROUNDS; i++) {
        read_and_be_told(&cb);
        CHECK_EQ(aio_suspend(list, 1, &at_once), 0);
    }
}

EXTENSION(aio_cancel_sees_what_was_counted)
{
    struct aiocb cb;

    begin();
    for (int i = 0; i < ROUNDS; i++) {
        read_and_be_told(&cb);
        CHECK_EQ(aio_cancel(file, i % 2 == 0 ? &cb : NULL), AIO_ALLDONE);
    }
}

EXTENSION(aio_waitcomplete_sees_what_was_counted)
{
    static struct timespec at_once = { 0, 0 };
    struct aiocb cb, *done;

    begin();
    for (int i = 0; i < ROUNDS; i++) {
        read_and_be_told(&cb);
        CHECK_EQ(aio_waitcomplete(&done, &at_once), 4096);
        CHECK(done == &cb);
    }
}

/*
 * Writes into holes: the kernel would have to wait, says so in the ring, and counts that too. Fails, with two counts,
 * when that count is not taken back.
 */
EXTENSION(what_a_helper_finishes_is_counted_once)
{
    enum { BLOCKS = 200 };
    uint64_t count;
    struct aiocb cb;
    int kinds[] = { 0, EFD_SEMAPHORE }, before[] = { 0, 5 };

    block = aligned(4096);
    for (int kind = 0; kind < 4; kind++) {
        file = temporary_file(O_DIRECT);
        CHECK_EQ(ftruncate(file, BLOCKS * 4096), 0);
        counter = eventfd((unsigned)before[kind / 2], EFD_CLOEXEC | EFD_NONBLOCK | kinds[kind % 2]);
        CHECK(counter >= 0);
        for (int i = 0; i < BLOCKS; i += 2) {
            prepare(&cb, file, block, 4096, i * 4096);
            cb.aio_sigevent.sigev_notify = SIGEV_AIO_EVENTFD;
            cb.aio_sigevent.sigev_signo = counter;
            CHECK_EQ(aio_write(&cb), 0);
            CHECK_EQ(finish(&cb), 4096);
        }
        /* The last notification may still be on its way when its status is seen. */
        uint64_t all = 0, wanted = BLOCKS / 2 + (unsigned)before[kind / 2];
        for (double deadline = now() + 1; all < wanted && now() < deadline; nap(1))
            while (read(counter, &count, sizeof count) == sizeof count)
                all += count;
        nap(20);
        while (read(counter, &count, sizeof count) == sizeof count)
            all += count;
        CHECK_EQ(all, wanted);
        close(counter);
        close(file);
    }
}

/*
 * The kernel tells of an fsync itself. Fails, with a count before the status, when `told` passes over what is no transfer;
 * that the kernel tells is seen with strace only.
 */
EXTENSION(aio_fsync_is_seen_as_soon_as_it_is_counted)
{
    uint64_t count;
    struct aiocb cb;

    begin();
    for (int i = 0; i < 100; i++) {
        prepare(&cb, file, NULL, 0, 0);
        cb.aio_sigevent.sigev_notify = SIGEV_AIO_EVENTFD;
        cb.aio_sigevent.sigev_signo = counter;
        CHECK_EQ(aio_fsync(i % 2 == 0 ? O_SYNC : O_DSYNC, &cb), 0);
        CHECK_EQ(read(counter, &count, sizeof count), sizeof count);
        CHECK_EQ(count, 1);
        CHECK_EQ(aio_error(&cb), 0);
    }
}
