/*
 * aio_read2 and aio_write2: at the descriptor's own position, one after the other in the order of the calls; and of
 * the parts of an array.
 */
#include "extensions.h"
#include <sys/socket.h>

enum { COUNT = 200 };
static struct aiocb requests[COUNT];

/* Fails when the requests go by their offset, or in any order: records stand elsewhere. */
EXTENSION(writes_follow_each_other)
{
    static unsigned char out[COUNT][3], in[COUNT * 3];
    int fd = temporary_file(0);

    CHECK_EQ(lseek(fd, 10, SEEK_SET), 10);
    for (int i = 0; i < COUNT; i++) {
        pattern(out[i], 3, (unsigned)i);
        prepare(&requests[i], fd, out[i], 3, -7);
        CHECK_EQ(aio_write2(&requests[i], AIO_OP2_FOFFSET), 0);
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(finish(&requests[i]), 3);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10 + COUNT * 3);
    CHECK_EQ(pread(fd, in, sizeof in, 10), sizeof in);
    CHECK_EQ(memcmp(in, out, sizeof in), 0);
}

EXTENSION(reads_follow_each_other_through_copies_of_the_descriptor)
{
    static unsigned char out[COUNT * 3], in[COUNT][3];
    int fd = temporary_file(0), copy = dup(fd);

    pattern(out, sizeof out, 9);
    CHECK_EQ(pwrite(fd, out, sizeof out, 0), sizeof out);
    for (int i = 0; i < COUNT; i++) {
        prepare(&requests[i], i % 3 == 0 ? copy : fd, in[i], 3, 1 << 20);
        CHECK_EQ(aio_read2(&requests[i], AIO_OP2_FOFFSET), 0);
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(finish(&requests[i]), 3);
    CHECK_EQ(memcmp(in, out, sizeof in), 0);
    prepare(&requests[0], fd, in[0], 3, 0);
    CHECK_EQ(aio_read2(&requests[0], AIO_OP2_FOFFSET), 0);
    CHECK_EQ(finish(&requests[0]), 0);
}

/* Reads and writes move the one position; fails when each direction has a queue of its own. */
EXTENSION(reads_and_writes_take_turns)
{
    static unsigned char in[COUNT];
    int fd = temporary_file(0);
    unsigned char expected[COUNT];

    for (int i = 0; i < COUNT; i++)
        expected[i] = (unsigned char)('a' + i % 26);
    CHECK_EQ(pwrite(fd, expected, COUNT, 0), COUNT);
    for (int i = 0; i < COUNT; i++) {
        static unsigned char mark = '!';

        prepare(&requests[i], fd, i % 2 ? &mark : &in[i], 1, 0);
        CHECK_EQ(i % 2 ? aio_write2(&requests[i], AIO_OP2_FOFFSET) : aio_read2(&requests[i], AIO_OP2_FOFFSET), 0);
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(finish(&requests[i]), 1);
    for (int i = 0; i < COUNT; i += 2)
        CHECK_EQ(in[i], expected[i]);
    CHECK_EQ(pread(fd, in, COUNT, 0), COUNT);
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(in[i], i % 2 ? '!' : expected[i]);
}

/* What appends goes to the end, after other appending writes that were called before. Fails when aio_offset is looked at. */
EXTENSION(appending_writes_keep_their_order)
{
    static unsigned char out[COUNT], in[COUNT];
    int fd = temporary_file(O_APPEND);

    for (int i = 0; i < COUNT; i++) {
        out[i] = (unsigned char)i;
        prepare(&requests[i], fd, &out[i], 1, i % 2 ? 0 : -7);
        CHECK_EQ(i % 2 ? aio_write(&requests[i]) : aio_write2(&requests[i], AIO_OP2_FOFFSET), 0);
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(finish(&requests[i]), 1);
    CHECK_EQ(pread(fd, in, COUNT, 0), COUNT);
    CHECK_EQ(memcmp(in, out, COUNT), 0);
}

/* Fails when such writes are not counted for the file's barriers. */
EXTENSION(aio_fsync_comes_after_them)
{
    static unsigned char block[1 << 16];
    struct aiocb sync;
    int fd = temporary_file(0);

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 30; i++) {
            prepare(&requests[i], fd, block, sizeof block, 0);
            CHECK_EQ(aio_write2(&requests[i], AIO_OP2_FOFFSET), 0);
        }
        prepare(&sync, fd, NULL, 0, 0);
        CHECK_EQ(aio_fsync(O_SYNC, &sync), 0);
        CHECK_EQ(finish(&sync), 0);
        for (int i = 0; i < 30; i++)
            CHECK_EQ(aio_error(&requests[i]), 0);
    }
}

EXTENSION(one_that_waits_its_turn_can_be_cancelled)
{
    static unsigned char big[8 << 20];
    int fd = temporary_file(0);
    int cancelled = 0;
    off_t written = 0;

    for (int i = 0; i < 20; i++) {
        prepare(&requests[i], fd, big, sizeof big, 0);
        CHECK_EQ(aio_write2(&requests[i], AIO_OP2_FOFFSET), 0);
    }
    for (int i = 19; i >= 10; i--) {
        int answer = aio_cancel(fd, &requests[i]);

        CHECK(answer == AIO_CANCELED || answer == AIO_NOTCANCELED || answer == AIO_ALLDONE);
        cancelled += answer == AIO_CANCELED;
    }
    for (int i = 0; i < 20; i++)
        if (await(&requests[i]) == 0)
            written += aio_return(&requests[i]);
    CHECK(cancelled > 0);
    CHECK_EQ(written, (off_t)(20 - cancelled) * (off_t)sizeof big);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), written);
}

EXTENSION(flags)
{
    static unsigned char in[20];
    struct iovec parts[2] = { { in, 3 }, { in + 10, 3 } };
    struct aiocb cb;
    int fd = temporary_file(0), ends[2];

    CHECK_EQ(pwrite(fd, "abcdefghij", 10, 0), 10);
    prepare(&cb, fd, in, 3, 4);
    CHECK_FAILS(aio_read2(&cb, 4), EINVAL);
    CHECK_FAILS(aio_write2(&cb, -1), EINVAL);
    CHECK_EQ(aio_read2(&cb, 0), 0);
    CHECK_EQ(finish(&cb), 3);
    CHECK_EQ(memcmp(in, "efg", 3), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    prepare_parts(&cb, fd, parts, 2, 2);
    CHECK_EQ(aio_read2(&cb, AIO_OP2_VECTORED), 0);
    CHECK_EQ(finish(&cb), 6);
    CHECK_EQ(memcmp(in, "cde", 3), 0);
    CHECK_EQ(memcmp(in + 10, "fgh", 3), 0);
    CHECK_EQ(lseek(fd, 1, SEEK_SET), 1);
    prepare_parts(&cb, fd, parts, 2, 2);
    CHECK_EQ(aio_read2(&cb, AIO_OP2_VECTORED | AIO_OP2_FOFFSET), 0);
    CHECK_EQ(finish(&cb), 6);
    CHECK_EQ(memcmp(in, "bcd", 3), 0);
    CHECK_EQ(memcmp(in + 10, "efg", 3), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 7);
    /* A pipe has no other position. */
    CHECK_EQ(pipe(ends), 0);
    prepare(&cb, ends[0], in, 3, 0);
    CHECK_EQ(aio_read2(&cb, AIO_OP2_FOFFSET), 0);
    CHECK_EQ(write(ends[1], "xyz", 3), 3);
    CHECK_EQ(finish(&cb), 3);
    CHECK_EQ(memcmp(in, "xyz", 3), 0);
}
