// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "config_values.h"

#include <arpa/inet.h>
#include <limits.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "capabilities.h"

#define HOSTNAME_LIMIT 64 /* bytes: what the kernel takes */
#define HEARTBEAT_LIMIT 3600000 /* milliseconds */
#define AMOUNT_DIGITS 18 /* far beyond any memory */

bool refuse(struct parser *parser, const char *format, ...)
{
	va_list args;
	int length;

	if (parser->line)
		length = snprintf(parser->error, parser->room, CONFIG_FILE ":%u: ", parser->line);
	else
		length = snprintf(parser->error, parser->room, CONFIG_FILE ": ");
	va_start(args, format);
	if (length >= 0 && (size_t)length < parser->room)
		vsnprintf(parser->error + length, parser->room - length, format, args);
	va_end(args);
	/* what the file holds may be a line break or worse */
	for (char *at = parser->error; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	return false;
}

static bool refuse_value(struct parser *parser, const char *value, const char *expected)
{
	return refuse(parser, "%s is \"%s\", expected %s", parser->key, value, expected);
}

static bool number(const char *text, unsigned long long most, unsigned long long *value)
{
	unsigned long long parsed = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || parsed > (ULLONG_MAX - 9) / 10)
			return false;
		parsed = 10 * parsed + (*text - '0');
	}
	*value = parsed;
	return parsed <= most;
}

bool take_text(struct parser *parser, char *value, void *to)
{
	if (!*value)
		return refuse(parser, "%s is empty", parser->key);
	*(const char **)to = value;
	return true;
}

bool take_any_text(struct parser *parser, char *value, void *to)
{
	(void)parser;
	*(const char **)to = value;
	return true;
}

bool take_string(struct parser *parser, char *value, void *to)
{
	return config_append(to, value) || refuse(parser, "no memory");
}

bool take_name(struct parser *parser, char *value, void *to)
{
	if (!*value)
		return refuse(parser, "%s is empty", parser->key);
	return take_string(parser, value, to);
}

bool take_path(struct parser *parser, char *value, void *to)
{
	if (*value != '/')
		return refuse_value(parser, value, "an absolute path");
	return take_string(parser, value, to);
}

bool take_cwd(struct parser *parser, char *value, void *to)
{
	if (*value != '/')
		return refuse_value(parser, value, "an absolute path");
	return take_text(parser, value, to);
}

/* Of two values of one variable the later one counts. */
bool take_env(struct parser *parser, char *value, void *to)
{
	const struct strings *env = to;

	if (!strchr(value, '=') || *value == '=')
		return refuse(parser, "expected env=NAME=VALUE, found \"%s\"", value);
	for (size_t i = 0; i < env->count; i++)
		if (!strncmp(env->items[i], value, strchr(value, '=') + 1 - value)) {
			env->items[i] = value;
			return true;
		}
	return take_string(parser, value, to);
}

bool take_yes_no(struct parser *parser, char *value, void *to)
{
	if (strcmp(value, "yes") && strcmp(value, "no"))
		return refuse_value(parser, value, "yes or no");
	*(bool *)to = *value == 'y';
	return true;
}

bool take_hold(struct parser *parser, char *value, void *to)
{
	if (strcmp(value, "exec"))
		return refuse_value(parser, value, "exec");
	*(bool *)to = true;
	return true;
}

bool take_on_exit(struct parser *parser, char *value, void *to)
{
	if (strcmp(value, "poweroff") && strcmp(value, "idle"))
		return refuse_value(parser, value, "poweroff or idle");
	*(bool *)to = *value == 'i';
	return true;
}

bool take_heartbeat(struct parser *parser, char *value, void *to)
{
	unsigned long long parsed;

	if (!number(value, HEARTBEAT_LIMIT, &parsed) || !parsed)
		return refuse_value(parser, value, "milliseconds, from 1 to 3600000");
	*(unsigned *)to = parsed;
	return true;
}

bool take_hostname(struct parser *parser, char *value, void *to)
{
	if (strlen(value) > HOSTNAME_LIMIT || strpbrk(value, " \t\n"))
		return refuse_value(parser, value, "at most 64 bytes without a space");
	return take_text(parser, value, to);
}

bool take_upper(struct parser *parser, char *value, void *to)
{
	if (!strcmp(value, "tmpfs"))
		return true;
	if (*value != '/')
		return refuse_value(parser, value, "tmpfs or a block device");
	return take_text(parser, value, to);
}

bool take_fstype(struct parser *parser, char *value, void *to)
{
	if (strcmp(value, "squashfs") && strcmp(value, "erofs") && strcmp(value, "ext4"))
		return refuse_value(parser, value, "squashfs, erofs or ext4");
	return take_text(parser, value, to);
}

/* A number that is not 0 (which tmpfs takes for no limit at all), and one of `units` if there is one. */
static bool is_amount(const char *value, const char *units)
{
	size_t digits = strspn(value, "0123456789");

	if (!digits || digits > AMOUNT_DIGITS || strspn(value, "0") == digits)
		return false;
	return !value[digits] || (strchr(units, value[digits]) && !value[digits + 1]);
}

bool take_size(struct parser *parser, char *value, void *to)
{
	if (!is_amount(value, "kmgKMG%"))
		return refuse_value(parser, value, "a number from 1, which k, m, g or % may follow");
	return take_text(parser, value, to);
}

bool take_inodes(struct parser *parser, char *value, void *to)
{
	if (!is_amount(value, "kmgKMG"))
		return refuse_value(parser, value, "a number from 1, which k, m or g may follow");
	return take_text(parser, value, to);
}

/* SOURCE:PATH or SOURCE:PATH:OPTION,... */
bool take_volume(struct parser *parser, char *value, void *to)
{
	struct config *config = parser->config;
	struct volume volume = { .source = value };
	char *path = strchr(value, ':'), *options, *option;

	(void)to;
	if (!path || path == value || path[1] != '/' || !path[2] || path[2] == ':')
		return refuse_value(parser, value, "SOURCE:PATH or SOURCE:PATH:OPTIONS with an absolute path below /");
	*path++ = '\0';
	volume.path = path;
	options = strchr(path, ':');
	if (options)
		*options++ = '\0';
	while ((option = strsep(&options, ","))) {
		if (!strcmp(option, "ro"))
			volume.readonly = true;
		else if (!strcmp(option, "dax") && *volume.source != '/')
			volume.dax = true;
		else if (strcmp(option, "rw"))
			return refuse(parser, "mount has the option \"%s\", expected ro, rw, or dax for virtio-fs",
				      option);
	}
	return add(parser, &config->volumes, &config->volume_count, &volume, sizeof volume);
}

static bool amount_of_limit(const char *text, rlim_t *value)
{
	unsigned long long parsed = 0;

	if (!strcmp(text, "unlimited")) {
		*value = RLIM_INFINITY;
		return true;
	}
	if (!number(text, RLIM_INFINITY - 1, &parsed))
		return false;
	*value = parsed;
	return true;
}

/* NAME=SOFT or NAME=SOFT:HARD */
bool take_limit(struct parser *parser, char *value, void *to)
{
	static const struct {
		const char *name;
		int resource;
	} known[] = {
		{ "as", RLIMIT_AS },	       { "core", RLIMIT_CORE },		{ "cpu", RLIMIT_CPU },
		{ "data", RLIMIT_DATA },       { "fsize", RLIMIT_FSIZE },	{ "locks", RLIMIT_LOCKS },
		{ "memlock", RLIMIT_MEMLOCK }, { "msgqueue", RLIMIT_MSGQUEUE }, { "nice", RLIMIT_NICE },
		{ "nofile", RLIMIT_NOFILE },   { "nproc", RLIMIT_NPROC },	{ "rss", RLIMIT_RSS },
		{ "rtprio", RLIMIT_RTPRIO },   { "rttime", RLIMIT_RTTIME },	{ "sigpending", RLIMIT_SIGPENDING },
		{ "stack", RLIMIT_STACK },
	};
	struct config *config = parser->config;
	struct limit limit = { .name = value, .resource = -1 };
	char *soft = strchr(value, '='), *hard;

	(void)to;
	if (!soft)
		return refuse_value(parser, value, "NAME=SOFT or NAME=SOFT:HARD");
	*soft++ = '\0';
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (!strcmp(value, known[i].name))
			limit.resource = known[i].resource;
	if (limit.resource < 0)
		return refuse(parser, "there is no resource limit \"%s\"; one is nofile", value);
	hard = strchr(soft, ':');
	if (hard)
		*hard++ = '\0';
	if (!amount_of_limit(soft, &limit.value.rlim_cur) ||
	    !amount_of_limit(hard ? hard : soft, &limit.value.rlim_max) || limit.value.rlim_cur > limit.value.rlim_max)
		return refuse(parser, "rlimit %s: expected numbers or unlimited, the first not above the second",
			      value);
	return add(parser, &config->limits, &config->limit_count, &limit, sizeof limit);
}

/* NAME=VALUE; as for sysctl(8), the name has dots, or slashes if its first separator is one. */
bool take_setting(struct parser *parser, char *value, void *to)
{
	struct config *config = parser->config;
	struct setting setting = { .name = value };
	char *equals = strchr(value, '='), *separator;

	(void)to;
	if (!equals || equals == value)
		return refuse_value(parser, value, "NAME=VALUE");
	*equals = '\0';
	setting.value = equals + 1;
	separator = strpbrk(value, "./");
	if (separator && *separator == '.')
		for (char *at = value; *at; at++)
			*at = *at == '.' ? '/' : *at == '/' ? '.' : *at;
	if (*value == '/' || *value == '.' || strstr(value, "/.") || strstr(value, "//"))
		return refuse(parser, "sysctl \"%s\": expected a name like net.core.somaxconn", value);
	return add(parser, &config->settings, &config->setting_count, &setting, sizeof setting);
}

static bool internet_address(const char *text, struct internet_address *address)
{
	address->family = strchr(text, ':') ? AF_INET6 : AF_INET;
	return inet_pton(address->family, text, &address->bytes) == 1;
}

/* DEVICE=ADDRESS/BITS */
bool take_address(struct parser *parser, char *value, void *to)
{
	struct config *config = parser->config;
	struct device_address address = { .device = value };
	char *text = strchr(value, '='), *bits = text ? strchr(text, '/') : NULL;
	unsigned long long prefix;

	(void)to;
	if (!bits || text == value || text - value >= IFNAMSIZ)
		return refuse_value(parser, value, "DEVICE=ADDRESS/BITS");
	*text++ = '\0';
	*bits++ = '\0';
	if (!internet_address(text, &address.address))
		return refuse(parser, "address of %s: \"%s\" is no IPv4 or IPv6 address", value, text);
	if (!number(bits, address.address.family == AF_INET ? 32 : 128, &prefix))
		return refuse(parser, "address of %s: \"%s\" is no number of bits of %s", value, bits, text);
	address.prefix = prefix;
	return add(parser, &config->addresses, &config->address_count, &address, sizeof address);
}

bool take_gateway(struct parser *parser, char *value, void *to)
{
	struct config *config = parser->config;
	struct internet_address gateway = { 0 };

	(void)to;
	if (!internet_address(value, &gateway))
		return refuse_value(parser, value, "an IPv4 or IPv6 address");
	for (size_t i = 0; i < config->gateway_count; i++)
		if (config->gateways[i].family == gateway.family)
			return refuse(parser, "gateway %s is the second one for IPv%d", value,
				      gateway.family == AF_INET ? 4 : 6);
	return add(parser, &config->gateways, &config->gateway_count, &gateway, sizeof gateway);
}

bool take_capability(struct parser *parser, char *value, void *to)
{
	struct config *config = parser->config;
	int bit;

	(void)to;
	config->has_capabilities = true;
	if (!strcmp(value, "none"))
		return true;
	bit = capability_number(value);
	if (bit < 0)
		return refuse_value(parser, value, "a name like CAP_NET_ADMIN, or none");
	config->capabilities |= UINT64_C(1) << bit;
	return true;
}
