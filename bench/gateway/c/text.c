#define _GNU_SOURCE
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

slice slice_of(const char *text) { return (slice){text, strlen(text)}; }

slice view(const buffer *of) { return (slice){of->at ? of->at : "", of->len}; }

bool is(slice value, const char *text) {
    return value.at && value.len == strlen(text) && !memcmp(value.at, text, value.len);
}

bool begins(slice value, const char *text) {
    size_t len = strlen(text);
    return value.at && value.len >= len && !memcmp(value.at, text, len);
}

slice behind(slice in, const char *what) {
    size_t len = strlen(what);
    const char *found = in.at ? memmem(in.at, in.len, what, len) : NULL;
    if (!found) return (slice){NULL, 0};
    return (slice){found + len, in.len - (size_t)(found + len - in.at)};
}

slice until(slice in, char end) {
    const char *found = in.at ? memchr(in.at, end, in.len) : NULL;
    return found ? (slice){in.at, (size_t)(found - in.at)} : in;
}

int64_t number(slice digits) {
    int64_t value = 0;
    for (size_t i = 0; i < digits.len && digits.at[i] >= '0' && digits.at[i] <= '9'; i++)
        value = value * 10 + (digits.at[i] - '0');
    return value;
}

void add(buffer *to, const void *data, size_t len) {
    if (to->len + len > to->room) {
        size_t room = to->room ? to->room : 2048;
        while (room < to->len + len) room *= 2;
        to->at = realloc(to->at, room);
        if (!to->at) abort();
        to->room = room;
    }
    memcpy(to->at + to->len, data, len);
    to->len += len;
}

void add_slice(buffer *to, slice value) {
    if (value.at) add(to, value.at, value.len);
}

void add_text(buffer *to, const char *text) { add(to, text, strlen(text)); }

void add_number(buffer *to, int64_t value) {
    char digits[24];
    add(to, digits, (size_t)snprintf(digits, sizeof digits, "%lld", (long long)value));
}

void add_hex(buffer *to, const uint8_t *data, size_t len) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++)
        add(to, (char[]){digits[data[i] >> 4], digits[data[i] & 15]}, 2);
}

void drop(buffer *from, size_t len) {
    from->len -= len;
    memmove(from->at, from->at + len, from->len);
}

void clear(buffer *all) { all->len = 0; }

void release(buffer *all) {
    free(all->at);
    *all = (buffer){0};
}

static slice json_value(slice json, const char *key, const char *open) {
    char pattern[64];
    snprintf(pattern, sizeof pattern, "\"%s\":%s", key, open);
    return behind(json, pattern);
}

slice json_string(slice json, const char *key) {
    slice value = json_value(json, key, "\"");
    return value.at ? until(value, '"') : value;
}

int64_t json_number(slice json, const char *key) { return number(json_value(json, key, "")); }

slice json_inside(slice json, const char *key, char close) {
    slice value = json_value(json, key, close == ']' ? "[" : "{");
    return value.at ? until(value, close) : value;
}

static int nibble(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

bool unhex(slice hex, uint8_t *to, size_t len) {
    if (!hex.at || hex.len != 2 * len) return false;
    for (size_t i = 0; i < len; i++) {
        int high = nibble(hex.at[2 * i]), low = nibble(hex.at[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        to[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}
