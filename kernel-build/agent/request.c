// SPDX-License-Identifier: Apache-2.0
/* The fields of a request. They are gone through twice: counted, then put into lists of that length. */
#include "frame.h"

#include <stdlib.h>
#include <string.h>

#define FIELD_HEADER 8 /* u32 tag, u32 length */
#define FILE_HEADER 16 /* u32 mode, u32 uid, u32 gid, u32 length of the path */
#define MODE_MOST 07777
#define SIGNAL_MOST 64
#define ENTROPY_LEAST 32
#define SIZE_MOST 65535 /* rows and columns of a terminal */

struct field {
	uint32_t tag, size;
	const uint8_t *data;
};

/* Takes a field off the front; false: there is no whole one. */
static bool next_field(const uint8_t **from, size_t *size, struct field *field)
{
	if (*size < FIELD_HEADER)
		return false;
	field->tag = get_u32(*from);
	field->size = get_u32(*from + 4);
	field->data = *from + FIELD_HEADER;
	if (field->size > *size - FIELD_HEADER)
		return false;
	*from += FIELD_HEADER + field->size;
	*size -= FIELD_HEADER + field->size;
	return true;
}

/* Strings carry their NUL byte, and no other. */
static bool is_string(const uint8_t *data, size_t size)
{
	return size && memchr(data, '\0', size) == data + size - 1;
}

static bool is_path(const uint8_t *data, size_t size)
{
	return is_string(data, size) && *data == '/';
}

struct lists {
	uint32_t args, commands, env, groups, files;
};

static const char *count_fields(const struct frame *frame, struct lists *lists)
{
	const uint8_t *from = frame->data;
	size_t size = frame->size;
	struct field field;
	uint32_t here = 0; /* arguments of the present command */

	while (size) {
		if (!next_field(&from, &size, &field))
			return "a field is cut off";
		switch (field.tag) {
		case FIELD_ARG:
			lists->commands += !here++;
			lists->args++;
			break;
		case FIELD_NEXT:
			if (!here)
				return "NEXT comes before a command";
			here = 0;
			break;
		case FIELD_ENV:
			lists->env++;
			break;
		case FIELD_GROUP:
			lists->groups++;
			break;
		case FIELD_FILE:
			lists->files++;
			break;
		}
	}
	if (frame->kind == FRAME_EXEC && !here)
		return lists->commands ? "no command follows NEXT" : "there is no ARG";
	return lists->commands > COMMANDS_LIMIT ? "there are more than 1024 commands" : NULL;
}

static bool make_lists(const struct lists *lists, struct request *request)
{
	/* One list holds the arguments of all commands, each command's with its NULL. */
	char **args = calloc((size_t)lists->args + lists->commands + 1, sizeof *args);

	request->commands = calloc((size_t)lists->commands + 1, sizeof *request->commands);
	request->env = calloc((size_t)lists->env + 1, sizeof *request->env);
	request->groups = calloc((size_t)lists->groups + 1, sizeof *request->groups);
	request->files = calloc((size_t)lists->files + 1, sizeof *request->files);
	if (!args || !request->commands) {
		free(args);
		return false;
	}
	request->commands[0].argv = args;
	return request->env && request->groups && request->files;
}

static const char *take_file(const struct field *field, struct put_file *file)
{
	uint32_t length;

	if (field->size < FILE_HEADER)
		return "FILE is too short";
	file->mode = get_u32(field->data);
	file->uid = get_u32(field->data + 4);
	file->gid = get_u32(field->data + 8);
	length = get_u32(field->data + 12);
	if (file->mode > MODE_MOST)
		return "FILE has a mode above 07777";
	if (length > field->size - FILE_HEADER || !is_path(field->data + FILE_HEADER, length))
		return "FILE has no absolute path";
	file->path = (const char *)field->data + FILE_HEADER;
	file->content = field->data + FILE_HEADER + length;
	file->size = field->size - FILE_HEADER - length;
	return NULL;
}

/* Where the argument goes: `*slot` leads through the one list of all commands. */
static const char *take_argument(const struct field *field, struct request *request, char ***slot, bool *fresh)
{
	char *string = (char *)field->data;

	if (!is_string(field->data, field->size))
		return "ARG is no string";
	if (*fresh) {
		if (!*string)
			return "a command's first ARG is empty";
		if (request->command_count)
			++*slot; /* past the NULL of the one before */
		request->commands[request->command_count++].argv = *slot;
		*fresh = false;
	}
	*(*slot)++ = string;
	return NULL;
}

static const char *take_number(const struct field *field, uint32_t least, uint32_t most, uint32_t *number)
{
	if (field->size != 4)
		return "a number is not of 4 bytes";
	*number = get_u32(field->data);
	return *number < least || *number > most ? "a number is out of its range" : NULL;
}

static const char *take_pair(const struct field *field, uint32_t most, uint32_t *first, uint32_t *second)
{
	if (field->size != 8)
		return "a pair of numbers is not of 8 bytes";
	*first = get_u32(field->data);
	*second = get_u32(field->data + 4);
	return *first > most || *second > most ? "a number is out of its range" : NULL;
}

static const char *take_string(const struct field *field, const char **string)
{
	if (!is_string(field->data, field->size))
		return "a string does not end with its only NUL byte";
	*string = (const char *)field->data;
	return NULL;
}

static const char *take_path(const struct field *field, const char **path)
{
	*path = (const char *)field->data;
	return is_path(field->data, field->size) ? NULL : "a path is not absolute";
}

static const char *take_exec_field(const struct field *field, struct request *request, char ***slot, bool *fresh)
{
	const char *string = NULL, *wrong;
	uint32_t rule;

	switch (field->tag) {
	case FIELD_ARG:
		return take_argument(field, request, slot, fresh);
	case FIELD_NEXT:
		wrong = take_number(field, 0, 1, &rule);
		request->commands[request->command_count].always = rule == 1;
		*fresh = true;
		return wrong;
	case FIELD_ENV:
		wrong = take_string(field, &string);
		if (!wrong && (!strchr(string, '=') || *string == '='))
			return "ENV is not NAME=VALUE";
		request->env[request->env_count++] = (char *)string;
		return wrong;
	case FIELD_ENV_ALONE:
		request->env_alone = true;
		return field->size ? "ENV_ALONE has content" : NULL;
	case FIELD_CWD:
		return take_path(field, &request->cwd);
	case FIELD_USER:
		return take_string(field, &request->user);
	case FIELD_GROUP:
		wrong = take_string(field, &string);
		request->groups[request->group_count++] = (char *)string;
		return wrong;
	case FIELD_TTY:
		request->tty = true;
		return take_pair(field, SIZE_MOST, &request->rows, &request->columns);
	case FIELD_LIMIT:
		return take_number(field, 1, INT32_MAX, &request->limit_ms);
	case FIELD_FILE:
		return take_file(field, &request->files[request->file_count++]);
	default:
		return "EXEC has a field that is unknown here";
	}
}

static const char *take_machine_id(const struct field *field, const char **id)
{
	const char *wrong = take_string(field, id);

	if (wrong || !**id)
		return wrong;
	return strlen(*id) == 32 && strspn(*id, "0123456789abcdef") == 32 ? NULL
									  : "MACHINE_ID is not 32 hexadecimal digits";
}

static const char *take_other_field(uint32_t kind, const struct field *field, struct request *request)
{
	bool file = kind == FRAME_READ || kind == FRAME_WRITE, restored = kind == FRAME_RESTORED;

	if (file && field->tag == FIELD_PATH)
		return take_path(field, &request->path);
	if (kind == FRAME_WRITE && field->tag == FIELD_MODE)
		return take_number(field, 0, MODE_MOST, &request->mode);
	if (kind == FRAME_WRITE && field->tag == FIELD_OWNER)
		return take_pair(field, UINT32_MAX, &request->uid, &request->gid);
	if (kind == FRAME_SIGNAL && field->tag == FIELD_NOTICE_SIGNAL)
		return take_number(field, 1, SIGNAL_MOST, &request->notice_signal);
	if (!restored)
		return "a field is unknown here";
	switch (field->tag) {
	case FIELD_ENTROPY:
		request->entropy = field->data;
		request->entropy_size = field->size;
		return field->size < ENTROPY_LEAST ? "ENTROPY has less than 32 bytes" : NULL;
	case FIELD_CLOCK:
		request->ask_clock = true;
		return field->size ? "CLOCK has content" : NULL;
	case FIELD_HOSTNAME:
		return take_string(field, &request->hostname);
	case FIELD_MACHINE_ID:
		return take_machine_id(field, &request->machine_id);
	case FIELD_NOTICE_SIGNAL:
		return take_number(field, 1, SIGNAL_MOST, &request->notice_signal);
	case FIELD_NOTICE_FILE:
		return take_path(field, &request->notice_file);
	default:
		return "RESTORED has a field that is unknown here";
	}
}

static const char *what_lacks(uint32_t kind, const struct request *request)
{
	if ((kind == FRAME_READ || kind == FRAME_WRITE) && !request->path)
		return "there is no PATH";
	if (kind == FRAME_SIGNAL && !request->notice_signal)
		return "there is no signal";
	if (kind == FRAME_RESTORED && !request->entropy)
		return "there is no ENTROPY";
	return NULL;
}

const char *request_parse(const struct frame *frame, struct request *request)
{
	const uint8_t *from = frame->data;
	size_t size = frame->size;
	struct lists lists = { 0 };
	struct field field;
	bool fresh = true; /* the next argument is a command's first */
	const char *wrong;
	char **slot;

	memset(request, 0, sizeof *request);
	request->mode = 0644;
	wrong = count_fields(frame, &lists);
	if (wrong)
		return wrong;
	if (!make_lists(&lists, request)) {
		request_free(request);
		return "there is no memory for it";
	}
	slot = request->commands[0].argv;
	while (!wrong && next_field(&from, &size, &field))
		wrong = frame->kind == FRAME_EXEC ? take_exec_field(&field, request, &slot, &fresh)
						  : take_other_field(frame->kind, &field, request);
	if (!wrong)
		wrong = what_lacks(frame->kind, request);
	if (wrong)
		request_free(request);
	return wrong;
}

void request_free(struct request *request)
{
	if (request->commands)
		free(request->commands[0].argv);
	free(request->commands);
	free(request->env);
	free(request->groups);
	free(request->files);
	memset(request, 0, sizeof *request);
}
