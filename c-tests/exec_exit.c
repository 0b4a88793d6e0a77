/*
 * The end of a process, or of its program, with requests in flight: it comes at once, with the right status.
 *
 * Seen to fail: the_first_thread_ends_before_the_others, on a library whose threads stay when nothing is left to do.
 */
#include "children.h"

enum { DEPTH = 64, SIZE = 4096 };

static struct aiocb writes[DEPTH], waiting;
static int ends[2], file;
static char byte;

/* Much in flight, of every kind: through the kernel, by the library's threads, and waiting for data. */
static void start_requests(void)
{
    static unsigned char memory[SIZE] __attribute__((aligned(4096)));

    file = temporary_file(O_DIRECT);
    CHECK_EQ(posix_fallocate(file, 0, DEPTH * SIZE), 0);
    int buffered = reopen(file, O_RDWR);
    for (int i = 0; i < DEPTH; i++) {
        prepare(&writes[i], i % 2 == 0 ? file : buffered, memory, SIZE, i * SIZE);
        CHECK_EQ(aio_write(&writes[i]), 0);
    }
    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
}

static void *wait_for_ever(void *unused)
{
    const struct aiocb *list[1] = { &waiting };

    aio_suspend(list, 1, NULL);
    return unused;
}

static void start_detached_waiters(int count)
{
    for (int i = 0; i < count; i++)
        CHECK_EQ(pthread_detach(start_thread(wait_for_ever, NULL)), 0);
    nap(10);
}

static void end_by_exit(void *unused)
{
    (void)unused;
    start_requests();
    exit(42);
}

static void end_by_exit_at_once(void *unused)
{
    (void)unused;
    start_requests();
    _exit(42);
}

static void end_by_quick_exit(void *unused)
{
    (void)unused;
    start_requests();
    quick_exit(42);
}

static void end_with_waiters(void *unused)
{
    (void)unused;
    start_requests();
    start_detached_waiters(4);
    exit(42);
}

static void *exit_here(void *unused)
{
    (void)unused;
    nap(10);
    exit(42);
}

/* The main thread leads, or sleeps, in aio_suspend when another thread ends the process. */
static void end_by_another_thread(void *unused)
{
    (void)unused;
    start_requests();
    start_thread(exit_here, NULL);
    wait_for_ever(NULL);
    FAIL("nobody wrote to the pipe");
}

static void exit_in_callback(union sigval value)
{
    (void)value;
    exit(42);
}

static void end_by_callback(void *unused)
{
    struct aiocb cb;
    char space;

    (void)unused;
    start_requests();
    prepare(&cb, file, &space, 1, 1L << 40);
    cb.aio_fildes = reopen(file, O_RDONLY);
    cb.aio_sigevent.sigev_notify = SIGEV_THREAD;
    cb.aio_sigevent.sigev_notify_function = exit_in_callback;
    CHECK_EQ(aio_read(&cb), 0);
    wait_for_ever(NULL);
    FAIL("nobody wrote to the pipe");
}

static void use_at_exit(void)
{
    use_everything();
    _exit(43);
}

static void end_by_using_at_exit(void *unused)
{
    (void)unused;
    start_requests();
    CHECK_EQ(atexit(use_at_exit), 0);
    exit(42);
}

static void repeatedly(void (*body)(void *), int code)
{
    for (int i = 0; i < 10; i++)
        CHECK_EXITS(start_child(body, NULL), code);
}

CASE(exit_does_not_wait) { repeatedly(end_by_exit, 42); }
CASE(bare_exit_does_not_wait) { repeatedly(end_by_exit_at_once, 42); }
CASE(quick_exit_does_not_wait) { repeatedly(end_by_quick_exit, 42); }
CASE(exit_under_detached_waiters) { repeatedly(end_with_waiters, 42); }
CASE(exit_by_another_thread_than_the_waiter) { repeatedly(end_by_another_thread, 42); }
CASE(exit_in_a_callback) { repeatedly(end_by_callback, 42); }
CASE(requests_are_served_in_exit_handlers) { repeatedly(end_by_using_at_exit, 43); }

static void end_by_signal(void *signo)
{
    start_requests();
    start_detached_waiters(2);
    raise(*(int *)signo);
}

CASE(a_deadly_signal_ends_it_as_it_should)
{
    int signals[] = { SIGKILL, SIGTERM, SIGSEGV };

    for (int i = 0; i < 3; i++) {
        int status = wait_child(start_child(end_by_signal, &signals[i]));

        CHECK(WIFSIGNALED(status));
        CHECK_EQ(WTERMSIG(status), signals[i]);
    }
}

static void *wait_and_see(void *unused)
{
    const struct aiocb *list[1] = { &waiting };

    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_return(&waiting), 1);
    CHECK_EQ(byte, 'e');
    use_everything();
    return unused;
}

/* The first thread ends; what it asked for goes on, and the last thread's end is the process's, with status 0. */
static void end_the_first_thread(void *unused)
{
    (void)unused;
    start_requests();
    CHECK_EQ(pthread_detach(start_thread(wait_and_see, NULL)), 0);
    nap(5);
    CHECK_EQ(write(ends[1], "e", 1), 1);
    pthread_exit(NULL);
}

/* The library's own threads must not keep such a process alive for ever. */
CASE(the_first_thread_ends_before_the_others)
{
    for (int i = 0; i < 3; i++)
        in_child(end_the_first_thread, NULL);
}

static int thread_count(void)
{
    struct stat status;

    CHECK_EQ(stat("/proc/self/task", &status), 0);
    return (int)status.st_nlink - 2;
}

/* Twice, the implementation's own threads are gone, and must be started by what is asked for next. */
static void *write_after_idle_times(void *unused)
{
    static unsigned char memory[SIZE];

    (void)unused;
    for (int round = 0; round < 2; round++) {
        struct aiocb cb;

        /* Then there are this thread and what is left of the first. */
        for (double end = now() + 3; thread_count() > 2 && now() < end;)
            nap(20);
        prepare(&cb, file, memory, SIZE, 0);
        /* So that every kind of thread is wanted at once. */
        cb.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
        cb.aio_sigevent.sigev_signo = SIGURG;
        CHECK_EQ(aio_write(&cb), 0);
        CHECK_EQ(finish(&cb), SIZE);
    }
    _exit(0);
}

static void go_on_without_the_first_thread(void *unused)
{
    (void)unused;
    file = temporary_file(O_APPEND);
    CHECK_EQ(write_now(file, "w", 1, 0), 1);
    CHECK_EQ(pthread_detach(start_thread(write_after_idle_times, NULL)), 0);
    pthread_exit(NULL);
}

/*
 * Seen to fail, with ECANCELED in one child of ten, with a helper that takes the program's descriptors from a thread that has ended,
 * as that which is started beside it has not told who it is yet, and then from the first thread, which has none.
 */
CASE(threads_are_started_anew_after_the_first_thread_has_ended)
{
    enum { CHILDREN = 100 };
    pid_t children[CHILDREN];

    for (int i = 0; i < CHILDREN; i++)
        children[i] = start_child(go_on_without_the_first_thread, NULL);
    for (int i = 0; i < CHILDREN; i++)
        CHECK_EXITS(children[i], 0);
}

static void *submit_and_end(void *unused)
{
    start_requests();
    return unused;
}

CASE(requests_outlive_the_thread_that_made_them)
{
    for (int round = 0; round < 20; round++) {
        byte = 0;
        join_thread(start_thread(submit_and_end, NULL));
        CHECK_EQ(write(ends[1], "o", 1), 1);
        CHECK_EQ(finish(&waiting), 1);
        CHECK_EQ(byte, 'o');
        for (int i = 0; i < DEPTH; i++)
            CHECK_EQ(finish(&writes[i]), SIZE);
        close(ends[0]);
        close(ends[1]);
        close(file);
        close(writes[1].aio_fildes);
    }
}

/* This program again, the same case: tells by the environment that it is the second of its life. */
static int is_second_life(void)
{
    return getenv("AIO_TEST_SECOND_LIFE") != NULL;
}

static void *begin_again(void *name)
{
    CHECK_EQ(setenv("AIO_TEST_SECOND_LIFE", "1", 1), 0);
    execl("/proc/self/exe", "second life", (char *)name, (char *)NULL);
    FAIL("exec: errno %d", errno);
}

CASE(exec_with_requests_in_flight)
{
    if (is_second_life()) {
        use_everything();
        return;
    }
    start_requests();
    start_detached_waiters(2);
    begin_again((void *)(uintptr_t) "exec_with_requests_in_flight");
}

CASE(exec_by_a_thread_other_than_the_first)
{
    if (is_second_life()) {
        use_everything();
        return;
    }
    start_requests();
    start_thread(begin_again, (void *)(uintptr_t) "exec_by_a_thread_other_than_the_first");
    wait_for_ever(NULL);
    FAIL("nobody wrote to the pipe");
}

/* What exec leaves behind must not touch the new program: its memory is not the old buffers. */
static void write_then_exec(void *unused)
{
    (void)unused;
    start_requests();
    execlp("true", "true", (char *)NULL);
    FAIL("exec: errno %d", errno);
}

CASE(exec_of_a_program_that_knows_nothing)
{
    repeatedly(write_then_exec, 0);
}
