/*
 * lio_listio with LIO_WAIT: interrupted, resumed, and in many threads.
 *
 * Seen to fail: an_interrupted_wait_leaves_the_stack_alone on libc's implementation, and on a library that never says EINTR.
 */
#include "check.h"
#include <sys/mman.h>

static struct aiocb requests[2];
static struct aiocb *list[2];

static void element(int at, int opcode, int fd, void *buffer, size_t size, off_t offset)
{
    prepare(&requests[at], fd, buffer, size, offset);
    requests[at].aio_lio_opcode = opcode;
    list[at] = &requests[at];
}

static volatile sig_atomic_t handled;
static volatile int returned;

static void on_interrupt(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    handled++;
}

static void *interrupt(void *thread)
{
    while (!returned) {
        nap(10);
        pthread_kill(*(pthread_t *)thread, SIGUSR1);
    }
    return NULL;
}

/* Covers the stack that the call below has used, and finds out later whether somebody has written there. */
static __attribute__((noinline)) int stack_stays(int end, char go)
{
    volatile unsigned char cover[16384];

    for (size_t i = 0; i < sizeof cover; i++)
        cover[i] = 0x77;
    CHECK_EQ(write(end, &go, 1), 1);
    nap(100);
    for (size_t i = 0; i < sizeof cover; i++)
        if (cover[i] != 0x77)
            return 0;
    return 1;
}

DEFECT(an_interrupted_wait_leaves_the_stack_alone, "libc writes to the stack frame of the call that is gone")
{
    pthread_t self = pthread_self();
    int fd = temporary_file(0);
    char byte = 0;
    int ends[2];

    on_signal(SIGUSR1, on_interrupt, 0);
    CHECK_EQ(pipe(ends), 0);
    element(0, LIO_WRITE, fd, "done", 4, 0);
    element(1, LIO_READ, ends[0], &byte, 1, 0);
    pthread_t thread = start_thread(interrupt, &self);
    CHECK_FAILS(lio_listio(LIO_WAIT, list, 2, NULL), EINTR);
    returned = 1;
    join_thread(thread);
    CHECK_EQ(aio_error(&requests[1]), EINPROGRESS);
    CHECK(stack_stays(ends[1], 'g'));
    CHECK_EQ(finish(&requests[1]), 1);
    CHECK_EQ(finish(&requests[0]), 4);
    CHECK_EQ(byte, 'g');
}

struct restarted {
    pthread_t waiter;
    int end;
};

static void *interrupt_ten_times(void *argument)
{
    struct restarted *shared = argument;

    while (handled < 10) {
        pthread_kill(shared->waiter, SIGUSR1);
        nap(5);
    }
    CHECK_EQ(write(shared->end, "r", 1), 1);
    return NULL;
}

CASE(a_handler_with_SA_RESTART_resumes_the_wait)
{
    struct restarted shared = { pthread_self(), -1 };
    char byte = 0;
    int ends[2];

    on_signal(SIGUSR1, on_interrupt, SA_RESTART);
    CHECK_EQ(pipe(ends), 0);
    shared.end = ends[1];
    element(0, LIO_READ, ends[0], &byte, 1, 0);
    pthread_t thread = start_thread(interrupt_ten_times, &shared);
    CHECK_EQ(lio_listio(LIO_WAIT, list, 1, NULL), 0);
    CHECK_EQ(byte, 'r');
    CHECK(handled >= 10);
    join_thread(thread);
}

static void *waited_lists(void *argument)
{
    int fd = *(int *)argument;
    struct aiocb mine[4];
    struct aiocb *my_list[4];
    char bytes[4];

    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 4; i++) {
            bytes[i] = (char)(round + i);
            prepare(&mine[i], fd, &bytes[i], 1, round * 4 + i);
            mine[i].aio_lio_opcode = LIO_WRITE;
            my_list[i] = &mine[i];
        }
        CHECK_EQ(lio_listio(LIO_WAIT, my_list, 4, NULL), 0);
        for (int i = 0; i < 4; i++)
            CHECK_EQ(aio_return(&mine[i]), 1);
    }
    return NULL;
}

CASE(many_threads_wait_for_lists)
{
    static int descriptors[8];
    pthread_t threads[8];

    for (int i = 0; i < 8; i++) {
        descriptors[i] = temporary_file(0);
        threads[i] = start_thread(waited_lists, &descriptors[i]);
    }
    for (int i = 0; i < 8; i++)
        join_thread(threads[i]);
}

static void unmap_the_request(union sigval value)
{
    CHECK_EQ(munmap(value.sival_ptr, sizeof(struct aiocb)), 0);
}

static void *feed_the_pipe_later(void *end)
{
    nap(100);
    CHECK_EQ(write(*(int *)end, "p", 1), 1);
    return NULL;
}

/*
 * Complete, an element is the program's again: its callback may free it while the list goes on. Seen to fail, by a segmentation
 * fault, with a wait that goes through its list to see what is left.
 */
DIFFERS(an_element_is_freed_while_the_list_is_waited_for, "libc looks at an aiocb again at times when it has called back")
{
    char bytes[2] = "", byte = 0;
    int fd = temporary_file(0);
    int ends[2];

    CHECK_EQ(pwrite(fd, "f", 1, 0), 1);
    CHECK_EQ(pipe(ends), 0);
    struct aiocb *freed[2];
    for (int i = 0; i < 2; i++) {
        freed[i] = mmap(NULL, sizeof *freed[i], PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(freed[i] != MAP_FAILED);
        prepare(freed[i], fd, &bytes[i], 1, i);
        freed[i]->aio_lio_opcode = i == 0 ? LIO_READ : LIO_WRITE;
        freed[i]->aio_sigevent.sigev_notify = SIGEV_THREAD;
        freed[i]->aio_sigevent.sigev_notify_function = unmap_the_request;
        freed[i]->aio_sigevent.sigev_value.sival_ptr = freed[i];
    }
    element(0, LIO_READ, ends[0], &byte, 1, 0);
    struct aiocb *all[3] = { freed[0], list[0], freed[1] };
    pthread_t thread = start_thread(feed_the_pipe_later, &ends[1]);
    CHECK_EQ(lio_listio(LIO_WAIT, all, 3, NULL), 0);
    CHECK_EQ(bytes[0], 'f');
    CHECK_EQ(byte, 'p');
    join_thread(thread);
}
