/*
 * Devices and kernel objects behind descriptors: /dev/null, /dev/zero, /dev/full, /dev/urandom, eventfd, timerfd, memfd, /proc.
 *
 * Seen to fail: with O_NONBLOCK forgotten, nonblocking_eventfd_gives_EAGAIN; with one queue for both directions,
 * eventfd_write_passes_a_waiting_read; with one for all eventfds, as they share an inode,
 * waiting_eventfd_read_holds_back_no_other_eventfd.
 */
#include "children.h"
#include "tools/descriptors.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static int open_device(const char *name)
{
    int fd = open(name, O_RDWR);

    CHECK(fd >= 0);
    return fd;
}

CASE(dev_null_reads_nothing_and_takes_everything)
{
    enum { SIZE = 1 << 20 };
    char *data = aligned(SIZE);
    int fd = open_device("/dev/null");

    printf("%zd ", read_now(fd, data, SIZE, 0));
    printf("%zd\n", write_now(fd, data, SIZE, 1LL << 40));
}

static void *want_the_processor(void *stop)
{
    while (!*(volatile int *)stop)
        sched_yield();
    return NULL;
}

/*
 * Told not to wait, the kernel stops short there when another thread wants the processor. Seen to fail, within a second beside one that
 * does, when that is taken for all there is.
 */
CASE(dev_zero_gives_all_that_is_asked_for)
{
    enum { SIZE = 128 << 10 };
    char *data = aligned(SIZE);
    int fd = open_device("/dev/zero"), stop = 0;
    double end = now() + 1;
    pthread_t thread = start_thread(want_the_processor, &stop);
    pthread_t other = start_thread(want_the_processor, &stop);

    while (now() < end)
        CHECK_EQ(read_now(fd, data, SIZE, 0), SIZE);
    stop = 1;
    join_thread(thread);
    join_thread(other);
}

CASE(dev_zero_reads_zeroes)
{
    enum { SIZE = 1 << 20 };
    unsigned char *data = aligned(SIZE);
    int fd = open_device("/dev/zero");

    memset(data, 0xff, SIZE);
    printf("%zd ", read_now(fd, data, SIZE, 0));
    CHECK(is_filled(data, SIZE, 0));
    printf("%zd\n", write_now(fd, data, SIZE, 4096));
}

CASE(dev_full_has_no_space)
{
    enum { SIZE = 1 << 16 };
    unsigned char *data = aligned(SIZE);
    struct aiocb cb;
    int fd = open_device("/dev/full");

    memset(data, 0xff, SIZE);
    printf("%zd\n", read_now(fd, data, SIZE, 0));
    CHECK(is_filled(data, SIZE, 0));
    start_write(&cb, fd, data, SIZE, 0);
    CHECK_ENDS_WITH(&cb, ENOSPC);
}

CASE(dev_urandom_reads)
{
    unsigned char data[256] = { 0 };
    int fd = open("/dev/urandom", O_RDONLY);

    CHECK(fd >= 0);
    printf("%zd\n", read_now(fd, data, sizeof data, 0));
    CHECK(!is_filled(data, sizeof data, 0));
}

CASE(many_requests_on_devices_at_once)
{
    enum { REQUESTS = 300 };
    static struct aiocb cbs[REQUESTS];
    static unsigned char data[REQUESTS][512];
    int fds[3] = { open_device("/dev/zero"), open_device("/dev/full"), open_device("/dev/null") };

    memset(data, 0xff, sizeof data);
    for (int i = 0; i < REQUESTS; i++)
        start_read(&cbs[i], fds[i % 3], data[i], sizeof data[i], i);
    for (int i = 0; i < REQUESTS; i++)
        CHECK_EQ(finish(&cbs[i]), i % 3 == 2 ? 0 : 512);
    for (int i = 0; i < REQUESTS; i++)
        CHECK(is_filled(data[i], sizeof data[i], i % 3 == 2 ? 0xff : 0));
}

CASE(eventfd_read_waits_for_the_counter)
{
    uint64_t value = 0;
    struct aiocb cb;
    int fd = eventfd(0, 0);

    CHECK(fd >= 0);
    start_read(&cb, fd, &value, sizeof value, 0);
    check_pending(&cb);
    CHECK_EQ(eventfd_write(fd, 42), 0);
    CHECK_EQ(finish(&cb), 8);
    printf("%llu\n", (unsigned long long)value);
}

/* All eventfds have one inode. */
CASE(waiting_eventfd_read_holds_back_no_other_eventfd)
{
    uint64_t first = 0, second = 0, one = 1;
    struct aiocb waiting;
    int empty = eventfd(0, 0), full = eventfd(3, 0);

    CHECK(empty >= 0 && full >= 0);
    start_read(&waiting, empty, &first, sizeof first, 0);
    CHECK_EQ(read_now(full, &second, sizeof second, 0), sizeof second);
    CHECK_EQ(second, 3);
    CHECK_EQ(aio_error(&waiting), EINPROGRESS);
    feed(empty, &one, sizeof one);
    CHECK_EQ(finish(&waiting), sizeof first);
    CHECK_EQ(first, 1);
}

DEFECT(eventfd_write_passes_a_waiting_read, "one queue serves both directions of a descriptor")
{
    uint64_t value = 0, add = 7;
    struct aiocb cb;
    int fd = eventfd(0, 0);

    CHECK(fd >= 0);
    start_read(&cb, fd, &value, sizeof value, 0);
    CHECK_EQ(write_now(fd, &add, sizeof add, 0), 8);
    CHECK_EQ(finish(&cb), 8);
    CHECK_EQ(value, 7);
}

CASE(eventfd_write_waits_for_room)
{
    uint64_t value = 0, most = UINT64_MAX - 1, one = 1;
    struct aiocb cb;
    int fd = eventfd(0, 0);

    CHECK(fd >= 0);
    CHECK_EQ(write_now(fd, &most, sizeof most, 0), 8);
    start_write(&cb, fd, &one, sizeof one, 0);
    check_pending(&cb);
    CHECK_EQ(eventfd_read(fd, &value), 0);
    printf("%zd\n", finish(&cb));
    CHECK_EQ(eventfd_read(fd, &value), 0);
    printf("%llu\n", (unsigned long long)value);
}

CASE(semaphore_gives_one_to_each_read)
{
    enum { READS = 10 };
    struct aiocb cbs[READS];
    uint64_t values[READS] = { 0 };
    int fd = eventfd(0, EFD_SEMAPHORE);

    CHECK(fd >= 0);
    for (int i = 0; i < READS; i++)
        start_read(&cbs[i], fd, &values[i], sizeof values[i], 0);
    check_pending(&cbs[0]);
    CHECK_EQ(eventfd_write(fd, READS - 1), 0);
    for (int i = 0; i < READS - 1; i++) {
        CHECK_EQ(finish(&cbs[i]), 8);
        CHECK_EQ(values[i], 1);
    }
    check_pending(&cbs[READS - 1]);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK_EQ(finish(&cbs[READS - 1]), 8);
}

CASE(too_short_an_eventfd_read_gives_EINVAL)
{
    char bytes[4];
    struct aiocb cb;
    int fd = eventfd(1, 0);

    CHECK(fd >= 0);
    start_read(&cb, fd, bytes, sizeof bytes, 0);
    CHECK_ENDS_WITH(&cb, EINVAL);
}

CASE(nonblocking_eventfd_gives_EAGAIN)
{
    uint64_t value;
    struct aiocb cb;
    int fd = eventfd(0, EFD_NONBLOCK);

    CHECK(fd >= 0);
    start_read(&cb, fd, &value, sizeof value, 0);
    CHECK_ENDS_WITH(&cb, EAGAIN);
}

CASE(timerfd_read_waits_for_the_timer)
{
    struct itimerspec soon = { .it_value.tv_nsec = 50 * 1000 * 1000 };
    uint64_t expirations = 0;
    struct aiocb cb;
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);

    CHECK(fd >= 0);
    start_read(&cb, fd, &expirations, sizeof expirations, 0);
    check_pending(&cb);
    CHECK_EQ(timerfd_settime(fd, 0, &soon, NULL), 0);
    CHECK_EQ(finish(&cb), 8);
    printf("%llu\n", (unsigned long long)expirations);
}

CASE(memfd_is_a_file)
{
    enum { SIZE = 1 << 18 };
    unsigned char *data = aligned(SIZE), *got = aligned(SIZE);
    int fd = memfd_create("test", 0);

    CHECK(fd >= 0);
    pattern(data, SIZE, 4);
    CHECK_EQ(write_now(fd, data, SIZE, 4096), SIZE);
    printf("%zd\n", read_now(fd, got, SIZE, 4096));
    CHECK(is_pattern(got, SIZE, 4));
    printf("%zd\n", read_now(fd, got, SIZE, SIZE));
}

CASE(proc_file_is_read_at_its_offset)
{
    char whole[4096] = "", part[16] = "";
    int fd = open("/proc/version", O_RDONLY);

    CHECK(fd >= 0);
    ssize_t size = pread(fd, whole, sizeof whole, 0);
    CHECK(size > 40);
    CHECK_EQ(read_now(fd, part, sizeof part, 20), 16);
    CHECK_EQ(memcmp(whole + 20, part, 16), 0);
    printf("%zd\n", read_now(fd, part, sizeof part, size));
}

CASE(descriptor_without_data_gives_the_errors_of_read_and_write)
{
    static const char *const names[] = { "directory", "path only", "read only", "write only" };
    int fds[4] = { open(".", O_RDONLY | O_DIRECTORY), open(".", O_PATH), open("/dev/null", O_RDONLY),
                   open("/dev/null", O_WRONLY) };
    char byte;

    for (int i = 0; i < 4; i++) {
        struct aiocb reading, writing;

        CHECK(fds[i] >= 0);
        start_read(&reading, fds[i], &byte, 1, 0);
        start_write(&writing, fds[i], "x", 1, 0);
        printf("%s: read %d", names[i], await(&reading));
        printf(", write %d\n", await(&writing));
    }
}

/* A signalfd tells each thread of its own signals. Seen to fail, by hanging, when the kernel is asked to poll it. */
CASE(waiting_signalfd_read_gets_a_later_signal)
{
    struct signalfd_siginfo info;
    struct aiocb cb;
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    int fd = signalfd(-1, &set, 0);
    CHECK(fd >= 0);
    start_read(&cb, fd, &info, sizeof info, 0);
    nap(20);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(finish(&cb), sizeof info);
    CHECK_EQ(info.ssi_signo, SIGUSR1);
}

/* Seen to fail with ESPIPE, when that ends a write that is tried at its offset without waiting. */
CASE(file_without_positions_is_written)
{
    int fd = open("/proc/self/comm", O_WRONLY);

    CHECK(fd >= 0);
    CHECK_EQ(write_now(fd, "abc", 3, 0), 3);
}

/* Seen to fail with ECANCELED, when the two modes are compared one by one. */
CASE(mode_for_ioctl_alone_ends_with_EBADF)
{
    int fd = open("/dev/null", O_WRONLY | O_RDWR);
    struct aiocb cb;
    char byte = 0;

    CHECK(fd >= 0);
    start_write(&cb, fd, &byte, 1, 0);
    CHECK_EQ(await(&cb), EBADF);
}

/* Seen to fail with success, when the kernel is asked for nothing. */
CASE(empty_read_of_a_directory_ends_with_EISDIR)
{
    int fd = open(".", O_RDONLY);
    struct aiocb cb;
    char byte;

    CHECK(fd >= 0);
    start_read(&cb, fd, &byte, 0, 0);
    CHECK_EQ(await(&cb), EISDIR);
}

/* A tun device in a network of its own, which the kernel gives packets for. */
static int open_tun(struct sockaddr_in *beyond)
{
    struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
    struct sockaddr_in own = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc0000201) };
    int control, fd;

    if (unshare(CLONE_NEWNET) == -1 || (fd = open("/dev/net/tun", O_RDWR)) == -1)
        SKIP("no network of its own, or no tun device");
    strcpy(request.ifr_name, "aio0");
    if (ioctl(fd, TUNSETIFF, &request) == -1)
        SKIP("no tun device");
    control = socket(AF_INET, SOCK_DGRAM, 0);
    memcpy(&request.ifr_addr, &own, sizeof own);
    CHECK_EQ(ioctl(control, SIOCSIFADDR, &request), 0);
    own.sin_addr.s_addr = htonl(0xffffff00);
    memcpy(&request.ifr_netmask, &own, sizeof own);
    CHECK_EQ(ioctl(control, SIOCSIFNETMASK, &request), 0);
    request.ifr_flags = IFF_UP;
    CHECK_EQ(ioctl(control, SIOCSIFFLAGS, &request), 0);
    close(control);
    *beyond = own;
    beyond->sin_addr.s_addr = htonl(0xc0000202);
    beyond->sin_port = htons(9);
    return fd;
}

/* Seen to fail, by waiting for more, when a waiting read that is not of a stream goes on until all that was asked for is there. */
CASE(waiting_tun_read_ends_with_one_packet)
{
    enum { PAYLOAD = 600, WITH_HEADERS = PAYLOAD + 28 };
    static char packet[4096], got[4096];
    struct sockaddr_in beyond;
    struct aiocb cb;
    int fd = open_tun(&beyond), sender = socket(AF_INET, SOCK_DGRAM, 0);
    ssize_t size;

    do {
        start_read(&cb, fd, got, sizeof got, 0);
        nap(30);
        CHECK_EQ(sendto(sender, packet, PAYLOAD, 0, (struct sockaddr *)&beyond, sizeof beyond), PAYLOAD);
        size = finish(&cb);
        CHECK(size <= WITH_HEADERS);
        /* The interface says hello by IPv6. */
    } while (size < WITH_HEADERS);
}

/*
 * /dev/tty is the terminal that was the process's own when it was opened. Seen to fail, with the line of the other, when it
 * is opened anew.
 */
static void change_the_terminal(void *unused)
{
    int masters[2], terminals[2];
    char line[8] = "", out[8] = "";
    struct aiocb cb;

    (void)unused;
    for (int i = 0; i < 2; i++) {
        masters[i] = posix_openpt(O_RDWR | O_NOCTTY);
        CHECK_EQ(grantpt(masters[i]), 0);
        CHECK_EQ(unlockpt(masters[i]), 0);
        terminals[i] = open(ptsname(masters[i]), O_RDWR | O_NOCTTY);
        CHECK(terminals[i] >= 0);
    }
    CHECK(setsid() != -1);
    CHECK_EQ(ioctl(terminals[0], TIOCSCTTY, 0), 0);
    int tty = open("/dev/tty", O_RDWR);

    CHECK(tty >= 0);
    CHECK(signal(SIGHUP, SIG_IGN) != SIG_ERR);
    CHECK_EQ(ioctl(tty, TIOCNOTTY), 0);
    CHECK_EQ(ioctl(terminals[1], TIOCSCTTY, 0), 0);
    start_read(&cb, tty, line, sizeof line, 0);
    check_pending(&cb);
    feed(masters[1], "new\n", 4);
    check_pending(&cb);
    feed(masters[0], "old\n", 4);
    CHECK_EQ(finish(&cb), 4);
    CHECK_EQ(memcmp(line, "old\n", 4), 0);
    CHECK_EQ(write_now(tty, "out", 3, 0), 3);
    /* First the line's echo. */
    CHECK_EQ(drain(masters[0], out, 8), 8);
    CHECK_EQ(memcmp(out, "old\r\nout", 8), 0);
}

CASE(dev_tty_stays_the_terminal_that_it_was) { in_child(change_the_terminal, NULL); }
