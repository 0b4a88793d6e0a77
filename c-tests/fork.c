/*
 * fork, and all that is like it, with requests in flight: a child starts clean, and the parent does not notice.
 *
 * Seen to fail: on libc's implementation, as each DEFECT says; the same cases on a library whose page is not wiped in a child,
 * and the_parents_requests_read_cancelled_in_the_child on one that does not look whose request it is;
 * a_handler_forks_on_top_of_aio_error on one whose child tried to take its parent's completions, again and again.
 */
#include "children.h"

#include <semaphore.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/time.h>

/* A request that has been through leaves its thread behind on libc's implementation, idle, for a second. */
static void use_a_little(void)
{
    int file = temporary_file(0);
    char byte = 'a';

    CHECK_EQ(write_now(file, &byte, 1, 0), 1);
    close(file);
}

static void use_in_child(void *unused)
{
    (void)unused;
    use_everything();
}

DEFECT(a_child_does_its_own_io_at_once, "a child waits for the parent's idle thread, which it does not have")
{
    use_a_little();
    for (int i = 0; i < 5; i++)
        in_child(use_in_child, NULL);
    use_everything();
}

static void descend(void *levels)
{
    int left = *(int *)levels;
    struct aiocb waiting;
    int ends[2];
    char byte;

    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    use_everything();
    if (left > 0) {
        left--;
        in_child(descend, &left);
    }
    CHECK_EQ(aio_error(&waiting), EINPROGRESS);
    CHECK_EQ(write(ends[1], "y", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
}

DEFECT(children_of_children_do_too, "a child waits for the parent's idle thread, which it does not have")
{
    int levels = 6;

    descend(&levels);
}

/* What the parent has in flight, when it forks. */
enum { PENDING = 8 };
static struct aiocb pending[PENDING];
static int pending_ends[PENDING][2];
static char pending_bytes[PENDING];

static void start_pending(void)
{
    for (int i = 0; i < PENDING; i++) {
        pending_read(&pending[i], pending_ends[i], &pending_bytes[i], 1);
        CHECK_EQ(aio_read(&pending[i]), 0);
    }
}

static void finish_pending(void)
{
    for (int i = 0; i < PENDING; i++) {
        char byte = (char)('a' + i);

        CHECK_EQ(aio_error(&pending[i]), EINPROGRESS);
        CHECK_EQ(write(pending_ends[i][1], &byte, 1), 1);
        CHECK_EQ(finish(&pending[i]), 1);
        CHECK_EQ(pending_bytes[i], byte);
    }
}

static void see_cancelled(void *unused)
{
    const struct aiocb *list[PENDING];

    (void)unused;
    for (int i = 0; i < PENDING; i++)
        list[i] = &pending[i];
    /* Nobody waits for what another process does, not even without a time-out. */
    CHECK_EQ(aio_suspend(list, PENDING, NULL), 0);
    for (int i = 0; i < PENDING; i++) {
        CHECK_EQ(aio_error(&pending[i]), ECANCELED);
        CHECK_EQ(aio_return(&pending[i]), -1);
        CHECK_EQ(aio_cancel(pending_ends[i][0], &pending[i]), AIO_ALLDONE);
        CHECK_EQ(aio_cancel(pending_ends[i][0], NULL), AIO_ALLDONE);
    }
    use_everything();
    /* The same once the child has used the library itself. Seen to fail with EINVAL, as for an aiocb that nobody submitted. */
    for (int i = 0; i < PENDING; i++) {
        CHECK_EQ(aio_error(&pending[i]), ECANCELED);
        CHECK_EQ(aio_cancel(pending_ends[i][0], &pending[i]), AIO_ALLDONE);
    }
    /* The aiocb itself is as good as any other. */
    prepare(&pending[0], pending_ends[0][0], &pending_bytes[0], 1, 0);
    CHECK_EQ(aio_read(&pending[0]), 0);
    CHECK_EQ(aio_cancel(pending_ends[0][0], &pending[0]), AIO_CANCELED);
    CHECK_EQ(aio_error(&pending[0]), ECANCELED);
}

DEFECT(the_parents_requests_read_cancelled_in_the_child, "they stay in progress in the child for ever")
{
    start_pending();
    in_child(see_cancelled, NULL);
    finish_pending();
}

static void leave_at_once(void *unused)
{
    (void)unused;
}

CASE(a_child_that_leaves_disturbs_nothing)
{
    start_pending();
    for (int i = 0; i < 20; i++)
        in_child(leave_at_once, NULL);
    finish_pending();
}

static struct aiocb done_read, done_badly;

static void see_results(void *unused)
{
    (void)unused;
    CHECK_EQ(aio_error(&done_read), 0);
    CHECK_EQ(aio_return(&done_read), 3);
    CHECK_EQ(aio_error(&done_badly), EBADF);
    CHECK_EQ(aio_return(&done_badly), -1);
}

CASE(results_from_before_the_fork_are_kept)
{
    int file = temporary_file(0);
    char three[3];

    CHECK_EQ(pwrite(file, "abc", 3, 0), 3);
    prepare(&done_read, file, three, 3, 0);
    CHECK_EQ(aio_read(&done_read), 0);
    prepare(&done_badly, -1, three, 3, 0);
    CHECK_EQ(aio_read(&done_badly), 0);
    CHECK_EQ(await(&done_read), 0);
    CHECK_EQ(await(&done_badly), EBADF);
    in_child(see_results, NULL);
    see_results(NULL);
}

static volatile sig_atomic_t signals_seen;
static int callbacks_seen;

static void count_signal(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    signals_seen++;
}

static void count_callback(union sigval value)
{
    (void)value;
    __atomic_add_fetch(&callbacks_seen, 1, __ATOMIC_SEQ_CST);
}

static void hear_nothing(void *written)
{
    char byte;

    /* Leaves only when the parent's requests have ended and been announced there. */
    CHECK_EQ(read(*(int *)written, &byte, 1), 1);
    nap(50);
    CHECK_EQ(signals_seen, 0);
    CHECK_EQ(__atomic_load_n(&callbacks_seen, __ATOMIC_SEQ_CST), 0);
}

CASE(the_parents_notifications_stay_with_the_parent)
{
    struct aiocb by_signal, by_thread;
    int ends[2][2], go[2];
    char bytes[2];

    on_signal(SIGUSR1, count_signal, SA_RESTART);
    CHECK_EQ(pipe(go), 0);
    pending_read(&by_signal, ends[0], &bytes[0], 1);
    by_signal.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    by_signal.aio_sigevent.sigev_signo = SIGUSR1;
    pending_read(&by_thread, ends[1], &bytes[1], 1);
    by_thread.aio_sigevent.sigev_notify = SIGEV_THREAD;
    by_thread.aio_sigevent.sigev_notify_function = count_callback;
    CHECK_EQ(aio_read(&by_signal), 0);
    CHECK_EQ(aio_read(&by_thread), 0);
    pid_t child = start_child(hear_nothing, &go[0]);
    CHECK_EQ(write(ends[0][1], "s", 1), 1);
    CHECK_EQ(write(ends[1][1], "t", 1), 1);
    CHECK_EQ(finish(&by_signal), 1);
    CHECK_EQ(finish(&by_thread), 1);
    WAIT_UNTIL(signals_seen == 1);
    WAIT_UNTIL(__atomic_load_n(&callbacks_seen, __ATOMIC_SEQ_CST) == 1);
    CHECK_EQ(write(go[1], "g", 1), 1);
    CHECK_EXITS(child, 0);
    CHECK_EQ(signals_seen, 1);
    CHECK_EQ(callbacks_seen, 1);
}

/* A thread that sleeps in aio_suspend while its process forks is woken as if nothing had happened. */
static void *wait_for_one(void *cb)
{
    const struct aiocb *list[1] = { cb };

    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_error(cb), 0);
    return NULL;
}

DEFECT(forks_under_sleeping_waiters, "a child waits for the parent's idle thread, which it does not have")
{
    pthread_t waiters[PENDING];

    use_a_little();
    start_pending();
    for (int i = 0; i < PENDING; i++)
        waiters[i] = start_thread(wait_for_one, &pending[i]);
    for (int i = 0; i < PENDING; i++) {
        nap(5);
        in_child(use_in_child, NULL);
        CHECK_EQ(write(pending_ends[i][1], "z", 1), 1);
        join_thread(waiters[i]);
    }
}

static void fork_in_callback(union sigval value)
{
    in_child(use_in_child, NULL);
    use_everything();
    CHECK_EQ(sem_post(value.sival_ptr), 0);
}

DEFECT(a_callback_forks, "a child waits for the parent's idle thread, which it does not have")
{
    int file = temporary_file(0);
    struct aiocb cb;
    sem_t done;
    char byte = 'b';

    CHECK_EQ(sem_init(&done, 0, 0), 0);
    use_a_little();
    prepare(&cb, file, &byte, 1, 0);
    cb.aio_sigevent.sigev_notify = SIGEV_THREAD;
    cb.aio_sigevent.sigev_notify_function = fork_in_callback;
    cb.aio_sigevent.sigev_value.sival_ptr = &done;
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
    WAIT_UNTIL(sem_trywait(&done) == 0);
}

static void be_a_daemon(void *report)
{
    int to = *(int *)report;

    CHECK_EQ(daemon(1, 1), 0);
    /* Nobody's child any more: where it hangs, nobody else ends it. */
    alarm(2 * (unsigned)DEADLINE_SECONDS);
    use_everything();
    CHECK_EQ(write(to, "d", 1), 1);
}

DEFECT(a_daemon_goes_on, "a child waits for the parent's idle thread, which it does not have")
{
    struct pollfd ready = { .events = POLLIN };
    int ends[2];
    char byte = 0;

    CHECK_EQ(pipe(ends), 0);
    use_a_little();
    in_child(be_a_daemon, &ends[1]);
    close(ends[1]);
    ready.fd = ends[0];
    CHECK_EQ(poll(&ready, 1, (int)(DEADLINE_SECONDS * 1000)), 1);
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_EQ(byte, 'd');
}

/* The child goes on in the interrupted call, as a copy: what it looks at there is its parent's. */
static volatile sig_atomic_t is_child, children;

/* Seconds that the children which have ended kept a processor busy. */
static double used_by_children(void)
{
    struct rusage used;

    CHECK_EQ(getrusage(RUSAGE_CHILDREN, &used), 0);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec)
        + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void fork_in_handler(int signo, siginfo_t *info, void *context)
{
    double before = used_by_children();
    int error = errno;

    (void)signo, (void)info, (void)context;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* Time for the parent's request to complete, which nobody there takes notice of meanwhile. */
        nap(3);
        is_child = 1;
    } else {
        CHECK_EXITS(child, 0);
        /* One that tries in vain does so until somebody here takes what has completed: about a second. */
        CHECK(used_by_children() - before < 0.4);
        children++;
    }
    errno = error;
}

DIFFERS(a_handler_forks_on_top_of_aio_error, "a child may find libc's lock held by a thread that it does not have")
{
    enum { SIZE = 1 << 20, CHILDREN = 150 };
    const struct itimerval often = { { 0, 7000 }, { 0, 7000 } }, never = { { 0, 0 }, { 0, 0 } };
    unsigned char *memory = aligned(SIZE);
    int file = temporary_file(O_DIRECT);
    struct aiocb cb;

    CHECK_EQ(pwrite(file, memory, SIZE, 0), SIZE);
    on_signal(SIGALRM, fork_in_handler, SA_RESTART);
    CHECK_EQ(setitimer(ITIMER_REAL, &often, NULL), 0);
    while (children < CHILDREN) {
        prepare(&cb, file, memory, SIZE, 0);
        CHECK_EQ(aio_read(&cb), 0);
        while (aio_error(&cb) == EINPROGRESS && !is_child)
            continue;
        if (is_child)
            _exit(0);
        CHECK_EQ(finish(&cb), SIZE);
    }
    CHECK_EQ(setitimer(ITIMER_REAL, &never, NULL), 0);
}

/* Ways to run another program, none of which may disturb what is in flight. */
CASE(other_programs_are_run_with_requests_in_flight)
{
    static const char *const command[] = { "true", NULL };
    enum { DEPTH = 32, SIZE = 4096 };
    unsigned char *out = aligned(DEPTH * SIZE), *in = aligned(DEPTH * SIZE);
    int file = temporary_file(O_DIRECT);
    struct aiocb writes[DEPTH];

    CHECK_EQ(posix_fallocate(file, 0, DEPTH * SIZE), 0);
    start_pending();
    for (unsigned round = 0; round < 15; round++) {
        pid_t child;

        pattern(out, DEPTH * SIZE, round);
        for (int i = 0; i < DEPTH; i++) {
            prepare(&writes[i], file, out + i * SIZE, SIZE, i * SIZE);
            CHECK_EQ(aio_write(&writes[i]), 0);
        }
        switch (round % 4) {
        case 0:
            CHECK_EQ(posix_spawnp(&child, command[0], NULL, NULL, (char *const *)command, environ), 0);
            CHECK_EXITS(child, 0);
            break;
        case 1:
            CHECK_EQ(system(command[0]), 0);
            break;
        case 2:
            CHECK_EQ(pclose(popen(command[0], "r")), 0);
            break;
        default:
            child = vfork();
            if (child == 0) {
                execvp(command[0], (char *const *)command);
                _exit(127);
            }
            CHECK(child > 0);
            CHECK_EXITS(child, 0);
        }
        for (int i = 0; i < DEPTH; i++)
            CHECK_EQ(finish(&writes[i]), SIZE);
        CHECK_EQ(pread(file, in, DEPTH * SIZE, 0), DEPTH * SIZE);
        CHECK(is_pattern(in, DEPTH * SIZE, round));
    }
    finish_pending();
}
