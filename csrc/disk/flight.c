#define _GNU_SOURCE
#include "flight.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The C library has no functions for these calls. */

static int failed(void)
{
    return errno > 0 ? -errno : -EIO;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static long events(const fk_flight *flight, long least, struct io_event *event, struct timespec *timeout)
{
    return syscall(SYS_io_getevents, (aio_context_t)flight->context, least, 1L, event, timeout);
}

int fk_flight_open(fk_flight *flight)
{
    aio_context_t context = 0;
    memset(flight, 0, sizeof *flight);
    if (syscall(SYS_io_setup, 1U, &context) != 0)
        return failed();
    flight->context = context;
    return 0;
}

int fk_flight_begin(fk_flight *flight, int fd, const void *data, size_t size, int64_t at)
{
    struct iocb request, *requests[1] = {&request};
    if (flight->under_way)
        return -EBUSY;
    memset(&request, 0, sizeof request);
    request.aio_lio_opcode = IOCB_CMD_PWRITE;
    request.aio_fildes = (uint32_t)fd;
    request.aio_buf = (uint64_t)(uintptr_t)data;
    request.aio_nbytes = size;
    request.aio_offset = at;
    if (syscall(SYS_io_submit, (aio_context_t)flight->context, 1L, requests) != 1)
        return failed();
    flight->under_way = 1;
    return 0;
}

int64_t fk_flight_land(fk_flight *flight, int64_t patience_ns)
{
    struct io_event event;
    struct timespec at_once = {0, 0};
    if (!flight->under_way)
        return -ECANCELED;
    int64_t until = now_ns() + patience_ns;
    long found = events(flight, 0, &event, &at_once);
    while (found == 0 && now_ns() < until) {
        sched_yield();
        found = events(flight, 0, &event, &at_once);
    }
    while (found == 0 || (found < 0 && errno == EINTR))
        found = events(flight, 1, &event, NULL);
    flight->under_way = 0;
    return found == 1 ? (int64_t)event.res : failed();
}
