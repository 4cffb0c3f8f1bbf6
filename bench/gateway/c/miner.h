/* What a Penstock miner says about its work: the order it was given, checkpoints and the receipt. */
#pragma once
#include "sha256.h"
#include "text.h"

typedef struct {
    slice json; /* the order's canonical JSON; must outlive this */
    slice order_id, payer_tag, chute, gateway, instance, miner, request_digest;
    int64_t seed, charge_max, prompt_max, completion_max;
    int64_t price_request, price_prompt, price_completion;
    uint8_t digest[SHA256_BYTES];
} order;

/* One answer as it goes out: counted and hashed. */
typedef struct {
    sha256 hash;
    int64_t body_bytes, events, completion;
    int64_t accept_ms, first_ms, last_ms;
} answer;

/* Reads the order; false if it lacks what a receipt must name. */
bool read_order(slice json, order *of);

void answer_begin(answer *to, int64_t now_ms);
void answer_add(answer *to, const void *data, size_t len);

int64_t charge_of(const order *of, const answer *to);

/* The canonical JSON, and the digest that a signature or MAC covers. */
void add_receipt(buffer *json, const order *of, const answer *to, uint8_t digest[SHA256_BYTES]);
void add_checkpoint(buffer *json, const order *of, const answer *to, uint8_t digest[SHA256_BYTES]);

/* `{"body":...,"mac":...}` under a session, or the signed form. */
void add_vouched(buffer *to, slice body, const uint8_t digest[SHA256_BYTES],
                 const uint8_t key[SHA256_BYTES]);
void add_signed(buffer *to, slice body, const char *kind, slice signer, slice signature);
