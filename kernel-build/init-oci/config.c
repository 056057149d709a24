// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "config.h"

#include <string.h>

#include "config_values.h"

static const struct key {
	const char *name;
	bool many; /* may be there several times */
	take_function *take;
	size_t offset; /* of what it sets, in struct config */
} keys[] = {
#define ONCE(name, take, member) { name, false, take, offsetof(struct config, member) }
#define MANY(name, take, member) { name, true, take, offsetof(struct config, member) }
	MANY("lower", take_path, lower),
	ONCE("fstype", take_fstype, fstype),
	ONCE("upper", take_upper, upper),
	ONCE("upper_size", take_size, upper_size),
	ONCE("upper_inodes", take_inodes, upper_inodes),
	MANY("mount", take_volume, volumes),
	ONCE("shm_size", take_size, shm_size),
	MANY("mask", take_path, masks),
	ONCE("hostname", take_hostname, hostname),
	ONCE("hosts", take_any_text, hosts),
	ONCE("resolv_conf", take_any_text, resolv_conf),
	MANY("address", take_address, addresses),
	MANY("gateway", take_gateway, gateways),
	MANY("sysctl", take_setting, settings),
	MANY("rlimit", take_limit, limits),
	MANY("arg", take_string, args),
	MANY("env", take_env, env),
	ONCE("cwd", take_cwd, cwd),
	ONCE("user", take_text, user),
	MANY("group", take_name, groups),
	MANY("capability", take_capability, capabilities),
	ONCE("no_new_privs", take_yes_no, no_new_privs),
	ONCE("tty", take_yes_no, tty),
	ONCE("stdout_prefix", take_text, stdout_prefix),
	ONCE("stderr_prefix", take_text, stderr_prefix),
	ONCE("pid1", take_yes_no, pid1),
	ONCE("hold", take_hold, hold),
	ONCE("on_exit", take_on_exit, idle),
	ONCE("heartbeat", take_heartbeat, heartbeat_ms),
#undef ONCE
#undef MANY
};

#define KEYS (sizeof keys / sizeof *keys)

/* In place: "\\" and "\n". False for any other escape. */
static bool unescape(char *value)
{
	char *to = value;

	for (const char *from = value; *from; from++) {
		if (*from != '\\') {
			*to++ = *from;
			continue;
		}
		from++;
		if (*from != 'n' && *from != '\\')
			return false;
		*to++ = *from == 'n' ? '\n' : '\\';
	}
	*to = '\0';
	return true;
}

static bool parse_line(struct parser *parser, char *line, bool *seen)
{
	char *value = strchr(line, '=');

	if (line[strlen(line) - 1] == '\r')
		return refuse(parser, "the line ends with CR LF, expected LF alone");
	if (!value)
		return refuse(parser, "expected key=value, found \"%s\"", line);
	*value++ = '\0';
	if (!unescape(value))
		return refuse(parser, "a backslash is followed by n or another backslash");
	for (size_t i = 0; i < KEYS; i++) {
		if (strcmp(line, keys[i].name))
			continue;
		if (seen[i] && !keys[i].many)
			return refuse(parser, "%s is there twice", line);
		seen[i] = true;
		parser->key = keys[i].name;
		return keys[i].take(parser, value, (char *)parser->config + keys[i].offset);
	}
	return refuse(parser, "unknown key \"%s\"", line);
}

const char *config_find_env(const struct config *config, const char *name)
{
	size_t length = strlen(name);

	for (size_t i = 0; i < config->env.count; i++)
		if (!strncmp(config->env.items[i], name, length) && config->env.items[i][length] == '=')
			return config->env.items[i] + length + 1;
	return NULL;
}

/* What no single line can tell, and the defaults. */
static bool complete(struct parser *parser)
{
	static char path[] = "PATH=" DEFAULT_PATH;
	struct config *config = parser->config;

	parser->line = 0;
	if (!config->lower.count)
		return refuse(parser, "no lower=, the image's block device or folder");
	if (!config->args.count)
		return refuse(parser, "no arg=, the entrypoint and its arguments");
	if (config->upper && (config->upper_size || config->upper_inodes))
		return refuse(parser, "upper_size and upper_inodes are for a tmpfs, and upper is %s", config->upper);
	if (config->tty && (config->stdout_prefix || config->stderr_prefix))
		return refuse(parser, "stdout_prefix and stderr_prefix cannot be had with tty=yes");
	if (!config->cwd)
		config->cwd = "/";
	if (!config_find_env(config, "PATH") && !config_append(&config->env, path))
		return refuse(parser, "no memory");
	return true;
}

bool config_parse(char *text, size_t size, struct config *config, char *error, size_t room)
{
	struct parser parser = { .config = config, .error = error, .room = room };
	bool seen[KEYS] = { false };
	char *line;

	if (size > CONFIG_LIMIT)
		return refuse(&parser, "more than %d bytes", CONFIG_LIMIT);
	if (strlen(text) != size)
		return refuse(&parser, "holds a NUL byte");
	while ((line = strsep(&text, "\n"))) {
		parser.line++;
		if (*line && *line != '#' && !parse_line(&parser, line, seen))
			return false;
	}
	return complete(&parser);
}
