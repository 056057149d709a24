// SPDX-License-Identifier: Apache-2.0
/*
 * tsi-load streams|connections|give|take PORT NUMBER: works the server of tests/support/tsi_host.py, and says how much
 * was good.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATTERN 2000

static int port;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int ask(const char *line)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
		fail("connect");
	if (send(fd, line, strlen(line), 0) != (ssize_t)strlen(line))
		fail("send");
	return fd;
}

static void fill(unsigned char *data, unsigned long size, unsigned long start, unsigned long seed)
{
	for (unsigned long n = start; n < start + size; n++)
		*data++ = seed + n * 7 + (n >> 8) * 13 + (n >> 16) * 31;
}

static void received(int fd, const unsigned char *wanted, size_t size)
{
	static unsigned char got[1 << 16];

	if (recv(fd, got, size, MSG_WAITALL) != (ssize_t)size || memcmp(got, wanted, size)) {
		puts("other bytes than expected");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static unsigned char data[1 << 16];
	char line[50], answer[4] = "";
	unsigned long number;
	int *fds, fd;

	if (argc != 4)
		return 2;
	port = atoi(argv[2]);
	number = strtoul(argv[3], NULL, 10);
	fds = calloc(number < 100000 ? number : 1, sizeof *fds);
	if (!strcmp(argv[1], "streams")) {
		for (unsigned long n = 0; n < number; n++)
			fds[n] = ask("echo\n");
		for (unsigned long n = 0; n < number; n++) {
			fill(data, PATTERN, 0, n);
			if (send(fds[n], data, PATTERN, 0) != PATTERN)
				fail("send");
		}
		for (unsigned long n = number; n-- > 0;) {
			fill(data, PATTERN, 0, n);
			received(fds[n], data, PATTERN);
		}
	} else if (!strcmp(argv[1], "connections")) {
		for (unsigned long n = 0; n < number; n++) {
			fd = ask("echo\nshort");
			received(fd, (const unsigned char *)"short", 5);
			close(fd);
		}
	} else {
		snprintf(line, sizeof line, "%s %lu\n", argv[1], number);
		fd = ask(line);
		for (unsigned long done = 0; done < number; done += sizeof data) {
			fill(data, sizeof data, done, 1);
			if (!strcmp(argv[1], "give"))
				received(fd, data, sizeof data);
			else if (send(fd, data, sizeof data, 0) != sizeof data)
				fail("send");
		}
		if (!strcmp(argv[1], "take") && (recv(fd, answer, 3, MSG_WAITALL) != 3 || strcmp(answer, "ok\n")))
			return 1;
	}
	printf("%lu good\n", number);
	return 0;
}
