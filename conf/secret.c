/* SPDX-License-Identifier: PostgreSQL */
/*
 * Fetching a password.  Never puts any of its bytes into a message, and wipes its own copies.
 */
#include "conf/secret.h"

#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Files that were warned about: passwords may be fetched for every connection. */
#define WARNED_MAX 64
static pthread_mutex_t warned_lock = PTHREAD_MUTEX_INITIALIZER;
static ino_t warned[WARNED_MAX];
static size_t warned_count;

static bool warn_first_time(ino_t inode)
{
	bool first = true;

	(void)pthread_mutex_lock(&warned_lock);
	for (size_t i = 0; i < warned_count; i++)
		if (warned[i] == inode)
			first = false;
	if (warned_count == WARNED_MAX)
		first = false;
	else if (first)
		warned[warned_count++] = inode;
	(void)pthread_mutex_unlock(&warned_lock);
	return first;
}

/* Opens the file and looks at what it is; -1 if it cannot be used. */
static int open_secret(const char *file, struct sbuf *error)
{
	struct stat info;
	/* O_NONBLOCK: to find out that it is a pipe without waiting for a writer */
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		sbuf_printf(error, "password file %s cannot be opened: %s", file, strerror(errno));
		return -1;
	}
	if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
		sbuf_printf(error, "password file %s is not a regular file", file);
		(void)close(fd);
		return -1;
	}
	if ((info.st_mode & S_IROTH) != 0 && warn_first_time(info.st_ino))
		log_warning("password file %s can be read by everybody; chmod 600 would be right",
		            file);
	return fd;
}

static bool read_all(int fd, char *bytes, size_t max, size_t *len)
{
	*len = 0;
	while (*len < max) {
		ssize_t got = read(fd, bytes + *len, max - *len);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return false;
		if (got == 0)
			break;
		*len += (size_t)got;
	}
	return true;
}

/* The length of the first line, without its end. */
static size_t first_line(const char *bytes, size_t len)
{
	const char *end = memchr(bytes, '\n', len);

	if (end != NULL)
		len = (size_t)(end - bytes);
	if (end != NULL && len > 0 && bytes[len - 1] == '\r')
		len--;
	return len;
}

static bool secret_from_file(const char *file, char **secret, struct sbuf *error)
{
	char bytes[CONFIG_SECRET_MAX + 2]; /* with a line end */
	int fd = open_secret(file, error);
	size_t len = 0;

	if (fd < 0)
		return false;
	if (!read_all(fd, bytes, sizeof(bytes), &len)) {
		sbuf_printf(error, "password file %s cannot be read: %s", file, strerror(errno));
	} else {
		len = first_line(bytes, len);
		if (len == 0)
			sbuf_printf(error, "password file %s has an empty first line", file);
		else if (len > CONFIG_SECRET_MAX)
			sbuf_printf(error,
			            "the first line of password file %s is longer than %d "
			            "bytes",
			            file, CONFIG_SECRET_MAX);
		else if (memchr(bytes, '\0', len) != NULL)
			sbuf_printf(error, "the first line of password file %s has a zero byte",
			            file);
		else
			*secret = mem_must_strndup(bytes, len);
	}
	explicit_bzero(bytes, sizeof(bytes));
	(void)close(fd);
	return *secret != NULL;
}

static bool secret_from_env(const char *env, char **secret, struct sbuf *error)
{
	const char *value = getenv(env);

	if (value == NULL || value[0] == '\0')
		sbuf_printf(error, "environment variable %s, which should hold a password, is %s",
		            env, value == NULL ? "not set" : "empty");
	else if (strlen(value) > CONFIG_SECRET_MAX)
		sbuf_printf(error,
		            "the password in environment variable %s is longer than %d bytes", env,
		            CONFIG_SECRET_MAX);
	else
		*secret = mem_must_strdup(value);
	return *secret != NULL;
}

bool config_secret(const char *file, const char *env, char **secret, struct sbuf *error)
{
	*secret = NULL;
	if (file[0] != '\0')
		return secret_from_file(file, secret, error);
	if (env[0] != '\0')
		return secret_from_env(env, secret, error);
	return true;
}
