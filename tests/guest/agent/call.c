// SPDX-License-Identifier: Apache-2.0
/*
 * Calls the agent on a Unix socket by the client that hosts copy: call SOCKET exec [ARG]... | frames [ARG]... |
 * read PATH | write PATH | status | park. Standard files are those of the call; frames is exec whose input is frames.
 */
#include "client.h"

#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

static int show(bool good, const struct agent_answer *answer)
{
	if (!good)
		fprintf(stderr, "error %u: %s\n", answer->error, answer->text);
	for (size_t i = 0; i < answer->outcome_count; i++)
		fprintf(stderr, "outcome %u %u\n", answer->outcomes[i].kind, answer->outcomes[i].value);
	return good ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct agent_files files = { 0, 1, 2, -1 };
	static struct agent_answer answer;
	struct agent_request request = { 0 };
	uint32_t kind = FRAME_STATUS;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), status;

	if (argc < 3)
		return 2;
	snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[1]);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
		return 2;
	if (!strcmp(argv[2], "exec") || !strcmp(argv[2], "frames")) {
		if (*argv[2] == 'f')
			files.in = -1, files.frames = 0;
		kind = FRAME_EXEC;
		for (int i = 3; i < argc; i++)
			agent_string(&request, FIELD_ARG, argv[i]);
	} else if (!strcmp(argv[2], "read") || !strcmp(argv[2], "write")) {
		kind = *argv[2] == 'r' ? FRAME_READ : FRAME_WRITE;
		agent_string(&request, FIELD_PATH, argv[3]);
	} else if (!strcmp(argv[2], "placed")) {
		kind = FRAME_EXEC;
		agent_file(&request, argv[3], 0644, 0, 0, "placed\n", 7);
		agent_number(&request, FIELD_LIMIT, 60000);
		agent_string(&request, FIELD_ARG, "cat");
		agent_string(&request, FIELD_ARG, argv[3]);
	} else if (!strcmp(argv[2], "park")) {
		kind = FRAME_PARK;
	}
	status = show(agent_call(fd, kind, &request, &files, &answer), &answer);
	if (kind == FRAME_STATUS)
		printf("%u %u %u\n", answer.state.workload, answer.state.served, answer.state.waiting);
	agent_close(fd);
	agent_request_end(&request);
	return status;
}
