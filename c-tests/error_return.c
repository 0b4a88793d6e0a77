/*
 * aio_error and aio_return: asked as often as one likes, or never.
 *
 * Seen to fail: requests_that_are_never_returned_leak_nothing on a library that does not use its slots again,
 * errno_stays_on_success on one that sets it, polling_alone_sees_every_completion on one that stores a result twice.
 */
#include "tools/descriptors.h"

CASE(both_answer_as_often_as_asked)
{
    int fd = temporary_file(0);
    struct aiocb good, bad;

    prepare(&good, fd, "good", 4, 0);
    prepare(&bad, -1, "bad", 3, 0);
    CHECK_EQ(aio_write(&good), 0);
    CHECK_EQ(aio_write(&bad), 0);
    await(&good);
    await(&bad);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(aio_error(&good), 0);
        CHECK_EQ(aio_return(&good), 4);
        CHECK_EQ(aio_error(&bad), EBADF);
        CHECK_EQ(aio_return(&bad), -1);
    }
    /* Other requests in between change nothing. */
    CHECK_EQ(write_now(fd, "other", 5, 10), 5);
    CHECK_EQ(aio_return(&good), 4);
    CHECK_EQ(aio_error(&bad), EBADF);
}

CASE(aio_return_alone_is_enough)
{
    int fd = temporary_file(0);
    const struct aiocb *list[1];
    struct aiocb cb;

    prepare(&cb, fd, "abc", 3, 0);
    list[0] = &cb;
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_return(&cb), 3);
}

CASE(in_progress_until_it_is_done)
{
    struct aiocb cb;
    char byte = 0;
    int ends[2];

    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(aio_error(&cb), EINPROGRESS);
    CHECK_EQ(write(ends[1], "b", 1), 1);
    WAIT_UNTIL(aio_error(&cb) != EINPROGRESS);
    CHECK_EQ(aio_error(&cb), 0);
    CHECK_EQ(byte, 'b');
}

/* Completion is seen by a program that only ever asks, however busily. */
CASE(polling_alone_sees_every_completion)
{
    int files[] = { temporary_file(0), temporary_file(O_DIRECT) };
    unsigned char *block = aligned(4096);
    struct aiocb cb;

    for (int round = 0; round < 500; round++) {
        double deadline = now() + DEADLINE_SECONDS;

        prepare(&cb, files[round % 2], block, 4096, round / 4 * 4096);
        CHECK_EQ(round % 4 < 2 ? aio_write(&cb) : aio_read(&cb), 0);
        while (aio_error(&cb) == EINPROGRESS)
            if (now() > deadline)
                FAIL("round %d has not ended in time", round);
        CHECK_EQ(aio_return(&cb), 4096);
    }
}

/* Another thread learns of it as well, also one that has submitted nothing. */
static void *poll_for(void *cb)
{
    WAIT_UNTIL(aio_error(cb) != EINPROGRESS);
    CHECK_EQ(aio_return(cb), 1);
    return NULL;
}

CASE(other_threads_see_the_completion)
{
    pthread_t threads[4];
    struct aiocb cb;
    char byte = 0;
    int ends[2];

    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    for (int i = 0; i < 4; i++)
        threads[i] = start_thread(poll_for, &cb);
    CHECK_EQ(write(ends[1], "b", 1), 1);
    for (int i = 0; i < 4; i++)
        join_thread(threads[i]);
}

/* A request that is never collected with aio_return: 100 bytes lost on each would show as 4 MiB. */
static void never_returned(int fd, int rounds)
{
    unsigned char *block = aligned(512);
    struct aiocb cb;

    for (int round = 0; round < rounds; round++) {
        prepare(&cb, fd, block, 512, round % 100 * 512);
        CHECK_EQ(round % 2 == 0 ? aio_write(&cb) : aio_read(&cb), 0);
        CHECK_EQ(await(&cb), 0);
    }
}

CASE(requests_that_are_never_returned_leak_nothing)
{
    int fd = temporary_file(0);

    never_returned(fd, 2000);
    long before = resident_kib();
    never_returned(fd, 40000);
    long grown = resident_kib() - before;
    if (grown > 2048)
        FAIL("40000 requests left %ld KiB", grown);
}

/* An aiocb whose status nobody has looked at can be used again as soon as the request has ended. */
CASE(one_aiocb_is_used_again_and_again)
{
    int fd = temporary_file(0);
    const struct aiocb *list[1];
    struct aiocb cb;
    char byte;

    list[0] = &cb;
    for (int i = 0; i < 1000; i++) {
        char out = (char)i;

        prepare(&cb, fd, &out, 1, i);
        CHECK_EQ(aio_write(&cb), 0);
        CHECK_EQ(aio_suspend(list, 1, NULL), 0);
        cb.aio_buf = &byte;
        CHECK_EQ(aio_read(&cb), 0);
        CHECK_EQ(aio_suspend(list, 1, NULL), 0);
        CHECK_EQ(byte, (char)i);
    }
}

CASE(errno_stays_on_success)
{
    int fd = temporary_file(0);
    struct timespec zero = { 0, 0 };
    const struct aiocb *list[1];
    struct aiocb cb;
    char byte = 0;
    int ends[2];

    prepare(&cb, fd, "e", 1, 0);
    list[0] = &cb;
    CHECK_EQ(aio_write(&cb), 0);
    errno = 4321;
    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_suspend(list, 1, &zero), 0);
    CHECK_EQ(aio_error(&cb), 0);
    CHECK_EQ(aio_return(&cb), 1);
    CHECK_EQ(errno, 4321);

    /* An error of the request is an answer, no failure of the question. */
    prepare(&cb, -1, "e", 1, 0);
    CHECK_EQ(aio_write(&cb), 0);
    await(&cb);
    errno = 4321;
    CHECK_EQ(aio_error(&cb), EBADF);
    CHECK_EQ(errno, 4321);

    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    errno = 4321;
    CHECK_EQ(aio_error(&cb), EINPROGRESS);
    CHECK_EQ(errno, 4321);
    /* It must not outlive this stack. */
    feed(ends[1], "e", 1);
    CHECK_EQ(finish(&cb), 1);
}

/* A program may ask before it has ever submitted. */
CASE(an_aiocb_of_zeros_reads_as_complete)
{
    struct timespec zero = { 0, 0 };
    const struct aiocb *list[1];
    struct aiocb cb;

    memset(&cb, 0, sizeof cb);
    list[0] = &cb;
    CHECK_EQ(aio_error(&cb), 0);
    CHECK_EQ(aio_return(&cb), 0);
    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_suspend(list, 1, &zero), 0);
}

/* From completion on the aiocb and its buffer are the caller's: here their memory is taken away at once. */
CASE(memory_may_be_freed_as_soon_as_the_request_has_ended)
{
    int files[] = { temporary_file(0), temporary_file(O_DIRECT) };
    unsigned char *scratch = aligned(4096);

    for (int i = 0; i < 2; i++)
        for (int block = 0; block < 8; block++)
            CHECK_EQ(pwrite(files[i], scratch, 4096, block * 4096), 4096);
    for (int round = 0; round < 2000; round++) {
        struct aiocb *cb = malloc(sizeof *cb);
        unsigned char *buffer = aligned(4096);

        prepare(cb, files[round % 2], buffer, 4096, round % 8 * 4096);
        CHECK_EQ(round % 4 < 2 ? aio_read(cb) : aio_write(cb), 0);
        CHECK_EQ(finish(cb), 4096);
        memset(cb, 0xDD, sizeof *cb);
        memset(buffer, 0xDD, 4096);
        free(buffer);
        free(cb);
    }
}
