/* SPDX-License-Identifier: Apache-2.0 */
/* Frames and requests as bytes: nothing here makes a system call. Byte by byte: docs/guest-contract.md. */
#ifndef FRAME_H
#define FRAME_H

#include "client.h"

struct frame {
	uint32_t kind, size;
	const uint8_t *data;
};

enum parsed { PARSED, PARSED_PARTLY, PARSED_WRONGLY }; /* whole; more bytes are needed; not valid */

/* The first frame of `size` bytes; what is longer than `limit` is not valid. */
enum parsed frame_parse(const uint8_t *from, size_t size, uint32_t limit, struct frame *frame);

struct hello {
	uint32_t version, oldest, window;
	uint64_t capabilities;
};

void hello_pack(const struct hello *hello, uint8_t payload[HELLO_SIZE]);
bool hello_parse(const struct frame *frame, struct hello *hello);

/* How a connection begins: HELLO and the header of the request. Of an old caller `request` is FRAME_V1_EXEC. */
enum parsed opening_parse(const uint8_t *from, size_t size, struct hello *hello, struct frame *request, size_t *at);

struct argument_list {
	char **argv; /* ends with NULL */
	bool always; /* run also if a command before it failed */
};

struct put_file {
	const char *path;
	uint32_t mode, uid, gid;
	const uint8_t *content;
	size_t size;
};

/* A request; the pointers lead into its frame. Lists end with NULL. request_free() frees the lists. */
struct request {
	struct argument_list *commands;
	struct put_file *files;
	char **env, **groups;
	uint32_t command_count, file_count, env_count, group_count;
	const char *cwd, *user; /* NULL: not given, as below */
	bool env_alone, tty;
	uint32_t rows, columns, limit_ms;
	const char *path, *hostname, *machine_id, *notice_file;
	uint32_t mode, uid, gid, notice_signal;
	const uint8_t *entropy;
	uint32_t entropy_size;
	bool ask_clock;
};

/* NULL, or what is not valid, as a part of a sentence. */
const char *request_parse(const struct frame *frame, struct request *request);
void request_free(struct request *request);

struct ring {
	size_t at, size;
	uint8_t data[AGENT_WINDOW];
};

bool ring_put(struct ring *ring, const uint8_t *data, size_t size); /* false: more than there is room for */
size_t ring_front(const struct ring *ring, const uint8_t **data); /* how much lies there in one piece */
void ring_drop(struct ring *ring, size_t size);

void outcome_pack(const struct outcome *outcome, uint8_t record[EXIT_RECORD]);

#endif
