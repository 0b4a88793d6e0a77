/*
 * More requests in flight than any kernel context has room for: none is refused, none is lost, none waits forever, and each
 * costs little memory and the same time as the first.
 *
 * Seen to fail: with EAGAIN for what finds no room in the ring, hundred_thousand_direct_reads,
 * hundred_thousand_requests_of_every_kind and busy_direct_file_leaves_others_their_turn; without the epoll instance for
 * polls that find none, hundred_thousand_requests_of_every_kind.
 */
// timeout: 60
#include "tools/descriptors.h"

#include <sys/mman.h>
#include <sys/socket.h>

enum { MANY = 100000 };

static struct aiocb cbs[MANY];
static int numbers[MANY];

/* Memory of this process that is really there, in bytes. */
static long resident(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long size, pages;

    CHECK(file != NULL);
    CHECK_EQ(fscanf(file, "%ld %ld", &size, &pages), 2);
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

/* A file whose every int is its own index. */
static int numbered_file(int flags)
{
    static int block[MANY];
    int fd = temporary_file(flags);

    for (int i = 0; i < MANY; i++)
        block[i] = i;
    feed(fd, block, sizeof block);
    return fd;
}

/* Spread over pipes: the order of the calls holds on each, whatever their number. */
CASE(hundred_thousand_reads_on_many_pipes)
{
    enum { PIPES = 100 };
    int ends[PIPES][2];

    for (int i = 0; i < PIPES; i++)
        CHECK_EQ(pipe(ends[i]), 0);
    for (int i = 0; i < MANY; i++)
        start_read(&cbs[i], ends[i % PIPES][0], &numbers[i], sizeof numbers[i], 0);
    for (int i = 0; i < MANY; i++)
        feed(ends[i % PIPES][1], &i, sizeof i);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(finish(&cbs[i]), sizeof numbers[i]);
        CHECK_EQ(numbers[i], i);
    }
}

#define LONG_QUEUE "each call walks the whole queue of its descriptor"

DEFECT(hundred_thousand_reads_on_one_pipe, LONG_QUEUE)
{
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < MANY; i++)
        start_read(&cbs[i], ends[0], &numbers[i], sizeof numbers[i], 0);
    for (int i = 0; i < MANY; i++)
        feed(ends[1], &i, sizeof i);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(finish(&cbs[i]), sizeof numbers[i]);
        CHECK_EQ(numbers[i], i);
    }
}

DEFECT(hundred_thousand_waiting_reads_of_one_pipe_are_cancelled, LONG_QUEUE)
{
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < MANY; i++)
        start_read(&cbs[i], ends[0], &numbers[i], sizeof numbers[i], 0);
    CHECK_EQ(aio_cancel(ends[0], NULL), AIO_CANCELED);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(aio_error(&cbs[i]), ECANCELED);
}

/* A cold file of direct blocks: nothing of it can be done in the call. */
CASE(hundred_thousand_direct_reads)
{
    enum { BLOCK = 4096, BLOCKS = 256, DEPTH = 512 };
    char *blocks = aligned(BLOCK * BLOCKS), *got = aligned((size_t)BLOCK * DEPTH);
    int fd = temporary_file(O_DIRECT);

    for (int i = 0; i < BLOCKS; i++)
        memset(blocks + i * BLOCK, i, BLOCK);
    CHECK_EQ(write(fd, blocks, BLOCK * BLOCKS), BLOCK * BLOCKS);
    /* Several descriptors: libc's own queue for one would take minutes. */
    int fds[100];
    for (int i = 0; i < 100; i++)
        CHECK((fds[i] = dup(fd)) >= 0);
    for (int i = 0; i < MANY; i++) {
        prepare(&cbs[i], fds[i % 100], got + (size_t)(i % DEPTH) * BLOCK, 512, (off_t)(i % BLOCKS) * BLOCK);
        CHECK_EQ(aio_read(&cbs[i]), 0);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&cbs[i]), 512);
    /* Reads that share a buffer read the same block into it. */
    for (int i = 0; i < DEPTH; i++)
        CHECK(is_filled(got + (size_t)i * BLOCK, 512, i % BLOCKS));
}

/*
 * What the kernel does only at once, as it has no waiting for memory, behind a full ring. Seen to fail, with EOPNOTSUPP, when
 * a request that has waited for room is asked for without waiting, and what the kernel says to that is taken for its end.
 */
CASE(direct_requests_of_a_file_in_memory_behind_many_others)
{
    enum { READS = 1500, SIZE = 128 << 10, BLOCKS = 64, OTHERS = 20, BLOCK = 4096 };
    char *buffer = aligned(SIZE), *blocks = aligned(OTHERS * BLOCK);
    static struct aiocb others[OTHERS];
    int fd = temporary_file(O_DIRECT), memory = memfd_create("behind", 0);
    char name[64];

    CHECK(memory >= 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", memory);
    int direct = open(name, O_RDWR | O_DIRECT);
    if (direct == -1 && errno == EINVAL)
        SKIP("files in memory have no O_DIRECT here");
    CHECK(direct >= 0);
    for (int i = 0; i < BLOCKS; i++)
        CHECK_EQ(pwrite(fd, buffer, SIZE, (off_t)i * SIZE), SIZE);
    memset(blocks, 'm', OTHERS * BLOCK);
    CHECK_EQ(pwrite(memory, blocks, OTHERS * BLOCK, 0), OTHERS * BLOCK);
    for (int i = 0; i < OTHERS; i++)
        memset(blocks + i * BLOCK, i % 2 ? 'w' : 'r', BLOCK);
    for (int i = 0; i < READS; i++)
        start_read(&cbs[i], fd, buffer, SIZE, (off_t)(i % BLOCKS) * SIZE);
    for (int i = 0; i < OTHERS; i++) {
        prepare(&others[i], direct, blocks + i * BLOCK, BLOCK, (off_t)i * BLOCK);
        CHECK_EQ(i % 2 ? aio_write(&others[i]) : aio_read(&others[i]), 0);
    }
    for (int i = 0; i < OTHERS; i++)
        CHECK_EQ(finish(&others[i]), BLOCK);
    for (int i = 0; i < OTHERS; i++) {
        CHECK(is_filled(blocks + i * BLOCK, BLOCK, i % 2 ? 'w' : 'm'));
        CHECK_EQ(pread(memory, blocks, BLOCK, (off_t)i * BLOCK), BLOCK);
        CHECK(is_filled(blocks, BLOCK, i % 2 ? 'w' : 'm'));
    }
    for (int i = 0; i < READS; i++)
        CHECK_EQ(finish(&cbs[i]), SIZE);
}

CASE(hundred_thousand_writes_and_reads_of_files)
{
    enum { FILES = 50 };
    static int values[MANY];
    int fds[FILES];

    for (int i = 0; i < FILES; i++)
        fds[i] = temporary_file(0);
    for (int i = 0; i < MANY; i++) {
        values[i] = i;
        start_write(&cbs[i], fds[i % FILES], &values[i], sizeof values[i], (off_t)(i / FILES) * 4);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&cbs[i]), sizeof values[i]);
    for (int i = 0; i < FILES; i++)
        posix_fadvise(fds[i], 0, 0, POSIX_FADV_DONTNEED);
    for (int i = 0; i < MANY; i++)
        start_read(&cbs[i], fds[i % FILES], &numbers[i], sizeof numbers[i], (off_t)(i / FILES) * 4);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(finish(&cbs[i]), sizeof numbers[i]);
        CHECK_EQ(numbers[i], i);
    }
}

/* Everything at once. The waiting reads outnumber the context many times over, and the files must get through. */
DEFECT(hundred_thousand_requests_of_every_kind, "thirty waiting reads hold up everything else")
{
    enum { PIPES = 500, SOCKETS = 500 };
    static int pipes[PIPES][2], sockets[SOCKETS][2];
    int fd = numbered_file(0), direct = reopen(fd, O_RDWR | O_DIRECT), i = 0;
    int waiting = MANY / 2;
    char *block = aligned(4096);

    for (int j = 0; j < PIPES; j++)
        CHECK_EQ(pipe(pipes[j]), 0);
    for (int j = 0; j < SOCKETS; j++)
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets[j]), 0);
    for (; i < waiting; i++)
        start_read(&cbs[i], i % 2 == 0 ? pipes[i / 2 % PIPES][0] : sockets[i / 2 % SOCKETS][0], &numbers[i], 4, 0);
    for (; i < MANY - 1000; i++)
        start_read(&cbs[i], fd, &numbers[i], 4, (off_t)i * 4);
    for (; i < MANY; i++)
        start_read(&cbs[i], direct, block, 4096, 0);
    for (i = waiting; i < MANY - 1000; i++) {
        CHECK_EQ(finish(&cbs[i]), 4);
        CHECK_EQ(numbers[i], i);
    }
    for (; i < MANY; i++)
        CHECK_EQ(finish(&cbs[i]), 4096);
    for (i = 0; i < waiting; i++)
        feed(i % 2 == 0 ? pipes[i / 2 % PIPES][1] : sockets[i / 2 % SOCKETS][1], &i, 4);
    for (i = 0; i < waiting; i++) {
        CHECK_EQ(finish(&cbs[i]), 4);
        CHECK_EQ(numbers[i], i);
    }
}

/* At most 256 bytes for each request beside the caller's aiocb. */
CASE(waiting_request_costs_little_memory)
{
    enum { PIPES = 200 };
    int ends[PIPES][2], fd = numbered_file(0);

    /* What there is once only, and what the caller's own memory takes, is not counted. */
    memset(cbs, 1, sizeof cbs);
    memset(numbers, 1, sizeof numbers);
    CHECK_EQ(read_now(fd, &numbers[0], 4, 0), 4);
    for (int i = 0; i < PIPES; i++)
        CHECK_EQ(pipe(ends[i]), 0);
    long before = resident();
    for (int i = 0; i < MANY; i++)
        start_read(&cbs[i], ends[i % PIPES][0], &numbers[i], sizeof numbers[i], 0);
    long growth = resident() - before;
    /* The queues and tables around the requests, and the threads, have a fixed allowance. */
    if (growth > 256L * MANY + (4 << 20))
        FAIL("%ld bytes for each request", growth / MANY);
    for (int i = 0; i < MANY; i++)
        feed(ends[i % PIPES][1], &i, sizeof i);
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&cbs[i]), sizeof numbers[i]);
}

/* A file under steady load, with its queue always full, must not keep others from their turn. */
static volatile int is_stopped;

static void *keep_busy(void *argument)
{
    enum { DEPTH = 1000, BLOCK = 4096 };
    int fd = *(int *)argument;
    struct aiocb *own = calloc(DEPTH, sizeof *own);
    char *blocks = aligned((size_t)DEPTH * BLOCK);

    CHECK(own != NULL);
    for (int i = 0; i < DEPTH; i++)
        start_read(&own[i], fd, blocks + (size_t)i * BLOCK, BLOCK, (off_t)(i % 64) * BLOCK);
    for (int i = 0; !is_stopped; i = (i + 1) % DEPTH) {
        CHECK_EQ(finish(&own[i]), BLOCK);
        start_read(&own[i], fd, blocks + (size_t)i * BLOCK, BLOCK, (off_t)(i % 64) * BLOCK);
    }
    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(finish(&own[i]), BLOCK);
    return NULL;
}

static void check_others_get_their_turn(int flags)
{
    int fd = temporary_file(flags), other = temporary_file(flags), ends[2];
    char *block = aligned(64 * 4096);
    pthread_t threads[2];

    CHECK_EQ(write(fd, block, 64 * 4096), 64 * 4096);
    for (int i = 0; i < 2; i++)
        threads[i] = start_thread(keep_busy, &fd);
    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < 50; i++) {
        struct aiocb barrier, waiting;
        char byte;

        start_read(&waiting, ends[0], &byte, 1, 0);
        CHECK_EQ(write_now(other, block, 4096, (off_t)i * 4096), 4096);
        CHECK_EQ(read_now(other, block, 4096, (off_t)i * 4096), 4096);
        prepare(&barrier, other, NULL, 0, 0);
        CHECK_EQ(aio_fsync(O_DSYNC, &barrier), 0);
        CHECK_EQ(finish(&barrier), 0);
        feed(ends[1], "x", 1);
        CHECK_EQ(finish(&waiting), 1);
    }
    is_stopped = 1;
    for (int i = 0; i < 2; i++)
        join_thread(threads[i]);
}

CASE(busy_direct_file_leaves_others_their_turn) { check_others_get_their_turn(O_DIRECT); }
CASE(busy_buffered_file_leaves_others_their_turn) { check_others_get_their_turn(0); }
