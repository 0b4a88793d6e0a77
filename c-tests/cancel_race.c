/*
 * aio_cancel against completion, from several threads at once: each request ends exactly once, with either its data or
 * ECANCELED, and what was cancelled took no data.
 *
 * Seen to fail: with a request cancelled while a thread tries its transfer, pipe_read_against_its_data and
 * socket_read_against_its_data (the byte was taken), and several_threads_cancel_while_data_arrives.
 */
// timeout: 60
#include "tools/descriptors.h"

#include <sys/socket.h>

/* Threads that start a round together. */
static pthread_barrier_t start_line;

static void line_up(void)
{
    int result = pthread_barrier_wait(&start_line);

    CHECK(result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD);
}

enum { ROUNDS = 2000 };

static void *feed_each_round(void *argument)
{
    int fd = *(int *)argument;

    for (int i = 0; i < ROUNDS; i++) {
        line_up();
        feed(fd, "d", 1);
        line_up();
    }
    return NULL;
}

/* The byte arrives just as its read is cancelled: one of the two wins, and never both. */
static void race_with_data(int reader, int writer, int notification)
{
    struct aiocb cb;
    siginfo_t info;
    int taken = 0, cancelled = 0;

    block_signal(SIGRTMIN);
    CHECK_EQ(pthread_barrier_init(&start_line, NULL, 2), 0);
    pthread_t feeder = start_thread(feed_each_round, &writer);
    for (int i = 0; i < ROUNDS; i++) {
        char byte = 0;

        prepare(&cb, reader, &byte, 1, 0);
        cb.aio_sigevent.sigev_notify = notification;
        cb.aio_sigevent.sigev_signo = SIGRTMIN;
        cb.aio_sigevent.sigev_value.sival_int = i;
        CHECK_EQ(aio_read(&cb), 0);
        line_up();
        /* Sweeps the moment of the call over the other thread's write. */
        for (volatile int spin = 0; spin < i % 200 * 20; spin++)
            continue;
        int answer = aio_cancel(reader, i % 2 == 0 ? &cb : NULL);
        line_up();
        CHECK(answer == AIO_CANCELED || answer == AIO_NOTCANCELED || answer == AIO_ALLDONE);
        if (answer == AIO_CANCELED) {
            CHECK_EQ(aio_error(&cb), ECANCELED);
            CHECK_EQ(aio_return(&cb), -1);
            CHECK_EQ(byte, 0);
            cancelled++;
            /* The feeder's byte must be there still. */
            CHECK(has_data(reader));
            CHECK_EQ(drain(reader, &byte, 1), 1);
        } else {
            CHECK_EQ(finish(&cb), 1);
            taken++;
        }
        CHECK_EQ(byte, 'd');
        CHECK(!has_data(reader));
        if (notification == SIGEV_SIGNAL) {
            CHECK(take_signal(SIGRTMIN, &info, 10000));
            CHECK_EQ(info.si_value.sival_int, i);
        }
    }
    CHECK(!take_signal(SIGRTMIN, &info, 20));
    CHECK_EQ(taken + cancelled, ROUNDS);
    join_thread(feeder);
}

static void pipe_race(int notification)
{
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    race_with_data(ends[0], ends[1], notification);
}

CASE(pipe_read_against_its_data) { pipe_race(SIGEV_NONE); }
CASE(pipe_read_with_a_signal_against_its_data) { pipe_race(SIGEV_SIGNAL); }

CASE(socket_read_against_its_data)
{
    int pair[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    race_with_data(pair[0], pair[1], SIGEV_SIGNAL);
}

/* ---- Many requests, several threads that cancel --------------------------------------------------- */

enum { READS = 400, CANCELLERS = 3, BYTES = 250 };

static struct aiocb reads[READS];
static unsigned char numbers[READS];
static int ended[READS];
static int reader_fd;

static void on_end(union sigval value)
{
    __atomic_add_fetch(&ended[value.sival_int], 1, __ATOMIC_SEQ_CST);
}

static void *cancel_some(void *argument)
{
    int first = (int)(intptr_t)argument;

    line_up();
    for (int i = first; i < READS; i += first + 2) {
        int answer = aio_cancel(reader_fd, &reads[i]);

        CHECK(answer == AIO_CANCELED || answer == AIO_NOTCANCELED || answer == AIO_ALLDONE);
        /* It may be another thread that cancelled it: then it is done. */
        if (answer == AIO_CANCELED)
            CHECK_EQ(aio_error(&reads[i]), ECANCELED);
        else if (answer == AIO_ALLDONE)
            CHECK(aio_error(&reads[i]) != EINPROGRESS);
    }
    return NULL;
}

static void *feed_numbers(void *argument)
{
    int fd = *(int *)argument;

    line_up();
    for (int i = 0; i < BYTES; i++) {
        unsigned char number = (unsigned char)i;

        feed(fd, &number, 1);
    }
    return NULL;
}

/* libc may lose requests here (cancel.c shows that for sure), but not on every run. */
DIFFERS(several_threads_cancel_while_data_arrives, "cancelling may lose the requests behind the cancelled one")
{
    CHECK_EQ(pthread_barrier_init(&start_line, NULL, CANCELLERS + 1), 0);
    for (int round = 0; round < 20; round++) {
        pthread_t threads[CANCELLERS + 1];
        int ends[2], next = 0;
        unsigned char left[BYTES];

        CHECK_EQ(pipe(ends), 0);
        reader_fd = ends[0];
        memset(ended, 0, sizeof ended);
        for (int i = 0; i < READS; i++) {
            prepare(&reads[i], ends[0], &numbers[i], 1, 0);
            if (i % 4 == 0) {
                reads[i].aio_sigevent.sigev_notify = SIGEV_THREAD;
                reads[i].aio_sigevent.sigev_notify_function = on_end;
                reads[i].aio_sigevent.sigev_value.sival_int = i;
            }
            CHECK_EQ(aio_read(&reads[i]), 0);
        }
        for (int i = 0; i < CANCELLERS; i++)
            threads[i] = start_thread(cancel_some, (void *)(intptr_t)i);
        threads[CANCELLERS] = start_thread(feed_numbers, &ends[1]);
        for (int i = 0; i <= CANCELLERS; i++)
            join_thread(threads[i]);
        /* Reads that nobody cancelled and no data reached end with the file. */
        close(ends[1]);
        for (int i = 0; i < READS; i++) {
            int error = await(&reads[i]);

            CHECK(error == 0 || error == ECANCELED);
            ssize_t result = aio_return(&reads[i]);
            CHECK(error == 0 ? result == 0 || result == 1 : result == -1);
            /* The reads that were filled have the bytes in their order, and none is missing. */
            if (result == 1)
                CHECK_EQ(numbers[i], next++);
        }
        size_t rest = drain(ends[0], left, sizeof left);
        CHECK_EQ(next + (int)rest, BYTES);
        for (size_t i = 0; i < rest; i++)
            CHECK_EQ(left[i], next + (int)i);
        for (int i = 0; i < READS; i += 4)
            WAIT_UNTIL(__atomic_load_n(&ended[i], __ATOMIC_SEQ_CST) >= 1);
        nap(5);
        for (int i = 0; i < READS; i++)
            CHECK_EQ(ended[i], i % 4 == 0);
        close(ends[0]);
    }
}

/* ---- All requests of a descriptor are cancelled again and again while more are submitted ---------- */

static volatile int is_stopped;

static void *cancel_all(void *argument)
{
    int fd = *(int *)argument;

    while (!is_stopped)
        CHECK(aio_cancel(fd, NULL) != -1);
    return NULL;
}

CASE(writes_that_are_cancelled_while_others_are_submitted)
{
    enum { WRITES = 64, SIZE = 4096 };
    static struct aiocb cbs[WRITES];
    unsigned char *data = aligned(SIZE), *got = aligned(SIZE);
    int fd = temporary_file(0);

    pthread_t canceller = start_thread(cancel_all, &fd);
    for (int round = 1; round <= 100; round++) {
        memset(data, round, SIZE);
        CHECK_EQ(ftruncate(fd, 0), 0);
        CHECK_EQ(ftruncate(fd, WRITES * SIZE), 0);
        for (int i = 0; i < WRITES; i++)
            start_write(&cbs[i], fd, data, SIZE, (off_t)i * SIZE);
        for (int i = 0; i < WRITES; i++) {
            int is_cancelled = await(&cbs[i]) == ECANCELED;

            CHECK_EQ(aio_return(&cbs[i]), is_cancelled ? -1 : SIZE);
            CHECK_EQ(pread(fd, got, SIZE, (off_t)i * SIZE), SIZE);
            CHECK(is_filled(got, SIZE, is_cancelled ? 0 : round));
        }
    }
    is_stopped = 1;
    join_thread(canceller);
}

/* ---- Nothing to read, cancelled at any moment ------------------------------------------------------ */

/*
 * There are no data, so that every call must find the read waiting. Seen to fail when the first look at what cannot be read without
 * waiting, a helper's, counts as running: AIO_NOTCANCELED in one call of thirty.
 */
static void cancel_at_any_moment(int fd)
{
    struct aiocb cb;
    char buffer[8];
    double end = now() + 2.5;

    srand(1);
    for (int round = 0; round < 5000 && now() < end; round++) {
        double until = now() + 250e-6 * rand() / RAND_MAX;

        start_read(&cb, fd, buffer, sizeof buffer, 0);
        while (now() < until)
            continue;
        CHECK_EQ(aio_cancel(fd, &cb), AIO_CANCELED);
        CHECK_EQ(aio_error(&cb), ECANCELED);
    }
}

DIFFERS(idle_terminals_read_is_always_cancelled, "libc's thread is inside read() and cannot be called back")
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);

    CHECK(master >= 0);
    CHECK_EQ(grantpt(master), 0);
    CHECK_EQ(unlockpt(master), 0);
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(terminal >= 0);
    cancel_at_any_moment(terminal);
}

DIFFERS(idle_fifos_read_is_always_cancelled, "libc's thread is inside read() and cannot be called back")
{
    char name[PATH_MAX];

    snprintf(name, sizeof name, "%s/cancel-race-fifo", test_directory());
    CHECK_EQ(mkfifo(name, 0600), 0);
    int fd = open(name, O_RDWR);
    unlink(name);
    CHECK(fd >= 0);
    cancel_at_any_moment(fd);
}
