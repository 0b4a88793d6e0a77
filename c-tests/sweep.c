// timeout: 60
/*
 * A signal handler at every single instruction of a call. A traced child makes the call again and again: some times it
 * is stepped through, to learn its instructions; then, for each of these, a breakpoint stops it there (the first time,
 * and the last time that it comes by), and the signal is delivered. The handler uses the library as POSIX
 * allows: it waits for a request that the interrupted code knows nothing of, and for the very one that it is about.
 *
 * Seen to fail: on libc's implementation, whose handler waits for the lock that its own thread holds; and on a library whose
 * handler did not take over the completions that io_pgetevents had brought at the very moment when it was interrupted.
 */
#include "children.h"

#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>

enum { SIZE = 4096, TICKS = 2500, MOST_INSTRUCTIONS = 20000 };

/* The call that is interrupted. */
enum operation { READ_DIRECT, READ_CACHED, READ_PIPE, BATCH_READ, BATCH_WRITE, SUSPEND_DIRECT, SUSPEND_PIPE, ERROR_DIRECT };

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
    case BATCH_WRITE:
        pattern(my_memory, SIZE, 3);
        prepare(&mine, buffered, my_memory, SIZE, SIZE);
        break;
    default:
        prepare(&mine, direct, my_memory, SIZE, 0);
    }
    mine.aio_lio_opcode = operation == BATCH_WRITE ? LIO_WRITE : LIO_READ;
    is_submitted = operation >= SUSPEND_DIRECT;
    if (is_submitted)
        CHECK_EQ(aio_read(&mine), 0);
}

static void operate(void)
{
    const struct aiocb *list[1] = { &mine };
    struct aiocb *batch[1] = { &mine };
    int result;

    mark();
    switch (operation) {
    case BATCH_READ:
    case BATCH_WRITE:
        result = lio_listio(LIO_WAIT, batch, 1, NULL);
        break;
    case SUSPEND_DIRECT:
    case SUSPEND_PIPE:
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
    if (result == -1 && (operation == BATCH_READ || operation == BATCH_WRITE || operation >= SUSPEND_DIRECT))
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

static void tick(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
}

/* Waits for the child's next stop. A call that waits for the pipe gets something to read at the next tick. */
static int next_stop(unsigned long address)
{
    int status, ticks = 0;

    while (waitpid(traced, &status, 0) == -1) {
        CHECK_EQ(errno, EINTR);
        if (++ticks == 1 && operation == SUSPEND_PIPE)
            CHECK_EQ(write(ends[1], "t", 1), 1);
        if (ticks > TICKS) {
            kill(traced, SIGKILL);
            FAIL("the child hangs; the handler ran at %#lx", address);
        }
    }
    if (!WIFSTOPPED(status))
        FAIL("the child ended with status 0x%x; the handler ran at %#lx", (unsigned)status, address);
    return WSTOPSIG(status);
}

static void resume(int request, int signo)
{
    CHECK_EQ(ptrace(request, traced, NULL, (void *)(intptr_t)signo), 0);
}

/* Lets the child run to its next mark, delivering what has to be delivered. */
static void run_to_mark(int signo, unsigned long address)
{
    resume(PTRACE_CONT, signo);
    while ((signo = next_stop(address)) != SIGUSR2)
        resume(PTRACE_CONT, signo == SIGTRAP ? 0 : signo);
}

#if defined(__x86_64__)
/* ---- The instructions of a call ------------------------------------------------------------------- */

static struct instruction {
    unsigned long address;
    int times;
} instructions[MOST_INSTRUCTIONS];
static int instruction_count;

static void note(unsigned long address, const int *seen_before)
{
    int at = 0;

    while (at < instruction_count && instructions[at].address != address)
        at++;
    if (at == MOST_INSTRUCTIONS)
        FAIL("the call has more than %d instructions", MOST_INSTRUCTIONS);
    if (at == instruction_count)
        instructions[instruction_count++] = (struct instruction){ address, 0 };
    /* How often it runs in one call is learned from the first call that comes by. */
    if (at >= *seen_before)
        instructions[at].times++;
}

/* Steps through some calls, which differ a little: at times the request has ended before the call looks. */
static void note_instructions(void)
{
    for (int call = 0; call < 8; call++) {
        int seen_before = instruction_count;

        for (;;) {
            resume(PTRACE_SINGLESTEP, 0);
            int signo = next_stop(0);
            if (signo == SIGUSR2)
                break;
            CHECK_EQ(signo, SIGTRAP);
            note((unsigned long)ptrace(PTRACE_PEEKUSER, traced, offsetof(struct user_regs_struct, rip), 0), &seen_before);
        }
        run_to_mark(0, 0);
    }
}

static void set_debug_register(int number, unsigned long value)
{
    size_t offset = offsetof(struct user, u_debugreg) + (size_t)number * sizeof value;

    CHECK_EQ(ptrace(PTRACE_POKEUSER, traced, offset, value), 0);
}

/* From the mark at a call's start to that at the next one's, with a signal where the call comes to that instruction. */
static int signal_at(unsigned long address, int times)
{
    int signo;

    set_debug_register(0, address);
    set_debug_register(7, 1);
    do {
        resume(PTRACE_CONT, 0);
        signo = next_stop(address);
    } while (signo == SIGTRAP && --times > 0);
    set_debug_register(7, 0);
    if (signo == SIGTRAP)
        run_to_mark(SIGUSR1, address);
    else
        CHECK_EQ(signo, SIGUSR2);
    run_to_mark(0, address);
    return signo == SIGTRAP;
}

static void sweep(enum operation which)
{
    const struct itimerval ticking = { { 0, 4000 }, { 0, 4000 } };
    int delivered = 0;

    operation = which;
    CHECK_EQ(pipe(ends), 0);
    traced = start_child(be_traced, NULL);
    on_signal(SIGALRM, tick, 0);
    CHECK_EQ(setitimer(ITIMER_REAL, &ticking, NULL), 0);
    CHECK_EQ(next_stop(0), SIGUSR2);
    /* The first calls set the library up, and resolve its symbols. */
    for (int warm = 0; warm < 6; warm++)
        run_to_mark(0, 0);
    note_instructions();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < instruction_count; i++) {
            delivered += signal_at(instructions[i].address, 1);
            if (instructions[i].times > 1)
                delivered += signal_at(instructions[i].address, instructions[i].times);
        }
    }
    kill(traced, SIGKILL);
    while (waitpid(traced, NULL, 0) == -1)
        CHECK_EQ(errno, EINTR);
    fprintf(stderr, "%d instructions, %d signals.\n", instruction_count, delivered);
    /* Which way a call takes changes; but most of what it was seen to take, it takes again. */
    CHECK(delivered > instruction_count / 3);
}

#else

static void sweep(enum operation which)
{
    operation = which;
    (void)be_traced, (void)next_stop, (void)run_to_mark, (void)tick;
    SKIP("knows the debug registers of x86-64 only");
}

#endif

#define SWEEP(name, which)                                                          \
    DEFECT(name, "the handler waits for the lock that its own thread holds")        \
    {                                                                               \
        sweep(which);                                                               \
    }

SWEEP(aio_read_of_a_direct_file, READ_DIRECT)
SWEEP(aio_read_of_a_cached_file, READ_CACHED)
SWEEP(aio_read_of_a_pipe, READ_PIPE)
SWEEP(lio_listio_that_waits, BATCH_READ)
SWEEP(lio_listio_of_a_buffered_write, BATCH_WRITE)
SWEEP(aio_suspend_for_a_direct_read, SUSPEND_DIRECT)
SWEEP(aio_suspend_for_a_pipe_read, SUSPEND_PIPE)
SWEEP(aio_error_of_a_direct_read, ERROR_DIRECT)
