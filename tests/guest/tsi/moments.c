// SPDX-License-Identifier: Apache-2.0
/* What the host or another thread does at any moment of a call: the call ends, and says what became of it. */
#include "cases.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define LONG_ENOUGH 4 /* seconds, in which there are thousands of tries */

/* Another task takes this one's CPU again and again, so that an answer may come between any two looks at it. */
static void be_interrupted(void)
{
	struct sched_param last = { 0 };
	cpu_set_t one;
	double start;

	CPU_ZERO(&one);
	CPU_SET(1, &one);
	CHECK(!sched_setaffinity(0, sizeof one, &one));
	if (fork()) {
		CHECK(!sched_setscheduler(0, SCHED_IDLE, &last));
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		usleep(50);
		for (start = seconds(); seconds() - start < 0.001;)
			;
	}
}

static int outcome_of(int fd)
{
	struct pollfd file = { fd, POLLOUT, 0 };
	socklen_t size = sizeof(int);
	int error;

	CHECK(poll(&file, 1, 60000) == 1);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size));
	return error;
}

FAULT(datagrams_are_refused_at_any_moment)
{
	union address to = loopback(AF_INET, udp_ports[0]);

	act("ECONNRESET");
	be_interrupted();
	for (double start = seconds(); seconds() - start < LONG_ENOUGH;) {
		int fd = udp(AF_INET);

		FAILS(connect(fd, &to.any, length(&to)), ECONNRESET);
		close(fd);
	}
	still_works();
}

FAULT(stream_is_refused_at_any_moment)
{
	union address to = loopback(AF_INET, closed_port);

	be_interrupted();
	for (double start = seconds(); seconds() - start < LONG_ENOUGH;) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		int error = connect(fd, &to.any, length(&to)) ? errno : 0;

		if (error == EINPROGRESS)
			error = outcome_of(fd);
		errno = error;
		CHECK(error == ECONNREFUSED);
		close(fd);
	}
	still_works();
}

FAULT(upload_is_reset)
{
	static char data[32 << 20];
	int fd = serve(AF_INET, "hold"), child;
	ssize_t sent;

	act("none");
	if (!(child = fork())) {
		sleep(1);
		act_without_answer("transport");
		_exit(0);
	}
	while ((sent = send(fd, data, sizeof data, MSG_NOSIGNAL)) == sizeof data)
		;
	CHECK(sent > 0);
	FAILS(send(fd, data, 1, MSG_NOSIGNAL), ECONNRESET);
	FAILS(send(fd, data, 1, MSG_NOSIGNAL), EPIPE);
	CHECK(waitpid(child, NULL, 0) == child);
	act_anew();
	still_works();
}

FAULT(connection_is_reset_before_it_is_accepted)
{
	union address at = loopback(AF_INET, 0);
	int listener = listener_at(&at), fd;
	char byte;

	act("none");
	dial(port_of(listener), "hold");
	CHECK(readable(listener, 10000));
	act_without_answer("transport");
	usleep(200000); /* which one connection learns before another */
	fd = accept(listener, NULL, NULL);
	CHECK(fd >= 0);
	FAILS(recv(fd, &byte, 1, 0), ECONNRESET);
	CHECK(recv(fd, &byte, 1, 0) == 0);
	still_works();
}

FAULT(socket_is_disconnected_while_another_thread_connects_it)
{
	struct sockaddr none = { AF_UNSPEC, "" };
	union address to = loopback(AF_INET, server_port);
	int fd = tcp(AF_INET), child, status;

	act("silent");
	if (!(child = fork())) {
		alarm(20);
		FAILS(connect(fd, &to.any, length(&to)), ECONNABORTED);
		_exit(0);
	}
	sleep(1);
	CHECK(!connect(fd, &none, sizeof none));
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	still_works();
}
