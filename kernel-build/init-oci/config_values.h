/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the parser share: config.c takes lines apart, config_values.c their values, and config_lists.c
 * keeps the values of keys that may be there several times.
 */
#ifndef CONFIG_VALUES_H
#define CONFIG_VALUES_H

#include "config.h"

struct parser {
	struct config *config;
	const char *key;
	unsigned line;
	char *error;
	size_t room;
};

/* Checks a value and puts it where `to` points, in the parser's config. */
typedef bool take_function(struct parser *parser, char *value, void *to);

bool refuse(struct parser *parser, const char *format, ...) __attribute__((format(printf, 2, 3))); /* false */
bool add(struct parser *parser, void *array, size_t *count, const void *item, size_t size);

take_function take_text, take_any_text, take_string, take_name, take_path, take_cwd;
take_function take_env, take_yes_no, take_hold, take_on_exit, take_heartbeat, take_hostname;
take_function take_upper, take_fstype, take_size, take_inodes, take_volume, take_limit;
take_function take_setting, take_address, take_gateway, take_capability;

#endif
