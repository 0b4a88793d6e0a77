/*
 * The library takes none of the program's numbers for descriptors, not for an instant: what another thread opens gets the lowest
 * free number, what it closes is its own, and a forked child has what its parent opened.
 *
 * Seen to fail: on a library that opens an eventfd to wake its completion thread, the first three (in hundreds of some
 * hundred thousand tries); on one whose first helper looks in the shared table whether it may copy descriptors, the last.
 */
#include "children.h"

#include <sched.h>
#include <sys/syscall.h>

enum { SECONDS = 2 };

static int stopping, callbacks;

static void count_callback(union sigval value)
{
    (void)value;
    __atomic_fetch_add(&callbacks, 1, __ATOMIC_SEQ_CST);
}

/* Each callback is the completion thread's to start, which sleeps until it is woken for it. */
static void *cause_callbacks(void *unused)
{
    int device = open("/dev/zero", O_RDONLY);
    char byte;

    (void)unused;
    CHECK(device >= 0);
    while (!__atomic_load_n(&stopping, __ATOMIC_RELAXED)) {
        int before = __atomic_load_n(&callbacks, __ATOMIC_SEQ_CST);
        struct aiocb cb;

        prepare(&cb, device, &byte, 1, 0);
        cb.aio_sigevent.sigev_notify = SIGEV_THREAD;
        cb.aio_sigevent.sigev_notify_function = count_callback;
        CHECK_EQ(aio_read(&cb), 0);
        while (__atomic_load_n(&callbacks, __ATOMIC_SEQ_CST) == before)
            sched_yield();
    }
    return NULL;
}

/* A read that has to be told of, and waits: the completion thread sleeps in the kernel's ring for it. */
static pthread_t start_waking(void)
{
    static struct aiocb waiting;
    static char byte;
    static int ends[2];

    pending_read(&waiting, ends, &byte, 1);
    waiting.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    waiting.aio_sigevent.sigev_signo = SIGURG;
    CHECK_EQ(aio_read(&waiting), 0);
    return start_thread(cause_callbacks, NULL);
}

static void stop_waking(pthread_t thread)
{
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    join_thread(thread);
    CHECK(callbacks > 100);
}

CASE(what_is_opened_gets_the_lowest_number)
{
    pthread_t thread = start_waking();
    double end = now() + SECONDS;

    nap(20);
    while (now() < end) {
        close(0);
        CHECK_EQ(open("/dev/null", O_RDONLY), 0);
    }
    stop_waking(thread);
}

CASE(what_is_closed_is_the_programs_own)
{
    pthread_t thread = start_waking();
    double end = now() + SECONDS;

    nap(20);
    int lowest = dup(0);
    close(lowest);
    for (int round = 0; now() < end; round++) {
        CHECK_EQ(dup2(0, lowest), lowest);
        for (volatile int spin = round * 7 % 20000; spin > 0; spin--)
            ;
        CHECK_EQ(close(lowest), 0);
    }
    stop_waking(thread);
}

/* By bare system calls: what libc's locks are in a child of threads that come and go is another matter. */
static pid_t look_in_a_child(int number)
{
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

    if (child == 0)
        syscall(SYS_exit_group, syscall(SYS_fcntl, number, F_GETFD) != -1);
    CHECK(child > 0);
    return child;
}

CASE(what_a_child_has_its_parent_opened)
{
    pthread_t thread = start_waking();
    double end = now() + SECONDS;

    nap(20);
    int lowest = dup(0);
    close(lowest);
    while (now() < end)
        CHECK_EXITS(look_in_a_child(lowest), 0);
    stop_waking(thread);
}

/* As a daemon begins, just after the first request that a helper does. */
static void become_a_daemon(void *unused)
{
    int file = temporary_file(O_APPEND);
    double end = now() + 0.004;
    struct aiocb cb;

    (void)unused;
    prepare(&cb, file, "a", 1, 0);
    CHECK_EQ(aio_write(&cb), 0);
    while (now() < end) {
        for (int fd = 0; fd < 3; fd++)
            close(fd);
        if (open("/dev/null", O_RDWR) != 0 || dup(0) != 1 || dup(0) != 2)
            _exit(1);
    }
    CHECK_EQ(finish(&cb), 1);
}

CASE(standard_descriptors_are_the_programs_from_the_start)
{
    for (int i = 0; i < 100; i++)
        in_child(become_a_daemon, NULL);
}
