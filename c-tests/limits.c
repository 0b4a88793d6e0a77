// timeout: 40
/*
 * Resource limits: where something runs out, requests get the right result or are refused with EAGAIN, notifications come
 * late but come, and nothing hangs.
 *
 * Seen to fail: on libc's implementation, as each DEFECT says. (signal_queue.c: pending signals.)
 */
#include "children.h"
#include "resources.h"
#include <sys/mman.h>

enum { SIZE = 4096, DEPTH = 64 };

static int file, direct, ends[2];
static unsigned char *memory;

/* Opened before the limits are set, and before the user changes. */
static void open_all(void)
{
    memory = aligned(DEPTH * SIZE);
    direct = temporary_file(O_DIRECT);
    file = reopen(direct, O_RDWR);
    for (unsigned i = 0; i < DEPTH; i++)
        pattern(memory + i * SIZE, SIZE, i);
    CHECK_EQ(pwrite(file, memory, DEPTH * SIZE, 0), DEPTH * SIZE);
    CHECK_EQ(fsync(file), 0);
    CHECK_EQ(pipe(ends), 0);
}

/*
 * Asks for all kinds of requests. Each may be refused with EAGAIN, as the standard has it for a lack of resources; what is
 * accepted must end, and well. Gives how many were accepted.
 */
static int try_everything(void)
{
    struct aiocb requests[DEPTH], waiting;
    int accepted = 0, started[DEPTH];
    char byte = 0;

    for (int i = 0; i < DEPTH; i++) {
        memset(memory + i * SIZE, 0, SIZE);
        prepare(&requests[i], i % 3 == 0 ? direct : file, memory + i * SIZE, SIZE, i * SIZE);
        if (i % 3 == 2)
            pattern(memory + i * SIZE, SIZE, (unsigned)i);
        int result = i % 3 == 2 ? aio_write(&requests[i]) : aio_read(&requests[i]);
        started[i] = result == 0;
        accepted += started[i];
        if (result != 0)
            CHECK_EQ(errno, EAGAIN);
    }
    prepare(&waiting, ends[0], &byte, 1, 0);
    int waits = aio_read(&waiting) == 0;
    if (!waits)
        CHECK_EQ(errno, EAGAIN);
    for (int i = 0; i < DEPTH; i++) {
        if (!started[i])
            continue;
        CHECK_EQ(finish(&requests[i]), SIZE);
        CHECK(is_pattern(memory + i * SIZE, SIZE, (unsigned)i));
    }
    if (waits) {
        CHECK_EQ(write(ends[1], "n", 1), 1);
        CHECK_EQ(finish(&waiting), 1);
        CHECK_EQ(byte, 'n');
    }
    return accepted;
}

/* ---- Threads -------------------------------------------------------------------------------------- */

static void run_without_threads(void *use_before)
{
    open_all();
    if (use_before != NULL)
        use_everything();
    become_nobody();
    limit(RLIMIT_NPROC, 0);
    try_everything();
    /* What was refused for a lack of threads works when there are some. */
    limit(RLIMIT_NPROC, 10000);
    CHECK_EQ(try_everything(), DEPTH);
}

CASE(without_threads_from_the_start)
{
    if (geteuid() != 0)
        SKIP("needs root");
    in_child(run_without_threads, NULL);
}

static int callbacks;

static void count_callback(union sigval value)
{
    (void)value;
    __atomic_add_fetch(&callbacks, 1, __ATOMIC_SEQ_CST);
}

/* The library runs already; the threads that callbacks want are not to be had for a while. */
static void delay_callbacks(void *unused)
{
    struct aiocb reads[8];
    int accepted = 0;

    (void)unused;
    open_all();
    CHECK_EQ(read_now(direct, memory, SIZE, 0), SIZE);
    become_nobody();
    limit(RLIMIT_NPROC, 0);
    for (int i = 0; i < 8; i++) {
        prepare(&reads[i], direct, memory + i * SIZE, SIZE, i * SIZE);
        reads[i].aio_sigevent.sigev_notify = SIGEV_THREAD;
        reads[i].aio_sigevent.sigev_notify_function = count_callback;
        if (aio_read(&reads[i]) == -1) {
            CHECK_EQ(errno, EAGAIN);
            continue;
        }
        accepted++;
        CHECK_EQ(finish(&reads[i]), SIZE);
    }
    nap(20);
    limit(RLIMIT_NPROC, 10000);
    WAIT_UNTIL(__atomic_load_n(&callbacks, __ATOMIC_SEQ_CST) == accepted);
    nap(20);
    CHECK_EQ(callbacks, accepted);
    CHECK(accepted > 0);
}

DEFECT(callbacks_wait_for_threads_to_be_had, "a callback for which there is no thread is lost")
{
    if (geteuid() != 0)
        SKIP("needs root");
    in_child(delay_callbacks, NULL);
}

/* Threads get stacks of the size of this limit: the smallest must do for the library's, and for callbacks. */
CASE(smallest_stacks)
{
    if (getenv("AIO_TEST_SECOND_LIFE") == NULL) {
        limit(RLIMIT_STACK, 64 * 1024);
        CHECK_EQ(setenv("AIO_TEST_SECOND_LIFE", "1", 1), 0);
        execl("/proc/self/exe", "second life", "smallest_stacks", (char *)NULL);
        FAIL("exec: errno %d", errno);
    }
    struct aiocb cb;

    open_all();
    CHECK_EQ(try_everything(), DEPTH);
    prepare(&cb, direct, memory, SIZE, 0);
    cb.aio_sigevent.sigev_notify = SIGEV_THREAD;
    cb.aio_sigevent.sigev_notify_function = count_callback;
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(finish(&cb), SIZE);
    WAIT_UNTIL(__atomic_load_n(&callbacks, __ATOMIC_SEQ_CST) == 1);
}

/* ---- Memory --------------------------------------------------------------------------------------- */

static void run_without_memory(void *bytes)
{
    open_all();
    limit(RLIMIT_AS, address_space() + *(rlim_t *)bytes);
    try_everything();
    limit(RLIMIT_AS, RLIM_INFINITY);
    CHECK_EQ(try_everything(), DEPTH);
}

static void run_out_of_memory(void *bytes)
{
    open_all();
    use_everything();
    limit(RLIMIT_AS, address_space() + *(rlim_t *)bytes);
    try_everything();
    limit(RLIMIT_AS, RLIM_INFINITY);
    CHECK_EQ(try_everything(), DEPTH);
}

static const rlim_t little[] = { 0, 4096, 16384, 65536, 262144, 1 << 20, 9 << 20 };

CASE(without_memory_from_the_start)
{
    for (size_t i = 0; i < sizeof little / sizeof little[0]; i++)
        in_child(run_without_memory, (void *)&little[i]);
}

DEFECT(memory_runs_out, "a request hangs when there is no memory for a thread")
{
    for (size_t i = 0; i < sizeof little / sizeof little[0]; i++)
        in_child(run_out_of_memory, (void *)&little[i]);
}

/* ---- Descriptors ---------------------------------------------------------------------------------- */

static void use_up_descriptors(void)
{
    limit(RLIMIT_NOFILE, 64);
    while (dup(0) >= 0)
        continue;
    CHECK_EQ(errno, EMFILE);
}

CASE(no_descriptor_is_free_from_the_start)
{
    open_all();
    use_up_descriptors();
    CHECK_EQ(try_everything(), DEPTH);
}

static void *wait_for(void *cb)
{
    const struct aiocb *list[1] = { cb };

    CHECK_EQ(aio_suspend(list, 1, NULL), 0);
    return NULL;
}

static void *cancel_it(void *argument)
{
    struct aiocb *cb = argument;

    CHECK_EQ(aio_cancel(cb->aio_fildes, cb), AIO_CANCELED);
    return NULL;
}

/* One waiter leads in the kernel's ring while the request of another ends without it: it must be woken for that. */
static void cancel_under_waiters(void)
{
    struct aiocb reads[4];
    pthread_t threads[4];
    int pipes[4][2];
    char bytes[4];

    for (int i = 0; i < 4; i++)
        CHECK_EQ(pipe(pipes[i]), 0);
    use_up_descriptors();
    for (int i = 0; i < 4; i++) {
        prepare(&reads[i], pipes[i][0], &bytes[i], 1, 0);
        CHECK_EQ(aio_read(&reads[i]), 0);
        threads[i] = start_thread(wait_for, &reads[i]);
    }
    nap(20);
    for (int i = 0; i < 4; i++) {
        join_thread(start_thread(cancel_it, &reads[i]));
        join_thread(threads[i]);
        CHECK_EQ(aio_error(&reads[i]), ECANCELED);
    }
}

DEFECT(waiters_wake_when_no_descriptor_is_free, "a request that waits for data cannot be cancelled")
{
    open_all();
    cancel_under_waiters();
}

/*
 * No further descriptor is allowed, also to a thread with a table of its own: what is open goes on. Seen to fail, with ECANCELED,
 * when a helper that may not have a copy of the descriptor says that it is closed.
 */
CASE(no_descriptor_is_allowed_any_more)
{
    char name[] = "no_descriptor_XXXXXX", byte;

    open_all();
    CHECK_EQ(try_everything(), DEPTH);
    /* Named: the library opens such ones anew, where it can. */
    close(mkstemp(name));
    unlink(name);
    CHECK_EQ(mkfifo(name, 0600), 0);
    int fifo = open(name, O_RDWR | O_NONBLOCK);
    unlink(name);
    CHECK_EQ(write_now(fifo, "ab", 2, 0), 2);
    CHECK_EQ(read_now(fifo, &byte, 1, 0), 1);
    limit(RLIMIT_NOFILE, 0);
    for (int i = 0; i < 20; i++) {
        /* Beyond the end, which is not done in the call. */
        CHECK_EQ(write_now(file, memory, SIZE, (off_t)(DEPTH + i) * SIZE), SIZE);
        CHECK_EQ(write_now(direct, memory, SIZE, (off_t)(DEPTH + 20 + i) * SIZE), SIZE);
    }
    CHECK_EQ(try_everything(), DEPTH);
    CHECK_EQ(read_now(fifo, &byte, 1, 0), 1);
    CHECK_EQ(byte, 'b');
}

/* A daemon closes what it does not know, and takes the numbers for files of its own. */
CASE(every_descriptor_is_closed)
{
    enum { FILES = 40 };
    int files[FILES];
    struct aiocb pending[4];
    int pipes[4][2];
    char bytes[4];

    open_all();
    CHECK_EQ(try_everything(), DEPTH);
    for (int i = 0; i < 4; i++) {
        pending_read(&pending[i], pipes[i], &bytes[i], 1);
        CHECK_EQ(aio_read(&pending[i]), 0);
    }
    CHECK_EQ(close_range(3, ~0U, 0), 0);
    for (int i = 0; i < FILES; i++)
        files[i] = temporary_file(0);
    CHECK_EQ(pipe(ends), 0);
    direct = files[0];
    file = files[1];
    memset(memory, 0, DEPTH * SIZE);
    for (unsigned i = 0; i < DEPTH; i++)
        pattern(memory + i * SIZE, SIZE, i);
    CHECK_EQ(pwrite(direct, memory, DEPTH * SIZE, 0), DEPTH * SIZE);
    CHECK_EQ(pwrite(file, memory, DEPTH * SIZE, 0), DEPTH * SIZE);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(try_everything(), DEPTH);
    use_everything();
    for (int i = 2; i < FILES; i++) {
        struct stat status;

        CHECK_EQ(fstat(files[i], &status), 0);
        CHECK_EQ(status.st_size, 0);
        CHECK_EQ(lseek(files[i], 0, SEEK_CUR), 0);
    }
}

/* ---- Size of a file ------------------------------------------------------------------------------- */

static void write_too_far(void *unused)
{
    struct aiocb cbs[4];
    const struct aiocb *list[1];

    (void)unused;
    open_all();
    CHECK_EQ(ftruncate(file, 2 * SIZE), 0);
    limit(RLIMIT_FSIZE, 3 * SIZE);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 4; i++) {
            prepare(&cbs[i], i % 2 == 0 ? file : direct, memory, SIZE, (2 + i) * SIZE);
            CHECK_EQ(aio_write(&cbs[i]), 0);
        }
        for (int i = 0; i < 4; i++) {
            list[0] = &cbs[i];
            while (aio_suspend(list, 1, NULL) == -1)
                CHECK_EQ(errno, EINTR);
            CHECK_EQ(aio_error(&cbs[i]), i == 0 ? 0 : EFBIG);
            CHECK_EQ(aio_return(&cbs[i]), i == 0 ? SIZE : -1);
        }
        struct aiocb *batch[2] = { &cbs[2], &cbs[3] };
        prepare(&cbs[2], file, memory, SIZE, 4 * SIZE);
        prepare(&cbs[3], direct, memory, SIZE, 8 * SIZE);
        cbs[2].aio_lio_opcode = cbs[3].aio_lio_opcode = LIO_WRITE;
        CHECK_FAILS(lio_listio(LIO_WAIT, batch, 2, NULL), EIO);
        CHECK_EQ(aio_error(&cbs[2]), EFBIG);
        CHECK_EQ(aio_error(&cbs[3]), EFBIG);
    }
}

/* SIGXFSZ goes to the thread that writes: none that would die of it, as no thread of the program asked to write. */
CASE(a_file_over_its_limit_kills_nobody)
{
    in_child(write_too_far, NULL);
}

/* ---- Many processes ------------------------------------------------------------------------------- */

static void hold_and_use(void *ready)
{
    struct aiocb waiting;
    int mine[2], *gate = ready;
    char byte;

    use_everything();
    pending_read(&waiting, mine, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    /* All of them are there before the first leaves. */
    CHECK_EQ(write(gate[1], "r", 1), 1);
    CHECK_EQ(read(gate[2], &byte, 1), 1);
    use_everything();
    CHECK_EQ(write(mine[1], "w", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
}

CASE(a_hundred_processes_at_once)
{
    enum { PROCESSES = 100 };
    pid_t children[PROCESSES];
    int here[2], go[2];
    char byte;

    CHECK_EQ(pipe(here), 0);
    CHECK_EQ(pipe(go), 0);
    int gate[3] = { here[0], here[1], go[0] };
    for (int i = 0; i < PROCESSES; i++)
        children[i] = start_child(hold_and_use, gate);
    for (int i = 0; i < PROCESSES; i++) {
        struct pollfd ready = { .fd = here[0], .events = POLLIN };

        CHECK_EQ(poll(&ready, 1, (int)(DEADLINE_SECONDS * 1000)), 1);
        CHECK_EQ(read(here[0], &byte, 1), 1);
    }
    for (int i = 0; i < PROCESSES; i++)
        CHECK_EQ(write(go[1], "g", 1), 1);
    for (int i = 0; i < PROCESSES; i++)
        CHECK_EXITS(children[i], 0);
}
