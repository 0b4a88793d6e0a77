/* What a checker must find in the library's own code: programs that break aio(7)'s rules. */
#include "../check.h"

/* Of a size that the compiler does not know: a checker that is only linked sees the call, not what it is made into. */
static void *overwrite(void *aiocb)
{
    volatile size_t size = sizeof(struct aiocb);

    memset(aiocb, 0, size);
    return NULL;
}

CASE(a_freed_aiocb_is_asked)
{
    struct aiocb *volatile cb = malloc(sizeof *cb);
    char byte = 1;
    int fd = temporary_file(0);

    prepare(cb, fd, &byte, 1, 0);
    CHECK_EQ(aio_write(cb), 0);
    CHECK_EQ(finish(cb), 1);
    free(cb);
    printf("%d\n", aio_error(cb));
}

CASE(an_aiocb_is_overwritten_by_another_thread)
{
    static struct aiocb cb;
    char byte = 1;
    int fd = temporary_file(0);

    prepare(&cb, fd, &byte, 1, 0);
    pthread_t thread = start_thread(overwrite, &cb);
    nap(100);
    printf("%d\n", aio_error(&cb));
    join_thread(thread);
}
