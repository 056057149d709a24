// SPDX-License-Identifier: Apache-2.0
/* PID 1 from the start of the agent to the end of the guest: one loop, which nothing but the console holds up. */
#define _GNU_SOURCE
#include "init-oci.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGENT_PAUSE_MS 1000 /* from one start of the agent to the next, at least */
#define LAST_WORDS_MS 200 /* for what the agent still tells its callers */
#define LAST_SIGNAL 64

static struct {
	const struct launch *launch;
	pid_t namespace; /* the first process of the image's PID namespace */
	int socket; /* to it; -1: closed */
	int agent_file; /* -1: there is no agent */
	pid_t agent;
	int agent_socket;
	int64_t agent_started, agent_due, beat_due; /* milliseconds; due: -1: never */
	unsigned beats;
	bool go_unanswered;
	uint32_t state, kind, value, entrypoint; /* as the agent is told */
} guest = { .socket = -1, .agent = -1, .agent_socket = -1, .agent_due = -1, .beat_due = -1 };

/* ---- the end ---- */

static int exit_number(void)
{
	switch (guest.kind) {
	case END_SIGNAL:
		return 128 + (int)guest.value;
	case END_NOT_RUN:
		return guest.value == ENOENT ? 127 : 126;
	default:
		return (int)guest.value;
	}
}

static _Noreturn void end_guest(void)
{
	kill_the_rest();
	say("init-oci: exit status %d", exit_number());
	make_read_only();
	power_off();
}

static _Noreturn void end_for_image(bool again)
{
	kill_the_rest();
	say("init-oci: the image %s", again ? "restarts" : "powers off");
	make_read_only();
	if (again)
		restart();
	power_off();
}

/* ---- the agent ---- */

static void start_agent_now(void)
{
	guest.agent = start_agent(guest.agent_file, guest.namespace, &guest.agent_socket);
	if (guest.agent < 0)
		say("init-oci: warning: cannot start the agent: %s; trying again", strerror(errno));
	guest.agent_started = monotonic_ms();
	guest.agent_due = guest.agent < 0 ? guest.agent_started + AGENT_PAUSE_MS : -1;
}

static void close_agent_socket(void)
{
	if (guest.agent_socket >= 0)
		close(guest.agent_socket);
	guest.agent_socket = -1;
	guest.go_unanswered = false;
}

static void agent_has_ended(int status)
{
	int number = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);

	guest.agent = -1;
	close_agent_socket();
	if (number == AGENT_NOT_RUN && guest.state == STATE_HELD)
		fail("hold=exec: /supermachine-agent, which could be told to go on, cannot be run");
	if (number == AGENT_NOT_RUN)
		return; /* it has said so */
	say("init-oci: warning: the agent ended with status %d; starting it again", number);
	guest.agent_due = guest.agent_started + AGENT_PAUSE_MS;
}

static void answer_agent(uint32_t error)
{
	const struct agent_answer answer = { error, guest.state, guest.kind, guest.value, guest.entrypoint };

	send(guest.agent_socket, &answer, sizeof answer, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void set_state(uint32_t state)
{
	guest.state = state;
	if (guest.go_unanswered && state != STATE_STARTING)
		answer_agent(0);
	guest.go_unanswered = false;
}

/* ---- the entrypoint ---- */

static void go(void)
{
	const struct identity *who = &guest.launch->who;
	const struct config *config = guest.launch->config;

	say("init-oci: entrypoint %s as %u:%u in %s", config->args.items[0], who->uid, who->gid, config->cwd);
	guest.state = STATE_STARTING;
	send_message(guest.socket, MESSAGE_GO, 0);
}

static uint32_t signal_entrypoint(int number)
{
	if (number < 1 || number > LAST_SIGNAL)
		return EINVAL;
	if (guest.state != STATE_RUNNING)
		return ESRCH;
	if (guest.launch->config->pid1)
		kill(guest.namespace, number);
	else
		send_message(guest.socket, MESSAGE_SIGNAL, number);
	return 0;
}

static void entrypoint_has_ended(int status)
{
	if (guest.kind != END_NOT_RUN) {
		guest.kind = WIFSIGNALED(status) ? END_SIGNAL : END_STATUS;
		guest.value = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
	}
	guest.entrypoint = 0;
	set_state(STATE_ENDED);
	if (!guest.launch->config->idle)
		end_guest();
	finish_streams(false);
	say("init-oci: exit status %d", exit_number());
	say("init-oci: idle");
}

/* ---- the image's PID namespace ---- */

static bool take_message(void)
{
	struct message message;
	ssize_t got;

	if (guest.socket < 0)
		return false;
	got = recv(guest.socket, &message, sizeof message, MSG_DONTWAIT);
	if (got != sizeof message) {
		if (got >= 0 || errno != EAGAIN) {
			close(guest.socket);
			guest.socket = -1;
		}
		return false;
	}
	if (message.kind == MESSAGE_STARTED) {
		guest.entrypoint = message.value;
		set_state(STATE_RUNNING);
	} else if (message.kind == MESSAGE_FAILED) {
		guest.kind = END_NOT_RUN;
		guest.value = message.value;
	} else if (message.kind == MESSAGE_ENDED) {
		entrypoint_has_ended(message.value);
	}
	return true;
}

/* The entrypoint was its first process, and took the namespace along; the agent's commands need another. */
static void make_namespace_again(void)
{
	umount2("/proc", MNT_DETACH);
	guest.namespace = start_namespace(NULL, &guest.socket);
	mask_paths(guest.launch->config, "/proc");
	if (guest.agent < 0)
		return; /* if it is due, it starts in the new one */
	pause_for(LAST_WORDS_MS);
	kill(guest.agent, SIGKILL);
	waitpid(guest.agent, NULL, 0);
	close_agent_socket();
	start_agent_now();
}

static void namespace_has_ended(int status)
{
	while (take_message())
		;
	if (guest.socket >= 0)
		close(guest.socket);
	guest.socket = -1;
	/* that is how reboot(2) in it is told to the outside */
	if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGINT || WTERMSIG(status) == SIGHUP))
		end_for_image(WTERMSIG(status) == SIGHUP);
	if (!guest.launch->config->pid1 || guest.state == STATE_ENDED)
		fail("the first process of the image's PID namespace ended with status %#x", (unsigned)status);
	entrypoint_has_ended(status);
	make_namespace_again();
}

/* ---- the loop ---- */

static void take_request(void)
{
	struct agent_request request;
	ssize_t got = recv(guest.agent_socket, &request, sizeof request, MSG_DONTWAIT | MSG_TRUNC);

	if (got <= 0) {
		if (!got || errno != EAGAIN)
			close_agent_socket();
	} else if (got != sizeof request) {
		answer_agent(EINVAL);
	} else if (request.what == AGENT_STATUS) {
		answer_agent(0);
	} else if (request.what == AGENT_GO && guest.state == STATE_HELD) {
		say("init-oci: going on");
		guest.go_unanswered = true;
		go();
	} else if (request.what == AGENT_GO) {
		answer_agent(EALREADY);
	} else if (request.what == AGENT_SIGNAL) {
		answer_agent(signal_entrypoint(request.number > LAST_SIGNAL ? 0 : (int)request.number));
	} else if (request.what == AGENT_POWER_OFF) {
		answer_agent(0);
		pause_for(LAST_WORDS_MS);
		kill_the_rest();
		make_read_only();
		power_off();
	} else {
		answer_agent(EINVAL);
	}
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == guest.agent)
			agent_has_ended(status);
		else if (pid == guest.namespace)
			namespace_has_ended(status);
	}
}

static void take_signal(int fd)
{
	struct signalfd_siginfo info;

	if (read(fd, &info, sizeof info) != sizeof info)
		return;
	if (info.ssi_signo == SIGCHLD)
		reap();
	else
		signal_entrypoint((int)info.ssi_signo);
}

/* Of two moments, of which -1 never comes. */
static int64_t sooner(int64_t one, int64_t other)
{
	return one < 0 || (other >= 0 && other < one) ? other : one;
}

/* What is due now; returns for how long nothing is, in milliseconds, or -1. */
static int keep_time(void)
{
	int64_t time = monotonic_ms(), next;
	int wait = flush_rests(time);

	if (guest.agent_due >= 0 && guest.agent_due <= time)
		start_agent_now();
	if (guest.beat_due >= 0 && guest.beat_due <= time) {
		say("init-oci: heartbeat counter=%u", ++guest.beats);
		guest.beat_due = time + guest.launch->config->heartbeat_ms;
	}
	next = sooner(sooner(guest.agent_due, guest.beat_due), wait < 0 ? -1 : time + wait);
	return next < 0 ? -1 : next > time ? (int)(next - time) : 0;
}

_Noreturn void supervise(const struct launch *launch, int agent_file, pid_t namespace, int socket)
{
	enum { SIGNALS, NAMESPACE, AGENT, STREAM, COUNT = STREAM + STREAMS };
	struct pollfd wanted[COUNT];
	sigset_t blocked;
	int signals;

	guest.launch = launch;
	guest.namespace = namespace;
	guest.socket = socket;
	guest.agent_file = agent_file;
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	signals = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
	if (agent_file >= 0)
		start_agent_now();
	if (launch->config->heartbeat_ms)
		guest.beat_due = monotonic_ms() + launch->config->heartbeat_ms;
	if (launch->config->hold) {
		guest.state = STATE_HELD;
		say("init-oci: held before the entrypoint");
	} else {
		go();
	}
	for (;;) {
		int wait = keep_time();

		wanted[SIGNALS] = (struct pollfd){ .fd = signals, .events = POLLIN };
		wanted[NAMESPACE] = (struct pollfd){ .fd = guest.socket, .events = POLLIN };
		/* answers come in order */
		wanted[AGENT] =
			(struct pollfd){ .fd = guest.go_unanswered ? -1 : guest.agent_socket, .events = POLLIN };
		for (int i = 0; i < STREAMS; i++)
			wanted[STREAM + i].fd = stream_to_poll(i, &wanted[STREAM + i].events);
		if (poll(wanted, COUNT, wait) < 0)
			continue;
		for (int i = 0; i < STREAMS; i++)
			if (wanted[STREAM + i].fd >= 0 && wanted[STREAM + i].revents)
				move_stream(i);
		if (wanted[NAMESPACE].revents)
			take_message();
		if (wanted[AGENT].revents && wanted[AGENT].fd == guest.agent_socket)
			take_request();
		if (wanted[SIGNALS].revents)
			take_signal(signals);
	}
}
