// timeout: 60
/*
 * A signal handler at every single instruction of a call: the call is made again and again in a traced child, which is
 * stepped one instruction further each time before the signal is delivered. The handler uses the library as POSIX
 * allows: it waits for a request that the interrupted code knows nothing of, and for the very one that it is about.
 *
 * Seen to fail: on libc's implementation, whose handler waits for the lock that its own thread holds; and on the library
 * with the signals left open where it leads.
 */
#include "children.h"

#include <sys/ptrace.h>

/* A call of some thousand instructions would be stepped through some million times; beyond this, leave some out. */
#define MOST_STEPS 1200000L

enum { SIZE = 4096 };

/* The call that is interrupted. */
enum operation { READ_DIRECT, READ_CACHED, READ_PIPE, BATCH, SUSPEND_DIRECT, SUSPEND_PIPE, SUSPEND_WRITE, ERROR_DIRECT };

static enum operation operation;
static struct aiocb mine, other;
static unsigned char *my_memory, *other_memory;
static int direct, buffered, ends[2];
static volatile sig_atomic_t is_submitted, handled, failed_line;

#define HANDLER_CHECK(condition)                            \
    do {                                                    \
        if (!(condition) && failed_line == 0)               \
            failed_line = __LINE__;                         \
    } while (0)

static void handle(int signo, siginfo_t *info, void *context)
{
    const struct timespec soon = { 0, 50 * 1000 };
    const struct aiocb *others[2] = { NULL, &other }, *mines[1] = { &mine };
    int error = errno;

    (void)signo, (void)info, (void)context;
    handled++;
    errno = 4711;
    HANDLER_CHECK(aio_suspend(others, 2, NULL) == 0);
    HANDLER_CHECK(aio_error(&other) == 0);
    HANDLER_CHECK(aio_return(&other) == SIZE);
    HANDLER_CHECK(errno == 4711);
    if (is_submitted) {
        /* Nothing is left to do but wait, and the interrupted code cannot be needed for it. */
        if (operation == SUSPEND_PIPE)
            HANDLER_CHECK(write(ends[1], "h", 1) == 1);
        HANDLER_CHECK(aio_suspend(mines, 1, NULL) == 0);
        HANDLER_CHECK(aio_error(&mine) == 0);
    } else if (aio_suspend(mines, 1, &soon) == -1) {
        /* Half submitted: it may not end before the interrupted call goes on. */
        HANDLER_CHECK(errno == EAGAIN || errno == EINTR);
    }
    errno = error;
}

/* Stops for the tracer. */
static void mark(void)
{
    syscall(SYS_tgkill, getpid(), (int)syscall(SYS_gettid), SIGUSR2);
}

static void prepare_mine(void)
{
    memset(my_memory, 0, SIZE);
    switch (operation) {
    case READ_CACHED:
        prepare(&mine, buffered, my_memory, SIZE, 0);
        break;
    case READ_PIPE:
    case SUSPEND_PIPE:
        prepare(&mine, ends[0], my_memory, 1, 0);
        break;
    case SUSPEND_WRITE:
        pattern(my_memory, SIZE, 3);
        prepare(&mine, buffered, my_memory, SIZE, SIZE);
        break;
    default:
        prepare(&mine, direct, my_memory, SIZE, 0);
    }
    mine.aio_lio_opcode = LIO_READ;
    is_submitted = operation >= SUSPEND_DIRECT;
    if (operation == SUSPEND_WRITE)
        CHECK_EQ(aio_write(&mine), 0);
    else if (is_submitted)
        CHECK_EQ(aio_read(&mine), 0);
}

static void operate(void)
{
    const struct aiocb *list[1] = { &mine };
    struct aiocb *batch[1] = { &mine };
    int result;

    mark();
    switch (operation) {
    case BATCH:
        result = lio_listio(LIO_WAIT, batch, 1, NULL);
        break;
    case SUSPEND_DIRECT:
    case SUSPEND_PIPE:
    case SUSPEND_WRITE:
        result = aio_suspend(list, 1, NULL);
        break;
    case ERROR_DIRECT:
        result = aio_error(&mine);
        break;
    default:
        result = aio_read(&mine);
    }
    int error = errno;
    mark();
    if (result == -1 && (operation == BATCH || operation >= SUSPEND_DIRECT))
        CHECK_EQ(error, EINTR);
    else if (operation != ERROR_DIRECT)
        CHECK_EQ(result, 0);
}

/* One call after the other, until the tracer has seen enough. */
static void be_traced(void *unused)
{
    int is_pipe = operation == READ_PIPE || operation == SUSPEND_PIPE;
    stack_t stack = { .ss_size = 256 * 1024 };

    (void)unused;
    stack.ss_sp = malloc(stack.ss_size);
    CHECK(stack.ss_sp != NULL);
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    on_signal(SIGUSR1, handle, SA_ONSTACK);
    my_memory = aligned(SIZE);
    other_memory = aligned(SIZE);
    direct = temporary_file(O_DIRECT);
    buffered = reopen(direct, O_RDWR);
    pattern(my_memory, SIZE, 3);
    CHECK_EQ(pwrite(buffered, my_memory, SIZE, 0), SIZE);
    CHECK_EQ(fsync(buffered), 0);
    CHECK_EQ(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(ptrace(PTRACE_TRACEME, 0, NULL, NULL), 0);
    for (;;) {
        ssize_t wanted = is_pipe ? 1 : SIZE;
        char rest[64];

        /* O_NONBLOCK is for the emptying alone: the request has to wait for data. */
        while (is_pipe && read(ends[0], rest, sizeof rest) > 0)
            continue;
        CHECK_EQ(fcntl(ends[0], F_SETFL, 0), 0);
        memset(other_memory, 0, SIZE);
        prepare(&other, direct, other_memory, SIZE, 0);
        CHECK_EQ(aio_read(&other), 0);
        prepare_mine();
        operate();
        if (is_pipe)
            CHECK_EQ(write(ends[1], "r", 1), 1);
        CHECK_EQ(finish(&mine), wanted);
        if (!is_pipe)
            CHECK(is_pattern(my_memory, SIZE, 3));
        CHECK_EQ(finish(&other), SIZE);
        CHECK(is_pattern(other_memory, SIZE, 3));
        if (failed_line != 0)
            FAIL("the check in line %d failed in the handler", (int)failed_line);
        CHECK_EQ(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    }
}

/* ---- The tracer ----------------------------------------------------------------------------------- */

static pid_t traced;

/* Waits for the child's next stop. A call that waits for the pipe gets something to read after a while. */
static int next_stop(long step)
{
    double start = now();
    int status, written = 0;

    while (waitpid(traced, &status, WNOHANG) == 0) {
        double passed = now() - start;

        if (passed > 0.001 && !written && operation == SUSPEND_PIPE)
            written = write(ends[1], "t", 1) == 1;
        if (passed > 0.01)
            nap(1);
        if (passed > DEADLINE_SECONDS) {
            kill(traced, SIGKILL);
            FAIL("the child hangs; the handler ran after %ld instructions", step);
        }
    }
    if (!WIFSTOPPED(status))
        FAIL("the child ended with status 0x%x; the handler ran after %ld instructions", (unsigned)status, step);
    return WSTOPSIG(status);
}

static void resume(int request, int signo)
{
    CHECK_EQ(ptrace(request, traced, NULL, (void *)(intptr_t)signo), 0);
}

/* Lets the child run to its next mark, delivering what has to be delivered. */
static void run_to_mark(int signo, long step)
{
    resume(PTRACE_CONT, signo);
    while ((signo = next_stop(step)) != SIGUSR2)
        resume(PTRACE_CONT, signo == SIGTRAP ? 0 : signo);
}

/* From one mark so many instructions on; 0 when the next mark came first. */
static int step_into(long steps)
{
    for (long done = 0; done < steps; done++) {
        resume(PTRACE_SINGLESTEP, 0);
        int signo = next_stop(done);
        if (signo == SIGUSR2)
            return 0;
        if (signo != SIGTRAP)
            FAIL("signal %d while stepping", signo);
    }
    return 1;
}

static long length_of_call(void)
{
    long steps = 0;

    while (step_into(1))
        steps++;
    return steps;
}

static void sweep(enum operation which)
{
    operation = which;
    CHECK_EQ(pipe(ends), 0);
    traced = start_child(be_traced, NULL);
    CHECK_EQ(next_stop(0), SIGUSR2);
    /* The first calls set the library up, and resolve its symbols. */
    for (int warm = 0; warm < 6; warm++)
        run_to_mark(0, 0);
    long length = length_of_call();
    long stride = 1 + length * length / 2 / MOST_STEPS;
    for (long steps = 1;; steps += stride) {
        run_to_mark(0, steps);
        if (!step_into(steps))
            break;
        run_to_mark(SIGUSR1, steps);
        /* The mark at the end of the call; on to that at the start of the next. */
        if (steps > 100 * length)
            FAIL("the call has no end");
    }
    kill(traced, SIGKILL);
    CHECK(WIFSIGNALED(wait_child(traced)));
    fprintf(stderr, "%ld instructions, each %ld.\n", length, stride);
}

#define SWEEP(name, which)                                                          \
    DEFECT(name, "the handler waits for the lock that its own thread holds")        \
    {                                                                               \
        sweep(which);                                                               \
    }

SWEEP(aio_read_of_a_direct_file, READ_DIRECT)
SWEEP(aio_read_of_a_cached_file, READ_CACHED)
SWEEP(aio_read_of_a_pipe, READ_PIPE)
SWEEP(lio_listio_that_waits, BATCH)
SWEEP(aio_suspend_for_a_direct_read, SUSPEND_DIRECT)
SWEEP(aio_suspend_for_a_pipe_read, SUSPEND_PIPE)
SWEEP(aio_suspend_for_a_buffered_write, SUSPEND_WRITE)
SWEEP(aio_error_of_a_direct_read, ERROR_DIRECT)
