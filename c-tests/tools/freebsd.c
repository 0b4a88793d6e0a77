/*
 * A program as one writes it on FreeBSD 14: <aio.h> and nothing of ours. It compiles here with "-include aio_posix.h".
 */
#include <sys/types.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <aio.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Waits for one, which must be this. */
static ssize_t next(struct aiocb *expected)
{
    struct timespec limit = { 10, 0 };
    struct aiocb *done = NULL;
    ssize_t result = aio_waitcomplete(&done, &limit);

    if (done != expected)
        err(1, "aio_waitcomplete gives another request");
    return result;
}

int main(int count, char **arguments)
{
    static char out[2][6] = { "hello", "world" }, in[12], head[6];
    struct iovec parts[2] = { { out[0], 6 }, { out[1], 6 } }, whole[1] = { { in, 12 } };
    struct timespec poll = { 0, 0 };
    struct aiocb cb, listed[2], *list[2] = { &listed[0], &listed[1] }, *done = &cb;
    long page = sysconf(_SC_PAGESIZE);
    int fd = count > 1 ? open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0600) : -1;

    if (fd < 0)
        err(1, "usage: freebsd FILE");
    memset(&cb, 0, sizeof cb);
    cb.aio_fildes = fd;
    cb.aio_iov = parts;
    cb.aio_iovcnt = 2;
    if (aio_writev(&cb) != 0 || next(&cb) != 12)
        err(1, "aio_writev");
    cb.aio_iov = whole;
    cb.aio_iovcnt = 1;
    if (aio_readv(&cb) != 0 || next(&cb) != 12 || memcmp(in, out, 12) != 0)
        err(1, "aio_readv");
    cb.aio_iovcnt = IOV_MAX + 1;
    if (aio_readv(&cb) != -1 || errno != EINVAL)
        err(1, "too many parts");
    /* At the descriptor's own position, twice. */
    cb.aio_buf = head;
    cb.aio_nbytes = 6;
    cb.aio_offset = 1000;
    for (int i = 0; i < 2; i++)
        if (aio_read2(&cb, AIO_OP2_FOFFSET) != 0 || next(&cb) != 6 || strcmp(head, out[i]) != 0)
            err(1, "aio_read2");
    cb.aio_iov = parts;
    cb.aio_iovcnt = 2;
    if (aio_write2(&cb, AIO_OP2_FOFFSET | AIO_OP2_VECTORED) != 0 || next(&cb) != 12)
        err(1, "aio_write2");
    if (lseek(fd, 0, SEEK_CUR) != 24 || aio_read2(&cb, 0x100) != -1 || errno != EINVAL)
        err(1, "aio_read2's flags");
    /* A list, of which one is at the position. */
    memset(listed, 0, sizeof listed);
    listed[0].aio_fildes = listed[1].aio_fildes = fd;
    listed[0].aio_lio_opcode = LIO_READV;
    listed[0].aio_iov = whole;
    listed[0].aio_iovcnt = 1;
    listed[0].aio_offset = 12;
    listed[1].aio_lio_opcode = LIO_WRITE | LIO_FOFFSET;
    listed[1].aio_buf = out;
    listed[1].aio_nbytes = 12;
    if (lio_listio(LIO_WAIT, list, 2, NULL) != 0 || aio_return(&listed[0]) != 12 || aio_return(&listed[1]) != 12)
        err(1, "lio_listio");
    if (memcmp(in, out, 12) != 0 || lseek(fd, 0, SEEK_CUR) != 36)
        err(1, "lio_listio's requests");
    cb.aio_buf = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    cb.aio_nbytes = (size_t)page;
    if (aio_mlock(&cb) != 0 || next(&cb) != 0)
        err(1, "aio_mlock");
    /* Everything was served. */
    if (aio_waitcomplete(&done, &poll) != -1 || errno != EWOULDBLOCK || done != NULL)
        err(1, "aio_waitcomplete of nothing");
    puts("ok");
    return 0;
}
