/*
 * epson.h - the messages of Epson TSEs (ePOS-Device XML): their ends, their texts, and the pieces of an export.
 *
 * A message is one small XML element in UTF-8 and a zero byte behind it. Hosts and clients put blanks and quotation
 * marks around the zero byte; they are no part of a message. What stands in the XML is read by an XML parser, the JSON
 * in it by a JSON parser; here is what is bytes.
 *
 * The rules of fiskal.h hold here too.
 */
#ifndef FISKAL_FRAMES_EPSON_H
#define FISKAL_FRAMES_EPSON_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

#define FK_EPSON_MAX_JSON 65536 /* bytes of the JSON of a request */

typedef enum fk_epson_status {
    FK_EPSON_MORE = 400,     /* the end of the message is not there yet */
    FK_EPSON_E_FORM = 401,   /* what ends with the zero byte does not begin with '<' and end with '>' */
    FK_EPSON_E_TEXT = 402,   /* a text is not UTF-8, or has a character that XML cannot carry */
    FK_EPSON_E_SIZE = 403,   /* the JSON is longer than FK_EPSON_MAX_JSON */
    FK_EPSON_E_BASE64 = 404  /* a piece of an export is no base64 */
} fk_epson_status;

/* Messages of a client, and the texts that each one takes. */
typedef enum fk_epson_kind {
    FK_EPSON_OPEN_DEVICE = 1,  /* device_id, type */
    FK_EPSON_CLOSE_DEVICE = 2, /* device_id */
    FK_EPSON_RECONNECT = 3,    /* new_client_id, old_client_id, received_id */
    FK_EPSON_DISCONNECT = 4    /* client_id */
} fk_epson_kind;

typedef struct fk_epson_span {
    size_t begin; /* of the element */
    size_t end;   /* behind the element */
    size_t next;  /* behind the zero byte: where the next message begins */
} fk_epson_span;

/*
 * Finds the first message in what was received. Messages that are blank are passed over. FK_EPSON_MORE: out->next is
 * where to go on when more has come (everything before it is blank). FK_EPSON_E_FORM: out->next is behind it.
 */
int fk_epson_read(const uint8_t *data, size_t length, fk_epson_span *out);

/* Writes `text` with & < > " as XML wants them. *written: bytes written, after FK_E_SPACE the bytes needed. */
int fk_epson_escape(const uint8_t *text, size_t length, uint8_t *out, size_t capacity, size_t *written);

/*
 * Writes a message with its zero byte. texts: those of `kind`, each one ended by a zero byte; none is empty.
 * FK_E_ARGUMENT for another kind or another number of texts. *written as above.
 */
int fk_epson_message(int kind, const uint8_t *texts, size_t length, uint8_t *out, size_t capacity, size_t *written);

/* Writes device_data that operates a TSE: the device may take timeout_ms over `json`. *written as above. */
int fk_epson_request(const uint8_t *device_id, size_t device_id_length, uint32_t timeout_ms, const uint8_t *json,
                     size_t json_length, uint8_t *out, size_t capacity, size_t *written);

typedef struct fk_epson_export { /* between two pieces of an export; zero it before the first */
    uint8_t held[3];             /* characters that wait for the rest of their group of four */
    uint8_t count;
} fk_epson_export;

/*
 * Decodes the next piece of an export. A piece may be a base64 text of its own, with padding, or part of one that is
 * cut anywhere. out: at least (count + length) / 4 * 3 bytes, else FK_E_SPACE.
 */
int fk_epson_piece(fk_epson_export *state, const uint8_t *text, size_t length, uint8_t *out, size_t capacity,
                   size_t *written);

/* cffi:end */

#endif
