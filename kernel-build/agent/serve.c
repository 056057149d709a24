// SPDX-License-Identifier: Apache-2.0
/*
 * The listening process. It takes every caller at once, so that none is reset, and waits for nobody:
 * what it answers itself is answered at once, and EXEC, READ and WRITE get a process each, in turn.
 */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES_LIMIT 1048576 /* callers that can wait, with a descriptor each */
#define EVENTS 64
#define REST_READS 512 /* of a caller's, before it is closed */
#define OPENING_LIMIT (FRAME_HEADER + HELLO_LIMIT + FRAME_HEADER + CONTROL_LIMIT)

/* A caller: its request has not come whole, it waits for its turn, or it has its answer and shall close. */
enum phase { OPENING, WAITING, CLOSING, PHASES };

struct caller {
	int fd;
	enum phase phase;
	bool power_off; /* what it asked for, once it has closed */
	long deadline_ms;
	struct caller *previous, *next;
};

static struct {
	int epoll, listener, signals;
	bool (*may_call)(int fd);
	bool deaf; /* there was no descriptor for a caller: they wait in the kernel */
	struct caller *first[PHASES], *last[PHASES];
	pid_t workers[AGENT_WORKERS];
	struct control control;
	struct rlimit files; /* as commands shall have it */
} server;

static const struct hello own_hello = { .version = AGENT_PROTOCOL, .oldest = AGENT_PROTOCOL, .window = AGENT_WINDOW };

static void unlink_caller(struct caller *caller)
{
	if (caller->previous)
		caller->previous->next = caller->next;
	else
		server.first[caller->phase] = caller->next;
	if (caller->next)
		caller->next->previous = caller->previous;
	else
		server.last[caller->phase] = caller->previous;
	server.control.waiting -= caller->phase == WAITING;
}

static void link_caller(struct caller *caller, enum phase phase, long limit_ms)
{
	caller->phase = phase;
	caller->deadline_ms = now_ms() + limit_ms;
	caller->previous = server.last[phase];
	caller->next = NULL;
	if (caller->previous)
		caller->previous->next = caller;
	else
		server.first[phase] = caller;
	server.last[phase] = caller;
	server.control.waiting += phase == WAITING;
}

static void move_caller(struct caller *caller, enum phase phase, long limit_ms)
{
	unlink_caller(caller);
	link_caller(caller, phase, limit_ms);
}

static void listen_again(bool listening)
{
	struct epoll_event event = { .events = listening ? EPOLLIN : 0, .data.ptr = &server.listener };

	if (server.deaf == listening)
		epoll_ctl(server.epoll, EPOLL_CTL_MOD, server.listener, &event);
	server.deaf = !listening;
}

static void forget_caller(struct caller *caller)
{
	unlink_caller(caller);
	/* A worker has a copy of the descriptor, with which its events would go on. */
	epoll_ctl(server.epoll, EPOLL_CTL_DEL, caller->fd, NULL);
	close(caller->fd);
	free(caller);
	listen_again(true);
}

static void end_caller(struct caller *caller)
{
	bool off = caller->power_off;
	uint8_t rest[4096];

	/* What was sent and not read would make the close a reset. */
	for (int i = 0; i < REST_READS && recv(caller->fd, rest, sizeof rest, MSG_DONTWAIT) > 0; i++)
		;
	forget_caller(caller);
	if (off)
		power_off(&server.control);
}

static void refuse(struct caller *caller, int error, const char *text)
{
	send_error(caller->fd, error, text);
	move_caller(caller, CLOSING, GOODBYE_MS);
}

/* A caller of version 1 shows this errno as the reason why its command was not run. */
static void refuse_old(struct caller *caller)
{
	uint8_t payload[8];

	put_u32(payload, EXIT_NOT_RUN);
	put_u32(payload + 4, EPROTONOSUPPORT);
	send_frame(caller->fd, FRAME_V1_EXIT, payload, sizeof payload);
	move_caller(caller, CLOSING, GOODBYE_MS);
}

static void take_opening(struct caller *caller)
{
	static uint8_t bytes[OPENING_LIMIT];
	ssize_t got = recv(caller->fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
	struct frame request;
	struct hello hello;
	enum parsed parsed;
	size_t at;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		end_caller(caller);
		return;
	}
	parsed = opening_parse(bytes, got, &hello, &request, &at);
	if (parsed == PARSED_PARTLY)
		return;
	if (parsed == PARSED_WRONGLY) {
		refuse(caller, EPROTO, "expected HELLO and a request");
	} else if (request.kind == FRAME_V1_EXEC) {
		refuse_old(caller);
	} else if (hello.oldest > AGENT_PROTOCOL || hello.version < AGENT_PROTOCOL) {
		refuse(caller, EPROTONOSUPPORT, "this agent speaks protocol version 2 alone");
	} else if (request.kind >= FRAME_EXEC && request.kind <= FRAME_WRITE) {
		move_caller(caller, WAITING, 0);
	} else if (request.kind < FRAME_EXEC || request.kind > FRAME_POWER_OFF) {
		refuse(caller, ENOTSUP, "the request is unknown here");
	} else if (request.size > CONTROL_LIMIT) {
		refuse(caller, E2BIG, "the request is longer than 4096 bytes");
	} else if (got - at >= FRAME_HEADER + (size_t)request.size) {
		/* Taken off the stream, so that what follows is its answers to our questions. */
		if (recv(caller->fd, bytes, at + FRAME_HEADER + request.size, MSG_DONTWAIT) < 0)
			return;
		caller->power_off =
			control_answer(&server.control, caller->fd, &request) && request.kind == FRAME_POWER_OFF;
		move_caller(caller, CLOSING, GOODBYE_MS);
	}
}

static void take_event(struct caller *caller, uint32_t events)
{
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		end_caller(caller);
	else if (caller->phase == OPENING)
		take_opening(caller);
}

static void accept_callers(void)
{
	for (;;) {
		int fd = accept4(server.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct caller *caller;
		struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP | EPOLLET };
		uint8_t payload[HELLO_SIZE];
		struct hello hello = own_hello;

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0) {
			if (errno != EAGAIN)
				listen_again(false);
			return;
		}
		caller = calloc(1, sizeof *caller);
		event.data.ptr = caller;
		if (!caller || (server.may_call && !server.may_call(fd)) ||
		    epoll_ctl(server.epoll, EPOLL_CTL_ADD, fd, &event)) {
			free(caller);
			close(fd);
			continue;
		}
		caller->fd = fd;
		link_caller(caller, OPENING, SILENCE_MS);
		hello.capabilities = control_capabilities(&server.control);
		hello_pack(&hello, payload);
		send_frame(fd, FRAME_HELLO, payload, sizeof payload);
	}
}

/* ---- processes ---- */

static _Noreturn void become_worker(int fd)
{
	/* Nothing of the other callers stays open here. */
	if (fd == 3 ? fcntl(fd, F_SETFD, FD_CLOEXEC) : dup3(fd, 3, O_CLOEXEC) < 0)
		_exit(1);
	syscall(SYS_close_range, 4, ~0U, 0);
	setrlimit(RLIMIT_NOFILE, &server.files);
	serve_caller(3);
	_exit(0);
}

static void start_workers(void)
{
	for (int i = 0; i < AGENT_WORKERS && server.first[WAITING] && !server.control.parked; i++) {
		struct caller *caller = server.first[WAITING];
		pid_t pid;

		if (server.workers[i])
			continue;
		pid = fork();
		if (!pid)
			become_worker(caller->fd);
		if (pid < 0) {
			refuse(caller, errno, "there is no process for it");
			continue;
		}
		server.workers[i] = pid;
		server.control.served++;
		forget_caller(caller);
	}
}

static void reap(void)
{
	uint8_t info[128];
	pid_t pid;

	while (read(server.signals, info, sizeof info) > 0)
		;
	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		for (int i = 0; i < AGENT_WORKERS; i++)
			if (server.workers[i] == pid) {
				server.workers[i] = 0;
				server.control.served--;
			}
}

/* Every connection but one: after a restore their other ends are gone. */
static void drop_callers(int but)
{
	for (int i = 0; i < AGENT_WORKERS; i++)
		if (server.workers[i])
			kill(server.workers[i], SIGTERM);
	for (int phase = OPENING; phase < PHASES; phase++)
		for (struct caller *caller = server.first[phase], *next; caller; caller = next) {
			next = caller->next;
			if (caller->fd != but)
				shutdown(caller->fd, SHUT_RDWR); /* the event that follows ends it */
		}
}

/* ---- */

static int next_timeout(void)
{
	long now = now_ms(), next = -1;
	const enum phase limited[] = { OPENING, CLOSING };

	for (int i = 0; i < 2; i++) {
		while (server.first[limited[i]] && server.first[limited[i]]->deadline_ms <= now)
			end_caller(server.first[limited[i]]);
		if (server.first[limited[i]] && (next < 0 || server.first[limited[i]]->deadline_ms < next))
			next = server.first[limited[i]]->deadline_ms;
	}
	return next < 0 ? -1 : (int)(next - now);
}

static bool prepare(int listener, bool (*may_call)(int fd))
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = &server.listener };
	struct rlimit files = { FILES_LIMIT, FILES_LIMIT };

	server.listener = listener;
	server.may_call = may_call;
	server.signals = worker_signals();
	server.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (server.signals < 0 || server.epoll < 0 || epoll_ctl(server.epoll, EPOLL_CTL_ADD, listener, &event))
		return false;
	event.data.ptr = &server.signals;
	if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, server.signals, &event))
		return false;
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &server.files);
	setrlimit(RLIMIT_NOFILE, &files);
	control_start(&server.control);
	server.control.drop_callers = drop_callers;
	return true;
}

int serve_listener(int listener, bool (*may_call)(int fd))
{
	struct epoll_event events[EVENTS];

	if (!prepare(listener, may_call)) {
		fprintf(stderr, "supermachine-agent: cannot listen: %s\n", strerror(errno));
		return 1;
	}
	for (;;) {
		int count = epoll_wait(server.epoll, events, EVENTS, next_timeout());

		for (int i = 0; i < count; i++) {
			if (events[i].data.ptr == &server.listener)
				accept_callers();
			else if (events[i].data.ptr == &server.signals)
				reap();
			else
				take_event(events[i].data.ptr, events[i].events);
		}
		start_workers();
	}
}
