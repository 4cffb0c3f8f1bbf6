/* Enough of HTTP/1.1 and of the clock for the two ends of the bench. */
#pragma once
#include "text.h"

typedef struct {
    size_t len; /* with the empty line */
    slice text, path;
    int status;       /* of an answer */
    int64_t body_len; /* -1: none said */
    bool chunked, closes;
} head;

/* False until the empty line is there. */
bool read_head(slice data, head *to);
/* A header's value by its lower-case name. */
slice header(const head *of, const char *name);

int64_t mono_us(void);
int64_t wall_ms(void);

void stay_awake(int fd); /* TCP_NODELAY and non-blocking */
_Noreturn void fail(const char *what);
