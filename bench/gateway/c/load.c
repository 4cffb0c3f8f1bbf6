/* The load of the bench: so many connections, one answer at a time on each.
 *
 * `load port=N request=FILE connections=N [seconds=S | steady_ms=N ramp_ms=N interval_us=N]
 *  [chunks=N] [grace_ms=N]`
 * `seconds`: every connection asks again and again; after that time those under way may end within
 * `grace_ms`, what is then left is cut. `steady_ms`: every connection asks once, all within
 * `ramp_ms`; then, for `steady_ms`, the chunks are counted and their delays taken. A line `steady`
 * says that all are open. The last line is one JSON object.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire.h"

enum { EVENTS_MAX = 256, HEAD_BYTES_MAX = 65536, STAMP_DIGITS = 16, SETTLE_MS = 300,
       ERROR_CHARS_MAX = 300, BUCKETS_PER_OCTAVE = 32, BUCKETS = 32 * BUCKETS_PER_OCTAVE,
       AFTER_ERROR_US = 20000, READS_A_TURN_MAX = 16 };

/* A histogram of microseconds, exact to 3 percent. */
typedef struct {
    int64_t counts[BUCKETS], total;
} times;

static void times_add(times *to, int64_t us) {
    uint64_t value = us < 1 ? 1 : (uint64_t)us;
    int octave = 63 - __builtin_clzll(value);
    int64_t at = octave * BUCKETS_PER_OCTAVE;
    at += (int64_t)((value - (1ull << octave)) * BUCKETS_PER_OCTAVE >> octave);
    to->counts[at < BUCKETS ? at : BUCKETS - 1]++;
    to->total++;
}

static int64_t times_at(const times *of, int64_t percent) {
    int64_t rest = of->total * percent / 100;
    for (int at = 0; at < BUCKETS; at++) {
        rest -= of->counts[at];
        if (rest < 0) {
            uint64_t octave = 1ull << at / BUCKETS_PER_OCTAVE;
            return (int64_t)(octave + octave * (uint64_t)(at % BUCKETS_PER_OCTAVE) / BUCKETS_PER_OCTAVE);
        }
    }
    return 0;
}

typedef enum { CLOSED, CONNECTING, WAITING_HEAD, WAITING_BODY, RESTING, OVER } state;
typedef enum { SIZE, DATA, DATA_END, TRAILER } framing;

typedef struct {
    int fd;
    state is;
    buffer head_text;
    head head;
    size_t sent;
    int64_t begun_us, next_us;
    /* the body: bytes still to come (of it, or of an HTTP chunk) */
    framing at;
    int64_t left, size;
    bool line_empty;
    /* what is in it: a stamp that is being read, the end mark, chunks */
    int digits;
    int64_t stamp, chunks;
    size_t done_matched;
    bool is_done, had_chunk;
} lane;

static struct {
    int64_t port, connections, seconds, steady_ms, ramp_ms, interval_us, chunks, grace_ms;
    const char *request_file;
} wish = {.connections = 1, .grace_ms = 2000};

static struct {
    int64_t requests, chunks, reads, errors, lost, cut, reconnects, steady_chunks;
    char first_error[ERROR_CHARS_MAX];
    times whole, first, delay;
} seen;

static lane *lanes;
static buffer request;
static int epoll;
static int64_t start_us, steady_us, steady_end_us, end_us, over;

static const char DONE_MARK[] = "[DONE]";

static void note_error(const char *what, slice text) {
    if (!seen.errors++) {
        int len = snprintf(seen.first_error, ERROR_CHARS_MAX, "%s %.*s", what,
                           (int)(text.len < 200 ? text.len : 200), text.at ? text.at : "");
        for (int i = 0; i < len && i < ERROR_CHARS_MAX; i++) {
            char *c = &seen.first_error[i];
            if (*c && (*c < ' ' || *c == '"' || *c == '\\')) *c = '\'';
        }
    }
}

static bool is_late(int64_t now_us) { return end_us && now_us >= end_us; }

static void lane_over(lane *l) {
    if (l->is != OVER) over++;
    l->is = OVER;
}

static void hang_up(lane *l) {
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
    l->is = CLOSED;
}

static void send_rest(lane *l) {
    while (l->sent < request.len) {
        ssize_t len = send(l->fd, request.at + l->sent, request.len - l->sent, MSG_NOSIGNAL);
        if (len < 0) return; /* EAGAIN, or the reading side will see why */
        l->sent += (size_t)len;
    }
}

static void ask(lane *l) {
    l->is = WAITING_HEAD;
    l->sent = 0;
    l->chunks = l->digits = 0;
    l->done_matched = 0;
    l->is_done = l->had_chunk = false;
    clear(&l->head_text);
    l->begun_us = mono_us();
    send_rest(l);
}

static void watch(lane *l, int how) {
    struct epoll_event of = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = l};
    epoll_ctl(epoll, how, l->fd, &of);
}

static void dial(lane *l) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)wish.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    l->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (l->fd < 0) fail("socket");
    stay_awake(l->fd);
    if (connect(l->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) fail("connect");
    watch(l, EPOLL_CTL_ADD);
    l->is = CONNECTING;
}

/* The next request, or the end of this lane. */
static void go_on(lane *l, int64_t now_us) {
    if (wish.steady_ms || is_late(now_us)) {
        lane_over(l);
    } else if (l->fd < 0) {
        dial(l);
    } else {
        ask(l);
    }
}

static void break_off(lane *l, const char *what, slice text, int64_t now_us) {
    note_error(what, text);
    hang_up(l);
    if (wish.steady_ms || is_late(now_us)) {
        lane_over(l);
    } else {
        l->is = RESTING;
        l->next_us = now_us + AFTER_ERROR_US;
    }
}

static void end_answer(lane *l, int64_t now_us) {
    if (l->head.status != 200) {
        note_error("status", view(&l->head_text));
    } else {
        seen.requests++;
        times_add(&seen.whole, now_us - l->begun_us);
        if (wish.chunks && !l->is_done) note_error("the stream had no end", (slice){NULL, 0});
        seen.lost += wish.chunks - l->chunks;
    }
    if (l->head.closes) {
        seen.reconnects++;
        hang_up(l);
    }
    go_on(l, now_us);
}

static void take_stamp(lane *l, int64_t now_us) {
    seen.chunks++;
    l->chunks++;
    if (!l->had_chunk) times_add(&seen.first, now_us - l->begun_us);
    l->had_chunk = true;
    if (steady_us && now_us >= steady_us && now_us < steady_end_us) {
        seen.steady_chunks++;
        times_add(&seen.delay, now_us - l->stamp);
    }
}

static void take_text(lane *l, slice text, int64_t now_us) {
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (l->digits && c >= '0' && c <= '9') {
            l->stamp = l->stamp * 10 + (c - '0');
            if (l->digits++ == STAMP_DIGITS) {
                l->digits = 0;
                take_stamp(l, now_us);
            }
            continue;
        }
        l->digits = c == '@';
        l->stamp = 0;
        if (c == DONE_MARK[l->done_matched])
            l->done_matched++;
        else
            l->done_matched = c == DONE_MARK[0];
        if (l->done_matched == sizeof DONE_MARK - 1) {
            l->is_done = true;
            l->done_matched = 0;
        }
    }
}

/* One byte of the framing between HTTP chunks; true at the end of the body. */
static bool take_framing(lane *l, char c) {
    if (l->at == DATA_END) {
        if (c == '\n') l->at = SIZE, l->size = 0;
    } else if (l->at == SIZE) {
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit >= 0) l->size = l->size * 16 + digit;
        if (c == '\n') {
            l->left = l->size;
            l->line_empty = true;
            l->at = l->size ? DATA : TRAILER;
        }
    } else if (l->at == TRAILER) {
        if (c == '\n' && l->line_empty) return true;
        l->line_empty = c == '\n' || (c == '\r' && l->line_empty);
    }
    return false;
}

/* True when the answer is complete. */
static bool take_body(lane *l, slice data, int64_t now_us) {
    for (size_t i = 0; i < data.len;) {
        if (l->head.chunked && l->at != DATA) {
            if (take_framing(l, data.at[i++])) return true;
            continue;
        }
        size_t part = data.len - i;
        if (l->left >= 0 && (int64_t)part > l->left) part = (size_t)l->left;
        if (wish.chunks && l->head.status == 200) take_text(l, (slice){data.at + i, part}, now_us);
        i += part;
        l->left -= (int64_t)part;
        if (!l->left && !l->head.chunked) return true;
        if (!l->left) l->at = DATA_END;
    }
    return false;
}

static bool begin_body(lane *l, slice *rest) {
    if (!read_head(view(&l->head_text), &l->head)) {
        *rest = (slice){NULL, 0};
        return false;
    }
    l->is = WAITING_BODY;
    l->at = SIZE;
    l->size = 0;
    l->left = l->head.body_len;
    *rest = (slice){l->head_text.at + l->head.len, l->head_text.len - l->head.len};
    return !l->head.chunked && !l->left;
}

static void take_data(lane *l, slice data, int64_t now_us) {
    bool is_complete = false;
    seen.reads++;
    if (l->is == WAITING_HEAD) {
        add_slice(&l->head_text, data);
        is_complete = begin_body(l, &data);
        if (l->is == WAITING_HEAD && l->head_text.len > HEAD_BYTES_MAX) {
            break_off(l, "a head without end", (slice){NULL, 0}, now_us);
            return;
        }
    }
    if (l->is != WAITING_BODY) return;
    if (!is_complete) is_complete = take_body(l, data, now_us);
    if (is_complete) end_answer(l, now_us);
}

static void take_event(lane *l, uint32_t events) {
    static char data[262144];
    if (l->is == CONNECTING) {
        if (events & EPOLLOUT) ask(l);
        if (events & (EPOLLERR | EPOLLHUP))
            break_off(l, "no connection", (slice){NULL, 0}, mono_us());
        return;
    }
    if (l->is == WAITING_HEAD && l->sent < request.len && events & EPOLLOUT) send_rest(l);
    for (int reads = 0; l->is == WAITING_HEAD || l->is == WAITING_BODY; reads++) {
        if (reads == READS_A_TURN_MAX) {
            watch(l, EPOLL_CTL_MOD); /* the others' turn; what is left will be told again */
            return;
        }
        ssize_t len = recv(l->fd, data, sizeof data, 0);
        int64_t now_us = mono_us();
        if (len > 0)
            take_data(l, (slice){data, (size_t)len}, now_us);
        else if (len < 0 && errno == EAGAIN)
            return;
        else
            break_off(l, "cut", view(&l->head_text), now_us);
    }
}

static void wake_lanes(int64_t now_us) {
    for (int64_t i = 0; i < wish.connections; i++) {
        lane *l = &lanes[i];
        if ((l->is == CLOSED || l->is == RESTING) && l->next_us <= now_us) {
            if (l->is == RESTING) go_on(l, now_us);
            else dial(l);
        }
    }
}

static void cut_the_rest(void) {
    for (int64_t i = 0; i < wish.connections; i++) {
        lane *l = &lanes[i];
        if (l->is == WAITING_HEAD || l->is == WAITING_BODY || l->is == CONNECTING) seen.cut++;
        if (l->fd >= 0) close(l->fd);
    }
}

static void run(void) {
    struct epoll_event events[EVENTS_MAX];
    int64_t last_us = end_us + wish.grace_ms * 1000, wake_us = 0;
    bool said_steady = false;
    for (int64_t now_us = start_us; over < wish.connections && now_us < last_us;) {
        if (now_us >= wake_us) {
            wake_lanes(now_us);
            wake_us = now_us + 2000;
        }
        if (!said_steady && steady_us && now_us >= steady_us) {
            said_steady = true;
            puts("steady");
            fflush(stdout);
        }
        int count = epoll_wait(epoll, events, EVENTS_MAX, 2);
        for (int i = 0; i < count; i++) take_event(events[i].data.ptr, events[i].events);
        now_us = mono_us();
    }
}

static void report(int64_t wall_us) {
    int64_t due = wish.interval_us ? wish.connections * wish.steady_ms * 1000 / wish.interval_us : 0;
    printf("{\"requests\":%lld,\"chunks\":%lld,\"reads\":%lld,\"errors\":%lld,\"lost\":%lld,"
           "\"cut\":%lld,\"reconnects\":%lld,\"wall_us\":%lld,\"steady_chunks\":%lld,"
           "\"steady_due\":%lld,\"whole_p50_us\":%lld,\"whole_p99_us\":%lld,\"first_p50_us\":%lld,"
           "\"delay_p50_us\":%lld,\"delay_p99_us\":%lld,\"first_error\":\"%s\"}\n",
           (long long)seen.requests, (long long)seen.chunks, (long long)seen.reads,
           (long long)seen.errors, (long long)seen.lost, (long long)seen.cut,
           (long long)seen.reconnects, (long long)wall_us, (long long)seen.steady_chunks,
           (long long)due, (long long)times_at(&seen.whole, 50),
           (long long)times_at(&seen.whole, 99), (long long)times_at(&seen.first, 50),
           (long long)times_at(&seen.delay, 50), (long long)times_at(&seen.delay, 99),
           seen.first_error);
}

static void read_wish(int count, char **words) {
    struct {
        const char *name;
        int64_t *to;
    } known[] = {{"port=", &wish.port},           {"connections=", &wish.connections},
                 {"seconds=", &wish.seconds},     {"steady_ms=", &wish.steady_ms},
                 {"ramp_ms=", &wish.ramp_ms},     {"interval_us=", &wish.interval_us},
                 {"chunks=", &wish.chunks},       {"grace_ms=", &wish.grace_ms}};
    for (int i = 1; i < count; i++) {
        slice word = slice_of(words[i]);
        bool is_known = begins(word, "request=");
        if (is_known) wish.request_file = words[i] + strlen("request=");
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            if (begins(word, known[k].name)) {
                *known[k].to = number(slice_of(words[i] + strlen(known[k].name)));
                is_known = true;
            }
        if (!is_known) {
            fprintf(stderr, "load: what is %s?\n", words[i]);
            exit(2);
        }
    }
}

static void read_request(void) {
    char data[65536];
    FILE *file = wish.request_file ? fopen(wish.request_file, "rb") : NULL;
    if (!file) fail("load: request=FILE");
    for (size_t len; (len = fread(data, 1, sizeof data, file)) > 0;) add(&request, data, len);
    fclose(file);
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    read_wish(count, words);
    read_request();
    epoll = epoll_create1(0);
    lanes = calloc((size_t)wish.connections, sizeof *lanes);
    if (!lanes) fail("load");
    start_us = mono_us();
    for (int64_t i = 0; i < wish.connections; i++) {
        lanes[i].fd = -1;
        lanes[i].next_us = start_us + i * wish.ramp_ms * 1000 / wish.connections;
    }
    if (wish.steady_ms) {
        steady_us = start_us + (wish.ramp_ms + SETTLE_MS) * 1000;
        steady_end_us = end_us = steady_us + wish.steady_ms * 1000;
    } else {
        end_us = start_us + wish.seconds * 1000000;
    }
    run();
    int64_t wall_us = mono_us() - start_us;
    cut_the_rest();
    report(wall_us);
}
