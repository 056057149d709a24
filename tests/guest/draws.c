// SPDX-License-Identifier: Apache-2.0
/* draws FILE: on CPU 1, record again and again the time (8 bytes) and what the kernel then draws at random (16). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define PAUSE_US 1000

int main(int argc, char **argv)
{
	struct {
		uint64_t ns;
		unsigned char drawn[16];
	} record;
	int fd = argc == 2 ? open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(1, &one);
	if (fd < 0 || sched_setaffinity(0, sizeof one, &one))
		return 1;
	for (;;) {
		struct timespec now;

		/* The time first: what is drawn before the CPU is parked has the same time in every guest of a snapshot. */
		clock_gettime(CLOCK_MONOTONIC, &now);
		record.ns = now.tv_sec * 1000000000ULL + now.tv_nsec;
		if (getrandom(record.drawn, sizeof record.drawn, 0) != sizeof record.drawn ||
		    write(fd, &record, sizeof record) != sizeof record)
			return 1;
		usleep(PAUSE_US);
	}
}
