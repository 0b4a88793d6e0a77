/*
 * Linux kernel AIO itself, without any library: shows that the machine under the suite has what the library
 * rests on.
 */
#include "check.h"

#include <linux/aio_abi.h>

static aio_context_t set_up(unsigned slots)
{
    aio_context_t context = 0;

    if (syscall(SYS_io_setup, slots, &context) == -1) {
        if (errno == ENOSYS || errno == EPERM || errno == EAGAIN)
            SKIP("the kernel refuses an AIO context here: %s", strerror(errno));
        FAIL("io_setup gives errno %d", errno);
    }
    return context;
}

static struct iocb write_of(int fd, void *buffer, size_t size, long long offset, uint64_t data)
{
    struct iocb iocb;

    memset(&iocb, 0, sizeof iocb);
    iocb.aio_lio_opcode = IOCB_CMD_PWRITE;
    iocb.aio_fildes = (uint32_t)fd;
    iocb.aio_buf = (uint64_t)(uintptr_t)buffer;
    iocb.aio_nbytes = size;
    iocb.aio_offset = offset;
    iocb.aio_data = data;
    return iocb;
}

/* Sets up a context, writes 4096 bytes, takes the event and tears the context down. */
static void write_one_block(int fd)
{
    aio_context_t context = set_up(8);
    unsigned char *block = aligned(4096);
    unsigned char *back = aligned(4096);
    struct timespec limit = { (time_t)DEADLINE_SECONDS, 0 };
    struct io_event event;

    pattern(block, 4096, 1);
    struct iocb iocb = write_of(fd, block, 4096, 4096, 77);
    struct iocb *list[1] = { &iocb };
    CHECK_EQ(syscall(SYS_io_submit, context, 1L, list), 1);
    CHECK_EQ(syscall(SYS_io_getevents, context, 1L, 1L, &event, &limit), 1);
    CHECK_EQ(event.data, 77);
    CHECK_EQ(event.obj, (uintptr_t)&iocb);
    CHECK_EQ(event.res, 4096);
    CHECK_EQ(event.res2, 0);
    CHECK_EQ(syscall(SYS_io_destroy, context), 0);

    CHECK_EQ(pread(fd, back, 4096, 4096), 4096);
    CHECK(is_pattern(back, 4096, 1));
    printf("4096 bytes\n");
}

CASE(write_of_4096_bytes)
{
    write_one_block(temporary_file(0));
}

CASE(direct_write_of_4096_bytes)
{
    write_one_block(temporary_file(O_DIRECT));
}

CASE(a_bad_descriptor_is_refused_at_submission)
{
    aio_context_t context = set_up(8);
    char byte = 0;
    struct iocb iocb = write_of(-1, &byte, 1, 0, 0);
    struct iocb *list[1] = { &iocb };

    CHECK_FAILS(syscall(SYS_io_submit, context, 1L, list), EBADF);
    CHECK_EQ(syscall(SYS_io_destroy, context), 0);
}

CASE(a_destroyed_context_is_gone)
{
    aio_context_t context = set_up(8);
    struct io_event event;

    CHECK_EQ(syscall(SYS_io_destroy, context), 0);
    CHECK_FAILS(syscall(SYS_io_getevents, context, 0L, 1L, &event, NULL), EINVAL);
}
