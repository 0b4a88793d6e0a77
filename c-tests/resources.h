/*
 * What a process may have, and what it has.
 */
#ifndef RESOURCES_H
#define RESOURCES_H

#include "check.h"

#include <sys/resource.h>

/* Only the soft limit, so that it can be raised again. */
CHECK_HELPER void limit(int resource, rlim_t most)
{
    struct rlimit both;

    CHECK_EQ(getrlimit(resource, &both), 0);
    both.rlim_cur = most;
    CHECK_EQ(setrlimit(resource, &both), 0);
}

/* A user for whom the limit on threads holds. */
CHECK_HELPER void become_nobody(void)
{
    CHECK_EQ(setgid(65534), 0);
    CHECK_EQ(setuid(65534), 0);
}

/* Bytes of address space in use: as RLIMIT_AS, no more is to be had. */
CHECK_HELPER rlim_t address_space(void)
{
    FILE *status = fopen("/proc/self/statm", "r");
    unsigned long pages;

    CHECK(status != NULL);
    CHECK_EQ(fscanf(status, "%lu", &pages), 1);
    fclose(status);
    return pages * 4096;
}

/* Contexts of kernel AIO that this process has: each maps its ring. */
CHECK_HELPER int contexts(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;

    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, "/[aio]") != NULL;
    fclose(maps);
    return count;
}

#endif
