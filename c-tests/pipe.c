/*
 * Pipes and FIFOs: a read waits for data without a thread of its own, requests are served in the order of the calls,
 * transfers are partial where read(2)'s and write(2)'s are, and what waits on one descriptor holds up no other.
 *
 * Seen to fail: with the last request first in a descriptor's queue, both ways reads_are_filled_in_call_order,
 * end_of_file_ends_every_waiting_read, writes_arrive_in_call_order and small_writes_are_atomic; with attempts made without
 * RWF_NOWAIT, pipe_read_waits_for_data, which hangs.
 */
#include "tools/descriptors.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

enum kind { PIPE, FIFO };

/* ends[0] reads, ends[1] writes; both block. */
static void open_ends(enum kind kind, int ends[2])
{
    char name[PATH_MAX];

    if (kind == PIPE) {
        CHECK_EQ(pipe(ends), 0);
        return;
    }
    snprintf(name, sizeof name, "%s/fifo-%ld-%d", test_directory(), (long)getpid(), rand());
    CHECK_EQ(mkfifo(name, 0600), 0);
    int keeper = open(name, O_RDWR);
    ends[0] = open(name, O_RDONLY);
    ends[1] = open(name, O_WRONLY);
    CHECK(keeper >= 0 && ends[0] >= 0 && ends[1] >= 0);
    close(keeper);
    unlink(name);
}

/* The kernel treats FIFOs otherwise than pipes in what it can do without waiting; a program sees no difference. */
#define ON_BOTH(name)                                    \
    static void name(enum kind kind);                    \
    CASE(pipe_##name) { name(PIPE); }                    \
    CASE(fifo_##name) { name(FIFO); }                    \
    static void name(enum kind kind)

#define DEFECT_ON_BOTH(name, reason)                     \
    static void name(enum kind kind);                    \
    DEFECT(pipe_##name, reason) { name(PIPE); }          \
    DEFECT(fifo_##name, reason) { name(FIFO); }          \
    static void name(enum kind kind)

ON_BOTH(read_waits_for_data)
{
    int ends[2];
    char buffer[16] = "";
    struct aiocb cb;

    open_ends(kind, ends);
    start_read(&cb, ends[0], buffer, sizeof buffer, 0);
    check_pending(&cb);
    feed(ends[1], "hello", 5);
    printf("%zd %.5s\n", finish(&cb), buffer);
}

ON_BOTH(short_read_gives_what_is_there)
{
    int ends[2];
    char buffer[100] = "";

    open_ends(kind, ends);
    feed(ends[1], "0123456789", 10);
    /* The offset means nothing on what cannot seek. */
    printf("%zd %s\n", read_now(ends[0], buffer, sizeof buffer, 77), buffer);
}

ON_BOTH(zero_bytes_are_read_without_waiting)
{
    int ends[2];
    char byte;

    open_ends(kind, ends);
    printf("%zd\n", read_now(ends[0], &byte, 0, 0));
}

ON_BOTH(reads_are_filled_in_call_order)
{
    enum { READS = 200 };
    static struct aiocb cbs[READS];
    static int numbers[READS], sent[READS];
    int ends[2];

    open_ends(kind, ends);
    for (int i = 0; i < READS; i++) {
        sent[i] = i;
        start_read(&cbs[i], ends[0], &numbers[i], sizeof numbers[i], 0);
    }
    /* One read at a time first, then all that is left at once. */
    for (int i = 0; i < 10; i++) {
        feed(ends[1], &sent[i], sizeof sent[i]);
        CHECK_EQ(finish(&cbs[i]), sizeof numbers[i]);
        CHECK_EQ(aio_error(&cbs[i + 1]), EINPROGRESS);
    }
    feed(ends[1], &sent[10], sizeof sent[0] * (READS - 10));
    for (int i = 10; i < READS; i++)
        CHECK_EQ(finish(&cbs[i]), sizeof numbers[i]);
    for (int i = 0; i < READS; i++)
        CHECK_EQ(numbers[i], i);
}

ON_BOTH(end_of_file_ends_every_waiting_read)
{
    enum { READS = 20 };
    struct aiocb cbs[READS];
    char buffers[READS][8];
    int ends[2];

    open_ends(kind, ends);
    for (int i = 0; i < READS; i++)
        start_read(&cbs[i], ends[0], buffers[i], sizeof buffers[i], 0);
    feed(ends[1], "0123456789ab", 12);
    close(ends[1]);
    for (int i = 0; i < READS; i++)
        printf("%zd ", finish(&cbs[i]));
    printf("%zd\n", read_now(ends[0], buffers[0], 8, 0));
}

ON_BOTH(writes_arrive_in_call_order)
{
    enum { WRITES = 100, SIZE = 3000 };
    static unsigned char data[WRITES][SIZE], got[WRITES][SIZE];
    static struct aiocb cbs[WRITES];
    int ends[2];

    open_ends(kind, ends);
    CHECK(fcntl(ends[1], F_SETPIPE_SZ, 4096) >= 4096);
    for (int i = 0; i < WRITES; i++) {
        pattern(data[i], SIZE, (unsigned)i);
        start_write(&cbs[i], ends[1], data[i], SIZE, 0);
    }
    CHECK_EQ(aio_error(&cbs[WRITES - 1]), EINPROGRESS);
    CHECK_EQ(drain(ends[0], got, sizeof got), sizeof got);
    for (int i = 0; i < WRITES; i++) {
        CHECK_EQ(finish(&cbs[i]), SIZE);
        CHECK(is_pattern(got[i], SIZE, (unsigned)i));
    }
}

ON_BOTH(write_bigger_than_the_pipe_finishes_whole)
{
    enum { SIZE = 1 << 20 };
    unsigned char *data = aligned(SIZE), *got = aligned(SIZE);
    struct aiocb cb, last;
    int ends[2];

    open_ends(kind, ends);
    pattern(data, SIZE, 1);
    start_write(&cb, ends[1], data, SIZE, 0);
    start_write(&last, ends[1], "end", 3, 0);
    check_pending(&cb);
    /* Nobody reads yet: what waits there must not hold up the rest of the program. */
    check_file_read_works();
    CHECK_EQ(drain(ends[0], got, SIZE), SIZE);
    CHECK_EQ(finish(&cb), SIZE);
    CHECK(is_pattern(got, SIZE, 1));
    CHECK_EQ(drain(ends[0], got, 3), 3);
    printf("%.3s %zd\n", (char *)got, finish(&last));
}

/* POSIX promises that writes of up to PIPE_BUF bytes are not mixed with those of other writers. */
ON_BOTH(small_writes_are_atomic)
{
    enum { WRITES = 150, SIZE = 1000, WRITERS = 3 };
    static unsigned char data[WRITERS][WRITES][SIZE], record[SIZE];
    static struct aiocb cbs[WRITERS][WRITES];
    int ends[2], next[WRITERS] = { 0 }, fds[WRITERS];

    open_ends(kind, ends);
    CHECK(fcntl(ends[1], F_SETPIPE_SZ, 4096) >= 4096);
    for (int writer = 0; writer < WRITERS; writer++)
        CHECK((fds[writer] = dup(ends[1])) >= 0);
    for (int i = 0; i < WRITES; i++)
        for (int writer = 0; writer < WRITERS; writer++) {
            memset(data[writer][i], i, SIZE);
            data[writer][i][0] = (unsigned char)writer;
            start_write(&cbs[writer][i], fds[writer], data[writer][i], SIZE, 0);
        }
    for (int i = 0; i < WRITES * WRITERS; i++) {
        CHECK_EQ(drain(ends[0], record, SIZE), SIZE);
        int writer = record[0];
        CHECK(writer < WRITERS);
        CHECK(is_filled(record + 1, SIZE - 1, next[writer]));
        next[writer]++;
    }
    for (int i = 0; i < WRITES * WRITERS; i++)
        CHECK_EQ(finish(&cbs[i / WRITES][i % WRITES]), SIZE);
}

/* SIGPIPE would kill the program: it is unblocked in every thread that the program has, and has its default action. */
static void make_sigpipe_deadly(void)
{
    sigset_t set;

    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
}

ON_BOTH(write_without_a_reader_gives_EPIPE_and_no_signal)
{
    struct aiocb cb;
    int ends[2];

    make_sigpipe_deadly();
    open_ends(kind, ends);
    close(ends[0]);
    for (int i = 0; i < 10; i++) {
        start_write(&cb, ends[1], "x", 1, 0);
        CHECK_ENDS_WITH(&cb, EPIPE);
    }
}

ON_BOTH(waiting_writes_get_EPIPE_when_the_reader_leaves)
{
    enum { WRITES = 5, SIZE = 1 << 17 };
    char *data = aligned(SIZE);
    struct aiocb cbs[WRITES];
    int ends[2];

    make_sigpipe_deadly();
    open_ends(kind, ends);
    for (int i = 0; i < WRITES; i++)
        start_write(&cbs[i], ends[1], data, SIZE, 0);
    check_pending(&cbs[0]);
    close(ends[0]);
    /* The first had filled the pipe when the reader went: write(2) tells that rather than the error. */
    CHECK_EQ(await(&cbs[0]), 0);
    printf("%zd\n", aio_return(&cbs[0]));
    for (int i = 1; i < WRITES; i++)
        CHECK_ENDS_WITH(&cbs[i], EPIPE);
}

ON_BOTH(nonblocking_read_without_data_gives_EAGAIN)
{
    char byte;
    struct aiocb cb;
    int ends[2];

    open_ends(kind, ends);
    set_nonblocking(ends[0]);
    start_read(&cb, ends[0], &byte, 1, 0);
    CHECK_ENDS_WITH(&cb, EAGAIN);
    feed(ends[1], "a", 1);
    printf("%zd\n", read_now(ends[0], &byte, 1, 0));
}

ON_BOTH(nonblocking_write_takes_what_fits_then_gives_EAGAIN)
{
    enum { SIZE = 1 << 20 };
    char *data = aligned(SIZE);
    struct aiocb cb;
    int ends[2];

    open_ends(kind, ends);
    set_nonblocking(ends[1]);
    printf("%zd\n", write_now(ends[1], data, SIZE, 0));
    start_write(&cb, ends[1], data, SIZE, 0);
    CHECK_ENDS_WITH(&cb, EAGAIN);
}

ON_BOTH(list_that_reads_first_what_it_writes_second)
{
    char buffer[8] = "";
    struct aiocb reading, writing, *list[3] = { &reading, NULL, &writing };
    int ends[2];

    open_ends(kind, ends);
    prepare(&reading, ends[0], buffer, 4, 0);
    reading.aio_lio_opcode = LIO_READ;
    prepare(&writing, ends[1], "list", 4, 0);
    writing.aio_lio_opcode = LIO_WRITE;
    CHECK_EQ(lio_listio(LIO_WAIT, list, 3, NULL), 0);
    printf("%zd %zd %s\n", aio_return(&reading), aio_return(&writing), buffer);
}

ON_BOTH(waiting_read_notifies_once)
{
    char byte;
    struct aiocb cb;
    siginfo_t info;
    int ends[2];

    block_signal(SIGRTMIN);
    open_ends(kind, ends);
    prepare(&cb, ends[0], &byte, 1, 0);
    cb.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    cb.aio_sigevent.sigev_signo = SIGRTMIN;
    cb.aio_sigevent.sigev_value.sival_int = 4711;
    CHECK_EQ(aio_read(&cb), 0);
    CHECK(!take_signal(SIGRTMIN, &info, 30));
    feed(ends[1], "x", 1);
    CHECK(take_signal(SIGRTMIN, &info, 10000));
    printf("%d %d\n", info.si_value.sival_int, aio_error(&cb));
    CHECK(!take_signal(SIGRTMIN, &info, 30));
}

/*
 * Somebody else reads the same pipe: when the library finds it readable, the data may be gone before it reads.
 * It must wait anew, and meanwhile serve everything else.
 */
static void *compete(void *argument)
{
    int fd = *(int *)argument;
    intptr_t taken = 0;
    char byte;

    while (read(fd, &byte, 1) == 1 && byte != 'q')
        taken++;
    return (void *)taken;
}

ON_BOTH(data_that_another_reader_takes_is_waited_for_anew)
{
    enum { BYTES = 1000 };
    intptr_t ours = 0;
    char byte;
    struct aiocb cb;
    int ends[2];

    open_ends(kind, ends);
    start_read(&cb, ends[0], &byte, 1, 0);
    pthread_t competitor = start_thread(compete, &ends[0]);
    for (int i = 0; i < BYTES; i++) {
        feed(ends[1], "d", 1);
        WAIT_UNTIL(!has_data(ends[0]));
        while (aio_error(&cb) == 0) {
            CHECK_EQ(aio_return(&cb), 1);
            ours++;
            start_read(&cb, ends[0], &byte, 1, 0);
        }
        if (i % 250 == 0)
            check_file_read_works();
    }
    /* One of the two takes each 'q'; the competitor stops at its first. */
    for (int stopped = 0; !stopped;) {
        feed(ends[1], "q", 1);
        WAIT_UNTIL(!has_data(ends[0]));
        nap(2);
        if (aio_error(&cb) == 0) {
            ours += byte == 'd';
            start_read(&cb, ends[0], &byte, 1, 0);
        } else {
            stopped = pthread_tryjoin_np(competitor, NULL) == 0;
        }
    }
    check_pending(&cb);
    feed(ends[1], "z", 1);
    CHECK_EQ(finish(&cb), 1);
    CHECK_EQ(byte, 'z');
    CHECK(ours <= BYTES);
}

DEFECT_ON_BOTH(thirty_idle_reads_do_not_hold_up_a_file, "each waiting read keeps one of at most twenty threads")
{
    enum { PIPES = 30 };
    static struct aiocb cbs[PIPES];
    static char bytes[PIPES];
    int ends[PIPES][2];

    for (int i = 0; i < PIPES; i++) {
        open_ends(kind, ends[i]);
        start_read(&cbs[i], ends[i][0], &bytes[i], 1, 0);
    }
    nap(30);
    check_file_read_works();
    for (int i = PIPES - 1; i >= 0; i--) {
        feed(ends[i][1], "x", 1);
        CHECK_EQ(finish(&cbs[i]), 1);
    }
}

DEFECT_ON_BOTH(a_hundred_waiting_writes_do_not_hold_up_a_file, "each waiting write keeps one of at most twenty threads")
{
    enum { PIPES = 100, SIZE = 1 << 18 };
    static struct aiocb cbs[PIPES];
    char *data = aligned(SIZE), *got = aligned(SIZE);
    int ends[PIPES][2];

    for (int i = 0; i < PIPES; i++) {
        open_ends(kind, ends[i]);
        start_write(&cbs[i], ends[i][1], data, SIZE, 0);
    }
    nap(30);
    check_file_read_works();
    CHECK(thread_count() <= 8);
    for (int i = PIPES - 1; i >= 0; i--) {
        CHECK_EQ(drain(ends[i][0], got, SIZE), SIZE);
        CHECK_EQ(finish(&cbs[i]), SIZE);
    }
}

DEFECT_ON_BOTH(a_thousand_idle_reads_need_no_thread_each, "only twenty of them are ever started")
{
    enum { PIPES = 1000 };
    static struct aiocb cbs[PIPES];
    static int numbers[PIPES];
    static int ends[PIPES][2];

    for (int i = 0; i < PIPES; i++) {
        open_ends(kind, ends[i]);
        start_read(&cbs[i], ends[i][0], &numbers[i], sizeof numbers[i], 0);
    }
    nap(50);
    /* A handful that does not grow with the number of reads. */
    CHECK(thread_count() <= 8);
    for (int i = PIPES - 1; i >= 0; i--) {
        feed(ends[i][1], &i, sizeof i);
        CHECK_EQ(finish(&cbs[i]), sizeof i);
        CHECK_EQ(numbers[i], i);
    }
}

/* From now on nothing can be opened by this process. */
static void refuse_opening(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOENT),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof code[0], code };

    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == -1)
        SKIP("no seccomp filter here");
}

/*
 * A FIFO cannot be read without waiting by the program's own opening of it, and the library gets none of its own, as without
 * /proc. Seen to fail, by hanging at the file, when a helper then waits for the data.
 */
DEFECT(idle_fifos_that_cannot_be_opened_again_do_not_hold_up_a_file, "each waiting read keeps one of at most twenty threads")
{
    enum { FIFOS = 40, LAST = FIFOS - 1 };
    static struct aiocb cbs[FIFOS];
    static char bytes[FIFOS];
    int ends[FIFOS][2], file = temporary_file(0);

    for (int i = 0; i < FIFOS; i++)
        open_ends(FIFO, ends[i]);
    refuse_opening();
    for (int i = 0; i < FIFOS; i++)
        start_read(&cbs[i], ends[i][0], &bytes[i], 1, 0);
    nap(1500);
    CHECK_EQ(write_now(file, "file", 4, 0), 4);
    feed(ends[LAST][1], "x", 1);
    CHECK_EQ(finish(&cbs[LAST]), 1);
    CHECK_EQ(bytes[LAST], 'x');
    CHECK_EQ(aio_cancel(ends[0][0], &cbs[0]), AIO_CANCELED);
}
