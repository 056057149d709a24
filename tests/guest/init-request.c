// SPDX-License-Identifier: Apache-2.0
/*
 * Stands in for the agent: without arguments it becomes a shell that runs /agent.sh, with what init-oci gave it.
 * init-request WHAT NUMBER, which that shell can call, sends one request to init-oci and prints the answer:
 * error, state, kind, value, pid.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *number = getenv("SUPERMACHINE_INIT");
	uint32_t request[2] = { 0 }, answer[6] = { 0 };
	int size = 0, socket;

	if (argc == 1)
		execl("/bin/sh", "sh", "/agent.sh", NULL);
	if (argc != 3 || !number)
		return 2;
	socket = atoi(number);
	for (int i = 0; i < 2; i++)
		request[i] = (uint32_t)strtoul(argv[i + 1], NULL, 0);
	if (send(socket, request, sizeof request, 0) == sizeof request)
		size = (int)recv(socket, answer, sizeof answer, 0);
	if (size != 20)
		return 1;
	printf("%u %u %u %u %u\n", answer[0], answer[1], answer[2], answer[3], answer[4]);
	return 0;
}
