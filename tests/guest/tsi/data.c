// SPDX-License-Identifier: Apache-2.0
/* Data on a connection through the host. */
#include "cases.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define BIG (4 << 20)

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
