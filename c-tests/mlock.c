/*
 * aio_mlock: pages read in and locked, without waiting for them.
 *
 * Seen to fail: without the call of mlock(2), both cases.
 */
#include "extensions.h"
#include <sys/mman.h>
#include <sys/resource.h>

static long locked_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");

    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmLck: %ld", &kib) == 1)
            break;
    fclose(status);
    CHECK(kib >= 0);
    return kib;
}

/* Fails when the request ends without the call: nothing is locked. */
EXTENSION(pages_are_locked)
{
    enum { SIZE = 16 * 4096 };
    unsigned char *pages = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct rlimit limit;
    struct aiocb cb;

    CHECK_EQ(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    if (limit.rlim_cur < SIZE && geteuid() != 0)
        SKIP("RLIMIT_MEMLOCK is too low");
    CHECK_EQ(locked_kib(), 0);
    prepare(&cb, -1, pages, SIZE, 0);
    CHECK_EQ(aio_mlock(&cb), 0);
    CHECK_EQ(cb.aio_lio_opcode, LIO_MLOCK);
    CHECK_EQ(finish(&cb), 0);
    CHECK_EQ(locked_kib(), SIZE / 1024);
    CHECK_EQ(munlock(pages, SIZE), 0);
}

EXTENSION(what_cannot_be_locked_is_the_requests_error)
{
    /* Below vm.mmap_min_addr nothing is ever mapped. */
    unsigned char *pages = (unsigned char *)4096;
    struct aiocb cb;

    prepare(&cb, -1, pages, 4096, 0);
    CHECK_EQ(aio_mlock(&cb), 0);
    CHECK_EQ(await(&cb), ENOMEM);
    CHECK_EQ(aio_return(&cb), -1);
    prepare(&cb, -1, pages, 4096, 0);
    cb.aio_reqprio = -1;
    CHECK_FAILS(aio_mlock(&cb), EINVAL);
}
