// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CONSOLE_WAIT_MS 1000

/* An open file of our own that never waits; the other programs' waits. */
static int console = STDOUT_FILENO;
static bool within_line; /* the entrypoint's output has not ended its line */

/*
 * The kernel opens /dev/console before it starts us only if the initramfs has one. Once more in the image's
 * root, so that the name of what is open leads to it.
 */
void take_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
	fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return;
	if (console != STDOUT_FILENO)
		close(console);
	console = fd;
}

int console_descriptor(void)
{
	return console;
}

bool is_within_line(void)
{
	return within_line;
}

void set_within_line(bool within)
{
	within_line = within;
}

/* A console that is broken takes everything, so that nobody waits for it. */
int console_write(const void *data, size_t size)
{
	ssize_t put = write(console, data, size);

	if (put < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : (int)size;
	return (int)put;
}

/*
 * Until the driver has it all, so that a kernel message does not land within a
 * line; but a console that takes nothing does not keep PID 1 from its duties.
 */
static void write_whole(const char *data, size_t size)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };

	for (int waited = 0; waited < CONSOLE_WAIT_MS; waited++) {
		int left, put = size ? console_write(data, size) : 0;

		data += put;
		size -= put;
		if (!size && (ioctl(console, TIOCOUTQ, &left) || !left))
			return;
		nanosleep(&pause, NULL);
	}
}

void say(const char *format, ...)
{
	char line[1024] = "\n";
	bool apart = within_line;
	size_t room = sizeof line - 1 - apart;
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(line + apart, room, format, args);
	va_end(args);
	if (length < 0)
		return;
	if ((size_t)length >= room)
		length = (int)room - 1;
	line[apart + length] = '\n';
	within_line = false;
	write_whole(line, apart + length + 1);
}

/* Ends a Ctrl-S, and whatever else holds up what is written. */
void start_output(void)
{
	struct termios mode;
	int error = errno; /* what the next line may be about to tell */

	if (!tcgetattr(console, &mode)) {
		mode.c_iflag &= ~IXON;
		tcsetattr(console, TCSANOW, &mode);
	}
	tcflow(console, TCOON);
	errno = error;
}

int64_t monotonic_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}
