/* Growing buffers, slices of bytes, and the little JSON and hex that the bench needs. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *at; /* NULL: not there */
    size_t len;
} slice;

typedef struct {
    char *at;
    size_t len, room;
} buffer;

slice slice_of(const char *text);
slice view(const buffer *of);
bool is(slice value, const char *text);
bool begins(slice value, const char *text);
/* The rest of `in` behind the first `what`. */
slice behind(slice in, const char *what);
/* Up to the first `end` (or all of it). */
slice until(slice in, char end);
int64_t number(slice digits);

void add(buffer *to, const void *data, size_t len);
void add_slice(buffer *to, slice value);
void add_text(buffer *to, const char *text);
void add_number(buffer *to, int64_t value);
void add_hex(buffer *to, const uint8_t *data, size_t len);
void drop(buffer *from, size_t len); /* from the front */
void clear(buffer *all);
void release(buffer *all);

/* Values of compact JSON whose strings hold no escapes; the first `"key":` counts. */
slice json_string(slice json, const char *key);
int64_t json_number(slice json, const char *key); /* 0 where there is none */
slice json_inside(slice json, const char *key, char close); /* between the brackets */

bool unhex(slice hex, uint8_t *to, size_t len);
