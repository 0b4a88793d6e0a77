/*
 * What says how large the context is, and how many helpers there may be: aio_init, and the variables AIO_POSIX_EVENTS and
 * AIO_POSIX_THREADS, which go before it. Each case fails when its hint is not looked at.
 *
 * Seen to fail: without what aio_init said, how_large_the_context_is and no_more_helpers_than_aio_init_says; without the
 * variables, how_large_the_context_is and no_more_helpers_than_the_variable_says.
 */
#include "check.h"
#include <dirent.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* Bytes of the ring that the kernel has mapped. */
static unsigned long ring_bytes(void)
{
    char line[512];
    unsigned long from, to, bytes = 0;
    FILE *maps = fopen("/proc/self/maps", "r");

    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, "[aio]") != NULL && sscanf(line, "%lx-%lx", &from, &to) == 2)
            bytes += to - from;
    fclose(maps);
    CHECK(bytes != 0);
    return bytes;
}

/* With these hints, in a process of its own: 32 bytes for each event, and a page for the header. */
static unsigned long ring_with(const char *variable, int aio_num)
{
    int ends[2], status;
    unsigned long bytes = 0;

    CHECK_EQ(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        int fd = temporary_file(0);

        if (variable != NULL)
            setenv("AIO_POSIX_EVENTS", variable, 1);
        if (aio_num != 0) {
            struct aioinit hints;

            memset(&hints, 0, sizeof hints);
            hints.aio_num = aio_num;
            aio_init(&hints);
        }
        CHECK_EQ(write_now(fd, "x", 1, 0), 1);
        bytes = ring_bytes();
        CHECK_EQ(write(ends[1], &bytes, sizeof bytes), sizeof bytes);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(read(ends[0], &bytes, sizeof bytes), sizeof bytes);
    return bytes;
}

DIFFERS(how_large_the_context_is, "libc has none")
{
    unsigned long usual = ring_with(NULL, 0);

    CHECK(usual < 2000 * 32);
    CHECK(ring_with(NULL, 2000) >= 2000 * 32);
    CHECK(ring_with("3000", 0) >= 3000 * 32);
    CHECK(ring_with("10", 3000) < usual);
    static const char *const useless[] = { "", "0", "-1", "many", "99999999999", "1e3" };
    for (size_t i = 0; i < sizeof useless / sizeof useless[0]; i++) {
        CHECK_EQ(ring_with(useless[i], 0), usual);
        CHECK(ring_with(useless[i], 2000) >= 2000 * 32);
    }
}

static int helpers_now(void)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    int helpers = 0;

    CHECK(tasks != NULL);
    while ((task = readdir(tasks)) != NULL) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *comm = fopen(path, "r");

        if (comm == NULL)
            continue;
        if (fgets(name, sizeof name, comm) != NULL)
            helpers += strcmp(name, "aio-helper\n") == 0;
        fclose(comm);
    }
    closedir(tasks);
    return helpers;
}

/* Writes of memory that is not there until we say so: each keeps a helper for that long. How many there are then. */
static int helpers_that_hang(const char *variable, int aio_threads)
{
    enum { FILES = 12 };
    static struct aiocb cbs[FILES];
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register range;
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC), most;
    unsigned char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (faults == -1)
        SKIP("userfaultfd is refused (vm.unprivileged_userfaultfd)");
    CHECK_EQ(ioctl(faults, UFFDIO_API, &api), 0);
    range = (struct uffdio_register){ .range = { (uintptr_t)memory, 4096 }, .mode = UFFDIO_REGISTER_MODE_MISSING };
    CHECK_EQ(ioctl(faults, UFFDIO_REGISTER, &range), 0);
    if (variable != NULL)
        setenv("AIO_POSIX_THREADS", variable, 1);
    if (aio_threads != 0) {
        struct aioinit hints;

        memset(&hints, 0, sizeof hints);
        hints.aio_threads = aio_threads;
        aio_init(&hints);
    }
    /* Beyond a limit no write is tried by the caller itself, which would hang. */
    struct rlimit limit = { 1 << 30, RLIM_INFINITY };
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (int i = 0; i < FILES; i++) {
        prepare(&cbs[i], temporary_file(0), memory, 4096, 0);
        CHECK_EQ(aio_write(&cbs[i]), 0);
    }
    nap(1000);
    most = helpers_now();
    struct uffdio_zeropage zero = { .range = { (uintptr_t)memory, 4096 } };
    CHECK_EQ(ioctl(faults, UFFDIO_ZEROPAGE, &zero), 0);
    for (int i = 0; i < FILES; i++)
        CHECK_EQ(finish(&cbs[i]), 4096);
    return most;
}

DIFFERS(as_many_helpers_as_it_takes, "libc has at most twenty")
{
    CHECK(helpers_that_hang(NULL, 0) > 10);
}

DIFFERS(no_more_helpers_than_aio_init_says, "libc has no helpers")
{
    int helpers = helpers_that_hang(NULL, 4);

    CHECK(helpers > 0);
    CHECK(helpers <= 4);
}

DIFFERS(no_more_helpers_than_the_variable_says, "libc has no helpers")
{
    int helpers = helpers_that_hang("3", 10);

    CHECK(helpers > 0);
    CHECK(helpers <= 3);
}
