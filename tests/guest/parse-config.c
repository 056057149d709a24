// SPDX-License-Identifier: Apache-2.0
/*
 * init-oci's parser on this machine: as a fuzzer's target, and with a main of its own, which parses files and
 * says of each, in a line, what was found: "good", or the error.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

#define MUST(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "not so: " #condition "\n"); \
			abort(); \
		} \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *name_of(const char *variable)
{
	static char name[CONFIG_LIMIT];

	snprintf(name, sizeof name, "%.*s", (int)strcspn(variable, "="), variable);
	return name;
}

/* Every string can be read to its end, every list ends as it should, and no variable is there twice. */
static void check_contents(const struct config *config)
{
	const struct strings *lists[] = { &config->lower, &config->args, &config->env, &config->masks,
					  &config->groups };
	size_t sum = 0;

	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
		for (size_t j = 0; j < lists[i]->count; j++)
			sum += strlen(lists[i]->items[j]);
		MUST(!lists[i]->items || !lists[i]->items[lists[i]->count]);
	}
	for (size_t i = 0; i < config->env.count; i++)
		MUST(config_find_env(config, name_of(config->env.items[i])) == strchr(config->env.items[i], '=') + 1);
	for (size_t i = 0; i < config->volume_count; i++) {
		sum += strlen(config->volumes[i].source) + strlen(config->volumes[i].path);
		MUST(*config->volumes[i].source && *config->volumes[i].path == '/');
	}
	for (size_t i = 0; i < config->setting_count; i++) {
		sum += strlen(config->settings[i].name) + strlen(config->settings[i].value);
		MUST(*config->settings[i].name != '/' && *config->settings[i].name != '.');
		MUST(!strstr(config->settings[i].name, "/."));
	}
	for (size_t i = 0; i < config->address_count; i++) {
		sum += strlen(config->addresses[i].device);
		MUST(config->addresses[i].prefix <= 128 && *config->addresses[i].device);
	}
	for (size_t i = 0; i < config->limit_count; i++)
		MUST(config->limits[i].value.rlim_cur <= config->limits[i].value.rlim_max);
	MUST(sum <= CONFIG_LIMIT + sizeof "PATH=" DEFAULT_PATH);
}

static void check_error(const char *error)
{
	MUST(!strncmp(error, CONFIG_FILE ":", sizeof CONFIG_FILE));
	for (; *error; error++)
		MUST((unsigned char)*error >= ' ' && *error != 0x7f);
}

static void release(struct config *config)
{
	free(config->lower.items);
	free(config->args.items);
	free(config->env.items);
	free(config->masks.items);
	free(config->groups.items);
	free(config->volumes);
	free(config->limits);
	free(config->settings);
	free(config->addresses);
	free(config->gateways);
}

static bool parse(const uint8_t *data, size_t size, char *error, size_t room)
{
	struct config config = { 0 };
	char *text = malloc(size + 1); /* of this very size, so that a step beyond is seen */
	bool good;

	MUST(text);
	if (size)
		memcpy(text, data, size);
	text[size] = '\0';
	*error = '\0';
	good = config_parse(text, size, &config, error, room);
	if (good)
		MUST(!*error && config.lower.count && config.args.count && *config.cwd == '/');
	else
		check_error(error);
	check_contents(&config);
	release(&config);
	free(text);
	return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char error[128]; /* little room, so that it is used up */

	parse(data, size, error, sizeof error);
	return 0;
}

#ifndef FUZZER
int main(int argc, char **argv)
{
	static uint8_t data[CONFIG_LIMIT + 2];
	char error[512];

	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");
		size_t size;

		MUST(file);
		size = fread(data, 1, sizeof data, file);
		fclose(file);
		LLVMFuzzerTestOneInput(data, size);
		puts(parse(data, size, error, sizeof error) ? "good" : error);
	}
	return 0;
}
#endif
