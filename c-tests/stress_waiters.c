// timeout: 60
/*
 * Any number of threads wait, for the same requests and for different ones, with limits and without: no wake-up is lost.
 *
 * Seen to fail: five of the cases on a library that wakes nobody at a completion, and those where all wait for one request on
 * one that notes only the first of them. Not on one whose leaders leave without a
 * successor: there the completion thread, which looks around, makes a wait of it that is only slow. tests/protocol shows that.
 */
#include "check.h"

#include <sched.h>

enum { SIZE = 4096, THREADS = 8, DEPTH = 8 };

static unsigned next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* ---- All of them wait for the same request -------------------------------------------------------- */

static struct aiocb shared;
static pthread_barrier_t before, after;
static int rounds_left;

static void *wait_for_shared(void *with_limit)
{
    const struct timespec limit = { 30, 0 };
    const struct aiocb *list[3] = { NULL, &shared, NULL };

    for (;;) {
        pthread_barrier_wait(&before);
        if (rounds_left == 0)
            return NULL;
        CHECK_EQ(aio_suspend(list, 3, with_limit == NULL ? NULL : &limit), 0);
        CHECK_EQ(aio_error(&shared), 0);
        pthread_barrier_wait(&after);
    }
}

static void all_wait_for_one(int rounds, void *with_limit)
{
    pthread_t threads[THREADS];
    unsigned random = 1;
    int ends[2];
    char byte;

    CHECK_EQ(pipe(ends), 0);
    CHECK_EQ(pthread_barrier_init(&before, NULL, THREADS + 1), 0);
    CHECK_EQ(pthread_barrier_init(&after, NULL, THREADS + 1), 0);
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(wait_for_shared, with_limit);
    for (rounds_left = rounds; rounds_left > 0; rounds_left--) {
        const struct timespec pause = { 0, (long)(next_random(&random) % 5 * 30000) };

        prepare(&shared, ends[0], &byte, 1, 0);
        CHECK_EQ(aio_read(&shared), 0);
        pthread_barrier_wait(&before);
        nanosleep(&pause, NULL);
        CHECK_EQ(write(ends[1], "a", 1), 1);
        pthread_barrier_wait(&after);
    }
    pthread_barrier_wait(&before);
    for (int i = 0; i < THREADS; i++)
        join_thread(threads[i]);
}

CASE(all_threads_wait_for_one_request) { all_wait_for_one(800, NULL); }
CASE(all_threads_wait_for_one_request_with_a_limit) { all_wait_for_one(800, &shared); }

/* ---- Each waits for its own ----------------------------------------------------------------------- */

struct worker {
    pthread_t thread;
    unsigned seed;
    int rounds;
    int file, buffered;
    int ends[2];
};

static void start_one(struct aiocb *cb, struct worker *worker, unsigned char *memory, int i, unsigned *random)
{
    switch (next_random(random) % 4) {
    case 0:
        prepare(cb, worker->file, memory, SIZE, i * SIZE);
        CHECK_EQ(aio_read(cb), 0);
        break;
    case 1:
        prepare(cb, worker->buffered, memory, SIZE, i * SIZE);
        CHECK_EQ(aio_read(cb), 0);
        break;
    case 2:
        prepare(cb, worker->buffered, memory, SIZE, (DEPTH + i) * SIZE);
        CHECK_EQ(aio_write(cb), 0);
        break;
    default:
        prepare(cb, worker->ends[0], memory, 1, 0);
        CHECK_EQ(aio_read(cb), 0);
        CHECK_EQ(write(worker->ends[1], "p", 1), 1);
    }
}

/* A window of requests, refilled as they end, as a storage engine does it. */
static void *keep_a_window(void *argument)
{
    struct worker *worker = argument;
    unsigned char *memory = aligned(DEPTH * SIZE);
    const struct aiocb *list[DEPTH] = { NULL };
    struct aiocb cbs[DEPTH];
    unsigned random = worker->seed;
    int started = 0, ended = 0;

    while (ended < worker->rounds) {
        for (int i = 0; i < DEPTH && started < worker->rounds; i++) {
            if (list[i] == NULL) {
                start_one(&cbs[i], worker, memory + i * SIZE, i, &random);
                list[i] = &cbs[i];
                started++;
            }
        }
        const struct timespec limit = { 30, 0 }, brief = { 0, 1000 };
        unsigned way = next_random(&random) % 4;
        int result = aio_suspend(list, DEPTH, way == 0 ? &brief : way == 1 ? &limit : NULL);

        if (result == -1) {
            CHECK_EQ(errno, EAGAIN);
            CHECK_EQ(way, 0);
        }
        for (int i = 0; i < DEPTH; i++) {
            if (list[i] == NULL || aio_error(list[i]) == EINPROGRESS)
                continue;
            CHECK_EQ(aio_error(list[i]), 0);
            ssize_t wanted = cbs[i].aio_fildes == worker->ends[0] ? 1 : SIZE;
            CHECK_EQ(aio_return(&cbs[i]), wanted);
            list[i] = NULL;
            ended++;
        }
    }
    free(memory);
    return NULL;
}

static void open_for(struct worker *worker)
{
    unsigned char *memory = aligned(2 * DEPTH * SIZE);

    worker->file = temporary_file(O_DIRECT);
    worker->buffered = reopen(worker->file, O_RDWR);
    CHECK_EQ(pipe(worker->ends), 0);
    CHECK_EQ(pwrite(worker->file, memory, 2 * DEPTH * SIZE, 0), 2 * DEPTH * SIZE);
    free(memory);
}

static void run_workers(int threads, int rounds)
{
    struct worker workers[64];

    for (int i = 0; i < threads; i++) {
        workers[i].seed = (unsigned)i + 1;
        workers[i].rounds = rounds;
        open_for(&workers[i]);
        workers[i].thread = start_thread(keep_a_window, &workers[i]);
    }
    for (int i = 0; i < threads; i++) {
        double deadline = now() + 40;

        while (pthread_tryjoin_np(workers[i].thread, NULL) == EBUSY) {
            if (now() > deadline)
                FAIL("worker %d has not ended in time", i);
            nap(1);
        }
    }
}

CASE(one_thread_keeps_a_window) { run_workers(1, 20000); }
CASE(two_threads_keep_their_windows) { run_workers(2, 10000); }
CASE(many_threads_keep_their_windows) { run_workers(THREADS, 4000); }
CASE(more_threads_than_processors_by_far) { run_workers(64, 300); }

/* ---- Hand-over: the one that leads leaves again and again ------------------------------------------ */

/* Two threads play ball over two pipes, each asleep while the other moves: only the right one may be woken. */
struct player {
    int from, to;
    int rounds;
};

static void *play(void *argument)
{
    struct player *player = argument;
    char byte = 0;

    for (int round = 0; round < player->rounds; round++) {
        struct aiocb in, out;
        const struct aiocb *ins[1] = { &in }, *outs[1] = { &out };

        prepare(&in, player->from, &byte, 1, 0);
        CHECK_EQ(aio_read(&in), 0);
        CHECK_EQ(aio_suspend(ins, 1, NULL), 0);
        CHECK_EQ(aio_return(&in), 1);
        CHECK_EQ(byte, (char)round);
        prepare(&out, player->to, &byte, 1, 0);
        CHECK_EQ(aio_write(&out), 0);
        CHECK_EQ(aio_suspend(outs, 1, NULL), 0);
        CHECK_EQ(aio_return(&out), 1);
    }
    return NULL;
}

CASE(threads_play_ball)
{
    enum { PLAYERS = 6, ROUNDS = 2000 };
    struct player players[PLAYERS];
    pthread_t threads[PLAYERS];
    int ends[PLAYERS + 1][2];

    for (int i = 0; i <= PLAYERS; i++)
        CHECK_EQ(pipe(ends[i]), 0);
    for (int i = 0; i < PLAYERS; i++) {
        players[i] = (struct player){ ends[i][0], ends[i + 1][1], ROUNDS };
        threads[i] = start_thread(play, &players[i]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        struct pollfd ready = { .fd = ends[PLAYERS][0], .events = POLLIN };
        char byte = (char)round;

        CHECK_EQ(write(ends[0][1], &byte, 1), 1);
        if (poll(&ready, 1, (int)(DEADLINE_SECONDS * 1000)) != 1)
            FAIL("the ball was lost in round %d", round);
        CHECK_EQ(read(ends[PLAYERS][0], &byte, 1), 1);
    }
    for (int i = 0; i < PLAYERS; i++)
        join_thread(threads[i]);
}

/* A waiter's request ends in the caller of another thread: by aio_cancel, without the kernel's ring. */
static void *wait_for_end(void *cb)
{
    const struct aiocb *list[1] = { cb };

    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    return NULL;
}

DEFECT(what_is_cancelled_wakes_its_waiter, "a request that waits for data cannot be cancelled")
{
    for (int round = 0; round < 1000; round++) {
        struct aiocb cbs[3];
        pthread_t threads[3];
        int ends[3][2];
        char bytes[3];

        for (int i = 0; i < 3; i++) {
            pending_read(&cbs[i], ends[i], &bytes[i], 1);
            CHECK_EQ(aio_read(&cbs[i]), 0);
            threads[i] = start_thread(wait_for_end, &cbs[i]);
        }
        if (round % 2 == 0)
            nap(1);
        for (int i = 0; i < 3; i++) {
            int at = (round + i) % 3;

            CHECK_EQ(aio_cancel(ends[at][0], &cbs[at]), AIO_CANCELED);
            join_thread(threads[at]);
            CHECK_EQ(aio_error(&cbs[at]), ECANCELED);
        }
        for (int i = 0; i < 3; i++) {
            close(ends[i][0]);
            close(ends[i][1]);
        }
    }
}

/* aio_error alone, by a thread that never sleeps, beside threads that do: whoever takes a completion tells its waiter. */
static int polling_over;

static void *only_ask(void *argument)
{
    struct worker *worker = argument;
    unsigned char *memory = aligned(SIZE);

    while (!__atomic_load_n(&polling_over, __ATOMIC_RELAXED)) {
        struct aiocb cb;

        prepare(&cb, worker->file, memory, SIZE, 0);
        CHECK_EQ(aio_read(&cb), 0);
        while (aio_error(&cb) == EINPROGRESS)
            continue;
        CHECK_EQ(aio_return(&cb), SIZE);
    }
    free(memory);
    return NULL;
}

CASE(threads_that_ask_beside_threads_that_wait)
{
    struct worker asking = { .seed = 9 };
    pthread_t thread;

    open_for(&asking);
    thread = start_thread(only_ask, &asking);
    run_workers(3, 3000);
    __atomic_store_n(&polling_over, 1, __ATOMIC_RELAXED);
    join_thread(thread);
}
