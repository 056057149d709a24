// SPDX-License-Identifier: Apache-2.0
/* Input that has come and is not yet written: never more than the window the caller was granted. */
#include "frame.h"

#include <string.h>

bool ring_put(struct ring *ring, const uint8_t *data, size_t size)
{
	if (size > AGENT_WINDOW - ring->size)
		return false;
	for (size_t i = 0; i < size;) {
		size_t to = (ring->at + ring->size) % AGENT_WINDOW;
		size_t part = size - i < AGENT_WINDOW - to ? size - i : AGENT_WINDOW - to;

		memcpy(ring->data + to, data + i, part);
		ring->size += part;
		i += part;
	}
	return true;
}

size_t ring_front(const struct ring *ring, const uint8_t **data)
{
	*data = ring->data + ring->at;
	return ring->size < AGENT_WINDOW - ring->at ? ring->size : AGENT_WINDOW - ring->at;
}

void ring_drop(struct ring *ring, size_t size)
{
	ring->at = (ring->at + size) % AGENT_WINDOW;
	ring->size -= size;
}
