/* The floor that the client is held against: the same exchanges in C, on epoll and the system's OpenSSL.
 *
 *   floor keep    PORT CA IDENTITY REQUEST CONNECTIONS COUNT   one PUT after another over connections that stay open
 *   floor connect PORT CA IDENTITY REQUEST CONNECTIONS COUNT   a new connection with a full handshake for each PUT
 *   floor resume  PORT CA IDENTITY REQUEST CONNECTIONS COUNT   the same, of which all but the first resume a TLS session
 *   floor sign    IDENTITY COUNT                               bare signatures, SHA-256 with the identity's key
 *   floor first   IDENTITY COUNT                               the same, each after loading the key
 *
 * The server is on 127.0.0.1; its chain and its address are verified at every handshake, as a careful client does it.
 * IDENTITY is a PEM file of a certificate and its key, REQUEST a file of the octets to send. Prints µs of CPU each.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, ANSWER = 65536 };
enum stage { CONNECTING, HANDSHAKING, WAITING };

struct link {
    int fd;
    enum stage stage;
    SSL *tls;
    size_t got;
    char head[4096];
};

static SSL_CTX *context;
static struct sockaddr_in server;
static char request[65536];
static size_t request_length;
static int watch, reconnect, resume;
static SSL_SESSION *session;
static long left_to_start, done, count;
static X509 *certificate;
static EVP_PKEY *key;

static void die(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void listen_for(struct link *link, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = link};
    if (epoll_ctl(watch, operation, link->fd, &event)) die("epoll_ctl");
}

static void send_request(struct link *link) {
    if (SSL_write(link->tls, request, (int)request_length) != (int)request_length) die("SSL_write");
    link->got = 0;
    link->stage = WAITING;
}

static int keep_session(SSL *tls, SSL_SESSION *ticket) {
    (void)tls;
    SSL_SESSION_free(session);
    session = ticket;
    return 1;
}

static void start(struct link *link) {
    int on = 1;
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (link->fd < 0) die("socket");
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(link->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) die("connect");
    link->stage = CONNECTING;
    link->tls = SSL_new(context);
    SSL_set_fd(link->tls, link->fd);
    SSL_use_certificate(link->tls, certificate);
    SSL_use_PrivateKey(link->tls, key);
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(link->tls), "127.0.0.1");
    SSL_set_connect_state(link->tls);
    if (session && SSL_set_session(link->tls, session) != 1) die("SSL_set_session");
    listen_for(link, EPOLL_CTL_ADD, EPOLLOUT);
}

static void shake_hands(struct link *link) {
    int result = SSL_do_handshake(link->tls);
    if (result == 1) {
        send_request(link);
    } else if (SSL_get_error(link->tls, result) != SSL_ERROR_WANT_READ) {
        die("SSL_do_handshake");
    }
}

/* Whether the whole answer is there: the head, and as many octets after it as its Content-Length says. */
static int answered(struct link *link) {
    static char answer[ANSWER];
    int got = SSL_read(link->tls, answer, sizeof answer);
    if (got <= 0) {
        if (SSL_get_error(link->tls, got) == SSL_ERROR_WANT_READ) return 0;
        die("SSL_read");
    }
    if (link->got + got >= sizeof link->head) die("an answer too long");
    memcpy(link->head + link->got, answer, got);
    link->got += got;
    link->head[link->got] = 0;
    if (strncmp(link->head, "HTTP/1.1 200", 12)) die("no 200");
    char *end = strstr(link->head, "\r\n\r\n"), *length = strcasestr(link->head, "\r\nContent-Length:");
    return end && length && link->got >= (size_t)(end + 4 - link->head) + strtoul(length + 17, NULL, 10);
}

static void go_on(struct link *link) {
    if (link->stage == CONNECTING) {
        int code = 0;
        socklen_t size = sizeof code;
        getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &code, &size);
        if (code) die("connect");
        listen_for(link, EPOLL_CTL_MOD, EPOLLIN);
        link->stage = HANDSHAKING;
    }
    if (link->stage == HANDSHAKING) {
        shake_hands(link);
    } else if (answered(link)) {
        done++;
        if (reconnect) {
            SSL_shutdown(link->tls);
            SSL_free(link->tls);
            close(link->fd);
            if (left_to_start-- > 0) start(link);
        } else if (left_to_start-- > 0) {
            send_request(link);
        }
    }
}

static void read_identity(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file || !(certificate = PEM_read_X509(file, NULL, NULL, NULL))) die(path);
    rewind(file);
    if (!(key = PEM_read_PrivateKey(file, NULL, NULL, NULL))) die(path);
    fclose(file);
}

static void sign(int load) {
    unsigned char signature[1024], *octets = NULL;
    int size = i2d_PrivateKey(key, &octets);
    double before = cpu();
    for (long i = 0; i < count; i++) {
        if (load) {
            const unsigned char *rest = octets;
            EVP_PKEY_free(key);
            if (!(key = d2i_AutoPrivateKey(NULL, &rest, size))) die("d2i_AutoPrivateKey");
        }
        size_t length = sizeof signature;
        EVP_MD_CTX *digest = EVP_MD_CTX_new();
        if (EVP_DigestSignInit(digest, NULL, EVP_sha256(), NULL, key) != 1 ||
            EVP_DigestSign(digest, signature, &length, (const unsigned char *)request, 300) != 1)
            die("EVP_DigestSign");
        EVP_MD_CTX_free(digest);
    }
    printf("%.2f\n", (cpu() - before) / count * 1e6);
}

int main(int argc, char **argv) {
    if (argc == 4 && (!strcmp(argv[1], "sign") || !strcmp(argv[1], "first"))) {
        read_identity(argv[2]);
        count = atol(argv[3]);
        sign(!strcmp(argv[1], "first"));
        return 0;
    }
    if (argc != 8) return fprintf(stderr, "see the head of floor.c\n"), 2;
    resume = !strcmp(argv[1], "resume");
    reconnect = resume || !strcmp(argv[1], "connect");
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(argv[2]));
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    if (resume) {
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, keep_session);
    } else {
        SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_load_verify_locations(context, argv[3], NULL) != 1) die(argv[3]);
    read_identity(argv[4]);
    FILE *file = fopen(argv[5], "r");
    if (!file || !(request_length = fread(request, 1, sizeof request, file))) die(argv[5]);
    long connections = atol(argv[6]);
    count = atol(argv[7]);
    watch = epoll_create1(0);
    /* Where connections stay open, each is used once before the clock starts. */
    struct link *links = calloc(connections, sizeof *links);
    long target = reconnect ? count : connections;
    left_to_start = target;
    double before = cpu();
    for (long i = 0; i < connections && left_to_start-- > 0; i++) start(&links[i]);
    struct epoll_event events[EVENTS];
    for (int round = reconnect; round < 2; round++) {
        if (!reconnect && round == 1) {
            done = 0;
            target = left_to_start = count;
            before = cpu();
            for (long i = 0; i < connections && left_to_start-- > 0; i++) send_request(&links[i]);
        }
        while (done < target) {
            int ready = epoll_wait(watch, events, EVENTS, -1);
            for (int i = 0; i < ready; i++) go_on(events[i].data.ptr);
        }
    }
    printf("%.2f\n", (cpu() - before) / count * 1e6);
    return 0;
}
