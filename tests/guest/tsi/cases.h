// SPDX-License-Identifier: Apache-2.0
/*
 * Cases of AF_TSI: each runs in a process of its own, and its line says how it went.
 *
 * The host has one server, at server_port of both loopback addresses, whose first line from a client says what it does
 * (serve() sends it): echo | give N | take N | hold | reset | dial PORT WHAT, where WHAT is one of the former, done on a
 * connection to the guest's port; watch, and then ending on another connection tells how the former ended; or act, and then each further line is a fault to begin with. Its datagram servers, at udp_ports, answer with their number and what they got.
 */
#ifndef CASES_H
#define CASES_H

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CASE(name) \
	static void name(void); \
	__attribute__((constructor)) static void add_##name(void) \
	{ \
		add_case(#name, name); \
	} \
	static void name(void)

/* One for a host that misbehaves on demand: it runs only if it is named. */
#define FAULT(name) \
	static void name(void); \
	__attribute__((constructor)) static void add_##name(void) \
	{ \
		add_fault(#name, name); \
	} \
	static void name(void)

/* The least that a timeout of 0.3 s takes. Linux counts in ticks, and one CPU counts for all: if the machine lets that
 * CPU stand still, the others begin to wait at a time that is past.
 */
#define TIMEOUT_LASTS 0.2

/* Ends the case unless it holds. */
#define CHECK(condition) \
	do { \
		errno = 0; \
		if (!(condition)) \
			fail(__FILE__, __LINE__, #condition); \
	} while (0)

/* Ends the case unless the call gives -1 and that errno. */
#define FAILS(call, error) \
	do { \
		errno = 0; \
		if ((call) != -1 || errno != (error)) \
			fail(__FILE__, __LINE__, #call " fails with " #error); \
	} while (0)

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

extern int server_port, closed_port, udp_ports[3];

void add_case(const char *name, void (*run)(void));
void add_fault(const char *name, void (*run)(void));
void fail(const char *file, int line, const char *what) __attribute__((noreturn));

union address loopback(int family, int port);
union address of(const char *host, int port);
socklen_t length(const union address *address);
bool same(const union address *one, const union address *other);
int family_of(int fd);
int port_of(int fd);

int tcp(int family);
int udp(int family);
int connected_to(int family, int port);
int connecting_to(int port); /* does not wait, and began a connection that had no outcome yet */
int serve(int family, const char *format, ...) __attribute__((format(printf, 2, 3)));
int listener_at(const union address *at);
void dial(int port, const char *what); /* returns when the host's connection stands */
void act(const char *fault);
void act_without_answer(const char *fault); /* it ends the connection that asks for it */
void act_or_end(const char *fault); /* it may end the connection that asks for it, which is waited for too */
void act_anew(void); /* the next asks over a connection of its own */
void still_works(void);

void send_all(int fd, const void *data, size_t size);
void receive_all(int fd, void *data, size_t size);
void expect(int fd, const char *text);
void echoed(int fd, const char *text);
void fill(unsigned char *data, size_t size, unsigned int seed);
bool readable(int fd, int milliseconds);
double seconds(void);
void in_thread(pthread_t *thread, void *(*run)(void *), int fd);
#endif
