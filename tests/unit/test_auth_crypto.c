/* SPDX-License-Identifier: PostgreSQL */
/* Digests, base64, constant-time compares and the md5 exchange against published or PostgreSQL's
 * own values. */
#include "auth/crypto.h"
#include "auth/md5.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* CREATE ROLE md5u PASSWORD 'pencil' with password_encryption = md5 on PostgreSQL 15. */
#define MD5U_SECRET "md5e7a97d395fb22b42266826188b3f53e0"

static void expect_hex(const uint8_t *bytes, size_t len, const char *expected)
{
	char text[2 * 64 + 1] = "";

	for (size_t i = 0; i < len; i++) {
		text[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
		text[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
	}
	assert_string_equal(text, expected);
}

static void test_digests(void **state)
{
	struct crypto_part parts[2] = {{"ab", 2}, {"c", 1}};
	struct crypto_part what = {"what do ya want for nothing?", 28};
	struct crypto_part large = {"Test Using Larger Than Block-Size Key - Hash Key First", 54};
	uint8_t key[131];
	uint8_t out[SHA256_LEN];
	char md5[MD5_HEX_LEN + 1];

	(void)state;
	assert_true(crypto_sha256(parts, 2, out));
	expect_hex(out, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_true(crypto_sha256(NULL, 0, out));
	expect_hex(out, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_true(crypto_md5_hex(parts, 2, md5));
	assert_string_equal(md5, "900150983cd24fb0d6963f7d28e17f72");
	/* RFC 4231, cases 2 and 6 */
	assert_true(crypto_hmac_sha256("Jefe", 4, &what, 1, out));
	expect_hex(out, 32, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	memset(key, 0xaa, sizeof(key));
	assert_true(crypto_hmac_sha256(key, sizeof(key), &large, 1, out));
	expect_hex(out, 32, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
	/* RFC 7914, section 11 */
	assert_true(crypto_pbkdf2("passwd", "salt", 4, 1, out));
	expect_hex(out, 32, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc");
	assert_false(crypto_pbkdf2("passwd", "salt", 4, 0, out));
}

static void test_base64(void **state)
{
	static const struct {
		const char *bytes;
		const char *text;
	} good[] = {{"", ""},
	            {"f", "Zg=="},
	            {"fo", "Zm8="},
	            {"foo", "Zm9v"},
	            {"foob", "Zm9vYg=="},
	            {"fooba", "Zm9vYmE="},
	            {"foobar", "Zm9vYmFy"},
	            {"n,,", "biws"},
	            {"\xff\xfe\xfd", "//79"}};
	static const char *const bad[] = {
	    "Z",    "Zg",   "Zg=",  "Zg===", "====", "=g==",  "Z===",
	    "Zg=g", "Zh==", "Zm9=", "Zm 8",  "Zm8-", "Zm9vZ", "Zg==Zg=="};
	char text[20];
	uint8_t bytes[20];
	size_t len;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		base64_encode(good[i].bytes, strlen(good[i].bytes), text);
		assert_string_equal(text, good[i].text);
		assert_int_equal(strlen(text), base64_encoded_len(strlen(good[i].bytes)));
		assert_true(base64_decode(text, strlen(text), bytes, 6, &len));
		assert_int_equal(len, strlen(good[i].bytes));
		assert_memory_equal(bytes, good[i].bytes, len);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(base64_decode(bad[i], strlen(bad[i]), bytes, sizeof(bytes), &len));
	assert_false(base64_decode("Zm9vYmFy", 8, bytes, 5, &len));
	assert_true(base64_decode("Zm9vYmFy", 8, bytes, 6, &len));
}

static void test_equal(void **state)
{
	(void)state;
	assert_true(crypto_equal("abc", "abd", 2));
	assert_false(crypto_equal("abc", "abd", 3));
	assert_true(crypto_equal_str("", ""));
	assert_true(crypto_equal_str("secret", "secret"));
	assert_false(crypto_equal_str("secre", "secret"));
	assert_false(crypto_equal_str("secret1", "secret"));
	assert_false(crypto_equal_str("", "secret"));
	assert_false(crypto_equal_str("secret", ""));
	assert_false(crypto_equal_str("Secret", "secret"));
}

static void test_md5(void **state)
{
	char secret[MD5_SECRET_LEN + 1];
	char from_plain[MD5_SECRET_LEN + 1];
	const uint8_t salt[4] = {1, 0, 2, 3};

	(void)state;
	assert_true(md5_secret("md5u", "pencil", secret));
	assert_string_equal(secret, MD5U_SECRET);
	assert_true(md5_is_secret(secret));
	assert_true(md5_response(secret, salt, from_plain));
	assert_true(md5_verify(secret, salt, from_plain));
	assert_false(md5_verify(secret, (const uint8_t *)"\1\0\2\4", from_plain));
	assert_false(md5_verify(secret, salt, secret));
	assert_false(md5_verify(secret, salt, ""));
	assert_false(md5_verify("not a hash", salt, from_plain));
	assert_false(md5_is_secret("md5"));
	assert_false(md5_is_secret("md5E7A97D395FB22B42266826188B3F53E0"));
	assert_false(md5_is_secret(MD5U_SECRET "0"));
	assert_false(md5_is_secret("nd5e7a97d395fb22b42266826188b3f53e0"));
}

/* The answer as PostgreSQL's documentation gives it: "md5" md5(md5(password user) salt). */
static void test_md5_response(void **state)
{
	struct crypto_part parts[2] = {{&MD5U_SECRET[3], MD5_HEX_LEN}, {"\1\0\2\3", 4}};
	char expected[MD5_HEX_LEN + 1];
	char response[MD5_SECRET_LEN + 1];

	(void)state;
	assert_true(crypto_md5_hex(parts, 2, expected));
	assert_true(md5_response(MD5U_SECRET, (const uint8_t *)"\1\0\2\3", response));
	assert_memory_equal(response, "md5", 3);
	assert_string_equal(response + 3, expected);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_digests),      cmocka_unit_test(test_base64),
	    cmocka_unit_test(test_equal),        cmocka_unit_test(test_md5),
	    cmocka_unit_test(test_md5_response),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
