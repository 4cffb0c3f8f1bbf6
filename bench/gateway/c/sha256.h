/* SHA-256 (FIPS 180-4) and HMAC-SHA256 (RFC 2104). */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32, SHA256_BLOCK = 64 };

typedef struct {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t rest[SHA256_BLOCK];
} sha256;

void sha256_begin(sha256 *hash);
void sha256_add(sha256 *hash, const void *data, size_t len);
/* Leaves `hash` as it is: more may be added behind. */
void sha256_digest(const sha256 *hash, uint8_t digest[SHA256_BYTES]);

/* Of `tag` (a C string with its final zero) and `data`. */
void sha256_tagged(const char *tag, const void *data, size_t len, uint8_t digest[SHA256_BYTES]);
void hmac_tagged(const uint8_t key[SHA256_BYTES], const char *tag, const uint8_t data[SHA256_BYTES],
                 uint8_t mac[SHA256_BYTES]);
