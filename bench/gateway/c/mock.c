/* The upstream of the bench: one process, epoll, made to cost little.
 *
 * `mock PORT [SIDECAR]`. It answers chat requests; the text `bench:CHUNKS:INTERVAL_US;` in a
 * streamed request says how many chunks, and how far apart (0: all at once). Every chunk is a write
 * of its own and carries the time it was written: `@` and 16 digits, CLOCK_MONOTONIC in
 * microseconds. A request with an order is answered as a Penstock miner answers it, with a check
 * of the order's MAC and digest and a vouched (or signed) receipt; the key is with the sidecar.
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

#include "sidecar.h"
#include "wire.h"

enum { FDS_MAX = 8192, EVENTS_MAX = 256, POINT_EVENTS = 64, WHOLE_UNITS = 150, TURNS_MAX = 512,
       ANSWERS_A_TURN_MAX = 4 };

#define CHUNK_HEAD                                                                                \
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":"
#define USAGE "\"usage\":{\"prompt_tokens\":16,\"completion_tokens\":150,\"total_tokens\":166}"
#define FINISH                                                     \
    CHUNK_HEAD "{},\"finish_reason\":\"stop\"}]," USAGE "}\n\n"
#define DONE "data: [DONE]\n\n"
#define STREAM_HEAD                                                                        \
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n" \
    "transfer-encoding: chunked\r\n\r\n"

/* What a connection waits for. */
typedef enum { FREE, READING, STREAMING, OPENING, SIGNING_WHOLE, SIGNING_END, SIGNING_POINT,
               FORWARDING } state;

typedef struct connection {
    int fd;
    uint32_t life;
    state is;
    bool is_blocked, is_gone, is_scheduled;
    buffer in, out, word;
    head request;
    /* an order, if there is one */
    bool is_ordered, is_signed;
    order order;
    answer answer;
    buffer order_json;
    const uint8_t *key;
    uint8_t digest[SHA256_BYTES];
    /* a stream */
    int64_t chunks, sent, interval_us, due_us;
    struct connection *before, *after;
} connection;

static connection connections[FDS_MAX];
static connection schedule = {.before = &schedule, .after = &schedule}; /* by due_us */
static int epoll;
static buffer scratch, whole_body;
static struct {
    int64_t requests, vouched, is_signed, refused, forwarded, points, unsealed, unsealed_max;
} seen;

static slice body_of(const connection *c) {
    return (slice){c->in.at + c->request.len, (size_t)c->request.body_len};
}

/* The schedule: streams by when their next chunk is due. */

static void unschedule(connection *c) {
    if (!c->is_scheduled) return;
    c->before->after = c->after;
    c->after->before = c->before;
    c->is_scheduled = false;
}

static void put_on_schedule(connection *c) {
    connection *at = schedule.before;
    while (at != &schedule && at->due_us > c->due_us) at = at->before;
    c->before = at;
    c->after = at->after;
    c->after->before = at->after = c;
    c->is_scheduled = true;
}

static void close_connection(connection *c) {
    unschedule(c);
    close(c->fd);
    release(&c->in);
    release(&c->out);
    release(&c->word);
    release(&c->order_json);
    *c = (connection){.life = c->life + 1};
}

/* Sends what it can; false when some is left. */
static bool flush(connection *c) {
    size_t sent = 0;
    while (sent < c->out.len) {
        ssize_t len = send(c->fd, c->out.at + sent, c->out.len - sent, MSG_NOSIGNAL);
        if (len < 0) {
            c->is_gone = errno != EAGAIN;
            break;
        }
        sent += (size_t)len;
    }
    drop(&c->out, sent);
    c->is_blocked = c->out.len > 0;
    return !c->is_blocked;
}

/* Whoever called from outside `take_input` calls it next. */
static void finish_request(connection *c) {
    drop(&c->in, c->request.len + (size_t)c->request.body_len);
    c->is = READING;
}

static void respond(connection *c, const char *status, slice extra_headers, slice body) {
    add_text(&c->out, "HTTP/1.1 ");
    add_text(&c->out, status);
    add_text(&c->out, "\r\ncontent-type: application/json\r\n");
    add_slice(&c->out, extra_headers);
    add_text(&c->out, "content-length: ");
    add_number(&c->out, (int64_t)body.len);
    add_text(&c->out, "\r\n\r\n");
    add_slice(&c->out, body);
    flush(c);
    finish_request(c);
}

static void refuse(connection *c, const char *status, const char *code) {
    seen.refused++;
    clear(&c->word);
    add_text(&c->word, "{\"error\":{\"message\":\"the bench's miner refuses\",\"code\":\"");
    add_text(&c->word, code);
    add_text(&c->word, "\"}}");
    respond(c, status, (slice){NULL, 0}, view(&c->word));
}

static void ask_sidecar(connection *c, state meanwhile, ask what, slice first_line, slice payload) {
    c->is = meanwhile;
    unschedule(c);
    sidecar_ask((uint64_t)c->life << 32 | (uint32_t)c->fd, what, first_line, payload);
}

static void ask_signature(connection *c, state meanwhile) {
    buffer hex = {0};
    add_hex(&hex, c->digest, SHA256_BYTES);
    ask_sidecar(c, meanwhile, ASK_SIGN, (slice){NULL, 0}, view(&hex));
    release(&hex);
}

/* Whole answers. */

static void end_whole(connection *c, slice signature) {
    clear(&scratch);
    add_text(&scratch, "x-penstock-receipt: ");
    if (c->is_signed)
        /* base64url is the sidecar's: it answers with the whole header's value. */
        add_slice(&scratch, signature);
    else
        add_vouched(&scratch, view(&c->word), c->digest, c->key);
    add_text(&scratch, "\r\n");
    respond(c, "200 OK", view(&scratch), view(&whole_body));
}

static void answer_whole(connection *c) {
    if (!c->is_ordered) {
        respond(c, "200 OK", (slice){NULL, 0}, view(&whole_body));
        return;
    }
    answer_add(&c->answer, whole_body.at, whole_body.len);
    c->answer.completion = WHOLE_UNITS;
    clear(&c->word);
    add_receipt(&c->word, &c->order, &c->answer, c->digest);
    receipt_keep(c->order.order_id, c->digest);
    if (c->is_signed)
        ask_sidecar(c, SIGNING_WHOLE, ASK_SIGN, slice_of("header receipt"), view(&c->word));
    else
        end_whole(c, (slice){NULL, 0});
}

/* Streams. */

/* One event as one HTTP chunk, and one write. */
static void send_event(connection *c, slice event, bool is_answer) {
    char size[16];
    if (is_answer && c->is_ordered) answer_add(&c->answer, event.at, event.len);
    add(&c->out, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", event.len));
    add_slice(&c->out, event);
    add_text(&c->out, "\r\n");
    flush(c);
}

static void send_word(connection *c, const char *name, slice payload, bool is_answer) {
    clear(&scratch);
    add_text(&scratch, name);
    add_slice(&scratch, payload);
    add_text(&scratch, "\n\n");
    send_event(c, view(&scratch), is_answer);
}

static void send_chunk(connection *c) {
    char event[512];
    int len = snprintf(event, sizeof event,
                       CHUNK_HEAD "{\"content\":\"@%016lld \"},\"finish_reason\":null}]}\n\n",
                       (long long)mono_us());
    c->sent++;
    c->answer.events++;
    c->answer.completion++;
    send_event(c, (slice){event, (size_t)len}, true);
    if (!c->is_ordered || c->answer.events % POINT_EVENTS || c->sent == c->chunks) return;
    clear(&c->word);
    add_checkpoint(&c->word, &c->order, &c->answer, c->digest);
    seen.points++;
    ask_signature(c, SIGNING_POINT);
}

static void send_point(connection *c, slice signature) {
    buffer said = {0};
    add_signed(&said, view(&c->word), "checkpoint", c->order.miner, signature);
    send_word(c, ": penstock-checkpoint ", view(&said), true);
    release(&said);
    c->is = STREAMING;
    if (!c->is_blocked) put_on_schedule(c);
}

static void send_last_event(connection *c, slice receipt) {
    if (c->is_ordered) send_word(c, ": penstock-receipt ", receipt, false);
    add_text(&c->out, "0\r\n\r\n");
    flush(c);
    finish_request(c);
}

static void end_stream(connection *c) {
    c->answer.events += 2;
    send_event(c, slice_of(FINISH), true);
    send_event(c, slice_of(DONE), true);
    if (!c->is_ordered) {
        send_last_event(c, (slice){NULL, 0});
        return;
    }
    c->answer.last_ms = wall_ms();
    clear(&c->word);
    add_receipt(&c->word, &c->order, &c->answer, c->digest);
    receipt_keep(c->order.order_id, c->digest);
    if (c->is_signed) {
        ask_signature(c, SIGNING_END);
        return;
    }
    buffer said = {0};
    add_vouched(&said, view(&c->word), c->digest, c->key);
    send_last_event(c, view(&said));
    release(&said);
}

static void turn(connection *c) {
    unschedule(c);
    if (c->sent == c->chunks) {
        end_stream(c);
        return;
    }
    do
        send_chunk(c);
    while (!c->interval_us && c->sent < c->chunks && c->is == STREAMING && !c->is_blocked);
    if (c->is != STREAMING) return; /* the sidecar signs a checkpoint */
    c->due_us = c->interval_us ? c->due_us + c->interval_us : mono_us();
    if (!c->is_blocked) put_on_schedule(c);
}

static void begin_stream(connection *c, slice plan) {
    c->chunks = number(plan);
    c->interval_us = number(behind(plan, ":"));
    c->sent = 0;
    c->is = STREAMING;
    c->due_us = mono_us();
    add_text(&c->out, STREAM_HEAD);
    if (flush(c)) put_on_schedule(c);
}

/* Requests. */

static void begin_answer(connection *c) {
    slice body = body_of(c);
    bool is_stream = behind(body, "\"stream\":true").at || behind(body, "\"stream\": true").at;
    if (c->is_ordered) {
        uint8_t said[SHA256_BYTES], found[SHA256_BYTES];
        sha256 hash;
        sha256_begin(&hash);
        sha256_add(&hash, body.at, body.len);
        sha256_digest(&hash, found);
        if (!unhex(c->order.request_digest, said, SHA256_BYTES) || memcmp(said, found, sizeof said)) {
            refuse(c, "400 Bad Request", "another_body");
            return;
        }
        answer_begin(&c->answer, wall_ms());
    }
    seen.requests++;
    slice plan = until(behind(body, "bench:"), ';');
    if (is_stream)
        begin_stream(c, plan.at ? plan : slice_of("1:0"));
    else
        answer_whole(c);
}

static void take_vouched_order(connection *c, slice json, slice session) {
    uint8_t said[SHA256_BYTES], mac[SHA256_BYTES];
    c->is_ordered = true;
    c->is_signed = false;
    c->key = session_key(until(session, '.'));
    if (!c->key) {
        refuse(c, "401 Unauthorized", "session_unknown");
        return;
    }
    if (!read_order(json, &c->order) || !unhex(behind(session, "."), said, SHA256_BYTES)) {
        refuse(c, "400 Bad Request", "bad_order");
        return;
    }
    hmac_tagged(c->key, "order", c->order.digest, mac);
    if (memcmp(mac, said, sizeof mac)) {
        refuse(c, "401 Unauthorized", "bad_mac");
        return;
    }
    seen.vouched++;
    if (++seen.unsealed > seen.unsealed_max) seen.unsealed_max = seen.unsealed;
    begin_answer(c);
}

static void take_signed_order(connection *c, slice json) {
    clear(&c->order_json);
    add_slice(&c->order_json, json);
    c->is_ordered = c->is_signed = true;
    if (!read_order(view(&c->order_json), &c->order)) {
        refuse(c, "400 Bad Request", "bad_order");
        return;
    }
    seen.is_signed++;
    begin_answer(c);
}

static void take_chat(connection *c) {
    slice said = header(&c->request, "x-penstock-order");
    c->is_ordered = false;
    if (!said.at)
        begin_answer(c);
    else if (*said.at == '{')
        take_vouched_order(c, said, header(&c->request, "x-penstock-session"));
    else
        ask_sidecar(c, OPENING, ASK_OPEN, (slice){NULL, 0}, said);
}

static void forward_seals(connection *c) {
    slice body = body_of(c);
    clear(&scratch);
    receipt_list(&scratch, json_inside(body, "receipts", ']'));
    seen.unsealed -= strings_in(json_inside(body, "digests", ']'));
    ask_sidecar(c, FORWARDING, ASK_SEALS, view(&scratch), body);
}

static void tell_counts(connection *c) {
    char text[512];
    int len = snprintf(text, sizeof text,
                       "{\"requests\":%lld,\"vouched\":%lld,\"signed\":%lld,\"refused\":%lld,"
                       "\"forwarded\":%lld,\"checkpoints\":%lld,\"unsealed\":%lld,"
                       "\"unsealed_max\":%lld}",
                       (long long)seen.requests, (long long)seen.vouched,
                       (long long)seen.is_signed, (long long)seen.refused,
                       (long long)seen.forwarded, (long long)seen.points,
                       (long long)seen.unsealed, (long long)seen.unsealed_max);
    respond(c, "200 OK", (slice){NULL, 0}, (slice){text, (size_t)len});
}

static void begin_request(connection *c) {
    slice path = c->request.path;
    if (begins(path, "/v1/chat/completions")) {
        take_chat(c);
    } else if (is(path, "/v1/sessions")) {
        seen.forwarded++;
        ask_sidecar(c, FORWARDING, ASK_SESSION, (slice){NULL, 0}, body_of(c));
    } else if (is(path, "/v1/seals")) {
        seen.forwarded++;
        forward_seals(c);
    } else if (is(path, "/bench/counts")) {
        tell_counts(c);
    } else if (is(path, "/v1/models")) {
        respond(c, "200 OK", (slice){NULL, 0},
                slice_of("{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\"}]}"));
    } else {
        respond(c, "200 OK", (slice){NULL, 0},
                slice_of("{\"status\":\"ok\",\"model_path\":\"bench\",\"served_model_name\":\"bench\"}"));
    }
}

static void watch(connection *c, int how) {
    struct epoll_event of = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    epoll_ctl(epoll, how, c->fd, &of);
}

static void take_input(connection *c) {
    static char data[65536];
    for (int answered = 0; c->is == READING && !c->is_gone;) {
        if (read_head(view(&c->in), &c->request)) {
            if (c->request.body_len < 0) c->request.body_len = 0;
            if (c->in.len >= c->request.len + (size_t)c->request.body_len) {
                begin_request(c);
                if (++answered < ANSWERS_A_TURN_MAX) continue;
                watch(c, EPOLL_CTL_MOD); /* there may be more: it will be told again */
                return;
            }
        }
        ssize_t len = recv(c->fd, data, sizeof data, 0);
        if (len > 0)
            add(&c->in, data, (size_t)len);
        else if (!len || errno != EAGAIN)
            c->is_gone = true;
        else
            return;
    }
}

static void take_reply(const reply *told) {
    connection *c = &connections[(uint32_t)told->token];
    if (c->life != told->token >> 32) return; /* the gateway has hung up since */
    state was = c->is;
    c->is = READING;
    if (told->status != 200 && was != FORWARDING) {
        refuse(c, "400 Bad Request", "bad_order");
    } else if (was == OPENING) {
        take_signed_order(c, told->payload);
    } else if (was == SIGNING_WHOLE) {
        end_whole(c, told->payload);
    } else if (was == SIGNING_POINT) {
        send_point(c, told->payload);
    } else if (was == SIGNING_END) {
        buffer said = {0};
        add_signed(&said, view(&c->word), "receipt", c->order.miner, told->payload);
        send_last_event(c, view(&said));
        release(&said);
    } else if (was == FORWARDING) {
        slice body = told->payload;
        if (is(c->request.path, "/v1/sessions") && told->status == 200) {
            slice line = until(body, '\n');
            session_learn(until(line, ' '), behind(line, " "));
            body = behind(body, "\n");
        }
        respond(c, told->status == 200 ? "200 OK" : "400 Bad Request", (slice){NULL, 0}, body);
    }
    take_input(c);
    if (c->is_gone) close_connection(c);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= FDS_MAX) {
            close(fd);
            continue;
        }
        stay_awake(fd);
        connection *c = &connections[fd];
        c->fd = fd;
        c->is = READING;
        watch(c, EPOLL_CTL_ADD);
    }
}

static void take_event(connection *c, uint32_t events) {
    if (c->is == FREE) return; /* closed earlier in this round */
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) c->is_gone = true;
    if (!c->is_gone && events & EPOLLOUT && c->is_blocked && flush(c) && c->is == STREAMING &&
        !c->is_scheduled)
        put_on_schedule(c);
    if (!c->is_gone && events & EPOLLIN) take_input(c);
    if (c->is_gone) close_connection(c);
}

static void take_turns(void) {
    int64_t now_us = mono_us();
    for (int i = 0; i < TURNS_MAX; i++) {
        connection *c = schedule.after;
        if (c == &schedule || c->due_us > now_us) return;
        turn(c);
        take_input(c);
        if (c->is_gone) close_connection(c);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) fail("mock: listen");
    return fd;
}

static void serve(int listener) {
    static int listening, asking; /* told apart from connections by their address */
    struct epoll_event of = {.events = EPOLLIN, .data.ptr = &listening};
    struct epoll_event events[EVENTS_MAX];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &of);
    of = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = &asking};
    if (sidecar_fd() >= 0) epoll_ctl(epoll, EPOLL_CTL_ADD, sidecar_fd(), &of);
    for (reply told;;) {
        int64_t wait_us = schedule.after == &schedule ? 1000000 : schedule.after->due_us - mono_us();
        if (wait_us < 0) wait_us = 0;
        struct timespec wait = {wait_us / 1000000, wait_us % 1000000 * 1000};
        int count = epoll_pwait2(epoll, events, EVENTS_MAX, &wait, NULL);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &listening) {
                accept_all(listener);
            } else if (events[i].data.ptr == &asking) {
                sidecar_write();
                sidecar_read();
                while (sidecar_next(&told)) take_reply(&told);
            } else {
                take_event(events[i].data.ptr, events[i].events);
            }
        }
        take_turns();
    }
}

int main(int count, char **words) {
    if (count < 2) return fprintf(stderr, "usage: mock PORT [SIDECAR]\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    add_text(&whole_body, "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":"
                          "1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":"
                          "{\"role\":\"assistant\",\"content\":\"");
    while (whole_body.len < 860) add_text(&whole_body, "Water flows downhill through every gate. ");
    add_text(&whole_body, "\"},\"finish_reason\":\"stop\"}]," USAGE "}");
    epoll = epoll_create1(0);
    if (count > 2) sidecar_connect(words[2]);
    int listener = listen_on(atoi(words[1]));
    puts("ready");
    fflush(stdout);
    serve(listener);
}
