/*
 * Which system calls the library makes, counted by tracing a child: none of its own while it is not used, and
 * one submission for a batch.
 */
#include "check.h"

#include <sys/ptrace.h>

/* The system calls of a traced child and its threads, entry by entry. */
struct trace {
    long counts[512];
    int counting; /* toggled by the child with its marker */
};

/* A call that nobody else makes: starts and ends the counting. */
static void marker(void)
{
    syscall(SYS_getpgid, -12345);
}

static void note_entry(struct trace *trace, const struct __ptrace_syscall_info *info)
{
    if (info->op != PTRACE_SYSCALL_INFO_ENTRY)
        return;
    if (info->entry.nr == SYS_getpgid && (int)info->entry.args[0] == -12345)
        trace->counting = !trace->counting;
    else if (trace->counting && info->entry.nr < 512)
        trace->counts[info->entry.nr]++;
}

/* Runs the body in a traced child; fails the case when the child fails. */
static struct trace traced(void (*body)(void), int counting)
{
    struct trace trace = { .counting = counting };
    pid_t child = fork();
    int status;

    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1)
            _exit(77);
        raise(SIGSTOP);
        body();
        _exit(0);
    }
    CHECK(child > 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        SKIP("no process may be traced here");
    CHECK(WIFSTOPPED(status));
    CHECK_EQ(ptrace(PTRACE_SETOPTIONS, child, NULL,
                    PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL), 0);
    CHECK_EQ(ptrace(PTRACE_SYSCALL, child, NULL, NULL), 0);
    for (;;) {
        pid_t stopped = waitpid(-1, &status, __WALL);
        long signo = 0;

        CHECK(stopped > 0);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (stopped != child)
                continue;
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
                FAIL("the traced child ended with status %#x", status);
            return trace;
        }
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            struct __ptrace_syscall_info info;

            if (ptrace(PTRACE_GET_SYSCALL_INFO, stopped, sizeof info, &info) > 0)
                note_entry(&trace, &info);
        } else if (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGSTOP) {
            signo = WSTOPSIG(status);
        }
        /* A thread may be gone by now. */
        ptrace(PTRACE_SYSCALL, stopped, NULL, signo);
    }
}

/* Starts this very program anew, to list its cases: with the library, and without use for it. */
static void list_cases(void)
{
    int null = open("/dev/null", O_WRONLY);

    dup2(null, STDOUT_FILENO);
    execl("/proc/self/exe", "program", (char *)NULL);
    _exit(1);
}

CASE(unused_it_makes_no_system_call_of_its_own)
{
    /* What the dynamic linker, libc's start and printf do. */
    static const long usual[] = {
#ifdef __x86_64__ /* calls that newer architectures do not have */
        SYS_open, SYS_stat, SYS_access, SYS_readlink, SYS_dup2, SYS_arch_prctl,
#endif
        SYS_openat, SYS_read, SYS_pread64, SYS_write, SYS_close, SYS_fstat, SYS_newfstatat, SYS_mmap, SYS_mprotect,
        SYS_munmap, SYS_madvise, SYS_brk, SYS_faccessat, SYS_readlinkat, SYS_dup3, SYS_set_tid_address,
        SYS_set_robust_list, SYS_rseq, SYS_prlimit64, SYS_getrandom, SYS_ioctl, SYS_lseek, SYS_uname, SYS_futex,
        SYS_execve, SYS_exit_group,
    };
    struct trace trace = traced(list_cases, 1);

    CHECK(trace.counts[SYS_execve] > 0 && trace.counts[SYS_exit_group] == 1);
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        trace.counts[usual[i]] = 0;
    for (long number = 0; number < 512; number++)
        if (trace.counts[number] != 0)
            FAIL("system call %ld is made %ld times", number, trace.counts[number]);
}

#define BATCH 32

static int batch_fd;

static void batch(int opcode)
{
    unsigned char *memory = aligned(BATCH * 4096);
    struct aiocb requests[BATCH];
    struct aiocb *list[BATCH];

    for (int i = 0; i < BATCH; i++) {
        prepare(&requests[i], batch_fd, memory + i * 4096, 4096, i * 4096);
        requests[i].aio_lio_opcode = opcode;
        list[i] = &requests[i];
    }
    CHECK_EQ(lio_listio(LIO_WAIT, list, BATCH, NULL), 0);
}

static void two_batches(void)
{
    batch_fd = temporary_file(O_DIRECT);
    /* The first starts the engine, and extends the file. */
    batch(LIO_WRITE);
    CHECK_EQ(fsync(batch_fd), 0);
    marker();
    batch(LIO_WRITE);
    batch(LIO_READ);
    marker();
}

DIFFERS(a_direct_batch_is_one_submission, "libc's implementation submits nothing to the kernel")
{
    struct trace trace = traced(two_batches, 0);

    CHECK_EQ(trace.counting, 0);
    CHECK_EQ(trace.counts[SYS_io_submit], 2);
}

/* A page that is in the cache is there when the call returns: no submission, no thread, no wait. */
static void cached_reads(void)
{
    char buffer[4096] = "cached";
    int fd = temporary_file(0);
    struct aiocb cb;

    CHECK_EQ(pwrite(fd, buffer, sizeof buffer, 0), (ssize_t)sizeof buffer);
    CHECK_EQ(read_now(fd, buffer, sizeof buffer, 0), (ssize_t)sizeof buffer);
    nap(100); /* new threads go to sleep first */
    marker();
    for (int i = 0; i < 100; i++) {
        prepare(&cb, fd, buffer, sizeof buffer, 0);
        CHECK_EQ(aio_read(&cb), 0);
        CHECK_EQ(aio_error(&cb), 0);
        CHECK_EQ(aio_return(&cb), (ssize_t)sizeof buffer);
    }
    marker();
}

DIFFERS(cached_reads_need_no_submission, "libc hands each to a thread")
{
    struct trace trace = traced(cached_reads, 0);

    CHECK_EQ(trace.counting, 0);
    CHECK_EQ(trace.counts[SYS_preadv2], 100);
    CHECK_EQ(trace.counts[SYS_io_submit] + trace.counts[SYS_io_getevents] + trace.counts[SYS_futex], 0);
}
