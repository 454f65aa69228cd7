/*
 * swissbit.h - the blocks of a Swissbit TSE 1.x: commands, responses, the info block, lists.
 *
 * The rules of fiskal.h hold. All integers on the wire are big-endian; a block has FK_SB_BLOCK bytes. Readers take
 * what a device gave: every length in it is checked against the bytes there are before anything is read, and spans
 * that are returned lie within the bytes that were given.
 */
#ifndef FISKAL_FRAMES_SWISSBIT_H
#define FISKAL_FRAMES_SWISSBIT_H

#include "fiskal.h"

/* cffi:begin */

#define FK_SB_BLOCK 512
#define FK_SB_MAX_PAYLOAD 508       /* of a command */
#define FK_SB_MAX_DATA 503          /* of a response */
#define FK_SB_MAX_CLIENT 30         /* bytes of a client id */
#define FK_SB_MAX_CLIENTS 16        /* in one response */
#define FK_SB_MAX_NUMBERS 62        /* in one response */
#define FK_SB_INFO_KEY 97           /* largest public key of an info block */

typedef enum fk_sb_status {
    FK_SB_E_LENGTH = 110, /* a length on the wire does not fit the bytes there are */
    FK_SB_E_COUNT = 111,  /* a number of entries is larger than one response can hold */
    FK_SB_E_TEXT = 112    /* an entry that is no text */
} fk_sb_status;

/* ---- commands: out has FK_SB_BLOCK bytes -------------------------------------------------------- */

/* The command `code` with a payload as it stands. FK_E_SPACE if it is longer than FK_SB_MAX_PAYLOAD. */
int fk_sb_command(uint8_t code, const uint8_t *payload, size_t length, uint8_t *out);

/*
 * A command of a user id (negative: none) and up to two texts, each with its length in one byte: login, logout,
 * unblock, change PUK, change PIN, self test, register, deregister. A text that is NULL is left out.
 */
int fk_sb_texts_command(uint8_t code, int32_t user, const uint8_t *first, size_t first_length, const uint8_t *second,
                        size_t second_length, uint8_t *out);

/* A command of 32 bits, how many entries or bytes to skip, and, unless NULL, a client id: lists, certificate. */
int fk_sb_skip_command(uint8_t code, uint32_t skip, const uint8_t *client, size_t client_length, uint8_t *out);

/* A command of 64 bits: update time. */
int fk_sb_number_command(uint8_t code, uint64_t number, uint8_t *out);

/*
 * Open a transaction. event: 0 start, 1 update, 2 finish; the number is 0 for a start. The client has 1 to
 * FK_SB_MAX_CLIENT bytes. FK_E_SPACE if client and process type together do not fit into the block.
 */
int fk_sb_open_command(uint8_t code, uint8_t event, const uint8_t *client, size_t client_length, uint64_t number,
                       uint64_t data_length, const uint8_t *type, size_t type_length, uint8_t *out);

typedef struct fk_sb_request {
    uint8_t code;
    uint8_t sub_code;
    uint16_t payload; /* where it begins */
    uint16_t length;  /* of the payload */
} fk_sb_request;

/* Read a command block, for logs. FK_SB_E_LENGTH. */
int fk_sb_read_command(const uint8_t *block, size_t size, fk_sb_request *out);

/* ---- responses ---------------------------------------------------------------------------------- */

typedef enum fk_sb_kind {
    FK_SB_NOT_YET = 0, /* busy, the host's own command, or a block in flux */
    FK_SB_FETCH = 1,   /* the result has to be fetched */
    FK_SB_COMPLETE = 2
} fk_sb_kind;

typedef struct fk_sb_response {
    uint32_t counter;
    uint8_t channel; /* status of the channel, as it stands */
    uint8_t kind;    /* fk_sb_kind */
    uint16_t word;   /* status word; 0 is success. The rest is for FK_SB_COMPLETE only. */
    uint16_t data;   /* where the data begins */
    uint16_t length; /* of the data */
} fk_sb_response;

/* Read a response block. FK_SB_E_LENGTH for a complete one whose length is not 2 to 505, or a block cut short. */
int fk_sb_read_response(const uint8_t *block, size_t size, fk_sb_response *out);

typedef struct fk_sb_closed {
    uint64_t number;
    uint8_t serial[32];
    uint64_t log_time; /* Unix seconds */
    uint64_t counter;  /* signatureCounter */
    uint32_t signature; /* where it begins */
    uint32_t signature_length;
} fk_sb_closed;

/* The data of a closed transaction. FK_SB_E_LENGTH. */
int fk_sb_read_closed(const uint8_t *data, size_t length, fk_sb_closed *out);

/* The data of an opened transaction: the first block of the store that takes process data. FK_SB_E_LENGTH. */
int fk_sb_read_offset(const uint8_t *data, size_t length, uint64_t *out);

/* The numbers of started transactions. out has room for FK_SB_MAX_NUMBERS. FK_SB_E_COUNT, FK_SB_E_LENGTH. */
int fk_sb_read_numbers(const uint8_t *data, size_t length, uint64_t *out, size_t *count);

/*
 * The client ids of a list, each a span. Slots have 31 bytes, or 32 if that is what the length says (and 31 cannot
 * be). out has room for FK_SB_MAX_CLIENTS. FK_SB_E_COUNT, FK_SB_E_LENGTH; FK_SB_E_TEXT for an empty one.
 */
int fk_sb_read_clients(const uint8_t *data, size_t length, fk_span *out, size_t *count);

/* A piece of the certificate: a span, empty at the end. FK_SB_E_LENGTH. */
int fk_sb_read_certificate(const uint8_t *data, size_t length, fk_span *out);

/* ---- the info block ------------------------------------------------------------------------------ */

typedef struct fk_sb_info {
    uint8_t has_magic;
    uint8_t flags;         /* 0x1c: 1 time valid, 2 self test passed, 4 CTSS active (inferred) */
    uint8_t state;         /* 0x1d: 0 uninitialised, 1 initialised, 2 decommissioned, or something else */
    uint8_t importing;     /* 0x1e */
    uint8_t changed;       /* 0x20: 1 PUK, 2 Admin PIN, 4 TimeAdmin PIN */
    uint8_t key_length;    /* 0x6a, as it stands; bytes are in `key` only if it is at most FK_SB_INFO_KEY */
    uint16_t software_major;
    uint8_t software_minor;
    uint8_t software_patch;
    uint32_t capacity_blocks; /* 0x14, inferred */
    uint32_t size_blocks;
    uint32_t self_test_in_s;
    uint32_t started;     /* 0x28, inferred */
    uint32_t max_started; /* 0x2c, inferred */
    uint32_t signatures;
    uint32_t max_signatures;
    uint32_t clients;
    uint32_t max_clients;
    uint32_t hardware; /* 0x50, inferred */
    uint32_t time_sync_in_s;
    uint64_t certificate_end; /* Unix seconds */
    uint64_t tar_bytes;
    uint8_t key[FK_SB_INFO_KEY];
    uint8_t serial[32];
    uint8_t description_length; /* at most 128 */
    uint8_t description[128];
} fk_sb_info;

/* FK_SB_E_LENGTH if there are fewer than FK_SB_BLOCK bytes. Nothing else is refused: see `state` and `key_length`. */
int fk_sb_read_info(const uint8_t *block, size_t size, fk_sb_info *out);

/* Sector 8 of a device without a file system: where info, comm and store begin; 0 is none of it. FK_SB_E_LENGTH. */
int fk_sb_read_sector_table(const uint8_t *block, size_t size, uint32_t *out);

/* cffi:end */

#endif
