/*
 * A thread that waits for a long buffered write can be reached meanwhile, whoever carries it out: by a signal that interrupts
 * the wait, by one that ends the process, by pthread_cancel.
 *
 * Seen to fail: each of them, on a library whose waiters carry out their own writes whole with signals blocked.
 */
#include "children.h"

#include <sched.h>
#include <sys/time.h>

enum { SIZE = 64 << 20, ROUNDS = 20 };

static unsigned char *memory;
static int file;
static struct aiocb cb;
static const struct aiocb *list[1] = { &cb };

static void open_all(void)
{
    if (memory == NULL) {
        memory = aligned(SIZE);
        memset(memory, 'w', SIZE);
        file = temporary_file(0);
    }
}

/* Nobody is notified, and somebody is about to wait: a waiter's own, if it is to be any waiter's. */
static void begin_to_write(void)
{
    open_all();
    CHECK_EQ(ftruncate(file, 0), 0);
    prepare(&cb, file, memory, SIZE, 0);
    CHECK_EQ(aio_write(&cb), 0);
}

/* Not by asking for the status again and again: then a helper would begin at once. */
static void wait_to_the_end(void)
{
    while (aio_suspend(list, 1, NULL) == -1)
        CHECK_EQ(errno, EINTR);
    CHECK_EQ(aio_return(&cb), SIZE);
}

static int in_time;

static void look(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    in_time += aio_error(&cb) == EINPROGRESS;
}

/* Now and then the write is over first, or the machine has something else to do. */
CASE(a_signal_interrupts_the_wait)
{
    const struct itimerval soon = { { 0, 0 }, { 0, 3000 } };
    int interrupted = 0;

    on_signal(SIGALRM, look, 0);
    for (int round = 0; round < ROUNDS; round++) {
        begin_to_write();
        CHECK_EQ(setitimer(ITIMER_REAL, &soon, NULL), 0);
        if (aio_suspend(list, 1, NULL) == -1) {
            CHECK_EQ(errno, EINTR);
            interrupted++;
        }
        wait_to_the_end();
    }
    fprintf(stderr, "%d of %d signals were handled in time, and %d waits interrupted.\n", in_time, ROUNDS, interrupted);
    CHECK(in_time > ROUNDS / 4);
    CHECK(interrupted > ROUNDS / 4);
}

static void write_and_wait(void *begun)
{
    begin_to_write();
    CHECK_EQ(write(*(int *)begun, "b", 1), 1);
    aio_suspend(list, 1, NULL);
}

CASE(a_deadly_signal_ends_the_process_meanwhile)
{
    int ends[2], ended_before = 0;
    struct stat status;
    char byte;

    CHECK_EQ(pipe(ends), 0);
    open_all();
    for (int round = 0; round < ROUNDS; round++) {
        pid_t child = start_child(write_and_wait, &ends[1]);

        CHECK_EQ(read(ends[0], &byte, 1), 1);
        nap(1);
        kill(child, SIGTERM);
        int end = wait_child(child);

        CHECK(WIFSIGNALED(end) ? WTERMSIG(end) == SIGTERM : WEXITSTATUS(end) == 0);
        CHECK_EQ(fstat(file, &status), 0);
        ended_before += status.st_size < SIZE;
    }
    CHECK(ended_before > ROUNDS / 4);
}

enum progress { NOT_BEGUN, BEGUN, COMPLETE };

static void *write_and_be_cancelled(void *argument)
{
    enum progress *progress = argument;

    begin_to_write();
    __atomic_store_n(progress, BEGUN, __ATOMIC_SEQ_CST);
    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    *progress = COMPLETE;
    return NULL;
}

CASE(the_waiter_is_cancelled_meanwhile)
{
    int cancelled = 0;

    for (int round = 0; round < ROUNDS; round++) {
        enum progress progress = NOT_BEGUN;
        pthread_t thread = start_thread(write_and_be_cancelled, &progress);

        while (__atomic_load_n(&progress, __ATOMIC_SEQ_CST) == NOT_BEGUN)
            sched_yield();
        nap(1);
        pthread_cancel(thread);
        join_thread(thread);
        cancelled += progress == BEGUN;
        wait_to_the_end();
    }
    CHECK(cancelled > ROUNDS / 4);
}
