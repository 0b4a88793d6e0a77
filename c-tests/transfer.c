/*
 * The bytes: what is read and written is what was asked for, where it was asked for, on regular files of every kind.
 *
 * Seen to fail: with the rest of a short transfer put at the offset of the whole, cold_reads_are_whole and
 * a_file_size_limit_ends_with_EFBIG; with a file's last write first in its queue, appending_writes_keep_their_order and
 * direct_appending_writes_keep_their_order.
 */
#include "check.h"

#include <sys/mman.h>
#include <sys/resource.h>

#define BLOCK 4096

/* Writes blocks in a scrambled order, many at a time, and reads them back in another; all of it is compared. */
static void round_trip(int fd, int blocks, int depth)
{
    unsigned char *memory = aligned((size_t)depth * BLOCK);
    struct aiocb *requests = malloc((size_t)depth * sizeof *requests);

    for (int pass = 0; pass < 2; pass++) {
        int step = pass == 0 ? 37 : 29; /* prime, so that every block has its turn */
        for (int start = 0; start < blocks; start += depth) {
            for (int i = 0; i < depth; i++) {
                int block = (start + i) * step % blocks;
                unsigned char *buffer = memory + i * BLOCK;

                if (pass == 0)
                    pattern(buffer, BLOCK, (unsigned)block);
                else
                    memset(buffer, 0, BLOCK);
                prepare(&requests[i], fd, buffer, BLOCK, (off_t)block * BLOCK);
                CHECK_EQ(pass == 0 ? aio_write(&requests[i]) : aio_read(&requests[i]), 0);
            }
            for (int i = 0; i < depth; i++) {
                CHECK_EQ(finish(&requests[i]), BLOCK);
                if (pass == 1)
                    CHECK(is_pattern(memory + i * BLOCK, BLOCK, (unsigned)((start + i) * step % blocks)));
            }
        }
    }
    /* And without AIO. */
    for (int block = 0; block < blocks; block++) {
        CHECK_EQ(pread(fd, memory, BLOCK, (off_t)block * BLOCK), BLOCK);
        CHECK(is_pattern(memory, BLOCK, (unsigned)block));
    }
}

CASE(buffered_round_trip_at_depth_64)
{
    round_trip(temporary_file(0), 1024, 64);
}

CASE(direct_round_trip_at_depth_64)
{
    round_trip(temporary_file(O_DIRECT), 1024, 64);
}

CASE(synchronous_file_round_trip)
{
    round_trip(temporary_file(O_DSYNC), 64, 8);
}

/* What the page cache does not hold is fetched, whole. */
CASE(cold_reads_are_whole)
{
    enum { SIZE = 4 << 20 };
    unsigned char *memory = aligned(SIZE), *back = aligned(SIZE);
    struct aiocb requests[16];
    int fd = temporary_file(0);

    pattern(memory, SIZE, 5);
    CHECK_EQ(pwrite(fd, memory, SIZE, 0), SIZE);
    CHECK_EQ(fdatasync(fd), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    /* One page in the middle is cached: a read across it must not stop there. */
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
    CHECK_EQ(pread(fd, back, BLOCK, BLOCK), BLOCK);
    prepare(&requests[0], fd, back, 4 * BLOCK, 0);
    CHECK_EQ(aio_read(&requests[0]), 0);
    CHECK_EQ(finish(&requests[0]), 4 * BLOCK);
    for (int i = 0; i < 16; i++) {
        prepare(&requests[i], fd, back + i * (SIZE / 16), SIZE / 16, i * (SIZE / 16));
        CHECK_EQ(aio_read(&requests[i]), 0);
    }
    for (int i = 0; i < 16; i++)
        CHECK_EQ(finish(&requests[i]), SIZE / 16);
    CHECK(memcmp(memory, back, SIZE) == 0);
}

static void end_of_file(int fd, const char *kind)
{
    unsigned char *memory = aligned(4 * BLOCK);

    CHECK_EQ(write_now(fd, memory, BLOCK, 0), BLOCK);
    CHECK_EQ(ftruncate(fd, BLOCK + 100), 0);
    memset(memory, 0xEE, 4 * BLOCK);
    printf("%s across the end: %zd\n", kind, read_now(fd, memory, 4 * BLOCK, 0));
    CHECK(is_filled(memory, BLOCK + 100, 0));
    printf("%s in the last piece: %zd\n", kind, read_now(fd, memory, BLOCK, BLOCK));
    printf("%s after the end: %zd\n", kind, read_now(fd, memory, BLOCK, 2 * BLOCK));
    printf("%s far after the end: %zd\n", kind, read_now(fd, memory, BLOCK, (off_t)1 << 40));
}

CASE(end_of_file_shortens_a_read)
{
    end_of_file(temporary_file(0), "buffered");
    end_of_file(temporary_file(O_DIRECT), "direct");
}

CASE(nothing_is_written_past_what_was_read)
{
    int fd = temporary_file(0);
    char back[64];

    CHECK_EQ(write_now(fd, "12345", 5, 0), 5);
    memset(back, 'x', sizeof back);
    CHECK_EQ(read_now(fd, back + 8, 16, 0), 5);
    CHECK(memcmp(back, "xxxxxxxx12345xxx", 16) == 0);
    CHECK(is_filled(back + 13, sizeof back - 13, 'x'));
}

CASE(zero_bytes_succeed)
{
    static const int flags[] = { 0, O_DIRECT, O_APPEND };
    struct aiocb cb;

    for (int i = 0; i < 3; i++) {
        int fd = temporary_file(flags[i]);
        struct stat status;

        CHECK_EQ(write_now(fd, "", 0, 1000), 0);
        CHECK_EQ(read_now(fd, &cb, 0, 0), 0);
        CHECK_EQ(read_now(fd, NULL, 0, 0), 0);
        CHECK_EQ(fstat(fd, &status), 0);
        CHECK_EQ(status.st_size, 0);
    }
    prepare(&cb, -1, NULL, 0, 0);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(await(&cb), EBADF);
}

static void extend(int fd, int stride)
{
    enum { WRITES = 32 };
    unsigned char *memory = aligned(WRITES * BLOCK), *back = aligned(BLOCK);
    struct aiocb requests[WRITES];
    struct stat status;

    /* From the end backwards, so that each either extends the file or fills a hole. */
    for (int i = 0; i < WRITES; i++) {
        int block = i % 2 == 0 ? i : WRITES - i;

        pattern(memory + i * BLOCK, BLOCK, (unsigned)block);
        prepare(&requests[i], fd, memory + i * BLOCK, BLOCK, (off_t)block * stride * BLOCK);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    for (int i = 0; i < WRITES; i++)
        CHECK_EQ(finish(&requests[i]), BLOCK);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, ((off_t)(WRITES - 1) * stride + 1) * BLOCK);
    for (int block = 0; block < WRITES; block++) {
        CHECK_EQ(read_now(fd, back, BLOCK, (off_t)block * stride * BLOCK), BLOCK);
        CHECK(is_pattern(back, BLOCK, (unsigned)block));
        if (stride > 1 && block < WRITES - 1) {
            CHECK_EQ(read_now(fd, back, BLOCK, ((off_t)block * stride + 1) * BLOCK), BLOCK);
            CHECK(is_filled(back, BLOCK, 0));
        }
    }
}

CASE(writes_that_extend_the_file)
{
    extend(temporary_file(0), 1);
    extend(temporary_file(O_DIRECT), 1);
}

CASE(writes_that_leave_holes)
{
    extend(temporary_file(0), 16);
    extend(temporary_file(O_DIRECT), 16);
}

CASE(a_large_transfer_is_whole)
{
    enum { SIZE = 48 << 20 };
    int flags[] = { 0, O_DIRECT };

    for (int i = 0; i < 2; i++) {
        int fd = temporary_file(flags[i]);
        unsigned char *memory = aligned(SIZE), *back = aligned(SIZE);

        pattern(memory, SIZE, 11);
        CHECK_EQ(write_now(fd, memory, SIZE, 0), SIZE);
        CHECK_EQ(read_now(fd, back, SIZE, 0), SIZE);
        CHECK(memcmp(memory, back, SIZE) == 0);
        free(memory);
        free(back);
    }
}

/* Offsets are ignored, and the order of the calls is the order in the file. */
static void append_in_order(int fd, int writes)
{
    enum { LONGEST = 301 };
    unsigned char *all = malloc((size_t)writes * LONGEST), *back = malloc((size_t)writes * LONGEST);
    struct aiocb *requests = malloc((size_t)writes * sizeof *requests);
    size_t total = 0;

    for (int i = 0; i < writes; i++) {
        size_t size = 1 + (size_t)i * 7 % LONGEST;

        pattern(all + total, size, (unsigned)i);
        prepare(&requests[i], fd, all + total, size, i % 3 == 0 ? 0 : i * 1000);
        CHECK_EQ(aio_write(&requests[i]), 0);
        total += size;
    }
    for (int i = 0; i < writes; i++)
        CHECK_EQ(finish(&requests[i]), 1 + i * 7 % LONGEST);
    CHECK_EQ(pread(fd, back, (size_t)writes * LONGEST, 0), (ssize_t)total);
    CHECK(memcmp(all, back, total) == 0);
}

CASE(appending_writes_keep_their_order)
{
    append_in_order(temporary_file(O_APPEND), 2000);
}

CASE(direct_appending_writes_keep_their_order)
{
    enum { WRITES = 64 };
    int fd = temporary_file(O_APPEND | O_DIRECT);
    unsigned char *memory = aligned(WRITES * BLOCK), *back = aligned(WRITES * BLOCK);
    struct aiocb requests[WRITES];

    for (unsigned i = 0; i < WRITES; i++) {
        pattern(memory + i * BLOCK, BLOCK, i);
        prepare(&requests[i], fd, memory + i * BLOCK, BLOCK, 0);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    for (int i = 0; i < WRITES; i++)
        CHECK_EQ(finish(&requests[i]), BLOCK);
    CHECK_EQ(read_now(fd, back, WRITES * BLOCK, 0), WRITES * BLOCK);
    CHECK(memcmp(memory, back, WRITES * BLOCK) == 0);
}

/* Prints how a request ended: the kernel, not we, decides what alignment a file wants. */
static void show(const char *what, struct aiocb *cb, int started)
{
    CHECK_EQ(started, 0);
    int error = await(cb);
    printf("%s: %s, %zd\n", what, error == 0 ? "success" : strerrorname_np(error), aio_return(cb));
}

CASE(misaligned_direct_requests_end_as_with_pread)
{
    int fd = temporary_file(O_DIRECT);
    unsigned char *memory = aligned(4 * BLOCK);
    struct aiocb cb;

    CHECK_EQ(write_now(fd, memory, 2 * BLOCK, 0), 2 * BLOCK);
    prepare(&cb, fd, memory + 1, BLOCK, 0);
    show("read into a misaligned buffer", &cb, aio_read(&cb));
    show("write from a misaligned buffer", &cb, aio_write(&cb));
    prepare(&cb, fd, memory, 100, 0);
    show("read of a misaligned size", &cb, aio_read(&cb));
    show("write of a misaligned size", &cb, aio_write(&cb));
    prepare(&cb, fd, memory, BLOCK, 7);
    show("read at a misaligned offset", &cb, aio_read(&cb));
    show("write at a misaligned offset", &cb, aio_write(&cb));
}

CASE(bad_buffers_end_with_EFAULT)
{
    int buffered = temporary_file(0), direct = temporary_file(O_DIRECT);
    unsigned char *pages = mmap(NULL, 3 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct aiocb cb;

    CHECK(pages != MAP_FAILED);
    CHECK_EQ(pwrite(buffered, pages, 2 * BLOCK, 0), 2 * BLOCK);
    CHECK_EQ(pwrite(direct, pages, 2 * BLOCK, 0), 2 * BLOCK);
    /* Not unmapped: the next mapping, of whoever it is, would go there. */
    CHECK_EQ(mprotect(pages + BLOCK, BLOCK, PROT_NONE), 0);
    for (int i = 0; i < 2; i++) {
        int fd = i == 0 ? buffered : direct;
        const char *kind = i == 0 ? "buffered" : "direct";

        printf("%s:\n", kind);
        prepare(&cb, fd, NULL, BLOCK, 0);
        show("read into NULL", &cb, aio_read(&cb));
        show("write from NULL", &cb, aio_write(&cb));
        prepare(&cb, fd, pages + BLOCK, BLOCK, 0);
        show("read into memory without access", &cb, aio_read(&cb));
        show("write from memory without access", &cb, aio_write(&cb));
        prepare(&cb, fd, (void *)(uintptr_t)0xffff800000000000u, BLOCK, 0);
        show("read into the kernel's half", &cb, aio_read(&cb));
        CHECK_EQ(mprotect(pages + 2 * BLOCK, BLOCK, PROT_READ), 0);
        prepare(&cb, fd, pages + 2 * BLOCK, BLOCK, 0);
        show("read into read-only memory", &cb, aio_read(&cb));
        show("write from read-only memory", &cb, aio_write(&cb));
    }
    /* The good part of a buffer is filled, as pread does it. */
    prepare(&cb, buffered, pages, 2 * BLOCK, 0);
    show("buffered read into half a buffer", &cb, aio_read(&cb));
}

/* The signal for a too large file kills a process that does not expect it: AIO reports the error alone. */
static volatile sig_atomic_t file_size_signals;

static void on_file_size(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    file_size_signals++;
}

static void beyond_the_limit(int fd)
{
    unsigned char *memory = aligned(BLOCK);
    struct rlimit limit = { 2 * BLOCK, RLIM_INFINITY };
    struct aiocb cb;

    CHECK_EQ(write_now(fd, memory, BLOCK, 0), BLOCK);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    prepare(&cb, fd, memory, BLOCK, BLOCK);
    show("up to the limit", &cb, aio_write(&cb));
    prepare(&cb, fd, memory, BLOCK, 2 * BLOCK);
    show("at the limit", &cb, aio_write(&cb));
    prepare(&cb, fd, memory, BLOCK, 64 * BLOCK);
    show("beyond the limit", &cb, aio_write(&cb));
    limit.rlim_cur = RLIM_INFINITY;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

CASE(a_file_size_limit_ends_with_EFBIG)
{
    unsigned char *memory = aligned(BLOCK);
    struct rlimit limit = { BLOCK + 100, RLIM_INFINITY };
    int fd = temporary_file(0);
    struct aiocb cb;

    /* First with the default action, which would end the process. */
    beyond_the_limit(temporary_file(0));
    beyond_the_limit(temporary_file(O_DIRECT));
    on_signal(SIGXFSZ, on_file_size, 0);
    beyond_the_limit(temporary_file(0));
    beyond_the_limit(temporary_file(O_DIRECT));
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    prepare(&cb, fd, memory, BLOCK, 1000);
    show("across the limit", &cb, aio_write(&cb));
    nap(50);
    CHECK_EQ(file_size_signals, 0);
}

CASE(the_names_with_64_do_the_same)
{
    int fd = temporary_file(0);
    char back[7] = "";
    struct aiocb64 cb;
    const struct aiocb64 *waits[1] = { &cb };
    struct aiocb64 *list[1] = { &cb };

    memset(&cb, 0xA5, sizeof cb);
    memset(&cb.aio_sigevent, 0, sizeof cb.aio_sigevent);
    cb.aio_sigevent.sigev_notify = SIGEV_NONE;
    cb.aio_fildes = fd;
    cb.aio_reqprio = 0;
    cb.aio_buf = "sixty4";
    cb.aio_nbytes = 6;
    cb.aio_offset = (off64_t)5 << 30;
    CHECK_EQ(aio_write64(&cb), 0);
    while (aio_error64(&cb) == EINPROGRESS)
        CHECK_EQ(aio_suspend64(waits, 1, NULL), 0);
    CHECK_EQ(aio_error64(&cb), 0);
    CHECK_EQ(aio_return64(&cb), 6);
    CHECK_EQ(aio_fsync64(O_DSYNC, &cb), 0);
    CHECK_EQ(aio_suspend64(waits, 1, NULL), 0);
    CHECK_EQ(aio_return64(&cb), 0);
    cb.aio_buf = back;
    CHECK_EQ(aio_read64(&cb), 0);
    CHECK_EQ(aio_suspend64(waits, 1, NULL), 0);
    CHECK_EQ(aio_return64(&cb), 6);
    CHECK(memcmp(back, "sixty4", 6) == 0);
    CHECK_EQ(aio_cancel64(fd, &cb), AIO_ALLDONE);
    memset(back, 0, sizeof back);
    cb.aio_lio_opcode = LIO_READ;
    CHECK_EQ(lio_listio64(LIO_WAIT, list, 1, NULL), 0);
    CHECK_EQ(aio_return64(&cb), 6);
    CHECK(memcmp(back, "sixty4", 6) == 0);
}

CASE(the_file_position_stays)
{
    int fd = temporary_file(0);
    char back[4];

    CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_EQ(lseek(fd, 3, SEEK_SET), 3);
    CHECK_EQ(write_now(fd, "ab", 2, 8), 2);
    CHECK_EQ(read_now(fd, back, 4, 0), 4);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
}
