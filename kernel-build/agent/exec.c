// SPDX-License-Identifier: Apache-2.0
/* EXEC: the commands of one call, their streams, and what became of them. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define TERMINAL_REST 131072 /* bytes at most that a terminal holds when its command ends */

struct run {
	struct channel *channel;
	const struct request *request;
	struct job job;
	int signals;
	uint32_t index; /* of the present command, or the next */
	bool running, finished; /* a command runs; EXIT has been put */
	uint64_t started_us, deadline_us; /* 0: no time limit */
	bool timed_out;
	uint8_t *exits;
	uint32_t exit_count;
	struct ring input;
	bool input_ended, input_closed;
	uint32_t credit_due;
	/* output: what the caller has room for, and what is left after the last command's end */
	uint64_t out_credit, err_credit;
	bool out_hung; /* the terminal's other side is closed for now */
	int out_left, err_left; /* -1: the command has not ended */
};

static void record(struct run *run, struct outcome *outcome, const struct rusage *usage)
{
	outcome->timed_out = run->timed_out;
	outcome->duration_us = now_us() - run->started_us;
	if (usage) {
		outcome->peak_kib = usage->ru_maxrss;
		outcome->user_us = usage->ru_utime.tv_sec * 1000000ULL + usage->ru_utime.tv_usec;
		outcome->system_us = usage->ru_stime.tv_sec * 1000000ULL + usage->ru_stime.tv_usec;
	}
	outcome_pack(outcome, run->exits + (size_t)EXIT_RECORD * run->exit_count++);
}

/*
 * Once the last command has ended, what its pipes held then is all: a process it left
 * behind may keep them open, and write to them for ever.
 */
static void measure_rest(struct run *run)
{
	run->out_left = run->err_left = 0;
	run->out_hung = false;
	if (run->request->tty)
		run->out_left = TERMINAL_REST;
	else if (run->job.out >= 0)
		ioctl(run->job.out, FIONREAD, &run->out_left);
	if (run->job.err >= 0)
		ioctl(run->job.err, FIONREAD, &run->err_left);
}

/* Starts the next command that the rule lets run; after the last, only the rest of the output is to be sent. */
static void start_next(struct run *run)
{
	while (run->index < run->request->command_count) {
		struct outcome last = { 0 }, outcome = { .kind = EXIT_NOT_RUN };

		if (run->exit_count)
			outcome_parse(run->exits + (size_t)EXIT_RECORD * (run->exit_count - 1), &last);
		if (run->timed_out || ((last.kind || last.value) && !run->request->commands[run->index].always)) {
			run->index++;
			continue;
		}
		run->out_hung = false;
		run->started_us = now_us();
		outcome.value = job_start(&run->job, run->request, run->index++);
		if (!outcome.value) {
			run->running = true;
			return;
		}
		if (run->job.pid > 0)
			waitpid(run->job.pid, NULL, 0);
		record(run, &outcome, NULL);
	}
	measure_rest(run);
}

static void take_end(struct run *run)
{
	struct outcome outcome = { 0 };
	struct rusage usage;
	int status;

	if (!run->running || wait4(run->job.pid, &status, WNOHANG, &usage) != run->job.pid)
		return;
	run->running = false;
	outcome.kind = WIFSIGNALED(status) ? EXIT_SIGNAL : EXIT_STATUS;
	outcome.value = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
	record(run, &outcome, &usage);
	start_next(run);
}

/* ---- input ---- */

static void close_input(struct run *run)
{
	if (run->request->tty && !terminal_end_input(&run->job))
		return;
	if (!run->request->tty)
		close_end(&run->job.in);
	run->input_closed = true;
}

static bool input_waits(const struct run *run)
{
	return run->job.in >= 0 && (run->input.size || (run->input_ended && !run->input_closed));
}

static void pass_input(struct run *run)
{
	while (run->input.size) {
		const uint8_t *data;
		size_t size = ring_front(&run->input, &data);
		ssize_t put = run->job.in < 0 ? (ssize_t)size : write(run->job.in, data, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (!put || (put < 0 && errno == EAGAIN))
			return;
		if (put < 0) { /* it reads no more: the rest goes nowhere */
			if (!run->request->tty)
				close_end(&run->job.in);
			put = size;
		}
		ring_drop(&run->input, put);
		run->credit_due += put;
	}
	if (run->input_ended && !run->input_closed && run->job.in >= 0)
		close_input(run);
}

static bool take_input(struct run *run, const struct frame *frame)
{
	return !run->input_ended && frame->size <= AGENT_WINDOW - run->input.size - run->credit_due &&
	       ring_put(&run->input, frame->data, frame->size);
}

/* ---- frames ---- */

static bool take_credit(struct run *run, const struct frame *frame)
{
	uint32_t stream = get_u32(frame->data), bytes = get_u32(frame->data + 4);

	if (stream == FRAME_STDOUT)
		run->out_credit += bytes;
	else if (stream == FRAME_STDERR)
		run->err_credit += bytes;
	return stream == FRAME_STDOUT || stream == FRAME_STDERR;
}

static bool resize(const struct run *run, const struct frame *frame)
{
	return run->request->tty && terminal_resize(&run->job, get_u32(frame->data), get_u32(frame->data + 4));
}

static bool send_signal(const struct run *run, const struct frame *frame)
{
	uint32_t number = get_u32(frame->data);

	if (number < 1 || number >= _NSIG)
		return false;
	if (run->running)
		kill(-run->job.pid, number);
	return true;
}

/* False: the caller does not keep to the protocol. */
static bool take_frame(struct run *run, const struct frame *frame)
{
	switch (frame->kind) {
	case FRAME_STDIN:
		return take_input(run, frame);
	case FRAME_STDIN_END:
		run->input_ended = true;
		return !frame->size;
	case FRAME_CREDIT:
		return frame->size == 8 && take_credit(run, frame);
	case FRAME_COMMAND_SIGNAL:
		return frame->size == 4 && send_signal(run, frame);
	case FRAME_RESIZE:
		return frame->size == 8 && resize(run, frame);
	default:
		return false;
	}
}

/* ---- output ---- */

static void pass_output(struct run *run, int *fd, int *left, uint64_t *credit, uint32_t kind)
{
	uint8_t *data = channel_space(run->channel);
	size_t room = channel_room(run->channel);
	ssize_t got;

	if (room <= CONTROL_ROOM) /* the other output has just filled it */
		return;
	room -= CONTROL_ROOM;
	if (room > DATA_LIMIT)
		room = DATA_LIMIT;
	if (room > *credit)
		room = *credit;
	if (*left >= 0 && room > (size_t)*left)
		room = *left;
	got = room ? read(*fd, data, room) : 0;
	if (got > 0) {
		channel_put(run->channel, kind, data, got);
		*credit -= got;
		if (*left >= 0)
			*left -= got;
	} else if (got < 0 && (errno == EAGAIN || errno == EINTR) && *left < 0) {
		return;
	} else if (run->request->tty && *left < 0) {
		run->out_hung = true;
	} else if (run->request->tty) {
		*left = 0; /* the master stays, it is the input too */
	} else {
		close_end(fd);
	}
}

static bool output_done(const struct run *run)
{
	return (run->job.out < 0 || !run->out_left) && (run->job.err < 0 || !run->err_left);
}

static void put_exits(struct run *run)
{
	channel_put(run->channel, FRAME_EXIT, run->exits, (size_t)EXIT_RECORD * run->exit_count);
	run->finished = true;
}

/* ---- */

static int next_timeout(struct run *run)
{
	int alive = channel_check_alive(run->channel);
	uint64_t now = now_us();

	if (!run->running || !run->deadline_us || run->timed_out)
		return alive;
	if (now >= run->deadline_us) {
		run->timed_out = true;
		kill(-run->job.pid, SIGKILL);
		return alive;
	}
	now = (run->deadline_us - now) / 1000 + 1;
	return alive < 0 || now < (uint64_t)alive ? (int)now : alive;
}

static void wait_and_move(struct run *run)
{
	struct channel *channel = run->channel;
	struct job *job = &run->job;
	bool ended = !run->running && run->out_left >= 0, room = channel_room(channel) > CONTROL_ROOM;
	bool out = job->out >= 0 && !run->out_hung && run->out_left && run->out_credit && room;
	bool err = job->err >= 0 && run->err_left && run->err_credit && room;
	struct pollfd files[] = {
		{ channel->fd, POLLIN | (channel_idle(channel) ? 0 : POLLOUT), 0 },
		{ input_waits(run) ? job->in : -1, POLLOUT, 0 },
		{ out ? job->out : -1, POLLIN, 0 },
		{ err ? job->err : -1, POLLIN, 0 },
		{ run->signals, POLLIN, 0 },
	};

	/* After the end the pipes are read to their end without waiting. */
	poll(files, 5, ended && (out || err) ? 0 : next_timeout(run));
	if (files[4].revents && worker_take_signals(run->signals))
		take_end(run);
	if (files[0].revents & ~POLLOUT)
		channel_receive(channel);
	if (out && (files[2].revents || ended))
		pass_output(run, &job->out, &run->out_left, &run->out_credit, FRAME_STDOUT);
	if (err && (files[3].revents || ended))
		pass_output(run, &job->err, &run->err_left, &run->err_credit, FRAME_STDERR);
}

static void run_commands(struct run *run)
{
	struct channel *channel = run->channel;
	struct frame frame;

	start_next(run);
	while (!channel->ended && !worker_stopped) {
		while (channel_next(channel, &frame)) {
			if (!run->finished && !take_frame(run, &frame))
				channel->ended = true;
			channel_drop(channel, &frame);
		}
		channel->ended |= channel->broken;
		pass_input(run);
		if (run->credit_due >= DATA_LIMIT && !run->finished && channel_room(channel) > CONTROL_ROOM / 2) {
			channel_put_credit(channel, FRAME_STDIN, run->credit_due);
			run->credit_due = 0;
		}
		if (!run->running && !run->finished && output_done(run) &&
		    channel_room(channel) >= (size_t)EXIT_RECORD * run->exit_count)
			put_exits(run);
		channel_send(channel);
		if (run->finished && channel_idle(channel))
			return;
		if (!channel->ended)
			wait_and_move(run);
	}
}

void serve_exec(struct channel *channel, const struct request *request)
{
	struct run *run = calloc(1, sizeof *run);
	uint8_t *exits = calloc(request->command_count, EXIT_RECORD);
	int signals = worker_signals();
	char error[512];

	if (!run || !exits || signals < 0) {
		channel_put_error(channel, ENOMEM, "there is no memory for it");
	} else if (!job_prepare(&run->job, request, error, sizeof error)) {
		channel_put_error(channel, errno, error);
	} else {
		run->channel = channel;
		run->request = request;
		run->signals = signals;
		run->exits = exits;
		run->out_left = run->err_left = -1;
		run->out_credit = run->err_credit = channel->caller.window;
		if (request->limit_ms)
			run->deadline_us = now_us() + request->limit_ms * 1000ULL;
		run_commands(run);
		if (run->running)
			kill(-run->job.pid, SIGKILL);
	}
	free(exits);
	free(run);
}
