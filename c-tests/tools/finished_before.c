/*
 * aio_waitcomplete serves what was complete before its first call: the program refers to it, and the library sees that,
 * however the program is linked.
 */
#include <aio.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../include/aio_posix.h"

int main(void)
{
    struct timespec at_once = { 0, 0 };
    struct aiocb cb, *done = NULL;
    FILE *file = tmpfile();

    memset(&cb, 0, sizeof cb);
    cb.aio_fildes = fileno(file);
    cb.aio_buf = "data";
    cb.aio_nbytes = 4;
    cb.aio_sigevent.sigev_notify = SIGEV_NONE;
    if (aio_write(&cb) != 0)
        return 2;
    while (aio_error(&cb) == EINPROGRESS)
        usleep(1000);
    ssize_t result = aio_waitcomplete(&done, &at_once);
    printf("%zd of %s\n", result, done == &cb ? "the request" : "nothing");
    return 0;
}
