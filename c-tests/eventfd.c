/*
 * SIGEV_AIO_EVENTFD: each completion, or the end of a list, adds one to an eventfd.
 */
#include "extensions.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static int counter;

static void tell(struct aiocb *cb)
{
    cb->aio_sigevent.sigev_notify = SIGEV_AIO_EVENTFD;
    cb->aio_sigevent.sigev_signo = counter;
}

/* Takes what the eventfd counts; waits until it is at least so much. */
static uint64_t take(uint64_t wanted)
{
    uint64_t all = 0, some;

    while (all < wanted) {
        struct pollfd entry = { counter, POLLIN, 0 };

        if (poll(&entry, 1, (int)(DEADLINE_SECONDS * 1000)) != 1)
            FAIL("the eventfd has counted %llu of %llu", (unsigned long long)all, (unsigned long long)wanted);
        CHECK_EQ(read(counter, &some, sizeof some), sizeof some);
        all += some;
    }
    return all;
}

/* Nothing more comes. */
static void check_empty(void)
{
    uint64_t some;

    nap(20);
    CHECK_FAILS(read(counter, &some, sizeof some), EAGAIN);
}

static void open_counter(void)
{
    counter = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(counter >= 0);
}

/* Cached, cold, buffered write, fsync, pipe, failed, cancelled. Fails when one kind tells nobody, or twice. */
EXTENSION(every_kind_of_request_counts_once)
{
    static unsigned char block[4096];
    struct aiocb cb;
    int fd = temporary_file(0), ends[2];

    open_counter();
    CHECK_EQ(pipe(ends), 0);
    prepare(&cb, fd, block, sizeof block, 0);
    tell(&cb);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_return(&cb), sizeof block);
    prepare(&cb, fd, NULL, 0, 0);
    tell(&cb);
    CHECK_EQ(aio_fsync(O_SYNC, &cb), 0);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_return(&cb), 0);
    prepare(&cb, fd, block, sizeof block, 0);
    tell(&cb);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_return(&cb), sizeof block);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    prepare(&cb, fd, block, sizeof block, 0);
    tell(&cb);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_return(&cb), sizeof block);
    prepare(&cb, ends[0], block, sizeof block, 0);
    tell(&cb);
    CHECK_EQ(aio_read(&cb), 0);
    check_empty();
    CHECK_EQ(write(ends[1], "abc", 3), 3);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_return(&cb), 3);
    prepare(&cb, ends[0], block, sizeof block, 0);
    tell(&cb);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(aio_cancel(ends[0], &cb), AIO_CANCELED);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_error(&cb), ECANCELED);
    prepare(&cb, -1, block, sizeof block, 0);
    tell(&cb);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_error(&cb), EBADF);
    check_empty();
}

/*
 * Direct reads at depth 16 by epoll, and no thread but this one. Fails when the requests owe their notification to the
 * completion thread (the process then has three threads), and when they are submitted without IOCB_FLAG_RESFD.
 */
EXTENSION(direct_reads_need_no_thread)
{
    enum { DEPTH = 16, READS = 2000, BLOCKS = 256 };
    static struct aiocb requests[DEPTH];
    unsigned char *buffers = aligned(DEPTH * 4096), *out = aligned(BLOCKS * 4096);
    int fd = temporary_file(O_DIRECT), events = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN };
    int submitted = 0, completed = 0;

    open_counter();
    CHECK_EQ(epoll_ctl(events, EPOLL_CTL_ADD, counter, &event), 0);
    pattern(out, BLOCKS * 4096, 6);
    CHECK_EQ(pwrite(fd, out, BLOCKS * 4096, 0), BLOCKS * 4096);
    CHECK_EQ(fsync(fd), 0);
    for (int i = 0; i < DEPTH; i++) {
        prepare(&requests[i], fd, buffers + i * 4096, 4096, submitted++ * 7 % BLOCKS * 4096);
        tell(&requests[i]);
        CHECK_EQ(aio_read(&requests[i]), 0);
    }
    while (completed < READS) {
        CHECK_EQ(epoll_wait(events, &event, 1, (int)(DEADLINE_SECONDS * 1000)), 1);
        take(1);
        for (int i = 0; i < DEPTH; i++) {
            if (requests[i].aio_fildes == -2 || aio_error(&requests[i]) == EINPROGRESS)
                continue;
            CHECK_EQ(aio_return(&requests[i]), 4096);
            CHECK_EQ(memcmp(buffers + i * 4096, out + requests[i].aio_offset, 4096), 0);
            completed++;
            requests[i].aio_fildes = -2;
            if (submitted < READS) {
                prepare(&requests[i], fd, buffers + i * 4096, 4096, submitted++ * 7 % BLOCKS * 4096);
                tell(&requests[i]);
                CHECK_EQ(aio_read(&requests[i]), 0);
            }
        }
    }
    CHECK_EQ(completed, READS);
    /* One that the kernel would not start at once has gone to a helper: rare, but it may have. */
    if (threads_now() != 1)
        SKIP("the kernel refused a direct read without waiting");
}

/* Who is told may call aio_return at once. Fails when that does not take the completion out of the ring. */
EXTENSION(the_result_is_there_before_the_count)
{
    unsigned char *block = aligned(4096);
    int fd = temporary_file(O_DIRECT);
    struct aiocb cb;

    open_counter();
    CHECK_EQ(pwrite(fd, block, 4096, 0), 4096);
    for (int i = 0; i < 200; i++) {
        prepare(&cb, fd, block, 4096, 0);
        tell(&cb);
        CHECK_EQ(aio_read(&cb), 0);
        take(1);
        CHECK_EQ(aio_return(&cb), 4096);
    }
}

/* Each leaves an event in the ring, which nobody asks about; fails, by never ending, when nobody takes them. */
EXTENSION(more_than_the_ring_holds)
{
    enum { MANY = 20000 };
    static unsigned char block[64];
    static struct aiocb cb;
    int fd = temporary_file(0);
    uint64_t some, all = 0;

    open_counter();
    CHECK_EQ(pwrite(fd, block, sizeof block, 0), sizeof block);
    for (int i = 0; i < MANY; i++) {
        prepare(&cb, fd, block, sizeof block, 0);
        tell(&cb);
        CHECK_EQ(aio_read(&cb), 0);
        while (aio_error(&cb) == EINPROGRESS)
            continue;
    }
    for (double deadline = now() + DEADLINE_SECONDS; all < MANY && now() < deadline; nap(1))
        if (read(counter, &some, sizeof some) == sizeof some)
            all += some;
    CHECK_EQ(all, MANY);
}

EXTENSION(a_list_counts_once_at_its_end)
{
    static unsigned char block[10][512];
    static struct aiocb requests[10];
    struct aiocb *list[10];
    struct sigevent event;
    int fd = temporary_file(0), ends[2];

    open_counter();
    CHECK_EQ(pipe(ends), 0);
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_AIO_EVENTFD;
    event.sigev_signo = counter;
    for (int i = 0; i < 10; i++) {
        prepare(&requests[i], i == 4 ? ends[0] : fd, block[i], 512, i * 512);
        requests[i].aio_lio_opcode = i == 4 ? LIO_READ : LIO_WRITE;
        list[i] = &requests[i];
    }
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 10, &event), 0);
    for (int i = 0; i < 10; i++)
        if (i != 4)
            CHECK_EQ(finish(&requests[i]), 512);
    check_empty();
    CHECK_EQ(write(ends[1], "now", 3), 3);
    CHECK_EQ(take(1), 1);
    CHECK_EQ(aio_return(&requests[4]), 3);
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 0, &event), 0);
    CHECK_EQ(take(1), 1);
    check_empty();
}

/*
 * Fails, with a damaged file, when the count is written to the number whatever it is; with EINVAL for a direct read and an
 * fsync, when what the kernel says of the eventfd is taken for the request's error.
 */
EXTENSION(what_is_no_eventfd_is_left_alone)
{
    static unsigned char block[512], in[8];
    struct aiocb cb;
    int fd = temporary_file(0), file = temporary_file(0), direct = temporary_file(O_DIRECT), ends[2];

    CHECK_EQ(pwrite(direct, aligned(4096), 4096, 0), 4096);
    CHECK_EQ(pwrite(file, "precious", 8, 0), 8);
    CHECK_EQ(lseek(file, 0, SEEK_SET), 0);
    CHECK_EQ(pipe(ends), 0);
    prepare(&cb, fd, block, sizeof block, 0);
    counter = file;
    tell(&cb);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), sizeof block);
    prepare(&cb, direct, aligned(4096), 4096, 0);
    tell(&cb);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(finish(&cb), 4096);
    prepare(&cb, direct, NULL, 0, 0);
    tell(&cb);
    CHECK_EQ(aio_fsync(O_SYNC, &cb), 0);
    CHECK_EQ(finish(&cb), 0);
    nap(20);
    CHECK_EQ(pread(file, in, 8, 0), 8);
    CHECK_EQ(memcmp(in, "precious", 8), 0);
    CHECK_EQ(lseek(file, 0, SEEK_END), 8);
    /* Not open at all. */
    prepare(&cb, fd, block, sizeof block, 0);
    counter = 9999;
    tell(&cb);
    CHECK_FAILS(aio_write(&cb), EBADF);
    CHECK_EQ(aio_error(&cb), EBADF);
    /* Closed, and the number a file's, before the request is complete. */
    open_counter();
    prepare(&cb, ends[0], block, sizeof block, 0);
    tell(&cb);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(dup2(file, counter), counter);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(finish(&cb), 1);
    nap(20);
    CHECK_EQ(pread(file, in, 8, 0), 8);
    CHECK_EQ(memcmp(in, "precious", 8), 0);
    CHECK_EQ(lseek(file, 0, SEEK_END), 8);
}
