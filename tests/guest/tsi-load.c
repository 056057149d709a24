// SPDX-License-Identifier: Apache-2.0
/*
 * tsi-load streams|connections|give|take PORT NUMBER: works the TCP server of tests/support/tsi_host.py, and says how
 * much was good. tsi-load storm PORT NUMBER: sends datagrams to a UDP server of it, and takes the answers only after
 * every hundredth; says how many were sent, received and, as the kernel counts them, dropped.
 */
#include <arpa/inet.h>
#include <poll.h>
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
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
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

/* As /proc/net/udp has it, in the last column of the line with the socket's own port. */
static unsigned long dropped(int fd)
{
	FILE *file = fopen("/proc/net/udp", "r");
	struct sockaddr_in own;
	socklen_t size = sizeof own;
	unsigned long drops = 0, found;
	unsigned int local;
	char line[300];

	if (!file || getsockname(fd, (struct sockaddr *)&own, &size))
		fail("/proc/net/udp");
	while (fgets(line, sizeof line, file))
		if (sscanf(line, " %*u: %*8x:%x %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %lu", &local, &found) == 2 &&
		    local == ntohs(own.sin_port))
			drops = found;
	fclose(file);
	return drops;
}

static unsigned long take_datagrams(int fd, int milliseconds)
{
	struct pollfd file = { fd, POLLIN, 0 };
	char data[2000];
	unsigned long count = 0;

	while (poll(&file, 1, milliseconds) == 1)
		for (; recv(fd, data, sizeof data, MSG_DONTWAIT) >= 0; count++)
			;
	return count;
}

static void storm(unsigned long number)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	unsigned long taken = 0;
	char data[1000] = "";
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
		fail("connect");
	for (unsigned long n = 1; n <= number; n++) {
		if (send(fd, data, sizeof data, 0) != sizeof data)
			fail("send");
		if (n % 100 == 0)
			taken += take_datagrams(fd, 0);
	}
	taken += take_datagrams(fd, 3000);
	printf("sent %lu received %lu dropped %lu\n", number, taken, dropped(fd));
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
	if (!strcmp(argv[1], "storm")) {
		storm(number);
		return 0;
	}
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
