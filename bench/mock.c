/* A model's server that costs next to nothing: what a proxy in front of it needs is the proxy's own.
 *
 *     mock PORT EVENTS PAUSE_US MODELS
 *
 * GET  /v1/models             MODELS models: "burst", "paced", and as many more as were asked for
 * POST /v1/chat/completions   one JSON answer, or with "stream":true EVENTS events of one token each, a send() an event;
 *                             "burst" sends them as fast as they are taken, "paced" one every PAUSE_US
 *
 * With "include_usage":true one event more has the usage. One thread, HTTP/1.1, keep-alive, 127.0.0.1 alone; bodies with a
 * Content-Length, as every client here sends them. The model's name chooses the pace, so that no proxy needs to pass on
 * anything else. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CALLERS = 4096, INPUT = 1 << 18, TURNS = 256 };

struct text {
    char *bytes;
    size_t length;
};

struct caller {
    int fd, left, usage, waiting; /* events still to send; whether one with the usage follows; for room in the socket */
    uint64_t due_us;
    char *in;
    size_t filled;
    struct text out; /* what the socket did not take */
};

static struct caller *callers[MOST_CALLERS], *streaming[MOST_CALLERS];
static int streams, poller, events, pause_us;
static struct text models, whole, head, first, middle, last, usage, done;

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- what is answered, made once ---- */

static struct text text_of(const char *format, const char *filling) {
    struct text made;
    made.length = (size_t)asprintf(&made.bytes, format, filling);
    return made;
}

static struct text json_reply(const char *body) {
    struct text made;
    made.length = (size_t)asprintf(&made.bytes,
                                   "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                                   strlen(body), body);
    return made;
}

static struct text chunk(const char *choices) {
    char event[1024];
    int length = snprintf(event, sizeof event,
                          "data: {\"id\":\"chatcmpl-0f1e2d3c4b5a69788796a5b4\",\"object\":\"chat.completion.chunk\","
                          "\"created\":1750000000,\"model\":\"bench\",%s}\n\n",
                          choices);
    struct text made;
    made.length = (size_t)asprintf(&made.bytes, "%x\r\n%s\r\n", length, event);
    return made;
}

#define USAGE "\"usage\":{\"prompt_tokens\":60,\"completion_tokens\":100,\"total_tokens\":160}"

static void prepare(int count) {
    char words[512] = "", *list = malloc((size_t)count * 128 + 64), *end = list, body[1024];
    while (strlen(words) < 400) strcat(words, "A lighthouse keeper counts the ships. ");
    snprintf(body, sizeof body,
             "{\"id\":\"chatcmpl-0f1e2d3c4b5a69788796a5b4\",\"object\":\"chat.completion\",\"created\":1750000000,"
             "\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
             "\"finish_reason\":\"stop\"}]," USAGE "}",
             words);
    whole = json_reply(body);
    end += sprintf(end, "{\"object\":\"list\",\"data\":[");
    for (int n = 0; n < count; n++) {
        char name[32];
        snprintf(name, sizeof name, n == 0 ? "burst" : n == 1 ? "paced" : "model-%d", n);
        end += sprintf(end, "%s{\"id\":\"%s\",\"object\":\"model\",\"created\":0,\"owned_by\":\"bench\",\"context_length\":8192}",
                       n ? "," : "", name);
    }
    sprintf(end, "]}");
    models = json_reply(list);
    free(list);
    head = text_of("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s\r\n\r\n", "Transfer-Encoding: chunked");
    first = chunk("\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"A\"},\"finish_reason\":null}]");
    middle = chunk("\"choices\":[{\"index\":0,\"delta\":{\"content\":\" ship\"},\"finish_reason\":null}]");
    last = chunk("\"choices\":[{\"index\":0,\"delta\":{\"content\":\".\"},\"finish_reason\":\"stop\"}]");
    usage = chunk("\"choices\":[]," USAGE);
    done = text_of("e\r\n%s\r\n0\r\n\r\n", "data: [DONE]\n\n");
}

/* ---- callers ---- */

static void forget_stream(struct caller *caller) {
    for (int n = 0; n < streams; n++)
        if (streaming[n] == caller) {
            streaming[n] = streaming[--streams];
            return;
        }
}

static void hang_up(struct caller *caller) {
    forget_stream(caller);
    callers[caller->fd] = NULL;
    close(caller->fd);
    free(caller->in);
    free(caller->out.bytes);
    free(caller);
}

static void wait_for_room(struct caller *caller, int waiting) {
    struct epoll_event wanted = {.events = EPOLLIN | (waiting ? EPOLLOUT : 0), .data.fd = caller->fd};
    caller->waiting = waiting;
    epoll_ctl(poller, EPOLL_CTL_MOD, caller->fd, &wanted);
}

static void say(struct caller *caller, struct text text) {
    ssize_t sent = caller->out.length ? 0 : send(caller->fd, text.bytes, text.length, MSG_NOSIGNAL);
    size_t rest = text.length - (sent > 0 ? (size_t)sent : 0);
    if (!rest) return;
    caller->out.bytes = realloc(caller->out.bytes, caller->out.length + rest);
    memcpy(caller->out.bytes + caller->out.length, text.bytes + text.length - rest, rest);
    caller->out.length += rest;
    if (!caller->waiting) wait_for_room(caller, 1);
}

static int say_the_rest(struct caller *caller) {
    ssize_t sent = send(caller->fd, caller->out.bytes, caller->out.length, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    caller->out.length -= (size_t)sent;
    memmove(caller->out.bytes, caller->out.bytes + sent, caller->out.length);
    if (!caller->out.length) wait_for_room(caller, 0);
    return 1;
}

static void answer(struct caller *caller, const char *request, const char *body, size_t length) {
    static struct text missing = {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 45};
    if (!strncmp(request, "GET ", 4) && strstr(request, "/models")) {
        say(caller, models);
    } else if (strncmp(request, "POST ", 5)) {
        say(caller, missing);
    } else if (memmem(body, length, "\"stream\":true", 13) || memmem(body, length, "\"stream\": true", 14)) {
        caller->left = events;
        caller->usage = memmem(body, length, "\"include_usage\"", 15) != NULL;
        caller->due_us = memmem(body, length, "\"paced\"", 7) ? now_us() : 0; /* 0: at once, always */
        streaming[streams++] = caller;
        say(caller, head);
    } else {
        say(caller, whole);
    }
}

/* The requests that are there whole. A stream is finished before the next is looked at. */
static void take(struct caller *caller) {
    while (!caller->left && caller->filled) {
        char *end = memmem(caller->in, caller->filled, "\r\n\r\n", 4);
        if (!end) return;
        *end = 0; /* the head is a string now; put back when the body is not there yet */
        char *length = strcasestr(caller->in, "\r\ncontent-length:");
        size_t body = length ? strtoul(length + 17, NULL, 10) : 0, used = (size_t)(end + 4 - caller->in) + body;
        if (caller->filled < used) {
            *end = '\r';
            return;
        }
        answer(caller, caller->in, end + 4, body);
        memmove(caller->in, caller->in + used, caller->filled -= used);
    }
}

static void stream_on(struct caller *caller, uint64_t now) {
    if (caller->waiting || caller->due_us > now) return;
    say(caller, caller->left == events ? first : caller->left > 1 ? middle : last);
    caller->due_us += caller->due_us ? (uint64_t)pause_us : 0;
    if (--caller->left) return;
    if (caller->usage) say(caller, usage);
    say(caller, done);
    forget_stream(caller);
    take(caller);
}

static int until_next_ms(void) {
    uint64_t now = now_us(), next = UINT64_MAX;
    for (int n = 0; n < streams; n++)
        if (!streaming[n]->waiting && streaming[n]->due_us < next) next = streaming[n]->due_us;
    return next == UINT64_MAX ? -1 : next <= now ? 0 : (int)((next - now + 999) / 1000);
}

static void greet(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MOST_CALLERS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        callers[fd] = calloc(1, sizeof **callers);
        callers[fd]->fd = fd;
        callers[fd]->in = malloc(INPUT);
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static void attend(struct epoll_event *turn) {
    struct caller *caller = callers[turn->data.fd];
    if ((turn->events & EPOLLOUT) && !say_the_rest(caller)) {
        hang_up(caller);
        return;
    }
    if (!(turn->events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t got = recv(caller->fd, caller->in + caller->filled, INPUT - caller->filled, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) hang_up(caller);
        return;
    }
    caller->filled += (size_t)got;
    take(caller);
}

int main(int count, char **words) {
    if (count != 5) return fprintf(stderr, "mock PORT EVENTS PAUSE_US MODELS\n"), 2;
    events = atoi(words[2]), pause_us = atoi(words[3]);
    prepare(atoi(words[4]));
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1024)) return perror("mock"), 1;
    poller = epoll_create1(0);
    struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener}, turns[TURNS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted);
    for (;;) {
        int ready = epoll_wait(poller, turns, TURNS, until_next_ms());
        for (int n = 0; n < ready; n++) turns[n].data.fd == listener ? greet(listener) : attend(&turns[n]);
        uint64_t now = now_us();
        for (int n = streams - 1; n >= 0; n--)
            if (n < streams) stream_on(streaming[n], now);
    }
}
