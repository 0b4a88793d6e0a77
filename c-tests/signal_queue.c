/*
 * What finds the queue of pending signals full is told later, and once.
 *
 * Seen to fail: on libc's implementation, as each DEFECT says, and on a library that drops what finds the queue full.
 */
#include "children.h"
#include "resources.h"
#include <sys/mman.h>

enum { SIZE = 4096, SIGNALS = 60 };

static int file;
static unsigned char *memory;

/* Opened before the limits are set, and before the user changes. */
static void open_file(void)
{
    memory = aligned(SIGNALS * SIZE);
    file = temporary_file(O_DIRECT);
    CHECK_EQ(pwrite(file, memory, SIGNALS * SIZE, 0), SIGNALS * SIZE);
}

/* The limit counts what is pending for all processes of this user: lets so many more be queued than there are. */
static void limit_signals(int more)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    long used = -1;

    CHECK(status != NULL);
    while (used < 0 && fgets(line, sizeof line, status) != NULL)
        sscanf(line, "SigQ: %ld/", &used);
    fclose(status);
    CHECK(used >= 0);
    limit(RLIMIT_SIGPENDING, (rlim_t)(used + more));
}

static void be_signalled(void *most)
{
    struct aiocb reads[SIGNALS];
    int seen[SIGNALS] = { 0 }, left = SIGNALS;
    siginfo_t info;

    open_file();
    block_signal(SIGRTMIN + 3);
    limit_signals(*(int *)most);
    for (int i = 0; i < SIGNALS; i++) {
        prepare(&reads[i], file, memory + i * SIZE, SIZE, i * SIZE);
        reads[i].aio_sigevent.sigev_notify = SIGEV_SIGNAL;
        reads[i].aio_sigevent.sigev_signo = SIGRTMIN + 3;
        reads[i].aio_sigevent.sigev_value.sival_int = i;
        CHECK_EQ(aio_read(&reads[i]), 0);
    }
    for (int i = 0; i < SIGNALS; i++)
        CHECK_EQ(finish(&reads[i]), SIZE);
    for (; left > 0; left--) {
        CHECK(take_signal(SIGRTMIN + 3, &info, 5000));
        CHECK_EQ(info.si_code, SI_ASYNCIO);
        CHECK_EQ(seen[info.si_value.sival_int]++, 0);
    }
    CHECK(!take_signal(SIGRTMIN + 3, &info, 50));
}

DEFECT(the_queue_of_signals_is_short, "a notification that does not fit turns the result into an error, and is lost")
{
    static const int most[] = { 1, 3, 20 };

    for (int i = 0; i < 3; i++)
        in_child(be_signalled, (void *)&most[i]);
}

/* The program's own signals fill the queue; the notification comes once they are taken. */
static void fill_the_queue(void *unused)
{
    struct aiocb cb;
    siginfo_t info;
    int queued = 0;

    (void)unused;
    open_file();
    block_signal(SIGRTMIN + 1);
    block_signal(SIGRTMIN + 3);
    limit_signals(20);
    while (sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = queued }) == 0)
        queued++;
    CHECK_EQ(errno, EAGAIN);
    prepare(&cb, file, memory, SIZE, 0);
    cb.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    cb.aio_sigevent.sigev_signo = SIGRTMIN + 3;
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(finish(&cb), SIZE);
    nap(20);
    /* The limit is on all signals of a user: another process may have made place meanwhile. */
    int early = take_signal(SIGRTMIN + 3, &info, 0);
    for (int i = 0; i < queued; i++)
        CHECK(take_signal(SIGRTMIN + 1, &info, 1000));
    CHECK(early || take_signal(SIGRTMIN + 3, &info, 5000));
    CHECK(!take_signal(SIGRTMIN + 3, &info, 0));
}

DEFECT(a_signal_waits_for_a_place_in_the_queue, "the signal is lost, and the result with it")
{
    in_child(fill_the_queue, NULL);
}

/*
 * Neither a place in the queue nor a thread that would wait for one: a write that is done must not be called refused, or it
 * is made again. Seen to fail on a library that looks for the thread when the write is done: -1 with EAGAIN.
 */
static void append_without_a_place(void *unused)
{
    int log = memfd_create("log", 0), told = 0;
    struct aiocb cb;
    siginfo_t info;

    (void)unused;
    open_file();
    CHECK(log >= 0);
    CHECK_EQ(fcntl(log, F_SETFL, O_APPEND), 0);
    block_signal(SIGRTMIN);
    limit(RLIMIT_SIGPENDING, 0);
    become_nobody();
    limit(RLIMIT_NPROC, 0);
    for (int i = 1; i <= 3; i++) {
        prepare(&cb, log, "record\n", 7, 0);
        cb.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
        cb.aio_sigevent.sigev_signo = SIGRTMIN;
        CHECK_EQ(aio_write(&cb), 0);
        CHECK_EQ(finish(&cb), 7);
        CHECK_EQ(lseek(log, 0, SEEK_END), 7 * i);
    }
    /* The next request that has a thread brings what is owed. */
    limit(RLIMIT_SIGPENDING, 10);
    limit(RLIMIT_NPROC, 10000);
    CHECK_EQ(read_now(file, memory, SIZE, 0), SIZE);
    while (told < 3 && take_signal(SIGRTMIN, &info, 5000))
        told++;
    CHECK_EQ(told, 3);
}

DIFFERS(a_write_that_cannot_be_notified_yet_is_done_once, "libc has no thread for it, and refuses it")
{
    if (geteuid() != 0)
        SKIP("needs root");
    in_child(append_without_a_place, NULL);
}
