/*
 * Files opened with O_APPEND: writes take effect in the order of the calls, however they are submitted.
 * (Pipes, sockets and terminals have their order shown in their own programs.)
 *
 * Seen to fail: with a file's last write first in its queue, every case.
 */
#include "tools/descriptors.h"

enum { RECORD = 512, MOST = 4000 };

static unsigned char records[MOST][RECORD];
static struct aiocb cbs[MOST];

static void make_records(int count)
{
    for (int i = 0; i < count; i++)
        pattern(records[i], RECORD, (unsigned)i);
}

/* The file holds exactly these records, one after the other. */
static void check_records(int fd, int count)
{
    unsigned char *got = aligned((size_t)count * RECORD + 1);

    CHECK_EQ(pread(fd, got, (size_t)count * RECORD + 1, 0), (off_t)count * RECORD);
    for (int i = 0; i < count; i++)
        if (!is_pattern(got + (size_t)i * RECORD, RECORD, (unsigned)i))
            FAIL("record %d of %d is not in its place", i, count);
    free(got);
}

static void finish_all(int count)
{
    for (int i = 0; i < count; i++)
        CHECK_EQ(finish(&cbs[i]), RECORD);
}

CASE(appends_take_effect_in_call_order)
{
    int fd = temporary_file(O_APPEND);

    make_records(2000);
    for (int i = 0; i < 2000; i++)
        start_write(&cbs[i], fd, records[i], RECORD, 0);
    finish_all(2000);
    check_records(fd, 2000);
}

CASE(appends_ignore_offset_and_priority)
{
    int fd = temporary_file(O_APPEND);

    make_records(500);
    for (int i = 0; i < 500; i++) {
        prepare(&cbs[i], fd, records[i], RECORD, (500 - i) * 100);
        /* Equal for all: POSIX lets a lower priority wait, and glibc does so. */
        cbs[i].aio_reqprio = 5;
        CHECK_EQ(aio_write(&cbs[i]), 0);
    }
    finish_all(500);
    check_records(fd, 500);
}

CASE(appends_of_very_different_sizes_keep_their_order)
{
    enum { BIG = 4 << 20, ROUNDS = 8 };
    static unsigned char *big, small[100];
    static struct aiocb pairs[ROUNDS][2];
    int fd = temporary_file(O_APPEND);

    big = aligned(BIG);
    memset(big, 'B', BIG);
    memset(small, 's', sizeof small);
    for (int i = 0; i < ROUNDS; i++) {
        start_write(&pairs[i][0], fd, big, BIG, 0);
        start_write(&pairs[i][1], fd, small, sizeof small, 0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(finish(&pairs[i][0]), BIG);
        CHECK_EQ(finish(&pairs[i][1]), sizeof small);
    }
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(drain(fd, big, BIG), BIG);
        CHECK(is_filled(big, BIG, 'B'));
        CHECK_EQ(drain(fd, small, sizeof small), sizeof small);
        CHECK(is_filled(small, sizeof small, 's'));
    }
}

CASE(direct_appends_take_effect_in_call_order)
{
    enum { BLOCK = 4096, WRITES = 200 };
    unsigned char *data = aligned(BLOCK * WRITES), *got = aligned(BLOCK * WRITES);
    int fd = temporary_file(O_APPEND | O_DIRECT);

    for (int i = 0; i < WRITES; i++) {
        pattern(data + i * BLOCK, BLOCK, (unsigned)i);
        start_write(&cbs[i], fd, data + i * BLOCK, BLOCK, 0);
    }
    for (int i = 0; i < WRITES; i++)
        CHECK_EQ(finish(&cbs[i]), BLOCK);
    CHECK_EQ(pread(fd, got, BLOCK * WRITES, 0), BLOCK * WRITES);
    CHECK_EQ(memcmp(data, got, BLOCK * WRITES), 0);
}

CASE(appends_of_a_list_keep_its_order)
{
    enum { LISTS = 8, LENGTH = 100 };
    static struct aiocb *list[LENGTH];
    int fd = temporary_file(O_APPEND);

    make_records(LISTS * LENGTH);
    for (int i = 0; i < LISTS; i++) {
        for (int j = 0; j < LENGTH; j++) {
            int at = i * LENGTH + j;

            list[j] = &cbs[at];
            prepare(list[j], fd, records[at], RECORD, 0);
            list[j]->aio_lio_opcode = LIO_WRITE;
        }
        CHECK_EQ(lio_listio(i % 2 == 0 ? LIO_NOWAIT : LIO_WAIT, list, LENGTH, NULL), 0);
    }
    finish_all(LISTS * LENGTH);
    check_records(fd, LISTS * LENGTH);
}

CASE(appends_keep_their_order_around_barriers_and_reads)
{
    enum { BARRIERS = 20 };
    static struct aiocb barriers[BARRIERS], reads[BARRIERS];
    static unsigned char buffers[BARRIERS][RECORD];
    int fd = temporary_file(O_APPEND), written = 0;

    make_records(1000);
    for (int i = 0; i < BARRIERS; i++) {
        for (int j = 0; j < 1000 / BARRIERS; j++, written++)
            start_write(&cbs[written], fd, records[written], RECORD, 0);
        prepare(&barriers[i], fd, NULL, 0, 0);
        CHECK_EQ(aio_fsync(i % 2 == 0 ? O_SYNC : O_DSYNC, &barriers[i]), 0);
        start_read(&reads[i], fd, buffers[i], RECORD, 0);
    }
    finish_all(1000);
    for (int i = 0; i < BARRIERS; i++) {
        CHECK_EQ(finish(&barriers[i]), 0);
        ssize_t got = finish(&reads[i]);
        /* The read may come before the first write, or after it. */
        CHECK(got == 0 || (got == RECORD && is_pattern(buffers[i], RECORD, 0)));
    }
    check_records(fd, 1000);
}

/* A waiter may do the work that it waits for, but not before the work that comes first. */
CASE(waiting_for_the_last_append_does_not_move_it_forward)
{
    int fd = temporary_file(O_APPEND);

    make_records(1000);
    for (int i = 0; i < 1000; i++) {
        start_write(&cbs[i], fd, records[i], RECORD, 0);
        if (i % 10 == 9) {
            const struct aiocb *list[1] = { &cbs[i] };
            int result;

            while ((result = aio_suspend(list, 1, NULL)) == -1 && errno == EINTR)
                continue;
            CHECK_EQ(result, 0);
            CHECK_EQ(aio_error(&cbs[i]), 0);
            /* All that was appended before is there. */
            struct stat status;
            CHECK_EQ(fstat(fd, &status), 0);
            CHECK_EQ(status.st_size, (off_t)(i + 1) * RECORD);
        }
    }
    finish_all(1000);
    check_records(fd, 1000);
}

/* Each thread's appends keep their own order among those of the others. */
struct appender {
    int fd;
    int number;
};

static void *append(void *argument)
{
    struct appender *self = argument;

    for (int i = self->number; i < MOST; i += 4) {
        prepare(&cbs[i], self->fd, records[i], RECORD, 0);
        memset(records[i], self->number, RECORD);
        memcpy(records[i], &i, sizeof i);
        CHECK_EQ(aio_write(&cbs[i]), 0);
    }
    return NULL;
}

CASE(appends_of_several_threads_keep_each_threads_order)
{
    struct appender appenders[4];
    pthread_t threads[4];
    int fd = temporary_file(O_APPEND), last[4] = { -1, -1, -1, -1 };
    unsigned char record[RECORD];

    for (int i = 0; i < 4; i++) {
        appenders[i] = (struct appender){ fd, i };
        threads[i] = start_thread(append, &appenders[i]);
    }
    for (int i = 0; i < 4; i++)
        join_thread(threads[i]);
    finish_all(MOST);
    for (int i = 0; i < MOST; i++) {
        int number;

        CHECK_EQ(drain(fd, record, RECORD), RECORD);
        memcpy(&number, record, sizeof number);
        CHECK(number >= 0 && number < MOST);
        CHECK(is_filled(record + sizeof number, RECORD - sizeof number, number % 4));
        CHECK(number > last[number % 4]);
        last[number % 4] = number;
    }
    CHECK_EQ(drain(fd, record, 1), 0);
}
