/*
 * The first call of a process comes while another thread loads an object, and so holds the dynamic loader's lock, of which
 * programs know nothing. What runs then, the object's constructor, may do I/O itself, or wait for the thread that does.
 *
 * Seen to fail: on a library that called dlsym with its own lock held, or at all where it need not, each case as a thread that
 * does not end.
 */
#include "check.h"

static int is_loading, has_started, file;
static int constructor_waits;

/* What the constructor of the object calls. */
static void construct(void)
{
    char byte;

    __atomic_store_n(&is_loading, 1, __ATOMIC_SEQ_CST);
    if (constructor_waits) {
        WAIT_UNTIL(__atomic_load_n(&has_started, __ATOMIC_SEQ_CST));
        return;
    }
    /* Time for the other thread's call to come as far as it can. */
    nap(100);
    CHECK_EQ(read_now(file, &byte, 1, 0), 1);
}

static void *call_for_the_first_time(void *unused)
{
    struct aiocb cb;
    char byte;

    WAIT_UNTIL(__atomic_load_n(&is_loading, __ATOMIC_SEQ_CST));
    prepare(&cb, file, &byte, 1, 0);
    CHECK_EQ(aio_read(&cb), 0);
    __atomic_store_n(&has_started, 1, __ATOMIC_SEQ_CST);
    CHECK_EQ(finish(&cb), 1);
    return unused;
}

static void *load(void *name)
{
    if (dlopen(name, RTLD_NOW) == NULL)
        FAIL("%s", dlerror());
    return NULL;
}

/* An object whose constructor calls the function at the address that stands in the environment. */
static void make_object(char name[PATH_MAX])
{
    static const char source[] = "#include <stdlib.h>\n"
                                 "__attribute__((constructor)) static void begin(void)\n"
                                 "{ ((void (*)(void))strtoul(getenv(\"AIO_TEST_CONSTRUCT\"), NULL, 16))(); }\n";
    char command[2 * PATH_MAX], address[32];

    close(named_file(0, name));
    CHECK(snprintf(command, sizeof command, "cc -shared -fPIC -xc -o '%s' - 2>/dev/null", name) < (int)sizeof command);
    FILE *compiler = popen(command, "w");
    CHECK(compiler != NULL);
    fputs(source, compiler);
    if (pclose(compiler) != 0) {
        unlink(name);
        SKIP("there is no C compiler named cc");
    }
    snprintf(address, sizeof address, "%lx", (unsigned long)(uintptr_t)construct);
    CHECK_EQ(setenv("AIO_TEST_CONSTRUCT", address, 1), 0);
}

static void begin_while_loading(void)
{
    char name[PATH_MAX];

    file = temporary_file(0);
    CHECK_EQ(write(file, "f", 1), 1);
    make_object(name);
    pthread_t caller = start_thread(call_for_the_first_time, NULL);
    pthread_t loader = start_thread(load, name);
    join_thread(caller);
    join_thread(loader);
    unlink(name);
}

CASE(a_constructor_does_io_as_another_thread_does_for_the_first_time)
{
    begin_while_loading();
}

CASE(a_constructor_waits_for_a_thread_that_does_io_for_the_first_time)
{
    constructor_waits = 1;
    begin_while_loading();
}
