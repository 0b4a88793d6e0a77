// timeout: 40
/*
 * Requests of every kind with every notification at once, from several threads, some of them cancelled: each request
 * ends once, and is announced once, after its status is there.
 *
 * Seen to fail: on libraries that abort when a callback calls pthread_exit, that run callbacks in the completion thread, and that
 * send a signal before they store the status.
 */
#include "check.h"

enum { SIZE = 4096, THREADS = 4, DEPTH = 16, ROUNDS = 120 };

/* Without signals, the ways that use one give place to the next. */
enum how { SILENT, BY_SIGNAL, BY_CALLBACK, BY_LIST_SIGNAL, BY_LIST_CALLBACK, WAYS };
static int with_signals;

/* One request, and what was heard of it. */
struct entry {
    struct aiocb cb;
    enum how how;
    int heard;
    ssize_t wanted;
};

/* Of one list: its requests must all have ended when it is announced. */
struct list {
    struct entry *entries[DEPTH];
    struct aiocb *batch[DEPTH];
    int count;
    int heard;
};

static int wrong_line;

#define HEARD_CHECK(condition)                                                  \
    do {                                                                        \
        if (!(condition))                                                       \
            __atomic_store_n(&wrong_line, __LINE__, __ATOMIC_SEQ_CST);          \
    } while (0)

static void hear_entry(struct entry *entry)
{
    HEARD_CHECK(aio_error(&entry->cb) != EINPROGRESS);
    __atomic_add_fetch(&entry->heard, 1, __ATOMIC_SEQ_CST);
}

static void hear_list(struct list *list)
{
    for (int i = 0; i < list->count; i++)
        HEARD_CHECK(aio_error(&list->entries[i]->cb) != EINPROGRESS);
    __atomic_add_fetch(&list->heard, 1, __ATOMIC_SEQ_CST);
}

static void on_entry_signal(int signo, siginfo_t *info, void *context)
{
    int error = errno;

    (void)signo, (void)context;
    HEARD_CHECK(info->si_code == SI_ASYNCIO);
    HEARD_CHECK(info->si_pid == getpid());
    hear_entry(info->si_value.sival_ptr);
    errno = error;
}

static void on_list_signal(int signo, siginfo_t *info, void *context)
{
    int error = errno;

    (void)signo, (void)context;
    HEARD_CHECK(info->si_code == SI_ASYNCIO);
    hear_list(info->si_value.sival_ptr);
    errno = error;
}

static void on_entry_callback(union sigval value)
{
    hear_entry(value.sival_ptr);
}

static void on_list_callback(union sigval value)
{
    hear_list(value.sival_ptr);
    /* A callback may end its thread as any thread does. */
    pthread_exit(NULL);
}

static void tell(struct sigevent *event, enum how how, void *whom)
{
    memset(event, 0, sizeof *event);
    event->sigev_notify = SIGEV_NONE;
    event->sigev_value.sival_ptr = whom;
    switch (how) {
    case BY_SIGNAL:
    case BY_LIST_SIGNAL:
        event->sigev_notify = SIGEV_SIGNAL;
        event->sigev_signo = how == BY_SIGNAL ? SIGRTMIN + 1 : SIGRTMIN + 2;
        break;
    case BY_CALLBACK:
    case BY_LIST_CALLBACK:
        event->sigev_notify = SIGEV_THREAD;
        event->sigev_notify_function = how == BY_CALLBACK ? on_entry_callback : on_list_callback;
        break;
    default:
        break;
    }
}

struct worker {
    pthread_t thread;
    unsigned seed;
    int direct, buffered, ends[2];
    unsigned char *memory;
    struct entry entries[DEPTH];
    struct list lists[2];
};

static void describe(struct worker *worker, struct entry *entry, int i, int round)
{
    unsigned kind = (worker->seed + (unsigned)(i * 7 + round)) % 5;
    unsigned char *memory = worker->memory + i * SIZE;
    int fd = kind == 0 ? worker->direct : kind == 3 ? worker->ends[0] : worker->buffered;

    prepare(&entry->cb, fd, memory, kind == 3 ? 1 : SIZE, i * SIZE);
    entry->cb.aio_lio_opcode = kind == 2 ? LIO_WRITE : LIO_READ;
    entry->how = (enum how)((worker->seed + (unsigned)(i + round)) % WAYS);
    if (!with_signals && (entry->how == BY_SIGNAL || entry->how == BY_LIST_SIGNAL))
        entry->how++;
    entry->wanted = kind == 3 ? 1 : SIZE;
    entry->heard = 0;
    if (kind == 4) {
        entry->cb.aio_fildes = -1;
        entry->wanted = -1;
    }
    tell(&entry->cb.aio_sigevent, entry->how, entry);
}

static void submit_round(struct worker *worker)
{
    for (int l = 0; l < 2; l++)
        worker->lists[l].count = worker->lists[l].heard = 0;
    for (int i = 0; i < DEPTH; i++) {
        struct entry *entry = &worker->entries[i];

        if (entry->how >= BY_LIST_SIGNAL) {
            struct list *list = &worker->lists[entry->how - BY_LIST_SIGNAL];

            list->entries[list->count] = entry;
            list->batch[list->count++] = &entry->cb;
        } else if (entry->cb.aio_lio_opcode == LIO_READ) {
            CHECK_EQ(aio_read(&entry->cb), 0);
        } else {
            CHECK_EQ(aio_write(&entry->cb), 0);
        }
    }
    for (int l = 0; l < 2; l++) {
        struct sigevent event;
        struct list *list = &worker->lists[l];

        tell(&event, (enum how)(BY_LIST_SIGNAL + l), list);
        CHECK_EQ(lio_listio(LIO_NOWAIT, list->batch, list->count, &event), 0);
    }
}

static void check_round(struct worker *worker)
{
    for (int i = 0; i < DEPTH; i++) {
        struct entry *entry = &worker->entries[i];
        int error = await(&entry->cb);
        ssize_t result = aio_return(&entry->cb);

        if (error == ECANCELED)
            CHECK_EQ(result, -1);
        else if (entry->wanted == -1)
            CHECK_EQ(error, EBADF);
        else
            CHECK_EQ(error, 0);
        if (error == 0)
            CHECK_EQ(result, entry->wanted);
        if (entry->how == BY_SIGNAL || entry->how == BY_CALLBACK)
            WAIT_UNTIL(__atomic_load_n(&entry->heard, __ATOMIC_SEQ_CST) == 1);
    }
    for (int l = 0; l < 2; l++)
        WAIT_UNTIL(__atomic_load_n(&worker->lists[l].heard, __ATOMIC_SEQ_CST) == 1);
    if (wrong_line != 0)
        FAIL("the check in line %d failed in a notification", wrong_line);
}

/* What the cancelled reads have left. */
static void drain(int fd)
{
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    char some[DEPTH];

    while (poll(&ready, 1, 0) == 1)
        CHECK(read(fd, some, sizeof some) > 0);
}

static void *work(void *argument)
{
    struct worker *worker = argument;

    for (int round = 0; round < ROUNDS; round++) {
        char some[DEPTH];

        for (int i = 0; i < DEPTH; i++)
            describe(worker, &worker->entries[i], i, round);
        submit_round(worker);
        if (round % 3 == 0) {
            int answer = aio_cancel(round % 2 == 0 ? worker->ends[0] : worker->buffered, NULL);

            CHECK(answer == AIO_CANCELED || answer == AIO_NOTCANCELED || answer == AIO_ALLDONE);
        }
        /* Enough for every pipe read that was not cancelled. */
        memset(some, 's', sizeof some);
        CHECK_EQ(write(worker->ends[1], some, sizeof some), (ssize_t)sizeof some);
        check_round(worker);
        drain(worker->ends[0]);
    }
    /* Nothing is announced twice, however late. */
    nap(20);
    for (int i = 0; i < DEPTH; i++)
        CHECK(worker->entries[i].heard <= 1);
    CHECK_EQ(worker->lists[0].heard, 1);
    CHECK_EQ(worker->lists[1].heard, 1);
    return NULL;
}

static void open_for(struct worker *worker)
{
    worker->memory = aligned(DEPTH * SIZE);
    worker->direct = temporary_file(O_DIRECT);
    worker->buffered = reopen(worker->direct, O_RDWR);
    CHECK_EQ(pwrite(worker->buffered, worker->memory, DEPTH * SIZE, 0), DEPTH * SIZE);
    CHECK_EQ(fsync(worker->buffered), 0);
    CHECK_EQ(pipe(worker->ends), 0);
}

static void run(int threads)
{
    static struct worker workers[THREADS];

    on_signal(SIGRTMIN + 1, on_entry_signal, SA_RESTART);
    on_signal(SIGRTMIN + 2, on_list_signal, SA_RESTART);
    for (int i = 0; i < threads; i++) {
        workers[i].seed = (unsigned)i * 3;
        open_for(&workers[i]);
        workers[i].thread = start_thread(work, &workers[i]);
    }
    for (int i = 0; i < threads; i++)
        CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
}

CASE(callbacks_for_one_thread) { run(1); }
CASE(callbacks_for_several_threads) { run(THREADS); }

#define WHY "libc's aio_error waits, in a handler, for the lock that its own thread may hold: a hang now and then"

DIFFERS(every_notification_for_one_thread, WHY)
{
    with_signals = 1;
    run(1);
}

DIFFERS(every_notification_for_several_threads, WHY)
{
    with_signals = 1;
    run(THREADS);
}
