/*
 * What aio_read and aio_write refuse, what they take and complete with an error, and what they must not care about.
 *
 * Seen to fail: with nothing checked of the access mode, the_wrong_access_mode_ends_with_EBADF and
 * a_directory_ends_with_EISDIR (ECANCELED instead); nor of the offset, a_negative_offset_ends_with_EINVAL; with O_NONBLOCK
 * forgotten, O_NONBLOCK_is_honoured; with 20 out of the range of priorities, every_priority_in_the_range_is_taken.
 */
#include "check.h"

#include <sys/socket.h>

static volatile sig_atomic_t signals_seen;

static void count_signal(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    signals_seen++;
}

/*
 * Submits a read or write that cannot succeed: the call itself succeeds, the request ends with an error, and its
 * notification comes once.
 */
static void ends_with(const char *what, int write, int fd, size_t size, off_t offset, int expected)
{
    static char buffer[64];
    struct aiocb cb;
    int before = signals_seen;

    on_signal(SIGUSR1, count_signal, 0);
    prepare(&cb, fd, buffer, size, offset);
    cb.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    cb.aio_sigevent.sigev_signo = SIGUSR1;
    CHECK_EQ(write ? aio_write(&cb) : aio_read(&cb), 0);
    int error = await(&cb);
    if (error != expected)
        FAIL("%s ended with error %d, not %d", what, error, expected);
    CHECK_EQ(aio_return(&cb), -1);
    WAIT_UNTIL(signals_seen > before);
    nap(20);
    CHECK_EQ(signals_seen, before + 1);
    printf("%s: %s\n", what, strerrorname_np(error));
}

CASE(a_bad_descriptor_ends_with_EBADF)
{
    int fd = temporary_file(0);

    close(fd);
    ends_with("read of -1", 0, -1, 16, 0, EBADF);
    ends_with("write of -1", 1, -1, 16, 0, EBADF);
    ends_with("read of a closed one", 0, fd, 16, 0, EBADF);
    ends_with("write of a closed one", 1, fd, 16, 0, EBADF);
    ends_with("read of INT_MAX", 0, INT_MAX, 16, 0, EBADF);
    ends_with("write of INT_MIN", 1, INT_MIN, 16, 0, EBADF);
}

CASE(the_wrong_access_mode_ends_with_EBADF)
{
    int fd = temporary_file(0);
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    ends_with("read of a write-only file", 0, reopen(fd, O_WRONLY), 16, 0, EBADF);
    ends_with("write of a read-only file", 1, reopen(fd, O_RDONLY), 16, 0, EBADF);
    ends_with("read of the writing end", 0, ends[1], 16, 0, EBADF);
    ends_with("write of the reading end", 1, ends[0], 16, 0, EBADF);
    ends_with("read of an O_PATH descriptor", 0, reopen(fd, O_PATH), 16, 0, EBADF);
}

CASE(a_negative_offset_ends_with_EINVAL)
{
    int buffered = temporary_file(0);

    ends_with("read", 0, buffered, 16, -1, EINVAL);
    ends_with("write", 1, buffered, 16, -4096, EINVAL);
    ends_with("read of the least offset", 0, buffered, 16, INT64_MIN, EINVAL);
}

CASE(a_negative_offset_of_a_direct_file_ends_with_EINVAL)
{
    int direct = temporary_file(O_DIRECT);

    ends_with("read", 0, direct, 4096, -4096, EINVAL);
    ends_with("write", 1, direct, 4096, -4096, EINVAL);
}

/* Which of the two the kernel names depends on the interface; it must not start, succeed or hang. */
static void absurd_size(int write, int fd, size_t size)
{
    static char buffer[16];
    struct aiocb cb;

    prepare(&cb, fd, buffer, size, 0);
    CHECK_EQ(write ? aio_write(&cb) : aio_read(&cb), 0);
    int error = await(&cb);
    if (error != EINVAL && error != EFAULT)
        FAIL("%zu bytes ended with error %d", size, error);
    CHECK_EQ(aio_return(&cb), -1);
}

CASE(more_bytes_than_SSIZE_MAX_are_refused)
{
    int fd = temporary_file(0);

    CHECK_EQ(pwrite(fd, "untouched", 9, 0), 9);
    absurd_size(0, fd, (size_t)SSIZE_MAX + 1);
    absurd_size(1, fd, (size_t)SSIZE_MAX + 1);
    absurd_size(0, fd, SIZE_MAX);
    absurd_size(1, fd, SIZE_MAX);
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 9);
}

DIFFERS(more_bytes_than_SSIZE_MAX_end_with_EINVAL, "libc passes on the EFAULT that pread gives first")
{
    ends_with("read", 0, temporary_file(0), (size_t)SSIZE_MAX + 1, 0, EINVAL);
    ends_with("write", 1, temporary_file(0), SIZE_MAX, 0, EINVAL);
}

CASE(a_directory_ends_with_EISDIR)
{
    int fd = open(test_directory(), O_RDONLY | O_DIRECTORY);

    CHECK(fd >= 0);
    ends_with("read of a directory", 0, fd, 16, 0, EISDIR);
    ends_with("write of a directory", 1, fd, 16, 0, EBADF);
}

/* Both the call and the aiocb say so, and nothing is transferred. */
CASE(a_priority_outside_the_range_is_refused)
{
    static const int priorities[] = { -1, 21, INT_MIN, INT_MAX };
    int fd = temporary_file(0);
    struct stat status;
    struct aiocb cb;

    for (size_t i = 0; i < sizeof priorities / sizeof priorities[0]; i++) {
        prepare(&cb, fd, "never written", 13, 0);
        cb.aio_reqprio = priorities[i];
        CHECK_FAILS(aio_write(&cb), EINVAL);
        CHECK_EQ(aio_error(&cb), EINVAL);
        CHECK_EQ(aio_return(&cb), -1);
        CHECK_FAILS(aio_read(&cb), EINVAL);
        CHECK_EQ(aio_error(&cb), EINVAL);
    }
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 0);
}

CASE(every_priority_in_the_range_is_taken)
{
    int buffered = temporary_file(0);
    int direct = temporary_file(O_DIRECT);
    unsigned char *block = aligned(4096);
    struct aiocb cb;

    CHECK_EQ(sysconf(_SC_AIO_PRIO_DELTA_MAX), 20);
    for (int priority = 0; priority <= 20; priority++) {
        for (int i = 0; i < 2; i++) {
            prepare(&cb, i == 0 ? buffered : direct, block, 4096, 4096 * priority);
            cb.aio_reqprio = priority;
            CHECK_EQ(aio_write(&cb), 0);
            CHECK_EQ(finish(&cb), 4096);
            CHECK_EQ(aio_read(&cb), 0);
            CHECK_EQ(finish(&cb), 4096);
        }
    }
}

static void with_signal(struct aiocb *cb, int fd, int signo)
{
    prepare(cb, fd, "s", 1, 0);
    cb->aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    cb->aio_sigevent.sigev_signo = signo;
}

DEFECT(a_signal_number_out_of_range_is_refused, "a signal that cannot be sent turns a good result into an error")
{
    static const int numbers[] = { -1, INT_MIN, INT_MAX, 65, 1000 };
    int fd = temporary_file(0);
    struct stat status;
    struct aiocb cb;

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        with_signal(&cb, fd, numbers[i]);
        CHECK_FAILS(aio_write(&cb), EINVAL);
        CHECK_FAILS(aio_read(&cb), EINVAL);
    }
    nap(20);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 0);
}

/* What a zeroed aiocb asks for. */
CASE(signal_number_zero_means_no_signal)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    with_signal(&cb, fd, 0);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
    memset(&cb, 0, sizeof cb);
    cb.aio_fildes = fd;
    cb.aio_buf = "z";
    cb.aio_nbytes = 1;
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
}

CASE(the_last_realtime_signal_is_taken)
{
    int fd = temporary_file(0);
    struct aiocb cb;

    block_signal(SIGRTMAX);
    with_signal(&cb, fd, SIGRTMAX);
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
    CHECK(take_signal(SIGRTMAX, NULL, 5000));
}

CASE(an_unknown_notification_means_none)
{
    static const int kinds[] = { 3, 5, 17, 1234, -1, INT_MIN, INT_MAX };
    int fd = temporary_file(0);
    struct aiocb cb;

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        with_signal(&cb, fd, SIGKILL);
        cb.aio_sigevent.sigev_notify = kinds[i];
        CHECK_EQ(aio_write(&cb), 0);
        CHECK_EQ(finish(&cb), 1);
    }
}

CASE(the_opcode_is_ignored_and_set)
{
    static const int opcodes[] = { LIO_NOP, LIO_WRITE, LIO_READ, 99, -1 };
    int fd = temporary_file(0);
    struct aiocb cb;
    char byte;

    for (size_t i = 0; i < sizeof opcodes / sizeof opcodes[0]; i++) {
        prepare(&cb, fd, "w", 1, 0);
        cb.aio_lio_opcode = opcodes[i];
        CHECK_EQ(aio_write(&cb), 0);
        CHECK_EQ(finish(&cb), 1);
        CHECK_EQ(cb.aio_lio_opcode, LIO_WRITE);
        prepare(&cb, fd, &byte, 1, 0);
        cb.aio_lio_opcode = opcodes[i];
        byte = 0;
        CHECK_EQ(aio_read(&cb), 0);
        CHECK_EQ(finish(&cb), 1);
        CHECK_EQ(byte, 'w');
        CHECK_EQ(cb.aio_lio_opcode, LIO_READ);
        cb.aio_lio_opcode = opcodes[i];
        CHECK_EQ(aio_fsync(O_SYNC, &cb), 0);
        CHECK_EQ(finish(&cb), 0);
        printf("after aio_fsync: opcode %d\n", cb.aio_lio_opcode);
    }
}

CASE(O_NONBLOCK_is_honoured)
{
    static char chunk[65536];
    struct aiocb cb;
    int ends[2], sockets[2];

    CHECK_EQ(pipe2(ends, O_NONBLOCK), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets), 0);
    ends_with("read of an empty pipe", 0, ends[0], 16, 0, EAGAIN);
    ends_with("read of an empty socket", 0, sockets[0], 16, 0, EAGAIN);
    while (write(ends[1], chunk, sizeof chunk) > 0 || write(sockets[1], chunk, 512) > 0)
        continue;
    ends_with("write of a full pipe", 1, ends[1], 16, 0, EAGAIN);
    ends_with("write of a full socket", 1, sockets[1], 16, 0, EAGAIN);
    prepare(&cb, ends[0], chunk, 16, 0);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(finish(&cb), 16);
}

/* That the calls return at all is what is shown: nothing makes these requests end. */
CASE(submission_does_not_wait_for_data)
{
    static char chunk[1 << 20];
    struct aiocb requests[6];
    int empty[2], full[2], sockets[2];

    CHECK_EQ(pipe(empty), 0);
    CHECK_EQ(pipe(full), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    prepare(&requests[0], empty[0], chunk, 1, 0);
    prepare(&requests[1], full[1], chunk, sizeof chunk, 0);
    prepare(&requests[2], full[1], chunk, sizeof chunk, 0);
    prepare(&requests[3], sockets[0], chunk, 1, 0);
    prepare(&requests[4], sockets[0], chunk, sizeof chunk, 0);
    prepare(&requests[5], sockets[0], chunk, sizeof chunk, 0);
    for (int i = 0; i < 6; i++)
        CHECK_EQ(i == 0 || i == 3 ? aio_read(&requests[i]) : aio_write(&requests[i]), 0);
    nap(20);
    for (int i = 0; i < 6; i++)
        CHECK_EQ(aio_error(&requests[i]), EINPROGRESS);
}

#define MANY 20000

CASE(twenty_thousand_reads_of_a_pipe_in_flight)
{
    struct aiocb *requests = malloc(MANY * sizeof *requests);
    unsigned char *in = malloc(MANY), *out = malloc(MANY);
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    pattern(out, MANY, 9);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], ends[0], &in[i], 1, 0);
        CHECK_EQ(aio_read(&requests[i]), 0);
    }
    for (int i = 0; i < MANY; i += 997)
        CHECK_EQ(aio_error(&requests[i]), EINPROGRESS);
    CHECK_EQ(write(ends[1], out, MANY), MANY);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&requests[i]), 1);
    CHECK(memcmp(in, out, MANY) == 0);
}

CASE(twenty_thousand_writes_of_a_file_in_flight)
{
    struct aiocb *requests = malloc(MANY * sizeof *requests);
    unsigned *words = malloc(MANY * sizeof *words), *back = malloc(MANY * sizeof *back);
    int fd = temporary_file(0);

    for (unsigned i = 0; i < MANY; i++) {
        words[i] = i * 2654435761u + 1;
        prepare(&requests[i], fd, &words[i], sizeof words[i], i * sizeof words[i]);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&requests[i]), (ssize_t)sizeof words[0]);
    CHECK_EQ(pread(fd, back, MANY * sizeof *back, 0), (ssize_t)(MANY * sizeof *back));
    CHECK(memcmp(words, back, MANY * sizeof *back) == 0);
}
