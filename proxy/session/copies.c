/* SPDX-License-Identifier: PostgreSQL */
#include "session/copies.h"

#include "wire/build.h"
#include "wire/message.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Most data in one message. */
#define MESSAGE_DATA ((size_t)64 * 1024)

struct stream {
	struct sbuf data;
	EVP_MD_CTX *hash;
	uint64_t rows;
};

struct copies {
	struct copies_bound bound;
	bool keep;
	size_t bytes;
	const char *failure;
	size_t count;
	struct stream streams[];
};

struct copies *copies_new(size_t count, const struct copies_bound *bound)
{
	struct copies *copies = calloc(1, sizeof(*copies) + count * sizeof(copies->streams[0]));
	size_t i;

	if (copies == NULL)
		return NULL;
	copies->count = count;
	copies->keep = bound != NULL;
	if (bound != NULL)
		copies->bound = *bound;
	for (i = 0; i < count; i++) {
		struct stream *stream = &copies->streams[i];

		sbuf_init(&stream->data, copies->bound.most);
		stream->hash = EVP_MD_CTX_new();
		if (stream->hash == NULL ||
		    EVP_DigestInit_ex(stream->hash, EVP_sha256(), NULL) != 1) {
			copies_free(copies);
			return NULL;
		}
	}
	return copies;
}

void copies_free(struct copies *copies)
{
	size_t i;

	if (copies == NULL)
		return;
	if (copies->bound.used != NULL)
		atomic_fetch_sub_explicit(copies->bound.used, copies->bytes, memory_order_relaxed);
	for (i = 0; i < copies->count; i++) {
		sbuf_free(&copies->streams[i].data);
		EVP_MD_CTX_free(copies->streams[i].hash);
	}
	free(copies);
}

size_t copies_count(const struct copies *copies)
{
	return copies->count;
}

size_t copies_bytes(const struct copies *copies)
{
	return copies->bytes;
}

static void copies_fail(struct copies *copies, const char *failure)
{
	size_t i;

	copies->failure = failure;
	if (copies->bound.used != NULL)
		atomic_fetch_sub_explicit(copies->bound.used, copies->bytes, memory_order_relaxed);
	copies->bytes = 0;
	for (i = 0; i < copies->count; i++)
		sbuf_free(&copies->streams[i].data);
}

void copies_too_long(struct copies *copies)
{
	if (copies->failure == NULL)
		copies_fail(copies, "more than may be carried");
}

static void copies_keep(struct copies *copies, struct stream *stream, const void *body, size_t len)
{
	size_t used;

	if (len > copies->bound.most - copies->bytes) {
		copies_too_long(copies);
		return;
	}
	copies->bytes += len;
	if (copies->bound.used != NULL) {
		used = atomic_fetch_add_explicit(copies->bound.used, len, memory_order_relaxed);
		if (used + len > copies->bound.most_used) {
			copies_fail(copies, "no room for it among what is carried of all sessions");
			return;
		}
	}
	sbuf_add(&stream->data, body, len);
	if (!sbuf_ok(&stream->data))
		copies_fail(copies, "out of memory");
}

void copies_take(struct copies *copies, size_t i, uint8_t type, const void *body, size_t len)
{
	static const char tag[] = "COPY ";
	struct stream *stream;

	if (i >= copies->count || copies->failure != NULL)
		return;
	stream = &copies->streams[i];
	if (type == BE_COPY_DATA || type == BE_DATA_ROW) {
		stream->rows += type == BE_DATA_ROW;
		if (EVP_DigestUpdate(stream->hash, body, len) != 1)
			copies_fail(copies, "out of memory");
		else if (copies->keep)
			copies_keep(copies, stream, body, len);
	} else if (type == BE_COMMAND_COMPLETE && len > sizeof(tag) &&
	           memcmp(body, tag, sizeof(tag) - 1) == 0 && memchr(body, '\0', len) != NULL) {
		stream->rows = strtoull((const char *)body + sizeof(tag) - 1, NULL, 10);
	}
}

uint64_t copies_rows(const struct copies *copies, size_t i)
{
	return copies->streams[i].rows;
}

const char *copies_failure(const struct copies *copies)
{
	return copies->failure;
}

bool copies_digest(const struct copies *copies, size_t i, struct sbuf *out)
{
	EVP_MD_CTX *copy = EVP_MD_CTX_new();
	unsigned char digest[32];
	bool good = copy != NULL && EVP_MD_CTX_copy_ex(copy, copies->streams[i].hash) == 1 &&
	            EVP_DigestFinal_ex(copy, digest, NULL) == 1;
	size_t n;

	EVP_MD_CTX_free(copy);
	if (!good)
		return false;
	sbuf_printf(out, "%" PRIu64 " ", copies->streams[i].rows);
	for (n = 0; n < sizeof(digest); n++)
		sbuf_printf(out, "%02x", digest[n]);
	return sbuf_ok(out);
}

const char *copies_data(const struct copies *copies, size_t i, size_t *len)
{
	*len = copies->streams[i].data.len;
	return sbuf_text(&copies->streams[i].data);
}

size_t copies_messages(const struct copies *copies)
{
	return copies == NULL ? 0
	                      : copies->bytes + (copies->bytes / MESSAGE_DATA + 2 * copies->count) *
	                                            WIRE_HEADER_LEN;
}

void copies_add(const struct copies *copies, size_t i, struct sbuf *out)
{
	const struct sbuf *data = &copies->streams[i].data;
	size_t done = 0;

	while (done < data->len) {
		size_t n = data->len - done < MESSAGE_DATA ? data->len - done : MESSAGE_DATA;
		uint8_t head[WIRE_HEADER_LEN] = {FE_COPY_DATA};

		wire_put_be32(head + 1, (uint32_t)(n + 4));
		sbuf_add(out, head, sizeof(head));
		sbuf_add(out, data->data + done, n);
		done += n;
	}
	sbuf_add_char(out, FE_COPY_DONE);
	sbuf_add_be32(out, 4);
}
