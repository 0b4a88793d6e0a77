/*
 * The number of a descriptor goes to another file while a call or the completion of a request looks at it: the request is
 * of one file, the one or the other, and none takes or leaves anything elsewhere.
 *
 * Seen to fail: with a completion thread or helper that looks what the number stands for, and then transfers by the
 * number, the cases of sockets; see the others.
 */
#include "tools/descriptors.h"
#include <sys/socket.h>
#include <sys/uio.h>

enum { BLOCK = 4096 };

static struct aiocb cbs[64];

/* One thread changes what the number stands for, again and again, while another reads through it. */
struct switcher {
    int fd;
    int files[2];
    volatile int is_stopped;
};

static void *switch_files(void *argument)
{
    struct switcher *switcher = argument;

    for (int i = 0; !switcher->is_stopped; i++)
        CHECK_EQ(dup2(switcher->files[i % 2], switcher->fd), switcher->fd);
    return NULL;
}

struct replacement {
    int from, to;
    /* The round that is on, and the last one that is over; -1 ends the thread. */
    int begun, done;
};

static void *replace_once_a_round(void *argument)
{
    struct replacement *replacement = argument;

    for (int round = 1;; round++) {
        int begun;

        while ((begun = __atomic_load_n(&replacement->begun, __ATOMIC_ACQUIRE)) != round && begun != -1)
            sched_yield();
        if (begun == -1)
            return NULL;
        for (volatile int spin = round % 3000; spin > 0; spin--)
            ;
        CHECK_EQ(dup2(replacement->from, replacement->to), replacement->to);
        __atomic_store_n(&replacement->done, round, __ATOMIC_RELEASE);
    }
}

/*
 * One end of a pipe takes the number of the other while a transfer through it is submitted that has to wait: what has the
 * number then will never be ready for it. Seen to fail, by hanging, without a look at what the kernel was asked to watch.
 */
static void transfer_while_the_other_end_takes_its_number(int (*submit)(struct aiocb *))
{
    enum { FULL = 4096 };
    static char bytes[FULL];
    int is_write = submit == aio_write;
    int ends[2];
    struct replacement replacement = { 0, 0, 0, 0 };
    struct aiocb cb;
    char byte = 'x';

    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(fcntl(ends[1], F_SETPIPE_SZ, FULL), FULL);
    int own = ends[is_write], other = ends[!is_write];
    replacement.from = other;
    replacement.to = dup(own);
    CHECK(replacement.to >= 0);
    pthread_t thread = start_thread(replace_once_a_round, &replacement);
    double end = now() + 3;
    for (int round = 1; round <= 20000 && now() < end; round++) {
        if (is_write)
            feed(own, bytes, FULL);
        __atomic_store_n(&replacement.begun, round, __ATOMIC_RELEASE);
        prepare(&cb, replacement.to, &byte, 1, 0);
        int answer = submit(&cb);
        if (is_write)
            CHECK_EQ(drain(other, bytes, FULL), FULL);
        else
            feed(other, "x", 1);
        int error = answer == 0 ? await(&cb) : errno;

        /* EAGAIN: the call did nothing, where memory or threads are short. */
        CHECK(error == 0 || error == ECANCELED || error == EBADF || (answer == -1 && error == EAGAIN));
        /* What was written is there, and what was not read still is. */
        if ((error == 0) == is_write)
            CHECK_EQ(drain(ends[0], &byte, 1), 1);
        while (__atomic_load_n(&replacement.done, __ATOMIC_ACQUIRE) != round)
            sched_yield();
        CHECK_EQ(dup2(own, replacement.to), replacement.to);
    }
    __atomic_store_n(&replacement.begun, -1, __ATOMIC_RELEASE);
    join_thread(thread);
}

CASE(read_ends_when_the_other_end_takes_its_number_during_the_call)
{
    transfer_while_the_other_end_takes_its_number(aio_read);
}

CASE(write_ends_when_the_other_end_takes_its_number_during_the_call)
{
    transfer_while_the_other_end_takes_its_number(aio_write);
}

/* Takes what is there; gives how much of it was the request's. */
static size_t take_written(int fd)
{
    unsigned char bytes[4096];
    size_t written = 0;
    ssize_t size;

    while ((size = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
        for (ssize_t i = 0; i < size; i++)
            written += bytes[i] == 'w';
    return written;
}

/*
 * Another socket takes the number while a write is submitted of which the first finds room only for a part. Seen to fail, with bytes
 * in both, when the call tries again by the number.
 */
CASE(write_goes_to_one_socket_while_its_number_changes_hands)
{
    enum { WRITTEN = 16384, FILLED = 4096 };
    static char bytes[WRITTEN], fill[FILLED];
    struct replacement replacement = { 0, 0, 0, 0 };
    int own[2], other[2], size = 1;

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, own), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, other), 0);
    CHECK_EQ(setsockopt(own[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    memset(bytes, 'w', sizeof bytes);
    replacement.from = other[0];
    replacement.to = dup(own[0]);
    CHECK(replacement.to >= 0);
    pthread_t thread = start_thread(replace_once_a_round, &replacement);
    double end = now() + 3;
    for (int round = 1; round <= 20000 && now() < end; round++) {
        size_t to_own = 0, to_other = 0;
        struct aiocb cb;

        while (send(own[0], fill, 64, MSG_DONTWAIT) > 0)
            continue;
        CHECK(recv(own[1], fill, 64 * 3, 0) > 0);
        prepare(&cb, replacement.to, bytes, WRITTEN, 0);
        __atomic_store_n(&replacement.begun, round, __ATOMIC_RELEASE);
        CHECK_EQ(aio_write(&cb), 0);
        do {
            to_own += take_written(own[1]);
            to_other += take_written(other[1]);
        } while (aio_error(&cb) == EINPROGRESS && now() < end + DEADLINE_SECONDS);
        int error = await(&cb);
        to_own += take_written(own[1]);
        to_other += take_written(other[1]);
        CHECK(error == 0 || error == ECANCELED || error == EBADF);
        CHECK(to_own == 0 || to_other == 0);
        if (error == 0)
            CHECK_EQ(aio_return(&cb), to_own + to_other);
        while (__atomic_load_n(&replacement.done, __ATOMIC_ACQUIRE) != round)
            sched_yield();
        CHECK_EQ(dup2(own[0], replacement.to), replacement.to);
    }
    __atomic_store_n(&replacement.begun, -1, __ATOMIC_RELEASE);
    join_thread(thread);
}

/* In every request's part of the file the first block is cached, and nothing else. */
static void cache_partly(int fd, unsigned char *block, size_t size)
{
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    for (int i = 0; i < 64; i++)
        CHECK_EQ(pread(fd, block, BLOCK, (off_t)i * (off_t)size), BLOCK);
}

static void read_while_switching(int flags, int is_cached_partly)
{
    enum { SIZE = 4 * BLOCK };
    struct switcher switcher = { 0, { filled_file('a', 64 * SIZE, flags), filled_file('b', 64 * SIZE, flags) }, 0 };
    unsigned char *buffers = aligned(64 * SIZE);

    switcher.fd = dup(switcher.files[0]);
    CHECK(switcher.fd >= 0);
    pthread_t thread = start_thread(switch_files, &switcher);
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 2 && is_cached_partly; i++)
            cache_partly(switcher.files[i], buffers, SIZE);
        for (int i = 0; i < 64; i++)
            start_read(&cbs[i], switcher.fd, buffers + (size_t)i * SIZE, SIZE, (off_t)i * SIZE);
        for (int i = 0; i < 64; i++) {
            unsigned char *buffer = buffers + (size_t)i * SIZE;
            int error = await(&cbs[i]);

            if (error == ECANCELED)
                continue;
            CHECK_EQ(error, 0);
            CHECK_EQ(aio_return(&cbs[i]), SIZE);
            /* One file or the other, never some of both. */
            CHECK(buffer[0] == 'a' || buffer[0] == 'b');
            CHECK(is_filled(buffer, SIZE, buffer[0]));
        }
    }
    switcher.is_stopped = 1;
    join_thread(thread);
}

CASE(buffered_read_is_from_one_file_while_its_number_changes_hands) { read_while_switching(0, 0); }
CASE(direct_read_is_from_one_file_while_its_number_changes_hands) { read_while_switching(O_DIRECT, 0); }
/* Seen to fail with a call that reads what is cached, and leaves the rest of the number's file to a helper. */
CASE(partly_cached_read_is_from_one_file_while_its_number_changes_hands) { read_while_switching(0, 1); }

/*
 * An end, or data, and another socket under the number right after it: nothing of that socket's is taken.
 * Seen to fail with a completion thread that looks what the number stands for, and then reads by the number.
 */
static void replace_just_after(int is_shut_down)
{
    enum { TRIES = 20000 };

    for (int i = 0; i < TRIES; i++) {
        int own[2], other[2];
        char got = 0, left = 0;
        struct aiocb cb;

        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, own), 0);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, other), 0);
        CHECK_EQ(write(other[1], "b", 1), 1);
        start_read(&cb, own[0], &got, 1, 0);
        if (is_shut_down)
            CHECK_EQ(shutdown(own[1], SHUT_WR), 0);
        else
            CHECK_EQ(write(own[1], "a", 1), 1);
        /* The event is on its way to whoever tries again; how far it comes until here differs. */
        for (volatile int spin = i % 1000; spin > 0; spin--)
            ;
        CHECK_EQ(dup2(other[0], own[0]), own[0]);
        int error = await(&cb);
        ssize_t result = aio_return(&cb);

        CHECK(error == 0 || error == ECANCELED);
        CHECK_EQ(result, error == ECANCELED ? -1 : !is_shut_down);
        CHECK(got != 'b');
        CHECK_EQ(recv(other[0], &left, 1, MSG_DONTWAIT), 1);
        CHECK_EQ(left, 'b');
        close(own[0]);
        close(own[1]);
        close(other[0]);
        close(other[1]);
    }
}

DEFECT(socket_replaced_after_shutdown_is_not_read, "it is done on whatever the number stands for by then") { replace_just_after(1); }
DEFECT(socket_replaced_after_data_came_is_not_read, "it is done on whatever the number stands for by then") { replace_just_after(0); }

static volatile int broken_pipes;

static void count_broken_pipe(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    broken_pipes++;
}

/*
 * A write of a file whose number becomes a socket's that nobody reads: libc's threads block SIGPIPE, and the program is not to be killed
 * by it here either. Seen to fail, some thousand times, without RWF_NOSIGNAL, which is new in Linux 6.18.
 */
CASE(direct_write_sends_no_SIGPIPE_while_its_number_changes_hands)
{
    enum { NOSIGNAL = 0x100 };
    int pair[2], file = filled_file('f', BLOCK, O_DIRECT);
    unsigned char *block = aligned(BLOCK);
    struct iovec vector = { block, BLOCK };
    struct switcher switcher = { 0, { file, -1 }, 0 };
    double end = now() + 2;

    if (pwritev2(file, &vector, 1, 0, NOSIGNAL) == -1 && errno == EOPNOTSUPP)
        SKIP("the kernel knows no RWF_NOSIGNAL");
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CHECK_EQ(shutdown(pair[0], SHUT_WR), 0);
    on_signal(SIGPIPE, count_broken_pipe, 0);
    switcher.files[1] = pair[0];
    switcher.fd = dup(file);
    CHECK(switcher.fd >= 0);
    pthread_t thread = start_thread(switch_files, &switcher);
    while (now() < end) {
        prepare(&cbs[0], switcher.fd, block, BLOCK, 0);
        CHECK_EQ(aio_write(&cbs[0]), 0);
        int error = await(&cbs[0]);

        /* ESPIPE: a socket has no positions. */
        CHECK(error == 0 || error == EPIPE || error == ESPIPE || error == ECANCELED);
    }
    switcher.is_stopped = 1;
    join_thread(thread);
    CHECK_EQ(broken_pipes, 0);
}
