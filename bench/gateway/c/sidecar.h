/* The mock's line to the process that holds the miner's key, and what it has learnt from it. */
#pragma once
#include "miner.h"

/* What the sidecar can be asked for; the letter goes over the line. */
typedef enum {
    ASK_SIGN = 'g',     /* a digest in hex -> a signature */
    ASK_OPEN = 'o',     /* a signed order, base64url -> its canonical body */
    ASK_SESSION = 's',  /* a session offer -> "ID KEY\n" and the answer */
    ASK_SEALS = 'l',    /* "DIGEST,...\n" and the request -> the answer */
} ask;

typedef struct {
    uint64_t token;
    int status;
    slice payload; /* lives until the next call */
} reply;

void sidecar_connect(const char *path);
int sidecar_fd(void);
void sidecar_ask(uint64_t token, ask what, slice first_line, slice payload);
void sidecar_read(void);
bool sidecar_next(reply *to);
void sidecar_write(void);

/* Sessions: the key by its id. */
void session_learn(slice id, slice key_hex);
const uint8_t *session_key(slice id);

/* Receipts that a gateway may still ask to be sealed: their digests by order id. */
void receipt_keep(slice order_id, const uint8_t digest[SHA256_BYTES]);
/* The digests of the orders named in a list of JSON strings, in hex with commas; "-" for unknown. */
void receipt_list(buffer *to, slice order_ids);
int64_t strings_in(slice list);
