/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's protocol, version 2, and a client of it for hosts to copy: this file and client.c.
 * Each frame and field is described in docs/guest-contract.md.
 */
#ifndef SUPERMACHINE_AGENT_CLIENT_H
#define SUPERMACHINE_AGENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AGENT_PORT 777
#define AGENT_PROTOCOL 2
#define FRAME_HEADER 8 /* bytes: u32 payload length, u32 kind, little-endian */
#define FRAME_LIMIT (1024 * 1024) /* bytes of payload, in any frame */
#define DATA_LIMIT 65536 /* bytes of payload, in a frame of a stream */
#define HELLO_SIZE 20 /* bytes of payload that version 2 knows; more may follow */
#define HELLO_LIMIT 256
#define CONTROL_LIMIT 4096 /* bytes of payload, in a request that is no EXEC, READ or WRITE */
#define AGENT_WINDOW 262144 /* bytes of a stream the agent takes before it grants more */
#define WINDOW_LEAST 4096
#define WINDOW_MOST (16 * 1024 * 1024)
#define EXIT_RECORD 40 /* bytes for each command in FRAME_EXIT */
#define COMMANDS_LIMIT 1024 /* in one EXEC */

/* Numbers are little-endian. */
static inline uint32_t get_u32(const uint8_t *from)
{
	return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

static inline uint64_t get_u64(const uint8_t *from)
{
	return get_u32(from) | (uint64_t)get_u32(from + 4) << 32;
}

static inline void put_u32(uint8_t *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = value >> (8 * i);
}

static inline void put_u64(uint8_t *to, uint64_t value)
{
	put_u32(to, value);
	put_u32(to + 4, value >> 32);
}

enum frame_kind {
	FRAME_V1_EXEC = 1,
	FRAME_V1_EXIT = 18, /* of version 1, which had no HELLO */
	FRAME_HELLO = 32,
	/* requests */
	FRAME_EXEC = 33,
	FRAME_READ,
	FRAME_WRITE,
	FRAME_SIGNAL = 36,
	FRAME_STATUS,
	FRAME_GO,
	FRAME_PARK,
	FRAME_UNPARK,
	FRAME_RESTORED,
	FRAME_POWER_OFF,
	/* from the caller, after its request */
	FRAME_STDIN = 48,
	FRAME_STDIN_END,
	FRAME_COMMAND_SIGNAL,
	FRAME_RESIZE,
	FRAME_CLOCK,
	/* from either side */
	FRAME_DATA = 56,
	FRAME_DATA_END,
	FRAME_CREDIT,
	FRAME_PING,
	FRAME_PONG,
	/* from the agent */
	FRAME_STDOUT = 64,
	FRAME_STDERR,
	FRAME_EXIT,
	FRAME_FILE,
	FRAME_DONE,
	FRAME_STATE,
	FRAME_ERROR,
	FRAME_CLOCK_ASK,
};

/* The fields of a request: u32 tag, u32 length, bytes. */
enum field_tag {
	FIELD_ARG = 1,
	FIELD_ENV,
	FIELD_ENV_ALONE,
	FIELD_CWD,
	FIELD_USER,
	FIELD_GROUP,
	FIELD_TTY,
	FIELD_LIMIT,
	FIELD_FILE,
	FIELD_NEXT,
	FIELD_PATH = 16,
	FIELD_MODE,
	FIELD_OWNER,
	FIELD_ENTROPY = 32,
	FIELD_CLOCK,
	FIELD_HOSTNAME,
	FIELD_MACHINE_ID,
	FIELD_NOTICE_SIGNAL,
	FIELD_NOTICE_FILE,
};

enum capability {
	CAN_PING = 1, /* answers PING with PONG */
	CAN_PARK = 2, /* agent: /dev/smpark is there, or there is one CPU */
	CAN_STEER = 4, /* agent: init-oci answers STATUS, GO, SIGNAL and POWER_OFF */
};

enum exit_kind {
	EXIT_STATUS = 0, /* value: exit status */
	EXIT_SIGNAL = 1, /* value: the signal that ended it */
	EXIT_NOT_RUN = 2, /* value: the Linux errno of what failed before it ran */
};

enum workload_state { STATE_STARTING, STATE_HELD, STATE_RUNNING, STATE_ENDED, STATE_UNKNOWN };

/* What became of one command. */
struct outcome {
	uint32_t kind, value;
	uint32_t timed_out;
	uint32_t peak_kib;
	uint64_t duration_us, user_us, system_us;
};

static inline void outcome_parse(const uint8_t record[EXIT_RECORD], struct outcome *outcome)
{
	outcome->kind = get_u32(record);
	outcome->value = get_u32(record + 4);
	outcome->timed_out = get_u32(record + 8);
	outcome->peak_kib = get_u32(record + 12);
	outcome->duration_us = get_u64(record + 16);
	outcome->user_us = get_u64(record + 24);
	outcome->system_us = get_u64(record + 32);
}

/* The answer to FRAME_STATUS. */
struct agent_state {
	uint32_t workload; /* enum workload_state */
	uint32_t kind, value; /* enum exit_kind and its value, once it has ended */
	uint32_t pid; /* of the workload; 0: none */
	uint32_t parked; /* 1: the other CPUs are parked */
	uint32_t served, waiting; /* callers of EXEC, READ and WRITE */
};

/* A request that is being put together; agent_request_end() frees it. */
struct agent_request {
	uint8_t *data;
	size_t size, room;
	bool failed; /* memory or FRAME_LIMIT did not suffice */
};

static inline uint8_t *agent_extend(struct agent_request *request, size_t size)
{
	uint8_t *data;

	if (request->failed || size > FRAME_LIMIT - request->size) {
		request->failed = true;
		return NULL;
	}
	if (request->size + size > request->room) {
		size_t more = 2 * (request->size + size);

		data = realloc(request->data, more);
		if (!data) {
			request->failed = true;
			return NULL;
		}
		request->data = data;
		request->room = more;
	}
	data = request->data + request->size;
	request->size += size;
	return data;
}

static inline void agent_field(struct agent_request *request, uint32_t tag, const void *data, size_t size)
{
	uint8_t *to = agent_extend(request, 8 + size);

	if (!to)
		return;
	put_u32(to, tag);
	put_u32(to + 4, size);
	if (size)
		memcpy(to + 8, data, size);
}

static inline void agent_string(struct agent_request *request, uint32_t tag, const char *string)
{
	agent_field(request, tag, string, strlen(string) + 1);
}

static inline void agent_number(struct agent_request *request, uint32_t tag, uint32_t number)
{
	uint8_t bytes[4];

	put_u32(bytes, number);
	agent_field(request, tag, bytes, sizeof bytes);
}

static inline void agent_file(struct agent_request *request, const char *path, uint32_t mode, uint32_t uid,
			      uint32_t gid, const void *content, size_t size)
{
	size_t length = strlen(path) + 1;
	uint8_t *to = agent_extend(request, 8 + 16 + length + size);

	if (!to)
		return;
	put_u32(to, FIELD_FILE);
	put_u32(to + 4, 16 + length + size);
	put_u32(to + 8, mode);
	put_u32(to + 12, uid);
	put_u32(to + 16, gid);
	put_u32(to + 20, length);
	memcpy(to + 24, path, length);
	if (size)
		memcpy(to + 24 + length, content, size);
}

static inline void agent_request_end(struct agent_request *request)
{
	free(request->data);
	memset(request, 0, sizeof *request);
}

/*
 * The descriptors of a call; -1: none. `in` goes to the command or into the file, `out` and `err` take what comes back.
 * Whoever is at their other ends may be slow. What is written to `frames` (a pipe, whole frames, each at once) goes
 * to the agent as it is: COMMAND_SIGNAL and RESIZE.
 */
struct agent_files {
	int in, out, err, frames;
};

struct agent_answer {
	uint32_t error; /* a Linux errno; 0: the connection failed, if the call did */
	char text[256]; /* why the call failed */
	uint64_t capabilities;
	struct outcome outcomes[COMMANDS_LIMIT]; /* EXEC: one for each command that was tried */
	size_t outcome_count;
	struct agent_state state; /* STATUS */
	uint64_t number; /* READ, WRITE: bytes in all; RESTORED: nanoseconds the guest's clock may be off */
	uint32_t mode, uid, gid; /* READ */
};

/*
 * One call over a connected socket, which stays open: HELLO, the request (NULL: one without fields), and all that
 * follows to the last frame. True: it is answered as it should be. False: `answer` says why not. If `out` is a file
 * of READ, only after true it is whole.
 */
bool agent_call(int socket, uint32_t kind, const struct agent_request *request, const struct agent_files *files,
		struct agent_answer *answer);
/* Closes the socket as the protocol wants it: the agent first. */
void agent_close(int socket);

#endif
