// SPDX-License-Identifier: Apache-2.0
/* The terminal of a job: its master is our end of input and output. */
#define _GNU_SOURCE
#include "agent.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

bool terminal_make(struct job *job, const struct request *request)
{
	const struct winsize size = { .ws_row = request->rows, .ws_col = request->columns };

	job->in = job->out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	return job->in >= 0 && !grantpt(job->in) && !unlockpt(job->in) && !ioctl(job->in, TIOCSWINSZ, &size) &&
	       !fcntl(job->in, F_SETFL, O_NONBLOCK);
}

/* The commands' side, for the session that calls. Each command opens it anew: the end of a session leader hangs it up. */
int terminal_open(const struct job *job)
{
	int slave = ioctl(job->in, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (slave < 0 || ioctl(slave, TIOCSCTTY, 0) || (job->with_user && fchown(slave, job->uid, -1)))
		return -1;
	return slave;
}

/* A terminal's input has no end but the character for it. False: it takes nothing now. */
bool terminal_end_input(const struct job *job)
{
	struct termios terminal;

	return tcgetattr(job->in, &terminal) || write(job->in, &terminal.c_cc[VEOF], 1) >= 0;
}

bool terminal_resize(const struct job *job, uint32_t rows, uint32_t columns)
{
	const struct winsize size = { .ws_row = rows, .ws_col = columns };

	return rows <= UINT16_MAX && columns <= UINT16_MAX && !ioctl(job->in, TIOCSWINSZ, &size);
}
