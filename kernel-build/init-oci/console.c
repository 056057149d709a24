// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "init-oci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define CONSOLE_WAIT_MS 1000
#define DEVICE_TREE "/sys/firmware/devicetree/base"

/* An open file of our own that never waits; the other programs' waits. */
static int console = STDOUT_FILENO;
static bool within_line; /* the entrypoint's output has not ended its line */
static bool no_power_off;

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

/* ---- the end ---- */

static bool is_psci(const char *node)
{
	char path[PATH_MAX], compatible[256];
	bool found = false;
	ssize_t size;
	int fd;

	snprintf(path, sizeof path, DEVICE_TREE "/%s/compatible", node);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	size = read(fd, compatible, sizeof compatible - 1);
	close(fd);
	if (size < 0)
		return false;
	compatible[size] = '\0';
	for (ssize_t at = 0; at < size; at += (ssize_t)strlen(compatible + at) + 1)
		found |= !strcmp(compatible + at, "arm,psci-0.2") || !strcmp(compatible + at, "arm,psci-1.0");
	return found;
}

/*
 * The kernel does not tell whether it can power off: asked to when it cannot, it halts for good (kernel/reboot.c).
 * What it can do it learns from the device tree; a PSCI of version 0.1 has no such call.
 */
void learn_to_power_off(void)
{
	DIR *folder = opendir(DEVICE_TREE);
	const struct dirent *entry;

	if (!folder)
		return;
	no_power_off = true;
	while ((entry = readdir(folder)))
		if (is_psci(entry->d_name))
			no_power_off = false;
	closedir(folder);
}

_Noreturn void restart(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	_exit(1); /* a kernel panic: the last way not to hang */
}

_Noreturn void power_off(void)
{
	sync();
	if (no_power_off) {
		say("init-oci: error: no power off in the device tree; restarting");
	} else {
		reboot(RB_POWER_OFF);
		say("init-oci: error: no power off (%s); restarting", strerror(errno));
	}
	restart();
}
