/*
 * lio_listio: lists that are waited for and lists that are not.
 */
#include "check.h"

#define BATCH 1000

static struct aiocb requests[BATCH];
static struct aiocb *list[BATCH];

static void element(int at, int opcode, int fd, void *buffer, size_t size, off_t offset)
{
    prepare(&requests[at], fd, buffer, size, offset);
    requests[at].aio_lio_opcode = opcode;
    list[at] = &requests[at];
}

static struct sigevent signal_event(int signo, int value)
{
    struct sigevent event;

    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = signo;
    event.sigev_value.sival_int = value;
    return event;
}

/* Exactly so many of the signal arrive, and no more within a moment. */
static void signals_come(int signo, int count)
{
    for (int i = 0; i < count; i++)
        if (!take_signal(signo, NULL, 5000))
            FAIL("only %d of %d signals came", i, count);
    if (take_signal(signo, NULL, 50))
        FAIL("more than %d signals came", count);
}

/* <aio.h> promises the compiler that the list is not NULL. */
static struct aiocb *const *volatile no_list;

CASE(a_bad_mode_gives_EINVAL)
{
    static const int modes[] = { 2, -1, 99, INT_MIN, INT_MAX };
    int fd = temporary_file(0);
    struct stat status;

    element(0, LIO_WRITE, fd, "never", 5, 0);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        CHECK_FAILS(lio_listio(modes[i], list, 1, NULL), EINVAL);
    nap(20);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 0);
}

CASE(an_empty_list_succeeds)
{
    struct sigevent event = signal_event(SIGUSR1, 0);

    block_signal(SIGUSR1);
    CHECK_EQ(lio_listio(LIO_WAIT, list, 0, NULL), 0);
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 0, NULL), 0);
    CHECK_EQ(lio_listio(LIO_WAIT, no_list, 0, NULL), 0);
    CHECK_EQ(lio_listio(LIO_NOWAIT, no_list, 0, &event), 0);
    signals_come(SIGUSR1, 1);
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 0, &event), 0);
    signals_come(SIGUSR1, 1);
}

CASE(NULL_and_LIO_NOP_are_skipped_untouched)
{
    int fd = temporary_file(0);
    struct aiocb nop;

    for (int mode = 0; mode < 2; mode++) {
        memset(&requests[1], 0xC3, sizeof requests[1]);
        requests[1].aio_lio_opcode = LIO_NOP;
        nop = requests[1];
        list[0] = NULL;
        list[1] = &requests[1];
        element(2, LIO_WRITE, fd, "done", 4, 0);
        list[3] = NULL;
        CHECK_EQ(lio_listio(mode == 0 ? LIO_WAIT : LIO_NOWAIT, list, 4, NULL), 0);
        CHECK_EQ(finish(&requests[2]), 4);
        CHECK(memcmp(&nop, &requests[1], sizeof nop) == 0);
    }
}

CASE(a_list_of_nothing_to_do_notifies_once)
{
    struct sigevent event = signal_event(SIGUSR1, 0);

    block_signal(SIGUSR1);
    element(0, LIO_NOP, -1, NULL, 0, 0);
    list[1] = NULL;
    CHECK_EQ(lio_listio(LIO_WAIT, list, 2, NULL), 0);
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 2, NULL), 0);
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 2, &event), 0);
    signals_come(SIGUSR1, 1);
}

CASE(a_waited_list_is_done_on_return)
{
    static unsigned char out[64][512], in[64][512];
    int fd = temporary_file(0);

    for (int i = 0; i < 64; i++) {
        pattern(out[i], 512, (unsigned)i);
        element(i, LIO_WRITE, fd, out[i], 512, i * 512);
    }
    CHECK_EQ(lio_listio(LIO_WAIT, list, 64, NULL), 0);
    for (int i = 0; i < 64; i++) {
        CHECK_EQ(aio_error(&requests[i]), 0);
        CHECK_EQ(aio_return(&requests[i]), 512);
        element(i, LIO_READ, fd, in[i], 512, i * 512);
    }
    CHECK_EQ(lio_listio(LIO_WAIT, list, 64, NULL), 0);
    CHECK(memcmp(in, out, sizeof in) == 0);
}

/* Reads and writes of cached, direct, append files and a pipe in one list. */
CASE(a_mixed_list)
{
    unsigned char *block = aligned(4096), *back = aligned(4096);
    int plain = temporary_file(0), direct = temporary_file(O_DIRECT), append = temporary_file(O_APPEND);
    char piped[6] = "", text[6] = "";
    int ends[2];

    CHECK_EQ(pipe(ends), 0);
    pattern(block, 4096, 8);
    CHECK_EQ(pwrite(direct, block, 4096, 0), 4096);
    CHECK_EQ(pwrite(plain, "plain", 5, 0), 5);
    element(0, LIO_READ, ends[0], piped, 5, 0);
    element(1, LIO_READ, direct, back, 4096, 0);
    element(2, LIO_WRITE, append, "one ", 4, 0);
    element(3, LIO_WRITE, direct, block, 4096, 8192);
    element(4, LIO_READ, plain, text, 5, 0);
    element(5, LIO_WRITE, append, "two", 3, 0);
    element(6, LIO_WRITE, ends[1], "piped", 5, 0);
    CHECK_EQ(lio_listio(LIO_WAIT, list, 7, NULL), 0);
    for (int i = 0; i < 7; i++)
        printf("%zd\n", finish(&requests[i]));
    printf("%s %s\n", piped, text);
    CHECK(is_pattern(back, 4096, 8));
    CHECK_EQ(pread(append, text, 5, 2), 5);
    CHECK(memcmp(text, "e two", 5) == 0);
}

static void failing_list(int bad_element)
{
    static const char *const whats[] = { "descriptor", "offset", "opcode", "priority" };
    int fd = temporary_file(0);
    char back[8];

    memset(back, 0, sizeof back);
    for (int i = 0; i < 3; i++)
        element(i, LIO_WRITE, fd, (char *)(uintptr_t)"abc" + i, 1, i);
    if (bad_element == 0)
        requests[1].aio_fildes = -1;
    else if (bad_element == 1)
        requests[1].aio_offset = -1;
    else if (bad_element == 2)
        requests[1].aio_lio_opcode = 77;
    else
        requests[1].aio_reqprio = 99;
    CHECK_FAILS(lio_listio(LIO_WAIT, list, 3, NULL), EIO);
    printf("bad %s: %s\n", whats[bad_element], strerrorname_np(aio_error(&requests[1])));
    CHECK_EQ(aio_return(&requests[1]), -1);
    CHECK_EQ(aio_error(&requests[0]), 0);
    CHECK_EQ(aio_error(&requests[2]), 0);
    CHECK_EQ(pread(fd, back, 3, 0), 3);
    CHECK(back[0] == 'a' && back[1] == 0 && back[2] == 'c');
}

CASE(a_failing_element_fails_alone_and_gives_EIO)
{
    for (int bad = 0; bad < 4; bad++)
        failing_list(bad);
}

/* Each tells of itself; the list notifies all the same. */
CASE(failing_elements_of_a_list_without_wait)
{
    struct sigevent event = signal_event(SIGUSR1, 0);
    int fd = temporary_file(0);

    block_signal(SIGUSR1);
    for (int bad = 0; bad < 3; bad++) {
        for (int i = 0; i < 3; i++)
            element(i, LIO_WRITE, fd, "x", 1, i);
        if (bad == 0)
            requests[1].aio_fildes = -1;
        else if (bad == 1)
            requests[1].aio_lio_opcode = 77;
        else
            requests[1].aio_reqprio = 99;
        errno = 0;
        int result = lio_listio(LIO_NOWAIT, list, 3, &event);
        /* A priority can be refused by the call as well as by the element alone. */
        if (bad < 2 || result == 0)
            CHECK_EQ(result, 0);
        else
            CHECK(result == -1 && (errno == EINVAL || errno == EIO));
        for (int i = 0; i < 3; i++)
            printf("element %d: %s\n", i, strerrorname_np(await(&requests[i])));
        signals_come(SIGUSR1, 1);
    }
}

CASE(a_waited_list_does_not_notify)
{
    struct sigevent event = signal_event(SIGUSR1, 0);
    int fd = temporary_file(0);

    block_signal(SIGUSR1);
    element(0, LIO_WRITE, fd, "x", 1, 0);
    CHECK_EQ(lio_listio(LIO_WAIT, list, 1, &event), 0);
    signals_come(SIGUSR1, 0);
}

CASE(elements_of_a_waited_list_notify_each)
{
    int fd = temporary_file(0);

    block_signal(SIGRTMIN);
    for (int i = 0; i < 10; i++) {
        element(i, LIO_WRITE, fd, "x", 1, i);
        requests[i].aio_sigevent = signal_event(SIGRTMIN, i);
    }
    CHECK_EQ(lio_listio(LIO_WAIT, list, 10, NULL), 0);
    signals_come(SIGRTMIN, 10);
}

/* A thousand elements: the list notifies once, and when it does, all of them are done. */
static void batch_without_wait(int flags)
{
    unsigned char *memory = aligned(BATCH * 512);
    struct sigevent event = signal_event(SIGRTMIN + 1, 4711);
    int fd = temporary_file(flags);
    siginfo_t info;

    block_signal(SIGRTMIN + 1);
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < BATCH; i++) {
            if (pass == 0)
                pattern(memory + i * 512, 512, i);
            element((int)i, pass == 0 ? LIO_WRITE : LIO_READ, fd, memory + i * 512, 512, i * 512);
        }
        if (pass == 1)
            memset(memory, 0, BATCH * 512);
        CHECK_EQ(lio_listio(LIO_NOWAIT, list, BATCH, &event), 0);
        /* The event was copied: its memory is the caller's again. */
        memset(&event, 0xEE, sizeof event);
        CHECK(take_signal(SIGRTMIN + 1, &info, 10000));
        CHECK_EQ(info.si_value.sival_int, 4711);
        for (unsigned i = 0; i < BATCH; i++) {
            CHECK_EQ(aio_error(&requests[i]), 0);
            CHECK_EQ(aio_return(&requests[i]), 512);
            CHECK(is_pattern(memory + i * 512, 512, i));
        }
        CHECK(!take_signal(SIGRTMIN + 1, NULL, 30));
        event = signal_event(SIGRTMIN + 1, 4711);
    }
}

CASE(a_thousand_buffered_elements_notify_once)
{
    batch_without_wait(0);
}

CASE(a_thousand_direct_elements_notify_once)
{
    int fd = temporary_file(O_DIRECT);
    unsigned char *block = aligned(512);

    if (pwrite(fd, block, 512, 0) != 512)
        SKIP("O_DIRECT wants more than 512 bytes here");
    batch_without_wait(O_DIRECT);
}

CASE(a_thousand_waited_elements)
{
    static unsigned words[BATCH], back[BATCH];
    int fd = temporary_file(0);

    for (unsigned i = 0; i < BATCH; i++) {
        words[i] = i * 2654435761u;
        element((int)i, LIO_WRITE, fd, &words[i], sizeof words[i], i * sizeof words[i]);
    }
    CHECK_EQ(lio_listio(LIO_WAIT, list, BATCH, NULL), 0);
    CHECK_EQ(pread(fd, back, sizeof back, 0), (ssize_t)sizeof back);
    CHECK(memcmp(words, back, sizeof back) == 0);
}

CASE(the_list_and_its_elements_both_notify)
{
    struct sigevent event = signal_event(SIGUSR1, 0);
    int fd = temporary_file(0);

    block_signal(SIGUSR1);
    block_signal(SIGRTMIN);
    for (int i = 0; i < 10; i++) {
        element(i, LIO_WRITE, fd, "x", 1, i);
        requests[i].aio_sigevent = signal_event(SIGRTMIN, i);
    }
    requests[4].aio_fildes = -1;
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 10, &event), 0);
    signals_come(SIGUSR1, 1);
    signals_come(SIGRTMIN, 10);
}

/* One element is held up: until it is done, the list is not. */
CASE(the_list_notifies_after_its_last_element)
{
    struct sigevent event = signal_event(SIGUSR1, 0);
    int fd = temporary_file(0);
    char byte = 0;
    int ends[2];

    block_signal(SIGUSR1);
    CHECK_EQ(pipe(ends), 0);
    for (int i = 0; i < 8; i++)
        element(i, LIO_WRITE, fd, "x", 1, i);
    element(3, LIO_READ, ends[0], &byte, 1, 0);
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 8, &event), 0);
    memset(list, 0xEE, sizeof list); /* the list is the caller's again, too */
    for (int i = 0; i < 8; i++)
        if (i != 3)
            CHECK_EQ(finish(&requests[i]), 1);
    CHECK(!take_signal(SIGUSR1, NULL, 50));
    CHECK_EQ(write(ends[1], "b", 1), 1);
    CHECK(take_signal(SIGUSR1, NULL, 5000));
    CHECK_EQ(aio_error(&requests[3]), 0);
    CHECK_EQ(byte, 'b');
    CHECK(!take_signal(SIGUSR1, NULL, 30));
}

static volatile int callbacks;
static volatile int callback_value;

static void on_list(union sigval value)
{
    callback_value = value.sival_int;
    __atomic_fetch_add(&callbacks, 1, __ATOMIC_SEQ_CST);
}

CASE(the_list_notifies_by_a_thread)
{
    struct sigevent event;
    int fd = temporary_file(0);

    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = on_list;
    event.sigev_value.sival_int = 99;
    for (int i = 0; i < 8; i++)
        element(i, LIO_WRITE, fd, "x", 1, i);
    CHECK_EQ(lio_listio(LIO_NOWAIT, list, 8, &event), 0);
    WAIT_UNTIL(callbacks > 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(aio_error(&requests[i]), 0);
    nap(30);
    CHECK_EQ(callbacks, 1);
    CHECK_EQ(callback_value, 99);
}

CASE(many_lists_at_once_notify_once_each)
{
    enum { LISTS = 100, EACH = 10 };
    static char bytes[BATCH];
    int fd = temporary_file(0);

    block_signal(SIGRTMIN + 2);
    for (int i = 0; i < LISTS; i++) {
        struct sigevent event = signal_event(SIGRTMIN + 2, i);

        for (int j = 0; j < EACH; j++)
            element(i * EACH + j, LIO_WRITE, fd, &bytes[i * EACH + j], 1, i * EACH + j);
        CHECK_EQ(lio_listio(LIO_NOWAIT, list + i * EACH, EACH, &event), 0);
    }
    int seen[LISTS] = { 0 };
    for (int i = 0; i < LISTS; i++) {
        siginfo_t info;

        CHECK(take_signal(SIGRTMIN + 2, &info, 5000));
        CHECK_EQ(seen[info.si_value.sival_int]++, 0);
        for (int j = 0; j < EACH; j++)
            CHECK_EQ(aio_error(&requests[info.si_value.sival_int * EACH + j]), 0);
    }
    CHECK(!take_signal(SIGRTMIN + 2, NULL, 30));
}
