/*
 * aio_reqprio: every value that POSIX allows gives the right result on every kind of descriptor; others are refused.
 *
 * Seen to fail: with 20 out of the range, every_priority_on each kind of descriptor and list_of_every_priority.
 */
#include "tools/descriptors.h"

enum { PRIORITIES = 21, BLOCK = 4096 };

static void start_with(struct aiocb *cb, int is_write, int fd, void *buffer, off_t offset, int priority)
{
    prepare(cb, fd, buffer, BLOCK, offset);
    cb->aio_reqprio = priority;
    CHECK_EQ(is_write ? aio_write(cb) : aio_read(cb), 0);
}

static void check_file(int flags)
{
    static struct aiocb cbs[PRIORITIES];
    unsigned char *data = aligned(PRIORITIES * BLOCK), *got = aligned(PRIORITIES * BLOCK);
    int fd = temporary_file(flags);

    for (int round = 0; round < 3; round++) {
        pattern(data, PRIORITIES * BLOCK, (unsigned)round);
        for (int i = 0; i < PRIORITIES; i++)
            start_with(&cbs[i], 1, fd, data + i * BLOCK, (off_t)i * BLOCK, i);
        for (int i = 0; i < PRIORITIES; i++)
            CHECK_EQ(finish(&cbs[i]), BLOCK);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        for (int i = 0; i < PRIORITIES; i++)
            start_with(&cbs[i], 0, fd, got + i * BLOCK, (off_t)i * BLOCK, i);
        for (int i = 0; i < PRIORITIES; i++)
            CHECK_EQ(finish(&cbs[i]), BLOCK);
        CHECK(is_pattern(got, PRIORITIES * BLOCK, (unsigned)round));
    }
}

CASE(every_priority_on_a_buffered_file) { check_file(0); }
CASE(every_priority_on_a_direct_file) { check_file(O_DIRECT); }
CASE(every_priority_on_a_synchronous_file) { check_file(O_DSYNC); }

CASE(every_priority_on_a_pipe)
{
    unsigned char data[BLOCK], got[BLOCK];
    struct aiocb reading, writing;
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < PRIORITIES; i++) {
        pattern(data, BLOCK, (unsigned)i);
        start_with(&reading, 0, ends[0], got, 0, i);
        start_with(&writing, 1, ends[1], data, 0, PRIORITIES - 1 - i);
        CHECK_EQ(finish(&reading), BLOCK);
        CHECK_EQ(finish(&writing), BLOCK);
        CHECK(is_pattern(got, BLOCK, (unsigned)i));
    }
}

CASE(many_requests_of_mixed_priorities_all_end)
{
    enum { REQUESTS = 2000 };
    static struct aiocb cbs[REQUESTS];
    unsigned char *data = aligned(BLOCK * 100);
    int fd = temporary_file(O_DIRECT), buffered = reopen(fd, O_RDWR);

    CHECK_EQ(ftruncate(fd, BLOCK * 100), 0);
    for (int i = 0; i < REQUESTS; i++)
        start_with(&cbs[i], i % 3 == 0, i % 2 == 0 ? fd : buffered, data + i % 100 * BLOCK, (off_t)(i % 100) * BLOCK,
                   i * 7 % PRIORITIES);
    for (int i = 0; i < REQUESTS; i++)
        CHECK_EQ(finish(&cbs[i]), BLOCK);
}

CASE(list_of_every_priority)
{
    struct aiocb cbs[PRIORITIES], *list[PRIORITIES];
    unsigned char *data = aligned(PRIORITIES * BLOCK), *got = aligned(PRIORITIES * BLOCK);
    int fd = temporary_file(O_DIRECT);

    pattern(data, PRIORITIES * BLOCK, 9);
    for (int i = 0; i < PRIORITIES; i++) {
        list[i] = &cbs[i];
        prepare(&cbs[i], fd, data + i * BLOCK, BLOCK, (off_t)i * BLOCK);
        cbs[i].aio_lio_opcode = LIO_WRITE;
        cbs[i].aio_reqprio = i;
    }
    CHECK_EQ(lio_listio(LIO_WAIT, list, PRIORITIES, NULL), 0);
    CHECK_EQ(pread(fd, got, PRIORITIES * BLOCK, 0), PRIORITIES * BLOCK);
    CHECK(is_pattern(got, PRIORITIES * BLOCK, 9));
}

CASE(other_priorities_are_refused)
{
    static const int priorities[] = { -1, PRIORITIES, 100, INT_MAX, INT_MIN };
    char byte = 'x';
    int fd = temporary_file(0);

    for (int i = 0; i < 5; i++) {
        struct aiocb cb;

        prepare(&cb, fd, &byte, 1, 0);
        cb.aio_reqprio = priorities[i];
        CHECK_FAILS(aio_write(&cb), EINVAL);
        CHECK_EQ(aio_error(&cb), EINVAL);
        CHECK_EQ(aio_return(&cb), -1);
        prepare(&cb, fd, &byte, 1, 0);
        cb.aio_reqprio = priorities[i];
        CHECK_FAILS(aio_read(&cb), EINVAL);
        CHECK_EQ(aio_error(&cb), EINVAL);
    }
    CHECK_EQ(read(fd, &byte, 1), 0);
}
