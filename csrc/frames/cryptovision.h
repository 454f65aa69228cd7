/*
 * cryptovision.h - the framing of Cryptovision / Bundesdruckerei (D-TRUST) TSEs: blocks of the mailbox file
 * TSE-IO.bin, commands, answers spread over fragments, and the structured values in them.
 *
 * All integers on the wire are big-endian. The rules of fiskal.h hold for every function.
 */
#ifndef FISKAL_FRAMES_CRYPTOVISION_H
#define FISKAL_FRAMES_CRYPTOVISION_H

#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

typedef enum fk_cv_status { /* beside those of fk_status */
    FK_CV_E_FOREIGN = 320,  /* the block does not begin with the magic, and not with zeros either */
    FK_CV_E_LENGTH = 321,   /* a length that no answer has */
    FK_CV_E_SHORT = 322,    /* fewer bytes than the lengths in them ask for */
    FK_CV_E_TYPE = 323,     /* a parameter of another type, or an element with another tag, than must be here */
    FK_CV_E_MISSING = 324,  /* a parameter is missing */
    FK_CV_E_NUMBER = 325    /* a number of no bytes, or of more than eight */
} fk_cv_status;

#define FK_CV_BLOCK_BYTES 8192
#define FK_CV_SECTOR_BYTES 512
#define FK_CV_HEADER_BYTES 36      /* of a block of the host */
#define FK_CV_MAX_COMMAND_BYTES 8155
#define FK_CV_FULL_ANSWER_BYTES 8158 /* of data in a block of the device when more follows */
#define FK_CV_MAX_TEXT_BYTES 512
#define FK_CV_TOKEN 0xdeadbeef
#define FK_CV_NEXT_FRAGMENT 0xc5 /* the one byte of this command */
#define FK_CV_CANCEL 0xc4
#define FK_CV_MAX_CLIENT_ID_BYTES 30
#define FK_CV_SERIAL_BYTES 32

typedef enum fk_cv_mode {
    FK_CV_MODE_NORMAL = 0x0000,
    FK_CV_MODE_SUSPEND = 0x5345, /* enable suspend: the last block of a session */
    FK_CV_MODE_RESUME = 0x5344   /* disable suspend: the first one */
} fk_cv_mode;

typedef enum fk_cv_type { /* of a parameter */
    FK_CV_BYTE = 0x01,
    FK_CV_OCTETS = 0x02, /* also numbers, big-endian */
    FK_CV_SHORT = 0x03,
    FK_CV_TEXT = 0x04,
    FK_CV_LONGS = 0x05
} fk_cv_type;

typedef struct fk_cv_parameter {
    uint32_t type; /* fk_cv_type */
    uint32_t length;
    const uint8_t *value; /* may be NULL if there is nothing */
} fk_cv_parameter;

/*
 * Write a command: 5c 54, code, length and parameters. Lengths are checked against the types: one byte, two,
 * a multiple of four, at most FK_CV_MAX_TEXT_BYTES of text. FK_E_ARGUMENT for what the device cannot be sent,
 * also if the whole is longer than FK_CV_MAX_COMMAND_BYTES.
 */
int fk_cv_command(uint32_t code, const fk_cv_parameter *parameters, size_t count, uint8_t *out, size_t capacity,
                  size_t *length);

/* Write the block of a command: header, command, zeros up to a multiple of FK_CV_SECTOR_BYTES. */
int fk_cv_block(const uint8_t *command, size_t command_length, uint32_t token, uint32_t mode, uint8_t *out,
                size_t capacity, size_t *length);

/*
 * Write the whole block of a transaction command with the default token: code 0x000a (start, without number),
 * 0x000b (update) or 0x000c (finish), each with its own order of parameters. The number is sent in four bytes.
 */
int fk_cv_transaction(uint32_t code, uint64_t number, const uint8_t *client, size_t client_length,
                      const uint8_t *data, size_t data_length, const uint8_t *type, size_t type_length, uint8_t *out,
                      size_t capacity, size_t *length);

typedef enum fk_cv_state { /* what a block that was read says */
    FK_CV_EMPTY = 0,      /* zeros: the device sleeps, or the host has wiped the block */
    FK_CV_NOT_TAKEN = 1,  /* the host's own block: the device has not taken it yet */
    FK_CV_BUSY = 2,       /* not ready yet */
    FK_CV_DONE = 3,       /* ready, without data */
    FK_CV_DATA = 4,       /* ready, with data */
    FK_CV_CONTROLLER = 5  /* the flash controller failed; code ff45 is its time-out */
} fk_cv_state;

typedef struct fk_cv_answer {
    uint32_t state; /* fk_cv_state */
    uint32_t token;
    uint32_t code;   /* the length field as it stands */
    uint32_t length; /* of the data, which begins at byte 34 */
} fk_cv_answer;

/*
 * Read the head of a block of the device. `token` is the one that was sent. FK_CV_E_SHORT if the data is longer
 * than the `length` bytes that were read (a polling host reads one sector first).
 */
int fk_cv_answer_read(const uint8_t *block, size_t length, uint32_t token, fk_cv_answer *out);

typedef enum fk_cv_kind { FK_CV_PARAMETERS = 0, FK_CV_STREAM = 1, FK_CV_ERROR = 2 } fk_cv_kind;

typedef struct fk_cv_head {
    uint32_t kind;    /* fk_cv_kind */
    uint32_t error;   /* the result code of an error, else 0 */
    uint32_t offset;  /* where parameters or stream begin in the data of the first block: 2 or 10 */
    uint32_t present; /* how many bytes of them are in it */
    uint64_t total;   /* how many bytes of them there are */
    uint32_t more;    /* 1 if the next fragment must be asked for */
} fk_cv_head;

/* Read the beginning of the data of the first block of an answer. */
int fk_cv_head_read(const uint8_t *data, size_t length, fk_cv_head *out);

/*
 * Judge a further fragment of `length` bytes while `missing` bytes (at least one) were missing, in a stream or in
 * parameters. *use is how many bytes of it count, *more as in fk_cv_head. An error in place of a fragment is found
 * by its length, which no fragment that belongs there has: *error is its code then, else 0.
 */
int fk_cv_fragment(const uint8_t *data, size_t length, uint64_t missing, int stream, uint32_t *use, uint32_t *more,
                   uint32_t *error);

typedef struct fk_cv_value {
    uint32_t type;
    uint32_t offset;
    uint32_t length; /* no more than there is */
    uint32_t cut;    /* how many bytes less than it says */
} fk_cv_value;

/*
 * Read all parameters of an answer. One that says to be longer than what is there ends with it, because firmware
 * miscounts (`cut`). FK_E_SPACE if there are more than `capacity`, FK_CV_E_SHORT if they end within a header.
 */
int fk_cv_values(const uint8_t *data, size_t length, fk_cv_value *out, size_t capacity, size_t *count);

/* Read a number of one to eight bytes. */
int fk_cv_number(const uint8_t *data, size_t length, uint64_t *out);

typedef struct fk_cv_signed {
    uint64_t number; /* 0 without */
    uint64_t counter;
    uint64_t time; /* seconds since 1970 */
    uint32_t signature;
    uint32_t signature_length;
    uint32_t serial;
    uint32_t serial_length;
} fk_cv_signed;

/* Read the parameters of the answer to a transaction command; offsets count from `data`. */
int fk_cv_signed_read(const uint8_t *data, size_t length, int has_number, fk_cv_signed *out);

/*
 * Find the serial number of the key that signs transactions (TR-03151 appendix D): 32 bytes at *offset.
 * FK_CV_E_MISSING if no key does.
 */
int fk_cv_serial(const uint8_t *data, size_t length, uint32_t *offset);

typedef struct fk_cv_mapping {
    uint32_t client;
    uint32_t client_length;
    uint32_t serial; /* 0 if it could not be read */
} fk_cv_mapping;

/*
 * Read the mappings of clients to keys. Firmware writes wrong lengths: what is no DER is read again without
 * believing them, *strict is 0 then, and entries that are none are left out. FK_E_SPACE if there are more than
 * `capacity`.
 */
int fk_cv_mappings(const uint8_t *data, size_t length, fk_cv_mapping *out, size_t capacity, size_t *count,
                   int *strict);

typedef enum fk_cv_remedy { /* what a result code asks for */
    FK_CV_NONE = 0,    /* an error that nothing is done about */
    FK_CV_LOGIN = 1,   /* log the needed user in and repeat */
    FK_CV_TIME = 2,    /* set the time and repeat */
    FK_CV_RESTART = 3, /* send Start again and repeat */
    FK_CV_REOPEN = 4,  /* connect anew, then find out what was executed */
    FK_CV_STATE = 5,   /* the TSE or the transaction is in another state */
    FK_CV_CAPACITY = 6,
    FK_CV_FATAL = 7,
    FK_CV_PROGRAM = 8, /* the command is wrong */
    FK_CV_NO_DATA = 9, /* nothing there, which is no error for an export */
    FK_CV_REPEAT = 10, /* repeat once */
    FK_CV_CANCELLED = 11, /* cancel the fragments and repeat once */
    FK_CV_LOOK = 12       /* find out what was executed */
} fk_cv_remedy;

/* The remedy of a result code of 0x8000 or more; those nobody knows have none. */
int fk_cv_remedy_of(uint32_t code);

/* cffi:end */

#endif
