/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's wire format and what its files share.
 * Byte by byte: docs/guest-contract.md.
 */
#ifndef AGENT_H
#define AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CONTRACT	1
#define AGENT_PORT	777	/* below 1024: only root can listen here in the agent's place */
#define AGENT_COMMANDS	64	/* at once; further callers wait to be accepted */

#define FRAME_HEADER	8		/* bytes: u32 payload length, u32 kind, little-endian */
#define FRAME_LIMIT	(1024 * 1024)	/* bytes of payload, in a frame from the caller */
#define DATA_LIMIT	65536		/* bytes of payload, in a frame from the agent */

enum frame_kind {
	FRAME_EXEC = 1,		/* caller: what to run; the first frame, and only the first */
	FRAME_STDIN = 2,	/* caller: bytes; none: end of file */
	FRAME_SIGNAL = 3,	/* caller: u32 signal, to the command's process group */
	FRAME_STDOUT = 16,	/* agent: bytes */
	FRAME_STDERR = 17,	/* agent: bytes */
	FRAME_EXIT = 18,	/* agent: u32 enum exit_kind, u32 value; the last frame */
};

enum exit_kind {
	EXIT_STATUS = 0,	/* value: exit status */
	EXIT_SIGNAL = 1,	/* value: the signal that ended it */
	EXIT_NOT_RUN = 2,	/* value: errno of what failed before the command ran */
};

/* One end of a connection: what has come so far and what is yet to go. */
struct channel {
	int fd;
	size_t in_size, out_size, out_sent;
	uint8_t in[FRAME_HEADER + FRAME_LIMIT];
	uint8_t out[FRAME_HEADER + FRAME_LIMIT];
};

struct frame {
	uint32_t kind, size;
	const uint8_t *data;
};

/* What FRAME_EXEC says; the pointers lead into the frame. argv and env end with NULL. */
struct command {
	char **argv, **env;
	uint32_t argc, envc;
	char *cwd;
};

/* What became of a command. */
struct outcome {
	uint32_t kind, value;
};

/* channel.c */
uint32_t get_u32(const uint8_t *from);
void put_u32(uint8_t *to, uint32_t value);
bool channel_receive(struct channel *channel);	/* false: ended, or not valid */
bool channel_valid(const struct channel *channel);
bool channel_next(const struct channel *channel, struct frame *frame);
void channel_drop(struct channel *channel, const struct frame *frame);
bool channel_idle(const struct channel *channel);	/* nothing is left to send */
void channel_put(struct channel *channel, uint32_t kind, const void *data, uint32_t size);
void channel_clear(struct channel *channel);	/* what is left to send is not sent */
bool channel_send(struct channel *channel);	/* as much as goes now; false: ended */

/* command.c */
ssize_t command_pack(const struct command *command, uint8_t *to, size_t room);
bool command_unpack(const uint8_t *from, size_t size, struct command *command);

/* serve.c, exec.c, selftest.c */
int serve(void);
bool exec_in_guest(const struct command *command, int in, int out, int err, struct outcome *outcome);
int selftest(char **names);

#endif
