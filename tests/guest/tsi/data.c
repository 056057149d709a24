// SPDX-License-Identifier: Apache-2.0
/* Data on a connection through the host. */
#include "cases.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define BIG (4 << 20)

static void *read_some(void *fd)
{
	char data[100];
	ssize_t got = recv((int)(long)fd, data, sizeof data, 0);

	return (void *)(got < 0 ? -(long)errno : (long)got);
}

CASE(upload_of_megabytes)
{
	unsigned char *data = malloc(BIG);
	char answer[20] = "";
	int fd = serve(AF_INET, "take %d", BIG);

	fill(data, BIG, 1);
	send_all(fd, data, BIG);
	CHECK(recv(fd, answer, sizeof answer, 0) == 3 && !strcmp(answer, "ok\n"));
}

CASE(download_of_megabytes)
{
	unsigned char *data = malloc(BIG), *wanted = malloc(BIG);
	int fd = serve(AF_INET, "give %d", BIG);

	fill(wanted, BIG, 1);
	receive_all(fd, data, BIG);
	CHECK(!memcmp(data, wanted, BIG));
	CHECK(recv(fd, data, 1, 0) == 0);
}

CASE(both_directions_at_once)
{
	enum { SIZE = 1 << 20 };
	unsigned char *data = malloc(SIZE), *back = malloc(SIZE);
	int fd = serve(AF_INET, "echo");

	fill(data, SIZE, 3);
	if (!fork()) {
		send_all(fd, data, SIZE);
		_exit(0);
	}
	receive_all(fd, back, SIZE);
	CHECK(!memcmp(data, back, SIZE));
}

CASE(many_streams_at_once)
{
	enum { STREAMS = 64, SIZE = 16 << 10 };
	static int fds[STREAMS];
	static unsigned char data[SIZE], back[SIZE];

	for (int n = 0; n < STREAMS; n++)
		fds[n] = serve(n % 2 ? AF_INET : AF_INET6, "echo");
	for (int n = 0; n < STREAMS; n++) {
		fill(data, SIZE, n);
		send_all(fds[n], data, SIZE);
	}
	for (int n = STREAMS - 1; n >= 0; n--) {
		fill(data, SIZE, n);
		receive_all(fds[n], back, SIZE);
		CHECK(!memcmp(data, back, SIZE));
	}
}

CASE(short_connections_in_a_row)
{
	for (int n = 0; n < 100; n++) {
		int fd = serve(AF_INET, "echo");

		echoed(fd, "short");
		close(fd);
	}
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
	CHECK(timed_out(after, &byte) >= 0.29);
	CHECK(!setsockopt(before, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
	CHECK(!connect(before, &to.any, length(&to)));
	send_all(before, "hold\n", 5);
	CHECK(timed_out(before, &byte) >= 0.29);
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

CASE(end_of_data_after_the_data)
{
	char data[3000];
	int fd = serve(AF_INET, "give 3000");
	struct pollfd file = { fd, POLLIN | POLLRDHUP, 0 };

	usleep(300000);
	receive_all(fd, data, sizeof data);
	CHECK(recv(fd, data, 1, 0) == 0);
	CHECK(recv(fd, data, 1, 0) == 0);
	CHECK(poll(&file, 1, 0) == 1 && file.revents & POLLIN && file.revents & POLLRDHUP);
}

CASE(half_close_gets_the_answer)
{
	char data[100];
	int fd = serve(AF_INET, "echo");

	send_all(fd, "last words", 10);
	CHECK(!shutdown(fd, SHUT_WR));
	expect(fd, "last words");
	CHECK(recv(fd, data, 1, 0) == 0);
	FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
}

CASE(send_after_the_peer_has_gone)
{
	char data[5];
	int fd = serve(AF_INET, "give 5");
	double start = seconds();

	receive_all(fd, data, 5);
	while (send(fd, "x", 1, MSG_NOSIGNAL) == 1 && seconds() - start < 10)
		usleep(10000);
	CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && (errno == EPIPE || errno == ECONNRESET));
}

CASE(reset_ends_a_connection)
{
	char byte;
	int fd = serve(AF_INET, "reset");
	ssize_t got = recv(fd, &byte, 1, 0);

	CHECK(got <= 0);
	CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == 0);
}

CASE(flags_of_recv)
{
	char data[12] = "";
	int fd = serve(AF_INET, "echo");

	send_all(fd, "peek", 4);
	CHECK(readable(fd, 10000));
	CHECK(recv(fd, data, sizeof data, MSG_PEEK) == 4 && !strcmp(data, "peek"));
	CHECK(recv(fd, data, sizeof data, 0) == 4);
	if (!fork()) {
		for (int n = 0; n < 10; n++) {
			send_all(fd, "x", 1);
			usleep(30000);
		}
		_exit(0);
	}
	CHECK(recv(fd, data, 10, MSG_WAITALL) == 10 && !strcmp(data, "xxxxxxxxxx"));
}

CASE(bytes_waiting_are_told)
{
	int fd = serve(AF_INET, "give 1234"), waiting = -1;
	double start = seconds();

	while (!ioctl(fd, FIONREAD, &waiting) && waiting < 1234 && seconds() - start < 10)
		usleep(10000);
	CHECK(waiting == 1234);
}

CASE(vectors)
{
	char one[3] = "", two[4] = "";
	struct iovec out[] = { { "ab", 2 }, { "cde", 3 } }, in[] = { { one, 2 }, { two, 3 } };
	struct msghdr message = { .msg_iov = in, .msg_iovlen = 2 };
	int fd = serve(AF_INET, "echo");

	CHECK(writev(fd, out, 2) == 5);
	CHECK(recvmsg(fd, &message, MSG_WAITALL) == 5 && !strcmp(one, "ab") && !strcmp(two, "cde"));
}

CASE(sendfile_and_splice)
{
	enum { SIZE = 300000 };
	static unsigned char data[SIZE], back[SIZE];
	int file = memfd_create("data", 0), fd = serve(AF_INET, "echo"), ends[2];
	off_t place = 0;
	size_t got = 0;
	ssize_t moved;

	fill(data, SIZE, 9);
	CHECK(write(file, data, SIZE) == SIZE);
	if (!fork()) {
		while (place < SIZE)
			CHECK(sendfile(fd, file, &place, SIZE - place) > 0);
		_exit(0);
	}
	CHECK(!pipe(ends));
	while (got < SIZE) {
		CHECK((moved = splice(fd, NULL, ends[1], NULL, 65536, 0)) > 0);
		CHECK(read(ends[0], back + got, moved) == moved);
		got += moved;
	}
	CHECK(!memcmp(data, back, SIZE));
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

CASE(fork_and_dup)
{
	int fd = serve(AF_INET, "echo"), other = dup(fd), status;

	close(fd);
	if (!fork()) {
		echoed(other, "child");
		_exit(0);
	}
	CHECK(wait(&status) > 0 && status == 0);
	echoed(other, "parent");
}

CASE(passed_to_another_process)
{
	char space[CMSG_SPACE(sizeof(int))] = "";
	struct iovec byte = { "x", 1 };
	struct msghdr message = {
		.msg_iov = &byte, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = serve(AF_INET, "echo"), pair[2], status;

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	CHECK(sendmsg(pair[0], &message, 0) == 1);
	close(fd);
	if (!fork()) {
		char got;
		struct iovec into = { &got, 1 };

		message.msg_iov = &into;
		CHECK(recvmsg(pair[1], &message, 0) == 1);
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
		echoed(fd, "passed");
		_exit(0);
	}
	CHECK(wait(&status) > 0 && status == 0);
}
