/* Callers of a proxy, each sending its next request when the answer to the last is complete, for a time or a number.
 *
 *     load PORT PATH CALLERS WARM_S SECONDS REQUESTS DRAIN_S BODY KEYS NEEDLE EVENTS RECEIPT
 *
 * BODY is the file of the request's body ("" sends a GET), KEYS a file of one bearer key a line, taken in turn. An answer is
 * right when it is a 200 of its full length that contains NEEDLE, has EVENTS events or more (a stream's [DONE] not
 * counted), and, if RECEIPT names it, bears a receipt: that header, or a comment of a stream. All else is a failure, and so
 * is what is not complete DRAIN_S after the end. With REQUESTS the run ends after so many, else after SECONDS.
 *
 * The callers join one after the other during the first WARM_S: else they would all come at the same moment, with streams of
 * equal length again and again. What is done in that time is checked, and left out of rates and times. Prints one JSON
 * object. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CALLERS = 2048, INPUT = 1 << 16, TURNS = 256, SAID = 160 };
enum part { HEAD, WHOLE, SIZE, PIECE, END };

struct caller {
    int fd, busy, chunked, receipted, status, finished;
    enum part part;
    char in[INPUT];
    size_t filled, left, body, room, line; /* left: of the body or piece; line: where the body's last line begins */
    char *answer;
    long events;
    double begun, first_byte;
};

struct sample {
    double *seconds;
    size_t count, room;
};

static struct caller callers[MOST_CALLERS];
static struct sample waits, first_bytes;
static struct sockaddr_in server = {.sin_family = AF_INET};
static int poller, concurrency, sending = 1;
static long most, wanted_events, begun_requests, served, failures, served_in_time, events_in_time;
static double started, warm_at, end_at, last_at;
static char *path, *body, *needle, *receipt, said[SAID];
static char **keys;
static size_t body_length, key_count;

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void note(struct sample *sample, double seconds) {
    if (sample->count == sample->room) {
        sample->room = sample->room ? sample->room * 2 : 4096;
        sample->seconds = realloc(sample->seconds, sample->room * sizeof *sample->seconds);
    }
    sample->seconds[sample->count++] = seconds;
}

static int by_size(const void *one, const void *other) {
    double first = *(const double *)one, second = *(const double *)other;
    return (first > second) - (first < second);
}

/* In milliseconds; -1 of none. */
static double centile(struct sample *sample, double part) {
    if (!sample->count) return -1;
    qsort(sample->seconds, sample->count, sizeof *sample->seconds, by_size);
    return sample->seconds[(size_t)(part * (double)(sample->count - 1))] * 1000;
}

/* ---- one caller ---- */

static void call(struct caller *caller);

static void dial(struct caller *caller) {
    int yes = 1;
    caller->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(caller->fd, (struct sockaddr *)&server, sizeof server)) perror("load"), exit(1);
    setsockopt(caller->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = caller};
    epoll_ctl(poller, EPOLL_CTL_ADD, caller->fd, &wanted);
}

static void next(struct caller *caller) {
    caller->busy = 0;
    if (most && begun_requests >= most) sending = 0;
    if (sending) call(caller);
}

static void fail(struct caller *caller, const char *why) {
    failures++;
    if (!*said) {
        size_t used = (size_t)snprintf(said, SAID, "%s, status %d: %.*s", why, caller->status, (int)(caller->body > 80 ? 80 : caller->body),
                                       caller->answer ? caller->answer : "");
        for (size_t n = 0; n < used && said[n]; n++)
            if (said[n] == '"' || said[n] == '\\' || said[n] < ' ') said[n] = '\'';
    }
    close(caller->fd); /* what is still to come must not be taken for the next answer */
    dial(caller);
    next(caller);
}

static void call(struct caller *caller) {
    char request[INPUT];
    const char *key = keys[begun_requests % (long)key_count];
    int length = snprintf(request, sizeof request,
                          "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
                          "Content-Length: %zu\r\n\r\n%s",
                          body_length ? "POST" : "GET", path, key, body_length, body);
    caller->busy = 1, caller->part = HEAD, caller->status = caller->receipted = caller->chunked = 0;
    caller->filled = caller->body = caller->line = 0, caller->events = 0, caller->first_byte = 0;
    caller->begun = now_s();
    begun_requests++;
    send(caller->fd, request, (size_t)length, MSG_NOSIGNAL); /* small enough to be taken whole; if it fails, so does the answer */
}

static void judge(struct caller *caller) {
    double now = now_s();
    if (caller->status != 200) return fail(caller, "refused");
    if (needle[0] && !memmem(caller->answer, caller->body, needle, strlen(needle))) return fail(caller, "not the answer");
    if (caller->events < wanted_events) return fail(caller, "events are missing");
    if (wanted_events && !caller->finished) return fail(caller, "no [DONE]");
    if (receipt[0] && !caller->receipted) return fail(caller, "no receipt");
    served++;
    last_at = now;
    if (now >= warm_at && (most || now < end_at)) {
        served_in_time++;
        note(&waits, now - caller->begun);
        note(&first_bytes, caller->first_byte - caller->begun);
    }
    next(caller);
}

/* ---- reading an answer ---- */

/* A line of a stream. */
static void line(struct caller *caller, const char *text, size_t length, double now) {
    if (length > 12 && !memcmp(text, "data: [DONE]", 12)) {
        caller->finished = 1;
    } else if (length > 5 && !memcmp(text, "data:", 5)) {
        caller->events++;
        if (now >= warm_at && now < end_at) events_in_time++;
    } else if (receipt[0] && length > 18 && !memcmp(text, ": satroute-receipt", 18)) {
        caller->receipted = 1;
    }
}

static void hear(struct caller *caller, const char *bytes, size_t length) {
    double now = now_s();
    if (!caller->first_byte) caller->first_byte = now;
    if (caller->body + length > caller->room) {
        caller->room = (caller->body + length) * 2;
        caller->answer = realloc(caller->answer, caller->room);
    }
    memcpy(caller->answer + caller->body, bytes, length);
    caller->body += length;
    if (!wanted_events) return;
    for (char *end; (end = memchr(caller->answer + caller->line, '\n', caller->body - caller->line));) {
        char *start = caller->answer + caller->line;
        line(caller, start, (size_t)(end - start) + 1, now);
        caller->line = (size_t)(end + 1 - caller->answer);
    }
}

static int read_head(struct caller *caller, char *end) {
    *end = 0;
    char *length = strcasestr(caller->in, "\r\ncontent-length:"), *chunks = strcasestr(caller->in, "\r\ntransfer-encoding: chunked");
    caller->status = atoi(caller->in + 9);
    caller->receipted = receipt[0] && strcasestr(caller->in, receipt) != NULL;
    caller->finished = 0;
    caller->left = length ? strtoul(length + 17, NULL, 10) : 0;
    caller->part = chunks ? SIZE : WHOLE;
    return length || chunks;
}

/* Use what was read, up to the end of the answer; returns how much of it is used up. */
static size_t parse(struct caller *caller) {
    size_t at = 0;
    while (caller->part != END) {
        char *here = caller->in + at, *end;
        size_t there = caller->filled - at;
        if (caller->part == HEAD) {
            if (!(end = memmem(here, there, "\r\n\r\n", 4))) return at;
            if (!read_head(caller, end)) return caller->part = END, caller->status = 0, caller->filled;
            at = (size_t)(end + 4 - caller->in);
        } else if (caller->part == SIZE) {
            if (!(end = memmem(here, there, "\r\n", 2))) return at;
            caller->left = strtoul(here, NULL, 16);
            if (!caller->left) {
                if (there < (size_t)(end - here) + 4) return at;
                caller->part = END;
            } else {
                caller->left += 2, caller->part = PIECE, at = (size_t)(end + 2 - caller->in);
            }
        } else { /* a piece ends with a line break that is not of the body */
            size_t rim = caller->part == PIECE ? 2 : 0, used = there < caller->left ? there : caller->left;
            size_t text = caller->left > rim ? caller->left - rim : 0;
            if (used && text) hear(caller, here, used < text ? used : text);
            caller->left -= used, at += used;
            if (caller->left) return at;
            caller->part = caller->part == PIECE ? SIZE : END;
        }
    }
    return at;
}

static void attend(struct caller *caller) {
    ssize_t got = recv(caller->fd, caller->in + caller->filled, INPUT - 1 - caller->filled, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 && !caller->busy) { /* an idle connection may be closed; it is not needed again at the end */
        close(caller->fd);
        return;
    }
    if (got <= 0) return fail(caller, "cut short");
    caller->filled += (size_t)got;
    size_t used = parse(caller);
    memmove(caller->in, caller->in + used, caller->filled -= used);
    if (caller->part == END) judge(caller);
}

/* ---- the run ---- */

static char *contents(const char *name, size_t *length) {
    char *text = calloc(1, 1);
    FILE *file = *name ? fopen(name, "r") : NULL;
    if (*name && !file) perror(name), exit(1);
    char part[INPUT];
    for (size_t got; file && (got = fread(part, 1, sizeof part, file));) {
        text = realloc(text, *length + got + 1);
        memcpy(text + *length, part, got);
        text[*length += got] = 0;
    }
    return text;
}

static void read_keys(const char *name) {
    size_t length = 0, room = 1;
    char *text = contents(name, &length);
    keys = malloc(sizeof *keys);
    for (char *key = strtok(text, "\n"); key; key = strtok(NULL, "\n")) {
        if (key_count == room) keys = realloc(keys, (room *= 2) * sizeof *keys);
        keys[key_count++] = key;
    }
    if (!key_count) keys[key_count++] = "none";
}

static int busy(void) {
    int count = 0;
    for (int n = 0; n < concurrency; n++) count += callers[n].busy;
    return count;
}

static void run(double drain_s) {
    struct epoll_event turns[TURNS];
    int joined = 0;
    for (int n = 0; n < concurrency; n++) dial(&callers[n]);
    while (joined < concurrency || busy()) {
        double now = now_s();
        while (joined < concurrency && now >= started + (warm_at - started) * joined / concurrency) next(&callers[joined++]);
        if (now >= end_at) sending = 0;
        if (now >= end_at + drain_s) break;
        int ready = epoll_wait(poller, turns, TURNS, joined < concurrency ? 1 : 50);
        for (int n = 0; n < ready; n++) attend(turns[n].data.ptr);
    }
}

int main(int count, char **words) {
    if (count != 13) return fprintf(stderr, "load: twelve arguments, see the head of load.c\n"), 2;
    server.sin_port = htons((uint16_t)atoi(words[1])), server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    path = words[2], concurrency = atoi(words[3]), most = atol(words[6]);
    if (concurrency > MOST_CALLERS) return fprintf(stderr, "load: at most %d callers\n", MOST_CALLERS), 2;
    body = contents(words[8], &body_length);
    read_keys(words[9]);
    needle = words[10], wanted_events = atol(words[11]), receipt = words[12];
    poller = epoll_create1(0);
    started = now_s();
    warm_at = started + atof(words[4]), end_at = warm_at + atof(words[5]);
    if (most) warm_at = started;
    run(atof(words[7]));
    int unfinished = busy();
    if (unfinished && !*said) snprintf(said, SAID, "not complete %s s after the end", words[7]);
    double seconds = most ? last_at - started : atof(words[5]);
    printf("{\"served\": %ld, \"failures\": %ld, \"unfinished\": %d, \"seconds\": %.3f, \"requests_per_second\": %.1f, "
           "\"events_per_second\": %.0f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"first_byte_p50_ms\": %.3f, \"first_failure\": \"%s\"}\n",
           served, failures + unfinished, unfinished, seconds, seconds > 0 ? (double)served_in_time / seconds : 0,
           seconds > 0 ? (double)events_in_time / seconds : 0, centile(&waits, .5), centile(&waits, .99),
           centile(&first_bytes, .5), said);
    return 0;
}
