#define _GNU_SOURCE
#include "sidecar.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "wire.h"

enum { SESSIONS_MAX = 64, ID_CHARS_MAX = 64, ID_BYTES = 16, SETS = 1 << 14, WAYS = 8 };

static int line = -1;
static buffer in, out;
static size_t taken;

void sidecar_connect(const char *path) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof to.sun_path) fail("the sidecar's path is too long");
    strcpy(to.sun_path, path);
    line = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(line, (struct sockaddr *)&to, sizeof to)) fail("sidecar");
    stay_awake(line);
}

int sidecar_fd(void) { return line; }

void sidecar_ask(uint64_t token, ask what, slice first_line, slice payload) {
    char text[64];
    size_t len = payload.len + (first_line.at ? first_line.len + 1 : 0);
    snprintf(text, sizeof text, "%llu %c %zu\n", (unsigned long long)token, (char)what, len);
    add_text(&out, text);
    if (first_line.at) {
        add_slice(&out, first_line);
        add_text(&out, "\n");
    }
    add_slice(&out, payload);
    sidecar_write();
}

void sidecar_write(void) {
    while (out.len) {
        ssize_t sent = send(line, out.at, out.len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) return;
        if (sent < 0) fail("sidecar");
        drop(&out, (size_t)sent);
    }
}

void sidecar_read(void) {
    char data[65536];
    for (ssize_t len; (len = recv(line, data, sizeof data, 0)) >= 0;) {
        if (!len) exit(0); /* the bench is over */
        add(&in, data, (size_t)len);
    }
}

bool sidecar_next(reply *to) {
    drop(&in, taken);
    taken = 0;
    slice all = view(&in), rest = behind(all, "\n");
    if (!rest.at) return false;
    slice status = behind(all, " "), len = behind(status, " ");
    *to = (reply){(uint64_t)number(all), (int)number(status), {rest.at, (size_t)number(len)}};
    if (rest.len < to->payload.len) return false;
    taken = (size_t)(rest.at - in.at) + to->payload.len;
    return true;
}

static struct {
    char id[ID_CHARS_MAX];
    size_t len;
    uint8_t key[SHA256_BYTES];
} sessions[SESSIONS_MAX];
static size_t sessions_learnt;

void session_learn(slice id, slice key_hex) {
    size_t place = sessions_learnt++ % SESSIONS_MAX;
    if (id.len > ID_CHARS_MAX || !unhex(key_hex, sessions[place].key, SHA256_BYTES))
        fail("the sidecar told no session");
    memcpy(sessions[place].id, id.at, id.len);
    sessions[place].len = id.len;
}

const uint8_t *session_key(slice id) {
    for (size_t i = 0; i < SESSIONS_MAX; i++)
        if (sessions[i].len && sessions[i].len == id.len && !memcmp(sessions[i].id, id.at, id.len))
            return sessions[i].key;
    return NULL;
}

static struct kept {
    uint8_t id[ID_BYTES], digest[SHA256_BYTES];
    uint64_t at; /* 0: empty */
} receipts[SETS][WAYS];
static uint64_t receipts_kept;

static bool id_of(slice order_id, uint8_t id[ID_BYTES]) {
    return begins(order_id, "o-") &&
           unhex((slice){order_id.at + 2, order_id.len - 2}, id, ID_BYTES);
}

static struct kept *set_of(const uint8_t id[ID_BYTES]) {
    return receipts[(id[0] | id[1] << 8) % SETS];
}

void receipt_keep(slice order_id, const uint8_t digest[SHA256_BYTES]) {
    uint8_t id[ID_BYTES];
    if (!id_of(order_id, id)) return;
    struct kept *oldest = set_of(id);
    for (struct kept *one = oldest, *end = oldest + WAYS; one < end; one++)
        if (one->at < oldest->at) oldest = one;
    memcpy(oldest->id, id, ID_BYTES);
    memcpy(oldest->digest, digest, SHA256_BYTES);
    oldest->at = ++receipts_kept;
}

static const struct kept *receipt_of(slice order_id) {
    uint8_t id[ID_BYTES];
    if (!id_of(order_id, id)) return NULL;
    for (const struct kept *one = set_of(id), *end = one + WAYS; one < end; one++)
        if (one->at && !memcmp(one->id, id, ID_BYTES)) return one;
    return NULL;
}

void receipt_list(buffer *to, slice order_ids) {
    slice rest = behind(order_ids, "\"");
    for (bool first = true; rest.at; first = false) {
        const struct kept *found = receipt_of(until(rest, '"'));
        if (!first) add_text(to, ",");
        if (found)
            add_hex(to, found->digest, SHA256_BYTES);
        else
            add_text(to, "-");
        rest = behind(behind(rest, "\""), "\"");
    }
}

int64_t strings_in(slice list) {
    int64_t count = 0;
    for (slice rest = behind(list, "\""); rest.at; count++) rest = behind(behind(rest, "\""), "\"");
    return count;
}
