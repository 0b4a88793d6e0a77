/*
 * refuse CALL=ERROR[:N]... -- PROGRAM [ARGUMENT]...
 *
 * Runs a program whose system calls of these names fail with these errors (numbers of errno): always, or every Nth of
 * them while the others go on. By seccomp: always is answered in the kernel, every Nth by this process,
 * which passes the program's end on. Without a program: makes each call six times itself and prints what it gets, so that
 * one can see that the refusal takes effect.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#else
#error "the number of this machine's system calls (linux/audit.h) is wanted here"
#endif

static const struct { const char *name; long number; } known[] = {
    { "io_setup", SYS_io_setup },           { "io_submit", SYS_io_submit },
    { "io_getevents", SYS_io_getevents },   { "io_pgetevents", SYS_io_pgetevents },
    { "io_cancel", SYS_io_cancel },         { "preadv2", SYS_preadv2 },
    { "pwritev2", SYS_pwritev2 },           { "fadvise64", SYS_fadvise64 },
    { "statx", SYS_statx },                 { "close_range", SYS_close_range },
    { "pidfd_open", SYS_pidfd_open },       { "pidfd_getfd", SYS_pidfd_getfd },
    { "epoll_create1", SYS_epoll_create1 }, { "eventfd2", SYS_eventfd2 },
    { "rt_sigqueueinfo", SYS_rt_sigqueueinfo }, { "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo },
};
enum { KNOWN = sizeof known / sizeof known[0], MOST = 8 };

static struct rule { long number; int error; unsigned every, seen; } rules[MOST];
static int count;

static void fail(const char *what)
{
    fprintf(stderr, "refuse: %s: %s\n", what, strerror(errno));
    exit(125);
}

static void parse(const char *text)
{
    const char *equals = strchr(text, '=');
    char *end = NULL;
    struct rule *rule = &rules[count];

    errno = EINVAL;
    if (equals == NULL || count == MOST)
        fail(text);
    for (int i = 0; i < KNOWN; i++)
        if (strlen(known[i].name) == (size_t)(equals - text) && strncmp(known[i].name, text, (size_t)(equals - text)) == 0)
            rule->number = known[i].number + 1;
    rule->error = (int)strtol(equals + 1, &end, 10);
    if (rule->number-- == 0 || rule->error <= 0 || rule->error >= 4096)
        fail(text);
    if (*end == ':')
        rule->every = (unsigned)strtoul(end + 1, &end, 10);
    if (*end != '\0')
        fail(text);
    count++;
}

/* Puts the rules into force for this process; the descriptor by which every Nth is asked about, or -1. */
static int install(void)
{
    struct sock_filter code[4 + 2 * MOST + 1];
    struct sock_fprog program = { 0, code };
    int asks = 0;

    code[program.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0);
    code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[program.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < count; i++) {
        unsigned action = rules[i].every == 0 ? SECCOMP_RET_ERRNO | (unsigned)rules[i].error : SECCOMP_RET_USER_NOTIF;

        asks |= rules[i].every != 0;
        code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)rules[i].number, 0, 1);
        code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    }
    code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
        fail("PR_SET_NO_NEW_PRIVS");
    long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, asks ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0, &program);
    if (listener == -1)
        fail("seccomp");
    return asks ? (int)listener : -1;
}

/* Six calls of each kind, with arguments that do nothing. */
static int show(void)
{
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 6; k++) {
            errno = 0;
            syscall(rules[i].number, -1L, 0L, 0L, 0L, 0L, 0L);
            printf("%s%d", k == 0 ? "" : " ", errno == rules[i].error);
        }
    puts("");
    fflush(stdout);
    return 0;
}

static void answer(int listener)
{
    /* As large as the kernel's, which may have grown. */
    static union { struct seccomp_notif notice; char room[512]; } asked;
    static union { struct seccomp_notif_resp answer; char room[512]; } given;

    memset(&asked, 0, sizeof asked);
    memset(&given, 0, sizeof given);
    /* Gone since: the caller was interrupted, or has ended. */
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) == -1)
        return;
    given.answer.id = asked.notice.id;
    given.answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    for (int i = 0; i < count; i++)
        if (rules[i].number == asked.notice.data.nr && rules[i].every != 0 && ++rules[i].seen % rules[i].every == 0) {
            given.answer.flags = 0;
            given.answer.error = -rules[i].error;
        }
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &given);
}

int main(int argc, char **argv)
{
    int at = 1, ends[2], listener = -1, status, asks = 0;

    for (; at < argc && strcmp(argv[at], "--") != 0; at++)
        parse(argv[at]);
    char **program = at + 1 < argc ? argv + at + 1 : NULL;
    for (int i = 0; i < count; i++)
        asks |= rules[i].every != 0;
    if (!asks) {
        install();
        if (program == NULL)
            return show();
        execvp(program[0], program);
        fail(program[0]);
    }
    if (pipe(ends) == -1)
        fail("pipe");
    /* With one table of descriptors until the exec: the child's listener is ours. */
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        listener = install();
        if (write(ends[1], &listener, sizeof listener) != sizeof listener)
            fail("write");
        /* Until the parent has left the table the exec would take away our marks: it need not wait, exec copies it. */
        close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
        if (program == NULL)
            _exit(show());
        execvp(program[0], program);
        fail(program[0]);
    }
    if (child == -1)
        fail("clone");
    if (read(ends[0], &listener, sizeof listener) != sizeof listener)
        fail("read");
    for (;;) {
        struct pollfd ready = { listener, POLLIN, 0 };

        if (poll(&ready, 1, 50) == 1 && ready.revents & POLLIN)
            answer(listener);
        else if (waitpid(child, &status, WNOHANG) == child)
            break;
    }
    if (WIFSIGNALED(status)) {
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
