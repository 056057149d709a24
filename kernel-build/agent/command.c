// SPDX-License-Identifier: Apache-2.0
/*
 * The payload of FRAME_EXEC: u32 argc, u32 envc, then argc + envc + 1 strings,
 * each ended by a NUL byte: arguments, environment, working directory.
 */
#include "agent.h"

#include <stdlib.h>
#include <string.h>

static bool add(uint8_t *to, size_t room, size_t *size, const char *string)
{
	size_t length = strlen(string) + 1;

	if (length > room - *size)
		return false;
	memcpy(to + *size, string, length);
	*size += length;
	return true;
}

/* Bytes written, or -1 if there is not enough room. */
ssize_t command_pack(const struct command *command, uint8_t *to, size_t room)
{
	size_t size = 8;

	put_u32(to, command->argc);
	put_u32(to + 4, command->envc);
	for (uint32_t i = 0; i < command->argc; i++)
		if (!add(to, room, &size, command->argv[i]))
			return -1;
	for (uint32_t i = 0; i < command->envc; i++)
		if (!add(to, room, &size, command->env[i]))
			return -1;
	return add(to, room, &size, command->cwd) ? (ssize_t)size : -1;
}

bool command_unpack(const uint8_t *from, size_t size, struct command *command)
{
	const uint8_t *end = from + size;
	uint64_t strings;
	char **list;

	if (size < 8)
		return false;
	command->argc = get_u32(from);
	command->envc = get_u32(from + 4);
	from += 8;
	strings = (uint64_t)command->argc + command->envc + 1;
	/* Each takes a byte at least: no count can ask for more memory than the frame stands for. */
	if (!command->argc || strings > (size_t)(end - from) || end[-1])
		return false;
	list = calloc(strings + 1, sizeof *list);
	if (!list)
		return false;
	command->argv = list;
	command->env = list + command->argc + 1;
	for (uint64_t i = 0; i < strings; i++) {
		char *string = (char *)from;

		if (from == end) {
			free(list);
			return false;
		}
		if (i < command->argc)
			command->argv[i] = string;
		else if (i < strings - 1)
			command->env[i - command->argc] = string;
		else
			command->cwd = string;
		from += strlen(string) + 1;
	}
	if (from == end && *command->argv[0])
		return true;
	free(list);
	return false;
}
