/*
 * Kernel contexts are a thing of the whole machine: fs.aio-max-nr. A process that gets none is served by libc's own
 * implementation, one that gets a small one by that; and what one process was refused says nothing about the next.
 *
 * Most cases have a filter refuse io_setup as the kernel does when the machine has none left. The last one really uses them up,
 * for some milliseconds: only where AIO_TEST_ALONE says that nobody else on this machine wants one.
 *
 * Seen to fail: a_small_context_will_do on a library that did not ask for less when refused, where_no_page_can_be_wiped_libc_serves
 * on one that let libc serve and then answered aio_error itself, with ECANCELED, and that kept a page for each call; the
 * others on one that gave EAGAIN itself when it got no context.
 */
#include "children.h"

#include <linux/aio_abi.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#endif

/* How many contexts this process has mapped, and bytes of all. */
static int contexts(unsigned long *bytes)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long from, to;
    char line[512];
    int count = 0;

    *bytes = 0;
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) {
        if (strstr(line, "/[aio]") == NULL || sscanf(line, "%lx-%lx", &from, &to) != 2)
            continue;
        *bytes += to - from;
        count++;
    }
    fclose(maps);
    return count;
}

/* From now on this process and its children get no context for more than so many requests. */
static void refuse_contexts(unsigned most)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_setup, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, most, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
    };
    struct sock_fprog program = { sizeof code / sizeof code[0], code };

    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == -1)
        SKIP("no seccomp filter here");
}

static void use_with_contexts(void *wanted)
{
    unsigned long bytes;

    use_everything();
    use_everything();
    CHECK_EQ(contexts(&bytes), *(int *)wanted);
}

static const int none = 0, one = 1;

static void use_refused(void *unused)
{
    (void)unused;
    refuse_contexts(0);
    use_with_contexts((void *)&none);
}

static void reap_child(pid_t child)
{
    int status = wait_child(child);

    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        _exit(77);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

DIFFERS(one_process_is_refused_and_the_next_is_not, "libc has no contexts")
{
    for (int i = 0; i < 5; i++) {
        reap_child(start_child(use_refused, NULL));
        in_child(use_with_contexts, (void *)&one);
    }
}

static void be_refused_as_a_child(void *unused)
{
    unsigned long bytes;

    (void)unused;
    refuse_contexts(0);
    /* What the parent had is still mapped until it asks for its own. */
    use_everything();
    CHECK(contexts(&bytes) <= 1);
}

DIFFERS(a_child_is_refused_and_its_parent_goes_on, "libc's hangs in a child")
{
    struct aiocb waiting;
    int ends[2];
    char byte;

    use_everything();
    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    reap_child(start_child(be_refused_as_a_child, NULL));
    use_with_contexts((void *)&one);
    CHECK_EQ(write(ends[1], "p", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
}

/* A context of 16 requests: the rest waits its turn. */
static void use_a_small_one(void *unused)
{
    enum { SIZE = 4096, DEPTH = 300, BLOCKS = 16 };
    static struct aiocb reads[DEPTH];
    unsigned char *memory = aligned(DEPTH * SIZE), *whole = aligned(BLOCKS * SIZE);
    int file = temporary_file(O_DIRECT);
    unsigned long bytes;

    (void)unused;
    refuse_contexts(16);
    pattern(whole, BLOCKS * SIZE, 5);
    CHECK_EQ(pwrite(file, whole, BLOCKS * SIZE, 0), BLOCKS * SIZE);
    for (int i = 0; i < DEPTH; i++) {
        prepare(&reads[i], file, memory + i * SIZE, SIZE, i % BLOCKS * SIZE);
        CHECK_EQ(aio_read(&reads[i]), 0);
    }
    for (int i = 0; i < DEPTH; i++) {
        CHECK_EQ(finish(&reads[i]), SIZE);
        CHECK_EQ(memcmp(memory + i * SIZE, whole + i % BLOCKS * SIZE, SIZE), 0);
    }
    use_everything();
    CHECK_EQ(contexts(&bytes), 1);
    CHECK(bytes <= 8192);
}

DIFFERS(a_small_context_will_do, "libc has no contexts")
{
    reap_child(start_child(use_a_small_one, NULL));
}

/* ---- Kernels that do not wipe a page in a child ------------------------------------------------------ */

static void refuse_wiping(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_WIPEONFORK, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
    };
    struct sock_fprog program = { sizeof code / sizeof code[0], code };

    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == -1)
        SKIP("no seccomp filter here");
}

/* Pages that this process has mapped, whatever for. */
static long mapped_pages(void)
{
    FILE *sizes = fopen("/proc/self/statm", "r");
    long pages = 0;

    CHECK(sizes != NULL);
    CHECK_EQ(fscanf(sizes, "%ld", &pages), 1);
    fclose(sizes);
    return pages;
}

CASE(where_no_page_can_be_wiped_libc_serves)
{
    enum { CALLS = 10000 };
    const struct timespec soon = { 0, 20 * 1000 * 1000 };
    struct aiocb waiting;
    const struct aiocb *list[1] = { &waiting };
    int ends[2], file = temporary_file(0);
    char byte;

    refuse_wiping();
    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    CHECK_EQ(aio_error(&waiting), EINPROGRESS);
    CHECK_FAILS(aio_suspend(list, 1, &soon), EAGAIN);
    CHECK_EQ(write(ends[1], "w", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
    use_everything();
    long before = mapped_pages();
    for (int i = 0; i < CALLS; i++)
        CHECK_EQ(read_now(file, &byte, 1, 0), 0);
    /* libc may have started a thread or two. */
    CHECK(mapped_pages() - before < CALLS / 2);
}

/* ---- Really ---------------------------------------------------------------------------------------- */

enum { MOST = 4096 };

/* Takes all that the machine has left, or gives up where it is set to have more than makes sense here. */
static int use_up(aio_context_t taken[MOST])
{
    unsigned ask = 16384;
    int count = 0;

    while (count < MOST && ask > 0) {
        taken[count] = 0;
        if (syscall(SYS_io_setup, ask, &taken[count]) == 0)
            count++;
        else
            ask /= 2;
    }
    return count;
}

static void use_and_tell(void *gate)
{
    int *ends = gate;
    unsigned long bytes;
    char byte = 0;

    CHECK_EQ(read(ends[0], &byte, 1), 1);
    write_now(temporary_file(0), "d", 1, 0);
    CHECK_EQ(write(ends[3], "d", 1), 1);
    use_everything();
    CHECK_EQ(contexts(&bytes), 0);
}

DIFFERS(others_use_up_all_that_the_machine_has, "libc has no contexts")
{
    static aio_context_t taken[MOST];
    int gate[4];
    char byte;

    if (getenv("AIO_TEST_ALONE") == NULL)
        SKIP("others on this machine may want contexts: AIO_TEST_ALONE says that none does");
    CHECK_EQ(pipe(gate), 0);
    CHECK_EQ(pipe(gate + 2), 0);
    pid_t child = start_child(use_and_tell, gate);
    int count = use_up(taken);
    int all = count < MOST;
    CHECK_EQ(write(gate[1], "g", 1), 1);
    /* A child that fails must not have the machine wait for it. */
    struct pollfd told = { .fd = gate[2], .events = POLLIN };
    int decided = poll(&told, 1, 1000);
    for (int i = 0; i < count; i++)
        CHECK_EQ(syscall(SYS_io_destroy, taken[i]), 0);
    CHECK_EQ(decided, 1);
    CHECK_EQ(read(gate[2], &byte, 1), 1);
    if (!all)
        SKIP("the machine has more contexts than this can use up");
    CHECK_EXITS(child, 0);
    in_child(use_with_contexts, (void *)&one);
}
