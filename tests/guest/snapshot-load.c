// SPDX-License-Identifier: Apache-2.0
/*
 * Work that a snapshot interrupts, and what has become of it.
 * snapshot-load run FOLDER PORT: counts on each CPU, ticks, writes and reads back records with fsync in FOLDER, keeps a
 * database there, sends numbers over TCP to itself and to the host's PORT, and checks memory, until it is killed.
 * snapshot-load check: 0 if all of it goes on and nothing went wrong.
 * snapshot-load broken: how often the connection to the host has ended with an error.
 * snapshot-load clock: CLOCK_REALTIME in nanoseconds. snapshot-load random: 64 bytes of getrandom(), in hexadecimal.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define STATE "/dev/shm/snapshot-load"
#define MAX_CPUS 8
#define TICK_NS 10000000
#define MEMORY (8 << 20)
#define RECORDS 256
#define GO_ON_MS 120000 /* for every counter to move */

#define HOST "10.0.2.2" /* as QEMU's user network has it */
#define CHECK_EVERY 64 /* rows, and the database's own check */

enum { TICKS, RECORDS_WRITTEN, NUMBERS, ROWS, HOSTS_NUMBERS, PASSES, KINDS };
static const char *const names[KINDS] = { "timer", "fsync", "tcp", "database", "tcp to the host", "memory" };

struct state {
	volatile uint64_t cpu[MAX_CPUS], work[KINDS];
	volatile uint64_t broken, wrong;
	char what[128];
};

static struct state *state;

static void wrong(const char *what)
{
	if (!state->wrong++)
		snprintf(state->what, sizeof state->what, "%s: %s", what, strerror(errno));
	exit(1);
}

static bool map_state(int flags)
{
	int fd = open(STATE, flags, 0600);

	if (fd < 0 || ((flags & O_CREAT) && ftruncate(fd, sizeof *state)))
		return false;
	state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return state != MAP_FAILED;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void count(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof one, &one))
		wrong("sched_setaffinity");
	for (;;)
		state->cpu[cpu]++;
}

static void tick(void)
{
	const struct itimerspec every = { .it_interval.tv_nsec = TICK_NS, .it_value.tv_nsec = TICK_NS };
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t last = 0, expired;

	if (fd < 0 || timerfd_settime(fd, 0, &every, NULL))
		wrong("timerfd");
	for (;;) {
		uint64_t now = now_ns(CLOCK_MONOTONIC);

		if (now < last)
			wrong("the monotonic clock went back");
		last = now;
		if (read(fd, &expired, sizeof expired) != sizeof expired)
			wrong("timerfd read");
		state->work[TICKS] += expired;
	}
}

/* A record is its number, over and over: what comes back is all of one record or a fault. */
static void write_records(const char *folder)
{
	uint64_t record[512], found[512];
	char path[256];
	int fd;

	snprintf(path, sizeof path, "%s/records", folder);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0)
		wrong(path);
	for (uint64_t number = 1;; number++) {
		off_t at = (number % RECORDS) * sizeof record, before = ((number - 1) % RECORDS) * sizeof record;

		for (int i = 0; i < 512; i++)
			record[i] = number;
		if (pwrite(fd, record, sizeof record, at) != sizeof record || fsync(fd))
			wrong("record written");
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		if (number > 1 && pread(fd, found, sizeof found, before) != sizeof found)
			wrong("record read");
		for (int i = 0; number > 1 && i < 512; i++)
			if (found[i] != number - 1)
				wrong("a record is not what was written");
		state->work[RECORDS_WRITTEN]++;
	}
}

static void send_numbers(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof address;
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd;

	if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&address, &size))
		wrong("listen");
	if (!fork()) {
		uint64_t number;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = accept(listener, NULL, NULL);
		while (recv(fd, &number, sizeof number, MSG_WAITALL) == sizeof number)
			if (send(fd, &number, sizeof number, 0) != sizeof number)
				wrong("tcp echo");
		wrong("tcp ended");
	}
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&address, size))
		wrong("connect");
	for (uint64_t number = 0, back;; number++) {
		if (send(fd, &number, sizeof number, 0) != sizeof number ||
		    recv(fd, &back, sizeof back, MSG_WAITALL) != sizeof back || back != number)
			wrong("tcp");
		state->work[NUMBERS]++;
	}
}

static void expect_line(FILE *from, const char *expected)
{
	char line[128] = "";

	if (!fgets(line, sizeof line, from) || strcmp(line, expected)) {
		fprintf(stderr, "the database said: %s, expected: %s\n", line, expected);
		wrong("database");
	}
}

/* Debian's sqlite3, which flushes the disk at each row. */
static void keep_database(const char *folder)
{
	int to[2], from[2];
	char path[256], expected[64];
	FILE *question, *answer;

	snprintf(path, sizeof path, "%s/database", folder);
	if (pipe(to) || pipe(from))
		wrong("pipe");
	if (!fork()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[1]);
		execlp("sqlite3", "sqlite3", "-batch", path, NULL);
		wrong("sqlite3");
	}
	close(to[0]);
	close(from[1]);
	question = fdopen(to[1], "w");
	answer = fdopen(from[0], "r");
	fprintf(question, "PRAGMA synchronous=FULL; CREATE TABLE t(n INTEGER PRIMARY KEY, x TEXT);\n");
	for (uint64_t number = 1;; number++) {
		unsigned long long n = number, kept = number < RECORDS ? number : RECORDS;

		fprintf(question,
			"INSERT INTO t VALUES(%llu, hex(randomblob(64))); DELETE FROM t WHERE n <= %llu;"
			" SELECT max(n), count(*), min(length(x)) FROM t;\n",
			n, n - kept);
		fflush(question);
		snprintf(expected, sizeof expected, "%llu|%llu|128\n", n, kept);
		expect_line(answer, expected);
		if (number % CHECK_EVERY == 0) {
			fprintf(question, "PRAGMA integrity_check;\n");
			fflush(question);
			expect_line(answer, "ok\n");
		}
		state->work[ROWS]++;
	}
}

static int connect_host(int port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	const int on = 1, idle = 1, between = 5, tries = 60;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, HOST, &address.sin_addr);
	/* A peer that is gone answers nothing by itself: one who only waits learns it from these. */
	if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between, sizeof between) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries))
		wrong("keepalive");
	while (connect(fd, (struct sockaddr *)&address, sizeof address))
		usleep(10000);
	return fd;
}

/* The user network of a QEMU that goes on from a snapshot knows none of its predecessor's connections. */
static void talk_to_host(int port)
{
	int fd = connect_host(port);

	for (uint64_t number = 0, back;; number++) {
		if (send(fd, &number, sizeof number, MSG_NOSIGNAL) == sizeof number &&
		    recv(fd, &back, sizeof back, MSG_WAITALL) == sizeof back) {
			if (back != number)
				wrong("tcp to the host");
			state->work[HOSTS_NUMBERS]++;
			continue;
		}
		state->broken++;
		close(fd);
		fd = connect_host(port);
	}
}

static void check_memory(void)
{
	uint64_t *memory = malloc(MEMORY);
	const size_t words = MEMORY / sizeof *memory;

	for (uint64_t pass = 1;; pass++) {
		for (size_t i = 0; i < words; i++)
			memory[i] = pass * 0x9e3779b97f4a7c15 + i;
		for (size_t i = 0; i < words; i++)
			if (memory[i] != pass * 0x9e3779b97f4a7c15 + i)
				wrong("memory");
		state->work[PASSES]++;
	}
}

static int run(const char *folder, int port)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!map_state(O_RDWR | O_CREAT | O_TRUNC))
		return 1;
	for (int i = 0; i < cpus + KINDS; i++) {
		if (fork())
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (i < cpus)
			count(i);
		nice(-10);
		switch (i - cpus) {
		case TICKS:
			tick();
			break;
		case RECORDS_WRITTEN:
			write_records(folder);
			break;
		case NUMBERS:
			send_numbers();
			break;
		case ROWS:
			keep_database(folder);
			break;
		case HOSTS_NUMBERS:
			talk_to_host(port);
			break;
		default:
			check_memory();
		}
	}
	for (;;)
		pause();
}

static bool all_moved(const struct state *before, long cpus, char *missing, size_t room)
{
	for (int i = 0; i < cpus; i++)
		if (state->cpu[i] == before->cpu[i])
			return snprintf(missing, room, "CPU %d", i) < 0;
	for (int i = 0; i < KINDS; i++)
		if (state->work[i] == before->work[i])
			return snprintf(missing, room, "%s", names[i]) < 0;
	return true;
}

static int check(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct state before;
	char missing[32] = "";
	bool moved = false;

	if (!map_state(O_RDWR))
		return 1;
	before = *state;
	for (int waited = 0; waited < GO_ON_MS && !moved && !state->wrong; waited += 20) {
		usleep(20000);
		moved = all_moved(&before, cpus, missing, sizeof missing);
	}
	if (state->wrong)
		printf("went wrong: %s\n", state->what);
	else if (!moved)
		printf("does not go on: %s\n", missing);
	return moved && !state->wrong ? 0 : 1;
}

int main(int argc, char **argv)
{
	unsigned char bytes[64];

	if (argc == 4 && !strcmp(argv[1], "run"))
		return run(argv[2], atoi(argv[3]));
	if (argc == 2 && !strcmp(argv[1], "check"))
		return check();
	if (argc == 2 && !strcmp(argv[1], "broken"))
		return map_state(O_RDWR) ? printf("%llu\n", (unsigned long long)state->broken) < 0 : 1;
	if (argc == 2 && !strcmp(argv[1], "clock"))
		return printf("%llu\n", (unsigned long long)now_ns(CLOCK_REALTIME)) < 0;
	if (argc != 2 || strcmp(argv[1], "random") || getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
		return 2;
	for (size_t i = 0; i < sizeof bytes; i++)
		printf("%02x", bytes[i]);
	return printf("\n") < 0;
}
