/*
 * aio_cancel: each of its answers, in the order of its checks.
 *
 * Seen to fail: with AIO_CANCELED answered but the request not ended, all that cancel something; with the descriptor not
 * compared, an_aiocb_of_another_descriptor_gives_EINVAL; with a request found by its slot though the aiocb is another,
 * an_unknown_aiocb_gives_EINVAL.
 */
#include "check.h"

static volatile sig_atomic_t signals_seen;

static void count_signal(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    signals_seen++;
}

CASE(a_bad_descriptor_gives_EBADF)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    memset(&cb, 0, sizeof cb);
    cb.aio_fildes = fd;
    close(fd);
    CHECK_FAILS(aio_cancel(fd, NULL), EBADF);
    CHECK_FAILS(aio_cancel(-1, NULL), EBADF);
    CHECK_FAILS(aio_cancel(INT_MAX, NULL), EBADF);
    CHECK_FAILS(aio_cancel(fd, &cb), EBADF);
    /* Before the descriptor of the aiocb is looked at. */
    CHECK_FAILS(aio_cancel(-1, &cb), EBADF);
}

CASE(an_aiocb_of_another_descriptor_gives_EINVAL)
{
    int fd = temporary_file(0), other = temporary_file(0);
    struct aiocb cb;
    char byte = 0;
    int ends[2];

    /* Before it is looked at whether it is done. */
    prepare(&cb, fd, "c", 1, 0);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
    CHECK_FAILS(aio_cancel(other, &cb), EINVAL);
    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_FAILS(aio_cancel(other, &cb), EINVAL);
    CHECK_EQ(aio_error(&cb), EINPROGRESS);
}

CASE(what_is_done_gives_AIO_ALLDONE)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    prepare(&cb, fd, "c", 1, 0);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(aio_cancel(fd, &cb), AIO_ALLDONE);
        CHECK_EQ(aio_cancel(fd, NULL), AIO_ALLDONE);
    }
    CHECK_EQ(aio_error(&cb), 0);
    CHECK_EQ(aio_return(&cb), 1);
    prepare(&cb, fd, "c", 1, -1);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(await(&cb), EINVAL);
    CHECK_EQ(aio_cancel(fd, &cb), AIO_ALLDONE);
    CHECK_EQ(aio_error(&cb), EINVAL);
}

CASE(a_descriptor_without_requests_gives_AIO_ALLDONE)
{
    struct aiocb cb;
    char byte = 0;
    int ends[2];

    CHECK_EQ(aio_cancel(temporary_file(0), NULL), AIO_ALLDONE);
    CHECK_EQ(aio_cancel(STDOUT_FILENO, NULL), AIO_ALLDONE);
    /* Requests of others do not count. */
    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(aio_cancel(ends[1], NULL), AIO_ALLDONE);
    CHECK_EQ(aio_error(&cb), EINPROGRESS);
}

/* In flight by its own word, but nobody knows it. */
CASE(an_unknown_aiocb_gives_EINVAL)
{
    struct aiocb cb, copy;
    char byte = 0;
    int ends[2];

    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    copy = cb;
    CHECK_EQ(aio_error(&copy), EINPROGRESS);
    CHECK_FAILS(aio_cancel(ends[0], &copy), EINVAL);
    CHECK_EQ(aio_error(&cb), EINPROGRESS);
    CHECK_EQ(write(ends[1], "b", 1), 1);
    CHECK_EQ(finish(&cb), 1);
}

static void prepare_signalling(struct aiocb *cb, int fd, void *buffer, size_t size)
{
    prepare(cb, fd, buffer, size, 0);
    cb->aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    cb->aio_sigevent.sigev_signo = SIGUSR1;
}

/* Two reads of one pipe: the second has not started, and is cancelled with all that belongs to it. */
CASE(what_has_not_started_is_canceled)
{
    struct aiocb first, second, third;
    char a = 0, b = 0, c = 0;
    int ends[2];

    on_signal(SIGUSR1, count_signal, SA_RESTART);
    pending_read(&first, ends, &a, 1);
    CHECK_EQ(aio_read(&first), 0);
    prepare_signalling(&second, ends[0], &b, 1);
    CHECK_EQ(aio_read(&second), 0);
    prepare(&third, ends[0], &c, 1, 0);
    CHECK_EQ(aio_read(&third), 0);
    CHECK_EQ(aio_cancel(ends[0], &second), AIO_CANCELED);
    CHECK_EQ(aio_error(&second), ECANCELED);
    CHECK_EQ(aio_return(&second), -1);
    WAIT_UNTIL(signals_seen > 0);
    nap(20);
    CHECK_EQ(signals_seen, 1);
    CHECK_EQ(aio_cancel(ends[0], &second), AIO_ALLDONE);
    CHECK_EQ(write(ends[1], "12", 2), 2);
    CHECK_EQ(finish(&first), 1);
    CHECK_EQ(finish(&third), 1);
    printf("%c %d %c\n", a, b, c);
    CHECK_EQ(signals_seen, 1);
}

DIFFERS(what_waits_for_data_is_canceled, "libc's thread is inside read() and cannot be called back")
{
    struct aiocb cb;
    char byte = 7;
    int ends[2];

    on_signal(SIGUSR1, count_signal, SA_RESTART);
    CHECK_EQ(pipe(ends), 0);
    for (int round = 1; round <= 50; round++) {
        prepare_signalling(&cb, ends[0], &byte, 1);
        CHECK_EQ(aio_read(&cb), 0);
        if (round % 2 == 0)
            nap(1);
        CHECK_EQ(aio_cancel(ends[0], &cb), AIO_CANCELED);
        CHECK_EQ(aio_error(&cb), ECANCELED);
        CHECK_EQ(aio_return(&cb), -1);
        WAIT_UNTIL(signals_seen == round);
    }
    /* What comes now is for the next reader, not for one of those. */
    CHECK_EQ(write(ends[1], "n", 1), 1);
    nap(20);
    CHECK_EQ(byte, 7);
    CHECK_EQ(read_now(ends[0], &byte, 1, 0), 1);
    CHECK_EQ(byte, 'n');
    CHECK_EQ(signals_seen, 50);
}

DIFFERS(everything_on_a_descriptor_is_canceled, "libc's thread is inside read() and cannot be called back")
{
    enum { MANY = 100 };
    struct aiocb requests[MANY], other;
    char bytes[MANY], other_byte = 0;
    int ends[2], other_ends[2];

    on_signal(SIGUSR1, count_signal, SA_RESTART);
    CHECK_EQ(pipe(ends), 0);
    pending_read(&other, other_ends, &other_byte, 1);
    CHECK_EQ(aio_read(&other), 0);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], ends[0], &bytes[i], 1, 0);
        CHECK_EQ(aio_read(&requests[i]), 0);
    }
    CHECK_EQ(aio_cancel(ends[0], NULL), AIO_CANCELED);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(aio_error(&requests[i]), ECANCELED);
        CHECK_EQ(aio_return(&requests[i]), -1);
    }
    CHECK_EQ(aio_cancel(ends[0], NULL), AIO_ALLDONE);
    CHECK_EQ(aio_error(&other), EINPROGRESS);
}

/* libc answers AIO_NOTCANCELED for the first, but the rest must go. */
CASE(everything_that_has_not_started_is_canceled)
{
    enum { MANY = 20 };
    struct aiocb requests[MANY];
    char bytes[MANY];
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], ends[0], &bytes[i], 1, 0);
        CHECK_EQ(aio_read(&requests[i]), 0);
    }
    nap(50);
    int answer = aio_cancel(ends[0], NULL);
    CHECK(answer == AIO_NOTCANCELED || answer == AIO_CANCELED);
    for (int i = 1; i < MANY; i++)
        CHECK_EQ(aio_error(&requests[i]), ECANCELED);
    CHECK_EQ(aio_error(&requests[0]), answer == AIO_CANCELED ? ECANCELED : EINPROGRESS);
}

/* One waiter learns of it, whatever it waits for. */
static void *wait_for(void *cb)
{
    const struct aiocb *list[1] = { cb };

    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_error(cb), ECANCELED);
    return NULL;
}

CASE(a_waiter_is_woken)
{
    struct aiocb first, second;
    char a, b;
    int ends[2];

    pending_read(&first, ends, &a, 1);
    CHECK_EQ(aio_read(&first), 0);
    prepare(&second, ends[0], &b, 1, 0);
    CHECK_EQ(aio_read(&second), 0);
    pthread_t thread = start_thread(wait_for, &second);
    nap(30);
    CHECK_EQ(aio_cancel(ends[0], &second), AIO_CANCELED);
    join_thread(thread);
}

/* A transfer that cannot be stopped is either finished or told to be going on: never half, never twice. */
CASE(file_requests_end_once)
{
    enum { ROUNDS = 200, SIZE = 65536 };
    int files[] = { temporary_file(0), temporary_file(O_DIRECT) };
    unsigned char *memory = aligned(SIZE), *back = aligned(SIZE);
    struct aiocb cb;

    on_signal(SIGUSR1, count_signal, SA_RESTART);
    for (int round = 0; round < ROUNDS; round++) {
        int fd = files[round % 2];

        memset(memory, round + 1, SIZE);
        prepare_signalling(&cb, fd, memory, SIZE);
        CHECK_EQ(aio_write(&cb), 0);
        int answer = aio_cancel(fd, round % 4 < 2 ? &cb : NULL);
        int error = await(&cb);

        if (answer == AIO_CANCELED) {
            CHECK_EQ(error, ECANCELED);
            CHECK_EQ(aio_return(&cb), -1);
        } else {
            CHECK(answer == AIO_NOTCANCELED || answer == AIO_ALLDONE);
            CHECK_EQ(error, 0);
            CHECK_EQ(aio_return(&cb), SIZE);
        }
        /* What was cancelled has not been written, and is not written later. */
        if (error == ECANCELED)
            nap(2);
        ssize_t got = pread(fd, back, SIZE, 0);
        if (error == 0)
            CHECK(got == SIZE && is_filled(back, SIZE, round + 1));
        else if (got == SIZE)
            CHECK(back[0] != (unsigned char)(round + 1));
        WAIT_UNTIL(signals_seen == round + 1);
    }
    nap(20);
    CHECK_EQ(signals_seen, ROUNDS);
}
