// SPDX-License-Identifier: Apache-2.0
/* What waits for data on a connection through the host, and what ends the waiting. */
#include "cases.h"

#include <sys/epoll.h>

#define BIG (4 << 20)

static void *read_some(void *fd)
{
	char data[100];
	ssize_t got = recv((int)(long)fd, data, sizeof data, 0);

	return (void *)(got < 0 ? -(long)errno : (long)got);
}

CASE(recv_does_not_keep_send_waiting)
{
	int fd = serve(AF_INET, "echo");
	pthread_t reader;
	void *got;

	in_thread(&reader, read_some, fd);
	send_all(fd, "wake", 4);
	CHECK(!pthread_join(reader, &got) && (long)got == 4);
}

CASE(shutdown_wakes_recv)
{
	int fd = serve(AF_INET, "hold");
	pthread_t reader;
	void *got;

	in_thread(&reader, read_some, fd);
	CHECK(!shutdown(fd, SHUT_RDWR));
	CHECK(!pthread_join(reader, &got) && (long)got == 0);
}

CASE(close_while_another_thread_waits)
{
	int fd = serve(AF_INET, "give 5"), other = dup(fd);
	pthread_t reader;
	void *got;
	char data[5];

	receive_all(fd, data, 5);
	in_thread(&reader, read_some, fd);
	close(fd);
	CHECK(!pthread_join(reader, &got) && (long)got == 0);
	close(other);
}

static double timed_out(int fd, char *data)
{
	double start = seconds();

	FAILS(recv(fd, data, 1, 0), EAGAIN);
	return seconds() - start;
}

CASE(receive_timeout_before_and_after_connect)
{
	struct timeval timeout = { 0, 300000 };
	union address to = loopback(AF_INET, server_port);
	int after = serve(AF_INET, "hold"), before = tcp(AF_INET);
	char byte;

	CHECK(!setsockopt(after, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
	CHECK(timed_out(after, &byte) >= TIMEOUT_LASTS);
	CHECK(!setsockopt(before, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
	CHECK(!connect(before, &to.any, length(&to)));
	send_all(before, "hold\n", 5);
	CHECK(timed_out(before, &byte) >= TIMEOUT_LASTS);
}

CASE(send_timeout)
{
	struct timeval timeout = { 0, 300000 };
	static char data[1 << 16];
	int fd = serve(AF_INET, "hold");
	size_t sent = 0;
	ssize_t put;

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout));
	while ((put = send(fd, data, sizeof data, MSG_NOSIGNAL)) > 0) {
		sent += put;
		CHECK(sent < 256 << 20);
	}
	FAILS(send(fd, data, sizeof data, MSG_NOSIGNAL), EAGAIN);
}

CASE(fewer_bytes_are_enough_while_epoll_waits)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = serve(AF_INET, "echo"), queue = epoll_create1(0), enough = 100;

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &enough, sizeof enough));
	CHECK(!epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event));
	send_all(fd, "hello", 5);
	CHECK(epoll_wait(queue, &event, 1, 500) == 0);
	enough = 1;
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &enough, sizeof enough));
	CHECK(epoll_wait(queue, &event, 1, 10000) == 1);
	expect(fd, "hello");
}

CASE(nonblocking_send_and_recv)
{
	static char data[1 << 16];
	int fd = serve(AF_INET, "hold");
	struct pollfd file = { fd, POLLOUT, 0 };

	FAILS(recv(fd, data, 1, MSG_DONTWAIT), EAGAIN);
	CHECK(!fcntl(fd, F_SETFL, O_NONBLOCK));
	FAILS(read(fd, data, 1), EAGAIN);
	do /* until the host takes no more, which it may say late */
		while (write(fd, data, sizeof data) > 0)
			;
	while (poll(&file, 1, 1000) == 1);
	FAILS(write(fd, data, sizeof data), EAGAIN);
}

static void nothing(int signal)
{
	(void)signal;
}

CASE(recv_is_interrupted)
{
	struct sigaction action = { .sa_handler = nothing };
	int fd = serve(AF_INET, "hold");
	pid_t parent = getpid();
	char byte;

	CHECK(!sigaction(SIGUSR1, &action, NULL));
	if (!fork()) {
		usleep(300000);
		kill(parent, SIGUSR1);
		_exit(0);
	}
	FAILS(recv(fd, &byte, 1, 0), EINTR);
}

CASE(epoll_edges)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };
	int fd = serve(AF_INET, "echo"), queue = epoll_create1(0);
	char data[10];

	CHECK(!epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event));
	CHECK(epoll_wait(queue, &event, 1, 5000) == 1 && event.events & EPOLLOUT);
	for (int n = 0; n < 3; n++) {
		double start = seconds();

		send_all(fd, "edge", 4);
		do
			CHECK(epoll_wait(queue, &event, 1, 5000) == 1);
		while (!(event.events & EPOLLIN) && seconds() - start < 5);
		CHECK(event.events & EPOLLIN);
		receive_all(fd, data, 4);
		FAILS(recv(fd, data, 1, MSG_DONTWAIT), EAGAIN);
	}
	CHECK(epoll_wait(queue, &event, 1, 200) == 0 || !(event.events & EPOLLIN));
}

CASE(epoll_writable_again)
{
	struct epoll_event event = { .events = EPOLLOUT | EPOLLET };
	unsigned char *data = malloc(BIG);
	int fd = serve(AF_INET, "take %d", BIG), queue = epoll_create1(0), sent = 0;
	ssize_t put;

	fill(data, BIG, 1);
	CHECK(!fcntl(fd, F_SETFL, O_NONBLOCK) && !epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event));
	while (sent < BIG) {
		CHECK(epoll_wait(queue, &event, 1, 20000) == 1);
		while (sent < BIG && (put = write(fd, data + sent, BIG - sent)) > 0)
			sent += put;
	}
	CHECK(!fcntl(fd, F_SETFL, 0));
	expect(fd, "ok\n");
}
