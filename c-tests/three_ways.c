/*
 * One file through kernel AIO itself, through libaio when it is installed, and through <aio.h>, in one process: each
 * reads what the others have written, and none takes another's events.
 */
#include "check.h"

#include <linux/aio_abi.h>

#define BLOCK 4096
#define BLOCKS 48
#define WAYS 3

/* The system calls, or libaio's functions of the same names: it keeps the kernel's structures and gives -errno. */
struct kernel_way {
    int (*setup)(int slots, aio_context_t *context);
    int (*destroy)(aio_context_t context);
    int (*submit)(aio_context_t context, long count, struct iocb **list);
    int (*getevents)(aio_context_t context, long least, long most, struct io_event *events, struct timespec *limit);
};

static int result_of(long result)
{
    return result == -1 ? -errno : (int)result;
}

static int raw_setup(int slots, aio_context_t *context)
{
    return result_of(syscall(SYS_io_setup, (unsigned)slots, context));
}

static int raw_destroy(aio_context_t context)
{
    return result_of(syscall(SYS_io_destroy, context));
}

static int raw_submit(aio_context_t context, long count, struct iocb **list)
{
    return result_of(syscall(SYS_io_submit, context, count, list));
}

static int raw_getevents(aio_context_t context, long least, long most, struct io_event *events,
                         struct timespec *limit)
{
    return result_of(syscall(SYS_io_getevents, context, least, most, events, limit));
}

static const struct kernel_way raw_way = { raw_setup, raw_destroy, raw_submit, raw_getevents };

static struct kernel_way libaio_way(void)
{
    static const char *const names[] = { "libaio.so.1", "libaio.so.1t64", "libaio.so" };
    struct kernel_way way;
    void *library = NULL;

    for (int i = 0; i < 3 && library == NULL; i++)
        library = dlopen(names[i], RTLD_NOW);
    if (library == NULL)
        SKIP("libaio is not installed");
    *(void **)&way.setup = dlsym(library, "io_setup");
    *(void **)&way.destroy = dlsym(library, "io_destroy");
    *(void **)&way.submit = dlsym(library, "io_submit");
    *(void **)&way.getevents = dlsym(library, "io_getevents");
    CHECK(way.setup != NULL && way.destroy != NULL && way.submit != NULL && way.getevents != NULL);
    return way;
}

static aio_context_t set_up(const struct kernel_way *way)
{
    aio_context_t context = 0;
    int result = way->setup(BLOCKS, &context);

    if (result == -ENOSYS || result == -EPERM || result == -EAGAIN)
        SKIP("the kernel refuses an AIO context here: %s", strerror(-result));
    CHECK_EQ(result, 0);
    return context;
}

/* Submits all blocks from first on in steps of step, and waits for them. */
static void by_kernel(const struct kernel_way *way, aio_context_t context, int fd, int opcode, unsigned char *memory,
                      int first, int step)
{
    struct iocb iocbs[BLOCKS];
    struct timespec limit = { (time_t)DEADLINE_SECONDS, 0 };
    int seen[BLOCKS] = { 0 };
    int count = 0;

    for (int block = first; block < BLOCKS; block += step) {
        struct iocb *iocb = &iocbs[block];
        struct iocb *list[1] = { iocb };

        memset(iocb, 0, sizeof *iocb);
        iocb->aio_lio_opcode = (uint16_t)opcode;
        iocb->aio_fildes = (uint32_t)fd;
        iocb->aio_buf = (uint64_t)(uintptr_t)(memory + block * BLOCK);
        iocb->aio_nbytes = BLOCK;
        iocb->aio_offset = (int64_t)block * BLOCK;
        iocb->aio_data = (uint64_t)block;
        CHECK_EQ(way->submit(context, 1, list), 1);
        count++;
    }
    while (count > 0) {
        struct io_event event;

        CHECK_EQ(way->getevents(context, 1, 1, &event, &limit), 1);
        CHECK(event.data < BLOCKS && event.obj == (uint64_t)(uintptr_t)&iocbs[event.data]);
        CHECK_EQ(event.res, BLOCK);
        CHECK_EQ(seen[event.data]++, 0);
        count--;
    }
}

static void by_posix(int fd, int write, unsigned char *memory, int first, int step)
{
    struct aiocb requests[BLOCKS];

    for (int block = first; block < BLOCKS; block += step) {
        prepare(&requests[block], fd, memory + block * BLOCK, BLOCK, (off_t)block * BLOCK);
        CHECK_EQ(write ? aio_write(&requests[block]) : aio_read(&requests[block]), 0);
    }
    for (int block = first; block < BLOCKS; block += step)
        CHECK_EQ(finish(&requests[block]), BLOCK);
}

static void all_read_what_all_wrote(int fd, const struct kernel_way *other)
{
    unsigned char *memory = aligned(BLOCKS * BLOCK);
    aio_context_t raw = set_up(&raw_way), context = set_up(other);

    for (int round = 0; round < 5; round++) {
        for (int block = 0; block < BLOCKS; block++)
            pattern(memory + block * BLOCK, BLOCK, (unsigned)(round * BLOCKS + block));
        by_kernel(&raw_way, raw, fd, IOCB_CMD_PWRITE, memory, 0, WAYS);
        by_kernel(other, context, fd, IOCB_CMD_PWRITE, memory, 1, WAYS);
        by_posix(fd, 1, memory, 2, WAYS);
        for (int reader = 0; reader < WAYS; reader++) {
            memset(memory, 0, BLOCKS * BLOCK);
            if (reader == 0)
                by_kernel(&raw_way, raw, fd, IOCB_CMD_PREAD, memory, 0, 1);
            else if (reader == 1)
                by_kernel(other, context, fd, IOCB_CMD_PREAD, memory, 0, 1);
            else
                by_posix(fd, 0, memory, 0, 1);
            for (int block = 0; block < BLOCKS; block++)
                CHECK(is_pattern(memory + block * BLOCK, BLOCK, (unsigned)(round * BLOCKS + block)));
        }
    }
    CHECK_EQ(raw_way.destroy(raw), 0);
    CHECK_EQ(other->destroy(context), 0);
    /* Their contexts are gone, ours is not. */
    by_posix(fd, 0, memory, 0, 1);
}

CASE(kernel_aio_libaio_and_posix_aio_on_a_buffered_file)
{
    struct kernel_way libaio = libaio_way();

    all_read_what_all_wrote(temporary_file(0), &libaio);
}

CASE(kernel_aio_libaio_and_posix_aio_on_a_direct_file)
{
    struct kernel_way libaio = libaio_way();

    all_read_what_all_wrote(temporary_file(O_DIRECT), &libaio);
}

CASE(kernel_aio_and_posix_aio_without_libaio)
{
    all_read_what_all_wrote(temporary_file(0), &raw_way);
    all_read_what_all_wrote(temporary_file(O_DIRECT), &raw_way);
}
