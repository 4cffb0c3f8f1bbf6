#define _GNU_SOURCE
#include "wire.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

slice header(const head *of, const char *name) {
    size_t len = strlen(name);
    slice rest = behind(of->text, "\r\n");
    while (rest.len > 2) {
        slice line = until(rest, '\r');
        if (line.len > len && line.at[len] == ':' && !strncasecmp(line.at, name, len)) {
            line.at += len + 1;
            line.len -= len + 1;
            while (line.len && *line.at == ' ') line.at++, line.len--;
            return line;
        }
        rest = behind(rest, "\r\n");
    }
    return (slice){NULL, 0};
}

bool read_head(slice data, head *to) {
    slice rest = behind(data, "\r\n\r\n");
    if (!rest.at) return false;
    *to = (head){.len = data.len - rest.len, .text = {data.at, data.len - rest.len}};
    slice second = behind(until(data, '\r'), " ");
    to->path = until(second, ' ');
    to->status = (int)number(second);
    slice length = header(to, "content-length"), coding = header(to, "transfer-encoding");
    to->body_len = length.at ? number(length) : -1;
    to->chunked = is(coding, "chunked");
    to->closes = is(header(to, "connection"), "close");
    return true;
}

static int64_t now(clockid_t clock, int64_t per_second) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * per_second + time.tv_nsec / (1000000000 / per_second);
}

int64_t mono_us(void) { return now(CLOCK_MONOTONIC, 1000000); }

int64_t wall_ms(void) { return now(CLOCK_REALTIME, 1000); }

void stay_awake(int fd) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void fail(const char *what) {
    perror(what);
    exit(1);
}
