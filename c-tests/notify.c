/*
 * Completions told by signals: each exactly once, after the status, with all that the program asked for.
 *
 * Seen to fail: on libraries that send the signal before they store the status, that drop it when the queue is full, that say
 * SI_QUEUE, that store the status once more afterwards, and whose threads have the mask of their creator.
 */
#include "check.h"

#include <dirent.h>
#include <semaphore.h>
#include <sys/resource.h>

static struct sigevent signal_event(int signo, void *value)
{
    struct sigevent event;

    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = signo;
    event.sigev_value.sival_ptr = value;
    return event;
}

/* ---- SIGEV_SIGNAL ---- */

static void expect_signal(struct aiocb *cb, int signo)
{
    siginfo_t info;

    memset(&info, 0, sizeof info);
    CHECK(take_signal(signo, &info, 5000));
    /* The status comes first: no waiting here. */
    CHECK(aio_error(cb) != EINPROGRESS);
    CHECK_EQ(info.si_signo, signo);
    CHECK_EQ(info.si_code, SI_ASYNCIO);
    CHECK_EQ(info.si_pid, getpid());
    CHECK_EQ(info.si_uid, getuid());
    CHECK(info.si_value.sival_ptr == (void *)0x123456789abcdef0);
    CHECK(!take_signal(signo, NULL, 20));
}

CASE(a_signal_tells_where_it_comes_from)
{
    static const int signals[] = { SIGUSR1, SIGIO, 40, 64 };
    int files[] = { temporary_file(0), temporary_file(O_DIRECT), -1 };
    unsigned char *block = aligned(4096);
    struct aiocb cb;

    for (int i = 0; i < 4; i++)
        block_signal(signals[i]);
    for (int file = 0; file < 3; file++) {
        for (int operation = 0; operation < 3; operation++) {
            int signo = signals[(file + operation) % 4];

            prepare(&cb, files[file], block, 4096, 0);
            cb.aio_sigevent = signal_event(signo, (void *)0x123456789abcdef0);
            if (operation == 2 && files[file] < 0)
                continue; /* aio_fsync refuses it */
            CHECK_EQ(operation == 0 ? aio_write(&cb) : operation == 1 ? aio_read(&cb) : aio_fsync(O_SYNC, &cb), 0);
            expect_signal(&cb, signo);
            printf("%s\n", strerrorname_np(aio_error(&cb)));
        }
    }
}

CASE(each_request_has_its_own_signal)
{
    enum { MANY = 300 };
    static struct aiocb requests[MANY];
    static int seen[MANY];
    static char bytes[MANY];
    int fd = temporary_file(0);
    siginfo_t info;

    block_signal(SIGRTMIN);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], i % 10 == 9 ? -1 : fd, &bytes[i], 1, i);
        requests[i].aio_sigevent = signal_event(SIGRTMIN, &requests[i]);
        CHECK_EQ(i % 2 == 0 ? aio_write(&requests[i]) : aio_read(&requests[i]), 0);
    }
    for (int i = 0; i < MANY; i++) {
        if (!take_signal(SIGRTMIN, &info, 5000))
            FAIL("only %d signals came", i);
        struct aiocb *cb = info.si_value.sival_ptr;
        CHECK(cb >= requests && cb < requests + MANY);
        CHECK_EQ(seen[cb - requests]++, 0);
        CHECK(aio_error(cb) != EINPROGRESS);
    }
    CHECK(!take_signal(SIGRTMIN, NULL, 30));
}

static pid_t handler_thread;

static void note_thread(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)info, (void)context;
    __atomic_store_n(&handler_thread, gettid(), __ATOMIC_SEQ_CST);
}

static sem_t thread_may_go;

static void *be_there(void *tid)
{
    sigset_t none;

    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    __atomic_store_n((pid_t *)tid, gettid(), __ATOMIC_SEQ_CST);
    while (sem_wait(&thread_may_go) == -1)
        continue;
    return NULL;
}

/* The thread that submitted has it blocked; any other thread will do. */
CASE(the_signal_goes_to_the_process)
{
    int fd = temporary_file(0);
    pid_t tid = 0;
    struct aiocb cb;

    sem_init(&thread_may_go, 0, 0);
    on_signal(SIGRTMIN + 3, note_thread, 0);
    block_signal(SIGRTMIN + 3);
    pthread_t thread = start_thread(be_there, &tid);
    WAIT_UNTIL(__atomic_load_n(&tid, __ATOMIC_SEQ_CST) != 0);
    prepare(&cb, fd, "p", 1, 0);
    cb.aio_sigevent = signal_event(SIGRTMIN + 3, NULL);
    CHECK_EQ(aio_write(&cb), 0);
    WAIT_UNTIL(__atomic_load_n(&handler_thread, __ATOMIC_SEQ_CST) != 0);
    CHECK_EQ(handler_thread, tid);
    sem_post(&thread_may_go);
    join_thread(thread);
}

static void wipe_aiocb(int signo, siginfo_t *info, void *context)
{
    (void)signo, (void)context;
    int error = aio_error(info->si_value.sival_ptr);

    CHECK_EQ(error, 0);
    memset(info->si_value.sival_ptr, 0xDD, sizeof(struct aiocb));
    handler_thread = 1;
}

CASE(the_handler_may_reuse_the_aiocb)
{
    int files[] = { temporary_file(0), temporary_file(O_DIRECT) };
    unsigned char *block = aligned(4096);
    struct aiocb cb;

    on_signal(SIGRTMIN, wipe_aiocb, 0);
    for (int round = 0; round < 100; round++) {
        handler_thread = 0;
        prepare(&cb, files[round % 2], block, 4096, 0);
        cb.aio_sigevent = signal_event(SIGRTMIN, &cb);
        CHECK_EQ(aio_write(&cb), 0);
        WAIT_UNTIL(handler_thread == 1);
        CHECK(is_filled(&cb, sizeof cb, 0xDD));
    }
}

DEFECT(a_full_signal_queue_loses_nothing, "libc's turns the good result into an error, and forgets the signal")
{
    enum { MANY = 200 };
    static struct aiocb requests[MANY];
    static int seen[MANY];
    struct rlimit limit;
    int fd = temporary_file(0);
    siginfo_t info;

    block_signal(SIGRTMIN);
    CHECK_EQ(getrlimit(RLIMIT_SIGPENDING, &limit), 0);
    limit.rlim_cur = 20;
    CHECK_EQ(setrlimit(RLIMIT_SIGPENDING, &limit), 0);
    for (int i = 0; i < MANY; i++) {
        prepare(&requests[i], fd, "f", 1, i);
        requests[i].aio_sigevent = signal_event(SIGRTMIN, &requests[i]);
        CHECK_EQ(aio_write(&requests[i]), 0);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(finish(&requests[i]), 1);
    for (int i = 0; i < MANY; i++) {
        if (!take_signal(SIGRTMIN, &info, 5000))
            FAIL("only %d signals came", i);
        CHECK_EQ(seen[(struct aiocb *)info.si_value.sival_ptr - requests]++, 0);
    }
    CHECK(!take_signal(SIGRTMIN, NULL, 30));
    /* They have not become errors afterwards either. */
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(aio_error(&requests[i]), 0);
}

/* POSIX forbids a program to do so; some do, when they prepare the aiocb of a request that they take for ended. */
DIFFERS(a_sigevent_that_changes_after_submission_has_no_effect, "libc reads the aiocb again at completion")
{
    struct aiocb cb;
    char byte = 0;
    int ends[2];

    block_signal(SIGRTMIN);
    block_signal(SIGRTMIN + 1);
    pending_read(&cb, ends, &byte, 1);
    cb.aio_sigevent = signal_event(SIGRTMIN, NULL);
    CHECK_EQ(aio_read(&cb), 0);
    cb.aio_sigevent = signal_event(SIGRTMIN + 1, NULL);
    CHECK_EQ(write(ends[1], "b", 1), 1);
    CHECK(take_signal(SIGRTMIN, NULL, 5000));
    CHECK(!take_signal(SIGRTMIN + 1, NULL, 30));
}

/* ---- SIGEV_THREAD_ID ---- */

#ifndef SIGEV_THREAD_ID
#define SIGEV_THREAD_ID 4
#endif
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

DIFFERS(SIGEV_THREAD_ID_reaches_that_thread, "libc takes this Linux extension for SIGEV_NONE")
{
    int fd = temporary_file(0);
    pthread_t threads[3];
    pid_t tids[3] = { 0 };
    struct aiocb cb;

    sem_init(&thread_may_go, 0, 0);
    on_signal(SIGRTMIN + 3, note_thread, 0);
    for (int i = 0; i < 3; i++) {
        threads[i] = start_thread(be_there, &tids[i]);
        WAIT_UNTIL(__atomic_load_n(&tids[i], __ATOMIC_SEQ_CST) != 0);
    }
    for (int round = 0; round < 9; round++) {
        __atomic_store_n(&handler_thread, 0, __ATOMIC_SEQ_CST);
        prepare(&cb, fd, "p", 1, 0);
        cb.aio_sigevent = signal_event(SIGRTMIN + 3, NULL);
        cb.aio_sigevent.sigev_notify = SIGEV_THREAD_ID;
        cb.aio_sigevent.sigev_notify_thread_id = tids[round % 3];
        CHECK_EQ(aio_write(&cb), 0);
        WAIT_UNTIL(__atomic_load_n(&handler_thread, __ATOMIC_SEQ_CST) != 0);
        CHECK_EQ(handler_thread, tids[round % 3]);
    }
    for (int i = 0; i < 3; i++)
        sem_post(&thread_may_go);
    for (int i = 0; i < 3; i++)
        join_thread(threads[i]);
    /* A thread that is gone is told nothing, and that is all. */
    prepare(&cb, fd, "p", 1, 0);
    cb.aio_sigevent = signal_event(SIGRTMIN + 3, NULL);
    cb.aio_sigevent.sigev_notify = SIGEV_THREAD_ID;
    cb.aio_sigevent.sigev_notify_thread_id = tids[0];
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
}

/* ---- The implementation's own threads ---- */

static unsigned long long blocked_signals(const char *task)
{
    char name[300], line[256];
    unsigned long long mask = 0;

    snprintf(name, sizeof name, "/proc/self/task/%s/status", task);
    FILE *status = fopen(name, "r");
    if (status == NULL)
        return ~0ull; /* it has ended in the meantime */
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "SigBlk: %llx", &mask) == 1)
            break;
    fclose(status);
    return mask;
}

/* Otherwise a program's handler would run on a stack, and with thread-local data, that are not its own. */
CASE(signals_are_blocked_in_the_threads_of_the_implementation)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGUSR1, SIGALRM, SIGPIPE, SIGXFSZ, SIGCHLD, SIGPROF, 40, 64 };
    struct aiocb waiting, writing, direct;
    unsigned char *block = aligned(4096);
    char byte = 0;
    int ends[2];

    pending_read(&waiting, ends, &byte, 1);
    waiting.aio_sigevent = signal_event(SIGUSR1, NULL);
    CHECK_EQ(aio_read(&waiting), 0);
    prepare(&writing, temporary_file(0), block, 4096, 0);
    CHECK_EQ(aio_write(&writing), 0);
    prepare(&direct, temporary_file(O_DIRECT), block, 4096, 0);
    CHECK_EQ(aio_write(&direct), 0);
    nap(50);

    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    CHECK(tasks != NULL);
    while ((task = readdir(tasks)) != NULL) {
        if (task->d_name[0] == '.' || atoi(task->d_name) == getpid())
            continue;
        unsigned long long mask = blocked_signals(task->d_name);
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
            if ((mask >> (signals[i] - 1) & 1) == 0)
                FAIL("a thread takes signal %d", signals[i]);
    }
    closedir(tasks);
}
