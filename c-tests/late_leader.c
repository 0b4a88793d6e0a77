// timeout: 60
/*
 * A thread that waits is kept from running just when what it waits for completes, as on a machine with too much to do. Another
 * thread asks for the result meanwhile and gets it; the one that waits must notice once it runs again.
 *
 * Here a tracer stops it: a system call that was interrupted by that goes on as if nothing had happened.
 *
 * Seen to fail: on a library where who leads slept in the kernel without a limit.
 */
#include "children.h"

#include <sys/mman.h>
#include <sys/ptrace.h>

enum { DEPTH = 160, SIZE = 1 << 20, BLOCKS = 16, ROUNDS = 12 };

enum stage { STARTED, WAITING, STOPPED, TAKEN, TOO_LATE };

static struct shared {
    int stage;
    pid_t waiter;
} *shared;

static enum stage stage(void)
{
    return (enum stage)__atomic_load_n(&shared->stage, __ATOMIC_SEQ_CST);
}

static void enter(enum stage next)
{
    __atomic_store_n(&shared->stage, (int)next, __ATOMIC_SEQ_CST);
}

static void *wait_for_last(void *last)
{
    const struct aiocb *list[1] = { last };

    shared->waiter = (pid_t)syscall(SYS_gettid);
    enter(WAITING);
    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    CHECK_EQ(aio_error(last), 0);
    return NULL;
}

/* So much is in flight that the tracer comes in time. */
static void read_much(void *unused)
{
    static struct aiocb reads[DEPTH];
    unsigned char *memory = aligned((size_t)BLOCKS * SIZE);
    int file = temporary_file(O_DIRECT);

    (void)unused;
    CHECK_EQ(pwrite(file, memory, (size_t)BLOCKS * SIZE, 0), BLOCKS * SIZE);
    for (int i = 0; i < DEPTH; i++) {
        int block = i % BLOCKS;

        prepare(&reads[i], file, memory + (size_t)block * SIZE, SIZE, (off_t)block * SIZE);
        CHECK_EQ(aio_read(&reads[i]), 0);
    }
    pthread_t waiter = start_thread(wait_for_last, &reads[DEPTH - 1]);
    WAIT_UNTIL(stage() >= STOPPED);
    /* Nobody has looked since, so that this is what it was when the waiter was stopped. */
    int in_time = reads[DEPTH - 1].__error_code == EINPROGRESS;
    WAIT_UNTIL(aio_error(&reads[DEPTH - 1]) == 0);
    enter(in_time ? TAKEN : TOO_LATE);
    join_thread(waiter);
    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(finish(&reads[i]), SIZE);
}

static int is_asleep(pid_t child, pid_t thread)
{
    char name[64], line[256];

    snprintf(name, sizeof name, "/proc/%d/task/%d/stat", (int)child, (int)thread);
    int file = open(name, O_RDONLY);
    CHECK(file >= 0);
    ssize_t length = read(file, line, sizeof line - 1);
    CHECK(length > 0);
    close(file);
    line[length] = '\0';
    return strstr(line, ") S ") != NULL;
}

/* 1: the waiter was stopped before what it waited for was there. */
static int stop_waiter_once(void)
{
    int status;

    enter(STARTED);
    pid_t child = start_child(read_much, NULL);
    WAIT_UNTIL(stage() == WAITING || waitpid(child, &status, WNOHANG) == child);
    if (stage() == STARTED) {
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            _exit(77);
        FAIL("the child ended with status 0x%x", (unsigned)status);
    }
    for (int i = 0; i < 100000 && !is_asleep(child, shared->waiter); i++)
        continue;
    if (ptrace(PTRACE_SEIZE, shared->waiter, NULL, NULL) == -1) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        SKIP("a process may not trace its child here");
    }
    CHECK_EQ(ptrace(PTRACE_INTERRUPT, shared->waiter, NULL, NULL), 0);
    CHECK_EQ(waitpid(shared->waiter, &status, __WALL), shared->waiter);
    enter(STOPPED);
    WAIT_UNTIL(stage() > STOPPED);
    int in_time = stage() == TAKEN;
    CHECK_EQ(ptrace(PTRACE_DETACH, shared->waiter, NULL, NULL), 0);
    CHECK_EXITS(child, 0);
    return in_time;
}

CASE(a_waiter_that_comes_late_finds_what_others_took)
{
    int in_time = 0;

    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    for (int i = 0; i < ROUNDS && in_time < 3; i++)
        in_time += stop_waiter_once();
    fprintf(stderr, "%d rounds counted.\n", in_time);
    if (in_time == 0)
        SKIP("the disk was always faster than the tracer");
}
