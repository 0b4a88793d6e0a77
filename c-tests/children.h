/*
 * Child processes for the tests about fork, exec, exit and limits: every child is waited for with a deadline, and one
 * that hangs is killed and fails the case, so that a deadlock shows as a failure and leaves nothing behind.
 */
#ifndef CHILDREN_H
#define CHILDREN_H

#include "check.h"

#include <sys/prctl.h>

/* Waits for a child to end and gives what waitpid said of it. */
CHECK_HELPER int wait_child(pid_t child)
{
    double deadline = now() + DEADLINE_SECONDS;
    int status;
    pid_t ended;

    while ((ended = waitpid(child, &status, WNOHANG)) != child) {
        if (ended == -1 && errno != EINTR)
            FAIL("waitpid: errno %d", errno);
        if (now() > deadline) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            FAIL("a child has not ended in time");
        }
        nap(1);
    }
    return status;
}

/* The child must have ended by exit or _exit with this code. */
#define CHECK_EXITS(child, code)                                                                   \
    do {                                                                                           \
        int check_status = wait_child(child);                                                      \
        if (!WIFEXITED(check_status) || WEXITSTATUS(check_status) != (code))                       \
            FAIL("the child ended with status 0x%x, not with exit code %d", (unsigned)check_status, \
                 (int)(code));                                                                     \
    } while (0)

/* Runs a function in a forked child, which then leaves with _exit(0); a failed check there gives 1. */
CHECK_HELPER pid_t start_child(void (*body)(void *), void *argument)
{
    fflush(stdout);
    pid_t parent = getpid();
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        /* When the harness kills a hung case, what that case started goes with it. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        body(argument);
        fflush(stdout);
        _exit(0);
    }
    return child;
}

CHECK_HELPER void in_child(void (*body)(void *), void *argument)
{
    CHECK_EXITS(start_child(body, argument), 0);
}

/* A little of everything that a process may ask for: shows that asynchronous I/O works in this process, now. */
CHECK_HELPER void use_everything(void)
{
    enum { SIZE = 8192 };
    unsigned char *out = aligned(SIZE), *in = aligned(SIZE);
    int file = temporary_file(0), ends[2];
    struct aiocb one, two, sync, waiting;
    struct aiocb *batch[2] = { &one, &two };
    unsigned seed = (unsigned)getpid();
    char byte = 0;

    pattern(out, SIZE, seed);
    prepare(&one, file, out, SIZE / 2, 0);
    prepare(&two, file, out + SIZE / 2, SIZE / 2, SIZE / 2);
    one.aio_lio_opcode = two.aio_lio_opcode = LIO_WRITE;
    CHECK_EQ(lio_listio(LIO_WAIT, batch, 2, NULL), 0);
    CHECK_EQ(aio_return(&one), SIZE / 2);
    CHECK_EQ(aio_return(&two), SIZE / 2);
    prepare(&sync, file, NULL, 0, 0);
    CHECK_EQ(aio_fsync(O_SYNC, &sync), 0);
    CHECK_EQ(finish(&sync), 0);
    CHECK_EQ(read_now(file, in, SIZE, 0), SIZE);
    CHECK(is_pattern(in, SIZE, seed));

    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    CHECK_EQ(aio_error(&waiting), EINPROGRESS);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
    CHECK_EQ(byte, 'x');

    close(ends[0]);
    close(ends[1]);
    close(file);
    free(out);
    free(in);
}

#endif
