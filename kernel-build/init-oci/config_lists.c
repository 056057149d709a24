// SPDX-License-Identifier: Apache-2.0
/* Lists that grow line by line. */
#define _GNU_SOURCE
#include "config_values.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more element in an array that grows by doubling. */
static void *grow(void *array, size_t count, size_t size)
{
	if (count & (count - 1))
		return array;
	return reallocarray(array, count ? 2 * count : 1, size);
}

/* Adds a copy of the item, `size` bytes, to the array that `array` points to. */
bool add(struct parser *parser, void *array, size_t *count, const void *item, size_t size)
{
	char *items;

	memcpy(&items, array, sizeof items);
	items = grow(items, *count, size);
	if (!items)
		return refuse(parser, "no memory");
	memcpy(items + size * (*count)++, item, size);
	memcpy(array, &items, sizeof items);
	return true;
}

bool config_append(struct strings *strings, char *item)
{
	/* the NULL at the end is counted too */
	char **longer = grow(strings->items, strings->count + 1, sizeof *longer);

	if (!longer)
		return false;
	strings->items = longer;
	longer[strings->count++] = item;
	longer[strings->count] = NULL;
	return true;
}
