/*
 * Sockets: UNIX stream, datagram and seqpacket, TCP and UDP over the loopback. Each direction is served in the order of
 * the calls, and neither direction waits for the other.
 *
 * Seen to fail: with the last request first in a descriptor's queue, the cases of call order and of messages; with one queue
 * for both directions, waiting_read_does_not_hold_back_a_write and waiting_write_does_not_hold_back_a_read.
 */
#include "tools/descriptors.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* A connected pair over TCP on the loopback. */
static void tcp_pair(int pair[2])
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(listener >= 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    pair[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(connect(pair[0], (struct sockaddr *)&address, sizeof address), 0);
    pair[1] = accept(listener, NULL, NULL);
    CHECK(pair[1] >= 0);
    close(listener);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)), 0);
}

static void unix_pair(int type, int pair[2])
{
    CHECK_EQ(socketpair(AF_UNIX, type, 0, pair), 0);
}

static void stream_pair(int is_tcp, int pair[2])
{
    if (is_tcp)
        tcp_pair(pair);
    else
        unix_pair(SOCK_STREAM, pair);
}

#define ON_STREAMS(name)                                 \
    static void name(int is_tcp);                        \
    CASE(unix_##name) { name(0); }                       \
    CASE(tcp_##name) { name(1); }                        \
    static void name(int is_tcp)

#define DEFECT_ON_STREAMS(name, reason)                  \
    static void name(int is_tcp);                        \
    DEFECT(unix_##name, reason) { name(0); }             \
    DEFECT(tcp_##name, reason) { name(1); }              \
    static void name(int is_tcp)

ON_STREAMS(read_waits_and_gives_what_is_there)
{
    char buffer[100] = "";
    struct aiocb cb;
    int pair[2];

    stream_pair(is_tcp, pair);
    start_read(&cb, pair[0], buffer, sizeof buffer, 12345);
    check_pending(&cb);
    feed(pair[1], "hello", 5);
    printf("%zd %s\n", finish(&cb), buffer);
}

ON_STREAMS(reads_are_filled_in_call_order)
{
    enum { READS = 200 };
    static struct aiocb cbs[READS];
    static int numbers[READS], sent[READS];
    int pair[2];

    stream_pair(is_tcp, pair);
    for (int i = 0; i < READS; i++) {
        sent[i] = i;
        start_read(&cbs[i], pair[0], &numbers[i], sizeof numbers[i], 0);
    }
    feed(pair[1], sent, sizeof sent);
    for (int i = 0; i < READS; i++) {
        CHECK_EQ(finish(&cbs[i]), sizeof numbers[i]);
        CHECK_EQ(numbers[i], i);
    }
}

ON_STREAMS(writes_arrive_in_call_order)
{
    enum { WRITES = 64, SIZE = 100000 };
    static unsigned char data[WRITES][SIZE], got[WRITES][SIZE];
    static struct aiocb cbs[WRITES];
    int pair[2];

    stream_pair(is_tcp, pair);
    for (int i = 0; i < WRITES; i++) {
        pattern(data[i], SIZE, (unsigned)i);
        start_write(&cbs[i], pair[0], data[i], SIZE, 0);
    }
    CHECK_EQ(drain(pair[1], got, sizeof got), sizeof got);
    for (int i = 0; i < WRITES; i++) {
        CHECK_EQ(finish(&cbs[i]), SIZE);
        CHECK(is_pattern(got[i], SIZE, (unsigned)i));
    }
}

ON_STREAMS(write_bigger_than_the_buffers_finishes_whole)
{
    enum { SIZE = 16 << 20 };
    unsigned char *data = aligned(SIZE), *got = aligned(SIZE);
    struct aiocb cb;
    int pair[2];

    stream_pair(is_tcp, pair);
    pattern(data, SIZE, 2);
    start_write(&cb, pair[0], data, SIZE, 0);
    check_pending(&cb);
    check_file_read_works();
    CHECK_EQ(drain(pair[1], got, SIZE), SIZE);
    CHECK_EQ(finish(&cb), SIZE);
    CHECK(is_pattern(got, SIZE, 2));
}

ON_STREAMS(end_of_file_ends_every_waiting_read)
{
    enum { READS = 10 };
    struct aiocb cbs[READS];
    char buffers[READS][8];
    int pair[2];

    stream_pair(is_tcp, pair);
    for (int i = 0; i < READS; i++)
        start_read(&cbs[i], pair[0], buffers[i], sizeof buffers[i], 0);
    feed(pair[1], "0123456789ab", 12);
    CHECK_EQ(shutdown(pair[1], SHUT_WR), 0);
    for (int i = 0; i < READS; i++)
        printf("%zd ", finish(&cbs[i]));
    printf("%zd\n", read_now(pair[0], buffers[0], 8, 0));
}

ON_STREAMS(write_without_a_reader_gives_EPIPE_and_no_signal)
{
    struct aiocb cb;
    sigset_t set;
    int pair[2], error = 0;

    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
    stream_pair(is_tcp, pair);
    close(pair[1]);
    /* A TCP peer says that it is gone only when the first write reaches it. */
    for (int i = 0; i < 100 && error != EPIPE; i++) {
        start_write(&cb, pair[0], "x", 1, 0);
        error = await(&cb);
        CHECK(error == 0 || error == EPIPE || error == ECONNRESET);
        nap(1);
    }
    CHECK_EQ(error, EPIPE);
    for (int i = 0; i < 10; i++) {
        start_write(&cb, pair[0], "x", 1, 0);
        CHECK_ENDS_WITH(&cb, EPIPE);
    }
}

ON_STREAMS(nonblocking_requests_give_EAGAIN_instead_of_waiting)
{
    enum { SIZE = 32 << 20 };
    char *data = aligned(SIZE), byte;
    struct aiocb cb;
    int pair[2];

    stream_pair(is_tcp, pair);
    set_nonblocking(pair[0]);
    start_read(&cb, pair[0], &byte, 1, 0);
    CHECK_ENDS_WITH(&cb, EAGAIN);
    /* The first takes what fits; TCP may find room for some more as its segments move on. */
    ssize_t written = write_now(pair[0], data, SIZE, 0);
    CHECK(written > 0 && written < SIZE);
    for (int tries = 0;; tries++) {
        CHECK(tries < 1000);
        start_write(&cb, pair[0], data, SIZE, 0);
        if (await(&cb) != 0)
            break;
    }
    CHECK_ENDS_WITH(&cb, EAGAIN);
}

DEFECT_ON_STREAMS(waiting_read_does_not_hold_back_a_write, "one queue serves both directions of a descriptor")
{
    char buffer[8] = "", got[8] = "";
    struct aiocb reading;
    int pair[2];

    stream_pair(is_tcp, pair);
    start_read(&reading, pair[0], buffer, sizeof buffer, 0);
    CHECK_EQ(write_now(pair[0], "ask", 4, 0), 4);
    CHECK_EQ(drain(pair[1], got, 4), 4);
    CHECK_EQ(strcmp(got, "ask"), 0);
    CHECK_EQ(aio_error(&reading), EINPROGRESS);
    feed(pair[1], "answer", 7);
    CHECK_EQ(finish(&reading), 7);
    CHECK_EQ(strcmp(buffer, "answer"), 0);
}

DEFECT_ON_STREAMS(waiting_write_does_not_hold_back_a_read, "one queue serves both directions of a descriptor")
{
    enum { SIZE = 16 << 20 };
    unsigned char *data = aligned(SIZE), *got = aligned(SIZE);
    char buffer[8] = "";
    struct aiocb writing;
    int pair[2];

    stream_pair(is_tcp, pair);
    start_write(&writing, pair[0], data, SIZE, 0);
    feed(pair[1], "news", 5);
    CHECK_EQ(read_now(pair[0], buffer, sizeof buffer, 0), 5);
    CHECK_EQ(strcmp(buffer, "news"), 0);
    CHECK_EQ(aio_error(&writing), EINPROGRESS);
    CHECK_EQ(drain(pair[1], got, SIZE), SIZE);
    CHECK_EQ(finish(&writing), SIZE);
}

/* Two peers that ask and answer through AIO only: each message waits for the other's. */
static void *echo(void *argument)
{
    int fd = *(int *)argument;
    char message[64];
    struct aiocb cb;

    for (;;) {
        start_read(&cb, fd, message, sizeof message, 0);
        ssize_t size = finish(&cb);
        if (size == 0)
            return NULL;
        CHECK_EQ(write_now(fd, message, (size_t)size, 0), size);
    }
}

ON_STREAMS(ping_pong)
{
    int pair[2], number = 0;

    stream_pair(is_tcp, pair);
    pthread_t peer = start_thread(echo, &pair[1]);
    for (int i = 0; i < 2000; i++) {
        CHECK_EQ(write_now(pair[0], &i, sizeof i, 0), sizeof i);
        CHECK_EQ(read_now(pair[0], &number, sizeof number, 0), sizeof number);
        CHECK_EQ(number, i);
    }
    CHECK_EQ(shutdown(pair[0], SHUT_WR), 0);
    join_thread(peer);
}

CASE(tcp_reset_ends_a_waiting_read_with_its_error)
{
    struct linger at_once = { 1, 0 };
    struct aiocb cb;
    char byte;
    int pair[2];

    tcp_pair(pair);
    start_read(&cb, pair[0], &byte, 1, 0);
    check_pending(&cb);
    CHECK_EQ(setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    close(pair[1]);
    CHECK_ENDS_WITH(&cb, ECONNRESET);
}

CASE(unconnected_stream_gives_ENOTCONN)
{
    struct aiocb cb;
    char byte;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(fd >= 0);
    start_read(&cb, fd, &byte, 1, 0);
    CHECK_ENDS_WITH(&cb, ENOTCONN);
}

CASE(udp_error_reaches_the_waiting_read)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;
    int gone = socket(AF_INET, SOCK_DGRAM, 0), fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct aiocb cb;
    char byte;

    CHECK(gone >= 0 && fd >= 0);
    CHECK_EQ(bind(gone, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(getsockname(gone, (struct sockaddr *)&address, &size), 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(gone);
    start_read(&cb, fd, &byte, 1, 0);
    check_pending(&cb);
    feed(fd, "x", 1);
    CHECK_ENDS_WITH(&cb, ECONNREFUSED);
}

/* Sockets that keep messages apart. */
#define ON_MESSAGES(name)                                \
    static void name(int type);                          \
    CASE(datagram_##name) { name(SOCK_DGRAM); }          \
    CASE(seqpacket_##name) { name(SOCK_SEQPACKET); }     \
    static void name(int type)

ON_MESSAGES(each_read_takes_one_message)
{
    enum { READS = 5 };
    static const char *messages[READS] = { "one", "", "three and more than fits", "four", "five" };
    char buffers[READS][8];
    struct aiocb cbs[READS];
    int pair[2];

    unix_pair(type, pair);
    for (int i = 0; i < READS; i++) {
        memset(buffers[i], 0, sizeof buffers[i]);
        start_read(&cbs[i], pair[0], buffers[i], sizeof buffers[i] - 1, 0);
    }
    for (int i = 0; i < READS; i++)
        CHECK_EQ(send(pair[1], messages[i], strlen(messages[i]), 0), strlen(messages[i]));
    for (int i = 0; i < READS; i++) {
        ssize_t size = finish(&cbs[i]);
        printf("%zd [%s]\n", size, buffers[i]);
    }
}

ON_MESSAGES(writes_wait_for_a_slow_reader_in_call_order)
{
    enum { WRITES = 2000, SIZE = 700 };
    static unsigned char data[WRITES][SIZE], got[SIZE + 1];
    static struct aiocb cbs[WRITES];
    int pair[2];

    unix_pair(type, pair);
    for (int i = 0; i < WRITES; i++) {
        pattern(data[i], SIZE, (unsigned)i);
        start_write(&cbs[i], pair[0], data[i], SIZE, 0);
    }
    check_pending(&cbs[WRITES - 1]);
    check_file_read_works();
    for (int i = 0; i < WRITES; i++) {
        CHECK_EQ(read(pair[1], got, sizeof got), SIZE);
        CHECK(is_pattern(got, SIZE, (unsigned)i));
    }
    for (int i = 0; i < WRITES; i++)
        CHECK_EQ(finish(&cbs[i]), SIZE);
}

/* As many small messages as the queue takes; gives their number. */
static int fill_queue(int fd)
{
    int count = 0;

    while (send(fd, "x", 1, MSG_DONTWAIT) == 1)
        count++;
    CHECK_EQ(errno, EAGAIN);
    return count;
}

/*
 * An empty message takes its place in the queue as any other. Seen to fail, with success and no message, when a write of no bytes is
 * over whatever the one attempt to send it gave.
 */
ON_MESSAGES(empty_write_waits_for_room)
{
    struct aiocb cb;
    char byte;
    int pair[2];

    unix_pair(type, pair);
    int count = fill_queue(pair[0]);
    start_write(&cb, pair[0], "", 0, 0);
    check_pending(&cb);
    for (int i = 0; i < count; i++)
        CHECK_EQ(read(pair[1], &byte, 1), 1);
    CHECK_EQ(finish(&cb), 0);
    CHECK_EQ(recv(pair[1], &byte, 1, MSG_DONTWAIT), 0);
    CHECK_FAILS(recv(pair[1], &byte, 1, MSG_DONTWAIT), EAGAIN);
}

/* Seen to fail in the same way. */
ON_MESSAGES(empty_nonblocking_write_to_a_full_queue_gives_EAGAIN)
{
    struct aiocb cb;
    int pair[2];

    unix_pair(type, pair);
    fill_queue(pair[0]);
    set_nonblocking(pair[0]);
    start_write(&cb, pair[0], "", 0, 0);
    CHECK_ENDS_WITH(&cb, EAGAIN);
}

/* Seen to fail in the same way: the request succeeds. */
ON_MESSAGES(empty_write_to_a_peer_that_is_gone_fails)
{
    struct aiocb waiting, cb;
    int pair[2];

    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    unix_pair(type, pair);
    fill_queue(pair[0]);
    start_write(&waiting, pair[0], "", 0, 0);
    nap(30);
    close(pair[1]);
    printf("%d ", await(&waiting));
    start_write(&cb, pair[0], "", 0, 0);
    printf("%d\n", await(&cb));
}

ON_MESSAGES(too_big_a_message_gives_EMSGSIZE)
{
    enum { SIZE = 8 << 20 };
    struct aiocb cb;
    int pair[2];

    unix_pair(type, pair);
    start_write(&cb, pair[0], aligned(SIZE), SIZE, 0);
    CHECK_ENDS_WITH(&cb, EMSGSIZE);
}

CASE(seqpacket_end_of_file)
{
    struct aiocb cb;
    char buffer[8];
    int pair[2];

    unix_pair(SOCK_SEQPACKET, pair);
    start_read(&cb, pair[0], buffer, sizeof buffer, 0);
    close(pair[1]);
    printf("%zd\n", finish(&cb));
}

/*
 * A write that waits for room, and then either side says that there will be none. Seen to fail, by waiting for ever: poll(2) says
 * nothing of such a socket.
 */
static void shut_down_while_full(int type, int is_peer)
{
    enum { SIZE = 4 << 20 };
    static char got[SIZE];
    struct aiocb cbs[2];
    int pair[2];

    unix_pair(type, pair);
    if (type == SOCK_STREAM)
        start_write(&cbs[0], pair[0], aligned(SIZE), SIZE, 0);
    else
        fill_queue(pair[0]);
    start_write(&cbs[1], pair[0], "x", 1, 0);
    check_pending(&cbs[1]);
    CHECK_EQ(shutdown(pair[is_peer], is_peer ? SHUT_RD : SHUT_WR), 0);
    CHECK_ENDS_WITH(&cbs[1], EPIPE);
    /* What was written before is there, unless it is the reader that said so. */
    if (type == SOCK_STREAM) {
        ssize_t written = finish(&cbs[0]);

        CHECK(written > 0 && written < SIZE);
        if (!is_peer)
            CHECK_EQ(drain(pair[1], got, SIZE), written);
    }
}

CASE(stream_write_ends_when_the_reader_reads_no_more) { shut_down_while_full(SOCK_STREAM, 1); }
CASE(stream_write_ends_when_no_more_is_to_be_written) { shut_down_while_full(SOCK_STREAM, 0); }
CASE(packet_write_ends_when_the_reader_reads_no_more) { shut_down_while_full(SOCK_SEQPACKET, 1); }
CASE(packet_write_ends_when_no_more_is_to_be_written) { shut_down_while_full(SOCK_SEQPACKET, 0); }
