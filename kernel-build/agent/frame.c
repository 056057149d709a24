// SPDX-License-Identifier: Apache-2.0
/* Frames, HELLO and the records of EXIT. */
#include "frame.h"

enum parsed frame_parse(const uint8_t *from, size_t size, uint32_t limit, struct frame *frame)
{
	if (size < FRAME_HEADER)
		return PARSED_PARTLY;
	frame->size = get_u32(from);
	frame->kind = get_u32(from + 4);
	frame->data = from + FRAME_HEADER;
	if (frame->size > limit)
		return PARSED_WRONGLY;
	return size - FRAME_HEADER >= frame->size ? PARSED : PARSED_PARTLY;
}

void hello_pack(const struct hello *hello, uint8_t payload[HELLO_SIZE])
{
	put_u32(payload, hello->version);
	put_u32(payload + 4, hello->oldest);
	put_u64(payload + 8, hello->capabilities);
	put_u32(payload + 16, hello->window);
}

bool hello_parse(const struct frame *frame, struct hello *hello)
{
	if (frame->kind != FRAME_HELLO || frame->size < HELLO_SIZE || frame->size > HELLO_LIMIT)
		return false;
	hello->version = get_u32(frame->data);
	hello->oldest = get_u32(frame->data + 4);
	hello->capabilities = get_u64(frame->data + 8);
	hello->window = get_u32(frame->data + 16);
	return hello->oldest <= hello->version && hello->window >= WINDOW_LEAST && hello->window <= WINDOW_MOST;
}

enum parsed opening_parse(const uint8_t *from, size_t size, struct hello *hello, struct frame *request, size_t *at)
{
	enum parsed parsed;
	struct frame first;

	*at = 0;
	if (size >= FRAME_HEADER && get_u32(from + 4) == FRAME_V1_EXEC) {
		request->kind = FRAME_V1_EXEC;
		return PARSED;
	}
	parsed = frame_parse(from, size, HELLO_LIMIT, &first);
	if (size >= FRAME_HEADER && first.kind != FRAME_HELLO)
		return PARSED_WRONGLY;
	if (parsed != PARSED)
		return parsed;
	if (!hello_parse(&first, hello))
		return PARSED_WRONGLY;
	*at = FRAME_HEADER + first.size;
	if (size - *at < FRAME_HEADER)
		return PARSED_PARTLY;
	/* Whether it is whole is no part of the opening: an EXEC is read by whoever serves it. */
	return frame_parse(from + *at, size - *at, FRAME_LIMIT, request) == PARSED_WRONGLY ? PARSED_WRONGLY : PARSED;
}

void outcome_pack(const struct outcome *outcome, uint8_t record[EXIT_RECORD])
{
	put_u32(record, outcome->kind);
	put_u32(record + 4, outcome->value);
	put_u32(record + 8, outcome->timed_out);
	put_u32(record + 12, outcome->peak_kib);
	put_u64(record + 16, outcome->duration_us);
	put_u64(record + 24, outcome->user_us);
	put_u64(record + 32, outcome->system_us);
}
