/*
 * What the programs about descriptors that wait (pipes, sockets, terminals) and about full queues share, beside check.h.
 */
#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H

#include "../check.h"

#include <dirent.h>

/* Starts a request without notification; the call itself must succeed. */
CHECK_HELPER void start_read(struct aiocb *cb, int fd, void *buffer, size_t size, off_t offset)
{
    prepare(cb, fd, buffer, size, offset);
    CHECK_EQ(aio_read(cb), 0);
}

CHECK_HELPER void start_write(struct aiocb *cb, int fd, const void *buffer, size_t size, off_t offset)
{
    prepare(cb, fd, (void *)(uintptr_t)buffer, size, offset);
    CHECK_EQ(aio_write(cb), 0);
}

/* The request must not end by itself. The nap lets a wrong end show; a right one never shows here, however late. */
CHECK_HELPER void check_pending(const struct aiocb *cb)
{
    nap(30);
    CHECK_EQ(aio_error(cb), EINPROGRESS);
}

/* The request must end with this error and -1. */
#define CHECK_ENDS_WITH(cb, expected)          \
    do {                                       \
        CHECK_EQ(await(cb), expected);         \
        CHECK_EQ(aio_return(cb), -1);          \
    } while (0)

/* A new file of that many bytes that are all the same. */
CHECK_HELPER int filled_file(unsigned char byte, size_t size, int flags)
{
    unsigned char *data = aligned(size);
    int fd = temporary_file(flags);

    memset(data, byte, size);
    CHECK_EQ(pwrite(fd, data, size, 0), (ssize_t)size);
    CHECK_EQ(fsync(fd), 0);
    free(data);
    return fd;
}

/* Writes everything with plain write(2), as a peer would. */
CHECK_HELPER void feed(int fd, const void *data, size_t size)
{
    const char *at = data;

    while (size > 0) {
        ssize_t got = write(fd, at, size);

        if (got == -1 && errno == EINTR)
            continue;
        CHECK(got > 0);
        at += got;
        size -= (size_t)got;
    }
}

/* Reads until that many bytes came, or the end of the file; gives the number of bytes. */
CHECK_HELPER size_t drain(int fd, void *data, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t got = read(fd, (char *)data + done, size - done);

        if (got == -1 && errno == EINTR)
            continue;
        CHECK(got >= 0);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return done;
}

/* A thread that drains a descriptor. */
struct drainer {
    int fd;
    void *data;
    size_t size;
    size_t done;
};

CHECK_HELPER void *run_drainer(void *argument)
{
    struct drainer *drainer = argument;

    drainer->done = drain(drainer->fd, drainer->data, drainer->size);
    return NULL;
}

/* Whether a read would find something now. */
CHECK_HELPER int has_data(int fd)
{
    struct pollfd poll_fd = { fd, POLLIN, 0 };

    CHECK(poll(&poll_fd, 1, 0) >= 0);
    return (poll_fd.revents & POLLIN) != 0;
}

CHECK_HELPER void set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    CHECK(flags >= 0);
    CHECK_EQ(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
}

/* How many threads this process has, the library's own among them. */
CHECK_HELPER int thread_count(void)
{
    DIR *directory = opendir("/proc/self/task");
    int count = 0;

    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

/* Reads a file of a few bytes through AIO: what must go on whatever happens to other descriptors. */
CHECK_HELPER void check_file_read_works(void)
{
    int fd = temporary_file(0);
    char buffer[8] = "";

    CHECK_EQ(write(fd, "nothing", 8), 8);
    CHECK_EQ(read_now(fd, buffer, 8, 0), 8);
    CHECK_EQ(strcmp(buffer, "nothing"), 0);
    close(fd);
}

#endif
