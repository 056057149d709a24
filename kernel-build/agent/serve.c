// SPDX-License-Identifier: Apache-2.0
/*
 * The serving side. Each connection has a process of its own, so that what goes
 * wrong with one caller stays with that caller.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_FRAME_MS	10000	/* a caller that says nothing does not keep its place */
#define GOODBYE_MS	2000	/* for the caller to read the end and close */

struct job {
	pid_t pid;
	int in, out, err;	/* our ends of its pipes; -1: closed */
	size_t in_done;		/* bytes of the present FRAME_STDIN it has taken */
	bool ended;
	int status;
	int out_left, err_left;	/* bytes in its pipes when it ended */
};

static struct channel channel;

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int signal_file(void)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	return signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void take_signals(int fd)
{
	struct signalfd_siginfo info;

	while (read(fd, &info, sizeof info) > 0)
		;
}

/* ---- one command ---- */

static _Noreturn void become_command(const struct command *command, int in, int out, int err, int report)
{
	sigset_t none;
	int error;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0 &&
	    !chdir(*command->cwd ? command->cwd : "/")) {
		if (command->envc)
			environ = command->env;	/* execvp looks for PATH there */
		execvp(command->argv[0], command->argv);
	}
	error = errno;
	if (write(report, &error, sizeof error) < 0)
		_exit(126);
	_exit(127);
}

/* 0, or the errno of what failed before the command ran. */
static int start(struct job *job, const struct command *command)
{
	int in[2], out[2], err[2], report[2], error = 0;

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(report, O_CLOEXEC))
		return errno;
	job->pid = fork();
	if (job->pid < 0)
		return errno;
	if (!job->pid)
		become_command(command, in[0], out[1], err[1], report[1]);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	close(report[1]);
	/* Closed by a successful exec: nothing to read. */
	if (read(report[0], &error, sizeof error) > 0)
		return error;
	close(report[0]);
	job->in = in[1];
	job->out = out[0];
	job->err = err[0];
	fcntl(job->in, F_SETFL, O_NONBLOCK);
	fcntl(job->out, F_SETFL, O_NONBLOCK);
	fcntl(job->err, F_SETFL, O_NONBLOCK);
	return 0;
}

/*
 * Once the command has ended, what its pipes held then is all: a process it left
 * behind may keep them open, and write to them for ever.
 */
static void take_end(struct job *job)
{
	if (waitpid(job->pid, &job->status, WNOHANG) != job->pid)
		return;
	job->ended = true;
	if (job->out >= 0)
		ioctl(job->out, FIONREAD, &job->out_left);
	if (job->err >= 0)
		ioctl(job->err, FIONREAD, &job->err_left);
}

static void pass_output(struct job *job, int *fd, int *left, uint32_t kind)
{
	static uint8_t data[DATA_LIMIT];
	size_t room = sizeof data;
	ssize_t got;

	if (*fd < 0 || !channel_idle(&channel))
		return;
	if (job->ended && (size_t)*left < room)
		room = *left;
	got = read(*fd, data, room);
	if (got > 0) {
		channel_put(&channel, kind, data, got);
		*left -= job->ended ? got : 0;
	} else if (!got || errno != EAGAIN || job->ended) {
		close_end(fd);
	}
}

/* True when the frame is done with; false: the command does not take more now. */
static bool pass_input(struct job *job, const struct frame *frame)
{
	while (job->in >= 0 && job->in_done < frame->size) {
		ssize_t put = write(job->in, frame->data + job->in_done, frame->size - job->in_done);

		if (put > 0)
			job->in_done += put;
		else if (errno == EAGAIN)
			return false;
		else if (errno != EINTR)
			close_end(&job->in);	/* it reads no more: the rest goes nowhere */
	}
	if (!frame->size)
		close_end(&job->in);
	job->in_done = 0;
	return true;
}

/* Handles the frames that are whole. False: the caller does not keep to the format. */
static bool take_frames(struct job *job)
{
	struct frame frame;
	uint32_t number;

	while (channel_next(&channel, &frame)) {
		if (frame.kind == FRAME_STDIN) {
			if (!pass_input(job, &frame))
				return true;
		} else if (frame.kind == FRAME_SIGNAL && frame.size == 4) {
			number = get_u32(frame.data);
			if (number < 1 || number >= _NSIG)
				return false;
			if (!job->ended)
				kill(-job->pid, number);
		} else {
			return false;
		}
		channel_drop(&channel, &frame);
	}
	return channel_valid(&channel);
}

/* Until the command has ended and all its output is sent. False: the caller is gone or not valid. */
static bool run(struct job *job, int signals)
{
	struct frame frame;

	/* Frames may have come with the first one. */
	while (take_frames(job)) {
		bool waiting = channel_next(&channel, &frame), idle = channel_idle(&channel);
		struct pollfd files[] = {
			{ channel.fd, (waiting ? POLLRDHUP : POLLIN) | (idle ? 0 : POLLOUT), 0 },
			{ waiting ? job->in : -1, POLLOUT, 0 },
			{ idle ? job->out : -1, POLLIN, 0 },
			{ idle ? job->err : -1, POLLIN, 0 },
			{ signals, POLLIN, 0 },
		};

		/* After its end the pipes are read to the end without waiting. */
		if (poll(files, 5, job->ended && idle ? 0 : -1) < 0 && errno != EINTR)
			return false;
		if (files[4].revents) {
			take_signals(signals);
			take_end(job);
		}
		if (files[0].revents & (POLLIN | POLLHUP | POLLERR) && !waiting && !channel_receive(&channel))
			return false;
		if (waiting && files[0].revents & (POLLRDHUP | POLLHUP | POLLERR))
			return false;
		if (files[2].revents || job->ended)
			pass_output(job, &job->out, &job->out_left, FRAME_STDOUT);
		if (files[3].revents || job->ended)
			pass_output(job, &job->err, &job->err_left, FRAME_STDERR);
		if (!channel_send(&channel))
			return false;
		if (job->ended && job->out < 0 && job->err < 0 && channel_idle(&channel))
			return true;
	}
	return false;
}

/* ---- one connection ---- */

static bool wait_for(short events, int limit_ms)
{
	struct pollfd file = { channel.fd, events, 0 };

	return poll(&file, 1, limit_ms) > 0;
}

static bool receive_command(struct command *command)
{
	struct frame frame;

	while (!channel_next(&channel, &frame))
		if (!wait_for(POLLIN, FIRST_FRAME_MS) || !channel_receive(&channel))
			return false;
	return frame.kind == FRAME_EXEC && command_unpack(frame.data, frame.size, command);
}

static void send_outcome(uint32_t kind, uint32_t value)
{
	uint8_t payload[8], rest[4096];

	put_u32(payload, kind);
	put_u32(payload + 4, value);
	channel_put(&channel, FRAME_EXIT, payload, sizeof payload);
	while (!channel_idle(&channel))
		if (!wait_for(POLLOUT, GOODBYE_MS) || !channel_send(&channel))
			return;
	/* The caller says when it has read the end: a close before that could overtake it. */
	while (wait_for(POLLIN, GOODBYE_MS) && read(channel.fd, rest, sizeof rest) > 0)
		;
}

static void serve_caller(int fd)
{
	struct job job = { .in = -1, .out = -1, .err = -1 };
	struct command command;
	struct frame frame;
	int signals = signal_file(), error;

	channel.fd = fd;
	if (signals < 0 || !receive_command(&command))
		return;
	error = start(&job, &command);
	if (error) {
		send_outcome(EXIT_NOT_RUN, error);
		return;
	}
	channel_next(&channel, &frame);
	channel_drop(&channel, &frame);
	if (!run(&job, signals)) {
		if (!job.ended)
			kill(-job.pid, SIGKILL);
		return;
	}
	if (WIFSIGNALED(job.status))
		send_outcome(EXIT_SIGNAL, WTERMSIG(job.status));
	else
		send_outcome(EXIT_STATUS, WEXITSTATUS(job.status));
}

/*
 * The host, and root in this guest: over loopback anybody may connect, but only
 * root can do so from a port below 1024.
 */
static bool may_call(const struct sockaddr_vm *peer)
{
	return peer->svm_cid == VMADDR_CID_HOST || (peer->svm_cid == VMADDR_CID_LOCAL && peer->svm_port < 1024);
}

static int listen_for_callers(void)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_PORT };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, AGENT_COMMANDS)) {
		fprintf(stderr, "supermachine-agent: cannot listen on vsock port %d: %s\n", AGENT_PORT,
			strerror(errno));
		return -1;
	}
	return fd;
}

int serve(void)
{
	int listener = listen_for_callers(), signals = signal_file(), callers = 0;

	if (listener < 0 || signals < 0)
		return 1;
	signal(SIGPIPE, SIG_IGN);
	fprintf(stderr, "supermachine-agent: listening on vsock port %d\n", AGENT_PORT);
	for (;;) {
		struct pollfd files[] = {
			{ signals, POLLIN, 0 },
			{ callers < AGENT_COMMANDS ? listener : -1, POLLIN, 0 },
		};
		struct sockaddr_vm peer = { 0 };
		socklen_t size = sizeof peer;
		int caller;
		pid_t pid;

		poll(files, 2, -1);
		take_signals(signals);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			callers--;
		if (!(files[1].revents & POLLIN))
			continue;
		caller = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (caller < 0)
			continue;
		pid = may_call(&peer) ? fork() : -1;
		if (!pid) {
			close(listener);
			close(signals);
			serve_caller(caller);
			_exit(0);
		}
		if (pid > 0)
			callers++;
		close(caller);
	}
}
