/*
 * Regular files in every state: cached, partly cached, cold, with holes, being extended, direct and synchronous. It is run
 * on the file system of the test directory here, and on others by tests/filesystems.rs.
 *
 * Seen to fail: with the rest of a short transfer put at the offset of the whole, partly_cached_reads_give_the_whole and
 * buffered_reads_end_with_the_file; with every read a helper's, cached_read_is_complete_when_the_call_returns.
 */
#include "tools/descriptors.h"

#include <sys/mman.h>
#include <sys/uio.h>

enum { KIB = 1024, MIB = 1 << 20, BLOCK = 4096 };

static struct aiocb cbs[512];

static int patterned_file(int flags, size_t size)
{
    unsigned char *data = aligned(size);
    int fd = temporary_file(flags);

    pattern(data, size, 6);
    feed(fd, data, size);
    CHECK_EQ(fdatasync(fd), 0);
    free(data);
    return fd;
}

/* Bytes of a patterned file from this place on. */
static int is_pattern_at(const unsigned char *data, size_t size, size_t at)
{
    for (size_t i = 0; i < size; i++)
        if (data[i] != pattern_byte(at + i, 6))
            return 0;
    return 1;
}

/* What the file system keeps in the cache alone stays there: the reads must be right all the same. */
static void make_cold(int fd)
{
    CHECK_EQ(fdatasync(fd), 0);
    CHECK_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

/* Brings this range into the cache, and no more. */
static void warm(int fd, off_t offset, size_t size)
{
    char *data = aligned(size);
    int own = reopen(fd, O_RDONLY);

    CHECK_EQ(posix_fadvise(own, 0, 0, POSIX_FADV_RANDOM), 0);
    CHECK_EQ(pread(own, data, size, offset), size);
    close(own);
    free(data);
}

CASE(cached_reads)
{
    enum { SIZE = 256 * BLOCK };
    unsigned char *got = aligned(SIZE);
    int fd = patterned_file(0, SIZE);

    warm(fd, 0, SIZE);
    for (int i = 0; i < 256; i++)
        start_read(&cbs[i], fd, got + i * BLOCK, BLOCK, (off_t)i * BLOCK);
    for (int i = 0; i < 256; i++)
        CHECK_EQ(finish(&cbs[i]), BLOCK);
    CHECK(is_pattern(got, SIZE, 6));
    CHECK_EQ(read_now(fd, got, 1001, 777), 1001);
    CHECK(is_pattern_at(got, 1001, 777));
    /* The descriptor's own offset is left alone. */
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), SIZE);
}

DIFFERS(cached_read_is_complete_when_the_call_returns, "libc hands every read to a thread")
{
    unsigned char got[BLOCK];
    struct iovec vector = { got, BLOCK };
    int fd = patterned_file(0, 64 * BLOCK), threads;

    warm(fd, 0, 64 * BLOCK);
    if (preadv2(fd, &vector, 1, 0, RWF_NOWAIT) == -1 && errno == EOPNOTSUPP)
        SKIP("this file system does not tell what is cached");
    CHECK_EQ(read_now(fd, got, BLOCK, 0), BLOCK);
    /* The library is at work now, with what threads it wants for that; no read needs another. */
    threads = thread_count();
    for (int i = 0; i < 100; i++) {
        memset(got, 0, BLOCK);
        start_read(&cbs[0], fd, got, BLOCK, (off_t)(i % 64) * BLOCK);
        CHECK_EQ(aio_error(&cbs[0]), 0);
        CHECK_EQ(aio_return(&cbs[0]), BLOCK);
        CHECK(is_pattern_at(got, BLOCK, (size_t)(i % 64) * BLOCK));
    }
    /* The end of the file is known as well. */
    start_read(&cbs[0], fd, got, BLOCK, 64 * BLOCK);
    CHECK_EQ(aio_error(&cbs[0]), 0);
    CHECK_EQ(aio_return(&cbs[0]), 0);
    CHECK_EQ(thread_count(), threads);
}

/* How many of 200 overwrites of cached pages end at once: by the system call, or by AIO. */
static int count_at_once(int fd, int with_aio)
{
    unsigned char data[BLOCK];
    struct iovec vector = { data, BLOCK };
    int count = 0;

    memset(data, 'w', BLOCK);
    for (int i = 0; i < 200; i++) {
        off_t offset = (off_t)(i % 64) * BLOCK;

        /* Brings the page and the file's times up to date. */
        CHECK_EQ(pwrite(fd, data, BLOCK, offset), BLOCK);
        if (with_aio) {
            start_write(&cbs[0], fd, data, BLOCK, offset);
            count += aio_error(&cbs[0]) == 0;
            CHECK_EQ(finish(&cbs[0]), BLOCK);
        } else {
            count += pwritev2(fd, &vector, 1, offset, RWF_NOWAIT) == BLOCK;
        }
    }
    return count;
}

DIFFERS(overwrite_of_cached_pages_is_complete_when_the_call_returns, "libc hands every write to a thread")
{
    int fd = patterned_file(0, 64 * BLOCK);
    int possible = count_at_once(fd, 0);

    if (possible < 20)
        SKIP("this file system has hardly a buffered write that never waits");
    /* Some pages are locked for writeback at any moment: not always the same. */
    CHECK(count_at_once(fd, 1) >= possible / 3);
}

/* Whatever part is cached, the whole comes, as from read(2). */
CASE(partly_cached_reads_give_the_whole)
{
    enum { SIZE = 512 * KIB };
    static const struct {
        off_t offset;
        size_t size;
    } warmed[] = { { 0, BLOCK }, { 0, SIZE / 2 }, { SIZE / 2, SIZE / 2 }, { SIZE / 4, SIZE / 2 }, { SIZE - BLOCK, BLOCK },
                   { 128 * KIB, BLOCK } };
    unsigned char *got = aligned(SIZE);
    int fd = patterned_file(0, SIZE);

    for (size_t i = 0; i < sizeof warmed / sizeof warmed[0]; i++) {
        make_cold(fd);
        warm(fd, warmed[i].offset, warmed[i].size);
        memset(got, 0, SIZE);
        CHECK_EQ(read_now(fd, got, SIZE, 0), SIZE);
        CHECK(is_pattern(got, SIZE, 6));
        /* Unaligned, and over the end. */
        make_cold(fd);
        warm(fd, warmed[i].offset, warmed[i].size);
        memset(got, 0, SIZE);
        CHECK_EQ(read_now(fd, got, SIZE, 1234), SIZE - 1234);
        CHECK(is_pattern_at(got, SIZE - 1234, 1234));
    }
}

CASE(cold_reads)
{
    enum { READS = 500, SIZE = 16 * MIB };
    unsigned char *got = aligned(READS * BLOCK);
    int fd = patterned_file(0, SIZE);

    make_cold(fd);
    for (int i = 0; i < READS; i++)
        start_read(&cbs[i], fd, got + i * BLOCK, BLOCK, (off_t)(i * 7919 % (SIZE / BLOCK)) * BLOCK);
    for (int i = 0; i < READS; i++) {
        CHECK_EQ(finish(&cbs[i]), BLOCK);
        CHECK(is_pattern_at(got + i * BLOCK, BLOCK, (size_t)(i * 7919 % (SIZE / BLOCK)) * BLOCK));
    }
    CHECK(thread_count() <= 66);
}

CASE(big_cold_read)
{
    enum { SIZE = 32 * MIB };
    unsigned char *got = aligned(SIZE);
    int fd = patterned_file(0, SIZE);

    make_cold(fd);
    CHECK_EQ(read_now(fd, got, SIZE, 0), SIZE);
    CHECK(is_pattern(got, SIZE, 6));
}

/* Cold or cached, direct or not: a read ends with the file. */
static void check_end_of_file(int flags)
{
    enum { SIZE = 3 * BLOCK + 512 };
    unsigned char *got = aligned(8 * BLOCK);
    int fd = patterned_file(0, SIZE), reader = reopen(fd, O_RDONLY | flags);

    for (int is_warm = 0; is_warm < 2; is_warm++) {
        make_cold(fd);
        if (is_warm)
            warm(fd, 0, SIZE);
        printf("%zd ", read_now(reader, got, 8 * BLOCK, 0));
        CHECK(is_pattern(got, SIZE, 6));
        printf("%zd ", read_now(reader, got, 8 * BLOCK, 3 * BLOCK));
        printf("%zd ", read_now(reader, got, BLOCK, 4 * BLOCK));
        printf("%zd\n", read_now(reader, got, BLOCK, 1LL << 30));
    }
}

CASE(buffered_reads_end_with_the_file) { check_end_of_file(0); }
CASE(direct_reads_end_with_the_file)
{
    /* Says so where there is no O_DIRECT. */
    close(temporary_file(O_DIRECT));
    check_end_of_file(O_DIRECT);
}

/* Writes beyond the end, backwards: what lies between reads as zeroes. */
static void check_extending(int flags)
{
    enum { WRITES = 64, STEP = 3 * BLOCK };
    unsigned char *data = aligned(WRITES * BLOCK), *got = aligned(STEP);
    int fd = temporary_file(flags);
    struct stat status;

    pattern(data, WRITES * BLOCK, 8);
    for (int i = WRITES - 1; i >= 0; i--)
        start_write(&cbs[i], fd, data + i * BLOCK, BLOCK, (off_t)i * STEP + 2 * BLOCK);
    for (int i = 0; i < WRITES; i++)
        CHECK_EQ(finish(&cbs[i]), BLOCK);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, WRITES * STEP);
    for (int i = 0; i < WRITES; i++) {
        CHECK_EQ(read_now(fd, got, STEP, (off_t)i * STEP), STEP);
        CHECK(is_filled(got, 2 * BLOCK, 0));
        CHECK_EQ(memcmp(got + 2 * BLOCK, data + i * BLOCK, BLOCK), 0);
    }
    /* And now the holes. */
    for (int i = 0; i < WRITES; i++)
        start_write(&cbs[i], fd, data + i * BLOCK, BLOCK, (off_t)i * STEP);
    for (int i = 0; i < WRITES; i++)
        CHECK_EQ(finish(&cbs[i]), BLOCK);
    for (int i = 0; i < WRITES; i++) {
        CHECK_EQ(read_now(fd, got, STEP, (off_t)i * STEP), STEP);
        CHECK_EQ(memcmp(got, data + i * BLOCK, BLOCK), 0);
        CHECK(is_filled(got + BLOCK, BLOCK, 0));
        CHECK_EQ(memcmp(got + 2 * BLOCK, data + i * BLOCK, BLOCK), 0);
    }
}

CASE(buffered_writes_extend_and_fill_holes) { check_extending(0); }
CASE(direct_writes_extend_and_fill_holes) { check_extending(O_DIRECT); }
CASE(synchronous_writes_extend_and_fill_holes) { check_extending(O_SYNC); }
CASE(direct_synchronous_writes_extend_and_fill_holes) { check_extending(O_DIRECT | O_DSYNC); }

CASE(big_direct_write_extends)
{
    enum { SIZE = 32 * MIB };
    unsigned char *data = aligned(SIZE), *got = aligned(SIZE);
    int fd = temporary_file(O_DIRECT);

    pattern(data, SIZE, 7);
    CHECK_EQ(write_now(fd, data, SIZE, MIB), SIZE);
    CHECK_EQ(read_now(fd, got, SIZE, MIB), SIZE);
    CHECK_EQ(memcmp(data, got, SIZE), 0);
    CHECK_EQ(read_now(fd, got, MIB, 0), MIB);
    CHECK(is_filled(got, MIB, 0));
}

CASE(direct_writes_to_preallocated_blocks)
{
    enum { WRITES = 64 };
    unsigned char *data = aligned(WRITES * BLOCK), *got = aligned(WRITES * BLOCK);
    int fd = temporary_file(O_DIRECT);

    if (fallocate(fd, 0, 0, WRITES * BLOCK) == -1)
        SKIP("this file system cannot allocate beforehand");
    pattern(data, WRITES * BLOCK, 9);
    for (int i = 0; i < WRITES; i++)
        start_write(&cbs[i], fd, data + i * BLOCK, BLOCK, (off_t)i * BLOCK);
    for (int i = 0; i < WRITES; i++)
        CHECK_EQ(finish(&cbs[i]), BLOCK);
    CHECK_EQ(pread(fd, got, WRITES * BLOCK, 0), WRITES * BLOCK);
    CHECK_EQ(memcmp(data, got, WRITES * BLOCK), 0);
}

/* What the file system thinks of crooked direct requests is its own matter: AIO must give what pread and pwrite give. */
CASE(misaligned_direct_requests_answer_as_plain_ones)
{
    static const struct {
        size_t shift, size;
        off_t offset;
    } crooked[] = { { 1, BLOCK, 0 }, { 0, 100, 0 }, { 0, BLOCK, 3 }, { 256, 1000, 1 } };
    char *data = aligned(4 * BLOCK);
    int fd = temporary_file(O_DIRECT);

    CHECK_EQ(pwrite(fd, data, 4 * BLOCK, 0), 4 * BLOCK);
    for (int i = 0; i < 4; i++) {
        for (int is_write = 0; is_write < 2; is_write++) {
            char *buffer = data + crooked[i].shift;
            ssize_t plain = is_write ? pwrite(fd, buffer, crooked[i].size, crooked[i].offset)
                                     : pread(fd, buffer, crooked[i].size, crooked[i].offset);
            int error = plain == -1 ? errno : 0;

            prepare(&cbs[0], fd, buffer, crooked[i].size, crooked[i].offset);
            CHECK_EQ(is_write ? aio_write(&cbs[0]) : aio_read(&cbs[0]), 0);
            CHECK_EQ(await(&cbs[0]), error);
            CHECK_EQ(aio_return(&cbs[0]), plain);
        }
    }
}

/* A write whose data is another file's cold mapping, and a read into such a mapping. */
CASE(buffers_that_are_mapped_files)
{
    enum { SIZE = MIB };
    int source = patterned_file(0, SIZE), target = temporary_file(0), copy = temporary_file(0);
    unsigned char *from, *to;

    CHECK_EQ(ftruncate(copy, SIZE), 0);
    make_cold(source);
    from = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, source, 0);
    to = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, copy, 0);
    CHECK(from != MAP_FAILED && to != MAP_FAILED);
    CHECK_EQ(write_now(target, from, SIZE, 0), SIZE);
    CHECK_EQ(read_now(target, to, SIZE, 0), SIZE);
    CHECK(is_pattern(to, SIZE, 6));
}

CASE(unmapped_buffers_give_EFAULT)
{
    char *data = mmap(NULL, BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = patterned_file(0, BLOCK);

    CHECK(data != MAP_FAILED);
    for (int is_warm = 0; is_warm < 2; is_warm++) {
        make_cold(fd);
        if (is_warm)
            warm(fd, 0, BLOCK);
        start_read(&cbs[0], fd, data, BLOCK, 0);
        CHECK_ENDS_WITH(&cbs[0], EFAULT);
        start_write(&cbs[0], fd, data, BLOCK, 0);
        CHECK_ENDS_WITH(&cbs[0], EFAULT);
    }
}

/* Rounds of many requests over the whole file, each block by one of them, then all of it compared. */
static void check_shuffle(int flags)
{
    enum { BLOCKS = 256, ROUNDS = 8 };
    unsigned char *data = aligned(BLOCKS * BLOCK), *got = aligned(BLOCKS * BLOCK);
    int fd = temporary_file(flags), other = reopen(fd, O_RDWR | flags);

    for (int round = 0; round < ROUNDS; round++) {
        pattern(data, BLOCKS * BLOCK, (unsigned)round + 10);
        for (int i = 0; i < BLOCKS; i++) {
            int block = (i * 97 + round * 13) % BLOCKS;
            start_write(&cbs[i], i % 2 == 0 ? fd : other, data + block * BLOCK, BLOCK, (off_t)block * BLOCK);
        }
        for (int i = 0; i < BLOCKS; i++)
            CHECK_EQ(finish(&cbs[i]), BLOCK);
        if (round % 2 == 0)
            make_cold(fd);
        for (int i = 0; i < BLOCKS; i++) {
            int block = (i * 101 + round * 7) % BLOCKS;
            start_read(&cbs[i], i % 3 == 0 ? fd : other, got + block * BLOCK, BLOCK, (off_t)block * BLOCK);
        }
        for (int i = 0; i < BLOCKS; i++)
            CHECK_EQ(finish(&cbs[i]), BLOCK);
        CHECK_EQ(memcmp(data, got, BLOCKS * BLOCK), 0);
    }
}

CASE(many_buffered_requests) { check_shuffle(0); }
CASE(many_direct_requests) { check_shuffle(O_DIRECT); }
