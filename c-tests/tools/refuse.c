/*
 * refuse CALL=ERROR[:N]... -- PROGRAM [ARGUMENT]...
 *
 * Runs a program whose system calls of these names fail with these errors (numbers of errno): always, or every Nth of
 * them while the others go on. By seccomp: always is answered in the kernel, every Nth by this process,
 * which passes the program's end on. Without a program: makes each call six times itself and prints what it gets, so that
 * one can see that the refusal takes effect.
 *
 * Three names are not a call's alone: "threads" is clone(2) of a thread, not of a process; "memory" is mmap(2) of plain
 * private memory, from the program's first io_setup on, so that it can be loaded and begin; and "batches" is io_submit(2) of
 * more than one request, which goes on but takes only the first, whatever the error says: the kernel finds no second.
 * Where what the tests themselves call can be told from what the library calls, by the arguments, only the latter is refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#else
#error "the number of this machine's system calls (linux/audit.h) is wanted here"
#endif

/* What an argument must be, but for bits that do not matter; a mask of 0 asks for nothing. */
struct condition { unsigned argument, mask, value; };

static const struct known { const char *name; long number; struct condition conditions[2]; } known[] = {
    { "io_setup", SYS_io_setup, { { 0 } } },
    { "io_submit", SYS_io_submit, { { 0 } } },
    { "io_getevents", SYS_io_getevents, { { 0 } } },
    { "io_pgetevents", SYS_io_pgetevents, { { 0 } } },
    { "io_cancel", SYS_io_cancel, { { 0 } } },
    { "preadv2", SYS_preadv2, { { 0 } } },
    { "pwritev2", SYS_pwritev2, { { 0 } } },
    { "fadvise64", SYS_fadvise64, { { 3, ~0U, POSIX_FADV_WILLNEED } } },
    { "statx", SYS_statx, { { 0 } } },
    { "close_range", SYS_close_range, { { 2, CLOSE_RANGE_UNSHARE, CLOSE_RANGE_UNSHARE } } },
    { "pidfd_open", SYS_pidfd_open, { { 0 } } },
    { "pidfd_getfd", SYS_pidfd_getfd, { { 0 } } },
    { "kcmp", SYS_kcmp, { { 0 } } },
    { "epoll_create1", SYS_epoll_create1, { { 0, ~0U, EPOLL_CLOEXEC } } },
    { "eventfd2", SYS_eventfd2, { { 0, ~0U, 1 }, { 1, ~0U, EFD_CLOEXEC } } },
    { "rt_sigqueueinfo", SYS_rt_sigqueueinfo, { { 0 } } },
    { "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, { { 0 } } },
    { "madvise", SYS_madvise, { { 2, ~0U, MADV_WIPEONFORK } } },
    { "threads", SYS_clone, { { 0, CLONE_THREAD, CLONE_THREAD } } },
    { "memory", SYS_mmap, { { 2, ~0U, PROT_READ | PROT_WRITE }, { 3, ~0U, MAP_PRIVATE | MAP_ANONYMOUS } } },
    { "batches", SYS_io_submit, { { 0 } } },
};
enum { KNOWN = sizeof known / sizeof known[0], MOST = 8, LONGEST = 3 + 3 * 2 };

static struct rule { const struct known *call; int error; unsigned every, seen; } rules[MOST];
static int count;

static void fail(const char *what)
{
    fprintf(stderr, "refuse: %s: %s\n", what, strerror(errno));
    exit(125);
}

static int is(const struct rule *rule, const char *name)
{
    return strcmp(rule->call->name, name) == 0;
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
            rule->call = &known[i];
    rule->error = (int)strtol(equals + 1, &end, 10);
    if (rule->call == NULL || rule->error <= 0 || rule->error >= 4096)
        fail(text);
    if (*end == ':')
        rule->every = (unsigned)strtoul(end + 1, &end, 10);
    if (*end != '\0')
        fail(text);
    if (rule->every == 0 && (is(rule, "memory") || is(rule, "batches")))
        rule->every = 1;
    count++;
}

static void statement(struct sock_fprog *program, unsigned code, unsigned value)
{
    program->filter[program->len++] = (struct sock_filter)BPF_STMT((unsigned short)code, value);
}

/* Goes on if what was loaded is the value, else leaves out so many. */
static void only_if(struct sock_fprog *program, unsigned value, unsigned others)
{
    program->filter[program->len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, (unsigned char)others);
}

/* Answers a call of that number, of whose arguments the conditions hold. */
static void add_rule(struct sock_fprog *program, long number, const struct condition conditions[2], unsigned action)
{
    unsigned left = 1;

    for (int i = 0; i < 2; i++)
        left += conditions[i].mask != 0 ? 3 : 0;
    statement(program, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    only_if(program, (unsigned)number, left);
    for (int i = 0; i < 2; i++) {
        const struct condition *condition = &conditions[i];

        if (condition->mask == 0)
            continue;
        /* The low half: these machines are little endian. */
        statement(program, BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, args) + 8 * condition->argument);
        statement(program, BPF_ALU | BPF_AND | BPF_K, condition->mask);
        left -= 3;
        only_if(program, condition->value, left);
    }
    statement(program, BPF_RET | BPF_K, action);
}

/* Puts the rules into force for this process; the descriptor by which every Nth is asked about, or -1. */
static int install(void)
{
    static const struct condition none[2];
    struct sock_filter code[4 + LONGEST * (2 * MOST + 1)];
    struct sock_fprog program = { 0, code };
    int asks = 0;

    statement(&program, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    program.filter[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0);
    statement(&program, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    for (int i = 0; i < count; i++) {
        unsigned action = rules[i].every == 0 ? SECCOMP_RET_ERRNO | (unsigned)rules[i].error : SECCOMP_RET_USER_NOTIF;

        asks |= rules[i].every != 0;
        /* A filter cannot look at the arguments of clone3, which are in memory: libc tries clone then. */
        if (is(&rules[i], "threads"))
            add_rule(&program, SYS_clone3, none, SECCOMP_RET_ERRNO | ENOSYS);
        if (is(&rules[i], "memory"))
            add_rule(&program, SYS_io_setup, none, SECCOMP_RET_USER_NOTIF);
        add_rule(&program, rules[i].call->number, rules[i].call->conditions, action);
    }
    statement(&program, BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
        fail("PR_SET_NO_NEW_PRIVS");
    long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, asks ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0, &program);
    if (listener == -1)
        fail("seccomp");
    return asks ? (int)listener : -1;
}

/* Six calls of each kind, with arguments that do nothing, or nothing that matters. */
static int show(void)
{
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 6; k++) {
            long arguments[6] = { -1 }, requests[2] = { -1, -1 };
            const struct condition *conditions = rules[i].call->conditions;

            if (is(&rules[i], "memory")) {
                syscall(SYS_io_setup, -1, 0);
                arguments[0] = 0;
                arguments[1] = 4096;
                arguments[4] = -1;
            } else if (is(&rules[i], "batches")) {
                arguments[1] = 2;
                arguments[2] = (long)requests;
            }
            for (int c = 0; c < 2; c++)
                if (conditions[c].mask != 0)
                    arguments[conditions[c].argument] = (long)conditions[c].value;
            errno = 0;
            syscall(rules[i].call->number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
            int refused = is(&rules[i], "batches") ? requests[0] == -1 && requests[1] == 0 : errno == rules[i].error;
            printf("%s%d", k == 0 ? "" : " ", refused);
        }
    puts("");
    fflush(stdout);
    return 0;
}

/* Takes the second request out of a batch: the kernel stops there, and answers how many it took before. */
static void shorten(const struct seccomp_notif *asked)
{
    void *nothing = NULL;
    struct iovec from = { &nothing, sizeof nothing };
    struct iovec to = { (char *)(uintptr_t)asked->data.args[2] + sizeof nothing, sizeof nothing };

    if (process_vm_writev((pid_t)asked->pid, &from, 1, &to, 1, 0) != (ssize_t)sizeof nothing)
        fail("process_vm_writev");
}

static int applies(const struct rule *rule, const struct seccomp_notif *asked)
{
    static int has_begun;

    has_begun |= asked->data.nr == SYS_io_setup;
    return rule->call->number == asked->data.nr && rule->every != 0 && (!is(rule, "memory") || has_begun)
        && (!is(rule, "batches") || asked->data.args[1] > 1);
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
    for (int i = 0; i < count; i++) {
        if (!applies(&rules[i], &asked.notice) || ++rules[i].seen % rules[i].every != 0)
            continue;
        if (is(&rules[i], "batches")) {
            /* Still there? Else the number may be another's by now. */
            if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &asked.notice.id) == 0)
                shorten(&asked.notice);
        } else {
            given.answer.flags = 0;
            given.answer.error = -rules[i].error;
        }
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
