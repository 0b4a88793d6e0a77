/*
 * What every program of the C suite includes, first of all its headers.
 *
 * A program is one area of behaviour, made of cases:
 *
 *     CASE(name) { ... }                what libc and the library must both do, printing the same
 *     DEFECT(name, "reason") { ... }    fails on libc's implementation, for that reason; passes on the library
 *     DIFFERS(name, "reason") { ... }   run on the library only: libc differs without being wrong, or is wrong at times only
 *
 * Without arguments a program lists its cases; with the name of one it runs that one in this process and
 * exits with 0 (passed), 1 (failed, the reason is on stderr) or 77 (skipped, the reason is on stdout).
 * What a case prints on stdout must be the same on every run: no addresses, times or process numbers.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <aio.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A program uses the helpers that it needs; the others are no reason to warn. */
#define CHECK_HELPER static __attribute__((unused))

/* How long a hang is waited for before it is called one: below the harness's own limit. */
#define DEADLINE_SECONDS 10.0

/* ---- Failing and skipping ------------------------------------------------------------------------- */

/* Leaves at once, from any thread or handler, so that a broken implementation cannot hold up the exit. */
CHECK_HELPER __attribute__((noreturn, format(printf, 3, 4))) void
check_failed(const char *file, int line, const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fprintf(stderr, "%s:%d: ", file, line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    fflush(stderr);
    _exit(1);
}

#define FAIL(...) check_failed(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(condition)                                       \
    do {                                                       \
        if (!(condition))                                      \
            FAIL("%s is not true, errno %d", #condition, errno); \
    } while (0)

#define CHECK_EQ(actual, expected)                                                          \
    do {                                                                                    \
        long long check_actual = (long long)(actual);                                       \
        long long check_expected = (long long)(expected);                                   \
        if (check_actual != check_expected)                                                 \
            FAIL("%s is %lld, not %s (%lld), errno %d", #actual, check_actual, #expected,   \
                 check_expected, errno);                                                    \
    } while (0)

/* The call gives -1 and that errno. */
#define CHECK_FAILS(call, error)                                                              \
    do {                                                                                      \
        errno = 0;                                                                            \
        long long check_result = (long long)(call);                                           \
        int check_errno = errno;                                                              \
        if (check_result != -1 || check_errno != (error))                                     \
            FAIL("%s gives %lld with errno %d, not -1 with %s", #call, check_result, check_errno, #error); \
    } while (0)

#define SKIP(...)                       \
    do {                                \
        printf("skip: " __VA_ARGS__);   \
        putchar('\n');                  \
        fflush(stdout);                 \
        _exit(77);                      \
    } while (0)

/* ---- Time ----------------------------------------------------------------------------------------- */

CHECK_HELPER double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

CHECK_HELPER void nap(int milliseconds)
{
    struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000L };

    while (nanosleep(&time, &time) == -1 && errno == EINTR)
        continue;
}

/* Waits until the condition holds; fails the case when it does not come true in time. */
#define WAIT_UNTIL(condition)                                          \
    do {                                                               \
        double check_deadline = now() + DEADLINE_SECONDS;              \
        while (!(condition)) {                                         \
            if (now() > check_deadline)                                \
                FAIL("%s has not come true in time", #condition);      \
            nap(1);                                                    \
        }                                                              \
    } while (0)

/* ---- Files and memory ----------------------------------------------------------------------------- */

/* The directory that the test may write to; a real file system, as O_DIRECT wants one. */
CHECK_HELPER const char *test_directory(void)
{
    const char *directory = getenv("AIO_TEST_DIR");

    return directory != NULL ? directory : ".";
}

/* Makes a new file there, and gives its name too. The caller unlinks it. */
CHECK_HELPER int named_file(int flags, char name[PATH_MAX])
{
    int fd;

    CHECK(snprintf(name, PATH_MAX, "%s/c-test-XXXXXX", test_directory()) < PATH_MAX);
    fd = mkostemp(name, flags & ~O_ACCMODE);
    CHECK(fd >= 0);
    return fd;
}

/* An empty file without a name, open for reading and writing with these other flags besides. */
CHECK_HELPER int temporary_file(int flags)
{
    char name[PATH_MAX];
    int fd = named_file(0, name);

    if ((flags & ~O_ACCMODE) != 0) {
        close(fd);
        fd = open(name, O_RDWR | (flags & ~O_ACCMODE));
        int error = errno;
        unlink(name);
        if (fd < 0 && error == EINVAL && (flags & O_DIRECT) != 0)
            SKIP("the file system of the test directory has no O_DIRECT");
        CHECK(fd >= 0);
        return fd;
    }
    CHECK_EQ(unlink(name), 0);
    return fd;
}

/* Another open file on the same inode, say for reading only. */
CHECK_HELPER int reopen(int fd, int flags)
{
    char name[64];

    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int again = open(name, flags);
    CHECK(again >= 0);
    return again;
}

/* Zeroed memory as O_DIRECT wants it. */
CHECK_HELPER void *aligned(size_t size)
{
    void *memory = NULL;

    CHECK_EQ(posix_memalign(&memory, 4096, size), 0);
    memset(memory, 0, size);
    return memory;
}

/* Bytes that tell their place and their seed, so that no block can pass for another. */
CHECK_HELPER unsigned char pattern_byte(size_t at, unsigned seed)
{
    uint32_t x = (uint32_t)at * 2654435761u + seed * 40503u + 1;

    return (unsigned char)((x >> 24) ^ (x >> 11));
}

CHECK_HELPER void pattern(void *memory, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)memory)[i] = pattern_byte(i, seed);
}

CHECK_HELPER int is_pattern(const void *memory, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        if (((const unsigned char *)memory)[i] != pattern_byte(i, seed))
            return 0;
    return 1;
}

CHECK_HELPER int is_filled(const void *memory, size_t size, int byte)
{
    for (size_t i = 0; i < size; i++)
        if (((const unsigned char *)memory)[i] != (unsigned char)byte)
            return 0;
    return 1;
}

/* The memory that this process occupies, from /proc. */
CHECK_HELPER long resident_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");

    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    fclose(status);
    CHECK(kib > 0);
    return kib;
}

/* ---- Patience ------------------------------------------------------------------------------------- */

/*
 * Where the harness has the system give no memory or no threads now and then (AIO_TEST_PATIENT), a call that says so is
 * made again: nothing may have come of it. Only there, and not so often that a library which always says so passes.
 */
static int check_attempts = 1;

#define CHECK_PATIENTLY(call, may_try_again)                                           \
    __extension__({                                                                    \
        int check_answer;                                                              \
        int check_left = (may_try_again) ? check_attempts : 1;                         \
        do                                                                             \
            check_answer = (call);                                                     \
        while (check_answer == -1 && errno == EAGAIN && --check_left > 0);             \
        check_answer;                                                                  \
    })

#define aio_read(cb) CHECK_PATIENTLY(aio_read(cb), 1)
#define aio_write(cb) CHECK_PATIENTLY(aio_write(cb), 1)
#define aio_fsync(operation, cb) CHECK_PATIENTLY(aio_fsync(operation, cb), 1)
#define aio_read64(cb) CHECK_PATIENTLY(aio_read64(cb), 1)
#define aio_write64(cb) CHECK_PATIENTLY(aio_write64(cb), 1)
/* With a time-out EAGAIN says that it has passed. */
#define aio_suspend(list, count, timeout) CHECK_PATIENTLY(aio_suspend(list, count, timeout), (timeout) == NULL)

/*
 * What a refused list asked for may be under way in part: what was refused says so in its own status (POSIX lio_listio, "EAGAIN"),
 * and is submitted again. Not where the list has a notification, which may have been given for the rest.
 */
CHECK_HELPER int patient_listio(int mode, struct aiocb *const list[], int count, struct sigevent *event)
{
    int answer = lio_listio(mode, list, count, event), failed = 0;

    for (int left = check_attempts; answer == -1 && errno == EAGAIN && event == NULL && --left > 0;) {
        for (int i = 0; i < count; i++) {
            struct aiocb *one[1] = { list[i] };

            if (list[i] != NULL && list[i]->aio_lio_opcode != LIO_NOP && aio_error(list[i]) == EAGAIN)
                lio_listio(LIO_NOWAIT, one, 1, NULL);
        }
        answer = failed = 0;
        for (int i = 0; i < count; i++) {
            const struct aiocb *one[1] = { list[i] };

            if (list[i] == NULL || list[i]->aio_lio_opcode == LIO_NOP)
                continue;
            while (mode == LIO_WAIT && aio_error(list[i]) == EINPROGRESS)
                if (aio_suspend(one, 1, NULL) == -1 && errno == EINTR)
                    return -1;
            if (aio_error(list[i]) == EAGAIN) {
                errno = EAGAIN;
                answer = -1;
            }
            failed |= mode == LIO_WAIT && aio_error(list[i]) != 0;
        }
    }
    if (answer == 0 && failed) {
        errno = EIO;
        answer = -1;
    }
    return answer;
}

#define lio_listio(mode, list, count, event) patient_listio(mode, list, count, event)

/* ---- Requests ------------------------------------------------------------------------------------- */

/*
 * An aiocb as a program that mallocs it hands it over: every private field garbage. No notification.
 */
CHECK_HELPER void prepare(struct aiocb *cb, int fd, void *buffer, size_t size, off_t offset)
{
    memset(cb, 0xA5, sizeof *cb);
    memset(&cb->aio_sigevent, 0, sizeof cb->aio_sigevent);
    cb->aio_fildes = fd;
    cb->aio_lio_opcode = LIO_NOP;
    cb->aio_reqprio = 0;
    cb->aio_buf = buffer;
    cb->aio_nbytes = size;
    cb->aio_offset = offset;
    cb->aio_sigevent.sigev_notify = SIGEV_NONE;
}

/* Waits for the request to end, and gives its error status; a request that never ends fails the case. */
CHECK_HELPER int await(const struct aiocb *cb)
{
    double deadline = now() + DEADLINE_SECONDS;
    const struct aiocb *list[1] = { cb };
    int error;

    while ((error = aio_error(cb)) == EINPROGRESS) {
        struct timespec slice = { 0, 200 * 1000 * 1000 };

        if (now() > deadline)
            FAIL("a request has not ended in time");
        if (aio_suspend(list, 1, &slice) == -1 && errno != EAGAIN && errno != EINTR)
            FAIL("aio_suspend gives errno %d", errno);
    }
    return error;
}

/* Waits for a request that must succeed, and gives its return value. */
CHECK_HELPER ssize_t finish(struct aiocb *cb)
{
    int error = await(cb);

    if (error != 0)
        FAIL("a request that should succeed ended with error %d", error);
    return aio_return(cb);
}

/* Moves size bytes with one request and waits for it. */
CHECK_HELPER ssize_t write_now(int fd, const void *buffer, size_t size, off_t offset)
{
    struct aiocb cb;

    prepare(&cb, fd, (void *)(uintptr_t)buffer, size, offset);
    CHECK_EQ(aio_write(&cb), 0);
    return finish(&cb);
}

CHECK_HELPER ssize_t read_now(int fd, void *buffer, size_t size, off_t offset)
{
    struct aiocb cb;

    prepare(&cb, fd, buffer, size, offset);
    CHECK_EQ(aio_read(&cb), 0);
    return finish(&cb);
}

/* A request that stays in progress until somebody writes to the pipe: its ends are in ends[]. */
CHECK_HELPER void pending_read(struct aiocb *cb, int ends[2], void *buffer, size_t size)
{
    CHECK_EQ(pipe(ends), 0);
    prepare(cb, ends[0], buffer, size, 0);
}

/* ---- Signals and threads -------------------------------------------------------------------------- */

CHECK_HELPER void on_signal(int signo, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    sigemptyset(&action.sa_mask);
    CHECK_EQ(sigaction(signo, &action, NULL), 0);
}

/* Blocks a signal in this thread and those it starts, so that it can be taken with sigtimedwait. */
CHECK_HELPER void block_signal(int signo)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signo);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
}

/* Takes one pending signal; 0 when none came within so many milliseconds. */
CHECK_HELPER int take_signal(int signo, siginfo_t *info, int milliseconds)
{
    struct timespec limit = { milliseconds / 1000, milliseconds % 1000 * 1000000L };
    sigset_t set;
    int got;

    sigemptyset(&set);
    sigaddset(&set, signo);
    do
        got = sigtimedwait(&set, info, &limit);
    while (got == -1 && errno == EINTR);
    return got == signo;
}

CHECK_HELPER pthread_t start_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    int error = EAGAIN;

    for (int i = 0; i < check_attempts && error == EAGAIN; i++)
        error = pthread_create(&thread, NULL, body, argument);
    CHECK_EQ(error, 0);
    return thread;
}

/* Joins a thread that must have ended in time. */
CHECK_HELPER void *join_thread(pthread_t thread)
{
    struct timespec limit;
    void *result = NULL;

    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += (time_t)DEADLINE_SECONDS;
    int error = pthread_timedjoin_np(thread, &result, &limit);
    if (error != 0)
        FAIL("a thread has not ended in time: error %d", error);
    return result;
}

/* ---- Cases, and main ------------------------------------------------------------------------------ */

struct check_case {
    const char *kind;
    const char *name;
    const char *reason;
    void (*body)(void);
};

static struct check_case check_cases[128];
static int check_case_count;

CHECK_HELPER void check_register(const char *kind, const char *name, const char *reason, void (*body)(void))
{
    if (check_case_count == (int)(sizeof check_cases / sizeof check_cases[0])) {
        fprintf(stderr, "too many cases for check_cases\n");
        _exit(2);
    }
    check_cases[check_case_count++] = (struct check_case){ kind, name, reason, body };
}

#define CHECK_DEFINE(kind, name, reason)                                            \
    static void case_##name(void);                                                  \
    __attribute__((constructor)) static void register_##name(void)                  \
    {                                                                               \
        check_register(kind, #name, reason, case_##name);                           \
    }                                                                               \
    static void case_##name(void)

#define CASE(name) CHECK_DEFINE("case", name, "")
#define DEFECT(name, reason) CHECK_DEFINE("defect", name, reason)
#define DIFFERS(name, reason) CHECK_DEFINE("differs", name, reason)

/* Every export of <aio.h>, as the dynamic linker resolved it for this very program. */
struct check_export {
    const char *name;
    void *address;
};

#define CHECK_EXPORT(function) { #function, (void *)function }
static const struct check_export check_exports[] = {
    CHECK_EXPORT(aio_read),      CHECK_EXPORT(aio_read64),    CHECK_EXPORT(aio_write),
    CHECK_EXPORT(aio_write64),   CHECK_EXPORT(aio_fsync),     CHECK_EXPORT(aio_fsync64),
    CHECK_EXPORT(aio_error),     CHECK_EXPORT(aio_error64),   CHECK_EXPORT(aio_return),
    CHECK_EXPORT(aio_return64),  CHECK_EXPORT(aio_suspend),   CHECK_EXPORT(aio_suspend64),
    CHECK_EXPORT(aio_cancel),    CHECK_EXPORT(aio_cancel64),  CHECK_EXPORT(lio_listio),
    CHECK_EXPORT(lio_listio64),  CHECK_EXPORT(aio_init),
};
#define CHECK_EXPORTS (sizeof check_exports / sizeof check_exports[0])

/*
 * A run that means to test the library and quietly tests libc would prove nothing: the harness names the file that
 * must serve the calls, and each of them is looked up.
 */
CHECK_HELPER void check_implementation(void)
{
    const char *wanted = getenv("AIO_TEST_IMPLEMENTATION");

    for (size_t i = 0; wanted != NULL && i < CHECK_EXPORTS; i++) {
        Dl_info info;

        if (dladdr(check_exports[i].address, &info) == 0 || strstr(info.dli_fname, wanted) == NULL) {
            fprintf(stderr, "%s is served by %s, not by %s\n", check_exports[i].name, info.dli_fname, wanted);
            _exit(3);
        }
    }
}

int main(int count, char **arguments)
{
    if (count < 2) {
        for (int i = 0; i < check_case_count; i++)
            printf("%s %s %s\n", check_cases[i].kind, check_cases[i].name, check_cases[i].reason);
        return 0;
    }
    check_implementation();
    if (getenv("AIO_TEST_PATIENT") != NULL)
        check_attempts = 20;
    for (int i = 0; i < check_case_count; i++) {
        if (strcmp(arguments[1], check_cases[i].name) == 0) {
            check_cases[i].body();
            return 0;
        }
    }
    fprintf(stderr, "there is no case %s\n", arguments[1]);
    return 2;
}

#endif
