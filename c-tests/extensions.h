/*
 * For programs that test what libc has not: the library's own header, whose functions are left undefined where a program
 * runs on libc alone. Every case of theirs is one that is not run there.
 */
#ifndef EXTENSIONS_H
#define EXTENSIONS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

/* Before check.h, which makes macros of some of its names. */
#include "../include/aio_posix.h"
#include "check.h"
#include <sys/uio.h>

#pragma weak aio_readv
#pragma weak aio_writev
#pragma weak aio_read2
#pragma weak aio_write2
#pragma weak aio_mlock
#pragma weak aio_waitcomplete

#define EXTENSION(name) DIFFERS(name, "an extension: libc has no such thing")

/* An aiocb for the parts of an array. */
CHECK_HELPER void prepare_parts(struct aiocb *cb, int fd, struct iovec *parts, int count, off_t offset)
{
    prepare(cb, fd, NULL, 0, offset);
    cb->aio_iov = parts;
    cb->aio_iovcnt = (size_t)count;
}

/* How many threads this process has. */
CHECK_HELPER int threads_now(void)
{
    char line[256];
    int threads = 0;
    FILE *status = fopen("/proc/self/status", "r");

    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "Threads: %d", &threads) == 1)
            break;
    fclose(status);
    CHECK(threads > 0);
    return threads;
}

#endif
