/*
 * A descriptor's number becomes another file's between two calls: each request is answered for what it is now. The library
 * guesses from the last look; every case fails when a wrong guess is taken for the truth.
 */
#include "tools/descriptors.h"
#include <sys/mman.h>
#include <sys/socket.h>

enum { SIZE = 65536 };
static unsigned char *block;
static int fd;

/* The number is an O_DIRECT file's, and has been read from; then it is that of another, which is closed. */
static void becomes(int other)
{
    static int direct = -1;
    struct aiocb cb;

    if (direct == -1) {
        direct = temporary_file(O_DIRECT);
        fd = dup(direct);
        block = aligned(SIZE);
        CHECK_EQ(pwrite(direct, block, SIZE, 0), SIZE);
    }
    CHECK_EQ(dup2(direct, fd), fd);
    for (int i = 0; i < 2; i++) {
        prepare(&cb, fd, block, 4096, 4096 * i);
        CHECK_EQ(aio_read(&cb), 0);
        CHECK_EQ(finish(&cb), 4096);
    }
    memset(block, 0, SIZE);
    if (other == -1) {
        CHECK_EQ(close(fd), 0);
        return;
    }
    CHECK_EQ(dup2(other, fd), fd);
    close(other);
}

CASE(a_file_that_is_partly_cached)
{
    unsigned char *out = aligned(SIZE);
    int file;

    pattern(out, SIZE, 1);
    for (int round = 0; round < 10; round++) {
        file = temporary_file(0);
        CHECK_EQ(pwrite(file, out, SIZE, 0), SIZE);
        CHECK_EQ(fsync(file), 0);
        CHECK_EQ(posix_fadvise(file, 4096 * (round + 1), 0, POSIX_FADV_DONTNEED), 0);
        becomes(file);
        CHECK_EQ(read_now(fd, block, SIZE, 0), SIZE);
        CHECK(is_pattern(block, SIZE, 1));
        CHECK_EQ(read_now(fd, block, SIZE, SIZE - 10), 10);
    }
}

CASE(a_file_in_memory)
{
    int file = memfd_create("guess", 0);

    CHECK_EQ(pwrite(file, "memory", 6, 0), 6);
    becomes(file);
    CHECK_EQ(read_now(fd, block, SIZE, 0), 6);
    CHECK_EQ(memcmp(block, "memory", 6), 0);
}

CASE(an_empty_pipe)
{
    struct aiocb cb;
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    becomes(ends[0]);
    prepare(&cb, fd, block, SIZE, 0);
    CHECK_EQ(aio_read(&cb), 0);
    nap(20);
    CHECK_EQ(aio_error(&cb), EINPROGRESS);
    CHECK_EQ(write(ends[1], "later", 5), 5);
    CHECK_EQ(finish(&cb), 5);
}

CASE(a_pipe_with_data)
{
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(write(ends[1], "there", 5), 5);
    becomes(ends[0]);
    CHECK_EQ(read_now(fd, block, SIZE, 7), 5);
    CHECK_EQ(memcmp(block, "there", 5), 0);
}

CASE(an_empty_pipe_that_does_not_block)
{
    struct aiocb cb;
    int ends[2];

    CHECK_EQ(pipe2(ends, O_NONBLOCK), 0);
    becomes(ends[0]);
    prepare(&cb, fd, block, SIZE, 0);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(await(&cb), EAGAIN);
}

CASE(a_socket)
{
    struct aiocb cb;
    int ends[2];

    for (int offset = 0; offset <= 4096; offset += 4096) {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        becomes(ends[0]);
        prepare(&cb, fd, block, SIZE, offset);
        CHECK_EQ(aio_read(&cb), 0);
        nap(10);
        CHECK_EQ(write(ends[1], "socket", 6), 6);
        CHECK_EQ(finish(&cb), 6);
        close(ends[1]);
    }
}

CASE(a_terminal)
{
    struct aiocb cb;
    int master = posix_openpt(O_RDWR | O_NOCTTY);

    CHECK(master >= 0);
    CHECK_EQ(grantpt(master), 0);
    CHECK_EQ(unlockpt(master), 0);
    becomes(open(ptsname(master), O_RDWR | O_NOCTTY));
    prepare(&cb, fd, block, SIZE, 0);
    CHECK_EQ(aio_read(&cb), 0);
    nap(20);
    CHECK_EQ(aio_error(&cb), EINPROGRESS);
    CHECK_EQ(write(master, "line\n", 5), 5);
    CHECK_EQ(finish(&cb), 5);
}

CASE(devices)
{
    becomes(open("/dev/zero", O_RDWR));
    memset(block, 1, SIZE);
    CHECK_EQ(read_now(fd, block, SIZE, 0), SIZE);
    CHECK(is_filled(block, SIZE, 0));
    becomes(open("/dev/null", O_RDWR));
    CHECK_EQ(read_now(fd, block, SIZE, 0), 0);
}

static void check_read_fails(int other, int error)
{
    struct aiocb cb;

    becomes(other);
    prepare(&cb, fd, block, 4096, 0);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(await(&cb), error);
    CHECK_EQ(aio_return(&cb), -1);
}

CASE(what_cannot_be_read)
{
    int file = temporary_file(0);

    check_read_fails(open(test_directory(), O_RDONLY), EISDIR);
    check_read_fails(reopen(file, O_WRONLY), EBADF);
    check_read_fails(reopen(file, O_PATH), EBADF);
    check_read_fails(-1, EBADF);
}

CASE(the_file_without_O_DIRECT)
{
    unsigned char *odd = aligned(8192);

    becomes(temporary_file(0));
    CHECK_EQ(pwrite(fd, "buffered", 8, 0), 8);
    CHECK_EQ(read_now(fd, odd + 1, 8, 0), 8);
    CHECK_EQ(memcmp(odd + 1, "buffered", 8), 0);
}
