// SPDX-License-Identifier: Apache-2.0
/*
 * The entrypoint of a guest whose boot is measured. It says in the kernel's log that it runs, and when the agent has
 * answered. With an argument it says in between how much memory there is, and how much of it is free: to read that takes
 * more instructions than the agent's answer. It needs no library, so that it adds next to nothing to the memory and to
 * the initramfs that are measured.
 */
#include <stddef.h>

#define AT_FDCWD (-100)
#define O_WRONLY 1
#define AF_VSOCK 40
#define SOCK_STREAM 1
#define ECONNRESET 104
#define ECONNREFUSED 111
#define VMADDR_CID_ANY 0xffffffffu
#define VMADDR_CID_LOCAL 1u
#define AGENT_PORT 777u
#define TRIES 500

enum {
	CLOSE = 57,
	OPENAT = 56,
	READ = 63,
	WRITE = 64,
	EXIT = 93,
	NANOSLEEP = 101,
	SOCKET = 198,
	BIND = 200,
	CONNECT = 203
};

struct vsock_address {
	unsigned short family, reserved;
	unsigned port, cid;
	unsigned char zero[4];
};

static long call(long number, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}

static size_t length_of(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	return length;
}

static void say(long log, const char *text)
{
	call(WRITE, log, (long)text, (long)length_of(text), 0);
}

static char text[32768];

/* The whole of a file in /proc, at most what `text` holds; its length. */
static size_t read_text(const char *path)
{
	long file = call(OPENAT, AT_FDCWD, (long)path, 0, 0), got;
	size_t length = 0;

	do {
		got = call(READ, file, (long)(text + length), (long)(sizeof(text) - 1 - length), 0);
		length += got > 0 ? (size_t)got : 0;
	} while (got > 0 && length < sizeof(text) - 1);
	call(CLOSE, file, 0, 0, 0);
	text[length] = '\0';
	return length;
}

static int begins_with(const char *at, const char *word)
{
	while (*word && *at == *word)
		at++, word++;
	return *word == '\0';
}

/* Pages that are free in the lists of the CPUs, which MemFree leaves out: "count: 691" of each list in /proc/zoneinfo. */
static void say_listed(long log)
{
	static char line[] = "boot_probe: listed pages:           ";
	size_t length = read_text("/proc/zoneinfo"), end = sizeof(line) - 1;
	unsigned long pages = 0;

	for (size_t at = 0; at < length; at++) {
		unsigned long number = 0;

		if (!begins_with(text + at, " count: "))
			continue;
		for (at += 8; text[at] >= '0' && text[at] <= '9'; at++)
			number = number * 10 + (unsigned long)(text[at] - '0');
		pages += number;
	}
	do {
		line[--end] = (char)('0' + pages % 10);
		pages /= 10;
	} while (pages);
	say(log, line);
}

/* "boot_probe: MemTotal: 242060 kB MemFree: ..." of the first two lines of /proc/meminfo. */
static void say_memory(long log)
{
	static char line[256] = "boot_probe: ";
	size_t length = read_text("/proc/meminfo"), end = length_of(line), lines = 0;

	for (size_t at = 0; at < length && lines < 2 && end < sizeof(line) - 1; at++) {
		lines += text[at] == '\n';
		line[end++] = text[at] == '\n' ? ' ' : text[at];
	}
	say(log, line);
}

/* Whether the agent answers a caller; it takes none whose port is not below 1024, and greets first. */
static long call_agent(unsigned port)
{
	struct vsock_address own = { AF_VSOCK, 0, port, VMADDR_CID_ANY, { 0 } };
	struct vsock_address agent = { AF_VSOCK, 0, AGENT_PORT, VMADDR_CID_LOCAL, { 0 } };
	long connection = call(SOCKET, AF_VSOCK, SOCK_STREAM, 0, 0), result;
	char greeting;

	if (connection < 0)
		return connection;
	result = call(BIND, connection, (long)&own, sizeof(own), 0);
	if (result == 0)
		result = call(CONNECT, connection, (long)&agent, sizeof(agent), 0);
	if (result == 0)
		result = call(READ, connection, (long)&greeting, 1, 0) == 1 ? 0 : -ECONNRESET;
	call(CLOSE, connection, 0, 0, 0);
	return result;
}

/* `count` is the number of arguments, with the program's own name. */
__attribute__((used)) static void run(long count)
{
	const long pause[2] = { 0, 100000 };
	long log = call(OPENAT, AT_FDCWD, (long)"/dev/kmsg", O_WRONLY, 0);
	long result = -ECONNREFUSED;

	say(log, "boot_probe: entrypoint");
	if (count > 1) {
		say_memory(log);
		say_listed(log);
	}
	for (unsigned try = 0; try < TRIES && (result == -ECONNREFUSED || result == -ECONNRESET); try++) {
		if (try > 0)
			call(NANOSLEEP, (long)pause, 0, 0, 0);
		result = call_agent(1023 - try);
	}
	say(log, result == 0 ? "boot_probe: agent ready" : "boot_probe: no agent");
	call(EXIT, 0, 0, 0, 0);
}

/* The kernel has the number of arguments where the stack begins. */
__asm__(".globl _start\n_start: ldr x0, [sp]\n b run\n");
