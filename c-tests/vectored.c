/*
 * aio_readv and aio_writev, LIO_READV and LIO_WRITEV: the buffers of an array, on every kind of descriptor, under every
 * rule of order. What was put back to see each case fail stands in its comment.
 *
 * Seen to fail: with the caller's array not copied, the_array_is_the_callers_again_when_the_call_returns,
 * parts_of_a_direct_file and appends_keep_the_order_of_the_calls; with a negative count, or no array, let through,
 * as_many_parts_as_iov_max.
 */
#include "extensions.h"
#include <sys/mman.h>
#include <sys/socket.h>

enum { PARTS = 5 };
static const size_t sizes[PARTS] = { 100, 0, 4000, 1, 9000 };
enum { TOTAL = 100 + 4000 + 1 + 9000 };

/* Cuts memory into the parts above. */
static void cut(struct iovec parts[PARTS], unsigned char *memory)
{
    for (int i = 0; i < PARTS; i++) {
        parts[i].iov_base = memory;
        parts[i].iov_len = sizes[i];
        memory += sizes[i];
    }
}

static void write_and_read_parts(int fd)
{
    static unsigned char out[TOTAL], in[TOTAL];
    struct iovec parts[PARTS];
    struct aiocb cb;

    pattern(out, TOTAL, 1);
    cut(parts, out);
    prepare_parts(&cb, fd, parts, PARTS, 50);
    CHECK_EQ(aio_writev(&cb), 0);
    CHECK_EQ(finish(&cb), TOTAL);
    CHECK_EQ(cb.aio_lio_opcode, LIO_WRITEV);
    cut(parts, in);
    prepare_parts(&cb, fd, parts, PARTS, 50);
    CHECK_EQ(aio_readv(&cb), 0);
    CHECK_EQ(finish(&cb), TOTAL);
    CHECK_EQ(cb.aio_lio_opcode, LIO_READV);
    CHECK(is_pattern(in, TOTAL, 1));
    CHECK_EQ(memcmp(in, out, TOTAL), 0);
}

/* Fails when one iovec is passed on instead of all: the return value is 100. */
EXTENSION(parts_of_a_cached_file)
{
    write_and_read_parts(temporary_file(0));
}

EXTENSION(parts_of_a_file_in_memory)
{
    write_and_read_parts(memfd_create("parts", 0));
}

/* Through IOCB_CMD_PREADV and PWRITEV; fails when the iocb keeps PREAD's opcode: EFAULT, or bytes of the array. */
EXTENSION(parts_of_a_direct_file)
{
    unsigned char *out = aligned(16384), *in = aligned(16384);
    struct iovec parts[2];
    struct aiocb cb;
    int fd = temporary_file(O_DIRECT);

    CHECK_EQ(ftruncate(fd, 16384), 0);
    pattern(out, 16384, 2);
    for (int round = 0; round < 2; round++) {
        parts[0] = (struct iovec){ out, 4096 };
        parts[1] = (struct iovec){ out + 4096, 12288 };
        prepare_parts(&cb, fd, parts, 2, 0);
        CHECK_EQ(aio_writev(&cb), 0);
        memset(parts, 0, sizeof parts);
        CHECK_EQ(finish(&cb), 16384);
    }
    parts[0] = (struct iovec){ in + 8192, 8192 };
    parts[1] = (struct iovec){ in, 8192 };
    prepare_parts(&cb, fd, parts, 2, 0);
    CHECK_EQ(aio_readv(&cb), 0);
    memset(parts, 0, sizeof parts);
    CHECK_EQ(finish(&cb), 16384);
    CHECK_EQ(memcmp(in + 8192, out, 8192), 0);
    CHECK_EQ(memcmp(in, out + 8192, 8192), 0);
}

/* The second half is not in the page cache; fails when the copy is not shortened by what the first half gave. */
EXTENSION(parts_of_a_partly_cached_file)
{
    enum { SIZE = 1 << 20 };
    unsigned char *out = aligned(SIZE), *in = aligned(SIZE);
    struct iovec parts[3] = { { in, 12345 }, { in + 12345, 70000 }, { in + 82345, 200000 } };
    struct aiocb cb;
    int fd = temporary_file(0);

    pattern(out, SIZE, 3);
    CHECK_EQ(pwrite(fd, out, SIZE, 0), SIZE);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(posix_fadvise(fd, 16384, 0, POSIX_FADV_DONTNEED), 0);
    prepare_parts(&cb, fd, parts, 3, 0);
    CHECK_EQ(aio_readv(&cb), 0);
    CHECK_EQ(finish(&cb), 282345);
    CHECK_EQ(memcmp(in, out, 282345), 0);
}

EXTENSION(the_end_of_the_file_ends_the_parts)
{
    static unsigned char in[300];
    struct iovec parts[3] = { { in, 100 }, { in + 100, 100 }, { in + 200, 100 } };
    struct aiocb cb;
    int fd = temporary_file(0);

    memset(in, 0x55, sizeof in);
    CHECK_EQ(pwrite(fd, "x", 1, 149), 1);
    prepare_parts(&cb, fd, parts, 3, 0);
    CHECK_EQ(aio_readv(&cb), 0);
    CHECK_EQ(finish(&cb), 150);
    CHECK_EQ(in[149], 'x');
    CHECK(is_filled(in + 150, 150, 0x55));
}

/* Beyond sixteen parts copies come from another pool; 1,024 is IOV_MAX. */
EXTENSION(as_many_parts_as_iov_max)
{
    enum { MOST = 1024 };
    static unsigned char out[MOST * 3], in[MOST * 3];
    static struct iovec parts[MOST + 1];
    struct aiocb cb;
    int fd = temporary_file(0);
    static const int counts[] = { 0, 1, 16, 17, 100, MOST };

    pattern(out, sizeof out, 4);
    for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
        int count = counts[k];

        for (int i = 0; i < count; i++)
            parts[i] = (struct iovec){ out + i * 3, 3 };
        prepare_parts(&cb, fd, parts, count, 0);
        CHECK_EQ(aio_writev(&cb), 0);
        CHECK_EQ(finish(&cb), count * 3);
        for (int i = 0; i < count; i++)
            parts[i] = (struct iovec){ in + i * 3, 3 };
        memset(in, 0, sizeof in);
        prepare_parts(&cb, fd, parts, count, 0);
        CHECK_EQ(aio_readv(&cb), 0);
        CHECK_EQ(finish(&cb), count * 3);
        CHECK_EQ(memcmp(in, out, (size_t)count * 3), 0);
    }
    prepare_parts(&cb, fd, parts, MOST + 1, 0);
    CHECK_FAILS(aio_readv(&cb), EINVAL);
    CHECK_EQ(aio_error(&cb), EINVAL);
    CHECK_FAILS(aio_writev(&cb), EINVAL);
    prepare_parts(&cb, fd, parts, -1, 0);
    CHECK_FAILS(aio_readv(&cb), EINVAL);
    prepare_parts(&cb, fd, NULL, 1, 0);
    CHECK_FAILS(aio_readv(&cb), EFAULT);
    CHECK_EQ(aio_error(&cb), EFAULT);
    prepare_parts(&cb, fd, NULL, 0, 0);
    CHECK_EQ(aio_readv(&cb), 0);
    CHECK_EQ(finish(&cb), 0);
}

EXTENSION(a_sum_over_ssize_max_is_the_requests_error)
{
    static unsigned char byte;
    struct iovec parts[2] = { { &byte, SSIZE_MAX }, { &byte, SSIZE_MAX } };
    struct aiocb cb;

    prepare_parts(&cb, temporary_file(0), parts, 2, 0);
    CHECK_EQ(aio_writev(&cb), 0);
    CHECK_EQ(await(&cb), EINVAL);
    CHECK_EQ(aio_return(&cb), -1);
}

/* Fails when the caller's array is used after the call has returned: the read goes astray. */
EXTENSION(the_array_is_the_callers_again_when_the_call_returns)
{
    static unsigned char first[10], second[10], wrong[20];
    struct iovec parts[2] = { { first, 10 }, { second, 10 } };
    struct aiocb cb;
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    prepare_parts(&cb, ends[0], parts, 2, 0);
    CHECK_EQ(aio_readv(&cb), 0);
    parts[0] = (struct iovec){ wrong, 20 };
    parts[1] = (struct iovec){ NULL, 0 };
    CHECK_EQ(aio_error(&cb), EINPROGRESS);
    CHECK_EQ(write(ends[1], "0123456789abcdefghij", 20), 20);
    CHECK_EQ(finish(&cb), 20);
    CHECK_EQ(memcmp(first, "0123456789", 10), 0);
    CHECK_EQ(memcmp(second, "abcdefghij", 10), 0);
    CHECK(is_filled(wrong, 20, 0));
}

/* Many times a pipe's buffer: it goes out in pieces that end in the middle of parts. */
EXTENSION(a_pipe_takes_the_parts_in_pieces)
{
    enum { EACH = 33333, COUNT = 20, SIZE = EACH * COUNT };
    unsigned char *out = aligned(SIZE), *in = aligned(SIZE);
    struct iovec parts[COUNT];
    struct aiocb cb;
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    pattern(out, SIZE, 5);
    for (int i = 0; i < COUNT; i++)
        parts[i] = (struct iovec){ out + i * EACH, EACH };
    prepare_parts(&cb, ends[1], parts, COUNT, 0);
    CHECK_EQ(aio_writev(&cb), 0);
    for (size_t got = 0; got < SIZE;) {
        ssize_t count = read(ends[0], in + got, SIZE - got < 7001 ? SIZE - got : 7001);

        CHECK(count > 0);
        got += (size_t)count;
    }
    CHECK_EQ(finish(&cb), SIZE);
    CHECK_EQ(memcmp(in, out, SIZE), 0);
}

EXTENSION(the_parts_of_a_datagram_are_one_message)
{
    static unsigned char in[100];
    struct iovec parts[3] = { { "one ", 4 }, { "two ", 4 }, { "three", 5 } };
    struct aiocb cb;
    int ends[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
    prepare_parts(&cb, ends[1], parts, 3, 0);
    CHECK_EQ(aio_writev(&cb), 0);
    CHECK_EQ(finish(&cb), 13);
    CHECK_EQ(recv(ends[0], in, sizeof in, 0), 13);
    CHECK_EQ(memcmp(in, "one two three", 13), 0);
}

/* Fails when vectored writes pass by the file's queue. */
EXTENSION(appends_keep_the_order_of_the_calls)
{
    enum { COUNT = 400 };
    static struct aiocb requests[COUNT];
    static unsigned char bytes[COUNT][2], in[COUNT * 2];
    int fd = temporary_file(O_APPEND);

    for (int i = 0; i < COUNT; i++) {
        struct iovec parts[2] = { { &bytes[i][0], 1 }, { &bytes[i][1], 1 } };

        bytes[i][0] = (unsigned char)i;
        bytes[i][1] = (unsigned char)(i >> 8);
        if (i % 2 == 0) {
            prepare_parts(&requests[i], fd, parts, 2, 0);
            CHECK_EQ(aio_writev(&requests[i]), 0);
        } else {
            prepare(&requests[i], fd, bytes[i], 2, 0);
            CHECK_EQ(aio_write(&requests[i]), 0);
        }
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(finish(&requests[i]), 2);
    CHECK_EQ(pread(fd, in, sizeof in, 0), sizeof in);
    CHECK_EQ(memcmp(in, bytes, sizeof in), 0);
}

EXTENSION(lists_have_vectored_elements)
{
    static unsigned char in[3][10];
    struct iovec out_parts[2] = { { "hello ", 6 }, { "world", 5 } };
    struct iovec in_parts[2] = { { in[0], 6 }, { in[1], 5 } };
    struct aiocb writes, reads, plain, bad;
    struct aiocb *first[1] = { &writes };
    struct aiocb *second[3] = { &reads, &plain, &bad };
    int fd = temporary_file(0);

    prepare_parts(&writes, fd, out_parts, 2, 0);
    writes.aio_lio_opcode = LIO_WRITEV;
    CHECK_EQ(lio_listio(LIO_WAIT, first, 1, NULL), 0);
    prepare_parts(&reads, fd, in_parts, 2, 0);
    reads.aio_lio_opcode = LIO_READV;
    prepare(&plain, fd, in[2], 5, 6);
    plain.aio_lio_opcode = LIO_READ;
    prepare_parts(&bad, fd, in_parts, 2, 0);
    bad.aio_lio_opcode = LIO_VECTORED | LIO_NOP;
    CHECK_FAILS(lio_listio(LIO_WAIT, second, 3, NULL), EIO);
    CHECK_EQ(aio_return(&reads), 11);
    CHECK_EQ(aio_return(&plain), 5);
    CHECK_EQ(aio_error(&bad), EINVAL);
    CHECK_EQ(memcmp(in[0], "hello ", 6), 0);
    CHECK_EQ(memcmp(in[1], "world", 5), 0);
    CHECK_EQ(memcmp(in[2], "world", 5), 0);
}

/* A copy is given back when its request is over; fails with a growing process when it is not. */
EXTENSION(copies_are_given_back)
{
    static unsigned char byte[2];
    struct iovec parts[1024];
    struct aiocb cb;
    int fd = temporary_file(0), ends[2];
    long before = 0;

    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < 1024; i++)
        parts[i] = (struct iovec){ byte, i < 2 };
    for (int round = 0; round < 4000; round++) {
        if (round == 1000)
            before = resident_kib();
        prepare_parts(&cb, fd, parts, 1024, 0);
        CHECK_EQ(aio_writev(&cb), 0);
        CHECK_EQ(finish(&cb), 2);
        prepare_parts(&cb, ends[0], parts, 1024, 0);
        CHECK_EQ(aio_readv(&cb), 0);
        CHECK_EQ(aio_cancel(ends[0], &cb), AIO_CANCELED);
        prepare_parts(&cb, -1, parts, 1024, 0);
        CHECK_EQ(aio_readv(&cb), 0);
        CHECK_EQ(await(&cb), EBADF);
    }
    CHECK(resident_kib() - before < 4096);
}
