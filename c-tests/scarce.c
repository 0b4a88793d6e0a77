// timeout: 60
/*
 * What a process has too little of: a call that is refused with EAGAIN has done nothing, one that is not refused ends though
 * nothing more can be had, and asking again and again uses nothing up. (limits.c: every limit by itself.)
 *
 * Seen to fail, in this order: on a library that took a slot for the notification after the transfer; that left the aiocbs of a
 * list that was refused as a whole as they were; that took a thread which is being started for one that is there; that kept
 * the context when the rest of the start failed; that aborted for want of memory for a callback.
 */
#include "children.h"
#include "resources.h"

#include <sys/mman.h>

enum { SIZE = 4096 };

/* A user of whom there is nothing but this process, so that the limit on threads is on its own. */
static void become_somebody(void)
{
    unsigned user = 200000 + (unsigned)getpid() % 100000;

    if (geteuid() != 0)
        SKIP("needs root");
    CHECK_EQ(setgid(user), 0);
    CHECK_EQ(setuid(user), 0);
}

static void ignore_value(union sigval value)
{
    (void)value;
}

/* ---- Refused is not done -------------------------------------------------------------------------- */

/* Files in memory take a write in the call itself. */
static int memory_file(int flags)
{
    int file = memfd_create("scarce", MFD_CLOEXEC);

    CHECK(file >= 0);
    return reopen(file, O_RDWR | flags);
}

static void append_without_threads(void *unused)
{
    int file = memory_file(O_APPEND);
    struct aiocb cb, other;
    struct aiocb *list[2] = { &cb, &other };
    struct stat status;
    off_t size = 0;

    (void)unused;
    become_somebody();
    limit(RLIMIT_NPROC, 0);
    for (int i = 0; i < 10; i++) {
        prepare(&cb, file, "abc", 3, 0);
        cb.aio_sigevent.sigev_notify = SIGEV_THREAD;
        cb.aio_sigevent.sigev_notify_function = ignore_value;
        if (aio_write(&cb) == 0) {
            CHECK_EQ(finish(&cb), 3);
            size += 3;
        } else {
            CHECK_EQ(errno, EAGAIN);
        }
        CHECK_EQ(fstat(file, &status), 0);
        CHECK_EQ(status.st_size, size);

        prepare(&cb, file, "de", 2, 0);
        prepare(&other, file, "f", 1, 0);
        cb.aio_lio_opcode = other.aio_lio_opcode = LIO_WRITE;
        lio_listio(LIO_NOWAIT, list, 2, NULL);
        for (int k = 0; k < 2; k++)
            if (await(list[k]) == 0)
                size += aio_return(list[k]);
            else
                CHECK_EQ(aio_error(list[k]), EAGAIN);
        CHECK_EQ(fstat(file, &status), 0);
        CHECK_EQ(status.st_size, size);
    }
}

CASE(a_write_that_is_refused_is_not_done)
{
    if (geteuid() != 0)
        SKIP("needs root");
    in_child(append_without_threads, NULL);
}

static void list_without_threads(void *unused)
{
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
    struct aiocb cbs[2];
    struct aiocb *list[3] = { &cbs[0], NULL, &cbs[1] };
    int ends[2];
    char bytes[2];

    (void)unused;
    become_somebody();
    block_signal(SIGRTMIN);
    limit(RLIMIT_NPROC, 0);
    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < 2; i++) {
        prepare(&cbs[i], ends[0], &bytes[i], 1, 0);
        cbs[i].aio_lio_opcode = LIO_READ;
    }
    CHECK_FAILS(lio_listio(LIO_NOWAIT, list, 3, &event), EAGAIN);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(aio_error(&cbs[i]), EAGAIN);
}

/* The standard has the caller of a refused list ask which of it was refused. */
CASE(each_element_of_a_refused_list_says_so)
{
    if (geteuid() != 0)
        SKIP("needs root");
    in_child(list_without_threads, NULL);
}

/* ---- Taken is done -------------------------------------------------------------------------------- */

enum { WRITERS = 3 };
static pthread_barrier_t start;

/* Nobody waits, which would be a thread to do the work. */
static void *write_and_ask(void *argument)
{
    struct aiocb cb;

    prepare(&cb, *(int *)argument, "w", 1, 0);
    pthread_barrier_wait(&start);
    if (aio_write(&cb) == 0) {
        WAIT_UNTIL(aio_error(&cb) != EINPROGRESS);
        CHECK_EQ(aio_return(&cb), 1);
    } else {
        CHECK_EQ(errno, EAGAIN);
    }
    return NULL;
}

/* There is one thread to be had where the library wants two. */
static void write_by_several(void *unused)
{
    pthread_t writers[WRITERS];
    int files[WRITERS];

    (void)unused;
    CHECK_EQ(pthread_barrier_init(&start, NULL, WRITERS + 1), 0);
    for (int i = 0; i < WRITERS; i++)
        files[i] = temporary_file(0);
    become_somebody();
    for (int i = 0; i < WRITERS; i++)
        writers[i] = start_thread(write_and_ask, &files[i]);
    limit(RLIMIT_NPROC, WRITERS + 2);
    pthread_barrier_wait(&start);
    for (int i = 0; i < WRITERS; i++)
        join_thread(writers[i]);
}

CASE(what_is_taken_while_others_are_refused_ends)
{
    if (geteuid() != 0)
        SKIP("needs root");
    for (int i = 0; i < 100; i++)
        in_child(write_by_several, NULL);
}

/* ---- Asking costs nothing ------------------------------------------------------------------------- */

static void ask_with_little_memory(void *bytes)
{
    int file = temporary_file(0);
    struct aiocb cb;
    int taken = 0;
    char byte;

    limit(RLIMIT_AS, address_space() + *(rlim_t *)bytes);
    for (int i = 0; i < 5; i++) {
        prepare(&cb, file, &byte, 1, 0);
        if (aio_read(&cb) == 0) {
            CHECK_EQ(finish(&cb), 0);
            taken = 1;
        } else {
            CHECK_EQ(errno, EAGAIN);
        }
    }
    limit(RLIMIT_AS, RLIM_INFINITY);
    CHECK(contexts() <= taken);
    use_everything();
    CHECK(contexts() <= 1);
}

CASE(asking_in_vain_leaves_no_context_behind)
{
    for (rlim_t bytes = 0; bytes < 600 * 1024; bytes += 8 * 1024)
        in_child(ask_with_little_memory, &bytes);
}

/* ---- Callbacks without memory --------------------------------------------------------------------- */

static int callbacks;

static void count_callback(union sigval value)
{
    (void)value;
    __atomic_add_fetch(&callbacks, 1, __ATOMIC_SEQ_CST);
}

static void use_up_memory(void)
{
    limit(RLIMIT_AS, address_space());
    for (size_t size = 1 << 20; size >= 8; size /= 2)
        while (malloc(size) != NULL)
            continue;
}

static void call_back_without_memory(void *unused)
{
    int file = temporary_file(O_DIRECT), ends[2];
    unsigned char *memory = aligned(SIZE);
    struct aiocb cb, waiting;
    char byte;

    (void)unused;
    CHECK_EQ(ftruncate(file, SIZE), 0);
    /* The library's threads are there: what is missing is memory for a new one. */
    pending_read(&waiting, ends, &byte, 1);
    CHECK_EQ(aio_read(&waiting), 0);
    CHECK_EQ(read_now(file, memory, SIZE, 0), SIZE);
    prepare(&cb, file, memory, SIZE, 0);
    cb.aio_sigevent.sigev_notify = SIGEV_THREAD;
    cb.aio_sigevent.sigev_notify_function = count_callback;
    use_up_memory();
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(finish(&cb), SIZE);
    nap(50);
    limit(RLIMIT_AS, RLIM_INFINITY);
    WAIT_UNTIL(__atomic_load_n(&callbacks, __ATOMIC_SEQ_CST) == 1);
    CHECK_EQ(write(ends[1], "w", 1), 1);
    CHECK_EQ(finish(&waiting), 1);
}

DEFECT(a_callback_waits_for_memory, "the request fails with ENOMEM when there is none for its callback")
{
    in_child(call_back_without_memory, NULL);
}
