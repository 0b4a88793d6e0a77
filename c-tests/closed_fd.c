/*
 * A request belongs to the file that its descriptor stood for when it was submitted. When the descriptor is closed, or its
 * number goes to another file, the request finishes on its own file or ends with ECANCELED, and touches no other.
 *
 * Seen to fail: with a helper that does not look which file its copy of the descriptor is open on, the cases whose number
 * another file took: of buffered and direct reads and writes, of waiting pipe reads and writes, and of both sockets.
 */
#include "tools/descriptors.h"
#include <sys/socket.h>

enum { BLOCK = 4096, REQUESTS = 600, ROUNDS = 10 };

static struct aiocb cbs[REQUESTS];

#define BY_NUMBER "a queued request is done on whatever its number stands for by then"

/* The request did all that was asked, or nothing; says which. */
static int was_done(struct aiocb *cb)
{
    int error = await(cb);
    ssize_t result = aio_return(cb);

    if (error == ECANCELED) {
        CHECK_EQ(result, -1);
        return 0;
    }
    CHECK_EQ(error, 0);
    CHECK_EQ(result, BLOCK);
    return 1;
}

static int file_of(unsigned char byte, int flags)
{
    unsigned char *data = aligned(BLOCK * REQUESTS);
    int fd = temporary_file(flags);

    memset(data, byte, BLOCK * REQUESTS);
    CHECK_EQ(pwrite(fd, data, BLOCK * REQUESTS, 0), BLOCK * REQUESTS);
    CHECK_EQ(fsync(fd), 0);
    free(data);
    return fd;
}

/*
 * Writes to one file, and at full queue puts another file under the number. The other file must keep its bytes; the
 * first must have exactly those blocks whose requests say so.
 */
static void replace_while_writing(int flags)
{
    unsigned char *data = aligned(BLOCK), *block = aligned(BLOCK);
    int other = file_of('b', flags);

    memset(data, 'w', BLOCK);
    for (int round = 0; round < ROUNDS; round++) {
        int fd = file_of('a', flags);
        int keeper = dup(fd);

        CHECK(keeper >= 0);
        for (int i = 0; i < REQUESTS; i++)
            start_write(&cbs[i], fd, data, BLOCK, (off_t)i * BLOCK);
        CHECK_EQ(dup2(other, fd), fd);
        for (int i = 0; i < REQUESTS; i++) {
            int is_done = was_done(&cbs[i]);

            CHECK_EQ(pread(keeper, block, BLOCK, (off_t)i * BLOCK), BLOCK);
            CHECK(is_filled(block, BLOCK, is_done ? 'w' : 'a'));
        }
        for (int i = 0; i < REQUESTS; i++) {
            CHECK_EQ(pread(other, block, BLOCK, (off_t)i * BLOCK), BLOCK);
            CHECK(is_filled(block, BLOCK, 'b'));
        }
        close(fd);
        close(keeper);
    }
}

DEFECT(buffered_writes_never_reach_the_file_that_took_the_number, BY_NUMBER) { replace_while_writing(0); }
DEFECT(direct_writes_never_reach_the_file_that_took_the_number, BY_NUMBER) { replace_while_writing(O_DIRECT); }

static void replace_while_reading(int flags)
{
    unsigned char *buffers = aligned(BLOCK * REQUESTS);
    int other = file_of('b', flags);

    for (int round = 0; round < ROUNDS; round++) {
        int fd = file_of('a', flags);

        CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
        memset(buffers, 'u', BLOCK * REQUESTS);
        for (int i = 0; i < REQUESTS; i++)
            start_read(&cbs[i], fd, buffers + (size_t)i * BLOCK, BLOCK, (off_t)i * BLOCK);
        CHECK_EQ(dup2(other, fd), fd);
        for (int i = 0; i < REQUESTS; i++)
            CHECK(is_filled(buffers + (size_t)i * BLOCK, BLOCK, was_done(&cbs[i]) ? 'a' : 'u'));
        close(fd);
    }
}

DEFECT(buffered_reads_never_see_the_file_that_took_the_number, BY_NUMBER) { replace_while_reading(0); }
DEFECT(direct_reads_never_see_the_file_that_took_the_number, BY_NUMBER) { replace_while_reading(O_DIRECT); }

/* POSIX: what is not cancelled by close() completes as if the close had not happened. EBADF is neither. */
static void close_while_writing(int flags)
{
    unsigned char *data = aligned(BLOCK);

    for (int round = 0; round < ROUNDS; round++) {
        int fd = file_of('a', flags);

        for (int i = 0; i < REQUESTS; i++)
            start_write(&cbs[i], fd, data, BLOCK, (off_t)i * BLOCK);
        close(fd);
        for (int i = 0; i < REQUESTS; i++)
            was_done(&cbs[i]);
    }
}

DEFECT(buffered_writes_of_a_closed_descriptor_are_done_or_cancelled, "they end with EBADF") { close_while_writing(0); }
/*
 * The first block is cached and the second is not: the call reads the first at once, and the rest finds the descriptor closed. Half
 * a read would look like the end of the file. Seen to fail with a result of 4096.
 */
DEFECT(read_of_a_partly_cached_file_and_a_closed_descriptor_is_whole_or_cancelled, "it ends with EBADF")
{
    int keeper = file_of('a', 0);
    unsigned char *buffer = aligned(2 * BLOCK);

    /* So that the first block's read does not bring the second. */
    CHECK_EQ(posix_fadvise(keeper, 0, 0, POSIX_FADV_RANDOM), 0);
    for (int round = 0; round < 200; round++) {
        int fd = dup(keeper);
        struct aiocb cb;

        CHECK_EQ(posix_fadvise(keeper, 0, 0, POSIX_FADV_DONTNEED), 0);
        CHECK_EQ(pread(keeper, buffer, BLOCK, 0), BLOCK);
        start_read(&cb, fd, buffer, 2 * BLOCK, 0);
        close(fd);
        int error = await(&cb);

        CHECK(error == 0 || error == ECANCELED);
        CHECK_EQ(aio_return(&cb), error == 0 ? 2 * BLOCK : -1);
    }
}

DEFECT(direct_writes_of_a_closed_descriptor_are_done_or_cancelled, "they end with EBADF")
{
    close_while_writing(O_DIRECT);
}

DEFECT(barrier_of_a_closed_descriptor_ends, "it ends with EBADF")
{
    enum { BIG = 64 << 20 };
    char *data = aligned(BIG);
    struct aiocb writing, barrier;
    int fd = temporary_file(0);

    start_write(&writing, fd, data, BIG, 0);
    prepare(&barrier, fd, NULL, 0, 0);
    CHECK_EQ(aio_fsync(O_SYNC, &barrier), 0);
    close(fd);
    int error = await(&barrier);
    CHECK(error == 0 || error == ECANCELED);
    error = await(&writing);
    CHECK(error == 0 || error == ECANCELED);
}

/* Another pipe takes the number of one that reads wait for: its data is not theirs. */
DEFECT(waiting_pipe_reads_never_take_the_data_of_the_pipe_that_took_the_number, BY_NUMBER)
{
    enum { READS = 10, SIZE = 100 };
    static unsigned char buffers[READS][SIZE], got[READS * SIZE];

    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    for (int round = 0; round < ROUNDS; round++) {
        int own[2], other[2];
        unsigned char data[READS * SIZE];

        CHECK_EQ(pipe(own), 0);
        CHECK_EQ(pipe(other), 0);
        for (int i = 0; i < READS; i++)
            start_read(&cbs[i], own[0], buffers[i], SIZE, 0);
        CHECK_EQ(dup2(other[0], own[0]), own[0]);
        memset(data, 'b', sizeof data);
        feed(other[1], data, sizeof data);
        memset(data, 'a', sizeof data);
        /* Nobody may be left to read it: no matter. The end of the file must end whatever still waits. */
        ssize_t written = write(own[1], data, SIZE);
        CHECK(written == SIZE || (written == -1 && errno == EPIPE));
        close(own[1]);
        for (int i = 0; i < READS; i++) {
            int error = await(&cbs[i]);
            ssize_t result = aio_return(&cbs[i]);

            if (error != 0)
                CHECK_EQ(error, ECANCELED);
            else if (result != 0)
                CHECK(result == SIZE && is_filled(buffers[i], SIZE, 'a'));
        }
        CHECK_EQ(drain(other[0], got, sizeof got), sizeof got);
        CHECK(is_filled(got, sizeof got, 'b'));
        close(own[0]);
        close(other[0]);
        close(other[1]);
    }
}

DEFECT(waiting_pipe_writes_never_reach_the_pipe_that_took_the_number, BY_NUMBER)
{
    enum { WRITES = 10, SIZE = 1 << 16 };
    static unsigned char data[SIZE], got[SIZE * WRITES];

    memset(data, 'a', SIZE);
    for (int round = 0; round < ROUNDS; round++) {
        int own[2], other[2];

        CHECK_EQ(pipe(own), 0);
        CHECK_EQ(pipe(other), 0);
        for (int i = 0; i < WRITES; i++)
            start_write(&cbs[i], own[1], data, SIZE, 0);
        CHECK_EQ(dup2(other[1], own[1]), own[1]);
        close(other[1]);
        size_t size = drain(own[0], got, SIZE);
        CHECK(is_filled(got, size, 'a'));
        /* Ends every write that still waits on the first pipe. */
        close(own[0]);
        for (int i = 0; i < WRITES; i++) {
            int error = await(&cbs[i]);

            CHECK(error == 0 || error == ECANCELED || error == EPIPE);
        }
        CHECK(!has_data(other[0]));
        close(own[1]);
        CHECK_EQ(drain(other[0], got, sizeof got), 0);
        close(other[0]);
    }
}

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

        CHECK(error == 0 || error == ECANCELED || error == EBADF);
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
    struct switcher switcher = { 0, { file_of('a', flags), file_of('b', flags) }, 0 };
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

DEFECT(socket_replaced_after_shutdown_is_not_read, BY_NUMBER) { replace_just_after(1); }
DEFECT(socket_replaced_after_data_came_is_not_read, BY_NUMBER) { replace_just_after(0); }

/* ---- The same file anew, no longer open for appending --------------------------------------------- */

/*
 * The number leads to the same file, by another opening of it: a write goes to its offset. Seen to fail, by a block at
 * the end of the file, with a helper that keeps its copy of a descriptor while the number leads to the same inode.
 */
static void write_after_appending(int is_reopened)
{
    enum { APPENDS = 3 };
    unsigned char *data = aligned(BLOCK), *block = aligned(BLOCK);
    char name[PATH_MAX];
    int keeper = named_file(0, name);
    struct stat status;
    double end = now() + 3;

    /* Sent after the status is there: meanwhile the next request comes. */
    CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    for (int round = 0; round < 6000 && now() < end; round++) {
        int fd = open(name, O_WRONLY | O_APPEND), plain = open(name, O_WRONLY);
        int appends = round % APPENDS + 1;

        CHECK(fd >= 0 && plain >= 0);
        CHECK_EQ(ftruncate(keeper, 0), 0);
        memset(data, 'a', BLOCK);
        for (int i = 0; i < appends; i++) {
            prepare(&cbs[i], fd, data, BLOCK, 0);
            cbs[i].aio_sigevent.sigev_notify = SIGEV_SIGNAL;
            cbs[i].aio_sigevent.sigev_signo = SIGUSR1;
            CHECK_EQ(aio_write(&cbs[i]), 0);
        }
        for (int i = 0; i < appends; i++)
            while (aio_error(&cbs[i]) == EINPROGRESS)
                continue;
        if (is_reopened) {
            close(fd);
            CHECK_EQ(open(name, O_WRONLY), fd);
        } else {
            CHECK_EQ(dup2(plain, fd), fd);
        }
        memset(block, 'b', BLOCK);
        CHECK_EQ(write_now(fd, block, BLOCK, 0), BLOCK);
        for (int i = 0; i < appends; i++)
            CHECK_EQ(finish(&cbs[i]), BLOCK);
        CHECK_EQ(fstat(keeper, &status), 0);
        CHECK_EQ(status.st_size, appends * BLOCK);
        CHECK_EQ(pread(keeper, block, BLOCK, 0), BLOCK);
        CHECK(is_filled(block, BLOCK, 'b'));
        close(fd);
        close(plain);
    }
    unlink(name);
}

CASE(write_to_the_file_opened_anew_goes_to_its_offset) { write_after_appending(1); }
CASE(write_to_the_file_by_another_opening_goes_to_its_offset) { write_after_appending(0); }

/*
 * Those that are queued still are cancelled, or done by the number, which leads to the same file; but the next write has its offset.
 * Seen to fail in the same way.
 */
CASE(write_behind_queued_appends_goes_to_its_offset)
{
    enum { APPENDS = 200 };
    unsigned char *data = aligned(BLOCK), *block = aligned(BLOCK);
    char name[PATH_MAX];
    int keeper = named_file(0, name);
    struct aiocb cb;

    memset(data, 'a', BLOCK);
    for (int round = 0; round < ROUNDS; round++) {
        int fd = open(name, O_WRONLY | O_APPEND);

        CHECK(fd >= 0);
        CHECK_EQ(ftruncate(keeper, 0), 0);
        for (int i = 0; i < APPENDS; i++)
            start_write(&cbs[i], fd, data, BLOCK, 0);
        CHECK_EQ(finish(&cbs[0]), BLOCK);
        close(fd);
        CHECK_EQ(open(name, O_WRONLY), fd);
        memset(block, 'b', BLOCK);
        start_write(&cb, fd, block, BLOCK, 0);
        for (int i = 0; i < APPENDS; i++)
            await(&cbs[i]);
        CHECK_EQ(finish(&cb), BLOCK);
        CHECK_EQ(pread(keeper, block, BLOCK, 0), BLOCK);
        CHECK(is_filled(block, BLOCK, 'b'));
        close(fd);
    }
    unlink(name);
}
