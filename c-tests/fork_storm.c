/*
 * fork between any two instructions of the library: threads are busy in every call while the process forks all the
 * time. Each child must be able to do its own I/O at once, must find nothing in progress that nobody will end, and
 * must not disturb its parent, whose data is compared.
 *
 * Seen to fail: on libc's implementation, as each DEFECT says; the same cases on a library whose page is not wiped in a child, and
 * on one that does not look whose request it is; children_of_a_process_whose_threads_look_at_its_objects on a
 * library that asked the dynamic loader for the list of objects at each process's first call.
 */
#include "children.h"

#include <link.h>

enum { SIZE = 4096, DEPTH = 8, MILLISECONDS = 2500 };

static int stopping;

static int stop(void)
{
    return __atomic_load_n(&stopping, __ATOMIC_RELAXED);
}

/* What the busy threads have in flight; the children look at their copy of it. */
enum { DIRECT, BUFFERED, PIPES, BATCH, SHARED };
static struct aiocb busy[SHARED][DEPTH];

static void fill_file(int file, unsigned char *memory)
{
    for (unsigned i = 0; i < DEPTH; i++)
        pattern(memory + i * SIZE, SIZE, i);
    CHECK_EQ(pwrite(file, memory, DEPTH * SIZE, 0), DEPTH * SIZE);
    CHECK_EQ(fsync(file), 0);
}

/* Reads through the kernel, told by aio_suspend. */
static void *read_direct(void *unused)
{
    unsigned char *memory = aligned(DEPTH * SIZE);
    int file = temporary_file(O_DIRECT);
    const struct aiocb *list[DEPTH];

    fill_file(file, memory);
    while (!stop()) {
        memset(memory, 0, DEPTH * SIZE);
        for (int i = 0; i < DEPTH; i++) {
            prepare(&busy[DIRECT][i], file, memory + i * SIZE, SIZE, i * SIZE);
            list[i] = &busy[DIRECT][i];
            CHECK_EQ(aio_read(&busy[DIRECT][i]), 0);
        }
        for (int left = DEPTH; left > 0;) {
            CHECK_EQ(aio_suspend(list, DEPTH, NULL), 0);
            for (unsigned i = 0; i < DEPTH; i++) {
                if (list[i] == NULL || aio_error(list[i]) == EINPROGRESS)
                    continue;
                CHECK_EQ(aio_error(list[i]), 0);
                CHECK_EQ(aio_return(&busy[DIRECT][i]), SIZE);
                CHECK(is_pattern(memory + i * SIZE, SIZE, i));
                list[i] = NULL;
                left--;
            }
        }
    }
    return unused;
}

/* Writes that the library's own threads carry out, told by aio_error, with a barrier after each round. */
static void *write_buffered(void *unused)
{
    unsigned char *memory = aligned(DEPTH * SIZE), *back = aligned(DEPTH * SIZE);
    int file = temporary_file(0);
    struct aiocb barrier;

    for (unsigned round = 0; !stop(); round++) {
        pattern(memory, DEPTH * SIZE, round);
        for (int i = 0; i < DEPTH; i++) {
            prepare(&busy[BUFFERED][i], file, memory + i * SIZE, SIZE, i * SIZE);
            CHECK_EQ(aio_write(&busy[BUFFERED][i]), 0);
        }
        prepare(&barrier, file, NULL, 0, 0);
        CHECK_EQ(aio_fsync(O_DSYNC, &barrier), 0);
        CHECK_EQ(finish(&barrier), 0);
        for (int i = 0; i < DEPTH; i++)
            CHECK_EQ(finish(&busy[BUFFERED][i]), SIZE);
        CHECK_EQ(pread(file, back, DEPTH * SIZE, 0), DEPTH * SIZE);
        CHECK_EQ(memcmp(memory, back, DEPTH * SIZE), 0);
    }
    return unused;
}

/* Pipe reads that have to wait; every other one is cancelled where that can be done. */
static void *read_pipes(void *unused)
{
    char bytes[DEPTH];
    int ends[DEPTH][2];

    for (int i = 0; i < DEPTH; i++)
        CHECK_EQ(pipe(ends[i]), 0);
    while (!stop()) {
        for (int i = 0; i < DEPTH; i++) {
            prepare(&busy[PIPES][i], ends[i][0], &bytes[i], 1, 0);
            CHECK_EQ(aio_read(&busy[PIPES][i]), 0);
        }
        for (int i = 0; i < DEPTH; i++) {
            if (i % 2 != 0 && aio_cancel(ends[i][0], &busy[PIPES][i]) == AIO_CANCELED) {
                CHECK_EQ(aio_error(&busy[PIPES][i]), ECANCELED);
                continue;
            }
            CHECK_EQ(write(ends[i][1], "p", 1), 1);
            CHECK_EQ(finish(&busy[PIPES][i]), 1);
            CHECK_EQ(bytes[i], 'p');
        }
    }
    return unused;
}

static void count_one(union sigval value)
{
    __atomic_add_fetch((int *)value.sival_ptr, 1, __ATOMIC_SEQ_CST);
}

/* Batches, waited for and not, the latter told by a callback. */
static void *read_batches(void *unused)
{
    unsigned char *memory = aligned(DEPTH * SIZE);
    int file = temporary_file(0), callbacks = 0;
    struct sigevent event = { .sigev_notify = SIGEV_THREAD };
    struct aiocb *list[DEPTH];

    event.sigev_notify_function = count_one;
    event.sigev_value.sival_ptr = &callbacks;
    fill_file(file, memory);
    for (int round = 1; !stop(); round++) {
        for (int i = 0; i < DEPTH; i++) {
            prepare(&busy[BATCH][i], file, memory + i * SIZE, SIZE, i * SIZE);
            busy[BATCH][i].aio_lio_opcode = LIO_READ;
            list[i] = &busy[BATCH][i];
        }
        CHECK_EQ(lio_listio(LIO_WAIT, list, DEPTH, NULL), 0);
        CHECK_EQ(lio_listio(LIO_NOWAIT, list, DEPTH, &event), 0);
        for (unsigned i = 0; i < DEPTH; i++) {
            CHECK_EQ(finish(&busy[BATCH][i]), SIZE);
            CHECK(is_pattern(memory + i * SIZE, SIZE, i));
        }
        WAIT_UNTIL(__atomic_load_n(&callbacks, __ATOMIC_SEQ_CST) == round);
    }
    return unused;
}

/* The parent's requests have ended here, one way or the other, and nobody waits for them. */
static void look_around(void *levels)
{
    int left = *(int *)levels;
    const struct aiocb *list[DEPTH];

    for (int of = 0; of < SHARED; of++) {
        for (int i = 0; i < DEPTH; i++) {
            list[i] = &busy[of][i];
            if (aio_error(list[i]) == EINPROGRESS)
                FAIL("request %d of kind %d is in progress in the child", i, of);
        }
        CHECK_EQ(aio_suspend(list, DEPTH, NULL), 0);
    }
    use_everything();
    if (left > 0) {
        left--;
        in_child(look_around, &left);
    }
}

static void *(*const bodies[])(void *) = { read_direct, write_buffered, read_pipes, read_batches };
enum { BODIES = sizeof bodies / sizeof bodies[0] };

static void storm(void (*child)(void *))
{
    pthread_t threads[BODIES];
    double end = now() + MILLISECONDS / 1000.0;

    for (int i = 0; i < BODIES; i++)
        threads[i] = start_thread(bodies[i], NULL);
    nap(20);
    for (int forks = 0; now() < end; forks++) {
        int levels = forks % 8 == 0;

        in_child(child, &levels);
    }
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < BODIES; i++)
        join_thread(threads[i]);
    use_everything();
}

static void leave_at_once(void *unused)
{
    (void)unused;
}

CASE(children_that_leave_at_once)
{
    storm(leave_at_once);
}

DEFECT(children_that_do_their_own_io, "what was in flight stays in progress in the child for ever")
{
    storm(look_around);
}

/* The thread that forks is one that has requests of its own, and goes on with them. */
static void *fork_and_read(void *unused)
{
    int ends[2], levels = 0;
    struct aiocb cb;
    char byte;

    double end = now() + 5;
    for (int round = 0; round < 60 && now() < end; round++) {
        pending_read(&cb, ends, &byte, 1);
        CHECK_EQ(aio_read(&cb), 0);
        in_child(look_around, &levels);
        CHECK_EQ(write(ends[1], "f", 1), 1);
        CHECK_EQ(finish(&cb), 1);
        close(ends[0]);
        close(ends[1]);
    }
    return unused;
}

DEFECT(several_threads_fork_at_once, "what was in flight stays in progress in the child for ever")
{
    pthread_t threads[4];
    pthread_t other = start_thread(read_direct, NULL);

    for (int i = 0; i < 4; i++)
        threads[i] = start_thread(fork_and_read, NULL);
    for (int i = 0; i < 4; i++)
        join_thread(threads[i]);
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    join_thread(other);
}

/* _Fork runs no handler of pthread_atfork. Its child may call what is async-signal-safe: these three are. */
static void suspend_in_child(void)
{
    const struct timespec limit = { 0, 10 * 1000 * 1000 };
    const struct aiocb *list[DEPTH];
    int in_progress = 0;

    for (int i = 0; i < DEPTH; i++) {
        list[i] = &busy[PIPES][i];
        in_progress += aio_error(list[i]) == EINPROGRESS;
    }
    if (in_progress == 0)
        CHECK_EQ(aio_suspend(list, DEPTH, &limit), 0);
    else if (aio_suspend(list, DEPTH, &limit) == -1)
        CHECK_EQ(errno, EAGAIN);
}

CASE(a_child_of_the_bare_fork_is_not_stuck)
{
    char bytes[DEPTH];
    int ends[DEPTH][2];

    for (int i = 0; i < DEPTH; i++) {
        pending_read(&busy[PIPES][i], ends[i], &bytes[i], 1);
        CHECK_EQ(aio_read(&busy[PIPES][i]), 0);
    }
    pid_t child = _Fork();
    CHECK(child >= 0);
    if (child == 0) {
        suspend_in_child();
        _exit(0);
    }
    CHECK_EXITS(child, 0);
    for (int i = 0; i < DEPTH; i++) {
        CHECK_EQ(write(ends[i][1], "b", 1), 1);
        CHECK_EQ(finish(&busy[PIPES][i]), 1);
    }
}

static int look_at_object(struct dl_phdr_info *object, size_t size, void *unused)
{
    (void)object, (void)size, (void)unused;
    return 0;
}

/* As an unwinder does for each exception. glibc has a lock for it that a forked child may find closed for ever. */
static void *look_at_objects(void *unused)
{
    while (!stop())
        dl_iterate_phdr(look_at_object, NULL);
    return unused;
}

static void use_in_child(void *unused)
{
    (void)unused;
    use_everything();
}

CASE(children_of_a_process_whose_threads_look_at_its_objects)
{
    pthread_t other = start_thread(look_at_objects, NULL);

    for (int i = 0; i < 60; i++)
        in_child(use_in_child, NULL);
    __atomic_store_n(&stopping, 1, __ATOMIC_RELAXED);
    join_thread(other);
}
