/* SPDX-License-Identifier: PostgreSQL */
/*
 * Matching, in the order and by the comparisons of PostgreSQL's check_hba().
 */
#include "auth/hba.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hba *hba_ref(struct hba *hba)
{
	if (hba != NULL)
		atomic_fetch_add_explicit(&hba->refs, 1, memory_order_relaxed);
	return hba;
}

void hba_rule_free(struct hba_rule *rule)
{
	field_free(&rule->databases);
	field_free(&rule->users);
	free(rule->map);
	auth_ldap_unref(rule->ldap);
}

void hba_unref(struct hba *hba)
{
	if (hba == NULL || atomic_fetch_sub_explicit(&hba->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < hba->count; i++)
		hba_rule_free(&hba->rules[i]);
	for (size_t i = 0; i < hba->file_count; i++)
		free(hba->files[i]);
	free(hba->rules);
	free(hba->files);
	free(hba);
}

size_t hba_count(const struct hba *hba)
{
	return hba->count;
}

const struct hba_rule *hba_rule_at(const struct hba *hba, size_t index)
{
	return &hba->rules[index];
}

/* ---- addresses ---- */

/* The bytes of an internet address; an IPv4 address that came in by an IPv6 socket is IPv4. */
static int address_bytes(const struct sockaddr *name, uint8_t bytes[16])
{
	if (name->sa_family == AF_INET) {
		struct sockaddr_in in;

		memcpy(&in, name, sizeof(in));
		memcpy(bytes, &in.sin_addr, 4);
		return AF_INET;
	}
	if (name->sa_family == AF_INET6) {
		struct sockaddr_in6 in6;

		memcpy(&in6, name, sizeof(in6));
		if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
			memcpy(bytes, in6.sin6_addr.s6_addr + 12, 4);
			return AF_INET;
		}
		memcpy(bytes, &in6.sin6_addr, 16);
		return AF_INET6;
	}
	return AF_UNSPEC;
}

static bool address_in(int family, const uint8_t *peer, const uint8_t *addr, const uint8_t *mask)
{
	const size_t len = family == AF_INET ? 4 : 16;

	for (size_t i = 0; i < len; i++) {
		if (((peer[i] ^ addr[i]) & mask[i]) != 0)
			return false;
	}
	return true;
}

/* An address of this machine, or in a net that it is in. */
static bool address_is_ours(int family, const uint8_t *peer, bool net)
{
	static const uint8_t host_mask[16] = {255, 255, 255, 255, 255, 255, 255, 255,
	                                      255, 255, 255, 255, 255, 255, 255, 255};
	struct ifaddrs *list;
	bool found = false;

	if (getifaddrs(&list) != 0)
		return false;
	for (const struct ifaddrs *at = list; at != NULL && !found; at = at->ifa_next) {
		uint8_t addr[16];
		uint8_t mask[16];

		if (at->ifa_addr == NULL || address_bytes(at->ifa_addr, addr) != family)
			continue;
		memcpy(mask, host_mask, sizeof(mask));
		if (net &&
		    (at->ifa_netmask == NULL || address_bytes(at->ifa_netmask, mask) != family))
			continue;
		found = address_in(family, peer, addr, mask);
	}
	freeifaddrs(list);
	return found;
}

static bool rule_fits_address(const struct hba_rule *rule, const struct sockaddr *peer)
{
	uint8_t bytes[16] = {0};
	int family;

	if (rule->address == HBA_ADDRESS_ALL)
		return true;
	family = address_bytes(peer, bytes);
	if (family == AF_UNSPEC)
		return false;
	if (rule->address == HBA_ADDRESS_MASK)
		return family == rule->family && address_in(family, bytes, rule->addr, rule->mask);
	return address_is_ours(family, bytes, rule->address == HBA_ADDRESS_SAMENET);
}

static bool rule_fits_connection(const struct hba_rule *rule, const struct hba_request *request)
{
	if (request->peer->sa_family == AF_UNIX)
		return rule->conn == HBA_LOCAL;
	switch (rule->conn) {
	case HBA_HOST:
	case HBA_HOSTNOGSSENC:
		break;
	case HBA_HOSTSSL:
		if (!request->tls)
			return false;
		break;
	case HBA_HOSTNOSSL:
		if (request->tls)
			return false;
		break;
	default:
		return false;
	}
	return rule_fits_address(rule, request->peer);
}

/* ---- names ---- */

static bool fits_database(const struct field *field, const struct hba_request *request)
{
	for (size_t i = 0; i < field->count; i++) {
		const struct token *token = &field->tokens[i];

		if (request->physical_replication) {
			if (token_is_keyword(token, "replication"))
				return true;
		} else if (token_is_keyword(token, "all")) {
			return true;
		} else if (token_is_keyword(token, "sameuser")) {
			if (strcmp(request->database, request->user) == 0)
				return true;
		} else if (!token_is_keyword(token, "replication") &&
		           token_matches(token, request->database)) {
			return true;
		}
	}
	return false;
}

static bool fits_user(const struct field *field, const char *user)
{
	for (size_t i = 0; i < field->count; i++) {
		if (token_is_keyword(&field->tokens[i], "all") ||
		    token_matches(&field->tokens[i], user))
			return true;
	}
	return false;
}

const struct hba_rule *hba_match(const struct hba *hba, const struct hba_request *request)
{
	for (size_t i = 0; i < hba->count; i++) {
		const struct hba_rule *rule = &hba->rules[i];

		if (rule_fits_connection(rule, request) &&
		    fits_database(&rule->databases, request) &&
		    fits_user(&rule->users, request->user))
			return rule;
	}
	return NULL;
}

/* ---- for SHOW ---- */

void hba_format_address(const struct hba_rule *rule, char address[64], char mask[64])
{
	address[0] = '\0';
	mask[0] = '\0';
	if (rule->conn == HBA_LOCAL)
		return;
	switch (rule->address) {
	case HBA_ADDRESS_ALL:
		(void)snprintf(address, 64, "all");
		break;
	case HBA_ADDRESS_SAMEHOST:
		(void)snprintf(address, 64, "samehost");
		break;
	case HBA_ADDRESS_SAMENET:
		(void)snprintf(address, 64, "samenet");
		break;
	case HBA_ADDRESS_MASK:
		(void)inet_ntop(rule->family, rule->addr, address, 64);
		(void)inet_ntop(rule->family, rule->mask, mask, 64);
		break;
	}
}

void hba_format_options(const struct hba_rule *rule, struct sbuf *out)
{
	const char *sep = "";

	if (rule->map != NULL) {
		sbuf_printf(out, "map=%s", rule->map);
		sep = ",";
	}
	if (rule->clientcert != HBA_CERT_OFF) {
		sbuf_printf(out, "%sclientcert=%s", sep,
		            rule->clientcert == HBA_CERT_VERIFY_CA ? "verify-ca" : "verify-full");
		sep = ",";
	}
	if (rule->clientname_dn) {
		sbuf_printf(out, "%sclientname=DN", sep);
		sep = ",";
	}
	if (rule->ldap != NULL) {
		sbuf_add_str(out, sep);
		auth_ldap_format(rule->ldap, out);
	}
}
