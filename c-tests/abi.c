/*
 * The binary interface: a program that was compiled against the C library's <aio.h> finds every name and every
 * field where it expects them.
 *
 * Seen to fail: with an aiocb refused because it says EINPROGRESS, an_aiocb_that_claims_to_be_in_progress_can_be_submitted.
 * Where a member of struct aiocb has another place the library does not compile (the assertions in abi.rs).
 */
#include "check.h"

#include <stddef.h>

/* Where the C library keeps what aio_error and aio_return answer; musl's aiocb agrees. */
#define ERROR_CODE_AT 112
#define RETURN_VALUE_AT 120

static int stored_error(const struct aiocb *cb)
{
    int error;

    memcpy(&error, (const char *)cb + ERROR_CODE_AT, sizeof error);
    return error;
}

static ssize_t stored_return(const struct aiocb *cb)
{
    ssize_t value;

    memcpy(&value, (const char *)cb + RETURN_VALUE_AT, sizeof value);
    return value;
}

CASE(aiocb_has_the_documented_layout)
{
    CHECK_EQ(sizeof(struct aiocb), 168);
    CHECK_EQ(sizeof(struct aiocb64), 168);
    CHECK_EQ(offsetof(struct aiocb, aio_fildes), 0);
    CHECK_EQ(offsetof(struct aiocb, aio_lio_opcode), 4);
    CHECK_EQ(offsetof(struct aiocb, aio_reqprio), 8);
    CHECK_EQ(offsetof(struct aiocb, aio_buf), 16);
    CHECK_EQ(offsetof(struct aiocb, aio_nbytes), 24);
    CHECK_EQ(offsetof(struct aiocb, aio_sigevent), 32);
    CHECK_EQ(offsetof(struct aiocb, aio_offset), 128);
    CHECK_EQ(sizeof(struct sigevent), 64);
    CHECK_EQ(offsetof(struct sigevent, sigev_value), 0);
    CHECK_EQ(offsetof(struct sigevent, sigev_signo), 8);
    CHECK_EQ(offsetof(struct sigevent, sigev_notify), 12);
    CHECK_EQ(offsetof(struct sigevent, sigev_notify_function), 16);
    CHECK_EQ(offsetof(struct sigevent, sigev_notify_attributes), 24);
    CHECK_EQ(sizeof(struct aioinit), 8 * sizeof(int));
}

/* Programs exist that read these fields themselves. */
CASE(status_is_stored_where_libc_stores_it)
{
    char byte = 'x';
    struct aiocb cb;
    int ends[2];

    pending_read(&cb, ends, &byte, 1);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(stored_error(&cb), EINPROGRESS);
    CHECK_EQ(write(ends[1], "y", 1), 1);
    CHECK_EQ(finish(&cb), 1);
    CHECK_EQ(stored_error(&cb), 0);
    CHECK_EQ(stored_return(&cb), 1);

    prepare(&cb, -1, &byte, 1, 0);
    CHECK_EQ(aio_read(&cb), 0);
    CHECK_EQ(await(&cb), EBADF);
    CHECK_EQ(stored_error(&cb), EBADF);
    CHECK_EQ(stored_return(&cb), -1);
}

CASE(every_name_is_found_by_dlsym)
{
    for (size_t i = 0; i < CHECK_EXPORTS; i++) {
        void *found = dlsym(RTLD_DEFAULT, check_exports[i].name);

        if (found == NULL)
            FAIL("%s is not found", check_exports[i].name);
        if (found != check_exports[i].address)
            FAIL("%s is another function for dlsym than for the linker", check_exports[i].name);
        printf("%s\n", check_exports[i].name);
    }
}

#ifdef __x86_64__
/* Binaries from before glibc 2.34 ask for this version, newer ones for GLIBC_2.34. */
extern int old_aio_read(struct aiocb *cb);
extern int old_lio_listio(int mode, struct aiocb *const list[], int count, struct sigevent *event);
__asm__(".symver old_aio_read, aio_read@GLIBC_2.2.5");
__asm__(".symver old_lio_listio, lio_listio@GLIBC_2.2.5");

static void *const old_functions[] = { (void *)old_aio_read, (void *)old_lio_listio };

CASE(binaries_for_an_older_libc_are_served_too)
{
    const char *wanted = getenv("AIO_TEST_IMPLEMENTATION");

    for (size_t i = 0; i < sizeof old_functions / sizeof old_functions[0]; i++) {
        Dl_info info;

        CHECK(dladdr(old_functions[i], &info) != 0);
        if (wanted != NULL && strstr(info.dli_fname, wanted) == NULL)
            FAIL("old name %zu is served by %s", i, info.dli_fname);
    }
    int fd = temporary_file(0);
    char back[5] = "";
    struct aiocb cb;

    CHECK_EQ(pwrite(fd, "hello", 5, 0), 5);
    prepare(&cb, fd, back, 5, 0);
    CHECK_EQ(old_aio_read(&cb), 0);
    CHECK_EQ(finish(&cb), 5);
    CHECK(memcmp(back, "hello", 5) == 0);
}
#endif

CASE(garbage_in_private_fields_is_not_read)
{
    static const unsigned char garbage[] = { 0x00, 0x01, 0x5A, 0x73, 0x80, 0xA5, 0xFF };
    int fd = temporary_file(0);
    char out[64], in[64];

    for (size_t i = 0; i < sizeof garbage; i++) {
        struct aiocb *cb = malloc(sizeof *cb);
        const struct aiocb *list[1] = { cb };

        for (int round = 0; round < 3; round++) {
            memset(cb, garbage[i], sizeof *cb);
            memset(&cb->aio_sigevent, 0, sizeof cb->aio_sigevent);
            cb->aio_sigevent.sigev_notify = SIGEV_NONE;
            cb->aio_fildes = fd;
            cb->aio_reqprio = 0;
            cb->aio_nbytes = sizeof out;
            cb->aio_offset = (off_t)(i * sizeof out);
            cb->aio_buf = round == 1 ? in : out;
            if (round == 0) {
                pattern(out, sizeof out, (unsigned)i);
                CHECK_EQ(aio_write(cb), 0);
            } else if (round == 1) {
                CHECK_EQ(aio_read(cb), 0);
            } else {
                CHECK_EQ(aio_fsync(O_SYNC, cb), 0);
            }
            CHECK_EQ(aio_suspend(list, 1, NULL), 0);
            CHECK_EQ(aio_error(cb), 0);
            CHECK_EQ(aio_return(cb), round == 2 ? 0 : (ssize_t)sizeof out);
        }
        CHECK(is_pattern(in, sizeof in, (unsigned)i));
        free(cb);
    }
}

/* EINPROGRESS left over from an earlier life of the memory must not make a fresh request look known. */
CASE(an_aiocb_that_claims_to_be_in_progress_can_be_submitted)
{
    int fd = temporary_file(0);
    char byte = 'b', back = 0;
    struct aiocb cb;

    prepare(&cb, fd, &byte, 1, 0);
    *(int *)((char *)&cb + ERROR_CODE_AT) = EINPROGRESS;
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), 1);
    CHECK_EQ(read_now(fd, &back, 1, 0), 1);
    CHECK_EQ(back, 'b');
}

CASE(public_fields_are_left_as_they_were)
{
    int fd = temporary_file(0);
    char buffer[16];
    struct aiocb cb;

    pattern(buffer, sizeof buffer, 3);
    prepare(&cb, fd, buffer, sizeof buffer, 5);
    cb.aio_sigevent.sigev_value.sival_int = 42;
    CHECK_EQ(aio_write(&cb), 0);
    CHECK_EQ(finish(&cb), (ssize_t)sizeof buffer);
    CHECK_EQ(cb.aio_fildes, fd);
    CHECK_EQ(cb.aio_reqprio, 0);
    CHECK(cb.aio_buf == buffer);
    CHECK_EQ(cb.aio_nbytes, sizeof buffer);
    CHECK_EQ(cb.aio_offset, 5);
    CHECK_EQ(cb.aio_sigevent.sigev_notify, SIGEV_NONE);
    CHECK_EQ(cb.aio_sigevent.sigev_value.sival_int, 42);
}

CASE(aio_init_takes_any_hints)
{
    struct aioinit hints;
    char byte;
    int fd = temporary_file(0);

    memset(&hints, 0, sizeof hints);
    aio_init(&hints);
    hints.aio_threads = 4;
    hints.aio_num = 256;
    hints.aio_idle_time = 1;
    aio_init(&hints);
    CHECK_EQ(write_now(fd, "i", 1, 0), 1);
    CHECK_EQ(read_now(fd, &byte, 1, 0), 1);
    /* Hints that come after the first request are too late, but do no harm. */
    hints.aio_num = 1;
    aio_init(&hints);
    CHECK_EQ(read_now(fd, &byte, 1, 0), 1);
    CHECK_EQ(byte, 'i');
}
