/*
 * flight.h - a write to a file that goes on while the caller does something else (Linux).
 *
 * It is no part of the core, which knows no files: a module of its own, compiled where the system has such writes.
 * A flight carries one write at a time and belongs to one thread at a time. Results are numbers of bytes, or
 * negative errno values.
 */
#ifndef FISKAL_FLIGHT_H
#define FISKAL_FLIGHT_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

typedef struct fk_flight {
    uint64_t context; /* of io_setup(2); the system takes it back when the process ends */
    int under_way;    /* the system has a write, and its memory */
} fk_flight;

/* Make `flight` ready. 0, or why there is none. */
int fk_flight_open(fk_flight *flight);

/* Begin to write `size` bytes to the offset `at` of `fd`; `data` stays as it is until the write has landed.
 * 0, or why nothing was begun. */
int fk_flight_begin(fk_flight *flight, int fd, const void *data, size_t size, int64_t at);

/* Return when the write has ended, with its result; -ECANCELED if none is under way. For `patience_ns` the
 * processor is kept awake: a thread that sleeps lets it sleep too, and to wake both takes as long as half a write to
 * a fast disk. Every thread that can use it gets it in between, those of the kernel among them that complete the
 * write. */
int64_t fk_flight_land(fk_flight *flight, int64_t patience_ns);

/* cffi:end */

#endif
