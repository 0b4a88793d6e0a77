/* A program that makes a known number of each request, for the test of what is counted.
 *
 * counted DIRECTORY [fork|exec]: with "fork" a child makes the same requests too, with "exec" a child that
 * starts this program anew. Prints how large the kernel's ring is, whether this is a secure execution (set-user-ID), and "done". */
#define _GNU_SOURCE
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[4096];
static volatile sig_atomic_t signals, threads;

static void on_signal(int number)
{
    (void)number;
    signals = 1;
}

static void on_thread(union sigval value)
{
    (void)value;
    threads = 1;
}

static struct aiocb request(int fd, size_t bytes)
{
    struct aiocb made;

    memset(&made, 0, sizeof made);
    made.aio_fildes = fd;
    made.aio_buf = buffer;
    made.aio_nbytes = bytes;
    made.aio_sigevent.sigev_notify = SIGEV_NONE;
    return made;
}

static void die(const char *what)
{
    fprintf(stderr, "counted: %s: %s\n", what, strerror(errno));
    _exit(1);
}

/* Waits, and says how it ended. */
static int end_of(struct aiocb *made)
{
    const struct aiocb *list[1] = { made };

    while (aio_error(made) == EINPROGRESS)
        if (aio_suspend(list, 1, NULL) != 0 && errno != EINTR)
            die("aio_suspend");
    return aio_error(made);
}

static void succeeds(int started, struct aiocb *made)
{
    if (started != 0 || end_of(made) != 0)
        die("a request");
}

static void work(const char *directory)
{
    struct aiocb waiting[4], made;
    int file = open(directory, O_TMPFILE | O_RDWR, 0600), ends[2], i;

    if (file < 0 || pipe(ends) != 0)
        die("open");
    /* 4 reads of an empty pipe in flight, and a write beside them: 5 at once. */
    for (i = 0; i < 4; i++) {
        waiting[i] = request(ends[0], 1);
        if (aio_read(&waiting[i]) != 0)
            die("aio_read");
    }
    for (i = 0; i < 4; i++) {
        made = request(ends[1], 1);
        succeeds(aio_write(&made), &made);
        succeeds(0, &waiting[i]);
    }
    made = request(ends[0], 1);
    if (aio_read(&made) != 0 || aio_cancel(ends[0], &made) != AIO_CANCELED || end_of(&made) != ECANCELED)
        die("aio_cancel");
    /* One that fails: the wrong end. */
    made = request(ends[1], 1);
    if (aio_read(&made) != 0 || end_of(&made) != EBADF)
        die("a read of a pipe's other end");
    for (i = 0; i < 10; i++) {
        made = request(file, sizeof buffer);
        succeeds(aio_write(&made), &made);
    }
    for (i = 0; i < 3; i++) {
        made = request(file, 0);
        succeeds(aio_fsync(O_SYNC, &made), &made);
    }
    for (i = 0; i < 2; i++) {
        made = request(file, 0);
        succeeds(aio_fsync(O_DSYNC, &made), &made);
    }
    for (i = 0; i < 20; i++) {
        made = request(file, sizeof buffer);
        succeeds(aio_read(&made), &made);
    }
    signal(SIGUSR1, on_signal);
    made = request(file, sizeof buffer);
    made.aio_sigevent.sigev_notify = SIGEV_SIGNAL;
    made.aio_sigevent.sigev_signo = SIGUSR1;
    succeeds(aio_read(&made), &made);
    made = request(file, sizeof buffer);
    made.aio_sigevent.sigev_notify = SIGEV_THREAD;
    made.aio_sigevent.sigev_notify_function = on_thread;
    succeeds(aio_read(&made), &made);
    while (!signals || !threads)
        usleep(1000);
    close(file);
    close(ends[0]);
    close(ends[1]);
}

static unsigned long ring_bytes(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long from, to, bytes = 0;
    char line[512];

    if (maps == NULL)
        die("/proc/self/maps");
    while (fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, "/[aio]") != NULL && sscanf(line, "%lx-%lx", &from, &to) == 2)
            bytes += to - from;
    fclose(maps);
    return bytes;
}

int main(int count, char **words)
{
    int status;

    if (count < 2)
        return 2;
    work(words[1]);
    if (count > 2) {
        pid_t child = fork();

        if (child == 0 && strcmp(words[2], "exec") == 0) {
            execl(words[0], words[0], words[1], (char *)NULL);
            _exit(1);
        }
        if (child == 0) {
            signals = threads = 0;
            work(words[1]);
            _exit(0);
        }
        if (waitpid(child, &status, 0) != child || status != 0)
            die("the child");
    }
    printf("ring %lu\n", ring_bytes());
    printf("%s\ndone\n", getauxval(AT_SECURE) ? "secure" : "plain");
    return 0;
}
