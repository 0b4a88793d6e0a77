/*
 * What the library costs a program: nothing while it is not used, and little afterwards.
 *
 * Seen to fail: with a context made when the library is loaded, loaded_and_unused_it_has_no_thread_and_no_context; with one
 * made by aio_cancel, questions_start_nothing.
 */
#include "check.h"
#include "resources.h"

#include <dirent.h>

static int threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    int count = 0;

    CHECK(tasks != NULL);
    while ((task = readdir(tasks)) != NULL)
        count += task->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* The kernel maps the ring of each context under this name. */
static int descriptors(void)
{
    DIR *files = opendir("/proc/self/fd");
    struct dirent *file;
    int count = 0;

    CHECK(files != NULL);
    while ((file = readdir(files)) != NULL)
        count += file->d_name[0] != '.';
    closedir(files);
    return count;
}

/* The signals that our parent ignores, which we inherit (nohup, for one): bit n - 1 for signal n. */
static unsigned long long inherited(void)
{
    char name[64], line[256];
    unsigned long long ignored = 0;

    snprintf(name, sizeof name, "/proc/%d/status", (int)getppid());
    FILE *status = fopen(name, "r");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "SigIgn: %llx", &ignored) == 1)
            break;
    fclose(status);
    return ignored;
}

CASE(loaded_and_unused_it_has_no_thread_and_no_context)
{
    sigset_t mask;

    printf("%d thread, %d contexts\n", threads(), contexts());
    /* No signal handler either, and no signal blocked. */
    CHECK_EQ(sigprocmask(SIG_SETMASK, NULL, &mask), 0);
    for (int signo = 1; signo <= SIGRTMAX; signo++) {
        struct sigaction action;

        if (sigismember(&mask, signo) == 1)
            FAIL("signal %d is blocked", signo);
        if (sigaction(signo, NULL, &action) != 0 || action.sa_handler == SIG_DFL)
            continue;
        if (action.sa_handler != SIG_IGN || !(inherited() >> (signo - 1) & 1))
            FAIL("signal %d is handled or ignored", signo);
    }
}

/* Programs that look after requests of their own libraries ask before there ever was one. */
CASE(questions_start_nothing)
{
    struct aiocb cb;

    memset(&cb, 0, sizeof cb);
    CHECK_EQ(aio_error(&cb), 0);
    CHECK_EQ(aio_return(&cb), 0);
    CHECK_EQ(aio_suspend((const struct aiocb *[]){ &cb }, 1, NULL), 0);
    CHECK_EQ(aio_suspend((const struct aiocb *[]){ NULL }, 1, NULL), 0);
    CHECK_EQ(aio_cancel(temporary_file(0), NULL), AIO_ALLDONE);
    CHECK_FAILS(aio_cancel(-1, NULL), EBADF);
    printf("%d thread, %d contexts\n", threads(), contexts());
}

DIFFERS(requests_go_to_one_kernel_context, "libc's implementation has none")
{
    unsigned char *block = aligned(4096);
    int fd = temporary_file(O_DIRECT);

    for (int i = 0; i < 200; i++)
        CHECK_EQ(write_now(fd, block, 4096, i * 4096), 4096);
    for (int i = 0; i < 200; i++)
        CHECK_EQ(read_now(fd, block, 4096, i * 4096), 4096);
    CHECK_EQ(contexts(), 1);
}

CASE(a_started_engine_needs_little_memory)
{
    enum { DEPTH = 64 };
    unsigned char *memory = aligned(DEPTH * 4096);
    static struct aiocb requests[DEPTH];
    int files[] = { temporary_file(0), temporary_file(O_DIRECT) };
    int before_descriptors = descriptors();
    long before = resident_kib();

    before = resident_kib(); /* stdio's own buffers are there now */
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < DEPTH; i++) {
            prepare(&requests[i], files[round % 2], memory + i * 4096, 4096, i * 4096);
            CHECK_EQ(round % 4 < 2 ? aio_write(&requests[i]) : aio_read(&requests[i]), 0);
        }
        for (int i = 0; i < DEPTH; i++)
            CHECK_EQ(finish(&requests[i]), 4096);
    }
    long grown = resident_kib() - before;
    if (grown >= 2048)
        FAIL("a started engine has %ld KiB resident", grown);
    CHECK_EQ(descriptors(), before_descriptors);
}
