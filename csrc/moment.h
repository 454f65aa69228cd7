/* moment.h - points in time as ticks: 100 ns since 0001-01-01T00:00:00 UTC. */
#ifndef FISKAL_MOMENT_H
#define FISKAL_MOMENT_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

#define FK_MOMENT_TEXT 28 /* room for every text the functions below write */

/*
 * Reads ISO 8601 (offset converted to UTC, no suffix means UTC, up to 16 fraction digits of which 7 count) and
 * /Date(milliseconds[+-hhmm])/ (the offset is informational). FK_E_MOMENT if it is neither.
 */
int fk_moment_parse(const char *text, size_t length, int64_t *ticks);

/*
 * Both return the length of the text, 0 if ticks lie outside the years 1 to 9999.
 * iso: 2020-05-22T10:47:40.96Z, as many fraction digits as needed (0..7).
 * milliseconds: 2020-05-22T10:47:40.960Z, always three, cut off.
 */
int fk_moment_iso(int64_t ticks, char *out);
int fk_moment_milliseconds(int64_t ticks, char *out);

/* cffi:end */

#endif
