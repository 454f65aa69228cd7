/*
 * fiskal.h - the public surface of the C core: a header per topic, which are also what cffi is given.
 *
 * Rules that hold for every function:
 *  - no I/O, no allocation, no state but a note of what the CPU can: results go to buffers of the caller;
 *  - pointers are never NULL unless a comment says so, lengths are in bytes;
 *  - the result is an fk_status; on anything but FK_OK the outputs are unspecified;
 *  - every function is re-entrant and may be called from many threads at once.
 */
#ifndef FISKAL_H
#define FISKAL_H

#include "common.h"
#include "hashes.h"
#include "decimal.h"
#include "moment.h"
#include "cases.h"
#include "processdata.h"
#include "prepare.h"
#include "logmsg.h"
#include "logread.h"
#include "tarread.h"

#endif
