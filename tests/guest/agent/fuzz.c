// SPDX-License-Identifier: Apache-2.0
/*
 * What the agent parses, for libFuzzer: the opening of a connection, the request behind it, and the input that follows.
 * It is all of the agent that makes no system call.
 */
#include "frame.h"

#include <assert.h>

static void use_string(const char *string)
{
	if (string)
		assert(strlen(string) < FRAME_LIMIT);
}

/* Every pointer leads to what can be read, every list ends. */
static void use_request(const struct frame *frame, const struct request *request)
{
	const uint8_t *end = frame->data + frame->size;

	for (uint32_t i = 0; i < request->command_count; i++) {
		assert(request->commands[i].argv[0] && *request->commands[i].argv[0]);
		for (char **word = request->commands[i].argv; *word; word++)
			use_string(*word);
	}
	for (uint32_t i = 0; i < request->env_count; i++)
		assert(strchr(request->env[i], '='));
	for (uint32_t i = 0; i < request->group_count; i++)
		use_string(request->groups[i]);
	for (uint32_t i = 0; i < request->file_count; i++) {
		assert(*request->files[i].path == '/');
		assert(request->files[i].content + request->files[i].size <= end);
	}
	assert(!request->env[request->env_count] && !request->groups[request->group_count]);
	assert(frame->kind != FRAME_EXEC || request->command_count);
	use_string(request->cwd);
	use_string(request->user);
	use_string(request->path);
	use_string(request->hostname);
	use_string(request->machine_id);
	use_string(request->notice_file);
	assert(!request->entropy || request->entropy + request->entropy_size <= end);
}

/* What was put in comes out, in order, and never more than fits. */
static void use_ring(const uint8_t *data, size_t size)
{
	static struct ring ring;
	size_t held = ring.size;
	const uint8_t *front;
	size_t part;

	assert(ring_put(&ring, data, size) == (size <= AGENT_WINDOW - held));
	part = ring_front(&ring, &front);
	assert(part <= ring.size && (part || !ring.size));
	if (!held && part)
		assert(!memcmp(front, data, part));
	ring_drop(&ring, part / 2 + part % 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1); /* exactly as long, so that a byte too far is found */
	struct request request;
	struct frame frame;
	struct hello hello;
	size_t at;

	assert(copy);
	memcpy(copy, data, size);
	if (opening_parse(copy, size, &hello, &frame, &at) == PARSED && frame.kind != FRAME_V1_EXEC &&
	    frame_parse(copy + at, size - at, FRAME_LIMIT, &frame) == PARSED && !request_parse(&frame, &request)) {
		use_request(&frame, &request);
		request_free(&request);
	}
	use_ring(copy, size);
	free(copy);
	return 0;
}
