#include "miner.h"

#include <string.h>

enum { PROMPT_UNITS = 16, MILLION = 1000000 };

bool read_order(slice json, order *of) {
    slice price = json_inside(json, "price", '}');
    *of = (order){
        .json = json,
        .order_id = json_string(json, "order_id"),
        .payer_tag = json_string(json, "payer_tag"),
        .chute = json_string(json, "chute"),
        .gateway = json_string(json, "gateway"),
        .instance = json_string(json, "instance"),
        .miner = json_string(json, "miner"),
        .request_digest = json_string(json, "request_digest"),
        .seed = json_number(json, "seed"),
        .charge_max = json_number(json, "charge_max"),
        .prompt_max = json_number(json, "prompt_max"),
        .completion_max = json_number(json, "completion_max"),
        .price_request = json_number(price, "request"),
        .price_prompt = json_number(price, "prompt"),
        .price_completion = json_number(price, "completion"),
    };
    sha256_tagged("penstock/order/v1", json.at, json.len, of->digest);
    return of->order_id.at && of->payer_tag.at && of->chute.at && of->gateway.at &&
           of->instance.at && of->miner.at && of->request_digest.at && price.at;
}

void answer_begin(answer *to, int64_t now_ms) {
    *to = (answer){.accept_ms = now_ms, .first_ms = now_ms, .last_ms = now_ms};
    sha256_begin(&to->hash);
}

void answer_add(answer *to, const void *data, size_t len) {
    sha256_add(&to->hash, data, len);
    to->body_bytes += (int64_t)len;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t prompt_units(const order *of) { return least(PROMPT_UNITS, of->prompt_max); }

static int64_t completion_units(const order *of, const answer *to) {
    return least(to->completion, of->completion_max);
}

/* Rounded up once, on the sum of all parts, and never above the order's ceiling. */
int64_t charge_of(const order *of, const answer *to) {
    int64_t micro =
        of->price_prompt * prompt_units(of) + of->price_completion * completion_units(of, to);
    return least(of->price_request + (micro + MILLION - 1) / MILLION, of->charge_max);
}

static void add_field(buffer *json, const char *key, slice value) {
    add_text(json, key);
    add_slice(json, value);
}

static void add_count(buffer *json, const char *key, int64_t value) {
    add_text(json, key);
    add_number(json, value);
}

static void add_digest(buffer *json, const char *key, const uint8_t digest[SHA256_BYTES]) {
    add_text(json, key);
    add_hex(json, digest, SHA256_BYTES);
}

static void add_units(buffer *json, const order *of, const answer *to) {
    add_count(json, "\"units\":{\"audio_ms\":0,\"cached\":0,\"completion\":",
              completion_units(of, to));
    add_count(json, ",\"images\":0,\"prompt\":", prompt_units(of));
    add_text(json, "}}");
}

void add_receipt(buffer *json, const order *of, const answer *to, uint8_t digest[SHA256_BYTES]) {
    uint8_t body[SHA256_BYTES];
    size_t start = json->len;
    sha256_digest(&to->hash, body);
    add_count(json, "{\"accept_ms\":", to->accept_ms);
    add_count(json, ",\"charge_nano\":", charge_of(of, to));
    add_field(json, ",\"chute\":\"", of->chute);
    add_count(json, "\",\"events\":", to->events);
    add_count(json, ",\"first_ms\":", to->first_ms);
    add_field(json, ",\"gateway\":\"", of->gateway);
    add_field(json, "\",\"instance\":\"", of->instance);
    add_count(json, "\",\"last_ms\":", to->last_ms);
    add_field(json, ",\"logprobs_digest\":\"\",\"miner\":\"", of->miner);
    add_digest(json, "\",\"order_digest\":\"", of->digest);
    add_field(json, "\",\"order_id\":\"", of->order_id);
    add_field(json, "\",\"outcome\":\"complete\",\"payer_tag\":\"", of->payer_tag);
    add_count(json, "\",\"response_bytes\":", to->body_bytes);
    add_digest(json, ",\"response_digest\":\"", body);
    add_count(json, "\",\"seed\":", of->seed);
    add_text(json, ",\"token_ids_digest\":\"\",");
    add_units(json, of, to);
    sha256_tagged("penstock/receipt/v1", json->at + start, json->len - start, digest);
}

void add_checkpoint(buffer *json, const order *of, const answer *to, uint8_t digest[SHA256_BYTES]) {
    uint8_t body[SHA256_BYTES];
    size_t start = json->len;
    sha256_digest(&to->hash, body);
    add_count(json, "{\"body_bytes\":", to->body_bytes);
    add_digest(json, ",\"digest\":\"", body);
    add_count(json, "\",\"events\":", to->events);
    add_digest(json, ",\"order_digest\":\"", of->digest);
    add_field(json, "\",\"order_id\":\"", of->order_id);
    add_text(json, "\",");
    add_units(json, of, to);
    sha256_tagged("penstock/checkpoint/v1", json->at + start, json->len - start, digest);
}

void add_vouched(buffer *to, slice body, const uint8_t digest[SHA256_BYTES],
                 const uint8_t key[SHA256_BYTES]) {
    uint8_t mac[SHA256_BYTES];
    hmac_tagged(key, "receipt", digest, mac);
    add_field(to, "{\"body\":", body);
    add_digest(to, ",\"mac\":\"", mac);
    add_text(to, "\"}");
}

void add_signed(buffer *to, slice body, const char *kind, slice signer, slice signature) {
    add_field(to, "{\"body\":", body);
    add_field(to, ",\"kind\":\"", slice_of(kind));
    add_field(to, "\",\"signature\":\"", signature);
    add_field(to, "\",\"signer\":\"", signer);
    add_text(to, "\"}");
}
