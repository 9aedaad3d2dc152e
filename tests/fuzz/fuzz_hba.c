/* SPDX-License-Identifier: PostgreSQL */
/*
 * pg_hba.conf, pg_ident.conf and the users file from any bytes.  The first byte chooses the file.
 * What a file may name (other files) is kept out, and repetition counts of regular expressions are
 * as well: the C library's compiler takes any memory for them.
 */
#include "auth/hba.h"
#include "auth/ident.h"
#include "auth/userlist.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void use_hba(const struct hba *hba)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(0x0a000001)}};
	struct hba_request request = {(const struct sockaddr *)&in, true, false, "db", "user"};
	struct sbuf out;
	char address[64];
	char mask[64];

	(void)hba_match(hba, &request);
	request.physical_replication = true;
	(void)hba_match(hba, &request);
	sbuf_init(&out, 1 << 20);
	for (size_t i = 0; i < hba_count(hba); i++) {
		hba_format_address(hba_rule_at(hba, i), address, mask);
		hba_format_options(hba_rule_at(hba, i), &out);
		field_format(&hba_rule_at(hba, i)->users, &out);
	}
	sbuf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;
	struct sbuf errors;
	bool passed_over = false; /* wrong lines are told, but do no harm */
	bool good;

	if (size < 1 || size > 2000 || memchr(data, '@', size) != NULL ||
	    memchr(data, '{', size) != NULL || memmem(data, size, "include", 7) != NULL)
		return 0;
	sbuf_init(&errors, TOKENS_ERRORS_MAX);
	if (data[0] % 3 == 0) {
		struct hba *hba;

		passed_over = (data[0] & 1) != 0;
		hba = hba_parse("hba", text, size - 1, passed_over, &errors);
		good = hba != NULL;
		if (good)
			use_hba(hba);
		hba_unref(hba);
	} else if (data[0] % 3 == 1) {
		struct ident *ident = ident_parse("ident", text, size - 1, &errors);

		good = ident != NULL;
		(void)ident_allows(ident, "m", "system", "user");
		ident_unref(ident);
	} else {
		struct userlist *list = userlist_parse("users", text, size - 1, NULL, false, &errors);

		good = list != NULL;
		if (good)
			(void)userlist_find(list, "user");
		userlist_unref(list);
	}
	require((passed_over && good) || good == (errors.len == 0));
	sbuf_free(&errors);
	return 0;
}
