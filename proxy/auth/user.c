/* SPDX-License-Identifier: PostgreSQL */
#include "auth/user.h"

#include "auth/crypto.h"
#include "auth/md5.h"
#include "base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Servers of one user that differ in salt: one for each independent PostgreSQL cluster. */
#define USER_CACHE_LEN 4

struct cached_keys {
	uint32_t iterations; /* 0: not used */
	size_t salt_len;
	uint8_t salt[SCRAM_SALT_MAX];
	struct scram_keys keys;
};

struct auth_user {
	atomic_uint refs;
	char *name;
	char *secret;
	enum auth_secret_kind kind;

	pthread_mutex_t lock; /* guards what follows */
	bool scram_known;
	struct scram_secret scram; /* read from the secret, or derived from the password */
	bool password_known;       /* password_tag is of the password that was right */
	uint8_t password_tag[SHA256_LEN];
	char *proved; /* a password that was right; NULL: none, or the secret is one.  Set once */
	bool learned;
	uint8_t client_key[SCRAM_KEY_LEN];
	struct cached_keys cache[USER_CACHE_LEN];
	unsigned cache_next; /* the entry that is replaced next */
};

static bool user_read_secret(struct auth_user *user)
{
	if (*user->secret == '\0') {
		user->kind = AUTH_SECRET_NONE;
	} else if (md5_is_secret(user->secret)) {
		user->kind = AUTH_SECRET_MD5;
	} else if (scram_is_secret(user->secret)) {
		user->kind = AUTH_SECRET_SCRAM;
		user->scram_known = scram_secret_parse(user->secret, &user->scram);
		return user->scram_known;
	} else {
		user->kind = AUTH_SECRET_PLAIN;
	}
	return true;
}

size_t auth_user_size(void)
{
	return sizeof(struct auth_user);
}

struct auth_user *auth_user_new(const char *name, const char *secret)
{
	struct auth_user *user = calloc(1, sizeof(*user));

	if (user == NULL)
		return NULL;
	atomic_init(&user->refs, 1);
	(void)pthread_mutex_init(&user->lock, NULL);
	user->name = strdup(name);
	user->secret = strdup(secret == NULL ? "" : secret);
	if (user->name == NULL || user->secret == NULL || !user_read_secret(user)) {
		auth_user_unref(user);
		return NULL;
	}
	return user;
}

struct auth_user *auth_user_ref(struct auth_user *user)
{
	if (user != NULL)
		atomic_fetch_add_explicit(&user->refs, 1, memory_order_relaxed);
	return user;
}

void auth_user_unref(struct auth_user *user)
{
	if (user == NULL)
		return;
	if (atomic_fetch_sub_explicit(&user->refs, 1, memory_order_acq_rel) != 1)
		return;
	(void)pthread_mutex_destroy(&user->lock);
	free(user->name);
	mem_free_secret(user->secret);
	mem_free_secret(user->proved);
	explicit_bzero(user, sizeof(*user));
	free(user);
}

const char *auth_user_name(const struct auth_user *user)
{
	return user->name;
}

enum auth_secret_kind auth_user_kind(const struct auth_user *user)
{
	return user->kind;
}

const char *auth_user_secret(const struct auth_user *user)
{
	return user->secret;
}

static void user_lock(struct auth_user *user)
{
	(void)pthread_mutex_lock(&user->lock);
}

static void user_unlock(struct auth_user *user)
{
	(void)pthread_mutex_unlock(&user->lock);
}

/* Copies the known SCRAM secret; false if there is none yet. */
static bool user_get_scram(struct auth_user *user, struct scram_secret *out)
{
	bool known;

	user_lock(user);
	known = user->scram_known;
	if (known)
		*out = user->scram;
	user_unlock(user);
	return known;
}

bool auth_user_scram_secret(struct auth_user *user, struct scram_secret *out)
{
	struct scram_keys keys;

	if (user_get_scram(user, out))
		return true;
	if (user->kind != AUTH_SECRET_PLAIN)
		return false;
	memset(out, 0, sizeof(*out));
	out->iterations = SCRAM_ITERATIONS;
	out->salt_len = SCRAM_SALT_LEN;
	if (!crypto_random(out->salt, SCRAM_SALT_LEN) ||
	    !scram_derive(user->secret, out->salt, out->salt_len, out->iterations, &keys,
	                  out->stored_key))
		return false;
	memcpy(out->server_key, keys.server_key, SCRAM_KEY_LEN);
	explicit_bzero(&keys, sizeof(keys));
	/* Two workers may have computed at once: the first result stays, and both use that, so that
	 * a user has one salt. */
	user_lock(user);
	if (user->scram_known) {
		*out = user->scram;
	} else {
		user->scram = *out;
		user->scram_known = true;
	}
	user_unlock(user);
	return true;
}

bool auth_user_scram_ready(struct auth_user *user)
{
	bool ready = user->kind != AUTH_SECRET_PLAIN;

	if (!ready) {
		user_lock(user);
		ready = user->scram_known;
		user_unlock(user);
	}
	return ready;
}

/* ---- passwords in clear text ---- */

static uint8_t tag_key[SHA256_LEN];
static bool tag_key_good;
static pthread_once_t tag_once = PTHREAD_ONCE_INIT;

static void tag_make_key(void)
{
	tag_key_good = crypto_random(tag_key, sizeof(tag_key));
}

/* What stays of a password, of use in this process only. */
static bool password_tag(const char *password, uint8_t out[SHA256_LEN])
{
	struct crypto_part part = {password, strlen(password)};

	(void)pthread_once(&tag_once, tag_make_key);
	return tag_key_good && crypto_hmac_sha256(tag_key, sizeof(tag_key), &part, 1, out);
}

const char *auth_user_password(struct auth_user *user)
{
	const char *password;

	if (user->kind == AUTH_SECRET_PLAIN)
		return user->secret;
	user_lock(user);
	password = user->proved;
	user_unlock(user);
	return password;
}

static void user_keep_password(struct auth_user *user, const char *password)
{
	user_lock(user);
	if (user->proved == NULL)
		user->proved = strdup(password); /* without memory it is not known */
	user_unlock(user);
}

enum auth_check auth_user_check(struct auth_user *user, const char *password)
{
	char md5[MD5_SECRET_LEN + 1];
	uint8_t tag[SHA256_LEN];
	bool right = false;

	switch (user->kind) {
	case AUTH_SECRET_NONE:
		return AUTH_CHECK_WRONG;
	case AUTH_SECRET_PLAIN:
		right = crypto_equal_str(password, user->secret);
		return right ? AUTH_CHECK_RIGHT : AUTH_CHECK_WRONG;
	case AUTH_SECRET_MD5:
		right = md5_secret(user->name, password, md5) &&
		        crypto_equal(md5, user->secret, MD5_SECRET_LEN);
		explicit_bzero(md5, sizeof(md5));
		if (right)
			user_keep_password(user, password);
		return right ? AUTH_CHECK_RIGHT : AUTH_CHECK_WRONG;
	case AUTH_SECRET_SCRAM:
		break;
	}
	if (password_tag(password, tag)) {
		user_lock(user);
		right = user->password_known && crypto_equal(tag, user->password_tag, sizeof(tag));
		user_unlock(user);
	}
	return right ? AUTH_CHECK_RIGHT : AUTH_CHECK_COSTLY;
}

bool auth_user_verify(struct auth_user *user, const char *password, uint32_t mock_iterations)
{
	static const uint8_t mock_salt[SCRAM_SALT_LEN];
	uint8_t stored[SCRAM_KEY_LEN];
	uint8_t tag[SHA256_LEN];
	struct scram_keys keys;
	struct scram_secret secret;
	bool right;

	if (user == NULL || !user_get_scram(user, &secret)) {
		if (scram_derive(password, mock_salt, sizeof(mock_salt), mock_iterations, &keys,
		                 stored))
			explicit_bzero(&keys, sizeof(keys));
		return false;
	}
	right = scram_derive(password, secret.salt, secret.salt_len, secret.iterations, &keys,
	                     stored) &&
	        crypto_equal(stored, secret.stored_key, sizeof(stored));
	if (right && password_tag(password, tag)) {
		auth_user_learn(user, keys.client_key);
		user_keep_password(user, password);
		user_lock(user);
		memcpy(user->password_tag, tag, sizeof(tag));
		user->password_known = true;
		user_unlock(user);
	}
	explicit_bzero(&keys, sizeof(keys));
	explicit_bzero(&secret, sizeof(secret));
	return right;
}

/* ---- keys ---- */

void auth_user_learn(struct auth_user *user, const uint8_t client_key[SCRAM_KEY_LEN])
{
	struct crypto_part part = {client_key, SCRAM_KEY_LEN};
	uint8_t stored[SCRAM_KEY_LEN];

	if (user->kind != AUTH_SECRET_SCRAM || !crypto_sha256(&part, 1, stored))
		return;
	user_lock(user);
	if (!user->learned && crypto_equal(stored, user->scram.stored_key, SCRAM_KEY_LEN)) {
		memcpy(user->client_key, client_key, SCRAM_KEY_LEN);
		user->learned = true;
	}
	user_unlock(user);
}

static bool user_client_key(struct auth_user *user, uint8_t out[SCRAM_KEY_LEN])
{
	bool learned;

	user_lock(user);
	learned = user->learned;
	if (learned)
		memcpy(out, user->client_key, SCRAM_KEY_LEN);
	user_unlock(user);
	return learned;
}

bool auth_user_teach(struct auth_user *user, struct auth_user *from)
{
	uint8_t key[SCRAM_KEY_LEN];
	bool taught;

	if (user_client_key(user, key) || !user_client_key(from, key)) {
		explicit_bzero(key, sizeof(key));
		return false;
	}
	auth_user_learn(user, key);
	taught = user_client_key(user, key);
	explicit_bzero(key, sizeof(key));
	return taught;
}

static const char *user_why_no_scram(enum auth_secret_kind kind)
{
	switch (kind) {
	case AUTH_SECRET_MD5:
		return "only an md5 hash of this user's password is known";
	case AUTH_SECRET_SCRAM:
		return "only a SCRAM secret of this user is known, and its key becomes known when "
		       "the user itself logs in by SCRAM";
	default:
		return "no password of this user is known";
	}
}

bool auth_user_can_scram(struct auth_user *user, const char **why)
{
	bool learned;

	*why = NULL;
	if (auth_user_password(user) != NULL)
		return true;
	user_lock(user);
	learned = user->learned;
	user_unlock(user);
	if (!learned)
		*why = user_why_no_scram(user->kind);
	return learned;
}

/* The learned keys serve only where the same secret is stored, which its salt shows. */
static bool user_learned_keys(struct auth_user *user, const void *salt, size_t salt_len,
                              uint32_t iterations, struct scram_keys *out)
{
	bool same;

	user_lock(user);
	same = user->learned && user->scram.iterations == iterations &&
	       user->scram.salt_len == salt_len && memcmp(user->scram.salt, salt, salt_len) == 0;
	if (same) {
		memcpy(out->client_key, user->client_key, SCRAM_KEY_LEN);
		memcpy(out->server_key, user->scram.server_key, SCRAM_KEY_LEN);
	}
	user_unlock(user);
	return same;
}

static bool user_cached_keys(struct auth_user *user, const void *salt, size_t salt_len,
                             uint32_t iterations, struct scram_keys *out)
{
	bool found = false;

	user_lock(user);
	for (size_t i = 0; i < USER_CACHE_LEN && !found; i++) {
		const struct cached_keys *entry = &user->cache[i];

		found = entry->iterations == iterations && entry->salt_len == salt_len &&
		        memcmp(entry->salt, salt, salt_len) == 0;
		if (found)
			*out = entry->keys;
	}
	user_unlock(user);
	return found;
}

static void user_cache_keys(struct auth_user *user, const void *salt, size_t salt_len,
                            uint32_t iterations, const struct scram_keys *keys)
{
	struct cached_keys *entry;

	user_lock(user);
	entry = &user->cache[user->cache_next];
	user->cache_next = (user->cache_next + 1) % USER_CACHE_LEN;
	entry->iterations = iterations;
	entry->salt_len = salt_len;
	memcpy(entry->salt, salt, salt_len);
	entry->keys = *keys;
	user_unlock(user);
}

bool auth_user_server_ready(struct auth_user *user, const void *salt, size_t salt_len,
                            uint32_t iterations)
{
	struct scram_keys keys;
	bool ready;

	if (salt_len > SCRAM_SALT_MAX || auth_user_password(user) == NULL)
		return true;
	ready = user_learned_keys(user, salt, salt_len, iterations, &keys) ||
	        user_cached_keys(user, salt, salt_len, iterations, &keys);
	explicit_bzero(&keys, sizeof(keys));
	return ready;
}

bool auth_user_server_keys(struct auth_user *user, const void *salt, size_t salt_len,
                           uint32_t iterations, struct scram_keys *out, const char **why)
{
	const char *password = auth_user_password(user);

	*why = NULL;
	if (salt_len > SCRAM_SALT_MAX || iterations == 0 || iterations > SCRAM_ITERATIONS_MAX) {
		*why = "the server's salt or iteration count is out of bounds";
		return false;
	}
	if (user_learned_keys(user, salt, salt_len, iterations, out))
		return true;
	if (password == NULL) {
		if (auth_user_can_scram(user, why))
			*why = "the server's SCRAM secret of this user is not the one known here";
		return false;
	}
	if (user_cached_keys(user, salt, salt_len, iterations, out))
		return true;
	if (!scram_derive(password, salt, salt_len, iterations, out, NULL))
		return false;
	user_cache_keys(user, salt, salt_len, iterations, out);
	return true;
}
