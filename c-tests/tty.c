/*
 * Pseudo terminals: reads wait for what the line discipline lets through, and end when the other side hangs up.
 *
 * Seen to fail: with no first attempt before poll is asked, raw_read_with_no_minimum_does_not_wait; with the last request
 * first in a descriptor's queue, reads_take_one_line_each_in_call_order; with O_NONBLOCK forgotten,
 * nonblocking_read_gives_EAGAIN; with one queue for both directions, waiting_read_does_not_hold_back_a_write; without the
 * epoll instance, cancelling_one_direction_leaves_the_other.
 */
#include "tools/descriptors.h"

#include <sys/epoll.h>
#include <termios.h>

/* ends[0] is the terminal as a program sees it, ends[1] the master behind it. Raw: every byte passes as it is. */
static void open_terminal(int ends[2], int is_raw)
{
    struct termios attributes;

    ends[1] = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(ends[1] >= 0);
    CHECK_EQ(grantpt(ends[1]), 0);
    CHECK_EQ(unlockpt(ends[1]), 0);
    ends[0] = open(ptsname(ends[1]), O_RDWR | O_NOCTTY);
    CHECK(ends[0] >= 0);
    CHECK_EQ(tcgetattr(ends[0], &attributes), 0);
    if (is_raw)
        cfmakeraw(&attributes);
    attributes.c_lflag &= ~(tcflag_t)ECHO;
    CHECK_EQ(tcsetattr(ends[0], TCSANOW, &attributes), 0);
}

CASE(read_waits_for_a_line)
{
    char buffer[64] = "";
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 0);
    start_read(&cb, ends[0], buffer, sizeof buffer, 0);
    feed(ends[1], "half a li", 9);
    check_pending(&cb);
    feed(ends[1], "ne\n", 3);
    printf("%zd %s", finish(&cb), buffer);
}

CASE(reads_take_one_line_each_in_call_order)
{
    enum { READS = 20 };
    struct aiocb cbs[READS];
    char buffers[READS][16], line[16];
    int ends[2];

    open_terminal(ends, 0);
    for (int i = 0; i < READS; i++) {
        memset(buffers[i], 0, sizeof buffers[i]);
        start_read(&cbs[i], ends[0], buffers[i], sizeof buffers[i] - 1, 0);
    }
    for (int i = 0; i < READS; i++) {
        int size = snprintf(line, sizeof line, "line %d\n", i);
        feed(ends[1], line, (size_t)size);
    }
    for (int i = 0; i < READS; i++) {
        ssize_t size = finish(&cbs[i]);
        printf("%zd %s", size, buffers[i]);
    }
}

CASE(end_of_file_character_ends_a_read_with_nothing)
{
    char buffer[16];
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 0);
    start_read(&cb, ends[0], buffer, sizeof buffer, 0);
    check_pending(&cb);
    feed(ends[1], "\004", 1);
    printf("%zd\n", finish(&cb));
}

CASE(raw_read_gives_what_is_there)
{
    char buffer[64] = "";
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 1);
    start_read(&cb, ends[0], buffer, sizeof buffer, 0);
    check_pending(&cb);
    feed(ends[1], "key", 3);
    printf("%zd %s\n", finish(&cb), buffer);
}

/* A raw terminal whose reads wait for so many bytes, or for so many tenths of a second, as termios(3) has it. */
static void open_timed(int ends[2], cc_t least, cc_t tenths)
{
    struct termios attributes;

    open_terminal(ends, 1);
    CHECK_EQ(tcgetattr(ends[0], &attributes), 0);
    attributes.c_cc[VMIN] = least;
    attributes.c_cc[VTIME] = tenths;
    CHECK_EQ(tcsetattr(ends[0], TCSANOW, &attributes), 0);
}

/* With VMIN and VTIME at zero a terminal read is a poll: read(2) gives 0 when nothing is there, and so must AIO. */
CASE(raw_read_with_no_minimum_does_not_wait)
{
    char buffer[8];
    int ends[2];

    open_timed(ends, 0, 0);
    printf("%zd\n", read_now(ends[0], buffer, sizeof buffer, 0));
}

/* Seen to fail, with one byte each, when a read is tried without blocking. */
CASE(raw_read_waits_for_the_minimum)
{
    char buffer[8] = "";
    struct aiocb cb;
    int ends[2];

    open_timed(ends, 4, 0);
    for (int is_early = 0; is_early < 2; is_early++) {
        if (is_early)
            feed(ends[1], "a", 1);
        start_read(&cb, ends[0], buffer, sizeof buffer, 0);
        check_pending(&cb);
        if (!is_early)
            feed(ends[1], "a", 1);
        check_pending(&cb);
        feed(ends[1], "bcd", 3);
        printf("%zd %s\n", finish(&cb), buffer);
    }
}

/* Seen to fail, by waiting for ever, when a read waits until poll(2) tells of data. */
CASE(raw_read_ends_when_its_time_is_over)
{
    char buffer[8] = "";
    struct aiocb cb;
    int ends[2];

    open_timed(ends, 0, 1);
    printf("%zd\n", read_now(ends[0], buffer, sizeof buffer, 0));
    open_timed(ends, 4, 3);
    start_read(&cb, ends[0], buffer, sizeof buffer, 0);
    feed(ends[1], "ab", 2);
    printf("%zd %s\n", finish(&cb), buffer);
}

CASE(master_reads_what_the_terminal_writes)
{
    char buffer[64] = "";
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 1);
    start_read(&cb, ends[1], buffer, sizeof buffer, 0);
    check_pending(&cb);
    CHECK_EQ(write_now(ends[0], "output", 6, 0), 6);
    printf("%zd %s\n", finish(&cb), buffer);
}

CASE(hang_up_ends_the_terminals_read)
{
    char buffer[8];
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 1);
    start_read(&cb, ends[0], buffer, sizeof buffer, 0);
    check_pending(&cb);
    close(ends[1]);
    /* What comes of it is the kernel's to say; that it ends, and the same on every implementation, is the point. */
    printf("%d\n", await(&cb));
}

CASE(hang_up_ends_the_masters_read_with_EIO)
{
    char buffer[8];
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 1);
    start_read(&cb, ends[1], buffer, sizeof buffer, 0);
    check_pending(&cb);
    close(ends[0]);
    CHECK_ENDS_WITH(&cb, EIO);
}

CASE(nonblocking_read_gives_EAGAIN)
{
    char byte;
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 1);
    set_nonblocking(ends[0]);
    start_read(&cb, ends[0], &byte, 1, 0);
    CHECK_ENDS_WITH(&cb, EAGAIN);
}

CASE(write_bigger_than_the_terminal_takes_finishes_whole)
{
    enum { SIZE = 200000 };
    static unsigned char data[SIZE], got[SIZE];
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 1);
    pattern(data, SIZE, 3);
    start_write(&cb, ends[0], data, SIZE, 0);
    check_pending(&cb);
    check_file_read_works();
    CHECK_EQ(drain(ends[1], got, SIZE), SIZE);
    CHECK_EQ(finish(&cb), SIZE);
    CHECK(is_pattern(got, SIZE, 3));
}

DEFECT(waiting_read_does_not_hold_back_a_write, "one queue serves both directions of a descriptor")
{
    char buffer[8] = "", got[8] = "";
    struct aiocb reading;
    int ends[2];

    open_terminal(ends, 1);
    start_read(&reading, ends[0], buffer, sizeof buffer, 0);
    CHECK_EQ(write_now(ends[0], "prompt", 6, 0), 6);
    CHECK_EQ(drain(ends[1], got, 6), 6);
    feed(ends[1], "x", 1);
    CHECK_EQ(finish(&reading), 1);
}

DEFECT(thirty_idle_terminals_do_not_hold_up_a_file, "each waiting read keeps one of at most twenty threads")
{
    enum { TERMINALS = 30 };
    static struct aiocb cbs[TERMINALS];
    static char bytes[TERMINALS];
    int ends[TERMINALS][2];

    for (int i = 0; i < TERMINALS; i++) {
        open_terminal(ends[i], 1);
        start_read(&cbs[i], ends[i][0], &bytes[i], 1, 0);
    }
    nap(30);
    check_file_read_works();
    CHECK(thread_count() <= 8);
    for (int i = TERMINALS - 1; i >= 0; i--) {
        feed(ends[i][1], "x", 1);
        CHECK_EQ(finish(&cbs[i]), 1);
    }
}

/*
 * A master cannot be read without waiting by the program's own opening of it, and to open it again makes another. Seen to fail, by
 * hanging at a master with data, when a helper waits for the data of each.
 */
DEFECT(seventy_idle_masters_hold_up_neither_a_file_nor_each_other, "each waiting read keeps one of at most twenty threads")
{
    enum { MASTERS = 70 };
    static struct aiocb cbs[MASTERS];
    static char buffers[MASTERS][8];
    int ends[MASTERS][2];

    for (int i = 0; i < MASTERS; i++) {
        open_terminal(ends[i], 1);
        start_read(&cbs[i], ends[i][1], buffers[i], sizeof buffers[i], 0);
    }
    nap(1000);
    check_file_read_works();
    CHECK_EQ(write_now(temporary_file(0), "file", 4, 0), 4);
    for (int i = MASTERS - 1; i >= 0; i--) {
        feed(ends[i][0], "hi", 2);
        CHECK_EQ(finish(&cbs[i]), 2);
    }
}

DEFECT(a_hundred_stuck_writes_do_not_hold_up_a_file, "each waiting write keeps one of at most twenty threads")
{
    enum { TERMINALS = 100, SIZE = 100000 };
    static struct aiocb cbs[TERMINALS];
    static char data[SIZE], got[SIZE];
    int ends[TERMINALS][2];

    for (int i = 0; i < TERMINALS; i++) {
        open_terminal(ends[i], 1);
        start_write(&cbs[i], ends[i][0], data, SIZE, 0);
    }
    nap(30);
    check_file_read_works();
    for (int i = TERMINALS - 1; i >= 0; i--) {
        CHECK_EQ(drain(ends[i][1], got, SIZE), SIZE);
        CHECK_EQ(finish(&cbs[i]), SIZE);
    }
}

/* Somebody else reads the same terminal: what was readable may be gone when the library reads. */
static void *compete(void *argument)
{
    int fd = *(int *)argument;
    char byte;

    while (read(fd, &byte, 1) == 1)
        continue;
    return NULL;
}

CASE(data_that_another_reader_takes_is_waited_for_anew)
{
    /* The last read may outlive this call. */
    static char byte;
    static struct aiocb cb;
    int ends[2];

    open_terminal(ends, 1);
    start_read(&cb, ends[0], &byte, 1, 0);
    start_thread(compete, &ends[0]);
    for (int i = 0; i < 500; i++) {
        feed(ends[1], "d", 1);
        WAIT_UNTIL(!has_data(ends[0]));
        if (aio_error(&cb) == 0)
            start_read(&cb, ends[0], &byte, 1, 0);
        if (i % 100 == 0)
            check_file_read_works();
    }
}

/*
 * A terminal is watched for both directions at once. Fails, by hanging, when taking the cancelled one out makes
 * the library forget the other.
 */
DEFECT(cancelling_one_direction_leaves_the_other, "one queue serves both directions of a descriptor")
{
    enum { SIZE = 100000 };
    static char data[SIZE], got[SIZE];
    struct aiocb reading, writing;
    int ends[2], left;

    open_terminal(ends, 1);
    start_read(&reading, ends[0], got, 1, 0);
    start_write(&writing, ends[0], data, SIZE, 0);
    nap(50);
    check_pending(&reading);
    check_pending(&writing);
    CHECK_EQ(aio_cancel(ends[0], &reading), AIO_CANCELED);
    CHECK_EQ(drain(ends[1], got, SIZE), SIZE);
    CHECK_EQ(finish(&writing), SIZE);
    start_read(&reading, ends[0], got, 1, 0);
    start_write(&writing, ends[0], data, 1, 0);
    CHECK_EQ(finish(&writing), 1);
    CHECK_EQ(read(ends[1], &left, 1), 1);
    feed(ends[1], "x", 1);
    CHECK_EQ(finish(&reading), 1);
}

/* Fails, by hanging, when a new instance of ours watches only what came after it. */
DIFFERS(watched_terminals_outlive_our_closed_descriptors, "libc has a thread blocked in each, and no descriptor of its own")
{
    enum { TERMINALS = 5 };
    struct aiocb cbs[TERMINALS + 1];
    char bytes[TERMINALS + 1];
    int ends[TERMINALS + 1][2];

    for (int i = 0; i < TERMINALS; i++)
        open_terminal(ends[i], 1);
    for (int i = 0; i < TERMINALS; i++)
        start_read(&cbs[i], ends[i][0], &bytes[i], 1, 0);
    nap(50);
    /* Ours are above these. */
    CHECK_EQ(close_range((unsigned)ends[TERMINALS - 1][0] + 1, ~0U, 0), 0);
    feed(ends[0][1], "x", 1);
    CHECK_EQ(finish(&cbs[0]), 1);
    CHECK_EQ(close_range((unsigned)ends[TERMINALS - 1][0] + 1, ~0U, 0), 0);
    open_terminal(ends[TERMINALS], 1);
    start_read(&cbs[TERMINALS], ends[TERMINALS][0], &bytes[TERMINALS], 1, 0);
    nap(50);
    for (int i = TERMINALS; i > 0; i--) {
        feed(ends[i][1], "x", 1);
        CHECK_EQ(finish(&cbs[i]), 1);
    }
}

/* ---- Closed while a read waits -------------------------------------------------------------------- */

/* Gets the number that was closed last, unless a descriptor of the library's has it by now. */
static int open_again(int master)
{
    int fd = open(ptsname(master), O_RDWR | O_NOCTTY);

    CHECK(fd >= 0);
    return fd;
}

/* What it read is a line, or it read nothing and is cancelled. */
static void check_line_or_cancelled(struct aiocb *cb)
{
    int error = await(cb);

    CHECK(error == 0 || error == ECANCELED);
    CHECK_EQ(aio_return(cb), error == 0 ? 2 : -1);
}

/*
 * The terminal is closed and opened again under the same number. Seen to fail, by hanging, when the library takes the terminal for
 * watched because the number is: the kernel forgot it with the close.
 */
CASE(terminal_that_is_opened_again_is_read)
{
    char buffers[2][8];
    struct aiocb closed, again;
    int ends[2];

    open_terminal(ends, 0);
    /* So that the close is not a hang-up. */
    open_again(ends[1]);
    start_read(&closed, ends[0], buffers[0], sizeof buffers[0], 0);
    nap(50);
    close(ends[0]);
    int fd = open_again(ends[1]);
    start_read(&again, fd, buffers[1], sizeof buffers[1], 0);
    nap(30);
    feed(ends[1], "1\n2\n", 4);
    CHECK_EQ(finish(&again), 2);
    check_line_or_cancelled(&closed);
}

/* Seen to fail when the library learns of input only from the descriptor that is closed: the read never ends. */
CASE(read_of_a_closed_terminal_ends_when_input_comes)
{
    char buffer[8];
    struct aiocb cb;
    int ends[2];

    open_terminal(ends, 0);
    int other = open_again(ends[1]);
    start_read(&cb, ends[0], buffer, sizeof buffer, 0);
    nap(50);
    close(ends[0]);
    nap(30);
    feed(ends[1], "1\n", 2);
    check_line_or_cancelled(&cb);
    if (aio_error(&cb) == ECANCELED)
        CHECK(has_data(other));
}

/* How many of this process's descriptors are epoll instances. */
static int epoll_count(void)
{
    DIR *directory = opendir("/proc/self/fd");
    char target[64];
    int count = 0;

    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof target);

        count += length > 0 && memmem(target, (size_t)length, "eventpoll", 9) != NULL;
    }
    closedir(directory);
    return count;
}

/*
 * The close falls into every moment of a read that begins to wait, which is then cancelled. Seen to fail, with hundreds of
 * epoll instances, when the library makes one anew for what it cannot watch, and leaves the old one open.
 */
CASE(terminals_closed_at_any_moment_leave_no_descriptor_behind)
{
    enum { ROUNDS = 2000, SPARE = 2 };
    static struct aiocb cbs[ROUNDS];
    static char bytes[ROUNDS][8];
    int ends[2];
    double end = now() + 3;

    open_terminal(ends, 0);
    int before = epoll_count();
    srand(1);
    for (int round = 0; round < ROUNDS && now() < end; round++) {
        struct aiocb *cb = &cbs[round];
        int fd = open_again(ends[1]);

        start_read(cb, fd, bytes[round], sizeof bytes[round], 0);
        for (double until = now() + 250e-6 * rand() / RAND_MAX; now() < until;)
            continue;
        close(fd);
        usleep(400);
        /* It may have ended already, or libc's be under way, and the number be another one: no matter. */
        fd = open_again(ends[1]);
        aio_cancel(fd, cb);
        close(fd);
    }
    /* One may be on its way out. */
    for (end = now() + 2; epoll_count() > before + SPARE && now() < end;)
        nap(10);
    int after = epoll_count();
    if (after > before + SPARE)
        FAIL("%d epoll instances, and %d before", after, before);
}
