// SPDX-License-Identifier: Apache-2.0
/* What changes the whole guest: POWER_OFF, and RESTORED, what must change in a guest that goes on from a snapshot. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define MACHINE_ID "/etc/machine-id"
#define SECOND_NS 1000000000ULL

/* New bytes from the host, and a new key for the kernel's generator at once, on every CPU. */
static int reseed(const struct request *request)
{
	struct rand_pool_info *pool = malloc(sizeof *pool + request->entropy_size);
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC), error = 0;

	if (fd < 0 || !pool) {
		error = errno;
		if (fd >= 0)
			close(fd);
		free(pool);
		return error;
	}
	pool->entropy_count = 8 * request->entropy_size;
	pool->buf_size = request->entropy_size;
	memcpy(pool->buf, request->entropy, request->entropy_size);
	if (ioctl(fd, RNDADDENTROPY, pool) || ioctl(fd, RNDRESEEDCRNG))
		error = errno;
	explicit_bzero(pool->buf, request->entropy_size);
	close(fd);
	free(pool);
	return error;
}

static int set_clock(int fd, uint64_t *uncertainty_ns)
{
	uint64_t offset, now;
	struct timespec time;
	int error = ask_clock(fd, &offset, uncertainty_ns);

	if (error)
		return error;
	clock_gettime(CLOCK_MONOTONIC, &time);
	now = time.tv_sec * SECOND_NS + time.tv_nsec + offset;
	time.tv_sec = now / SECOND_NS;
	time.tv_nsec = now % SECOND_NS;
	return clock_settime(CLOCK_REALTIME, &time) ? errno : 0;
}

/* The image's own stays if it is none of one line, as an empty one is that systemd keeps. */
static int renew_machine_id(const char *wanted)
{
	char line[34];
	uint8_t bytes[16];
	const struct put_file file = {
		.path = MACHINE_ID,
		.mode = 0444,
		.content = (const uint8_t *)line,
		.size = 33,
	};

	if (*wanted) {
		snprintf(line, sizeof line, "%s\n", wanted);
		return put_file(&file);
	}
	if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
		return errno;
	/* A UUID of version 4, as systemd has it. */
	bytes[6] = (bytes[6] & 0x0f) | 0x40;
	bytes[8] = (bytes[8] & 0x3f) | 0x80;
	for (int i = 0; i < 16; i++)
		sprintf(line + 2 * i, "%02x", bytes[i]);
	line[32] = '\n';
	return put_file(&file);
}

/* A line of its own each time, so that whoever watches the file sees it change. */
static int leave_notice(const char *path)
{
	char line[64];
	uint64_t number;
	struct put_file file = { .path = path, .mode = 0444, .content = (const uint8_t *)line };

	if (getrandom(&number, sizeof number, 0) != sizeof number)
		return errno;
	file.size = snprintf(line, sizeof line, "restored %016llx\n", (unsigned long long)number);
	return put_file(&file);
}

/* A later RESTORED adds to an earlier one. */
static int remember(struct renewal *later, const struct request *request)
{
	char *machine_id = request->machine_id ? strdup(request->machine_id) : NULL;
	char *notice_file = request->notice_file ? strdup(request->notice_file) : NULL;

	if ((request->machine_id && !machine_id) || (request->notice_file && !notice_file)) {
		free(machine_id);
		free(notice_file);
		return ENOMEM;
	}
	if (machine_id) {
		free(later->machine_id);
		later->machine_id = machine_id;
	}
	if (notice_file) {
		free(later->notice_file);
		later->notice_file = notice_file;
	}
	if (request->notice_signal)
		later->notice_signal = request->notice_signal;
	return 0;
}

static int renew_in_turn(int init_fd, const struct renewal *renewal, const char **what)
{
	struct agent_state state;
	int error;

	*what = "MACHINE_ID";
	error = renewal->machine_id ? renew_machine_id(renewal->machine_id) : 0;
	if (error)
		return error;
	*what = "NOTICE_FILE";
	error = renewal->notice_file ? leave_notice(renewal->notice_file) : 0;
	if (error)
		return error;
	*what = "NOTICE_SIGNAL";
	return renewal->notice_signal ? init_ask(init_fd, INIT_SIGNAL, renewal->notice_signal, &state) : 0;
}

int renew(struct control *control, const char **what)
{
	int error = renew_in_turn(control->init_fd, &control->later, what);

	free(control->later.machine_id);
	free(control->later.notice_file);
	control->later = (struct renewal){ 0 };
	return error;
}

int restore(struct control *control, int fd, const struct request *request, uint64_t *uncertainty_ns, const char **what)
{
	int error;

	*what = "ENTROPY";
	error = reseed(request);
	if (error)
		return error;
	control->drop_callers(fd);
	*what = "CLOCK";
	error = request->ask_clock ? set_clock(fd, uncertainty_ns) : 0;
	if (error)
		return error;
	*what = "HOSTNAME";
	if (request->hostname && sethostname(request->hostname, strlen(request->hostname)))
		return errno;
	*what = "request";
	error = remember(&control->later, request);
	/* A disk's journal and init-oci may be on parked CPUs, and whoever waited for them could not release them. */
	return error || control->parked ? error : renew(control, what);
}

void power_off(struct control *control)
{
	struct agent_state state;

	if (!init_ask(control->init_fd, INIT_POWER_OFF, 0, &state))
		return;
	sync();
	end_machine();
}
