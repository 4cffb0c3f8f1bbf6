#include "sha256.h"

#include <string.h>

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t rotated(uint32_t word, int by) { return word >> by | word << (32 - by); }

static void take_block(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (rotated(x, 7) ^ rotated(x, 18) ^ x >> 3) + w[i - 7] +
               (rotated(y, 17) ^ rotated(y, 19) ^ y >> 10);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t one = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) +
                       ((e & f) ^ (~e & g)) + K[i] + w[i];
        uint32_t two = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) +
                       ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + one;
        d = c, c = b, b = a, a = one + two;
    }
    uint32_t mixed[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) state[i] += mixed[i];
}

void sha256_begin(sha256 *hash) {
    *hash = (sha256){.state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
                               0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void sha256_add(sha256 *hash, const void *data, size_t len) {
    const uint8_t *from = data;
    size_t have = hash->bytes % SHA256_BLOCK;
    hash->bytes += len;
    if (have) {
        size_t part = len < SHA256_BLOCK - have ? len : SHA256_BLOCK - have;
        memcpy(hash->rest + have, from, part);
        from += part;
        len -= part;
        if (have + part < SHA256_BLOCK) return;
        take_block(hash->state, hash->rest);
    }
    for (; len >= SHA256_BLOCK; from += SHA256_BLOCK, len -= SHA256_BLOCK)
        take_block(hash->state, from);
    memcpy(hash->rest, from, len);
}

void sha256_digest(const sha256 *hash, uint8_t digest[SHA256_BYTES]) {
    sha256 last = *hash;
    uint64_t bits = hash->bytes * 8;
    uint8_t ending[SHA256_BLOCK + 8] = {0x80};
    size_t have = hash->bytes % SHA256_BLOCK;
    size_t pad = (have < 56 ? 56 : 120) - have;
    for (int i = 0; i < 8; i++) ending[pad + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(&last, ending, pad + 8);
    for (int i = 0; i < SHA256_BYTES; i++)
        digest[i] = (uint8_t)(last.state[i / 4] >> (24 - 8 * (i % 4)));
}

void sha256_tagged(const char *tag, const void *data, size_t len, uint8_t digest[SHA256_BYTES]) {
    sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, tag, strlen(tag) + 1);
    sha256_add(&hash, data, len);
    sha256_digest(&hash, digest);
}

void hmac_tagged(const uint8_t key[SHA256_BYTES], const char *tag, const uint8_t data[SHA256_BYTES],
                 uint8_t mac[SHA256_BYTES]) {
    uint8_t inner[SHA256_BLOCK], outer[SHA256_BLOCK];
    for (int i = 0; i < SHA256_BLOCK; i++) {
        uint8_t byte = i < SHA256_BYTES ? key[i] : 0;
        inner[i] = byte ^ 0x36;
        outer[i] = byte ^ 0x5c;
    }
    sha256 hash;
    sha256_begin(&hash);
    sha256_add(&hash, inner, sizeof inner);
    sha256_add(&hash, tag, strlen(tag) + 1);
    sha256_add(&hash, data, SHA256_BYTES);
    sha256_digest(&hash, mac);
    sha256_begin(&hash);
    sha256_add(&hash, outer, sizeof outer);
    sha256_add(&hash, mac, SHA256_BYTES);
    sha256_digest(&hash, mac);
}
