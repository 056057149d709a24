// SPDX-License-Identifier: Apache-2.0
/* The requests that the listening process answers itself, also while every other CPU is parked. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../smpark/smpark.h"

#define DEVICE "/dev/smpark"

void control_start(struct control *control)
{
	control->init_fd = init_connect();
	control->park_fd = -1;
}

static bool one_cpu(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) == 1;
}

uint64_t control_capabilities(const struct control *control)
{
	bool parks = one_cpu() || !access(DEVICE, F_OK);

	return CAN_PING | (parks ? CAN_PARK : 0) | (control->init_fd >= 0 ? CAN_STEER : 0);
}

/* Before all others, and with nothing to be fetched from elsewhere, as long as they are parked. */
static void become_sole_runner(bool sole)
{
	/* musl's sched_setscheduler() only ever fails, by design. */
	const struct sched_param param = { .sched_priority = sole ? 1 : 0 };

	syscall(SYS_sched_setscheduler, 0, sole ? SCHED_FIFO : SCHED_OTHER, &param);
	if (sole)
		mlockall(MCL_CURRENT | MCL_FUTURE);
	else
		munlockall();
}

static int park(struct control *control)
{
	int fd;

	if (control->ending)
		return ESHUTDOWN;
	if (control->parked)
		return EBUSY;
	fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0 && (errno != ENOENT || !one_cpu()))
		return errno == ENOENT ? ENODEV : errno;
	if (init_ask(control->init_fd, INIT_STATUS, 0, &control->at_park))
		control->at_park = (struct agent_state){ .workload = STATE_UNKNOWN };
	become_sole_runner(true);
	if (fd >= 0 && ioctl(fd, SMPARK_PARK)) {
		int error = errno;

		become_sole_runner(false);
		close(fd);
		return error;
	}
	control->park_fd = fd;
	control->parked = true;
	return 0;
}

static int unpark(struct control *control, const char **what)
{
	int error = 0;

	*what = "UNPARK";
	if (!control->parked)
		return EALREADY;
	if (control->park_fd >= 0) {
		error = ioctl(control->park_fd, SMPARK_UNPARK) ? errno : 0;
		close(control->park_fd); /* whatever it answered, nobody is parked after this */
		control->park_fd = -1;
	}
	control->parked = false;
	if (!error)
		error = renew(control, what);
	become_sole_runner(false);
	return error;
}

static size_t put_state(const struct control *control, uint8_t *payload)
{
	struct agent_state state = control->at_park;

	if (!control->parked && init_ask(control->init_fd, INIT_STATUS, 0, &state))
		state = (struct agent_state){ .workload = STATE_UNKNOWN };
	put_u32(payload, state.workload);
	put_u32(payload + 4, state.kind);
	put_u32(payload + 8, state.value);
	put_u32(payload + 12, state.pid);
	put_u32(payload + 16, control->parked);
	put_u32(payload + 20, control->served);
	put_u32(payload + 24, control->waiting);
	return 28;
}

static void send_failure(int fd, int error, const char *what)
{
	char text[256];

	snprintf(text, sizeof text, "%s: %s", what, strerror(error));
	send_error(fd, error, text);
}

/* init-oci may be on a parked CPU. */
static int steer(const struct control *control, uint32_t what, uint32_t number)
{
	struct agent_state state;

	return control->parked ? EBUSY : init_ask(control->init_fd, what, number, &state);
}

static int power_off_possible(struct control *control)
{
	struct agent_state state;
	const char *what;
	int error;

	if (control->parked)
		unpark(control, &what);
	error = control->init_fd < 0 ? 0 : init_ask(control->init_fd, INIT_STATUS, 0, &state);
	control->ending = !error;
	return error;
}

bool control_answer(struct control *control, int fd, const struct frame *frame)
{
	struct request request;
	const char *what = "request", *wrong = request_parse(frame, &request);
	uint64_t uncertainty = 0;
	uint8_t payload[64];
	size_t size = 0;
	int error;

	if (wrong) {
		send_error(fd, EINVAL, wrong);
		return false;
	}
	switch (frame->kind) {
	case FRAME_STATUS:
		size = put_state(control, payload);
		send_frame(fd, FRAME_STATE, payload, size);
		request_free(&request);
		return true;
	case FRAME_GO:
		what = "GO";
		error = steer(control, INIT_GO, 0);
		break;
	case FRAME_SIGNAL:
		what = "SIGNAL";
		error = steer(control, INIT_SIGNAL, request.notice_signal);
		break;
	case FRAME_PARK:
		what = "PARK";
		error = park(control);
		break;
	case FRAME_UNPARK:
		error = unpark(control, &what);
		break;
	case FRAME_RESTORED:
		error = restore(control, fd, &request, &uncertainty, &what);
		put_u64(payload, uncertainty);
		size = 8;
		break;
	case FRAME_POWER_OFF:
		what = "POWER_OFF";
		error = power_off_possible(control);
		break;
	default:
		error = ENOTSUP;
	}
	request_free(&request);
	if (error)
		send_failure(fd, error, what);
	else
		send_frame(fd, FRAME_DONE, payload, size);
	return !error;
}
