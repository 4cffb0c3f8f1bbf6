/* For the tests: `check sha256`, `check hmac KEY TAG` and `check receipt KEY BODY_BYTES` on stdin. */
#include <stdio.h>
#include <string.h>

#include "miner.h"

static buffer standard_input(void) {
    buffer all = {0};
    char data[4096];
    for (size_t len; (len = fread(data, 1, sizeof data, stdin)) > 0;) add(&all, data, len);
    return all;
}

static void hash_in_parts(slice data, uint8_t digest[SHA256_BYTES]) {
    sha256 hash;
    sha256_begin(&hash);
    for (size_t part = 1; data.len; part += 7) {
        size_t len = part < data.len ? part : data.len;
        sha256_add(&hash, data.at, len);
        data = (slice){data.at + len, data.len - len};
    }
    sha256_digest(&hash, digest);
}

/* The first line is the order, the rest the answer; prints vouched receipt and checkpoint body. */
static int say_receipt(slice input, const uint8_t key[SHA256_BYTES], buffer *out) {
    order of;
    answer to;
    uint8_t digest[SHA256_BYTES];
    buffer body = {0};
    slice text = behind(input, "\n");
    if (!read_order(until(input, '\n'), &of)) return 1;
    answer_begin(&to, 1000);
    answer_add(&to, text.at, text.len);
    to.events = 3;
    to.completion = 2;
    add_receipt(&body, &of, &to, digest);
    add_vouched(out, view(&body), digest, key);
    add_text(out, "\n");
    add_checkpoint(out, &of, &to, digest);
    add_text(out, "\n");
    add_hex(out, digest, SHA256_BYTES);
    return 0;
}

int main(int count, char **words) {
    uint8_t key[SHA256_BYTES] = {0}, digest[SHA256_BYTES], mac[SHA256_BYTES];
    buffer input = standard_input(), out = {0};
    int status = 0;
    if (count > 2 && !unhex(slice_of(words[2]), key, SHA256_BYTES)) return 2;
    hash_in_parts(view(&input), digest);
    if (count > 1 && !strcmp(words[1], "sha256")) {
        add_hex(&out, digest, SHA256_BYTES);
    } else if (count > 3 && !strcmp(words[1], "hmac")) {
        hmac_tagged(key, words[3], digest, mac);
        add_hex(&out, mac, SHA256_BYTES);
    } else if (count > 2 && !strcmp(words[1], "receipt")) {
        status = say_receipt(view(&input), key, &out);
    } else {
        status = 2;
    }
    fwrite(out.at, 1, out.len, stdout);
    return status;
}
