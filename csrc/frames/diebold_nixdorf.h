/*
 * diebold_nixdorf.h - the frames of Diebold Nixdorf TSEs: requests, answers, and long answers that come in pieces.
 *
 * A marker is ESC (1B) and a code. There is no length, no check sum and no escaping: parameters are printable ASCII,
 * so that no marker can occur in them. The one exception are the pieces of a long answer, which are raw.
 *
 *     request  1B 90 CCC { 1B 92 parameter } 1B 99 id ( 1B 9D | 1B 9E buffer ) 1B 9F
 *     answer   1B 91 CCC { 1B 92 parameter } 1B 99 id 1B 9F
 *
 * The rules of fiskal.h hold here too.
 */
#ifndef FISKAL_FRAMES_DIEBOLD_NIXDORF_H
#define FISKAL_FRAMES_DIEBOLD_NIXDORF_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

#define FK_DN_MAX_ID 36

typedef enum fk_dn_status {
    FK_DN_MORE = 500,    /* the end of the answer is not there yet */
    FK_DN_E_START = 501, /* the end is there, but no beginning of an answer to this command in front of it */
    FK_DN_E_FORM = 502,  /* bytes where a marker must be, or another marker than the one that must be here */
    FK_DN_E_ID = 503,    /* a long answer belongs to another request */
    FK_DN_E_BASE64 = 504, /* a long answer is no base64 */
    FK_DN_E_PARAMETERS = 505 /* a long answer has not exactly one parameter, or bytes behind its end */
} fk_dn_status;

/*
 * Writes a request. command: 0 to 999. parameters: each one ended by a zero byte, all of printable ASCII. id: at most
 * FK_DN_MAX_ID printable characters. buffer: where the device is to put its answer, 0 to 99; negative: it answers
 * directly. *length: bytes written, after FK_E_SPACE the bytes needed. FK_E_ARGUMENT for anything else.
 */
int fk_dn_request(uint32_t command, const uint8_t *parameters, size_t parameters_length, const uint8_t *id,
                  size_t id_length, int32_t buffer, uint8_t *out, size_t capacity, size_t *length);

typedef struct fk_dn_answer {
    size_t start; /* of the frame; what lies in front of it is no part of it */
    size_t end;   /* behind the frame */
    size_t count; /* of parameters */
} fk_dn_answer;

/*
 * Finds the answer to `command` with `id` (letter case ignored) in what was received so far. Whatever precedes it
 * (status messages, late answers to earlier requests) is passed over. spans[2 * i] and spans[2 * i + 1] are offset and
 * length of parameter i; the fifth parameter of command 4 is raw and ends with the frame.
 * FK_DN_MORE, FK_DN_E_START, FK_DN_E_FORM; FK_E_SPACE if there are more than `capacity` parameters: out->count says
 * how many.
 */
int fk_dn_read(const uint8_t *data, size_t length, uint32_t command, const uint8_t *id, size_t id_length,
               fk_dn_answer *out, uint32_t *spans, size_t capacity);

typedef struct fk_dn_stream { /* where the reader of a long answer is */
    uint8_t id[FK_DN_MAX_ID];
    uint8_t id_length;
    uint8_t command[3];
    uint8_t state;
    uint8_t at;
    uint8_t sextets; /* 0 to 3: base64 characters that wait for the rest of their four */
    uint8_t padding;
    uint32_t bits;
} fk_dn_stream;

/* Begins to read a long answer to `command` with `id` whose one parameter is base64. FK_E_ARGUMENT. */
int fk_dn_stream_begin(fk_dn_stream *stream, uint32_t command, const uint8_t *id, size_t id_length);

/*
 * Reads the next piece of a long answer; it may begin and end anywhere. out receives the bytes the base64 stands for
 * and needs 3 * (length / 4 + 1) bytes, else FK_E_SPACE; *written: how many. *done: 1 when the answer ended with this
 * piece. FK_DN_E_FORM, FK_DN_E_ID, FK_DN_E_BASE64, FK_DN_E_PARAMETERS: the stream is of no use any more.
 */
int fk_dn_stream_feed(fk_dn_stream *stream, const uint8_t *piece, size_t length, uint8_t *out, size_t capacity,
                      size_t *written, int *done);

/* cffi:end */

#endif
