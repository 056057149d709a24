// SPDX-License-Identifier: Apache-2.0
/* What the cases have in common. */
#include "cases.h"

#include <stdarg.h>

union address of(const char *host, int port)
{
	union address address = { 0 };

	if (strchr(host, ':')) {
		address.v6.sin6_family = AF_INET6;
		address.v6.sin6_port = htons(port);
		CHECK(inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1);
	} else {
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = htons(port);
		CHECK(inet_pton(AF_INET, host, &address.v4.sin_addr) == 1);
	}
	return address;
}

union address loopback(int family, int port)
{
	return of(family == AF_INET6 ? "::1" : "127.0.0.1", port);
}

socklen_t length(const union address *address)
{
	return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}

bool same(const union address *one, const union address *other)
{
	if (one->any.sa_family != other->any.sa_family)
		return false;
	if (one->any.sa_family == AF_INET6)
		return one->v6.sin6_port == other->v6.sin6_port &&
		       !memcmp(&one->v6.sin6_addr, &other->v6.sin6_addr, sizeof one->v6.sin6_addr);
	return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
}

int port_of(int fd)
{
	union address own;
	socklen_t size = sizeof own;

	CHECK(!getsockname(fd, &own.any, &size));
	return ntohs(own.v4.sin_port); /* at the same place in both */
}

int tcp(int family)
{
	int fd = socket(family, SOCK_STREAM, 0);

	CHECK(fd >= 0);
	return fd;
}

int udp(int family)
{
	int fd = socket(family, SOCK_DGRAM, 0);

	CHECK(fd >= 0);
	return fd;
}

int connected_to(int family, int port)
{
	union address to = loopback(family, port);
	int fd = tcp(family);

	CHECK(!connect(fd, &to.any, length(&to)));
	return fd;
}

int connecting_to(int port)
{
	union address to = loopback(AF_INET, port);

	for (int tries = 0; tries < 1000; tries++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

		CHECK(fd >= 0);
		if (connect(fd, &to.any, length(&to)) < 0 && errno == EINPROGRESS)
			return fd;
		close(fd); /* the host answered while the call was running */
	}
	fail(__FILE__, __LINE__, "a connection that is not there at once");
}

int serve(int family, const char *format, ...)
{
	int fd = connected_to(family, server_port);
	char line[100];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	strcat(line, "\n");
	send_all(fd, line, strlen(line));
	return fd;
}

int listener_at(const union address *at)
{
	int fd = tcp(at->any.sa_family), one = 1;

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
	CHECK(!bind(fd, &at->any, length(at)));
	CHECK(!listen(fd, 128));
	return fd;
}

void dial(int port, const char *what)
{
	int fd = serve(AF_INET, "dial %d %s", port, what);

	expect(fd, "ok\n"); /* and the connection lives as long as this process has fd */
}

static int control = -1;

static void ask_for(const char *fault)
{
	char line[100];

	if (control < 0)
		control = serve(AF_INET, "act");
	snprintf(line, sizeof line, "%s\n", fault);
	send_all(control, line, strlen(line));
}

void act(const char *fault)
{
	ask_for(fault);
	expect(control, "ok\n");
}

void act_without_answer(const char *fault)
{
	ask_for(fault);
	act_anew();
}

void act_or_end(const char *fault)
{
	char answer[3];

	ask_for(fault);
	recv(control, answer, sizeof answer, MSG_WAITALL);
	act_anew();
}

void act_anew(void)
{
	control = -1;
}

void still_works(void)
{
	act("none");
	echoed(serve(AF_INET, "echo"), "still works");
	echoed(serve(AF_INET6, "echo"), "still works");
}

void send_all(int fd, const void *data, size_t size)
{
	const char *rest = data;
	ssize_t put;

	for (; size; rest += put, size -= put)
		CHECK((put = send(fd, rest, size, MSG_NOSIGNAL)) > 0);
}

void receive_all(int fd, void *data, size_t size)
{
	char *rest = data;
	ssize_t got;

	for (; size; rest += got, size -= got)
		CHECK((got = recv(fd, rest, size, 0)) > 0);
}

void expect(int fd, const char *text)
{
	char got[200] = "";

	receive_all(fd, got, strlen(text));
	CHECK(!strcmp(got, text));
}

void echoed(int fd, const char *text)
{
	send_all(fd, text, strlen(text));
	expect(fd, text);
}

void fill(unsigned char *data, size_t size, unsigned int seed)
{
	for (size_t n = 0; n < size; n++)
		data[n] = seed + n * 7 + (n >> 8) * 13 + (n >> 16) * 31;
}

bool readable(int fd, int milliseconds)
{
	struct pollfd file = { fd, POLLIN, 0 };

	return poll(&file, 1, milliseconds) == 1;
}

double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

void in_thread(pthread_t *thread, void *(*run)(void *), int fd)
{
	CHECK(!pthread_create(thread, NULL, run, (void *)(long)fd));
	usleep(300000); /* it waits by now */
}
