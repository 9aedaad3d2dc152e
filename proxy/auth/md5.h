/* SPDX-License-Identifier: PostgreSQL */
/*
 * PostgreSQL's md5 password exchange: what is stored is "md5" + md5(password + user), what is sent
 * is "md5" + md5(stored without "md5" + salt).  Any thread.
 */
#ifndef AUTH_MD5_H
#define AUTH_MD5_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stdint.h>

#define MD5_SECRET_LEN 35 /* "md5" and 32 hexadecimal digits */

/* True if `secret` is a stored md5 hash, by its form (PostgreSQL's get_password_type()). */
bool md5_is_secret(const char *secret);

/* The stored form of `password`. */
bool md5_secret(const char *user, const char *password, char out[MD5_SECRET_LEN + 1]) MUST_CHECK;

/* The answer to `salt`, from the stored form. */
bool md5_response(const char *secret, const uint8_t salt[4],
                  char out[MD5_SECRET_LEN + 1]) MUST_CHECK;

/* Server's side: is `response` the right answer?  Constant time. */
bool md5_verify(const char *secret, const uint8_t salt[4], const char *response) MUST_CHECK;

#endif
