/*
 * Signal handlers that interrupt the library and call what POSIX calls async-signal-safe: aio_error, aio_return and
 * aio_suspend; and signals at threads that wait.
 *
 * Seen to fail: on libc's implementation, as each DEFECT says; and the handlers that wait at any moment on a library
 * that left completions in the inbox of the interrupted wait; the waits that a handler interrupts on one that never says EINTR, and
 * the batch that resumes on one that always does; those about library threads, and the handlers at any moment, on one
 * whose threads have the mask of their creator; the handlers at any moment on one that takes its lock with signals open.
 */
#include "check.h"

#include <dirent.h>
#include <setjmp.h>
#include <sys/time.h>

enum { SIZE = 4096, DEPTH = 8 };

/* ---- A signal at a thread that waits -------------------------------------------------------------- */

static volatile sig_atomic_t handled;

static void count_signal(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    handled++;
}

enum { WAITERS = 4 };

struct waiter {
    struct aiocb cb;
    int ends[2];
    char byte;
    int result, error;
    int with_limit;
    int by_list;
    int returned;
    pthread_t thread;
};

static void *wait_once(void *argument)
{
    struct waiter *waiter = argument;
    const struct timespec limit = { 30, 0 };
    const struct aiocb *list[1] = { &waiter->cb };

    if (waiter->by_list) {
        struct aiocb *batch[1] = { &waiter->cb };

        waiter->cb.aio_lio_opcode = LIO_READ;
        waiter->result = lio_listio(LIO_WAIT, batch, 1, NULL);
    } else {
        waiter->result = aio_suspend(list, 1, waiter->with_limit ? &limit : NULL);
    }
    waiter->error = errno;
    __atomic_store_n(&waiter->returned, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static int has_returned(const struct waiter *waiter)
{
    return __atomic_load_n(&waiter->returned, __ATOMIC_SEQ_CST);
}

static void start_waiters(struct waiter *waiters, int with_limit, int by_list)
{
    memset(waiters, 0, WAITERS * sizeof *waiters);
    for (int i = 0; i < WAITERS; i++) {
        pending_read(&waiters[i].cb, waiters[i].ends, &waiters[i].byte, 1);
        waiters[i].with_limit = with_limit;
        waiters[i].by_list = by_list;
        if (!by_list)
            CHECK_EQ(aio_read(&waiters[i].cb), 0);
        waiters[i].thread = start_thread(wait_once, &waiters[i]);
    }
    nap(50);
}

/*
 * Signals one waiter after the other, whichever of them leads and whichever follow. Where it must not return, its
 * request is ended by data later; where it must, with EINTR, the others still sleep, and the request still goes on.
 */
static void signal_each(int flags, int with_limit, int by_list, int interrupted)
{
    struct waiter waiters[WAITERS];

    on_signal(SIGUSR1, count_signal, flags);
    start_waiters(waiters, with_limit, by_list);
    for (int i = 0; i < WAITERS; i++) {
        handled = 0;
        CHECK_EQ(pthread_kill(waiters[i].thread, SIGUSR1), 0);
        WAIT_UNTIL(handled == 1);
        if (interrupted) {
            /* On a machine that does much else it may not have waited yet when the handler ran. */
            for (double next = now() + 1, end = now() + 5; !has_returned(&waiters[i]) && now() < end; nap(1))
                if (now() > next) {
                    CHECK_EQ(pthread_kill(waiters[i].thread, SIGUSR1), 0);
                    next += 1;
                }
            WAIT_UNTIL(has_returned(&waiters[i]));
            CHECK_EQ(waiters[i].result, -1);
            CHECK_EQ(waiters[i].error, EINTR);
            CHECK_EQ(aio_error(&waiters[i].cb), EINPROGRESS);
        } else {
            nap(20);
            CHECK(!has_returned(&waiters[i]));
        }
        for (int other = i + 1; other < WAITERS; other++)
            CHECK(!has_returned(&waiters[other]));
    }
    for (int i = 0; i < WAITERS; i++) {
        CHECK_EQ(write(waiters[i].ends[1], "w", 1), 1);
        CHECK_EQ(finish(&waiters[i].cb), 1);
        join_thread(waiters[i].thread);
        if (!interrupted)
            CHECK_EQ(waiters[i].result, 0);
    }
}

CASE(a_handler_interrupts_a_wait) { signal_each(0, 0, 0, 1); }
CASE(a_handler_interrupts_a_wait_with_a_limit) { signal_each(0, 1, 0, 1); }
CASE(a_restarting_handler_lets_the_wait_resume) { signal_each(SA_RESTART, 0, 0, 0); }
CASE(a_restarting_handler_ends_a_wait_with_a_limit) { signal_each(SA_RESTART, 1, 0, 1); }
CASE(a_restarting_handler_lets_a_batch_resume) { signal_each(SA_RESTART, 0, 1, 0); }
DEFECT(a_handler_interrupts_a_batch, "its requests later write to the stack that the caller has left")
{
    signal_each(0, 0, 1, 1);
}

/* ---- The library's own threads -------------------------------------------------------------------- */

/* How many threads of this process, but the caller, there are, and how many leave a signal open. */
static int count_threads(int *open)
{
    /* All but KILL and STOP, which cannot be blocked, and the two that libc keeps for itself. */
    const unsigned long long wanted = ~(1ULL << 8 | 1ULL << 18 | 1ULL << 31 | 1ULL << 32);
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *entry;
    int threads = 0;

    CHECK(tasks != NULL);
    *open = 0;
    while ((entry = readdir(tasks)) != NULL) {
        unsigned long long blocked;
        char name[300], line[256];
        FILE *status;

        if (entry->d_name[0] == '.' || atoi(entry->d_name) == (int)syscall(SYS_gettid))
            continue;
        snprintf(name, sizeof name, "/proc/self/task/%s/status", entry->d_name);
        if ((status = fopen(name, "r")) == NULL)
            continue;
        while (fgets(line, sizeof line, status) != NULL) {
            if (sscanf(line, "SigBlk: %llx", &blocked) == 1) {
                threads++;
                *open += (blocked & wanted) != wanted;
            }
        }
        fclose(status);
    }
    closedir(tasks);
    return threads;
}

CASE(library_threads_block_every_signal)
{
    unsigned char *memory = aligned(DEPTH * SIZE);
    int cold = temporary_file(0), ends[2], open_masks;
    struct aiocb waiting, writes[DEPTH], signalled;
    sigset_t none;
    char byte, other;
    int others[2];

    /* The creator's mask is empty: whatever the threads have is their own doing. */
    sigemptyset(&none);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &none, NULL), 0);
    on_signal(SIGUSR2, count_signal, SA_RESTART);
    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    pending_read(&signalled, others, &other, 1);
    signalled.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    signalled.aio_sigevent.sigev_signo = SIGUSR2;
    CHECK_EQ(aio_read(&signalled), 0);
    for (int i = 0; i < DEPTH; i++) {
        prepare(&writes[i], cold, memory + i * SIZE, SIZE, i * SIZE);
        CHECK_EQ(aio_write(&writes[i]), 0);
    }
    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(finish(&writes[i]), SIZE);
    /* A new thread takes its mask before it does anything; give it the time. */
    nap(50);
    CHECK(count_threads(&open_masks) > 0);
    CHECK_EQ(open_masks, 0);
    CHECK_EQ(write(ends[1], "1", 1), 1);
    CHECK_EQ(write(others[1], "2", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
    CHECK_EQ(finish(&signalled), 1);
    WAIT_UNTIL(handled == 1);
}

CASE(a_signal_to_the_process_finds_no_library_thread)
{
    struct aiocb waiting, signalled;
    int ends[2], others[2];
    char byte, other;
    siginfo_t info;

    on_signal(SIGUSR1, count_signal, SA_RESTART);
    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    pending_read(&signalled, others, &other, 1);
    signalled.aio_sigevent.sigev_notify = SIGEV_THREAD;
    signalled.aio_sigevent.sigev_notify_function = (void (*)(union sigval))abort;
    CHECK_EQ(aio_read(&signalled), 0);
    nap(20);
    block_signal(SIGUSR1);
    for (int i = 0; i < 50; i++) {
        CHECK_EQ(kill(getpid(), SIGUSR1), 0);
        nap(1);
        CHECK_EQ(handled, 0);
        CHECK(take_signal(SIGUSR1, &info, 1000));
    }
    CHECK_EQ(write(ends[1], "1", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
}

/* ---- Handlers that use the library, at any moment ------------------------------------------------- */

static struct aiocb others[DEPTH];
static const struct aiocb *volatile current;
static int other_states[DEPTH];
static volatile sig_atomic_t in_handler_error;
static volatile unsigned long rounds_in_handler;

enum { FREE, STARTED, TAKEN };

#define HANDLER_CHECK(condition)                                                        \
    do {                                                                                \
        if (!(condition) && in_handler_error == 0)                                      \
            in_handler_error = __LINE__;                                                \
    } while (0)

/* Waits for requests of its own, which the interrupted code never waits for, and looks at the interrupted one's. */
static void use_in_handler(int signo, siginfo_t *info, void *context)
{
    const struct timespec soon = { 0, 100 * 1000 };
    const struct aiocb *mine = current;
    int error = errno;

    (void)signo, (void)info, (void)context;
    errno = 12345;
    for (int i = 0; i < DEPTH; i++) {
        const struct aiocb *list[2] = { &others[i], NULL };

        if (other_states[i] != STARTED)
            continue;
        HANDLER_CHECK(aio_suspend(list, 2, NULL) == 0);
        HANDLER_CHECK(aio_error(&others[i]) == 0);
        HANDLER_CHECK(aio_return(&others[i]) == SIZE);
        other_states[i] = TAKEN;
    }
    if (mine != NULL) {
        int status = aio_error(mine);

        HANDLER_CHECK(status == 0 || status == EINPROGRESS);
    }
    HANDLER_CHECK(errno == 12345);
    if (mine != NULL && aio_suspend(&mine, 1, &soon) == -1)
        HANDLER_CHECK(errno == EAGAIN || errno == EINTR);
    rounds_in_handler++;
    errno = error;
}

static void give_alternate_stack(void)
{
    stack_t stack = { .ss_size = 256 * 1024 };

    stack.ss_sp = malloc(stack.ss_size);
    CHECK(stack.ss_sp != NULL);
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
}

static void start_others(int file, unsigned char *memory)
{
    for (int i = 0; i < DEPTH; i++) {
        if (other_states[i] == STARTED)
            continue;
        prepare(&others[i], file, memory + i * SIZE, SIZE, i * SIZE);
        /* A handler in the middle of this call must leave it alone. */
        CHECK_EQ(aio_read(&others[i]), 0);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        *(volatile int *)&other_states[i] = STARTED;
    }
}

/* Everything that a program does, while the alarm goes off every few microseconds. */
static void work_under_alarms(int flags, int signo)
{
    unsigned char *mine = aligned(SIZE), *theirs = aligned(DEPTH * SIZE);
    const struct itimerval fast = { { 0, 60 }, { 0, 60 } }, none = { { 0, 0 }, { 0, 0 } };
    int direct = temporary_file(O_DIRECT), ends[2];
    int buffered = reopen(direct, O_RDWR);
    int clock = signo == SIGALRM ? ITIMER_REAL : ITIMER_PROF;
    double end = now() + 2.0;
    char byte;

    pattern(theirs, DEPTH * SIZE, 7);
    CHECK_EQ(pwrite(direct, theirs, DEPTH * SIZE, 0), DEPTH * SIZE);
    CHECK_EQ(pipe(ends), 0);
    give_alternate_stack();
    on_signal(signo, use_in_handler, SA_ONSTACK | flags);
    CHECK_EQ(setitimer(clock, &fast, NULL), 0);
    for (unsigned round = 0; now() < end; round++) {
        struct aiocb cb;
        struct aiocb *batch[1] = { &cb };
        const struct aiocb *list[1] = { &cb };
        ssize_t wanted = round % 5 == 2 ? 1 : SIZE;

        start_others(direct, theirs);
        switch (round % 5) {
        case 0:
        case 1:
            memset(mine, 0, SIZE);
            prepare(&cb, round % 5 == 0 ? direct : buffered, mine, SIZE, 0);
            cb.aio_lio_opcode = LIO_READ;
            CHECK_EQ(aio_read(&cb), 0);
            break;
        case 2:
            prepare(&cb, ends[0], &byte, 1, 0);
            CHECK_EQ(aio_read(&cb), 0);
            CHECK_EQ(aio_error(&cb), EINPROGRESS);
            CHECK_EQ(write(ends[1], "x", 1), 1);
            break;
        case 3:
            prepare(&cb, buffered, theirs, SIZE, DEPTH * SIZE);
            CHECK_EQ(aio_write(&cb), 0);
            break;
        default:
            memset(mine, 0, SIZE);
            prepare(&cb, direct, mine, SIZE, 0);
            cb.aio_lio_opcode = LIO_READ;
            if (lio_listio(LIO_WAIT, batch, 1, NULL) == -1)
                CHECK_EQ(errno, EINTR);
        }
        current = &cb;
        while (aio_error(&cb) == EINPROGRESS)
            if (aio_suspend(list, 1, NULL) == -1)
                CHECK_EQ(errno, EINTR);
        current = NULL;
        CHECK_EQ(aio_error(&cb), 0);
        CHECK_EQ(aio_return(&cb), wanted);
        if (round % 5 != 2 && round % 5 != 3)
            CHECK(is_pattern(mine, SIZE, 7));
        if (in_handler_error != 0)
            FAIL("the check in line %d failed in the handler", (int)in_handler_error);
    }
    CHECK_EQ(setitimer(clock, &none, NULL), 0);
    CHECK(rounds_in_handler > 10);
    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(finish(&others[i]), SIZE);
    CHECK(is_pattern(theirs, DEPTH * SIZE, 7));
}

DEFECT(a_handler_waits_for_requests_at_any_moment, "the handler waits for the lock that its own thread holds")
{
    work_under_alarms(0, SIGALRM);
}

DEFECT(a_restarting_handler_waits_for_requests_at_any_moment, "the handler waits for the lock that its own thread holds")
{
    work_under_alarms(SA_RESTART, SIGALRM);
}

/* The same, with other threads at work in the library: what the handler interrupts may be a leader or a follower. */
static int stopping;

static void *keep_busy(void *unused)
{
    unsigned char *memory = aligned(SIZE);
    int direct = temporary_file(O_DIRECT);
    sigset_t alarms;

    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &alarms, NULL), 0);
    CHECK_EQ(pwrite(direct, memory, SIZE, 0), SIZE);
    while (!__atomic_load_n(&stopping, __ATOMIC_RELAXED)) {
        struct aiocb cb;
        const struct aiocb *list[1] = { &cb };

        prepare(&cb, direct, memory, SIZE, 0);
        CHECK_EQ(aio_read(&cb), 0);
        CHECK_EQ(aio_suspend(list, 1, NULL), 0);
        CHECK_EQ(aio_error(&cb), 0);
    }
    return unused;
}

DEFECT(a_handler_waits_beside_busy_threads, "the handler waits for the lock that its own thread holds")
{
    pthread_t threads[3];

    for (int i = 0; i < 3; i++)
        threads[i] = start_thread(keep_busy, NULL);
    work_under_alarms(0, SIGALRM);
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 3; i++)
        join_thread(threads[i]);
}

/* ---- A handler that does not come back ------------------------------------------------------------ */

static sigjmp_buf out;

static void jump_out(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    siglongjmp(out, 1);
}

static void *wait_beside(void *cb)
{
    const struct aiocb *list[1] = { cb };

    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_error(cb), 0);
    return NULL;
}

/* Runs on a stack of its own part, so that the frame that was jumped out of is overwritten afterwards. */
static __attribute__((noinline)) void overwrite_stack(void)
{
    volatile char space[16384];

    for (size_t i = 0; i < sizeof space; i++)
        space[i] = 0x5A;
}

/*
 * aio_suspend is async-signal-safe, so a handler that interrupted it may leave it by siglongjmp. Nobody may miss the
 * one that left: not this thread, which goes on, and not the others that it may have been leading.
 */
static void jump_out_of_waits(int followers)
{
    const struct itimerval soon = { { 0, 0 }, { 0, 300 } };

    on_signal(SIGALRM, jump_out, 0);
    for (volatile int round = 0; round < 200; round++) {
        struct aiocb mine, beside[4];
        const struct aiocb *list[1] = { &mine };
        int ends[2], beside_ends[4][2];
        pthread_t threads[4];
        char byte = 0, bytes[4];

        pending_read(&mine, ends, &byte, 1);
        CHECK_EQ(aio_read(&mine), 0);
        sigset_t alarms;
        sigemptyset(&alarms);
        sigaddset(&alarms, SIGALRM);
        pthread_sigmask(SIG_BLOCK, &alarms, NULL);
        for (int i = 0; i < followers; i++) {
            pending_read(&beside[i], beside_ends[i], &bytes[i], 1);
            CHECK_EQ(aio_read(&beside[i]), 0);
            threads[i] = start_thread(wait_beside, &beside[i]);
        }
        pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
        if (sigsetjmp(out, 1) == 0) {
            CHECK_EQ(setitimer(ITIMER_REAL, &soon, NULL), 0);
            aio_suspend(list, 1, NULL);
            FAIL("the wait ended though nobody wrote");
        }
        overwrite_stack();
        /* This thread stays away from the library until the others have been served. */
        for (int i = 0; i < followers; i++) {
            CHECK_EQ(write(beside_ends[i][1], "j", 1), 1);
            join_thread(threads[i]);
        }
        CHECK_EQ(write(ends[1], "k", 1), 1);
        CHECK_EQ(finish(&mine), 1);
        CHECK_EQ(byte, 'k');
        for (int i = 0; i < followers; i++) {
            close(beside_ends[i][0]);
            close(beside_ends[i][1]);
        }
        close(ends[0]);
        close(ends[1]);
    }
}

DIFFERS(a_handler_jumps_out_of_a_wait, "libc's implementation writes to the frame that was left, which need not show")
{
    jump_out_of_waits(0);
}

DIFFERS(a_handler_jumps_out_of_a_wait_beside_others, "libc's writes to the frame that was left, which need not show")
{
    jump_out_of_waits(4);
}
